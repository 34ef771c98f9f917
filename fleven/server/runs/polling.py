"""When the SuperLink is asked again: about a run, or for its nodes. Pure, over a small memory and the current time.

A `flwr` call costs a second of CPU, so never more often than needed. Must not import the store, Flower's command line
or anything that reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from fleven.server.errors import ServerError
from fleven.server.runs.model import Progress, Reason, Run, RunState
from fleven.server.schedules.parts import format_duration

STOP_AGAIN = timedelta(seconds=15)
FINISHED_PROGRESS = frozenset({"succeeded", "failed", "stopped"})
LONGEST_PAUSE_SECONDS = 60


@dataclass(slots=True)
class PollState:
    """What the loop remembers of a submitted run between two looks; lost in a crash without harm.

    Attributes:
        refusal: how the last submission ended, when it ended with an answer.
        failures: failed tries in a row.
        next_try_at: when the next try may begin.
        busy: whether a call about this run is under way.
        looked_at: when the SuperLink was last asked.
        stop_sent_at: when it was last told to stop the run.
        status_file: where the app says how far it is.
        status_changed_ns: modification time of the status.json that was last read.
        progress: what it said.
    """

    refusal: ServerError | None = None
    failures: int = 0
    next_try_at: datetime | None = None
    busy: bool = False
    looked_at: datetime | None = None
    stop_sent_at: datetime | None = None
    status_file: Path | None = None
    status_changed_ns: int = 0
    progress: Progress | None = None


def look_interval(run: Run, watch: PollState, now: datetime) -> timedelta:
    """Return the pause between two questions about a run.

    Short around the moments in which something changes (start, stop, end), long while status.json tells the progress.
    """
    accepted = run.attempt.accepted_at if run.attempt is not None else None
    age_seconds = (now - accepted).total_seconds() if accepted is not None else 0.0
    if run.reason is Reason.STOPPING:
        return timedelta(seconds=3)
    if watch.progress is not None:
        if watch.progress.state in FINISHED_PROGRESS:
            return timedelta(seconds=1.5)
        return timedelta(seconds=20)
    if run.state is RunState.SUBMITTED or age_seconds < 60:
        return timedelta(seconds=4)
    return timedelta(seconds=min(20.0, 5 + age_seconds / 60))


def look_is_due(run: Run, watch: PollState, now: datetime) -> bool:
    """Return whether the SuperLink is to be asked about a run now."""
    if watch.busy or run.attempt is None or run.attempt.flower_run_id is None:
        return False
    if pauses(watch, now):
        return False
    return watch.looked_at is None or now - watch.looked_at >= look_interval(run, watch, now) or now < watch.looked_at


def stop_is_due(run: Run, watch: PollState, now: datetime) -> bool:
    """Return whether the SuperLink is to be told now, or once more, to stop a run."""
    if run.reason is not Reason.STOPPING or watch.busy:
        return False
    return watch.stop_sent_at is None or now - watch.stop_sent_at > STOP_AGAIN or now < watch.stop_sent_at


def pauses(watch: PollState, now: datetime) -> bool:
    """Return whether the next try has to wait; not for longer than the longest pause, should the clock be set back."""
    if watch.next_try_at is None:
        return False
    return timedelta(0) < watch.next_try_at - now <= timedelta(seconds=LONGEST_PAUSE_SECONDS)


def note_failure(watch: PollState, now: datetime) -> str:
    """Count a failed try, set when the next one may begin, and return that pause as text."""
    watch.failures += 1
    pause = timedelta(seconds=min(LONGEST_PAUSE_SECONDS, 2 * 2 ** min(watch.failures, 8)))
    watch.next_try_at = now + pause
    return format_duration(pause.total_seconds())


def note_success(watch: PollState) -> None:
    """Forget earlier failures."""
    watch.failures, watch.next_try_at = 0, None
