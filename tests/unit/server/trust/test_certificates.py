"""Certificates as a TLS client sees them, and when they are made again."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.enrolment.authority import authority_files
from fleven.server.errors import ConfigurationError, UsageError
from fleven.server.trust import certificates, files
from fleven.server.trust.certificates import Lifetimes
from fleven.server.trust.files import TrustFiles
from fleven.server.trust.policy import Renewal

NAMES = frozenset({"fleven-server", "127.0.0.1", "::1", "server.example"})
NOW = datetime.now(UTC).replace(microsecond=0)


def make(folder: Path, now: datetime = NOW, names: frozenset[str] = NAMES, **options: object) -> files.Made:
    return TrustFiles(folder).bring_up_to_date(now, lambda: names, **options)  # type: ignore[arg-type]


def handshake(folder: Path, roots: bytes, name: str) -> str:
    """Return what a client says to the server of a folder: "" or why it refuses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    client = ssl.create_default_context(cadata=roots.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    left, right = socket.socketpair()
    said: list[str] = []

    def serve() -> None:
        try:
            with context.wrap_socket(right, server_side=True) as link:
                link.recv(1)
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(left, server_hostname=name):
            pass
    except ssl.SSLCertVerificationError as error:
        said.append(error.verify_message)
    finally:
        left.close()
        thread.join()
    return said[0] if said else ""


def test_the_first_call_makes_all_and_the_next_one_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "trust"
    assert make(folder) == files.Made(Renewal.MISSING, Renewal.MISSING)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert make(folder) == files.Made()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    for name, mode in (("ca.key", 0o600), ("server.key", 0o600), ("ca.crt", 0o640), ("server.crt", 0o640)):
        assert (folder / name).stat().st_mode & 0o777 == mode
    roots = (folder / "ca.crt").read_bytes()
    for name in NAMES:
        assert handshake(folder, roots, name) == ""
    assert "Hostname mismatch" in handshake(folder, roots, "other.example")


def test_another_authority_is_not_believed(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    assert handshake(tmp_path / "a", (tmp_path / "b" / "ca.crt").read_bytes(), "fleven-server") != ""


def test_a_certificate_is_renewed_thirty_days_before_its_end_with_the_same_key(tmp_path: Path) -> None:
    make(tmp_path)
    key, old = (tmp_path / "server.key").read_bytes(), TrustFiles(tmp_path).server_facts()
    assert old is not None
    soon = old.ends - timedelta(days=30)
    assert make(tmp_path, soon - timedelta(seconds=1)) == files.Made()
    assert make(tmp_path, soon) == files.Made(None, Renewal.ENDS)
    new = TrustFiles(tmp_path).server_facts()
    assert new is not None
    assert new.ends == soon + Lifetimes().server
    assert (tmp_path / "server.key").read_bytes() == key
    assert new.names == NAMES


def test_a_new_address_renews_and_a_lost_one_does_not(tmp_path: Path) -> None:
    make(tmp_path)
    assert make(tmp_path, names=NAMES - {"::1"}) == files.Made()
    assert make(tmp_path, names=NAMES - {"::1"} | {"192.0.2.7"}) == files.Made(None, Renewal.NAMES)
    facts = TrustFiles(tmp_path).server_facts()
    assert facts is not None
    assert facts.names == NAMES | {"192.0.2.7"}  # the lost one may come back without another certificate


def test_names_of_the_operator_are_kept_and_checked(tmp_path: Path) -> None:
    make(tmp_path)
    trust = TrustFiles(tmp_path)
    trust.add_name("Fleet.Example")
    trust.add_name("fleet.example")
    trust.add_name("2001:db8::1")
    assert trust.given_names() == ("fleet.example", "2001:db8::1")
    assert make(tmp_path) == files.Made(None, Renewal.NAMES)
    assert handshake(tmp_path, (tmp_path / "ca.crt").read_bytes(), "2001:db8::1") == ""
    for bad in ("https://fleet", "a:9190", "", "a b", "-x", "x" * 300):
        with pytest.raises(UsageError):
            trust.add_name(bad)


def test_an_authority_is_replaced_so_that_old_and_new_cars_believe_it_and_each_other_one_is_refused(
    tmp_path: Path,
) -> None:
    short = Lifetimes(authority=timedelta(days=365, hours=1), server=timedelta(days=365))
    make(tmp_path, lifetimes=short)
    old_root = (tmp_path / "ca.crt").read_bytes()
    old_fingerprint = certificates.facts(old_root).fingerprint
    later = NOW + timedelta(hours=2)
    assert make(tmp_path, later) == files.Made(Renewal.ENDS, Renewal.AUTHORITY)
    trust = TrustFiles(tmp_path)
    bundle = certificates.split_bundle((tmp_path / "ca.crt").read_bytes())
    assert [one.fingerprint for one in trust.authority_facts()][1] == old_fingerprint
    assert len(bundle) == 2
    # A car that was away knows the old one only; one that joins pins the new one only.
    assert handshake(tmp_path, old_root, "fleven-server") == ""
    assert handshake(tmp_path, bundle[0], "fleven-server") == ""
    assert make(tmp_path, later) == files.Made()
    # After the old one's end nothing of it is left.
    after = NOW + timedelta(days=366)
    assert make(tmp_path, after).authority is None
    assert len(trust.authority_facts()) == 1
    assert not trust.cross.exists()


def test_a_power_cut_while_the_authority_is_replaced_is_completed(tmp_path: Path) -> None:
    short = Lifetimes(authority=timedelta(days=365, hours=1), server=timedelta(days=365))
    make(tmp_path, lifetimes=short)
    old_key = (tmp_path / "ca.key").read_bytes()
    make(tmp_path, NOW + timedelta(hours=2))
    # As if the power had gone before the last rename.
    (tmp_path / "ca.key").rename(tmp_path / "ca-next.key")
    (tmp_path / "ca.key").write_bytes(old_key)
    assert make(tmp_path, NOW + timedelta(hours=2)) == files.Made()
    assert not (tmp_path / "ca-next.key").exists()
    assert handshake(tmp_path, (tmp_path / "ca.crt").read_bytes(), "fleven-server") == ""


@pytest.mark.parametrize("name", ["ca.key", "ca.crt"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN NOTHING-----\n", None])
def test_a_damaged_authority_is_never_replaced(tmp_path: Path, name: str, content: bytes | None) -> None:
    make(tmp_path)
    if content is None:
        (tmp_path / "x").mkdir()
        make(tmp_path / "x")
        content = (tmp_path / "x" / name).read_bytes()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        make(tmp_path)
    assert caught.value.code == "trust-damaged"
    assert (tmp_path / name).read_bytes() == content


def test_what_cars_are_told_is_the_present_authority_and_the_operators_own(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    make(paths.trust)
    told = authority_files(ServerConfig(), paths).read()
    assert told.fingerprints == (TrustFiles(paths.trust).authority_facts()[0].fingerprint,)
    make(tmp_path / "own")
    own = ServerConfig.model_validate(
        {
            "superlink": {
                "certificate": tmp_path / "own/server.crt",
                "private-key": tmp_path / "own/server.key",
                "root-certificates": tmp_path / "own/ca.crt",
            }
        }
    )
    theirs = certificates.facts((tmp_path / "own/ca.crt").read_bytes()).fingerprint
    assert authority_files(own, paths).read().fingerprints == (*told.fingerprints, theirs)
    assert make(paths.trust, authority_asked=True).authority is Renewal.ASKED
    assert authority_files(ServerConfig(), paths).read().fingerprints[1:] == told.fingerprints
