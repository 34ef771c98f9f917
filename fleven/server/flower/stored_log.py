"""A ServerApp's log from the SuperLink's database, for whom the Control API does not answer.

Members of the service's group may use all commands, but on their own machine only root and the service's user reach the
Control API. Read only. Must not import the register.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

BUSY_SECONDS = 5.0


class StoredLog:
    """What the database holds of one run.

    Args:
        database: the SuperLink's.
        log, ended: queries of the installed Flower.
        flower_run_id: Flower's number of the run, unsigned.
    """

    def __init__(self, database: Path, log: str, ended: str, flower_run_id: str) -> None:
        self._uri = f"{database.absolute().as_uri()}?mode=ro"
        self._log, self._ended = log, ended
        number = int(flower_run_id)
        self._run = number - 2**64 if number >= 2**63 else number
        self._taken = 0

    def new(self) -> str:
        """Return what has come since the last call.

        Raises:
            sqlite3.Error: the database is away, closed to this user, or of another form.
        """
        parts = [str(row[0]) for row in self._rows(self._log)]
        fresh, self._taken = parts[self._taken :], len(parts)
        return "".join(fresh)

    def ended(self) -> bool:
        """Whether the ServerApp has ended, or nothing is known of it; raises as `new`."""
        return all(row[0] for row in self._rows(self._ended))

    def _rows(self, query: str) -> Iterator[tuple[object, ...]]:
        with closing(sqlite3.connect(self._uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            yield from connection.execute(query, (self._run,)).fetchall()
