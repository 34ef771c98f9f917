"""Who has missed a heartbeat: on a database of the installed Flower's own making."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleven.server.config import Paths
from fleven.server.flower.flwr_command import Flower
from fleven.server.flower.heartbeats import LATE_SECONDS, Heartbeat, missed, read
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


def test_a_database_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "absent.db", QUERY) == []
    (tmp_path / "noise.db").write_bytes(b"x" * 5000)
    assert read(tmp_path / "noise.db", QUERY) == []
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE node (id)")
    assert read(tmp_path / "other.db", QUERY) == []
