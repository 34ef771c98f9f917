"""Sessions are open in one thread at a time; one within another is a part of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fleven.server.flower.session_lock import lock_sessions


class Sessions:
    """Stands for Flower's mixin; knows how many sessions are open."""

    def __init__(self) -> None:
        self.open = self.most = self.opened = 0

    @contextmanager
    def session(self) -> Iterator[int]:
        """Open a session."""
        self.open += 1
        self.opened += 1
        self.most = max(self.most, self.open)
        try:
            yield self.opened
        finally:
            self.open -= 1


@pytest.fixture
def kept() -> type[Sessions]:
    made: Any = type("Kept", (Sessions,), {})
    lock_sessions(made)
    found: type[Sessions] = made
    return found


def test_threads_are_inside_one_at_a_time(kept: type[Sessions]) -> None:
    sessions, together, passed = kept(), threading.Barrier(6), threading.Event()

    def work() -> None:
        together.wait()
        for _ in range(30):
            with sessions.session():
                passed.wait(0.0005)  # others get the processor

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sessions.opened == 180
    assert sessions.most == 1


def test_a_session_within_a_session_and_an_error_leave_the_lock_to_others(kept: type[Sessions]) -> None:
    first, second = kept(), kept()

    def fail() -> None:
        with first.session():
            with second.session() as number:
                assert number == 1
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    done = threading.Thread(target=lambda: second.session().__enter__(), daemon=True)
    done.start()
    done.join(10)
    assert not done.is_alive()
    assert first.open == 0


def test_a_thread_that_waits_too_long_goes_on() -> None:
    made: Any = type("Kept", (Sessions,), {})
    lock_sessions(made, longest_wait_seconds=0.05)
    sessions, seen, ended = made(), list[int](), threading.Event()

    def go_on() -> None:
        with sessions.session():
            seen.append(sessions.open)

    def hold() -> None:
        with sessions.session():
            waiting = threading.Thread(target=go_on)
            waiting.start()
            waiting.join()
        ended.set()

    threading.Thread(target=hold, daemon=True).start()
    assert ended.wait(10)
    assert seen == [2]
    go_on()
    assert seen == [2, 1], "the lock was given back once, by the thread that had it"


def test_a_class_without_sessions_stays_as_it_is() -> None:
    class Other:
        """Has none."""

    with pytest.raises(AttributeError):
        lock_sessions(Other)
    assert not hasattr(Other, "session")
