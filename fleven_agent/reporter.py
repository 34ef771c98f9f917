"""Brings reports to the server on a thread of its own, so that a slow, wrong or absent server delays nothing.

Reports that tell of a change go to the spool first; of the regular ones only the newest is kept. All are sent in the
order of their sequence and forgotten when the server has acknowledged them. Imports delivery, spool and backoff.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fleven_agent.backoff import delay
from fleven_agent.delivery import Answer, DeliveryError, deliver
from fleven_agent.spool import Spool

BATCH = 50
RETRY_INITIAL_SECONDS = 2.0
RETRY_MAXIMUM_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how reports are sent."""

    url: str
    timeout_seconds: float
    root_certificates: str | None
    user_agent: str
    token: str | None = field(default=None, repr=False)


class Reporter:
    """The queue to the server and the thread that empties it.

    Args:
        spool: reports that must not get lost.
        target: where they go.
        on_answer: called from the thread with each answer.
        on_problem: called from the thread when a try failed.
    """

    def __init__(
        self,
        spool: Spool,
        target: Target,
        on_answer: Callable[[Answer], None],
        on_problem: Callable[[DeliveryError], None],
    ) -> None:
        self._spool = spool
        self._target = target
        self._on_answer, self._on_problem = on_answer, on_problem
        self._latest: dict[str, Any] | None = None
        self._memory: list[dict[str, Any]] = []
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
                self._memory.append(dict(report))  # the disk takes nothing: better in memory than not at all
                if len(self._memory) > self._spool.maximum_reports:
                    self._memory.pop(0)
                    self._spool.lost += 1
            self._changed.notify()

    def retarget(self, target: Target) -> None:
        """Send to another place, or with another token, from now on; what failed before is tried at once."""
        with self._changed:
            if target != self._target:
                self._target, self._failures, self._pausing_until = target, 0, 0.0
                self._changed.notify()

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
        while True:
            with self._changed:
                while not self._stopping and not self._batch():
                    self._changed.wait()
                batch = self._batch()
                target = self._target
                if self._stopping and (not batch or time.monotonic() >= self._stop_deadline):
                    return
            if self._exchange(batch, target):
                self._failures = 0
            else:
                self._pause(target)

    def _pause(self, tried: Target) -> None:
        self._failures += 1
        seconds = delay(
            self._failures,
            initial=RETRY_INITIAL_SECONDS,
            factor=2.0,
            maximum=RETRY_MAXIMUM_SECONDS,
            chance=random.random(),  # noqa: S311  # spreads a fleet's tries, guards nothing
        )
        with self._changed:
            if tried != self._target:
                return
            self._pausing_until = time.monotonic() + seconds
            while not self._stopping and (left := self._pausing_until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _batch(self) -> list[dict[str, Any]]:
        batch = self._spool.oldest(BATCH)
        batch += self._memory[: BATCH - len(batch)]
        if self._latest is not None and len(batch) < BATCH:
            batch.append(self._latest)
        return batch

    def _exchange(self, batch: list[dict[str, Any]], target: Target) -> bool:
        stamp = datetime.now(tz=UTC).isoformat()
        stamped = [{**report, "sent_at": stamp} for report in batch]
        timeout = target.timeout_seconds
        if self._stopping:
            timeout = max(0.1, min(timeout, self._stop_deadline - time.monotonic()))
        try:
            answer = deliver(
                target.url,
                stamped,
                timeout_seconds=timeout,
                root_certificates=target.root_certificates,
                user_agent=target.user_agent,
                token=target.token,
            )
        except DeliveryError as error:
            if error.refused:
                self._isolate(batch)
            self._on_problem(error)
            return False
        taken = _taken(batch, answer.acknowledged)
        with self._changed:
            self._spool.acknowledge(taken)
            self._memory = [report for report in self._memory if not _covered(report, taken)]
            if self._latest is not None and _covered(self._latest, taken):
                self._latest = None
            progressed = not any(_same(report, batch[0]) for report in self._batch()[:1])
        self._on_answer(answer)
        if not progressed:
            self._on_problem(DeliveryError("the server acknowledges no report"))
        return progressed

    def _isolate(self, batch: list[dict[str, Any]]) -> None:
        """A batch was refused for good: give up its oldest report, so that one bad report cannot block the rest."""
        if not batch:
            return
        oldest = batch[0]
        with self._changed:
            self._spool.drop(oldest["sender_id"], oldest["sequence"])
            if any(_same(report, oldest) for report in self._memory):
                self._memory = [report for report in self._memory if not _same(report, oldest)]
                self._spool.lost += 1
            if self._latest is not None and _same(self._latest, oldest):
                self._latest = None


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (one["sender_id"], one["sequence"]) == (other["sender_id"], other["sequence"])


def _taken(batch: Sequence[Mapping[str, Any]], acknowledged: Mapping[str, int]) -> dict[str, int]:
    """What was acknowledged of what was sent: a server may know later reports than a state that is an old copy."""
    sent: dict[str, int] = {}
    for report in batch:
        sent[report["sender_id"]] = max(int(report["sequence"]), sent.get(report["sender_id"], -1))
    return {sender: min(sequence, acknowledged[sender]) for sender, sequence in sent.items() if sender in acknowledged}


def _covered(report: Mapping[str, Any], acknowledged: Mapping[str, int]) -> bool:
    return int(report["sequence"]) <= acknowledged.get(report["sender_id"], -1)
