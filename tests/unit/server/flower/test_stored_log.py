"""A ServerApp's log as it stands in the tables of the SuperLink's database."""

import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import pytest
from flwr.supercore.state.alembic.utils import run_migrations
from sqlalchemy import create_engine

from fleven.server.flower.line import installed_line
from fleven.server.flower.stored_log import StoredLog

RUN = 2**64 - 5


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as the installed Flower makes it."""
    path = tmp_path_factory.mktemp("flower") / "superlink.db"
    engine = create_engine(f"sqlite:///{path}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's
        run_migrations(engine)
    engine.dispose()
    return path


def add(path: Path, table: str, **values: object) -> None:
    """Add a row; what Flower demands besides is empty."""
    with closing(sqlite3.connect(path)) as connection, connection:
        columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
        row = {
            name: values.get(name, "" if "CHAR" in kind or "BLOB" in kind else 0)
            for _, name, kind, needed, _, key in columns
            if name in values or (needed and not key)
        }
        names = ", ".join(row)
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))  # noqa: S608


def test_parts_come_in_order_and_once_and_the_end_is_told(tables: Path) -> None:
    line = installed_line()
    add(tables, "task", task_id=-7, run_id=-5, type="flwr-serverapp", pending_at="2026-01-01")
    add(tables, "task", task_id=8, run_id=6, type="flwr-serverapp", pending_at="2026-01-01")
    add(tables, "run", run_id=-5, primary_task_id=-7)
    add(tables, "task_logs", task_id=-7, timestamp=2.0, log="second\n")
    add(tables, "task_logs", task_id=-7, timestamp=1.0, log="first\n")
    add(tables, "task_logs", task_id=8, timestamp=1.0, log="of another run\n")
    stored = StoredLog(tables, line.server_app_log, line.server_app_ended, str(RUN))
    assert stored.new() == "first\nsecond\n"
    assert stored.new() == ""
    assert not stored.ended()
    add(tables, "task_logs", task_id=-7, timestamp=3.0, log="third\n")
    with closing(sqlite3.connect(tables)) as connection, connection:
        connection.execute("UPDATE task SET finished_at = '2026-01-02' WHERE task_id = -7")
    assert stored.ended()
    assert stored.new() == "third\n"


def test_a_database_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    line = installed_line()
    with pytest.raises(sqlite3.Error):
        StoredLog(tmp_path / "none.db", line.server_app_log, line.server_app_ended, "5").new()
