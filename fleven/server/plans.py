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
from fleven.server.schedule_spec import (
    AtTrigger,
    CronTrigger,
    EveryTrigger,
    ScheduleSpec,
    format_duration,
)
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
    return Fleet(counted_nodes(Register.from_config(store, config).fleet(now), config), None, reachable)


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


def trigger_text(spec: ScheduleSpec) -> str:
    """Return a schedule's trigger in a few words."""
    match spec.trigger:
        case CronTrigger(cron=cron, timezone=zone):
            text = f"cron {cron} ({zone})"
        case EveryTrigger(every=seconds):
            text = f"every {format_duration(seconds)}"
        case AtTrigger(at=at):
            text = f"once at {at:%Y-%m-%d %H:%M %Z}"
        case _:
            text = "manual"
    if spec.after:
        text = f"after {spec.after}" if text == "manual" else f"{text}, after {spec.after}"
    return text


def run_seconds(run: Run, now: datetime) -> float | None:
    """Return how long a run's newest attempt took, or has taken so far, in seconds; None before it was accepted."""
    attempt = run.attempt
    if attempt is None or attempt.accepted_at is None:
        return None
    return ((attempt.ended_at or run.ended_at or now) - attempt.accepted_at).total_seconds()


def run_json(run: Run, now: datetime) -> dict[str, Any]:
    """Return a run as commands print it."""
    attempt, progress = run.attempt, run.progress
    return {
        "run": run.id,
        "schedule": run.schedule_name,
        "trigger": run.trigger.value,
        "state": run.state.value,
        "reason": run.reason.value,
        "message": run.message,
        "since": run.since,
        "due_at": run.due_at,
        "created_at": run.created_at,
        "ended_at": run.ended_at,
        "attempts": run.attempts,
        "retry_at": run.retry_at,
        "stop_reason": run.stop_reason.value if run.stop_reason else None,
        "fires": run.fires,
        "flower_run_id": attempt.flower_run_id if attempt else None,
        "metrics_folder": attempt.metrics_folder if attempt else None,
        "resume_from": attempt.resume_from if attempt else None,
        "seconds": run_seconds(run, now),
        "progress": run_queries.progress_to_json(progress) if progress else None,
        "spec": run.spec.to_json(),
    }


def schedule_json(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as commands print it."""
    return {
        "name": schedule.name,
        "paused": schedule.paused,
        "pause_reason": schedule.pause_reason,
        "next_fire_at": None if schedule.paused else schedule.next_fire_at,
        "trigger_text": trigger_text(schedule.spec),
        "created_at": schedule.created_at,
        "updated_at": schedule.updated_at,
        "spec": schedule.spec.to_json(),
    }


def plans_json(seen: Plans) -> dict[str, Any]:
    """Return what runs next, waits and ran last as commands print it."""
    return {
        "at": seen.at,
        "server_running": seen.server_running,
        "superlink_reachable": seen.superlink_reachable,
        "nodes_ready": sum(node.ready for node in seen.nodes),
        "nodes": len(seen.nodes),
        "schedules": [
            {**schedule_json(planned.schedule), "unmet": checks_json(planned.unmet)} for planned in seen.planned
        ],
        "open_runs": [run_json(run, seen.at) for run in seen.open_runs],
        "last_runs": [run_json(run, seen.at) for run in seen.last_runs],
    }


def checks_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Return conditions as commands print them."""
    return [
        {"code": check.code.value, "met": check.met, "message": check.message, "nodes": list(check.nodes)}
        for check in checks
    ]


def result_exit_code(state: RunState) -> int:
    """Return the exit code for a run's end.

    Raises:
        ServerError: the run has not ended.
    """
    if state not in EXIT_CODES:
        raise ServerError(f"the run is {state.value}, not ended", code="run-open")
    return EXIT_CODES[state]
