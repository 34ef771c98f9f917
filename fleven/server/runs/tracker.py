"""Runs that the SuperLink has, or may have: submit, follow, stop, close. Used by the loop alone.

Each step is stored before its effect begins. What is remembered here between two turns may be lost at any moment.
How often the SuperLink is asked about a run is decided here too: a `flwr` call costs a second of CPU, so never more
than needed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from fleven.server.database import Store
from fleven.server.errors import ServerError, SuperLinkUnreachableError
from fleven.server.flower.app_bundle import AppUnusableError
from fleven.server.runs import firing, lifecycle
from fleven.server.runs import store as run_store
from fleven.server.runs.lifecycle import Listing, Observation, Step
from fleven.server.runs.model import Attempt, Outcome, Progress, Reason, Run, RunState
from fleven.server.runs.runner import (
    Accepted,
    Runner,
    SubmissionFailedError,
    SubmissionRefusedError,
    SubmissionStoppedError,
    SubmissionUnclearError,
    new_token,
    read_progress,
)
from fleven.server.runs.workers import Kind, Posted, Workers
from fleven.server.schedules.spec import FailureClass, format_duration

logger = logging.getLogger("fleven.server.scheduler")
STOP_AGAIN = timedelta(seconds=15)
WITHOUT_ANSWER = frozenset({"flower-timeout", "flower-missing", SuperLinkUnreachableError.code})
"""Codes of submissions that the SuperLink did not answer: when it does not have the run, it is simply submitted."""


def log_step(run: Run, state: RunState, reason: Reason, message: str) -> None:
    """Log one step of a run."""
    template = "event=run-step run=%d schedule=%s state=%s reason=%s message=%r"
    logger.info(template, run.id, run.schedule_name, state, reason, message)


def submission_outcome(run: Run, error: ServerError) -> Outcome | None:
    """Return how an attempt ended that was not submitted, or None while that is open."""
    text = error.lines()[0]
    match error:
        case SubmissionStoppedError() if run.stop_reason is not None:
            return Outcome(RunState.CANCELLED, run.stop_reason, text)
        case AppUnusableError() | SubmissionRefusedError():
            return Outcome(RunState.FAILED, Reason.SUBMISSION_FAILED, text, FailureClass.CONFIGURATION)
        case SubmissionFailedError():
            return Outcome(RunState.FAILED, Reason.SUBMISSION_FAILED, text, FailureClass.INFRASTRUCTURE)
    return None


class RunTracker:
    """Looks after submitted runs.

    Args:
        store: the register.
        runner: what acts on the SuperLink.
        workers: threads for slow calls.
    """

    def __init__(self, store: Store, runner: Runner, workers: Workers) -> None:
        self.store = store
        self.runner = runner
        self.workers = workers
        self.poll_states: dict[int, PollState] = {}

    def forget_others(self, open_ids: set[int]) -> None:
        """Forget what was remembered of runs that have ended."""
        for run_id in [run_id for run_id in self.poll_states if run_id not in open_ids]:
            del self.poll_states[run_id]

    def begin(self, run: Run, message: str, now: datetime) -> bool:
        """Store the intent to submit a run, then let a worker submit it; return whether it is under way."""
        try:
            with self.store.read() as connection:
                earlier = run_store.all_attempts(connection, run.id)
            resume_from = self.runner.resume_point(run, earlier) if earlier else None
        except AppUnusableError as error:
            self.record_all([(run, RunState.FAILED, Reason.CONFIGURATION, error.lines()[0])], now)
            return False
        attempt = Attempt(run.attempts + 1, new_token(), now, resume_from=resume_from)
        if resume_from is not None:
            message = f"{message}; goes on from {Path(resume_from).name}"
        with self.store.write() as connection:
            begun = run_store.begin_attempt(connection, run, attempt, message, now)
        log_step(run, begun.state, begun.reason, message)
        # A new intent has no submission yet, and this process knows it: the list need not be read.
        self._submit(begun, look_first=False)
        return True

    def record_all(self, decided: Sequence[tuple[Run, RunState, Reason, str]], now: datetime) -> None:
        """Store the steps of runs that were not submitted, all in one transaction."""
        if not decided:
            return
        with self.store.write() as connection:
            run_store.record_all(connection, decided, now)
        for run, state, reason, message in decided:
            if run.state is not state or run.reason is not reason:
                log_step(run, state, reason, message)

    def attend(self, run: Run, now: datetime, *, reachable: bool) -> None:
        """Do what is due for a submitted or running run.

        Args:
            run: the run.
            now: the current time.
            reachable: whether the SuperLink answers; when not, it is not asked.
        """
        seen = self.poll_states.setdefault(run.id, PollState())
        if run.attempt is None or run.attempt.flower_run_id is None:
            if not seen.busy and not pauses(seen, now) and reachable:
                self._submit(run, look_first=True)
            return
        self._read_status(run, seen)
        run = self._advance(run, Observation(Listing.NOT_ASKED, None, seen.progress), now)
        if run.reason is Reason.STOPPING and not seen.busy and reachable:
            again = seen.stop_sent_at is None or now - seen.stop_sent_at > STOP_AGAIN or now < seen.stop_sent_at
            if again:
                seen.stop_sent_at, seen.busy = now, True
                self.workers.begin(Kind.STOP, lambda: self.runner.stop(run), run.id)
        if reachable and look_is_due(run, seen, now):
            seen.busy = True
            self.workers.begin(Kind.LOOK, lambda: self.runner.look(run), run.id)

    def handle(self, posted: Posted, now: datetime) -> None:
        """Take over what a worker found out about a run."""
        if posted.run_id is None or posted.kind is Kind.CLEAN:
            return
        seen = self.poll_states.get(posted.run_id)
        if seen is None:
            return
        seen.busy = False
        with self.store.read() as connection:
            run = run_store.get(connection, posted.run_id)
        if not run.state.active:
            return
        if posted.kind is Kind.SUBMIT:
            self._handle_submission(run, seen, posted, now)
        elif posted.error is not None:
            pause = note_failure(seen, now)
            template = "event=call-failed kind=%s run=%d error=%r again_in=%s"
            logger.warning(template, posted.kind, run.id, str(posted.error), pause)
        else:
            note_success(seen)
            if posted.kind is Kind.LOOK:
                seen.looked_at = now
                seen.progress = posted.value.progress or seen.progress
                self._advance(run, posted.value, now)
            else:
                # The stop was taken: ask at once what came of it.
                seen.looked_at = None

    def _submit(self, run: Run, *, look_first: bool) -> None:
        seen = self.poll_states.setdefault(run.id, PollState())
        seen.busy = True
        refusal = seen.refusal
        self.workers.begin(Kind.SUBMIT, lambda: self.runner.submit(run, look_first=look_first, refusal=refusal), run.id)

    def _handle_submission(self, run: Run, seen: PollState, posted: Posted, now: datetime) -> None:
        """Take over what became of a submission."""
        if isinstance(posted.value, Accepted):
            accepted = posted.value
            note_success(seen)
            seen.looked_at = now
            message = f"Flower run {accepted.flower_run_id}" + (" (found after a restart)" if accepted.found else "")
            with self.store.write() as connection:
                run_store.accept_attempt(
                    connection,
                    run,
                    accepted.flower_run_id,
                    message,
                    now,
                    metrics_folder=accepted.metrics_folder,
                    results_folder=accepted.results_folder,
                )
            log_step(run, RunState.SUBMITTED, Reason.ACCEPTED, message)
            return
        error = posted.error or ServerError("the submission gave no answer", code="internal")
        if (outcome := submission_outcome(run, error)) is not None:
            self._take(run, lifecycle.close(run, run.attempts, outcome, now), now)
            return
        if isinstance(error, SubmissionUnclearError):
            seen.refusal = None if error.code in WITHOUT_ANSWER else error
        pause = note_failure(seen, now)
        logger.warning("event=submit-unclear run=%d error=%r again_in=%s", run.id, str(error), pause)

    def _read_status(self, run: Run, seen: PollState) -> None:
        """Take over status.json when it has changed."""
        folder = run.attempt.metrics_folder if run.attempt is not None else None
        if folder is None:
            return
        try:
            changed_ns = (Path(folder) / "status.json").stat().st_mtime_ns
        except OSError:
            return
        if changed_ns == seen.status_changed_ns:
            return
        progress = read_progress(folder)
        if progress is not None:
            seen.status_changed_ns, seen.progress = changed_ns, progress
            with self.store.write() as connection:
                run_store.set_progress(connection, run.id, progress)

    def _advance(self, run: Run, seen: Observation, now: datetime) -> Run:
        """Store what is new about an accepted run, and return the run as it is then."""
        if wanted := lifecycle.wants_stop(run, seen, now):
            reason, message = wanted
            with self.store.write() as connection:
                run_store.request_stop(connection, [run.id], reason, message)
            run = replace(run, stop_reason=reason, stop_message=message)
        step = lifecycle.follow(run, seen, now)
        return run if step is None else self._take(run, step, now)

    def _take(self, run: Run, step: Step, now: datetime) -> Run:
        """Store a step of a submitted run; when a run succeeds with it, what follows it is made in the same moment."""
        with self.store.write() as connection:
            if step.outcome is not None:
                run_store.end_attempt(connection, run, step.outcome, now)
            elif step.reason is Reason.STARTED:
                run_store.set_attempt(connection, run, running_at=now)
            after = run_store.record(
                connection, run, step.state, step.reason, step.message, now, retry_at=step.retry_at
            )
            if step.retry_at is not None:
                run_store.clear_stop(connection, run)
            if step.state is RunState.SUCCEEDED:
                firing.fire_dependents(connection, run, now)
        log_step(run, step.state, step.reason, step.message)
        if step.outcome is not None:
            self.poll_states.pop(run.id, None)
            self.workers.begin(Kind.CLEAN, lambda: self.runner.clean_up(run), run.id)
        return after


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
        status_changed_ns: modification time of the status.json that was last read.
        progress: what it said.
    """

    refusal: ServerError | None = None
    failures: int = 0
    next_try_at: datetime | None = None
    busy: bool = False
    looked_at: datetime | None = None
    stop_sent_at: datetime | None = None
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


def pauses(watch: PollState, now: datetime) -> bool:
    """Return whether the next try has to wait; not for longer than the longest pause, should the clock be set back."""
    if watch.next_try_at is None:
        return False
    return timedelta(0) < watch.next_try_at - now <= timedelta(seconds=LONGEST_PAUSE_SECONDS)


def note_failure(watch: PollState, now: datetime) -> str:
    """Count a failed try, set when the next one may begin, and return that pause for people."""
    watch.failures += 1
    pause = timedelta(seconds=min(LONGEST_PAUSE_SECONDS, 2 * 2 ** min(watch.failures, 8)))
    watch.next_try_at = now + pause
    return format_duration(pause.total_seconds())


def note_success(watch: PollState) -> None:
    """Forget earlier failures."""
    watch.failures, watch.next_try_at = 0, None
