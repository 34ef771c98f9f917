"""Runs that the SuperLink has, or may have: submit, follow, stop, close. Used by the loop alone.

Each step is stored before its effect begins. What is remembered here between two turns may be lost at any moment.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from fleven.server import firing, lifecycle, watch
from fleven.server.errors import ServerError, SuperLinkUnreachableError
from fleven.server.lifecycle import Listing, Observation, Step
from fleven.server.model import Attempt, FailureClass, Outcome, Reason, Run, RunState
from fleven.server.runner import (
    Accepted,
    Runner,
    SubmissionFailedError,
    SubmissionRefusedError,
    SubmissionStoppedError,
    SubmissionUnclearError,
    new_token,
    read_progress,
)
from fleven.server.staging import AppUnusableError
from fleven.server.store import Store, run_changes
from fleven.server.store import runs as queries
from fleven.server.watch import Watch
from fleven.server.workers import Kind, Posted, Workers

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


class Attendant:
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
        self.watches: dict[int, Watch] = {}

    def forget_others(self, open_ids: set[int]) -> None:
        """Forget what was remembered of runs that have ended."""
        for run_id in [run_id for run_id in self.watches if run_id not in open_ids]:
            del self.watches[run_id]

    def begin(self, run: Run, message: str, now: datetime) -> bool:
        """Store the intent to submit a run, then let a worker submit it; return whether it is under way."""
        try:
            with self.store.read() as connection:
                earlier = queries.all_attempts(connection, run.id)
            resume_from = self.runner.resume_point(run, earlier) if earlier else None
        except AppUnusableError as error:
            self.record_all([(run, RunState.FAILED, Reason.CONFIGURATION, error.lines()[0])], now)
            return False
        attempt = Attempt(run.attempts + 1, new_token(), now, resume_from=resume_from)
        if resume_from is not None:
            message = f"{message}; goes on from {Path(resume_from).name}"
        with self.store.write() as connection:
            begun = run_changes.begin_attempt(connection, run, attempt, message, now)
        log_step(run, begun.state, begun.reason, message)
        # A new intent has no submission yet, and this process knows it: the list need not be read.
        self._submit(begun, look_first=False)
        return True

    def record_all(self, decided: Sequence[tuple[Run, RunState, Reason, str]], now: datetime) -> None:
        """Store the steps of runs that were not submitted, all in one transaction."""
        if not decided:
            return
        with self.store.write() as connection:
            run_changes.record_all(connection, decided, now)
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
        seen = self.watches.setdefault(run.id, Watch())
        if run.attempt is None or run.attempt.flower_run_id is None:
            if not seen.busy and not watch.pauses(seen, now) and reachable:
                self._submit(run, look_first=True)
            return
        self._read_status(run, seen)
        run = self._advance(run, Observation(Listing.NOT_ASKED, None, seen.progress), now)
        if run.reason is Reason.STOPPING and not seen.busy and reachable:
            again = seen.stop_sent_at is None or now - seen.stop_sent_at > STOP_AGAIN or now < seen.stop_sent_at
            if again:
                seen.stop_sent_at, seen.busy = now, True
                self.workers.begin(Kind.STOP, lambda: self.runner.stop(run), run.id)
        if reachable and watch.look_is_due(run, seen, now):
            seen.busy = True
            self.workers.begin(Kind.LOOK, lambda: self.runner.look(run), run.id)

    def handle(self, posted: Posted, now: datetime) -> None:
        """Take over what a worker found out about a run."""
        if posted.run_id is None or posted.kind is Kind.CLEAN:
            return
        seen = self.watches.get(posted.run_id)
        if seen is None:
            return
        seen.busy = False
        with self.store.read() as connection:
            run = queries.get(connection, posted.run_id)
        if not run.state.active:
            return
        if posted.kind is Kind.SUBMIT:
            self._handle_submission(run, seen, posted, now)
        elif posted.error is not None:
            pause = watch.note_failure(seen, now)
            template = "event=call-failed kind=%s run=%d error=%r again_in=%s"
            logger.warning(template, posted.kind, run.id, str(posted.error), pause)
        else:
            watch.note_success(seen)
            if posted.kind is Kind.LOOK:
                seen.looked_at = now
                seen.progress = posted.value.progress or seen.progress
                self._advance(run, posted.value, now)
            else:
                # The stop was taken: ask at once what came of it.
                seen.looked_at = None

    def _submit(self, run: Run, *, look_first: bool) -> None:
        seen = self.watches.setdefault(run.id, Watch())
        seen.busy = True
        refusal = seen.refusal
        self.workers.begin(Kind.SUBMIT, lambda: self.runner.submit(run, look_first=look_first, refusal=refusal), run.id)

    def _handle_submission(self, run: Run, seen: Watch, posted: Posted, now: datetime) -> None:
        """Take over what became of a submission."""
        if isinstance(posted.value, Accepted):
            accepted = posted.value
            watch.note_success(seen)
            seen.looked_at = now
            message = f"Flower run {accepted.flower_run_id}" + (" (found after a restart)" if accepted.found else "")
            with self.store.write() as connection:
                run_changes.accept_attempt(
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
        pause = watch.note_failure(seen, now)
        logger.warning("event=submit-unclear run=%d error=%r again_in=%s", run.id, str(error), pause)

    def _read_status(self, run: Run, seen: Watch) -> None:
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
                run_changes.set_progress(connection, run.id, progress)

    def _advance(self, run: Run, seen: Observation, now: datetime) -> Run:
        """Store what is new about an accepted run, and return the run as it is then."""
        if wanted := lifecycle.wants_stop(run, seen, now):
            reason, message = wanted
            with self.store.write() as connection:
                run_changes.request_stop(connection, [run.id], reason, message)
            run = replace(run, stop_reason=reason, stop_message=message)
        step = lifecycle.follow(run, seen, now)
        return run if step is None else self._take(run, step, now)

    def _take(self, run: Run, step: Step, now: datetime) -> Run:
        """Store a step of a submitted run; when a run succeeds with it, what follows it is made in the same moment."""
        with self.store.write() as connection:
            if step.outcome is not None:
                run_changes.end_attempt(connection, run, step.outcome, now)
            elif step.reason is Reason.STARTED:
                run_changes.set_attempt(connection, run, running_at=now)
            after = run_changes.record(
                connection, run, step.state, step.reason, step.message, now, retry_at=step.retry_at
            )
            if step.retry_at is not None:
                run_changes.clear_stop(connection, run)
            if step.state is RunState.SUCCEEDED:
                firing.fire_dependents(connection, run, now)
        log_step(run, step.state, step.reason, step.message)
        if step.outcome is not None:
            self.watches.pop(run.id, None)
            self.workers.begin(Kind.CLEAN, lambda: self.runner.clean_up(run), run.id)
        return after
