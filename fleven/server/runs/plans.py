"""What runs next, what waits and why, what ran last: read from the register at once, for `schedule` and `runs`.

Plain values out. Must not print, and must not call Flower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fleven.server.config import ServerConfig
from fleven.server.database import Store
from fleven.server.database.facts import SUPERLINK_FACT, service_alive
from fleven.server.nodes.model import Fleet, Node
from fleven.server.nodes.registry import NodeRegistry, counted_nodes
from fleven.server.runs import policy
from fleven.server.runs import store as run_store
from fleven.server.runs.model import Run
from fleven.server.runs.policy import Requirement, Situation
from fleven.server.schedules import store as schedule_store
from fleven.server.schedules.spec import Schedule


@dataclass(frozen=True, slots=True)
class Planned:
    """A schedule with what would keep it from starting if it fired now.

    Attributes:
        schedule: the schedule.
        unmet: the conditions that do not hold now.
    """

    schedule: Schedule
    unmet: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class Plans:
    """The whole answer of `fleven-server schedule`."""

    at: datetime
    server_running: bool
    superlink_reachable: bool
    nodes: tuple[Node, ...]
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
            checks = policy.checks(schedule.spec, situation_of(schedule, fleet, open_runs, since, config), now)
            planned.append(Planned(schedule, tuple(check for check in checks if not check.met)))
        last_runs = run_store.newest(connection, last, ended=True)
    return Plans(
        now,
        service_alive(store, now),
        fleet.superlink_reachable,
        fleet.nodes,
        tuple(planned),
        tuple(open_runs),
        tuple(last_runs),
    )


def explain(store: Store, config: ServerConfig, name: str, now: datetime) -> tuple[Schedule, tuple[Requirement, ...]]:
    """Return a schedule with each of its conditions, met or not.

    Raises:
        NotFoundError: there is no such schedule.
    """
    fleet = fleet_of(store, config, now)
    with store.read() as connection:
        schedule = schedule_store.get(connection, name)
        open_runs = run_store.open_runs(connection)
        since = run_store.last_success_started(connection, name)
    return schedule, policy.checks(schedule.spec, situation_of(schedule, fleet, open_runs, since, config), now)
