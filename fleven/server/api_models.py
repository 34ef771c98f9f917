"""What the fleet API answers: the models of the OpenAPI schema, and how register values become them.

`fleven-server nodes` and `status` print the same shapes with `--json`. Must not import FastAPI.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from fleven.server.model import Attempt, Condition, Run
from fleven.server.node_values import sample_values
from fleven.server.register import NodeRecord
from fleven.server.store.runs import StepRow
from fleven_agent.report import Resources

if TYPE_CHECKING:
    # `plans` reads the server's status, which is made of the models here.
    from fleven.server.plans import Planned


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorAnswer(Answer):
    """Every error of the API has this shape; `code` never changes its meaning."""

    code: str
    message: str
    hint: str = ""
    problems: list[str] = []


class ConditionAnswer(Answer):
    """One thing that is wrong with a node."""

    code: str
    severity: str
    message: str
    hint: str
    since: datetime | None


class NodeAnswer(Answer):
    """A node with its verdict and its newest readings."""

    name: str
    partition_id: int | None
    health: str
    ready: bool
    reason: str
    labels: list[str]
    flower_node_id: str | None
    conditions: list[ConditionAnswer]
    last_seen_at: datetime | None
    newest_trip_at: datetime | None
    state: str | None
    state_since: datetime | None
    current_run: dict[str, Any] | None
    drained: bool
    drain_wanted: bool | None
    agent_version: str | None
    flwr_version: str | None
    cpu_percent: float | None
    load_1m: float | None
    memory_percent: float | None
    temperature_celsius: float | None
    disk_free_percent: float | None


class NodeDetailAnswer(NodeAnswer):
    """A node with its whole newest report."""

    first_seen_at: datetime | None
    report: dict[str, Any]


class NodesAnswer(Answer):
    """The fleet."""

    server_time: datetime
    flower_list_read_at: datetime | None
    nodes: list[NodeAnswer]


class HistoryAnswer(Answer):
    """A node's past: samples (hourly means as far back as they were summed up), events and tasks, oldest first."""

    name: str
    since: datetime
    samples: list[dict[str, Any]]
    events: list[dict[str, Any]]
    tasks: list[dict[str, Any]]


class ProgressAnswer(Answer):
    """What the ServerApp says of a run."""

    state: str
    round: int
    rounds: int
    message: str
    nodes_expected: int
    nodes_replied: int
    updated_at: datetime | None
    error_code: str
    error_message: str
    error_hint: str


class RunAnswer(Answer):
    """One run."""

    id: int
    schedule: str
    experiment: str
    state: str
    reason: str
    message: str
    trigger: str
    due_at: datetime
    created_at: datetime
    since: datetime
    ended_at: datetime | None
    attempts: int
    flower_run_id: str | None
    retry_at: datetime | None
    progress: ProgressAnswer | None


class RunsAnswer(Answer):
    """Runs, newest first."""

    server_time: datetime
    runs: list[RunAnswer]


class RunFile(Answer):
    """A file of a run that can be fetched at `href`."""

    name: str
    bytes: int
    href: str


class RunDetailAnswer(RunAnswer):
    """One run with its steps, attempts, rounds, cars and files."""

    steps: list[dict[str, Any]]
    attempts_made: list[dict[str, Any]]
    rounds: list[dict[str, Any]]
    clients: list[dict[str, Any]]
    result: dict[str, Any] | None
    tasks: list[dict[str, Any]]
    files: list[RunFile]


class ScheduleAnswer(Answer):
    """One schedule with its place in time."""

    name: str
    description: str
    paused: bool
    pause_reason: str
    next_fire_at: datetime | None
    created_at: datetime
    updated_at: datetime
    unmet: list[str]
    """Why it would wait if it fired now; empty when it would start."""
    spec: dict[str, Any]


class SchedulesAnswer(Answer):
    """All schedules: what fires next comes first."""

    server_time: datetime
    schedules: list[ScheduleAnswer]


class HealthAnswer(Answer):
    """Whether the server does its work: `ok`, or what does not."""

    ok: bool
    version: str
    problems: list[str]


def condition_answer(condition: Condition) -> ConditionAnswer:
    """The JSON form of a condition."""
    return ConditionAnswer(
        code=condition.code,
        severity=condition.severity.value,
        message=condition.message,
        hint=condition.hint,
        since=condition.since,
    )


def node_fields(record: NodeRecord, report: dict[str, Any]) -> dict[str, Any]:
    """The fields that list and detail share."""
    node, row = record.node, record.row or {}
    readings = sample_values(Resources.model_validate(report.get("resources") or {}), busy=False)
    return {
        "name": node.name,
        "partition_id": node.partition_id,
        "health": node.health.value,
        "ready": node.ready,
        "reason": node.reason,
        "labels": sorted(node.labels),
        "flower_node_id": node.flower_node_id,
        "conditions": [condition_answer(condition) for condition in node.conditions],
        "last_seen_at": node.last_seen_at,
        "newest_trip_at": node.newest_trip_at,
        "state": row.get("state"),
        "state_since": row.get("state_since"),
        "current_run": row.get("current_run"),
        "drained": bool(row.get("drained")),
        "drain_wanted": row.get("drain_wanted"),
        "agent_version": row.get("agent_version"),
        "flwr_version": row.get("flwr_version"),
        **{name: value for name, value in readings.items() if name != "busy"},
    }


def node_answer(record: NodeRecord) -> NodeAnswer:
    """The JSON form of a node in a list."""
    return NodeAnswer(**node_fields(record, record.report()))


def node_detail_answer(record: NodeRecord) -> NodeDetailAnswer:
    """The JSON form of one node."""
    report = record.report()
    first_seen_at = record.row["first_seen_at"] if record.row is not None else None
    return NodeDetailAnswer(**node_fields(record, report), first_seen_at=first_seen_at, report=report)


def run_fields(run: Run) -> dict[str, Any]:
    """The fields that list and detail of a run share."""
    progress = run.progress
    return {
        "id": run.id,
        "schedule": run.schedule_name,
        "experiment": experiment_of(run),
        "state": run.state.value,
        "reason": run.reason.value,
        "message": run.message,
        "trigger": run.trigger.value,
        "due_at": run.due_at,
        "created_at": run.created_at,
        "since": run.since,
        "ended_at": run.ended_at,
        "attempts": run.attempts,
        "flower_run_id": run.attempt.flower_run_id if run.attempt else None,
        "retry_at": run.retry_at,
        "progress": None
        if progress is None
        else ProgressAnswer(**{name: getattr(progress, name) for name in ProgressAnswer.model_fields}),
    }


def run_answer(run: Run) -> RunAnswer:
    """The JSON form of a run in a list."""
    return RunAnswer(**run_fields(run))


def experiment_of(run: Run) -> str:
    """The run's experiment: what its folder says, else what its schedule says."""
    folder = run.attempt.metrics_folder if run.attempt else None
    if folder:
        return folder.rstrip("/").rsplit("/", 2)[-2]
    return run.spec.experiment or str(run.spec.run_config.get("experiment", ""))


def attempt_values(attempt: Attempt) -> dict[str, Any]:
    """The JSON form of an attempt."""
    return {
        "number": attempt.number,
        "intended_at": attempt.intended_at,
        "flower_run_id": attempt.flower_run_id,
        "accepted_at": attempt.accepted_at,
        "running_at": attempt.running_at,
        "ended_at": attempt.ended_at,
        "outcome": attempt.outcome.value if attempt.outcome else None,
        "reason": attempt.reason.value if attempt.reason else None,
        "message": attempt.message,
        "failure_class": attempt.failure_class.value if attempt.failure_class else None,
        "resume_from": attempt.resume_from,
    }


def step_values(step: StepRow) -> dict[str, Any]:
    """The JSON form of a step."""
    return {
        "at": step.at,
        "attempt": step.attempt,
        "state": step.state.value,
        "reason": step.reason.value,
        "message": step.message,
    }


def schedule_answer(planned: Planned) -> ScheduleAnswer:
    """The JSON form of a schedule."""
    schedule = planned.schedule
    return ScheduleAnswer(
        name=schedule.name,
        description=schedule.spec.description,
        paused=schedule.paused,
        pause_reason=schedule.pause_reason,
        next_fire_at=None if schedule.paused else schedule.next_fire_at,
        created_at=schedule.created_at,
        updated_at=schedule.updated_at,
        unmet=[check.message for check in planned.unmet],
        spec=schedule.spec.to_json(),
    )
