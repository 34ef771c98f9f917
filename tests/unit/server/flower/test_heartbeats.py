"""Who has missed a heartbeat, and which runs are open: on a database of the installed Flower's own making."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fleven.server.config.paths import Paths
from fleven.server.flower.flwr_command import Flower
from fleven.server.flower.heartbeats import LATE_SECONDS, Heartbeat, missed, open_runs, read
from fleven.server.flower.line import installed_line
from fleven.server.flower.superlink_database import bring_up_to_date

QUERY = installed_line().heartbeats
WELL = Heartbeat("1", 1000.0, 30.0)
"""Its next one is due at 1030."""
OTHER = Heartbeat("2", 1035.0, 30.0)


def test_a_heartbeat_is_missed_when_it_is_later_than_late() -> None:
    assert missed([WELL, OTHER], 1030 + LATE_SECONDS) == {}
    assert missed([WELL, OTHER], 1031 + LATE_SECONDS) == {"1": 1 + LATE_SECONDS}


@pytest.mark.parametrize("others", [[], [Heartbeat("2", 1010.0, 30.0)]])
def test_nobody_is_blamed_while_the_superlink_may_have_stood_still(others: list[Heartbeat]) -> None:
    assert missed([WELL, *others], 1100) == {}


def test_they_are_read_from_flowers_own_tables(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    bring_up_to_date(paths)
    with closing(sqlite3.connect(paths.superlink_database)) as connection:
        columns = {row[1]: row for row in connection.execute("PRAGMA table_info(node)")}
        for node, status, until in ((-5, "online", 1060.0), (7, "online", 1095.0), (8, "offline", 900.0)):
            values = {name: b"k%d" % node if row[2] == "BLOB" else f"{node}" for name, row in columns.items() if row[3]}
            values |= {"node_id": node, "status": status, "online_until": until, "heartbeat_interval": 30.0}
            names = ",".join(values)
            marks = ",".join("?" * len(values))
            connection.execute(f"INSERT INTO node ({names}) VALUES ({marks})", list(values.values()))  # noqa: S608
        connection.commit()
    found = read(paths.superlink_database, QUERY)
    assert found == [Heartbeat(str(2**64 - 5), 1000.0, 30.0), Heartbeat("7", 1035.0, 30.0)]
    flower = Flower(paths, "127.0.0.1:9093")
    assert flower.missed_heartbeats(datetime.fromtimestamp(1045, UTC)) == {str(2**64 - 5): 15.0}


def insert(connection: sqlite3.Connection, table: str, **given: object) -> None:
    """Insert a row; columns that must have a value and are not given get one of no meaning, another in each row."""
    number = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
    columns = {row[1]: row for row in connection.execute(f"PRAGMA table_info({table})")}
    values = {name: number if "INT" in row[2].upper() else f"{number}" for name, row in columns.items() if row[3]}
    values |= given
    marks = ",".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({','.join(values)}) VALUES ({marks})", list(values.values()))  # noqa: S608


def test_runs_at_work_are_those_that_give_signs_of_life(tmp_path: Path) -> None:
    paths, now = Paths(tmp_path), datetime.now(UTC)
    bring_up_to_date(paths)

    def at(minutes: float) -> str:
        return f"{now + timedelta(minutes=minutes):%Y-%m-%d %H:%M:%S.%f}"

    with closing(sqlite3.connect(paths.superlink_database)) as connection:
        for run_id, pending, until, finished in (
            (-5, at(-1), None, None),  # waits for its ServerApp
            (6, at(-300), at(0.5), None),  # at work for hours
            (7, at(-300), at(-60), None),  # its ServerApp has died, and nobody has asked since
            (8, at(-300), None, None),  # no executor ever took it
            (9, at(-2), at(0.5), at(-1)),  # has ended
        ):
            task = 100 + run_id
            insert(connection, "run", run_id=run_id, primary_task_id=task)
            times = {"pending_at": pending, "active_until": until, "finished_at": finished}
            insert(connection, "task", task_id=task, run_id=run_id, **times)
        connection.commit()
    assert open_runs(paths.superlink_database, installed_line().open_runs) == {str(2**64 - 5), "6"}
    assert Flower(paths, "127.0.0.1:9093").open_run_ids() == {str(2**64 - 5), "6"}
    assert open_runs(tmp_path / "absent.db", installed_line().open_runs) == frozenset()


def test_a_database_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "absent.db", QUERY) == []
    (tmp_path / "noise.db").write_bytes(b"x" * 5000)
    assert read(tmp_path / "noise.db", QUERY) == []
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE node (id)")
    assert read(tmp_path / "other.db", QUERY) == []
