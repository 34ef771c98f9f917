"""Reads of the SuperLink's database, and what SuperNodes ask most answered by one: who has a key, is there a message.

Nearly every pull finds nothing. Flower writes to find that out: it claims a message in a transaction, through layers
that cost more than all else in a pull. Here SQLite is asked first, and Flower only when there is something to claim, or
when this read fails or finds nothing that it can trust: what Flower would say counts, always. A reader of SQLite's
write-ahead log sees everything that was committed before it asked. Must not import Flower: `line` knows its tables.
"""

from __future__ import annotations

import json
import logging
import queue
import sqlite3
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleven.server.flower.line import SuperLinkInsides
from fleven.server.flower.run_app import signed

log = logging.getLogger(__name__)
BUSY_SECONDS = 0.2
"""A read that waits longer for the database is left to Flower."""


class QuickReads:
    """Reads of a SuperLink's database, by any thread.

    Args:
        database: the file.
        inside: the queries of the installed Flower.
    """

    def __init__(self, database: Path, inside: SuperLinkInsides) -> None:
        self._uri = f"{database.absolute().as_uri()}?mode=ro"
        self._inside = inside
        self._free: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that no other thread uses; one whose read failed is not used again."""
        try:
            connection = self._free.get_nowait()
        except queue.Empty:
            connection = sqlite3.connect(self._uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._free.put(connection)

    def _row(self, query: str, value: object) -> tuple[Any, ...] | None:
        with self._connection() as connection:
            row: tuple[Any, ...] | None = connection.execute(query, (value,)).fetchone()
            return row

    def _names(self, query: str, value: object) -> frozenset[str] | None:
        """Return the texts in the first column of a query's rows; None where they cannot be read."""
        try:
            with self._connection() as connection:
                return frozenset(str(row[0]) for row in connection.execute(query, (value,)))
        except sqlite3.Error as error:
            log.debug("event=quick-read-failed error=%r", str(error))
            return None

    def nothing_waits_for(self, node_id: int) -> bool:
        """Return whether a node certainly has no message to be delivered; False also where that cannot be read."""
        try:
            return self._row(self._inside.waiting_message, signed(node_id)) is None
        except sqlite3.Error as error:
            log.debug("event=quick-read-failed error=%r", str(error))
            return False

    def node_of(self, public_key: bytes) -> int | None:
        """Return the node of a key; None when nobody has it, or where that cannot be read."""
        try:
            row = self._row(self._inside.node_of_key, public_key)
        except sqlite3.Error as error:
            log.debug("event=quick-read-failed error=%r", str(error))
            return None
        return None if row is None or type(row[0]) is not int else row[0] % 2**64

    def unanswered(self, node_id: int) -> frozenset[str] | None:
        """Return the messages that a node has taken and not answered in full; None where that cannot be read."""
        return self._names(self._inside.unanswered_messages, signed(node_id))

    def arriving(self, messages: Set[str]) -> frozenset[str]:
        """Return those of some messages whose answers are on their way; none where that cannot be read."""
        return self._names(self._inside.arriving_answers, json.dumps(sorted(messages))) or frozenset()


def read_first(state: type[Any], reads: QuickReads) -> None:
    """Have a class that keeps Flower's state ask `reads` first.

    Args:
        state: Flower's SqlLinkState.
        reads: of the database that it keeps the state in.

    Raises:
        AttributeError: it has no such methods; nothing was changed.
    """
    messages: Callable[..., list[Any]] = state.get_message_ins
    node_of_key: Callable[..., int | None] = state.get_node_id_by_public_key

    def get_message_ins(self: Any, node_id: int, limit: int | None) -> list[Any]:
        return [] if reads.nothing_waits_for(node_id) else messages(self, node_id, limit)

    def get_node_id_by_public_key(self: Any, public_key: bytes) -> int | None:
        found = reads.node_of(public_key)
        return node_of_key(self, public_key) if found is None else found

    state.get_message_ins = get_message_ins
    state.get_node_id_by_public_key = get_node_id_by_public_key
