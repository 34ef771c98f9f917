"""Builds what is shown and sent: the report, the answer of ``status``, and systemd's status line.

Pure: from the agent's values to plain objects that JSON can carry. A test validates each report built here against
``report.Report``, the contract; the pydantic classes themselves are too large for the daemon.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from fleven_agent.config.settings import Settings
from fleven_agent.monitoring.condition_tracker import Condition
from fleven_agent.monitoring.trip_folder import Summary
from fleven_agent.protocol.codes import (
    MAXIMUM_TEXT_CHARACTERS,
    SCHEMA_VERSION,
    SENTENCES,
    ReportReason,
    Severity,
    State,
)
from fleven_agent.protocol.readings import ProcessTree, Readings
from fleven_agent.reporting.pace import Pace
from fleven_agent.state import Remembered, drained
from fleven_agent.supernode.supervisor import Supervised
from fleven_agent.supernode.tasks import Finished, Task
from fleven_agent.system.versions import Versions

MAXIMUM_TASKS_PER_REPORT = 50


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that goes into a report."""

    settings: Settings
    remembered: Remembered
    supervised: Supervised
    state_since: float
    """Wall clock [s since the epoch]."""
    conditions: Sequence[Condition]
    readings: Readings
    versions: Versions
    boot_id: str
    board_model: str | None
    task: Task | None = None
    data: Summary | None = None
    warm: Mapping[str, Any] | None = None
    supernode: ProcessTree | None = None
    task_tree: ProcessTree | None = None
    clock_offset_seconds: float | None = None
    finished: Sequence[Finished] = field(default_factory=tuple)
    pace: Pace | None = None
    way: Sequence[str] = ()
    """By which network the SuperLink is reached, where a gate asks for it."""
    model: Mapping[str, Any] | None = None
    """What the car predicts with; None when it fetches no model."""


def moment(stamp: float | None) -> str | None:
    """Return a wall-clock stamp [s since the epoch] as ISO 8601 in UTC."""
    return None if stamp is None else datetime.fromtimestamp(stamp, tz=UTC).isoformat()


def report(facts: Facts, *, sequence: int, reason: ReportReason, wall: float) -> dict[str, Any]:
    """Return one report."""
    return {
        "schema_version": SCHEMA_VERSION,
        "sender_id": facts.remembered.sender_id,
        "sequence": sequence,
        "created_at": moment(wall),
        "reason": reason.value,
        **body(facts),
        "finished_tasks": [finished_task(one) for one in facts.finished[:MAXIMUM_TASKS_PER_REPORT]],
    }


def body(facts: Facts) -> dict[str, Any]:
    """Return what report and status have in common."""
    settings, was, known = facts.settings, facts.supervised, facts.remembered
    readings = replace(
        facts.readings,
        supernode=facts.supernode,
        task=facts.task_tree,
        clock_offset_seconds=facts.clock_offset_seconds,
    )
    return {
        "boot_id": facts.boot_id,
        "node": {
            "name": settings.node_name,
            "partition_id": settings.partition_id,
            "num_partitions": settings.num_partitions,
            "node_id": was.node_id,
            "previous_node_ids": list(known.previous_node_ids),
            "flower_address": settings.superlink,
        },
        "versions": asdict(facts.versions),
        "board_model": facts.board_model,
        "state": was.state.value,
        "state_since": moment(facts.state_since),
        "state_reason": (was.detail or SENTENCES[was.reason])[:MAXIMUM_TEXT_CHARACTERS],
        "conditions": [_condition(one) for one in facts.conditions],
        "current_run": _current_run(facts.task),
        "counters": {
            "restarts": known.restarts,
            "tasks": known.tasks,
            "task_failures": known.task_failures,
            "reports_lost": known.reports_lost,
        },
        "resources": rounded(asdict(readings)),
        "data": _data(facts.data),
        "drained": drained(known),
        "next_report_seconds": facts.pace.report_seconds if facts.pace else None,
        "heartbeat_seconds": facts.pace.heartbeat_seconds if facts.pace else None,
        "warm": dict(facts.warm) if facts.warm is not None else None,
        "model": _model(facts),
        "traffic": _traffic(facts),
    }


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Return readings without the digits that nobody reads: of an idle car's report they would be a tenth."""
    return {
        name: round(value, 3) if isinstance(value, float) else rounded(value) if isinstance(value, dict) else value
        for name, value in values.items()
    }


def finished_task(task: Finished) -> dict[str, Any]:
    """Return a finished task as the report carries it."""
    carried = {name: value for name, value in asdict(task).items() if name != "refusal"}
    return {**carried, "started_at": moment(task.started_at), "outcome": task.outcome.value}


def _condition(one: Condition) -> dict[str, Any]:
    return {
        "code": one.code.value,
        "severity": one.severity.value,
        "since": moment(one.since),
        "message": one.message[:MAXIMUM_TEXT_CHARACTERS],
        "hint": one.hint[:MAXIMUM_TEXT_CHARACTERS],
    }


def _current_run(task: Task | None) -> dict[str, Any] | None:
    if task is None or task.replied is not None:
        return None
    return {
        "run_id": task.run_id,
        "round": task.round,
        "message_type": task.message_type,
        "since": moment(task.started_at),
    }


def _model(facts: Facts) -> dict[str, Any] | None:
    if facts.model is None:
        return None
    return {"experiment": facts.settings.model.experiment, **facts.model}


def _traffic(facts: Facts) -> dict[str, Any]:
    limit = facts.settings.gates.monthly_megabytes
    return {
        "day_bytes": facts.remembered.traffic_day_bytes,
        "month_bytes": facts.remembered.traffic_month_bytes,
        "month_limit_bytes": None if limit is None else limit * 1_000_000,
        "way": [name[:255] for name in facts.way[:8]],
    }


def _data(summary: Summary | None) -> dict[str, Any] | None:
    if summary is None:
        return None
    return {
        "trips": summary.trips,
        "rows": summary.rows,
        "newest_trip_at": moment(summary.newest_trip_at),
        "quarantined": summary.quarantined,
        "unmovable": summary.unmovable[:MAXIMUM_TEXT_CHARACTERS],
        "path": summary.path,
    }


def status_line(facts: Facts) -> str:
    """Return the line that `systemctl status` shows."""
    was = facts.supervised
    number = facts.settings.partition_id
    parts = [f"{was.state.value}: " + ("no partition yet" if number is None else f"partition {number}")]
    if was.state in {State.STARTING, State.RUNNING}:
        parts.append(f"node {was.node_id}" if was.node_id else "not registered yet")
    elif was.detail:
        parts.append(was.detail)
    task = facts.task
    if task is not None and task.replied is None:
        parts.append(f"run {task.run_id}, round {task.round}, {task.message_type}")
    bad = [one for one in facts.conditions if one.severity is not Severity.INFO]
    if bad:
        parts.append(f"{bad[0].code.value}: {bad[0].message}" + (f" (+{len(bad) - 1})" if len(bad) > 1 else ""))
    return "; ".join(parts)[:500]
