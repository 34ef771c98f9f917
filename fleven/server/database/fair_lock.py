"""A lock whose waiters get it in the order in which they came. Imports nothing of the package.

SQLite lets any writer go that finds the register free; one that does not sleeps and tries again. So a thread that
writes without a pause would keep all others out for ever. Threads of one process take turns here before they ask
SQLite.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A fair lock. Not reentrant: a thread that holds it and asks again never gets it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    @contextmanager
    def turn(self, timeout_seconds: float) -> Iterator[bool]:
        """Wait for the turn, hold it for the block, then hand it to the longest waiting; False when it did not come."""
        got = self._take(timeout_seconds)
        try:
            yield got
        finally:
            if got:
                self._give()

    def _take(self, timeout_seconds: float) -> bool:
        mine = threading.Event()
        with self._guard:
            if not self._taken:
                self._taken = True
                return True
            self._waiting.append(mine)
        if mine.wait(timeout_seconds):
            return True
        with self._guard:
            # The turn may have come between the end of the wait and here.
            if mine.is_set():
                return True
            self._waiting.remove(mine)
            return False

    def _give(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False
