"""A server's files into a backup and back on another machine, and what a stranger's file can do: nothing."""

import gzip
import hashlib
import io
import json
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyrage
import pytest
from alembic import command
from alembic.config import Config
from certificates import write_certificates

from fleven.server.access import store as access_store
from fleven.server.access.model import Role
from fleven.server.backup import container, making, restoring
from fleven.server.backup.contents import MANIFEST, BackupError
from fleven.server.backup.making import Made, make
from fleven.server.backup.restoring import Restored, restore
from fleven.server.backup.sealing import Opener, Seal
from fleven.server.config.loader import Loaded, load
from fleven.server.config.paths import Paths
from fleven.server.database import open_store
from fleven.server.database.engine import MIGRATIONS, create
from fleven.server.errors import StoreError, UsageError
from fleven.server.trust.certificates import SERVER_COMMON_NAME
from fleven.server.trust.files import trust_files
from fleven_agent.common.files import write_atomically

NOW = datetime(2026, 11, 28, 7, 0, tzinfo=UTC)
KEY = pyrage.x25519.Identity.generate()
FOR_KEY = Seal(recipients=(str(KEY.to_public()),))
MODEL = "A/v000001-0123456789ab.safetensors"

PutRegister = Callable[[Path], Path]


def nobody() -> str:
    raise AssertionError("nobody should be asked")


OWNER = Opener(nobody, (str(KEY).encode(),))


class Machine:
    """A machine with the folders of a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = Paths(folder / "state")
        self.paths.state.mkdir(parents=True)
        self.config = folder / "etc" / "server.toml"
        self.config.parent.mkdir()

    def loaded(self) -> Loaded:
        return load(self.config)

    def fill(self, put_register: PutRegister) -> "Machine":
        self.config.write_text('[web]\naddress = "127.0.0.1:9999"\n')
        drop_ins = Path(f"{self.config}.d")
        drop_ins.mkdir()
        (drop_ins / "10-fleet.toml").write_text("[fleet]\nmaximum-nodes = 7\n")
        with closing(open_store(put_register(self.paths.state))) as store, store.write() as connection:
            access_store.add_user(connection, "ana", Role.OPERATOR, "root", NOW)
        with closing(sqlite3.connect(self.paths.superlink_database)) as connection:
            connection.execute("CREATE TABLE node (node_id INTEGER)")
            connection.execute("INSERT INTO node VALUES (42)")
            connection.commit()
        files = trust_files(self.paths)
        files.bring_up_to_date(NOW, lambda: frozenset({SERVER_COMMON_NAME}))
        files.add_name("fleet.example.org")
        write_atomically(self.paths.state / "models" / MODEL, b"model")
        return self

    def users(self) -> list[str]:
        with closing(open_store(self.paths.register)) as store, store.read() as connection:
            return [user.name for user in access_store.all_users(connection)]

    def snapshot(self) -> dict[str, bytes]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files if path.name != "lock"}

    def restore(self, file: Path, opener: Opener = OWNER, **options: Any) -> Restored:
        chosen = {"force": False, "keep_configuration": False} | options
        return restore(file, opener, self.paths, self.config, NOW, **chosen)


@pytest.fixture
def server(tmp_path: Path, put_register: PutRegister) -> Machine:
    return Machine(tmp_path / "old").fill(put_register)


@pytest.fixture
def other(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "new")


def back_up(server: Machine, name: str = "a.age", seal: Seal = FOR_KEY, *, with_keys: bool = True) -> Made:
    return make(server.loaded(), server.paths, server.folder / name, seal, NOW, with_keys=with_keys)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_another_machine_gets_all_that_the_fleet_believes(server: Machine, other: Machine) -> None:
    made = back_up(server)
    assert mode(made.file) == 0o600
    assert made.manifest.with_keys
    assert made.manifest.reached_at[0] == "fleet.example.org"
    assert not list(server.folder.glob(".*")) + list(server.paths.state.glob(".*")), "something was left over"
    done = other.restore(made.file)
    assert done.kept_in is None
    assert other.users() == ["ana"]
    for name in ("ca.key", "ca.crt", "server.key", "server.crt", "authority.json"):
        assert (other.paths.trust / name).read_bytes() == (server.paths.trust / name).read_bytes()
    assert [mode(other.paths.trust / name) for name in ("ca.key", "server.key", "ca.crt")] == [0o600, 0o600, 0o640]
    assert mode(other.paths.register) == 0o600
    assert (other.paths.state / "models" / MODEL).read_bytes() == b"model"
    with closing(sqlite3.connect(other.paths.superlink_database)) as connection:
        assert connection.execute("SELECT node_id FROM node").fetchall() == [(42,)]
    assert other.loaded().config == server.loaded().config
    assert not list(other.paths.state.glob(".*"))


def test_keys_are_never_written_in_the_clear(server: Machine, other: Machine) -> None:
    with pytest.raises(BackupError, match="sealed for somebody"):
        back_up(server, seal=Seal())
    (Path(f"{server.config}.d") / "20-token.toml").write_text('[web]\nreport-token = "0123456789abcdef0123"\n')
    made = back_up(server, "plain.tar.gz", Seal(), with_keys=False)
    content = gzip.decompress(made.file.read_bytes())
    for secret in (b"PRIVATE KEY", b"0123456789abcdef0123"):
        assert secret not in content
    names = [member.name for member in made.manifest.members]
    assert names == ["register.db", "config/server.toml", "config/server.toml.d/10-fleet.toml", f"models/{MODEL}"]
    assert any("20-token.toml" in line for line in made.manifest.left_out)
    assert mode(made.file) == 0o600
    other.restore(made.file, Opener(nobody))
    assert other.users() == ["ana"]
    assert not other.paths.trust.exists()


def test_a_file_that_is_there_is_not_written_over(server: Machine) -> None:
    (server.folder / "a.age").write_text("mine")
    with pytest.raises(BackupError, match="there already"):
        back_up(server)
    assert (server.folder / "a.age").read_text() == "mine"


def test_certificates_of_the_operators_own_come_along(server: Machine, other: Machine, tmp_path: Path) -> None:
    own = write_certificates(tmp_path / "own")
    lines = f'certificate = "{own}/server.crt"\nprivate-key = "{own}/server.key"\n'
    (Path(f"{server.config}.d") / "20-tls.toml").write_text(f"[web]\n{lines}")
    made = back_up(server)
    key = (own / "server.key").read_bytes()
    for file in own.iterdir():
        file.unlink()
    other.restore(made.file)
    web = other.loaded().config.web
    assert web.private_key is not None
    assert web.private_key.is_relative_to(other.config.parent)
    assert web.private_key.read_bytes() == key
    assert mode(web.private_key) == 0o640


def test_a_server_that_has_something_keeps_it_aside(server: Machine, tmp_path: Path, put_register: PutRegister) -> None:
    made = back_up(server)
    here = Machine(tmp_path / "here").fill(put_register)
    (here.paths.trust / "ca-cross.crt").write_text("of another authority")
    before = here.snapshot()
    with pytest.raises(UsageError, match="has one already"):
        here.restore(made.file)
    assert here.snapshot() == before
    kept = here.restore(made.file, force=True).kept_in
    assert kept is not None
    assert mode(kept) == 0o700
    assert (kept / "trust" / "ca.key").read_bytes() == before["state/trust/ca.key"]
    assert (kept / "config" / "server.toml").read_bytes() == before["etc/server.toml"]
    assert (kept / "config" / "server.toml.d" / "10-fleet.toml").exists()
    assert (here.paths.trust / "ca.key").read_bytes() == (server.paths.trust / "ca.key").read_bytes()
    assert not (here.paths.trust / "ca-cross.crt").exists(), "it vouches for an authority that is gone"


def test_the_configuration_may_stay(server: Machine, other: Machine) -> None:
    made = back_up(server)
    other.config.write_text('log-level = "debug"\n')
    done = other.restore(made.file, keep_configuration=True)
    assert other.config.read_text() == 'log-level = "debug"\n'
    assert len(done.not_put) == 2


def test_what_was_there_is_back_when_something_cannot_be_written(
    server: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put_register: PutRegister
) -> None:
    made = back_up(server)
    here = Machine(tmp_path / "here").fill(put_register)
    before = here.snapshot()
    place = restoring.place

    def fails_late(one: restoring.Placement, state: Path) -> None:
        if one.target == here.config:
            raise OSError(28, "No space left on device")
        place(one, state)

    monkeypatch.setattr(restoring, "place", fails_late)
    with pytest.raises(OSError, match="No space"):
        here.restore(made.file, force=True)
    assert here.snapshot() == before


@pytest.mark.parametrize("revision", ["0001", "0004", "head"])
def test_a_copy_of_the_register_alone_is_restored_whatever_version_made_it(
    other: Machine, tmp_path: Path, revision: str
) -> None:
    """0004 is the form of version 0.1.0."""
    nightly = tmp_path / "register-2026-11-24.db"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create(nightly)
    with engine.execution_options(fleven_write=True).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        if revision != "0001":
            connection.exec_driver_sql("INSERT INTO facts (key, value, at) VALUES ('kept', '1', 1764000000000)")
    engine.dispose()
    with closing(sqlite3.connect(nightly)) as plain:
        plain.execute("PRAGMA journal_mode = DELETE")
    done = other.restore(nightly)
    assert done.manifest is None
    assert done.put == (other.paths.register,)
    assert other.users() == []
    if revision != "0001":
        with closing(open_store(other.paths.register)) as store:
            assert store.fact("kept") is not None


def test_a_register_that_is_noise_or_newer_is_refused(other: Machine, tmp_path: Path) -> None:
    noise = tmp_path / "noise.db"
    noise.write_bytes(b"SQLite format 3\0" + os.urandom(9000))
    with pytest.raises(StoreError):
        other.restore(noise)
    newer = tmp_path / "newer.db"
    open_store(newer).close()
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
        connection.execute("PRAGMA journal_mode = DELETE")
    with pytest.raises(StoreError, match="newer FLEVEn"):
        other.restore(newer)
    assert other.snapshot() == {}


def entry(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def hostile(listed: list[dict[str, Any]], *members: tuple[str, bytes], tail: bytes = b"", raw: bytes = b"") -> bytes:
    """Return an unsealed backup with a list of contents and members of a stranger's choice."""
    values = {
        "schema_version": 1, "created_at": NOW.isoformat(), "fleven_version": "0.2.0", "flower_version": "1.34.0",
        "host": "x", "with_keys": False, "fingerprint": None, "reached_at": [], "fleet_port": 9092, "web_port": 9190,
        "cars": 0, "left_out": [], "members": listed,
    }  # fmt: skip
    out = io.BytesIO()
    for name, content in ((MANIFEST, json.dumps(values).encode()), *members):
        container.write_member(out, name, io.BytesIO(content), len(content))
    out.write(raw)
    container.write_end(out)
    return gzip.compress(out.getvalue() + tail)


A_REGISTER = b"register"
LISTED = [entry("register.db", A_REGISTER)]
LINK = container.header("trust/ca.key", 0)[:156] + b"2/etc/shadow" + bytes(512 - 168)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (hostile([*LISTED, entry("../../etc/cron.d/x", b"x")], ("register.db", A_REGISTER)), "no backup holds"),
        (hostile(LISTED, ("register.db", b"another.")), "not what its list"),
        (hostile(LISTED, ("register.db", b"longer than it says")), "where register.db belongs"),
        (hostile(LISTED, ("../../x", A_REGISTER)), "where register.db belongs"),
        (hostile(LISTED, ("register.db", A_REGISTER), ("trust/ca.key", b"mine")), "follows its end"),
        (hostile(LISTED, ("register.db", A_REGISTER), tail=b"x" * 600), "follows its end"),
        (hostile(LISTED), "cut off"),
        (hostile([*LISTED, entry("trust/ca.key", b"")], ("register.db", A_REGISTER), raw=LINK), "damaged|plain file"),
        (hostile([{**LISTED[0], "size": 2**62}], ("register.db", A_REGISTER)), "more than"),
        (gzip.compress(container.header("evil", 5) + b"abcde" + bytes(507)), "list of contents"),
        (gzip.compress(container.header(MANIFEST, 2**32)), "list of contents"),
        (gzip.compress(b""), "cut off"),
        (hostile(LISTED, ("register.db", A_REGISTER))[:-20], "cut off or damaged"),
        (b"\x1f\x8b" + bytes(600), "cut off or damaged"),
        (b"hello", "is not a backup"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_strangers_file_changes_nothing(other: Machine, tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "stranger"
    file.write_bytes(content)
    with pytest.raises(BackupError, match=words):
        other.restore(file, Opener(nobody))
    assert other.snapshot() == {}
    assert list(other.paths.state.iterdir()) == []
    assert not (tmp_path / "etc").exists()


def test_what_is_not_read_back_as_written_is_no_backup(server: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    read = making.container.read_member

    def one_bit_wrong(stream: Any, found: container.Header, write: Any) -> None:
        read(stream, found, lambda chunk: write(bytes(chunk[:-1]) + bytes([chunk[-1] ^ 1])))

    monkeypatch.setattr(making.container, "read_member", one_bit_wrong)
    with pytest.raises(BackupError):
        back_up(server)
    assert not list(server.folder.glob("*.age")) + list(server.folder.glob(".*"))
