"""What runs next, what waits and why, what ran last: read from the register at once, for `schedule` and `runs`.

Plain values out. Must not print, and must not call Flower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from fleven.server.config.settings import ServerConfig
from fleven.server.database import Store
from fleven.server.database.facts import SUPERLINK_FACT, service_alive
from fleven.server.nodes.model import Fleet, Node
from fleven.server.nodes.readiness import Readiness, counted_nodes, readiness
from fleven.server.nodes.registry import NodeRegistry
from fleven.server.runs import policy
from fleven.server.runs import store as run_store
from fleven.server.runs.model import Reason, Run
from fleven.server.runs.policy import Requirement, Situation
from fleven.server.schedules import store as schedule_store
from fleven.server.schedules.spec import Overlap, Schedule, ScheduleSpec


class Would(StrEnum):
    """What would become of a run if its schedule fired now; values never change."""

    START = "start"
    WAIT = "wait"
    SKIP = "skip"
    NOTHING = "nothing"
    """The schedule is paused."""

    @property
    def words(self) -> str:
        """The prediction in words, for commands and page."""
        return WORDS[self]


WORDS = {
    Would.START: "would start",
    Would.WAIT: "would wait",
    Would.SKIP: "would be skipped",
    Would.NOTHING: "paused",
}


@dataclass(frozen=True, slots=True)
class Planned:
    """A schedule with what would become of a run if it fired now.

    Attributes:
        schedule: the schedule.
        requirements: each condition of a start, met or not.
    """

    schedule: Schedule
    requirements: tuple[Requirement, ...]

    @property
    def unmet(self) -> tuple[Requirement, ...]:
        """The conditions that do not hold now."""
        return tuple(requirement for requirement in self.requirements if not requirement.met)

    @property
    def would(self) -> Would:
        """What would become of a run now."""
        if self.schedule.paused:
            return Would.NOTHING
        spec = self.schedule.spec
        # An operator's request is never skipped: it queues.
        if spec.overlap is Overlap.SKIP and not by_hand(spec) and Reason.OVERLAP in {r.code for r in self.unmet}:
            return Would.SKIP
        return Would.WAIT if self.unmet else Would.START

    @property
    def why_not(self) -> tuple[Requirement, ...]:
        """Those unmet conditions that matter: of a run that would be skipped, only the one that skips it."""
        if self.would is Would.SKIP:
            return tuple(requirement for requirement in self.unmet if requirement.code is Reason.OVERLAP)
        return self.unmet


def by_hand(spec: ScheduleSpec) -> bool:
    """Return whether only an operator starts this schedule's runs."""
    return spec.trigger.kind == "manual" and not spec.after


@dataclass(frozen=True, slots=True)
class Plans:
    """The whole answer of `fleven-server schedule`."""

    at: datetime
    server_running: bool
    superlink_reachable: bool
    nodes: tuple[Node, ...]
    readiness: Readiness
    planned: tuple[Planned, ...]
    open_runs: tuple[Run, ...]
    last_runs: tuple[Run, ...]


def fleet_of(store: Store, config: ServerConfig, now: datetime) -> Fleet:
    """Return the fleet as the scheduler sees it."""
    fact = store.fact(SUPERLINK_FACT)
    reachable = fact is not None and bool(fact[0].get("reachable")) and service_alive(store, now)
    problem = str(fact[0].get("list_problem", "")) if fact is not None and reachable else ""
    return Fleet(counted_nodes(NodeRegistry.from_config(store, config).fleet(now), config), reachable, problem)


def situation_of(
    schedule: Schedule, fleet: Fleet, open_runs: Sequence[Run], since: datetime | None, config: ServerConfig
) -> Situation:
    """Return the situation that a run of a schedule would meet if it were made now."""
    active = sum(run.state.active for run in open_runs)
    earlier = tuple(run.id for run in open_runs if run.schedule_name == schedule.name)
    return Situation(fleet, active, config.scheduler.max_concurrent_runs, earlier, since)


def read_plans(store: Store, config: ServerConfig, now: datetime, last: int = 5) -> Plans:
    """Read everything that `fleven-server schedule` shows."""
    fleet = fleet_of(store, config, now)
    planned = []
    with store.read() as connection:
        open_runs = run_store.open_runs(connection)
        for schedule in schedule_store.every(connection):
            fresh = schedule.spec.conditions.fresh_data
            since = run_store.last_success_started(connection, schedule.name) if fresh else None
            planned.append(planned_of(schedule, situation_of(schedule, fleet, open_runs, since, config), now))
        last_runs = run_store.newest(connection, last, ended=True)
    return Plans(
        now,
        service_alive(store, now),
        fleet.superlink_reachable,
        fleet.nodes,
        readiness(fleet.nodes, config),
        tuple(planned),
        tuple(open_runs),
        tuple(last_runs),
    )


def planned_of(schedule: Schedule, situation: Situation, now: datetime) -> Planned:
    """Return a schedule with what would become of a run that it makes now."""
    return Planned(schedule, policy.checks(schedule.spec, situation, now, manual=by_hand(schedule.spec)))


def explain(store: Store, config: ServerConfig, name: str, now: datetime) -> Planned:
    """Return a schedule with each of its conditions, met or not.

    Raises:
        NotFoundError: there is no such schedule.
    """
    fleet = fleet_of(store, config, now)
    with store.read() as connection:
        schedule = schedule_store.get(connection, name)
        open_runs = run_store.open_runs(connection)
        since = run_store.last_success_started(connection, name)
    return planned_of(schedule, situation_of(schedule, fleet, open_runs, since, config), now)
