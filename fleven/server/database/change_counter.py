"""A cheap look whether somebody else changed what the scheduler decides on. Must not write."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fleven.server.database.engine import BUSY_TIMEOUT_SECONDS

DECIDED_ON = """
SELECT (SELECT max(id) FROM runs),
       (SELECT count(stop_reason) FROM runs WHERE ended_at IS NULL),
       (SELECT count(*) FROM schedules),
       (SELECT max(updated_at) FROM schedules),
       (SELECT value FROM facts WHERE key = 'identities-revision')
"""
"""What every command that wants the loop's attention changes: a new run, a stop, a schedule, an identity.

Reports change none of it."""


class ChangeCounter:
    """Sees new runs, requested stops and changed schedules in one look.

    A fleet's reports commit many times a second. `PRAGMA data_version` says at no cost that there was no commit at
    all; after one, a look at a few figures tells whether it was more than reports, which can wait for the next
    regular turn.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, check_same_thread=False)
        self._version = -1
        self._seen: tuple[object, ...] = ()

    def changed(self) -> bool:
        """Return whether runs, schedules or identities were changed since the last call, by anybody."""
        version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        if version == self._version:
            return False
        seen = tuple(self._connection.execute(DECIDED_ON).fetchone())
        changed = seen != self._seen
        self._version, self._seen = version, seen
        return changed

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
