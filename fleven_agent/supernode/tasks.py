"""Follows the tasks of a run through SuperNode's log lines, and what each of them costs.

SuperNode works on one message at a time: "[RUN r, ROUND n]", "Receiving: train message", the ClientApp's own
output, "Sending: train message", "Sent successfully". Costs are sampled from the ClientApp's processes meanwhile; the
CPU time of an ended one stays readable until the executor starts the next.

No effects: lines, samples and clocks come in, finished tasks come out. Imports flower's words and the states.
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from fleven_agent.protocol.codes import TaskOutcome
from fleven_agent.supernode.flower import Event, Kind
from fleven_agent.system.tcp_counters import Traffic

SETTLE_SECONDS = 3.0
"""How long after the reply the ClientApp's process may take to end before its cost is closed."""
PROGRESS_BYTES, PROGRESS_WINDOW_SECONDS = 16_384, 30.0
"""So many bytes over the connection in so short a time are a model on its way; SuperNode's heartbeats are far fewer."""
TAIL_LINES = 40
TAIL_CHARACTERS = 8_000


@dataclass(frozen=True, slots=True)
class Finished:
    """What a task cost; the fields of ``report.FinishedTask``."""

    run_id: str
    round: int | None
    message_type: str
    outcome: TaskOutcome
    started_at: float
    cpu_seconds: float | None
    peak_rss_bytes: int | None
    wall_seconds: float
    bytes_received: int | None
    bytes_sent: int | None
    maximum_temperature_celsius: float | None
    warm: bool | None
    log_tail: str | None
    app_hash: str | None = None
    refusal: str = ""
    """Why the app refused the task for a reason that lasts, such as missing trips; not in the report."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of one of the ClientApp's processes."""

    pid: int
    cpu_seconds: float
    peak_rss_bytes: int | None
    ended: bool = False
    exit_code: int | None = None
    warm: bool = False
    app: str = ""
    """Hash of the app that it runs, where that is known."""


@dataclass(slots=True)
class Task:
    """A task at work."""

    run_id: str
    round: int | None
    message_type: str
    started_at: float
    started: float
    progress: float
    """Monotonic moment of the last sign that it works."""
    progress_cpu_seconds: float = 0.0
    samples: dict[int, Sample] = field(default_factory=dict)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    failed: bool = False
    refusal: str = ""
    sending: bool = False
    """The ClientApp has begun to answer, and SuperNode to bring the answer to the SuperLink."""
    replied: float | None = None
    traffic_window: tuple[float, int] = (float("-inf"), 0)
    """Monotonic moment and bytes at which the count of progress over the connection began."""
    traffic_before: Traffic | None = None
    traffic_after: Traffic | None = None
    maximum_temperature_celsius: float | None = None

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes so far."""
        return sum(sample.cpu_seconds for sample in self.samples.values())

    @property
    def answered(self) -> bool:
        """Whether the whole answer is there: a ClientApp that was killed may have left a part of it out."""
        return self.sending and all(sample.ended and sample.exit_code in (None, 0) for sample in self.samples.values())

    @property
    def died(self) -> bool:
        """Whether the ClientApp has ended without a beginning of an answer.

        SuperNode then waits until two of its heartbeats are missing, a minute (flwr 1.34: HEARTBEAT_DEFAULT_INTERVAL
        and HEARTBEAT_PATIENCE in flwr/common/constant.py), and the car is missing in a run for as long.
        """
        return not self.sending and bool(self.samples) and all(sample.ended for sample in self.samples.values())

    @property
    def broke_off(self) -> bool:
        """Whether the ClientApp died when it had begun to answer: Flower's SuperNode then waits for the rest for ever.

        Source: `_push_messages` of flwr 1.31 to 1.34, which asks its store for the missing object without a limit.
        """
        return self.sending and all(sample.ended for sample in self.samples.values()) and not self.answered

    def count_traffic(self, traffic: Traffic, now: float) -> None:
        """Take what the connection has carried so far; a model that is on its way is progress."""
        self.traffic_before = self.traffic_before or traffic
        self.traffic_after = traffic
        total = traffic.received_bytes + traffic.sent_bytes
        since, before = self.traffic_window
        moved = total - before
        if moved >= PROGRESS_BYTES and since != float("-inf"):
            self.progress = now
        if moved >= PROGRESS_BYTES or moved < 0 or now - since >= PROGRESS_WINDOW_SECONDS:
            self.traffic_window = now, total


_REFUSED = re.compile(r"\bevent=task-refused kind=\S+ code=(?P<code>[a-z-]+) reason=(?P<reason>.+)$")
"""The line of the default app (`fleven.app.car`) about a task that the same car would only refuse again."""

REFUSALS = 2
"""So many tasks in a row, for instance a query and a training, are no accident."""


class Refusals:
    """Tasks in a row that the app refused for a reason of this car's own."""

    def __init__(self) -> None:
        self._count = 0
        self._last = ""
        self._seen: object = None

    def count(self, task: Finished, trips: object) -> None:
        """Take a task that ended, and what is known of the trips then."""
        if not task.refusal:
            self._count, self._last = (0, "") if task.outcome is TaskOutcome.SUCCEEDED else (self._count, self._last)
            return
        self._count, self._last, self._seen = self._count + 1, task.refusal, trips

    def problem(self, trips: object) -> str:
        """Return why the car is set aside; empty when it is not, and again as soon as the trips have changed."""
        if self._count and trips != self._seen:
            self._count, self._last = 0, ""
        if self._count < REFUSALS:
            return ""
        return f"the app refused the last {self._count} tasks of this car: {self._last}"


class Tasks:
    """The current task, and the ones that just ended."""

    def __init__(self) -> None:
        self.current: Task | None = None
        self._run_id, self._round = "0", None  # type: str, int | None
        self._traffic: Traffic | None = None

    def on_line(self, text: str) -> None:
        """Keep a line of output, in case the task fails."""
        if self.current is not None and text.strip():
            self.current.tail.append(text[:1_000])
            if refused := _REFUSED.search(text):
                self.current.refusal = f"{refused['code']}: {refused['reason'][1:-1]}"[:500]

    def on_event(self, event: Event, now: float, wall: float) -> list[Finished]:
        """Follow a log line; return tasks that ended by it.

        SuperNode gives an answer to a task of before as soon as it takes the next one, the error for a ClientApp that
        died for example: what is said of another task's round is nothing about this one.
        """
        task = self.current
        own = task is not None and (task.run_id, task.round) == (self._run_id, self._round)
        match event.kind:
            case Kind.CONTEXT:
                self._run_id, self._round = event.run_id, event.round
            case Kind.TASK_RECEIVING:
                ended = [self._close(now)] if task is not None else []
                self.current = Task(self._run_id, self._round, event.message_type, wall, now, now)
                self.current.traffic_before = self._traffic
                return ended
            case Kind.TASK_RECEIVE_FAILED | Kind.TASK_IGNORED:
                if task is not None and own and task.replied is None:
                    task.failed = event.kind is Kind.TASK_RECEIVE_FAILED
                    return [self._close(now, aborted=event.kind is Kind.TASK_IGNORED)]
            case Kind.APP_FAILED:
                if task is not None:
                    task.failed = True
            case Kind.TASK_SENDING:
                if task is not None and own:
                    task.sending, task.progress = True, now
            case Kind.TASK_SENT | Kind.TASK_SEND_FAILED:
                if task is not None and own and task.replied is None:
                    task.replied = now
                    task.failed = task.failed or event.kind is Kind.TASK_SEND_FAILED
        return []

    def observe(
        self,
        samples: Sequence[Sample],
        traffic: Traffic | None,
        temperature: float | None,
        now: float,
        *,
        stuck_seconds: float,
    ) -> list[Finished]:
        """Take a sample; return the task when its cost is complete."""
        self._traffic = traffic or self._traffic
        task = self.current
        if task is None:
            return []
        for sample in samples:
            before = task.samples.get(sample.pid)
            # A defunct process has no peak of memory any more: keep the last one.
            peak = max(
                (p for p in (sample.peak_rss_bytes, before.peak_rss_bytes if before else None) if p), default=None
            )
            task.samples[sample.pid] = Sample(
                sample.pid, sample.cpu_seconds, peak, sample.ended, sample.exit_code, sample.warm, sample.app
            )
            if before is None or (sample.ended and not before.ended):
                task.progress = now
        # A stuck ClientApp still sends heartbeats: a little CPU time is no progress.
        if task.cpu_seconds() - task.progress_cpu_seconds >= min(0.5, stuck_seconds * 0.02):
            task.progress, task.progress_cpu_seconds = now, task.cpu_seconds()
        if traffic is not None:
            task.count_traffic(traffic, now)
        if temperature is not None:
            task.maximum_temperature_celsius = max(temperature, task.maximum_temperature_celsius or temperature)
        if task.replied is not None:
            all_ended = bool(task.samples) and all(sample.ended for sample in task.samples.values())
            if all_ended or now - task.replied >= SETTLE_SECONDS:
                return [self._close(now)]
        return []

    def abort(self, now: float) -> list[Finished]:
        """SuperNode is gone: end the current task. A task that was answered already has succeeded all the same."""
        return [] if self.current is None else [self._close(now, aborted=self.current.replied is None)]

    def _close(self, now: float, *, aborted: bool = False) -> Finished:
        task, self.current = self.current, None
        if task is None:
            raise RuntimeError("no task to close")
        samples = list(task.samples.values())
        bad_exit = any(sample.exit_code not in (None, 0) for sample in samples if sample.ended)
        failed = task.failed or bad_exit
        outcome = TaskOutcome.ABORTED if aborted else TaskOutcome.FAILED if failed else TaskOutcome.SUCCEEDED
        peaks = [sample.peak_rss_bytes for sample in samples if sample.peak_rss_bytes]
        received, sent = _difference(task.traffic_before, task.traffic_after)
        return Finished(
            run_id=task.run_id,
            round=task.round,
            message_type=task.message_type,
            outcome=outcome,
            started_at=task.started_at,
            cpu_seconds=task.cpu_seconds() if samples else None,
            peak_rss_bytes=max(peaks) if peaks else None,
            wall_seconds=max(0.0, (task.replied or now) - task.started),
            bytes_received=received,
            bytes_sent=sent,
            maximum_temperature_celsius=task.maximum_temperature_celsius,
            warm=any(sample.warm for sample in samples) if samples else None,
            app_hash=next((sample.app for sample in samples if sample.app), None),
            refusal=task.refusal,
            log_tail="\n".join(task.tail)[-TAIL_CHARACTERS:] if outcome is not TaskOutcome.SUCCEEDED else None,
        )


def _difference(before: Traffic | None, after: Traffic | None) -> tuple[int | None, int | None]:
    if before is None or after is None:
        return None, None
    received, sent = after.received_bytes - before.received_bytes, after.sent_bytes - before.sent_bytes
    if received < 0 or sent < 0:  # the connection was replaced meanwhile, and counts from zero again
        return after.received_bytes, after.sent_bytes
    return received, sent
