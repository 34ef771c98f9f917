"""Brings reports to the server on a thread of its own, so that a slow, wrong or absent server delays nothing.

Reports that tell of a change go to the spool first; of the regular ones only the newest is kept. All are sent in the
order of their sequence and forgotten when the server has acknowledged them. Imports the client, the spool and backoff.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from fleven_agent.common.backoff import delay
from fleven_agent.protocol.patch import difference
from fleven_agent.reporting.client import Answer, Change, DeliveryError, Target, deliver
from fleven_agent.reporting.session import Session
from fleven_agent.reporting.spool import Spool

BATCH = 50
RETRY_INITIAL_SECONDS = 2.0
WHOLE_EVERY_SECONDS = 3_600.0
"""Between two reports that are sent as a whole, though the server has most of them."""
RETRY_SOON_TRIES = 8
"""So many failures may be a server that starts again, and a car that it has not heard counts for no run."""
RETRY_SOON_SECONDS = 5.0
RETRY_MAXIMUM_SECONDS = 20.0  # nothing counts on a car that is not heard, however well it is


def retry_seconds(failures: int, chance: float) -> float:
    """Return the pause after so many failures in a row [s]: short while the server may only have started again.

    Args:
        failures: from 1.
        chance: a number of [0, 1) from a random source.
    """
    maximum = RETRY_SOON_SECONDS if failures <= RETRY_SOON_TRIES else RETRY_MAXIMUM_SECONDS
    return delay(failures, initial=RETRY_INITIAL_SECONDS, factor=2.0, maximum=maximum, chance=chance)


class Reporter:
    """The queue to the server and the thread that empties it.

    Args:
        spool: reports that must not get lost.
        target: where they go; None while nothing is to be sent.
        boot_id: of this machine's boot.
        on_answer: called from the thread with each answer.
        on_problem: called from the thread when a try failed.
    """

    def __init__(
        self,
        spool: Spool,
        target: Target | None,
        on_answer: Callable[[Answer], None],
        on_problem: Callable[[DeliveryError], None],
        *,
        boot_id: str = "",
    ) -> None:
        self._spool = spool
        self._target = target
        self._on_answer, self._on_problem = on_answer, on_problem
        # In no file: a card that is copied while the agent runs does not bear its word.
        self._sent_by = {"boot_id": boot_id, "process": os.urandom(8).hex()}
        self._session = Session()
        self._base: dict[str, Any] | None = None
        """The report that the server stored last, when it takes what differs from it."""
        self._base_at = float("-inf")
        """When one was last sent as a whole."""
        self._latest: dict[str, Any] | None = None
        self._memory: list[dict[str, Any]] = []
        self._singly = 0
        """How many reports of a batch that was refused are still to be sent alone."""
        self._changed = threading.Condition()
        self._stopping = False
        self._stop_deadline = 0.0
        self._failures = 0
        self._pausing_until = 0.0
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, report: Mapping[str, Any], *, durable: bool) -> None:
        """Queue a report. ``durable``: it must reach the server even if it takes days and reboots."""
        with self._changed:
            self._latest = None
            if not durable:
                self._latest = dict(report)
            elif not self._spool.add(report):
                self._memory.append(dict(report))  # the disk refuses it: better in memory than not at all
                if len(self._memory) > self._spool.maximum_reports:
                    self._memory.pop(0)
                    self._spool.lost += 1
            self._changed.notify()

    def retarget(self, target: Target | None) -> None:
        """Send to another place, or with another token, or nothing; what failed before is tried at once."""
        with self._changed:
            if target != self._target:
                self._target, self._failures, self._pausing_until, self._singly = target, 0, 0.0, 0
                self._changed.notify()

    def try_now(self) -> None:
        """End the pause after failures: there is a sign that the server is back."""
        with self._changed:
            self._failures, self._pausing_until = 0, 0.0
            self._changed.notify()

    def resize(self, *, maximum_reports: int, maximum_bytes: int) -> None:
        """Set new bounds for what waits on disk, from the next report on."""
        with self._changed:
            self._spool.maximum_reports, self._spool.maximum_bytes = maximum_reports, maximum_bytes

    def take_lost(self) -> int:
        """Return how many reports were lost since the last call."""
        with self._changed:
            return self._spool.take_lost()

    def waiting(self) -> int:
        """Return how many reports wait."""
        with self._changed:
            return len(self._spool) + len(self._memory) + (self._latest is not None)

    def stop(self, timeout_seconds: float) -> None:
        """Try to deliver what waits, for a short time, and end the thread."""
        with self._changed:
            self._stopping = True
            self._stop_deadline = time.monotonic() + timeout_seconds
            self._changed.notify()
        self._thread.join(timeout_seconds + 1.0)

    def _run(self) -> None:
        try:
            self._deliver_all()
        finally:
            self._session.close()

    def _deliver_all(self) -> None:
        while True:
            with self._changed:
                while not (batch := self._batch() if self._target else []) and not self._stopping:
                    self._changed.wait()
                target, last_try = self._target, self._stopping
                if target is None or not batch or (last_try and time.monotonic() >= self._stop_deadline):
                    return
            if self._exchange(batch, target):
                self._failures = 0
            elif last_try:
                return
            else:
                self._pause(target)

    def _pause(self, tried: Target) -> None:
        self._failures += 1
        seconds = retry_seconds(self._failures, random.random())  # noqa: S311  # spreads a fleet's tries, protects nothing
        with self._changed:
            if tried != self._target:
                return
            self._pausing_until = time.monotonic() + seconds
            while not self._stopping and (left := self._pausing_until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _batch(self) -> list[dict[str, Any]]:
        size = 1 if self._singly else BATCH
        # What is in memory may be older than what is on disk, or newer: the disk may have refused writes for a while.
        batch = sorted([*self._spool.oldest(size), *self._memory[:size]], key=self._age)[:size]
        if self._latest is not None and len(batch) < size:
            batch.append(self._latest)
        return batch

    def _age(self, report: Mapping[str, Any]) -> tuple[bool, int]:
        return report["sender_id"] == self._spool.sender_id, int(report["sequence"])

    def _exchange(self, batch: list[dict[str, Any]], target: Target) -> bool:
        stamp = datetime.now(tz=UTC).isoformat()
        stamped = [{**report, "sent_at": stamp, "sent_by": self._sent_by} for report in batch]
        timeout = target.timeout_seconds
        if self._stopping:
            timeout = max(0.1, min(timeout, self._stop_deadline - time.monotonic()))
        change = self._change(stamped)
        try:
            within = replace(target, timeout_seconds=timeout)
            answer = deliver(within, stamped, change=change, session=self._session)
        except DeliveryError as error:
            # To a report as a whole the server says all that it has to say. And what is refused may be the change.
            self._base = None
            if error.refused and change is None:
                self._isolate(batch)
            self._on_problem(error)
            return False
        if answer.wants_whole_report:
            self._base = None
            self._on_answer(answer)
            return True
        taken = _taken(batch, answer.acknowledged)
        self._remember(stamped[-1], answer, whole=change is None)
        with self._changed:
            self._spool.acknowledge(taken)
            self._memory = [report for report in self._memory if _name(report) not in taken]
            if self._latest is not None and _name(self._latest) in taken:
                self._latest = None
            self._singly = max(0, self._singly - 1)
            progressed = _name(batch[0]) in taken
        self._on_answer(answer)
        if not progressed:
            self._on_problem(DeliveryError("the server acknowledges no report"))
        return progressed

    def _change(self, batch: Sequence[Mapping[str, Any]]) -> Change | None:
        """Return what stands for a batch of one report of this agent; None when it has to be sent as a whole."""
        base = self._base
        if base is None or len(batch) != 1 or time.monotonic() - self._base_at > WHOLE_EVERY_SECONDS:
            return None
        if batch[0]["sender_id"] != base["sender_id"] or batch[0]["sequence"] <= base["sequence"]:
            return None
        return Change(base["sender_id"], base["sequence"], difference(base, batch[0]))

    def _remember(self, newest: Mapping[str, Any], answer: Answer, *, whole: bool) -> None:
        """Keep what the server has now, when it takes what differs from it."""
        if answer.attention is None or answer.acknowledged.get(newest["sender_id"]) != newest["sequence"]:
            self._base = None
            return
        self._base = dict(newest)
        if whole:
            self._base_at = time.monotonic()

    def _isolate(self, batch: list[dict[str, Any]]) -> None:
        """A batch was refused for good: find the report that is to blame, and give up that one alone."""
        with self._changed:
            if len(batch) > 1:
                self._singly = len(batch)
                return
            self._singly = max(0, self._singly - 1)
            bad = _name(batch[0])
            self._spool.drop(*bad)
            if any(_name(report) == bad for report in self._memory):
                self._memory = [report for report in self._memory if _name(report) != bad]
                self._spool.lost += 1
            if self._latest is not None and _name(self._latest) == bad:
                self._latest = None


def _name(report: Mapping[str, Any]) -> tuple[str, int]:
    return report["sender_id"], int(report["sequence"])


def _taken(batch: Sequence[Mapping[str, Any]], acknowledged: Mapping[str, int]) -> set[tuple[str, int]]:
    """What was acknowledged of what was sent, and no more: a server may know later reports than an old copy of us."""
    return {(sender, number) for sender, number in map(_name, batch) if number <= acknowledged.get(sender, -1)}
