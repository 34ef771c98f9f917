"""The SuperLink's database as Flower's own migrations make it, and power cuts in between."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fleven.server.config.paths import Paths
from fleven.server.errors import ConfigurationError, TemporaryError
from fleven.server.flower import superlink_database
from fleven.server.flower.line import FlowerLine
from fleven.server.flower.superlink_database import (
    bring_up_to_date,
    holds_runs,
    known_revisions,
    migrate,
    newest_revisions,
    revisions_of,
    tables_of,
)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "state").mkdir()
    return Paths(tmp_path / "state")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("whole") / "superlink.db"
    assert migrate(file) == ""
    return file


def test_a_new_database_is_what_flower_calls_the_newest(paths: Paths, whole: Path) -> None:
    bring_up_to_date(paths)
    file = paths.superlink_database
    assert revisions_of(file) == newest_revisions() == revisions_of(whole)
    assert len(known_revisions()) > 10
    with closing(sqlite3.connect(file)) as connection, closing(sqlite3.connect(whole)) as other:
        assert tables_of(connection) == tables_of(other)
    assert [path.name for path in paths.state.iterdir()] == ["superlink.db"]


def test_a_database_of_this_flower_is_left_alone(paths: Paths, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(whole, paths.superlink_database)
    monkeypatch.setattr(superlink_database, "migrate", lambda _file: pytest.fail("nothing is to be done"))
    before = paths.superlink_database.stat()
    bring_up_to_date(paths)
    after = paths.superlink_database.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_one_whose_making_was_cut_off_is_moved_aside(
    paths: Paths, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # As a power cut leaves it: all tables are there, and the revision is the one before.
    shutil.copy(whole, paths.superlink_database)
    [newest] = newest_revisions()
    with closing(sqlite3.connect(paths.superlink_database)) as connection:
        [first] = [name for name, before in known_revisions().items() if not before]
        connection.execute("UPDATE alembic_version SET version_num = ?", (first,))
        connection.commit()
    bring_up_to_date(paths)
    assert revisions_of(paths.superlink_database) == {newest}
    [aside] = paths.state.glob("superlink.db.unusable-*")
    assert revisions_of(aside) == {first}
    assert "superlink-database-renewed" in caplog.text
    assert sorted(path.name for path in paths.state.iterdir()) == sorted(["superlink.db", aside.name])


def test_one_that_holds_runs_is_never_replaced(paths: Paths, whole: Path) -> None:
    file = paths.superlink_database
    shutil.copy(whole, file)
    [first] = [name for name, before in known_revisions().items() if not before]
    with closing(sqlite3.connect(file)) as connection:
        columns = [row for row in connection.execute("PRAGMA table_info(run)") if row[3] or row[1] == "run_id"]
        values = ["1" if "INT" in row[2] else "'x'" for row in columns]
        names = ", ".join(f'"{row[1]}"' for row in columns)
        text = f"INSERT INTO run ({names}) VALUES ({', '.join(values)})"  # noqa: S608  the table's own columns
        connection.execute(text)
        connection.execute("UPDATE alembic_version SET version_num = ?", (first,))
        connection.commit()
    assert holds_runs(file)
    content = file.read_bytes()
    with pytest.raises(ConfigurationError) as error:
        bring_up_to_date(paths)
    [problem] = error.value.problems
    assert "cannot be brought to this Flower's form: " in problem
    assert "duplicate column" in problem
    assert file.read_bytes() == content
    assert [path.name for path in paths.state.iterdir()] == ["superlink.db"]


def test_what_an_interrupted_making_left_is_cleared(paths: Paths) -> None:
    (paths.state / "superlink.db.new").write_bytes(b"half a page")
    (paths.state / "superlink.db.new-journal").write_bytes(b"half a journal")
    bring_up_to_date(paths)
    assert [path.name for path in paths.state.iterdir()] == ["superlink.db"]


def test_a_flower_without_these_migrations_makes_its_database_itself(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FlowerLine, "run_migrations", "flwr.elsewhere")
    bring_up_to_date(paths)
    assert list(paths.state.iterdir()) == []


@pytest.mark.parametrize("said", ["database is locked", "database or disk is full", "disk I/O error"])
def test_what_the_machine_does_to_the_database_may_pass(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    def fails(_file: Path) -> None:
        raise sqlite3.OperationalError(said)

    monkeypatch.setattr(superlink_database, "_bring_up_to_date", fails)
    with pytest.raises(TemporaryError) as error:
        bring_up_to_date(paths)
    [problem] = error.value.problems
    assert said in problem
    assert "move the file away" not in problem
