"""Back to the release before and up again: its register, and what this one has recorded since."""

import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from fleven.server.backup import downgrade
from fleven.server.backup.downgrade import KNOWN_REVISIONS, go_back, main, undo
from fleven.server.config.paths import Paths
from fleven.server.database import open_store
from fleven.server.database.engine import MIGRATIONS, create, kept_copy, newest_revision, revision_of

NOW = datetime(2026, 11, 28, 7, 0, tzinfo=UTC)
RELEASE = "0.1.0+deb12"
KNOWN = KNOWN_REVISIONS["0.1.0"]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "etc" / "server.toml"
    (tmp_path / "etc" / "server.toml.d").mkdir(parents=True)
    file.write_text("")
    return file


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A server's folder with the register that the release before has left, with a word of its own."""
    made = Paths(tmp_path / "state")
    made.state.mkdir()
    engine = create(made.register)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.execution_options(fleven_write=True).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, KNOWN)
    engine.dispose()
    write_down(made.register, "of-before")
    return made


def write_down(register: Path, whose: str) -> None:
    """Have a release record something."""
    with closing(sqlite3.connect(register)) as connection, connection:
        values = ("whose", f'"{whose}"', 0)
        connection.execute("INSERT OR REPLACE INTO facts (key, value, at) VALUES (?, ?, ?)", values)


def written(register: Path) -> list[str]:
    with closing(sqlite3.connect(register)) as connection:
        return [value.strip('"') for (value,) in connection.execute("SELECT value FROM facts WHERE key = 'whose'")]


def upgrade(paths: Paths) -> None:
    """Do what this release does at its start."""
    open_store(paths.register).close()


def test_an_upgrade_keeps_the_register_as_the_release_before_can_read_it(paths: Paths) -> None:
    upgrade(paths)
    kept = kept_copy(paths.register, KNOWN)
    assert (revision_of(kept), revision_of(paths.register)) == (KNOWN, newest_revision())
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    before = kept.stat()
    upgrade(paths)
    assert kept.stat() == before, "only at an upgrade"


def test_a_new_register_has_nothing_to_keep(tmp_path: Path) -> None:
    upgrade(Paths(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == []


def test_back_and_up_again_loses_nothing(paths: Paths, config_file: Path) -> None:
    door = Path(f"{config_file}.d") / downgrade.OPEN_FLEET
    door.write_text("insecure = true\n")
    upgrade(paths)
    write_down(paths.register, "of-this-one")
    line = go_back(RELEASE, paths, config_file, NOW)
    aside = paths.state / "before-downgrade-20261128T070000Z"
    assert line.startswith(f"{RELEASE} begins with the register of before the upgrade (")
    assert line.endswith(f"kept in {aside}")
    assert (revision_of(paths.register), written(paths.register)) == (KNOWN, ["of-before"])
    assert written(aside / "register.db") == ["of-this-one"]
    assert stat.S_IMODE(aside.stat().st_mode) == 0o700
    assert not door.exists(), "a key that the release before does not know would keep it from starting"
    write_down(paths.register, "of-the-older-one")
    upgrade(paths)
    assert written(paths.register) == ["of-the-older-one"]
    assert written(kept_copy(paths.register, KNOWN)) == ["of-the-older-one"]
    assert written(aside / "register.db") == ["of-this-one"]


def test_a_server_that_never_was_of_that_release_begins_empty(tmp_path: Path, config_file: Path) -> None:
    paths = Paths(tmp_path / "new")
    paths.state.mkdir()
    upgrade(paths)
    line = go_back(RELEASE, paths, config_file, NOW)
    assert "begins with an empty register" in line
    assert not paths.register.exists()
    assert revision_of(paths.state / "before-downgrade-20261128T070000Z" / "register.db") == newest_revision()


@pytest.mark.parametrize("release", ["0.2.0+deb12", "0.2.1", "99.0"])
def test_a_release_that_can_read_the_register_gets_it(paths: Paths, config_file: Path, release: str) -> None:
    upgrade(paths)
    before = paths.register.read_bytes()
    assert go_back(release, paths, config_file, NOW) == ""
    assert paths.register.read_bytes() == before


def test_a_register_that_was_never_upgraded_stays(paths: Paths, config_file: Path) -> None:
    assert go_back(RELEASE, paths, config_file, NOW) == ""
    assert written(paths.register) == ["of-before"]


def test_a_downgrade_that_fails_is_undone_and_one_that_worked_is_not(paths: Paths, config_file: Path) -> None:
    door = Path(f"{config_file}.d") / downgrade.OPEN_FLEET
    door.write_text("insecure = true\n")
    upgrade(paths)
    write_down(paths.register, "of-this-one")
    go_back(RELEASE, paths, config_file, NOW)
    undo(paths, config_file)
    assert (revision_of(paths.register), written(paths.register)) == (newest_revision(), ["of-this-one"])
    assert door.read_text() == "insecure = true\n"
    assert list(paths.state.glob("before-downgrade-*")) == []
    go_back(RELEASE, paths, config_file, NOW)
    write_down(paths.register, "of-the-older-one")
    undo(paths, config_file)
    assert written(paths.register) == ["of-the-older-one"]


def test_what_cannot_be_done_is_one_line(
    paths: Paths, config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(paths)
    monkeypatch.setattr(downgrade, "put", _full)
    assert main([RELEASE], paths, config_file) == 1
    assert capsys.readouterr().err == "fleven-server: the register stays as it is: [Errno 28] No space left on device\n"


def _full(*_arguments: object, **_options: object) -> None:
    raise OSError(28, "No space left on device")
