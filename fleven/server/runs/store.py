"""Runs, attempts and steps in the register: rows in, plain values out, and the changes.

Every change of a run's state is a `Step`, goes through `apply` or `apply_all`, and leaves a row of its history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, bindparam, func, select
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from fleven.server.database.tables import attempts, model_aliases, run_steps, runs
from fleven.server.errors import NotFoundError
from fleven.server.runs.lifecycle import Step
from fleven.server.runs.model import Attempt, Progress, Reason, Run, RunState, Trigger
from fleven.server.schedules.spec import FailureClass, ScheduleSpec, parsed_spec, stored_text


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
        app_hash=row.a_app_hash,
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
        spec=parsed_spec(row.spec),
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


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be stored.

    Attributes:
        key: two runs with one key cannot exist.
    """

    schedule_name: str
    spec: ScheduleSpec
    trigger: Trigger
    due_at: datetime
    key: str
    state: RunState
    reason: Reason
    message: str
    fires: int = 1


# Built once: for statements that run hundreds of times in a turn, building them would cost more than running them.
ADD = sqlite_insert(runs).on_conflict_do_nothing(index_elements=["occurrence_key"]).returning(runs.c.id)
ADD_STEP = run_steps.insert()
CHANGE = runs.update().where(runs.c.id == bindparam("changed_id"))


def add(connection: Connection, new: NewRun, now: datetime) -> int | None:
    """Store a run with its first step and return its number, or None when its key has one already."""
    values = {
        "schedule_name": new.schedule_name,
        "occurrence_key": new.key,
        "trigger": new.trigger.value,
        "due_at": new.due_at,
        "created_at": now,
        "state": new.state.value,
        "reason": new.reason.value,
        "message": new.message,
        "since": now,
        "spec": stored_text(new.spec),
        "attempts": 0,
        "stop_message": "",
        "fires": new.fires,
        "ended_at": now if new.state.terminal else None,
    }
    run_id: int | None = connection.execute(ADD, values).scalar()
    if run_id is not None:
        first = {"state": new.state.value, "reason": new.reason.value, "message": new.message}
        connection.execute(ADD_STEP, {"run_id": run_id, "attempt": 0, "at": now, **first})
    return run_id


def apply(connection: Connection, run: Run, step: Step, now: datetime) -> Run:
    """Store a run's next step with all that changes with it, and return the run as it is then.

    Args:
        connection: a writing transaction.
        run: the run as it was read.
        step: what `lifecycle` says of it.
        now: the current time.
    """
    changed: dict[str, Any] = {
        "state": step.state.value,
        "reason": step.reason.value,
        "message": step.message,
        "retry_at": step.retry_at,
    }
    if step.begins is not None:
        run = begin_attempt(connection, run, step.begins)
        changed |= {"attempts": run.attempts, "progress": None, "waited_seconds": 0, "waits_since": None}
    elif of_attempt := attempt_changes(step, now):
        where = and_(attempts.c.run_id == run.id, attempts.c.number == run.attempts)
        connection.execute(attempts.update().where(where).values(**of_attempt))
    if step.stop is not None:
        request_stop(connection, [run.id], *step.stop)
        run = replace(run, stop_reason=step.stop[0], stop_message=step.stop[1])
    if step.retry_at is not None:
        clear_stop(connection, run)
    same = run.state is step.state and run.reason is step.reason
    since = run.since if same else now
    ended_at = now if step.state.terminal else None
    connection.execute(CHANGE, {"changed_id": run.id, **changed, "since": since, "ended_at": ended_at})
    # A wait whose wording changes (another car comes and goes) is not a new step.
    if not same:
        connection.execute(ADD_STEP, step_row(run, step, now))
    attempt = run.attempt
    if attempt is not None and step.accepted is not None:
        attempt = replace(
            attempt,
            accepted_at=now,
            flower_run_id=step.accepted.flower_run_id,
            metrics_folder=step.accepted.metrics_folder,
            results_folder=step.accepted.results_folder,
            app_hash=step.accepted.app_hash,
        )
    return replace(
        run,
        state=step.state,
        reason=step.reason,
        message=step.message,
        since=since,
        ended_at=ended_at,
        retry_at=step.retry_at,
        attempt=attempt,
    )


def apply_all(connection: Connection, decided: Sequence[tuple[Run, Step]], now: datetime) -> None:
    """Store the next steps of runs that were not submitted: what `apply` does, with three statements for all of them.

    The clocks of their deadlines are stored as the runs given here have them.
    """
    moved, reworded, steps = [], [], []
    for run, step in decided:
        clock = {"changed_id": run.id, "waited_seconds": run.waited_seconds, "waits_since": run.waits_since}
        if run.state is step.state and run.reason is step.reason:
            reworded.append({**clock, "message": step.message})
            continue
        changed = {**clock, "state": step.state.value, "reason": step.reason.value, "message": step.message}
        moved.append({**changed, "since": now, "ended_at": now if step.state.terminal else None})
        steps.append(step_row(run, step, now))
    for statement, rows in ((CHANGE, moved), (CHANGE, reworded), (ADD_STEP, steps)):
        if rows:
            connection.execute(statement, rows)


def step_row(run: Run, step: Step, now: datetime) -> dict[str, object]:
    """Return a step of a run's history as a row."""
    return {
        "run_id": run.id,
        "attempt": run.attempts,
        "at": now,
        "state": step.state.value,
        "reason": step.reason.value,
        "message": step.message,
    }


def begin_attempt(connection: Connection, run: Run, attempt: Attempt) -> Run:
    """Store an intended attempt, and return the run with it."""
    values = {
        "run_id": run.id,
        "number": attempt.number,
        "token": attempt.token,
        "intended_at": attempt.intended_at,
        "message": "",
        "resume_from": attempt.resume_from,
    }
    connection.execute(attempts.insert().values(**values))
    return replace(run, attempts=attempt.number, attempt=attempt)


def attempt_changes(step: Step, now: datetime) -> dict[str, Any]:
    """Return the columns of a run's newest attempt that change with a step."""
    changed: dict[str, Any] = {}
    if step.accepted is not None:
        changed |= {
            "accepted_at": now,
            "flower_run_id": step.accepted.flower_run_id,
            "metrics_folder": step.accepted.metrics_folder,
            "results_folder": step.accepted.results_folder,
            "app_hash": step.accepted.app_hash,
        }
    if step.reason is Reason.STARTED:
        changed["running_at"] = now
    if step.outcome is not None:
        outcome = step.outcome
        changed |= {
            "ended_at": now,
            "outcome": outcome.state.value,
            "reason": outcome.reason.value,
            "message": outcome.message,
            "failure_class": outcome.failure_class.value if outcome.failure_class else None,
        }
    return changed


def request_stop(connection: Connection, run_ids: Sequence[int], reason: Reason, message: str) -> int:
    """Ask for runs to be stopped; those that have ended or are being stopped already stay as they are.

    Returns:
        How many runs were asked to stop.
    """
    where = and_(runs.c.id.in_(run_ids), runs.c.ended_at.is_(None), runs.c.stop_reason.is_(None))
    changed = connection.execute(runs.update().where(where).values(stop_reason=reason.value, stop_message=message))
    return changed.rowcount


def clear_stop(connection: Connection, run: Run) -> None:
    """Forget the stop that was read with a run, so that its next attempt may run; a later one stays."""
    if run.stop_reason is None:
        return
    where = and_(runs.c.id == run.id, runs.c.stop_reason == run.stop_reason.value)
    connection.execute(runs.update().where(where).values(stop_reason=None, stop_message=""))


def shift_waits(connection: Connection, leap: timedelta) -> None:
    """Move the clocks of all deadlines on by a time in which nothing could happen (or back by one that came again)."""
    where = and_(runs.c.ended_at.is_(None), runs.c.waits_since.is_not(None))
    for run_id, since in connection.execute(select(runs.c.id, runs.c.waits_since).where(where)).all():
        connection.execute(runs.update().where(runs.c.id == run_id).values(waits_since=since + leap))


def set_progress(connection: Connection, run_id: int, progress: Progress) -> None:
    """Store what the ServerApp says of its progress."""
    connection.execute(runs.update().where(runs.c.id == run_id).values(progress=progress_to_json(progress)))


def known_to_flower(connection: Connection) -> frozenset[str]:
    """Return Flower's ids of all runs that the register has given it."""
    return frozenset(connection.execute(select(attempts.c.flower_run_id)).scalars()) - {None}


def run_ids(connection: Connection, flower_run_ids: Iterable[str]) -> dict[str, int]:
    """Return by Flower's ids the runs that they are attempts of; an id that the register did not give is left out."""
    wanted = attempts.c.flower_run_id.in_(sorted(set(flower_run_ids)))
    return {
        row.flower_run_id: row.run_id
        for row in connection.execute(select(attempts.c.flower_run_id, attempts.c.run_id).where(wanted))
    }


def delete_old(connection: Connection, now: datetime, keep_days: int) -> int:
    """Remove runs that ended too long ago, a thousand at most in one call, and return how many."""
    old = select(runs.c.id).where(runs.c.ended_at < now - timedelta(days=keep_days)).limit(1000)
    return connection.execute(runs.delete().where(runs.c.id.in_(old))).rowcount


def promoted_at(connection: Connection) -> datetime | None:
    """Return when a model became the champion of its experiment last; None when none ever did."""
    since = model_aliases.c.since
    found = select(since).where(model_aliases.c.alias == "champion").order_by(since.desc()).limit(1)
    return connection.execute(found).scalar()
