"""The loop that decides: store + policy + lifecycle + runner. One thread; slow calls run on workers and post results.

Every tick reads the register, decides with the pure modules, stores each step and only then lets a worker act on it.
What is in memory may be lost at any moment: the register and the SuperLink's own list suffice to go on.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from fleven.server import firing, lifecycle, plans, policy, watch
from fleven.server.config import ServerConfig, local_address, split_address
from fleven.server.errors import FlowerError, ServerError, SuperLinkUnreachableError
from fleven.server.lifecycle import Listing, Observation, Step
from fleven.server.model import (
    Attempt,
    FailureClass,
    Fleet,
    FlowerNode,
    Node,
    Outcome,
    Reason,
    Run,
    RunState,
)
from fleven.server.policy import Action, Situation
from fleven.server.runner import (
    Accepted,
    Runner,
    SubmissionBusyError,
    SubmissionRefusedError,
    new_token,
    read_progress,
)
from fleven.server.staging import AppUnusableError
from fleven.server.store import Store
from fleven.server.store import runs as run_queries
from fleven.server.watch import Watch

logger = logging.getLogger("fleven.server.scheduler")


class FleetRegister(Protocol):
    """The part of the fleet register that the loop uses."""

    def fleet(self, now: datetime) -> Sequence[Node]:
        """Return all nodes with their verdicts."""

    def record_flower_nodes(self, found: Iterable[FlowerNode], read_at: datetime) -> None:
        """Store Flower's own list."""


SUPERLINK_FACT = "superlink"
"""Key of the fact that says whether the SuperLink answers."""
WAITING_REFRESH = timedelta(seconds=5)
PROBE_EVERY = timedelta(seconds=3)
STOP_AGAIN = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class Posted:
    """What a worker found out; handled by the loop at its next turn."""

    kind: str
    run_id: int | None = None
    value: Any = None
    error: ServerError | None = None


@dataclass(slots=True)
class Memory:
    """What the loop keeps between ticks; all of it can be lost."""

    watches: dict[int, Watch] = field(default_factory=dict)
    nodes_at: datetime | None = None
    nodes_asked: bool = False
    reachable: bool = False
    probed_at: datetime | None = None


class Scheduler:
    """The deciding loop.

    Args:
        store: the register.
        runner: what acts on the SuperLink.
        config: server.toml.
        register: the fleet.
        clock: the current time in UTC.
        executor: runs the workers.
    """

    def __init__(
        self,
        store: Store,
        runner: Runner,
        config: ServerConfig,
        register: FleetRegister,
        clock: Callable[[], datetime],
        executor: Executor,
    ) -> None:
        self.store = store
        self.runner = runner
        self.config = config
        self.register = register
        self.clock = clock
        self.executor = executor
        self.memory = Memory()
        self.wake = threading.Event()
        self._posted: queue.SimpleQueue[Posted] = queue.SimpleQueue()

    # The loop's turn

    def tick(self) -> None:
        """Take one turn: results, fires, submitted runs, waiting runs."""
        now = self.clock()
        while not self._posted.empty():
            self._handle(self._posted.get(), now)
        firing.fire_due(self.store, now)
        with self.store.read() as connection:
            open_runs = run_queries.open_runs(connection)
        self._forget({run.id for run in open_runs})
        self._probe(now)
        for run in open_runs:
            if run.state.active:
                self._attend(run, now)
        self._start_waiting([run for run in open_runs if not run.state.active], open_runs, now)
        self._refresh_nodes(any(not run.state.active for run in open_runs), now)

    def _forget(self, open_ids: set[int]) -> None:
        for run_id in [run_id for run_id in self.memory.watches if run_id not in open_ids]:
            del self.memory.watches[run_id]

    def _post(self, kind: str, work: Callable[[], Any], run_id: int | None = None) -> None:
        def job() -> None:
            try:
                posted = Posted(kind, run_id, value=work())
            except ServerError as error:
                posted = Posted(kind, run_id, error=error)
            except Exception as error:
                # A defect in a worker must not leave the run marked as busy for ever.
                logger.exception("event=worker-failed kind=%s run=%s", kind, run_id)
                posted = Posted(kind, run_id, error=FlowerError(f"internal error: {error}", code="internal"))
            self._posted.put(posted)
            self.wake.set()

        self.executor.submit(job)

    # The SuperLink and its nodes

    def _probe(self, now: datetime) -> None:
        """Look whether anything listens at the Control API: cheap, and enough to know that a call would fail."""
        probed_at = self.memory.probed_at
        if probed_at is not None and timedelta(0) <= now - probed_at < PROBE_EVERY:
            return
        self.memory.probed_at = now
        host, port = split_address(local_address(self.config.superlink.control_address))
        try:
            socket.create_connection((host, port), timeout=0.3).close()
            reachable = True
        except OSError:
            reachable = False
        if reachable is not self.memory.reachable:
            logger.info("event=superlink-%s", "reachable" if reachable else "unreachable")
            self.store.set_fact(SUPERLINK_FACT, {"reachable": reachable}, now)
        self.memory.reachable = reachable

    def _refresh_nodes(self, somebody_waits: bool, now: datetime) -> None:
        if self.memory.nodes_asked or not self.memory.reachable:
            return
        usual = timedelta(seconds=self.config.scheduler.node_refresh_seconds)
        interval = min(WAITING_REFRESH, usual) if somebody_waits else usual
        seen_at = self.memory.nodes_at
        if seen_at is not None and timedelta(0) <= now - seen_at < interval:
            return
        self.memory.nodes_asked = True
        self._post("nodes", self.runner.flower.nodes)

    def _fleet(self, now: datetime) -> Fleet:
        nodes = plans.counted_nodes(self.register.fleet(now), self.config)
        return Fleet(nodes, self.memory.nodes_at, self.memory.reachable)

    def _list_is_fresh(self, now: datetime) -> bool:
        seen_at = self.memory.nodes_at
        return seen_at is not None and timedelta(0) <= now - seen_at <= 3 * WAITING_REFRESH

    # Runs that have not been submitted

    def _start_waiting(self, waiting: Sequence[Run], open_runs: Sequence[Run], now: datetime) -> None:
        """Decide each pending or waiting run, the most important first."""
        if not waiting:
            return
        active = sum(run.state.active for run in open_runs)
        by_schedule: dict[str, list[int]] = {}
        for run in open_runs:
            by_schedule.setdefault(run.schedule_name, []).append(run.id)
        fleet = self._fleet(now)
        for run in sorted(waiting, key=lambda run: (-run.spec.priority, run.due_at, run.id)):
            if fleet.superlink_reachable and not self._list_is_fresh(now) and run.stop_reason is None:
                # Nothing is decided on an old list; it is being read.
                continue
            earlier = tuple(other for other in by_schedule[run.schedule_name] if other < run.id)
            since = self._last_success(run) if run.spec.conditions.fresh_data else None
            situation = Situation(fleet, active, self.config.scheduler.max_concurrent_runs, earlier, since)
            decision = policy.decide(run, situation, now)
            active += self._carry_out(run, decision, now)

    def _last_success(self, run: Run) -> datetime | None:
        with self.store.read() as connection:
            return run_queries.last_success_started(connection, run.schedule_name)

    def _carry_out(self, run: Run, decision: policy.Decision, now: datetime) -> int:
        """Store a decision and return how many runs became active by it."""
        match decision.action:
            case Action.START:
                return self._intend(run, decision.message, now)
            case Action.WAIT:
                if (run.state, run.reason, run.message) != (RunState.WAITING, decision.reason, decision.message):
                    self._record(run, RunState.WAITING, decision.reason, decision.message, now)
            case Action.SKIP:
                self._record(run, RunState.SKIPPED, decision.reason, decision.message, now)
            case Action.CANCEL:
                self._record(run, RunState.CANCELLED, decision.reason, decision.message, now)
        return 0

    def _record(self, run: Run, state: RunState, reason: Reason, message: str, now: datetime) -> None:
        with self.store.write() as connection:
            run_queries.record(connection, run, state, reason, message, now)
        if run.state is not state or run.reason is not reason:
            log_step(run, state, reason, message)

    def _intend(self, run: Run, message: str, now: datetime) -> int:
        """Store the intent to submit, then let a worker submit."""
        try:
            with self.store.read() as connection:
                earlier = run_queries.all_attempts(connection, run.id)
            resume_from = self.runner.resume_point(run, earlier) if earlier else None
        except AppUnusableError as error:
            self._record(run, RunState.FAILED, Reason.CONFIGURATION, error.lines()[0], now)
            return 0
        attempt = Attempt(run.attempts + 1, new_token(), now, resume_from=resume_from)
        if resume_from is not None:
            message = f"{message}; goes on from {Path(resume_from).name}"
        with self.store.write() as connection:
            begun = run_queries.begin_attempt(connection, run, attempt, message, now)
        log_step(run, begun.state, begun.reason, message)
        # A new intent has no submission yet, and this process knows it: the list need not be read.
        self._submit(begun, look_first=False)
        return 1

    def _submit(self, run: Run, *, look_first: bool) -> None:
        seen = self.memory.watches.setdefault(run.id, Watch())
        seen.busy = seen.submit_tried = True
        refusal = seen.refusal
        self._post("submit", lambda: self.runner.submit(run, look_first=look_first, refusal=refusal), run.id)

    # Runs that the SuperLink has, or may have

    def _attend(self, run: Run, now: datetime) -> None:
        """Do what is due for a submitted or running run."""
        seen = self.memory.watches.setdefault(run.id, Watch())
        if run.attempt is None or run.attempt.flower_run_id is None:
            waits = seen.next_try_at is not None and now < seen.next_try_at
            if not seen.busy and not waits and self.memory.reachable:
                self._submit(run, look_first=True)
            return
        self._read_status(run, seen)
        self._advance(run, Observation(Listing.NOT_ASKED, None, seen.progress), now)
        if watch.look_is_due(run, seen, now) and self.memory.reachable:
            seen.busy = True
            self._post("look", lambda: self.runner.look(run), run.id)

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
                run_queries.set_progress(connection, run.id, progress)

    def _advance(self, run: Run, seen: Observation, now: datetime) -> None:
        """Store the next step of an accepted run, then begin its effect."""
        if wanted := lifecycle.wants_stop(run, seen, now):
            reason, message = wanted
            with self.store.write() as connection:
                run_queries.request_stop(connection, [run.id], reason, message)
            run = replace(run, stop_reason=reason, stop_message=message)
        step = lifecycle.follow(run, seen, now)
        if step is not None:
            run = self._take(run, step, now)
        remembered = self.memory.watches.get(run.id)
        if run.reason is Reason.STOPPING and remembered is not None and not remembered.busy:
            again = remembered.stop_sent_at is None or now - remembered.stop_sent_at > STOP_AGAIN
            if again and self.memory.reachable:
                remembered.stop_sent_at, remembered.busy = now, True
                self._post("stop", lambda: self.runner.stop(run), run.id)

    def _take(self, run: Run, step: Step, now: datetime) -> Run:
        """Store a step of a submitted run; when an attempt ends with it, close that and release what waits for it."""
        with self.store.write() as connection:
            if step.outcome is not None:
                run_queries.end_attempt(connection, run, step.outcome, now)
            elif step.reason is Reason.STARTED:
                run_queries.set_attempt(connection, run, running_at=now)
            after = run_queries.record(
                connection, run, step.state, step.reason, step.message, now, retry_at=step.retry_at
            )
            if step.retry_at is not None:
                run_queries.clear_stop(connection, run)
            if step.state is RunState.SUCCEEDED:
                firing.fire_dependents(connection, run, now)
        log_step(run, step.state, step.reason, step.message)
        if step.outcome is not None:
            self.memory.watches.pop(run.id, None)
            self._post("clean", lambda: self.runner.clean_up(run), run.id)
        return after

    # Results of workers

    def _handle(self, posted: Posted, now: datetime) -> None:
        if posted.kind == "nodes":
            self._handle_nodes(posted.value, posted.error, now)
            return
        if posted.run_id is None:
            return
        seen = self.memory.watches.get(posted.run_id)
        if seen is not None:
            seen.busy = False
        if posted.kind == "clean":
            return
        with self.store.read() as connection:
            run = run_queries.get(connection, posted.run_id)
        if not run.state.active or seen is None:
            return
        if posted.kind == "submit":
            self._handle_submission(run, seen, posted, now)
        elif posted.error is not None:
            pause = watch.note_failure(seen, now)
            logger.warning(
                "event=call-failed kind=%s run=%d error=%r again_in=%s", posted.kind, run.id, str(posted.error), pause
            )
        else:
            watch.note_success(seen)
            if posted.kind == "look":
                seen.looked_at = now
                seen.progress = posted.value.progress or seen.progress
                self._advance(run, posted.value, now)
            else:
                # The stop was taken: ask at once what came of it.
                seen.looked_at = None

    def _handle_nodes(self, nodes: list[FlowerNode] | None, error: ServerError | None, now: datetime) -> None:
        self.memory.nodes_asked = False
        if nodes is None:
            logger.warning("event=node-list-failed error=%r", str(error))
            self.memory.reachable = self.memory.reachable and not isinstance(error, SuperLinkUnreachableError)
            return
        self.memory.nodes_at = now
        self.register.record_flower_nodes(nodes, now)

    def _handle_submission(self, run: Run, seen: Watch, posted: Posted, now: datetime) -> None:
        """Take over what became of a submission."""
        if isinstance(posted.value, Accepted):
            accepted = posted.value
            watch.note_success(seen)
            seen.looked_at = now
            message = f"Flower run {accepted.flower_run_id}" + (" (found after a restart)" if accepted.found else "")
            with self.store.write() as connection:
                run_queries.accept_attempt(
                    connection, run, accepted.flower_run_id, accepted.metrics_folder, message, now
                )
            log_step(run, RunState.SUBMITTED, Reason.ACCEPTED, message)
            return
        error = posted.error
        if isinstance(error, AppUnusableError | SubmissionRefusedError):
            outcome = Outcome(RunState.FAILED, Reason.SUBMISSION_FAILED, error.lines()[0], FailureClass.CONFIGURATION)
            self._take(run, lifecycle.close(run, run.attempts, outcome, now), now)
            return
        transient = isinstance(error, SuperLinkUnreachableError | SubmissionBusyError) or (
            error is not None and error.code in ("flower-timeout", "internal")
        )
        seen.refusal = None if transient or not isinstance(error, FlowerError) else error
        pause = watch.note_failure(seen, now)
        logger.warning("event=submit-unclear run=%d error=%r again_in=%s", run.id, str(error), pause)


def log_step(run: Run, state: RunState, reason: Reason, message: str) -> None:
    """Log one step of a run."""
    logger.info(
        "event=run-step run=%d schedule=%s state=%s reason=%s message=%r",
        run.id,
        run.schedule_name,
        state,
        reason,
        message,
    )
