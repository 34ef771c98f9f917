"""Reads before Flower's own: what they find counts only where Flower would say the same."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from fleven.server.flower import quick_reads
from fleven.server.flower.line import installed_line
from fleven.server.flower.quick_reads import QuickReads, read_first
from fleven.server.flower.run_app import signed

NODE, HIGH_NODE = 7, 2**64 - 5
INSIDE = installed_line().superlink_insides


class State:
    """Stands for Flower's state; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get_message_ins(self, node_id: int, limit: int | None) -> list[str]:
        """Claim messages."""
        self.asked.append(f"messages of {node_id}, {limit}")
        return ["message"]

    def get_node_id_by_public_key(self, public_key: bytes) -> int | None:
        """Look a key up."""
        self.asked.append(f"node of {public_key!r}")
        return None


@pytest.fixture
def database(tmp_path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(tmp_path / "superlink.db")
    connection.executescript(
        "PRAGMA journal_mode = WAL;"
        "CREATE TABLE message_ins (message_id TEXT, dst_node_id INTEGER, delivered_at TEXT);"
        "CREATE TABLE node (node_id INTEGER, public_key BLOB, status TEXT);"
    )
    return connection


@pytest.fixture
def reads(tmp_path: Path, database: sqlite3.Connection) -> QuickReads:
    return QuickReads(tmp_path / "superlink.db", INSIDE)


@pytest.fixture
def state(reads: QuickReads) -> State:
    kept: Any = type("Kept", (State,), {})
    read_first(kept, reads)
    found: State = kept()
    return found


@pytest.mark.parametrize("node", [NODE, HIGH_NODE])
def test_flower_is_asked_only_when_a_message_waits(database: sqlite3.Connection, state: State, node: int) -> None:
    assert state.get_message_ins(node, 1) == []
    database.execute("INSERT INTO message_ins VALUES ('a', ?, '')", (signed(node),))
    assert state.get_message_ins(node, 1) == [], "it is not committed: Flower would not find it either"
    assert state.asked == []
    database.commit()
    assert state.get_message_ins(node, 1) == ["message"]
    assert state.asked == [f"messages of {node}, 1"]
    database.execute("UPDATE message_ins SET delivered_at = '2026-11-28T10:00:00+00:00'")
    database.commit()
    assert state.get_message_ins(node, 1) == []
    assert state.get_message_ins(NODE + 1, 1) == []


def test_a_key_is_found_unless_its_node_was_removed(database: sqlite3.Connection, state: State) -> None:
    database.execute("INSERT INTO node VALUES (?, ?, 'online')", (signed(HIGH_NODE), b"key"))
    database.commit()
    assert state.get_node_id_by_public_key(b"key") == HIGH_NODE
    assert state.asked == []
    database.execute("UPDATE node SET status = 'unregistered'")
    database.commit()
    assert state.get_node_id_by_public_key(b"key") is None
    assert state.asked == ["node of b'key'"], "who is refused is refused by Flower"


def test_what_cannot_be_read_is_left_to_flower(tmp_path: Path) -> None:
    kept: Any = type("Kept", (State,), {})
    read_first(kept, QuickReads(tmp_path / "absent.db", INSIDE))
    state: State = kept()
    assert state.get_message_ins(NODE, 1) == ["message"]
    assert state.get_node_id_by_public_key(b"key") is None
    assert len(state.asked) == 2
    absent = QuickReads(tmp_path / "absent.db", INSIDE)
    assert (absent.unanswered(NODE), absent.arriving({"a"})) == (None, frozenset())


def test_another_form_of_the_database_is_left_to_flower(database: sqlite3.Connection, state: State) -> None:
    database.executescript("ALTER TABLE message_ins RENAME COLUMN delivered_at TO taken_at; DROP TABLE node;")
    assert state.get_message_ins(NODE, 1) == ["message"]
    assert state.get_node_id_by_public_key(b"key") is None
    assert len(state.asked) == 2


def test_threads_share_connections_one_at_a_time(
    database: sqlite3.Connection, reads: QuickReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def counted(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(quick_reads.sqlite3, "connect", counted)
    answers: list[bool] = []
    together = threading.Barrier(4)

    def ask() -> None:
        together.wait()
        answers.extend(reads.nothing_waits_for(NODE) for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 200
    assert 1 <= len(opened) <= 4


def test_a_state_of_another_kind_stays_as_it_is(reads: QuickReads) -> None:
    class Other:
        def get_message_ins(self) -> None:
            """Claim messages."""

    before = Other.get_message_ins
    with pytest.raises(AttributeError):
        read_first(Other, reads)
    assert Other.get_message_ins is before
