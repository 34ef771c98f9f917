"""Runs that the SuperLink has, or may have: submit, follow, stop, close. Used by the loop alone.

Each step is stored before its effect begins. What is remembered here between two turns may be lost at any moment.
What the next step is, `lifecycle` decides; when the SuperLink is asked again, `polling`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from fleven.server.database import Store
from fleven.server.errors import SuperLinkUnreachableError
from fleven.server.flower.app_bundle import AppUnusableError
from fleven.server.nodes.names import car_names
from fleven.server.runs import firing, lifecycle, polling
from fleven.server.runs import store as run_store
from fleven.server.runs.lifecycle import Observation, Step, SubmissionUnclearError
from fleven.server.runs.model import Reason, Run, RunState
from fleven.server.runs.polling import PollState
from fleven.server.runs.runner import Runner, new_token, read_progress
from fleven.server.runs.workers import Kind, Posted, Workers

logger = logging.getLogger("fleven.server.scheduler")
CLEAN_AGAIN = timedelta(seconds=2)
LONGEST_LEAVE = timedelta(minutes=2)
"""So long a ServerApp may go on after its run has ended: it draws plots."""
WITHOUT_ANSWER = frozenset({"flower-timeout", "flower-missing", SuperLinkUnreachableError.code})
"""Codes of submissions that the SuperLink did not answer: when it does not have the run, it is simply submitted."""


def level_of(state: RunState, reason: Reason) -> int:
    """Return how loudly the journal tells of a step: a failed run is an error, one that is tried again a warning."""
    if state in (RunState.FAILED, RunState.TIMED_OUT):
        return logging.ERROR
    return logging.WARNING if state is RunState.SKIPPED or reason is Reason.RETRY_BACKOFF else logging.INFO


def log_step(run: Run, step: Step) -> None:
    """Log one step of a run."""
    template = "event=run-step run=%d schedule=%s state=%s reason=%s message=%r"
    logger.log(
        level_of(step.state, step.reason), template, run.id, run.schedule_name, step.state, step.reason, step.message
    )


@dataclass(slots=True)
class Leaving:
    """An attempt that has ended, but whose ServerApp may still be there; lost in a crash without harm."""

    run: Run
    since: datetime
    tried_at: datetime | None = None
    busy: bool = False


def _changed_ns(file: Path) -> int | None:
    """Return when a file was last changed, or None when there is none."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
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
        self.on_success: Callable[[], None] = lambda: None
        self.leaving: dict[tuple[int, int], Leaving] = {}

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
            self.store_all([(run, Step(RunState.FAILED, Reason.CONFIGURATION, error.lines()[0]))], now)
            return False
        begun = self._take(run, lifecycle.begin(run, new_token(), resume_from, message, now), now)
        # A new intent has no submission yet, and this process knows it: the list need not be read.
        self._submit(begun, look_first=False)
        return True

    def store_all(self, decided: Sequence[tuple[Run, Step]], now: datetime) -> None:
        """Store the steps of runs that were not submitted, all in one transaction."""
        if not decided:
            return
        with self.store.write() as connection:
            run_store.apply_all(connection, decided, now)
        for run, step in decided:
            if run.state is not step.state or run.reason is not step.reason:
                log_step(run, step)

    def attend(self, run: Run, now: datetime, *, reachable: bool) -> None:
        """Do what is due for a submitted or running run.

        Args:
            run: the run.
            now: the current time.
            reachable: whether the SuperLink answers; when not, it is not asked.
        """
        seen = self.poll_states.setdefault(run.id, PollState())
        if run.attempt is None or run.attempt.flower_run_id is None:
            if not seen.busy and not polling.pauses(seen, now) and reachable:
                self._submit(run, look_first=True)
            return
        self._read_status(run, seen)
        step = lifecycle.follow(run, Observation(progress=seen.progress), now)
        if step is not None:
            run = self._take(run, step, now)
        if reachable and polling.stop_is_due(run, seen, now):
            seen.stop_sent_at, seen.busy = now, True
            self.workers.begin(Kind.STOP, lambda: self.runner.stop(run), run.id)
        if reachable and polling.look_is_due(run, seen, now):
            seen.busy = True
            self.workers.begin(Kind.LOOK, lambda: self.runner.look(run), run.id)

    def stirred(self) -> bool:
        """Return whether a status.json tells of another state than the last turn saw: a start or an end."""
        for seen in self.poll_states.values():
            if seen.status_file is None or _changed_ns(seen.status_file) in (None, seen.status_changed_ns):
                continue
            progress = read_progress(str(seen.status_file.parent))
            if progress is not None and (seen.progress is None or progress.state != seen.progress.state):
                return True
        return False

    def need_superlink(self) -> int:
        """Return how many runs the SuperLink has or is about to get, or whose ServerApp may still draw plots."""
        with self.store.read() as connection:
            active = sum(run.state.active for run in run_store.open_runs(connection))
        return active + len(self.leaving)

    def clean(self, now: datetime, *, reachable: bool) -> None:
        """Remove what ended attempts leave on this machine, once their ServerApps are gone, or have had their time."""
        for key, left in list(self.leaving.items()):
            if left.busy or (left.tried_at is not None and timedelta(0) <= now - left.tried_at < CLEAN_AGAIN):
                continue
            last = not timedelta(0) <= now - left.since < LONGEST_LEAVE
            if last:
                del self.leaving[key]
            elif not reachable:
                continue
            left.tried_at, left.busy = now, True
            self.workers.begin(Kind.CLEAN, partial(self.runner.leave, left.run, last=last), left.run.id)

    def _cleaned(self, posted: Posted) -> None:
        for key, left in list(self.leaving.items()):
            if key[0] == posted.run_id and left.busy:
                left.busy = False
                if posted.value:
                    del self.leaving[key]

    def handle(self, posted: Posted, now: datetime) -> None:
        """Apply what a worker found out about a run: one step at most, stored in one transaction."""
        if posted.kind is Kind.CLEAN:
            self._cleaned(posted)
            return
        if posted.run_id is None or (seen := self.poll_states.get(posted.run_id)) is None:
            return
        seen.busy = False
        with self.store.read() as connection:
            run = run_store.get(connection, posted.run_id)
            if isinstance(posted.value, Observation):
                posted = replace(posted, value=posted.value.with_names(car_names(connection)))
        if not run.state.active:
            return
        step = lifecycle.after(run, posted.error or posted.value, now)
        self._note(run, seen, posted, step, now)
        if step is not None:
            self._take(run, step, now)

    def _note(self, run: Run, seen: PollState, posted: Posted, step: Step | None, now: datetime) -> None:
        """Remember when the SuperLink is to be asked again, after what a worker found out."""
        if posted.error is None:
            polling.note_success(seen)
            # A stop was taken: ask at once what came of it.
            seen.looked_at = None if posted.kind is Kind.STOP else now
            if posted.kind is Kind.LOOK:
                seen.progress = posted.value.progress or seen.progress
        elif step is None:
            if isinstance(posted.error, SubmissionUnclearError):
                seen.refusal = None if posted.error.code in WITHOUT_ANSWER else posted.error
            event = "submit-unclear" if posted.kind is Kind.SUBMIT else f"call-failed kind={posted.kind}"
            pause = polling.note_failure(seen, now)
            logger.warning("event=%s run=%d error=%r again_in=%s", event, run.id, str(posted.error), pause)

    def _submit(self, run: Run, *, look_first: bool) -> None:
        seen = self.poll_states.setdefault(run.id, PollState())
        seen.busy = True
        refusal = seen.refusal
        self.workers.begin(Kind.SUBMIT, lambda: self.runner.submit(run, look_first=look_first, refusal=refusal), run.id)

    def _read_status(self, run: Run, seen: PollState) -> None:
        """Read status.json when it has changed."""
        folder = run.attempt.metrics_folder if run.attempt is not None else None
        if folder is None:
            return
        seen.status_file = Path(folder) / "status.json"
        changed_ns = _changed_ns(seen.status_file)
        if changed_ns is None or changed_ns == seen.status_changed_ns:
            return
        progress = read_progress(folder)
        if progress is not None:
            with self.store.write() as connection:
                progress = lifecycle.progress_with_names(progress, car_names(connection))
                run_store.set_progress(connection, run.id, progress)
            seen.status_changed_ns, seen.progress = changed_ns, progress

    def _take(self, run: Run, step: Step, now: datetime) -> Run:
        """Store a run's step; when it succeeds with it, what follows it is made in the same moment."""
        with self.store.write() as connection:
            after = run_store.apply(connection, run, step, now)
            if step.state is RunState.SUCCEEDED:
                firing.fire_dependents(connection, run, now)
        log_step(run, step)
        if step.state is RunState.SUCCEEDED:
            self.on_success()
        if step.outcome is not None:
            self.poll_states.pop(run.id, None)
            if run.attempt is not None:
                self.leaving[run.id, run.attempt.number] = Leaving(run, now)
        return after
