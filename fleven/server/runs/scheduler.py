"""The loop that decides: register + policy + lifecycle. One thread; slow calls run on workers and post results.

Every turn reads the register, decides with the pure modules, stores each step and only then lets a worker act on it.
What is in memory may be lost at any moment: the register and the SuperLink's own list suffice to go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from fleven.server.config.settings import ServerConfig
from fleven.server.database import Store
from fleven.server.database.facts import ATTENTION_FACT, HEARTBEATS_FACT
from fleven.server.flower.answers import FlowerNode
from fleven.server.nodes import readiness
from fleven.server.nodes.attention import Attended, AttentionBoard, Wanted, pull_floor_seconds
from fleven.server.nodes.model import Fleet, Node
from fleven.server.runs import firing, policy, polling
from fleven.server.runs import store as run_store
from fleven.server.runs.attention import fleet_attention
from fleven.server.runs.key_changes import KeyChanges
from fleven.server.runs.lifecycle import Step
from fleven.server.runs.model import Run, RunState
from fleven.server.runs.policy import Action, Situation
from fleven.server.runs.polling import PollState
from fleven.server.runs.runner import Runner
from fleven.server.runs.tracker import RunTracker
from fleven.server.runs.workers import Kind, Posted, Workers
from fleven.server.schedules import store as schedule_store
from fleven.server.schedules.spec import Conditions
from fleven_agent.protocol.codes import Attention

logger = logging.getLogger("fleven.server.scheduler")

SUPERLINK_FACT = "superlink"
"""Key of the fact that says whether the SuperLink answers."""
LEAP = timedelta(seconds=60)
"""Between two turns lies a second: after so long a gap the machine slept, or its clock was set."""
LEAP_HINT = "the machine slept, or its clock was set; what waits for cars goes on waiting"
WAITING_REFRESH = timedelta(seconds=5)
LIST_IS_OLD = timedelta(seconds=15)
LIST_FAILURES = 2
"""One failure in a row may be the SuperLink's start: nothing is decided because of it."""
STATES = {Action.WAIT: RunState.WAITING, Action.SKIP: RunState.SKIPPED, Action.CANCEL: RunState.CANCELLED}
PROBE_EVERY = timedelta(seconds=3)
HEARTBEATS_EVERY = timedelta(seconds=5)
BY_HAND_EVERY = timedelta(seconds=1)


class FleetRegister(Protocol):
    """The part of the fleet register that the loop uses."""

    def fleet(self, now: datetime) -> Sequence[Node]:
        """Return all nodes with their verdicts."""

    def record_flower_nodes(self, found: Iterable[FlowerNode], read_at: datetime) -> None:
        """Store Flower's own list."""

    def reported_node_ids(self) -> frozenset[str]:
        """Return Flower's node ids that the agents name."""

    def disputed_node_ids(self) -> frozenset[str]:
        """Return those of nodes that say later than Flower's list, and against it, that they run."""

    def awaited(self, now: datetime) -> frozenset[str]:
        """Return the names of cars from which somebody wants to hear soon."""

    def changing_keys(self) -> frozenset[str]:
        """Return the names of cars that are to change their keys."""


class Scheduler:
    """The deciding loop.

    Args:
        store: the register.
        runner: what acts on the SuperLink.
        config: server.toml.
        register: the fleet.
        clock: the current time in UTC.
        executor: runs the workers.
        attention: where the cars' open questions learn how closely they are followed.
    """

    def __init__(
        self,
        store: Store,
        runner: Runner,
        config: ServerConfig,
        register: FleetRegister,
        clock: Callable[[], datetime],
        executor: Executor,
        attention: AttentionBoard | None = None,
    ) -> None:
        self.store = store
        self.runner = runner
        self.config = config
        self.register = register
        self.clock = clock
        self.workers = Workers(executor)
        self.tracker = RunTracker(store, runner, self.workers)
        self.nodes_at: datetime | None = None
        self.nodes_asked = False
        self.ids_at_last_read: frozenset[str] = frozenset()
        self.list_watch = PollState()
        self.list_problem = ""
        self.reachable = False
        self.probed_at: datetime | None = None
        self.heartbeats_at: datetime | None = None
        self.by_hand_at: datetime | None = None
        self.by_hand = False
        """Whether a run is at work that somebody gave the SuperLink by hand, with `flwr run`."""
        self.overdue: dict[str, float] = {}
        self.ticked_at: datetime | None = None
        self.holds: Callable[[datetime], bool] = lambda _now: False
        """Whether no run may begin now: the SuperLink is about to start again."""
        self.key_changes = KeyChanges()
        self.attention = attention or AttentionBoard()
        self.attended: Attended | None = None

    def tick(self) -> None:
        """Take one turn: results, fires, submitted runs, waiting runs."""
        now = self.clock()
        self._take_leap(now)
        for posted in self.workers.results():
            if posted.kind is Kind.NODES:
                self._handle_nodes(posted, now)
            else:
                self.tracker.handle(posted, now)
        firing.fire_due(self.store, now)
        with self.store.read() as connection:
            open_runs = run_store.open_runs(connection)
        self._look_for_runs_by_hand(now)
        self._attend(open_runs, now)
        self.tracker.forget_others({run.id for run in open_runs})
        self._probe(now)
        self._look_at_heartbeats(now)
        for run in open_runs:
            if run.state.active:
                self.tracker.attend(run, now, reachable=self.reachable)
        self.tracker.clean(now, reachable=self.reachable)
        waiting = [run for run in open_runs if not run.state.active]
        self._decide(waiting, open_runs, now)
        self._refresh_nodes(bool(waiting), now)

    def _take_leap(self, now: datetime) -> None:
        """Take out of the deadlines a time that this process has slept or skipped: no car could come in it.

        A machine that was suspended, or whose clock was set, else gives up at once what has waited for its cars.
        """
        last, self.ticked_at = self.ticked_at, now
        if last is None or timedelta(0) <= now - last < LEAP:
            return
        logger.warning("event=clock-leapt seconds=%.0f hint=%r", (now - last).total_seconds(), LEAP_HINT)
        with self.store.write() as connection:
            run_store.shift_waits(connection, now - last)

    # The cars' attention

    def _attend(self, open_runs: Sequence[Run], now: datetime) -> None:
        """Tell the cars, before anything else is done, how closely they are followed from now on."""
        with self.store.read() as connection:
            due_at, promoted_at = schedule_store.next_fire(connection), run_store.promoted_at(connection)
        cars = len(self.register.reported_node_ids())
        fleet = Attention.RUN if self.by_hand else fleet_attention(open_runs, due_at, now, promoted_at)
        under_way = self.by_hand or any(run.state.active for run in open_runs)
        self._want(Wanted(fleet, self.register.awaited(now), pull_floor_seconds(cars), under_way), now)

    def _want(self, wanted: Wanted, now: datetime) -> None:
        attended = (self.attended or Attended()).after(wanted, now)
        if attended != self.attended:
            self.store.set_fact(ATTENTION_FACT, attended.as_fact(), now)
            self.attended = attended
        self.attention.set(wanted)

    # The SuperLink and its nodes

    def _probe(self, now: datetime) -> None:
        """Check whether anything listens at the Control API: cheap, and enough to know that a call would fail."""
        if self.probed_at is not None and timedelta(0) <= now - self.probed_at < PROBE_EVERY:
            return
        first, self.probed_at = self.probed_at is None, now
        reachable = self.runner.flower.reachable()
        if first or reachable is not self.reachable:
            level = logging.INFO if reachable else logging.WARNING
            logger.log(level, "event=superlink-%s", "reachable" if reachable else "unreachable")
            # A SuperLink that is back may do what it could not do before: it is asked at once.
            polling.note_success(self.list_watch)
            self.reachable, self.list_problem = reachable, ""
            self._tell_superlink(now)

    def _look_for_runs_by_hand(self, now: datetime) -> None:
        """Find a run that no command of the server began: the cars would hear of it a stretched pull later."""
        if self.by_hand_at is not None and timedelta(0) <= now - self.by_hand_at < BY_HAND_EVERY:
            return
        self.by_hand_at = now
        found = self.runner.flower.open_run_ids() if self.reachable else frozenset[str]()
        if found:
            with self.store.read() as connection:
                found -= run_store.known_to_flower(connection)
        self.by_hand = bool(found)

    def _look_at_heartbeats(self, now: datetime) -> None:
        """Write down which nodes have missed a heartbeat: their agents are told with the next report."""
        last = self.heartbeats_at
        if not self.reachable or (last is not None and timedelta(0) <= now - last < HEARTBEATS_EVERY):
            return
        self.heartbeats_at = now
        overdue = self.runner.flower.missed_heartbeats(now)
        if overdue or self.overdue:
            self.store.set_fact(HEARTBEATS_FACT, overdue, now)
        self.overdue = overdue

    def _tell_superlink(self, now: datetime) -> None:
        """Write down for other processes whether the SuperLink answers."""
        value = {"reachable": self.reachable, "list_problem": self.list_problem}
        self.store.set_fact(SUPERLINK_FACT, value, now)

    def _refresh_nodes(self, somebody_waits: bool, now: datetime) -> None:
        """Ask Flower for its nodes when the list is too old: soon when a run waits, or a node is new or back."""
        if self.nodes_asked or not self.reachable or polling.pauses(self.list_watch, now):
            return
        usual = timedelta(seconds=self.config.scheduler.node_refresh_seconds)
        reported = self.register.reported_node_ids()
        # Otherwise a node that registered since the list was read would count as starting for up to a minute.
        new = not reported <= self.ids_at_last_read
        soon = somebody_waits or new or bool(self.register.disputed_node_ids())
        interval = min(WAITING_REFRESH, usual) if soon else usual
        if self.nodes_at is not None and timedelta(0) <= now - self.nodes_at < interval:
            return
        self.nodes_asked = True
        self.ids_at_last_read = reported
        self.workers.begin(Kind.NODES, self.runner.flower.nodes)

    def _handle_nodes(self, posted: Posted, now: datetime) -> None:
        self.nodes_asked = False
        problem = ""
        if posted.error is not None:
            pause = polling.note_failure(self.list_watch, now)
            logger.warning("event=node-list-failed error=%r again_in=%s", str(posted.error), pause)
            problem = str(posted.error) if self.list_watch.failures >= LIST_FAILURES else ""
        if problem != self.list_problem:
            self.list_problem = problem
            self._tell_superlink(now)
        if posted.error is not None:
            return
        polling.note_success(self.list_watch)
        self.nodes_at = now
        self.register.record_flower_nodes(posted.value, now)

    def _list_is_fresh(self, now: datetime) -> bool:
        return self.nodes_at is not None and timedelta(0) <= now - self.nodes_at <= LIST_IS_OLD

    # Runs that have not been submitted

    def _decide(self, waiting: Sequence[Run], open_runs: Sequence[Run], now: datetime) -> None:
        """Decide each pending or waiting run, the most important first."""
        if not waiting or self.holds(now):
            return
        active = sum(run.state.active for run in open_runs)
        by_schedule: dict[str, list[int]] = {}
        for run in open_runs:
            by_schedule.setdefault(run.schedule_name, []).append(run.id)
        nodes = readiness.counted_nodes(self.register.fleet(now), self.config)
        if active == 0 and self.key_changes.hold(readiness.heard(nodes) & self.register.changing_keys(), now):
            return
        fleet = Fleet(nodes, self.reachable, "" if self._list_is_fresh(now) else self.list_problem)
        cars: dict[tuple[Conditions, datetime | None], tuple[policy.Requirement, ...]] = {}
        decided: list[tuple[Run, Step]] = []
        for run in sorted(waiting, key=lambda run: (-run.spec.priority, run.due_at, run.id)):
            being_read = self.reachable and not self._list_is_fresh(now) and not fleet.list_problem
            if being_read and run.stop_reason is None:
                # Nothing is decided on an old list.
                continue
            earlier = tuple(other for other in by_schedule[run.schedule_name] if other < run.id)
            since = None
            if run.spec.conditions.fresh_data:
                with self.store.read() as connection:
                    since = run_store.last_success_started(connection, run.schedule_name)
            # A queue of a thousand runs with equal conditions looks at the cars once.
            key = (run.spec.conditions, since)
            if key not in cars:
                cars[key] = policy.node_checks(run.spec.conditions, fleet, since)
            limit = self.config.scheduler.max_concurrent_runs
            situation = Situation(fleet, active, limit, earlier, since, cars[key])
            decision = policy.decide(run, situation, now)
            if decision.action is Action.START:
                # Before `flwr run` is called: the cars ask while the SuperLink still unpacks the app.
                self._want(replace(self.attention.wanted, fleet=Attention.RUN, under_way=True), now)
                active += int(self.tracker.begin(run, decision.message, now))
                continue
            step = Step(STATES[decision.action], decision.reason, decision.message)
            timed = replace(run, waited_seconds=decision.waited_seconds, waits_since=decision.waits_since)
            if timed != run or (run.state, run.reason, run.message) != (step.state, step.reason, step.message):
                decided.append((timed, step))
        # One transaction for all of them: a whole queue that waits for the SuperLink costs one write.
        self.tracker.store_all(decided, now)
