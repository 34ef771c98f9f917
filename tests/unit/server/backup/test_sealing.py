"""Sealing: only who should opens it, and no byte can be changed or cut off unnoticed."""

import io

import pyrage
import pytest

from fleven.server.backup import sealing
from fleven.server.backup.contents import BackupError
from fleven.server.backup.sealing import Form, Opener, Seal
from fleven.server.errors import UsageError

CONTENT = bytes(range(256)) * 1200
MINE, OTHER = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()


def nobody() -> str:
    raise AssertionError("nobody should be asked")


def seal(how: Seal, witness: object = None) -> bytes:
    out = io.BytesIO()
    with sealing.sealed(out, how, witness or sealing.fresh_key()) as stream:
        stream.write(CONTENT)
    return out.getvalue()


def unseal(content: bytes, opener: Opener) -> bytes:
    with sealing.opened(io.BytesIO(content), sealing.form_of(content[:512]), opener) as stream:
        return stream.read(len(CONTENT))


def owner(*keys: object) -> Opener:
    return Opener(nobody, tuple(f"# created\n{key}\n".encode() for key in keys))


def test_each_recipient_opens_it_and_the_witness_and_nobody_else() -> None:
    witness = sealing.fresh_key()
    sealed = seal(Seal(recipients=(str(MINE.to_public()), str(OTHER.to_public()))), witness)
    for key in (MINE, OTHER, witness):
        assert unseal(sealed, owner(key)) == CONTENT
    with pytest.raises(BackupError, match="sealed for another key") as caught:
        unseal(sealed, owner(pyrage.x25519.Identity.generate()))
    assert caught.value.code == "key-wrong"
    with pytest.raises(UsageError, match="sealed for a key"):
        unseal(sealed, owner())
    assert CONTENT[:64] not in sealed


def test_no_change_and_no_cut_passes_unnoticed() -> None:
    sealed = seal(Seal(recipients=(str(MINE.to_public()),)))
    for place in (30, 150, 400, len(sealed) // 2, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(BackupError):
            unseal(bytes(changed), owner(MINE))
    for length in (100, 400, len(sealed) // 2, len(sealed) - 16, len(sealed) - 1):
        with pytest.raises(BackupError):
            unseal(sealed[:length], owner(MINE))


def test_who_does_not_read_to_the_end_does_not_know_whether_it_is_whole() -> None:
    sealed = seal(Seal(recipients=(str(MINE.to_public()),)))

    def read_a_little(problem: Exception | None) -> None:
        with sealing.opened(io.BytesIO(sealed), Form.AGE, owner(MINE)) as stream:
            stream.read(10)
            if problem is not None:
                raise problem

    with pytest.raises(BackupError, match="damaged"):
        read_a_little(None)
    with pytest.raises(BackupError, match="enough"):
        read_a_little(BackupError("enough"))


def test_a_disk_that_is_full_is_told() -> None:
    class Full(io.BytesIO):
        def write(self, _content: object) -> int:
            raise OSError(28, "No space left on device")

    with (
        pytest.raises(BackupError, match="No space left"),
        sealing.sealed(Full(), Seal(recipients=(str(MINE.to_public()),)), sealing.fresh_key()) as stream,
    ):
        stream.write(CONTENT * 10)


@pytest.mark.parametrize(
    "text", ["age1nothing", "ssh-ed25519 AAAA", "ana@example.org", str(MINE)], ids=["age", "ssh", "mail", "private"]
)
def test_what_is_no_public_key_is_no_recipient(text: str) -> None:
    with pytest.raises(UsageError, match="not a public key") as caught:
        sealing.parsed_recipient(text)
    assert str(MINE)[16:40] not in str(caught.value)


@pytest.mark.parametrize(
    ("start", "form"),
    [
        (b"age-encryption.org/v1\n", Form.AGE),
        (b"identity.age\0", Form.PASSPHRASE),
        (b"\x1f\x8b\x08", Form.CLEAR),
        (b"SQLite format 3\0", Form.REGISTER),
        (b"-----BEGIN PGP MESSAGE-----", Form.GPG),
        (b"\x84\x5e\x03", Form.GPG),
        (b"\x85\x01\x0c\x03", Form.GPG),
        (b"\xc1\xc0\x4c", Form.GPG),
    ],
)
def test_a_file_tells_how_it_is_sealed(start: bytes, form: Form) -> None:
    assert sealing.form_of(start + bytes(100)) is form


@pytest.mark.parametrize("start", [b"", b"PK\x03\x04", b"\x7fELF", b"hello", b"\x80\x04\x95"])
def test_other_files_are_no_backup(start: bytes) -> None:
    with pytest.raises(BackupError, match="is not a backup"):
        sealing.form_of(start)
