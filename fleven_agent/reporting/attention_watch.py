"""Asks the server, on a thread of its own, how closely it follows this car, and waits for the answer.

The server keeps the question open until its attention changes, so its word is here within the time of one packet, and
an idle car need not ask again and again whether there is a run. One that is lost costs a car a stretched interval, no
more: reports, pulls and the next question go on by themselves. Imports the client and backoff.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from fleven_agent.common.backoff import delay
from fleven_agent.protocol.codes import LONGEST_ATTENTION_SECONDS, Attention
from fleven_agent.reporting.client import DeliveryError, Target, attend
from fleven_agent.reporting.session import Session

RETRY_INITIAL_SECONDS = 5.0
RETRY_MAXIMUM_SECONDS = 60.0
ANSWER_SECONDS = 15.0
"""How late an answer may be."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the server said. ``attention`` is None when it could not be asked."""

    attention: Attention | None
    pull_floor_seconds: float | None = None


class AttentionWatch:
    """The open question and its thread.

    Args:
        sender_id: of this car.
        on_told: called from the thread with each answer that says something new, and when the question failed.
    """

    def __init__(self, sender_id: str, on_told: Callable[[Told], None]) -> None:
        self._sender_id, self._on_told = sender_id, on_told
        self._changed = threading.Condition()
        self._target: Target | None = None
        self._known: Attention | None = None
        self._stopping = False
        self._session = Session()
        self._thread = threading.Thread(target=self._run, name="attention", daemon=True)

    def start(self) -> None:
        """Start the thread; it asks nothing before ``follow``."""
        self._thread.start()

    def follow(self, target: Target | None, known: Attention | None, keepalive_seconds: float) -> None:
        """Ask there from now on. ``known`` is what the server said last; None asks nothing."""
        with self._changed:
            self._session.keepalive_seconds = keepalive_seconds
            moved = target != self._target
            if not moved and known == self._known:
                return
            self._target, self._known = target, known
            self._changed.notify()
        if moved or known is None:
            self._session.abort()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._session.abort()

    def _run(self) -> None:
        try:
            self._ask_on()
        finally:
            self._session.close()

    def _ask_on(self) -> None:
        failures = 0
        while True:
            with self._changed:
                while not self._stopping and (self._target is None or self._known is None):
                    self._changed.wait()
                if self._stopping or self._target is None or self._known is None:
                    return
                target, known = self._target, self._known
            try:
                found, floor = attend(
                    replace(target, timeout_seconds=ANSWER_SECONDS),
                    self._sender_id,
                    known,
                    wait_seconds=LONGEST_ATTENTION_SECONDS,
                    session=self._session,
                )
            except DeliveryError:
                failures += 1
                self._failed(target, failures)
                continue
            failures = 0
            with self._changed:
                if self._target == target and self._known is not None:
                    self._known = found
            if found is not known:
                self._on_told(Told(found, floor))

    def _failed(self, target: Target, failures: int) -> None:
        """Say that nothing is known any more, and wait before asking again."""
        with self._changed:
            if self._stopping or self._target != target:
                return
        if failures > 1:  # one may be a server that is restarted
            self._on_told(Told(None))
        seconds = delay(
            failures,
            initial=RETRY_INITIAL_SECONDS,
            factor=2.0,
            maximum=RETRY_MAXIMUM_SECONDS,
            chance=random.random(),  # noqa: S311  # spreads a fleet's tries, protects nothing
        )
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._target != target, seconds)
