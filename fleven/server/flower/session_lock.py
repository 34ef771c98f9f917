"""Lets the SuperLink's threads use its database one at a time.

Every call of a SuperNode or ServerApp writes: how much it has moved, and which tasks have run out of time. SQLite has
one writer at a time; who finds it taken sleeps and tries again, and gives up after five seconds. With a hundred cars
that answer at once, threads slept while nobody wrote, calls ended with `database is locked`, and what such a call had
already claimed was lost: its car never got the message. A lock of the process wakes the next one when it can go on:
sixteen threads that write get through ten times as many sessions, and wait a twentieth as long. It is not a fair one on
purpose: with each session handed to the thread that waited longest, they all wait for threads to be woken. Must not
import Flower.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

LONGEST_WAIT_SECONDS = 30.0
"""Then a thread asks SQLite all the same: something is wrong, and Flower's own limits hold."""


def lock_sessions(mixin: type[Any], longest_wait_seconds: float = LONGEST_WAIT_SECONDS) -> None:
    """Have the sessions of a class, whatever the object, be open in one thread at a time.

    Args:
        mixin: Flower's SqlMixin, whose `session` opens a session that is committed in the end.
        longest_wait_seconds: for another thread's session to end.

    Raises:
        AttributeError: it has no such method; nothing was changed.
    """
    open_session: Callable[[Any], AbstractContextManager[Any]] = mixin.session
    lock = threading.RLock()  # a session within a session is a part of it

    @contextmanager
    def session(self: Any) -> Iterator[Any]:
        alone = lock.acquire(timeout=longest_wait_seconds)
        try:
            with open_session(self) as found:
                yield found
        finally:
            if alone:
                lock.release()

    mixin.session = session
