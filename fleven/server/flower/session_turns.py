"""Lets the SuperLink's threads use its database one after another, in the order in which they came.

Every call of a SuperNode or ServerApp writes: how much it has moved, and which tasks have run out of time. SQLite has
one writer at a time; who finds it taken sleeps and tries again, and gives up after five seconds. With a hundred cars
that answer at once, threads slept while nobody wrote, calls ended with `database is locked`, and what such a call had
already claimed was lost: its car never got the message. In turns nobody sleeps in vain. Must not import Flower.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from fleven.server.database.fair_lock import Turns

LONGEST_WAIT_SECONDS = 30.0
"""Then a thread asks SQLite all the same: something is wrong, and Flower's own limits hold."""


class Inside(threading.local):
    """Whether this thread has its turn: a session within a session is a part of it."""

    def __init__(self) -> None:
        self.held = False


def take_turns(mixin: type[Any]) -> None:
    """Have all sessions of a class, whatever the object, take turns.

    Args:
        mixin: Flower's SqlMixin, whose `session` opens a session that is committed in the end.

    Raises:
        AttributeError: it has no such method; nothing was changed.
    """
    open_session: Callable[[Any], AbstractContextManager[Any]] = mixin.session
    turns, inside = Turns(), Inside()

    @contextmanager
    def session(self: Any) -> Iterator[Any]:
        if inside.held:
            with open_session(self) as found:
                yield found
            return
        with turns.turn(LONGEST_WAIT_SECONDS):
            inside.held = True
            try:
                with open_session(self) as found:
                    yield found
            finally:
                inside.held = False

    mixin.session = session
