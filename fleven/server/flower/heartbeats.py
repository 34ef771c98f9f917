"""Which SuperNodes have missed a heartbeat, and which runs are open: from the SuperLink's database.

Flower waits for two heartbeats before it calls a node offline, and tells nobody of a run that was given to it by hand.
Its lists cost far more to ask for than these rows, which are looked at every few seconds. Read only; what cannot be
read says nothing. Must not import the register.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LATE_SECONDS = 10.0
"""A heartbeat is only late until then: it has 5 s, and is repeated."""
BUSY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last heartbeat of a node that Flower calls online.

    Attributes:
        node_id: Flower's.
        at: when it came [s since 1970].
        interval_seconds: after which the next one is due.
    """

    node_id: str
    at: float
    interval_seconds: float


def read(database: Path, query: str) -> list[Heartbeat]:
    """Return the last heartbeats; none when the database is away, in use or of another form.

    Args:
        database: the SuperLink's.
        query: of the installed Flower, which returns node id (signed, 64 bits), time and interval [s].
    """
    try:
        rows = _rows(database, query)
        return [Heartbeat(str(int(node) % 2**64), float(at), float(interval)) for node, at, interval in rows]
    except (sqlite3.Error, TypeError, ValueError):
        return []


def open_runs(database: Path, query: str) -> frozenset[str]:
    """Return Flower's ids of the runs at work; none when the database is away, in use or of another form.

    Args:
        database: the SuperLink's.
        query: of the installed Flower, which returns run ids (signed, 64 bits).
    """
    try:
        return frozenset(str(int(run) % 2**64) for (run,) in _rows(database, query))
    except (sqlite3.Error, TypeError, ValueError):
        return frozenset()


def _rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    uri = f"{database.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
        return connection.execute(query).fetchall()


def missed(heartbeats: Iterable[Heartbeat], now: float) -> dict[str, float]:
    """Return the nodes whose heartbeat is overdue, and for how long [s].

    Only while another node's came after it was due: else the SuperLink itself may have stood still.

    Args:
        heartbeats: the last of each node.
        now: the time [s since 1970].
    """
    known = list(heartbeats)
    newest = max((one.at for one in known), default=0.0)
    due = {one.node_id: one.at + one.interval_seconds for one in known}
    return {node: now - at for node, at in due.items() if now - at > LATE_SECONDS and newest > at}
