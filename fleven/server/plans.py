"""What runs next, what waits and why, what ran last: one reading of the register for `schedule` and `runs`.

Plain values out. Must not print, and must not call Flower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from fleven.server import policy
from fleven.server.config import ServerConfig
from fleven.server.errors import ServerError
from fleven.server.model import Fleet, Node, NodeHealth, Run, RunState, Schedule
from fleven.server.policy import Check, Situation
from fleven.server.register import Register
from fleven.server.run_answers import PlannedAnswer, check_answer, run_answer, schedule_fields
from fleven.server.server_status import SUPERLINK_FACT, service_answer
from fleven.server.store import Store
from fleven.server.store import runs as run_queries
from fleven.server.store import schedules as schedule_queries

EXIT_CODES = {
    RunState.SUCCEEDED: 0,
    RunState.FAILED: 1,
    RunState.TIMED_OUT: 3,
    RunState.CANCELLED: 4,
    RunState.SKIPPED: 5,
}
"""Exit code of a command that waited for a run."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A schedule with what would keep it from starting if it fired now.

    Attributes:
        schedule: the schedule.
        unmet: the conditions that do not hold now.
    """

    schedule: Schedule
    unmet: tuple[Check, ...]


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


def counted_nodes(nodes: Sequence[Node], config: ServerConfig) -> tuple[Node, ...]:
    """Return the nodes with those that no agent looks after counted as ready, where the configuration says so."""
    if not config.fleet.count_unmanaged:
        return tuple(nodes)
    return tuple(
        replace(node, health=NodeHealth.READY) if node.health is NodeHealth.UNMANAGED else node for node in nodes
    )


def service_alive(store: Store, now: datetime) -> bool:
    """Return whether the service has written its heartbeat lately."""
    return service_answer(store, now).running


def fleet_of(store: Store, config: ServerConfig, now: datetime) -> Fleet:
    """Return the fleet as the scheduler sees it."""
    fact = store.fact(SUPERLINK_FACT)
    reachable = fact is not None and bool(fact[0].get("reachable")) and service_alive(store, now)
    problem = str(fact[0].get("list_problem", "")) if fact is not None and reachable else ""
    return Fleet(counted_nodes(Register.from_config(store, config).fleet(now), config), reachable, problem)


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
        open_runs = run_queries.open_runs(connection)
        for schedule in schedule_queries.every(connection):
            fresh = schedule.spec.conditions.fresh_data
            since = run_queries.last_success_started(connection, schedule.name) if fresh else None
            checks = policy.checks(schedule.spec, situation_of(schedule, fleet, open_runs, since, config), now)
            planned.append(Planned(schedule, tuple(check for check in checks if not check.met)))
        last_runs = run_queries.newest(connection, last, ended=True)
    return Plans(
        now,
        service_alive(store, now),
        fleet.superlink_reachable,
        fleet.nodes,
        tuple(planned),
        tuple(open_runs),
        tuple(last_runs),
    )


def explain(store: Store, config: ServerConfig, name: str, now: datetime) -> tuple[Schedule, tuple[Check, ...]]:
    """Return a schedule with each of its conditions, met or not.

    Raises:
        NotFoundError: there is no such schedule.
    """
    fleet = fleet_of(store, config, now)
    with store.read() as connection:
        schedule = schedule_queries.get(connection, name)
        open_runs = run_queries.open_runs(connection)
        since = run_queries.last_success_started(connection, name)
    return schedule, policy.checks(schedule.spec, situation_of(schedule, fleet, open_runs, since, config), now)


def planned_answer(planned: Planned) -> PlannedAnswer:
    """Return a schedule as JSON, with what would keep it from starting."""
    return PlannedAnswer(**schedule_fields(planned.schedule), unmet=[check_answer(check) for check in planned.unmet])


def plans_json(seen: Plans) -> dict[str, Any]:
    """Return what runs next, waits and ran last as the command prints it."""
    return {
        "at": seen.at,
        "server_running": seen.server_running,
        "superlink_reachable": seen.superlink_reachable,
        "nodes_ready": sum(node.ready for node in seen.nodes),
        "nodes": len(seen.nodes),
        "schedules": [planned_answer(planned) for planned in seen.planned],
        "open_runs": [run_answer(run, seen.at) for run in seen.open_runs],
        "last_runs": [run_answer(run, seen.at) for run in seen.last_runs],
    }


def result_exit_code(state: RunState) -> int:
    """Return the exit code for a run's end.

    Raises:
        ServerError: the run has not ended.
    """
    if state not in EXIT_CODES:
        raise ServerError(f"the run is {state.value}, not ended", code="run-open")
    return EXIT_CODES[state]
