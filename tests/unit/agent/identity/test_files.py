"""The folder of the identity: whole after any power cut, closed to others."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from fleven_agent.identity import keys
from fleven_agent.identity.files import IdentityFolder, key_fingerprint
from fleven_agent.identity.keys import KeyProblemError
from fleven_agent.identity.model import Identity, Standing, decode, encode
from fleven_agent.protocol.enrolment import EnrolRequest

FIELDS = {
    "secret_sha256": "ab" * 32,
    "invitation": None,
    "name": "car-1",
    "partition_id": 1,
    "ca_fingerprint": "cd" * 32,
    "created_at": "2026-11-28T04:00:00+00:00",
}


@pytest.fixture
def folder(tmp_path: Path) -> IdentityFolder:
    return IdentityFolder(tmp_path)


def identity_of(key: Path, **values: object) -> Identity:
    made = keys.sign(key, "enrol", FIELDS)
    fresh = Identity(key_fingerprint=key_fingerprint(made["public_key"]), secret="s", ca_fingerprint="cd" * 32)
    return replace(fresh, **values)  # type: ignore[arg-type]


def test_what_was_written_is_read_again(folder: IdentityFolder) -> None:
    identity = identity_of(folder.key, standing=Standing.ACCEPTED, car_id="c", partition_id=4, request={"name": "x"})
    folder.save(identity)
    assert IdentityFolder(folder.path.parent).load() == identity
    assert decode(encode(identity)) == identity
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.path.iterdir()} == {0o600}


def test_the_key_signs_what_the_server_checks_and_stays_the_same(folder: IdentityFolder) -> None:
    first, second = (keys.sign(folder.key, "enrol", FIELDS) for _ in range(2))
    assert first["public_key"] == second["public_key"]
    assert EnrolRequest.model_validate(first).public_key == first["public_key"]
    assert folder.fingerprint_of(folder.key) == key_fingerprint(first["public_key"])
    assert folder.key.read_text(encoding="ascii").startswith("-----BEGIN OPENSSH PRIVATE KEY-----")


@pytest.mark.parametrize("content", ["", "no key", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"])
def test_a_file_that_is_no_key_is_named(folder: IdentityFolder, content: str) -> None:
    folder.path.mkdir()
    folder.key.write_text(content, encoding="ascii")
    with pytest.raises(KeyProblemError, match=r"node\.key cannot be used"):
        keys.sign(folder.key, "enrol", FIELDS)


@pytest.mark.parametrize("cut", ["before", "between", "after"])
def test_a_power_cut_while_the_key_changes_leaves_one_identity(folder: IdentityFolder, cut: str) -> None:
    old = identity_of(folder.key)
    folder.save(old)
    new = identity_of(folder.next_key, secret="t")
    if cut == "between":
        folder.save(new)
        folder.next_key.replace(folder.key)
    elif cut == "after":
        folder.take_next_key(new)
    found = IdentityFolder(folder.path.parent).load()
    assert found == (old if cut == "before" else new)
    assert folder.fingerprint_of(folder.key) == found.key_fingerprint
    private = keys.sign(folder.key, "enrol", FIELDS)["public_key"]
    assert key_fingerprint(private) == found.key_fingerprint


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b'{"version": 2}', b"\xff", b'{"version": 1, "key_fingerprint": "x", "secret": 5}'],
)
def test_a_file_that_cannot_be_used_is_set_aside(folder: IdentityFolder, content: bytes) -> None:
    folder.path.mkdir()
    (folder.path / "identity.json").write_bytes(content)
    assert folder.load() is None
    assert (folder.path / "identity.json.unusable").read_bytes() == content


def test_forgetting_keeps_whom_the_car_trusts(folder: IdentityFolder) -> None:
    folder.save(identity_of(folder.key))
    folder.write_authority("x")
    folder.forget_key()
    assert [file.name for file in folder.path.iterdir()] == ["ca.crt"]
