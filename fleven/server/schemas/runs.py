"""The one JSON form of runs and schedules: answers of the fleet API, and what commands print with `--json`.

Models of the OpenAPI schema, and how register values become them. Must not import FastAPI or typer.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import Field
from sqlalchemy import Connection

from fleven.server.config.paths import Paths
from fleven.server.database import Store
from fleven.server.models import registry
from fleven.server.nodes import history
from fleven.server.nodes.names import car_names
from fleven.server.runs import results as run_results
from fleven.server.runs import store as run_store
from fleven.server.runs.lifecycle import run_seconds
from fleven.server.runs.model import Attempt, Progress, Run
from fleven.server.runs.plans import Planned, Plans
from fleven.server.runs.policy import Requirement
from fleven.server.runs.results import RunFolders
from fleven.server.runs.store import StepRow
from fleven.server.schedules.spec import Schedule, trigger_text
from fleven.server.schemas.models import ModelAnswer, model_answer
from fleven.server.schemas.nodes import Answer


class ProgressAnswer(Answer):
    """What the ServerApp says about a run."""

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
    """When it came into its state."""
    ended_at: datetime | None
    fires: int
    """More than 1 only for a skipped run that sums up missed fires."""
    attempts: int
    retry_at: datetime | None
    stop_reason: str | None
    """Set once somebody wants it stopped."""
    flower_run_id: str | None
    """Of the newest attempt."""
    app_hash: str | None = None
    """SHA-256 of the bundle that the newest attempt was made from, as the SuperLink has it."""
    resume_from: str | None
    """The checkpoint that the newest attempt went on from."""
    seconds: float | None
    """How long the newest attempt took, or has taken so far; without the time before it was accepted."""
    progress: ProgressAnswer | None
    spec: dict[str, Any]
    """The schedule as it stood when the run was made."""


class RunsAnswer(Answer):
    """Runs, newest first."""

    server_time: datetime
    runs: list[RunAnswer]


class StepAnswer(Answer):
    """One step of a run."""

    at: datetime
    attempt: int
    state: str
    reason: str
    message: str


class AttemptAnswer(Answer):
    """One submission of a run to Flower."""

    number: int
    intended_at: datetime
    flower_run_id: str | None
    accepted_at: datetime | None
    running_at: datetime | None
    ended_at: datetime | None
    outcome: str | None
    reason: str | None
    message: str
    failure_class: str | None
    resume_from: str | None
    metrics_folder: str | None
    results_folder: str | None
    app_hash: str | None = None


class RunFile(Answer):
    """A file of a run that can be fetched at `href`."""

    name: str
    bytes: int
    href: str


class RunDetailAnswer(RunAnswer):
    """One run with its steps, attempts, rounds, cars and files."""

    steps: list[StepAnswer]
    attempts_made: list[AttemptAnswer]
    rounds: list[dict[str, Any]]
    clients: list[dict[str, Any]]
    result: dict[str, Any] | None
    tasks: list[dict[str, Any]]
    other_apps: dict[str, str] = Field(default_factory=dict)
    """Cars that say they ran another app than the run's, with its hash."""
    files: list[RunFile]
    model: ModelAnswer | None = None
    """The version that its model became."""


class CheckAnswer(Answer):
    """One condition of a start, met or not."""

    code: str
    met: bool
    message: str
    nodes: list[str]
    """The nodes that stand in the way."""


class ScheduleAnswer(Answer):
    """One schedule with when it fires next."""

    name: str
    description: str
    trigger_text: str
    paused: bool
    pause_reason: str
    next_fire_at: datetime | None
    created_at: datetime
    updated_at: datetime
    spec: dict[str, Any]


class PlannedAnswer(ScheduleAnswer):
    """One schedule with what would keep it from starting if it fired now."""

    would: str
    """What would become of a run now: start, wait, skip, or nothing while it is paused."""
    unmet: list[CheckAnswer]


class SchedulesAnswer(Answer):
    """All schedules: what fires next comes first."""

    server_time: datetime
    schedules: list[PlannedAnswer]


def progress_answer(progress: Progress) -> ProgressAnswer:
    """Return a progress as JSON."""
    return ProgressAnswer(**{name: getattr(progress, name) for name in ProgressAnswer.model_fields})


def run_fields(run: Run, now: datetime) -> dict[str, Any]:
    """Return the fields that list and detail of a run share."""
    attempt = run.attempt
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
        "fires": run.fires,
        "attempts": run.attempts,
        "retry_at": run.retry_at,
        "stop_reason": run.stop_reason.value if run.stop_reason else None,
        "flower_run_id": attempt.flower_run_id if attempt else None,
        "app_hash": attempt.app_hash if attempt else None,
        "resume_from": attempt.resume_from if attempt else None,
        "seconds": run_seconds(run, now),
        "progress": None if run.progress is None else progress_answer(run.progress),
        "spec": run.spec.to_json(),
    }


def run_answer(run: Run, now: datetime) -> RunAnswer:
    """Return a run as JSON."""
    return RunAnswer(**run_fields(run, now))


def experiment_of(run: Run) -> str:
    """Return a run's experiment: what its folder says, else what its schedule says."""
    folder = run.attempt.metrics_folder if run.attempt else None
    if folder:
        return folder.rstrip("/").rsplit("/", 2)[-2]
    return run.spec.experiment or str(run.spec.run_config.get("experiment", ""))


def attempt_answer(attempt: Attempt) -> AttemptAnswer:
    """Return an attempt as JSON."""
    return AttemptAnswer(
        number=attempt.number,
        intended_at=attempt.intended_at,
        flower_run_id=attempt.flower_run_id,
        accepted_at=attempt.accepted_at,
        running_at=attempt.running_at,
        ended_at=attempt.ended_at,
        outcome=attempt.outcome.value if attempt.outcome else None,
        reason=attempt.reason.value if attempt.reason else None,
        message=attempt.message,
        failure_class=attempt.failure_class.value if attempt.failure_class else None,
        resume_from=attempt.resume_from,
        metrics_folder=attempt.metrics_folder,
        results_folder=attempt.results_folder,
        app_hash=attempt.app_hash,
    )


def step_answer(step: StepRow) -> StepAnswer:
    """Return a step as JSON."""
    return StepAnswer(
        at=step.at,
        attempt=step.attempt,
        state=step.state.value,
        reason=step.reason.value,
        message=step.message,
    )


def check_answer(check: Requirement) -> CheckAnswer:
    """Return a condition as JSON."""
    return CheckAnswer(code=check.code.value, met=check.met, message=check.message, nodes=list(check.nodes))


def schedule_fields(schedule: Schedule) -> dict[str, Any]:
    """Return the fields that all forms of a schedule share."""
    return {
        "name": schedule.name,
        "description": schedule.spec.description,
        "trigger_text": trigger_text(schedule.spec),
        "paused": schedule.paused,
        "pause_reason": schedule.pause_reason,
        "next_fire_at": None if schedule.paused else schedule.next_fire_at,
        "created_at": schedule.created_at,
        "updated_at": schedule.updated_at,
        "spec": schedule.spec.to_json(),
    }


def schedule_answer(schedule: Schedule) -> ScheduleAnswer:
    """Return a schedule as JSON."""
    return ScheduleAnswer(**schedule_fields(schedule))


def planned_answer(planned: Planned) -> PlannedAnswer:
    """Return a schedule as JSON, with what would keep it from starting."""
    unmet = [check_answer(check) for check in planned.unmet]
    return PlannedAnswer(**schedule_fields(planned.schedule), would=planned.would.value, unmet=unmet)


def plans_json(seen: Plans) -> dict[str, Any]:
    """Return what runs next, waits and ran last as the command prints it."""
    return {
        "at": seen.at,
        "server_running": seen.server_running,
        "superlink_reachable": seen.superlink_reachable,
        "nodes_ready": seen.readiness.ready,
        "nodes": seen.readiness.nodes,
        "schedules": [planned_answer(planned) for planned in seen.planned],
        "open_runs": [run_answer(run, seen.at) for run in seen.open_runs],
        "last_runs": [run_answer(run, seen.at) for run in seen.last_runs],
    }


TASKS_SHOWN = 2_000


def apps_of_others(connection: Connection, run: Run) -> dict[str, str]:
    """Return the cars that say they ran another app than the newest attempt's, with its hash."""
    attempt = run.attempt
    if attempt is None or attempt.flower_run_id is None or attempt.app_hash is None:
        return {}
    return history.other_apps(connection, attempt.flower_run_id, attempt.app_hash)


def run_detail(store: Store, paths: Paths, run_id: int, now: datetime) -> RunDetailAnswer:
    """Gather a run.

    Raises NotFoundError when there is none with this number.
    """
    with store.read() as connection:
        run = run_store.get(connection, run_id)
        steps = run_store.steps(connection, run_id)
        attempts = run_store.all_attempts(connection, run_id)
        names = car_names(connection)
        model = registry.of_run(connection, run_id)
        others = apps_of_others(connection, run)
    folders = RunFolders.of(run, paths)
    flower_run_id = run.attempt.flower_run_id if run.attempt else None
    files = [
        RunFile(name=name, bytes=file.stat().st_size, href=f"/v1/runs/{run_id}/files/{quote(name)}")
        for name, file in run_results.downloads(folders).items()
    ]
    return RunDetailAnswer(
        **run_fields(run, now),
        steps=[step_answer(step) for step in steps],
        attempts_made=[attempt_answer(attempt) for attempt in attempts],
        rounds=run_results.rows(folders, "rounds.json"),
        clients=run_results.rows(folders, "clients.json", names),
        result=run_results.result(folders, names),
        tasks=history.tasks(store, flower_run_id=flower_run_id, limit=TASKS_SHOWN) if flower_run_id else [],
        other_apps=others,
        files=files,
        model=None if model is None else model_answer(model),
    )
