"""Queries of runs, attempts and steps: rows in, plain values out. What changes them stands in `run_changes`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, func, select

from fleven.server.errors import NotFoundError
from fleven.server.model import (
    Attempt,
    FailureClass,
    Progress,
    Reason,
    Run,
    RunState,
    Trigger,
)
from fleven.server.store.tables import attempts, run_steps, runs


@dataclass(frozen=True, slots=True)
class StepRow:
    """One stored step of a run."""

    at: datetime
    attempt: int
    state: RunState
    reason: Reason
    message: str


def progress_to_json(progress: Progress) -> dict[str, Any]:
    """Return the stored form of a progress."""
    return {
        "state": progress.state,
        "round": progress.round,
        "rounds": progress.rounds,
        "message": progress.message,
        "nodes_expected": progress.nodes_expected,
        "nodes_replied": progress.nodes_replied,
        "updated_at": progress.updated_at.isoformat() if progress.updated_at else None,
        "error_code": progress.error_code,
        "error_message": progress.error_message,
        "error_hint": progress.error_hint,
    }


def progress_from_json(value: dict[str, Any] | None) -> Progress | None:
    """Return the progress of its stored form."""
    if value is None:
        return None
    updated = value.get("updated_at")
    return Progress(**{**value, "updated_at": datetime.fromisoformat(updated) if updated else None})


def attempt_from_row(row: Row[Any]) -> Attempt | None:
    """Return the attempt of a joined row (columns prefixed `a_`), or None when the run has none."""
    if row.a_number is None:
        return None
    return Attempt(
        number=row.a_number,
        token=row.a_token,
        intended_at=row.a_intended_at,
        flower_run_id=row.a_flower_run_id,
        accepted_at=row.a_accepted_at,
        running_at=row.a_running_at,
        ended_at=row.a_ended_at,
        outcome=RunState(row.a_outcome) if row.a_outcome else None,
        reason=Reason(row.a_reason) if row.a_reason else None,
        message=row.a_message,
        failure_class=FailureClass(row.a_failure_class) if row.a_failure_class else None,
        resume_from=row.a_resume_from,
        metrics_folder=row.a_metrics_folder,
        results_folder=row.a_results_folder,
    )


def from_row(row: Row[Any]) -> Run:
    """Return the run of a joined row."""
    return Run(
        id=row.id,
        schedule_name=row.schedule_name,
        trigger=Trigger(row.trigger),
        due_at=row.due_at,
        created_at=row.created_at,
        state=RunState(row.state),
        reason=Reason(row.reason),
        message=row.message,
        since=row.since,
        spec=row.spec,
        attempt=attempt_from_row(row),
        attempts=row.attempts,
        retry_at=row.retry_at,
        stop_reason=Reason(row.stop_reason) if row.stop_reason else None,
        stop_message=row.stop_message,
        progress=progress_from_json(row.progress),
        fires=row.fires,
        ended_at=row.ended_at,
        waited_seconds=row.waited_seconds,
        waits_since=row.waits_since,
    )


def joined() -> Select[Any]:
    """Return the statement that reads runs, each with its newest attempt."""
    prefixed = [column.label(f"a_{column.name}") for column in attempts.c if column.name not in ("id", "run_id")]
    newest = and_(attempts.c.run_id == runs.c.id, attempts.c.number == runs.c.attempts)
    return select(*runs.c, *prefixed).select_from(runs.outerjoin(attempts, newest))


def open_runs(connection: Connection) -> list[Run]:
    """Return all runs that have not ended, oldest first."""
    return [from_row(row) for row in connection.execute(joined().where(runs.c.ended_at.is_(None)).order_by(runs.c.id))]


def open_ids(connection: Connection, schedule_name: str) -> list[int]:
    """Return the numbers of a schedule's open runs."""
    where = and_(runs.c.ended_at.is_(None), runs.c.schedule_name == schedule_name)
    return list(connection.execute(select(runs.c.id).where(where).order_by(runs.c.id)).scalars())


def open_ids_by_schedule(connection: Connection) -> dict[str, list[int]]:
    """Return the numbers of all open runs, by their schedules."""
    found: dict[str, list[int]] = {}
    statement = select(runs.c.schedule_name, runs.c.id).where(runs.c.ended_at.is_(None)).order_by(runs.c.id)
    for name, run_id in connection.execute(statement):
        found.setdefault(name, []).append(run_id)
    return found


def get(connection: Connection, run_id: int) -> Run:
    """Return a run.

    Raises:
        NotFoundError: there is none with this number.
    """
    row = connection.execute(joined().where(runs.c.id == run_id)).one_or_none()
    if row is None:
        newest = connection.execute(select(func.max(runs.c.id))).scalar()
        hint = f"the newest is {newest}" if newest else "no run was made yet"
        raise NotFoundError(f"no run has number {run_id}", hint=hint, code="run-not-found")
    return from_row(row)


def newest(
    connection: Connection,
    limit: int,
    *,
    schedule: str = "",
    states: Sequence[RunState] = (),
    ended: bool | None = None,
) -> list[Run]:
    """Return runs, newest first.

    Args:
        connection: an open view.
        limit: how many at most.
        schedule: only those of this schedule.
        states: only those in these states.
        ended: only those that have ended (True) or not (False).
    """
    statement = joined().order_by(runs.c.id.desc()).limit(limit)
    if schedule:
        statement = statement.where(runs.c.schedule_name == schedule)
    if states:
        statement = statement.where(runs.c.state.in_([state.value for state in states]))
    if ended is not None:
        statement = statement.where(runs.c.ended_at.is_not(None) if ended else runs.c.ended_at.is_(None))
    return [from_row(row) for row in connection.execute(statement)]


def steps(connection: Connection, run_id: int) -> list[StepRow]:
    """Return a run's steps in order."""
    statement = select(run_steps).where(run_steps.c.run_id == run_id).order_by(run_steps.c.id)
    return [
        StepRow(row.at, row.attempt, RunState(row.state), Reason(row.reason), row.message)
        for row in connection.execute(statement)
    ]


def all_attempts(connection: Connection, run_id: int) -> list[Attempt]:
    """Return a run's attempts in order."""
    prefixed = [column.label(f"a_{column.name}") for column in attempts.c if column.name not in ("id", "run_id")]
    statement = select(*prefixed).where(attempts.c.run_id == run_id).order_by(attempts.c.number)
    found = (attempt_from_row(row) for row in connection.execute(statement))
    return [attempt for attempt in found if attempt is not None]


def last_success_started(connection: Connection, schedule_name: str) -> datetime | None:
    """Return when the newest successful run of a schedule was submitted."""
    where = and_(runs.c.schedule_name == schedule_name, runs.c.state == RunState.SUCCEEDED.value)
    statement = (
        select(attempts.c.accepted_at)
        .select_from(runs.join(attempts, and_(attempts.c.run_id == runs.c.id, attempts.c.number == runs.c.attempts)))
        .where(where)
        .order_by(runs.c.ended_at.desc())
        .limit(1)
    )
    return connection.execute(statement).scalar()
