"""Changes of runs, attempts and steps. Every change of a run's state goes through `record` and leaves a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, bindparam, select
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from fleven.server.model import (
    Attempt,
    Outcome,
    Progress,
    Reason,
    Run,
    RunState,
    Trigger,
)
from fleven.server.schedule_spec import ScheduleSpec
from fleven.server.store.runs import progress_to_json
from fleven.server.store.tables import attempts, run_steps, runs


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
        "spec": new.spec,
        "attempts": 0,
        "stop_message": "",
        "fires": new.fires,
        "ended_at": now if new.state.terminal else None,
    }
    run_id: int | None = connection.execute(ADD, values).scalar()
    if run_id is not None:
        connection.execute(ADD_STEP, step_row(run_id, 0, new.state, new.reason, new.message, now))
    return run_id


def step_row(
    run_id: int, attempt: int, state: RunState, reason: Reason, message: str, now: datetime
) -> dict[str, object]:
    """Return a step of a run's history as a row."""
    return {
        "run_id": run_id,
        "attempt": attempt,
        "at": now,
        "state": state.value,
        "reason": reason.value,
        "message": message,
    }


def record_all(connection: Connection, decided: Sequence[tuple[Run, RunState, Reason, str]], now: datetime) -> None:
    """Store the next states of many runs, each with its step: what `record` does, with three statements for all.

    The clocks of their deadlines are stored as the runs given here have them.
    """
    moved, reworded, steps = [], [], []
    for run, state, reason, message in decided:
        clock = {"changed_id": run.id, "waited_seconds": run.waited_seconds, "waits_since": run.waits_since}
        if run.state is state and run.reason is reason:
            reworded.append({**clock, "message": message})
            continue
        changed = {**clock, "state": state.value, "reason": reason.value, "message": message}
        moved.append({**changed, "since": now, "ended_at": now if state.terminal else None})
        steps.append(step_row(run.id, run.attempts, state, reason, message, now))
    for statement, rows in ((CHANGE, moved), (CHANGE, reworded), (ADD_STEP, steps)):
        if rows:
            connection.execute(statement, rows)


def record(
    connection: Connection,
    run: Run,
    state: RunState,
    reason: Reason,
    message: str,
    now: datetime,
    **values: object,
) -> Run:
    """Store a run's next state with its step, and return the run as it is now.

    Args:
        connection: a writing transaction.
        run: the run as it was read.
        state: new state.
        reason: coded reason.
        message: one clause for people.
        now: the current time.
        values: further columns of `runs` to set.
    """
    same = run.state is state and run.reason is reason
    changed: dict[str, Any] = {"state": state.value, "reason": reason.value, "message": message, **values}
    if not same:
        changed["since"] = now
    if state.terminal:
        changed["ended_at"] = now
    connection.execute(runs.update().where(runs.c.id == run.id).values(**changed))
    # A wait whose wording changes (another car comes and goes) is no new step.
    if not same:
        connection.execute(ADD_STEP, step_row(run.id, run.attempts, state, reason, message, now))
    return replace(
        run,
        state=state,
        reason=reason,
        message=message,
        since=run.since if same else now,
        ended_at=now if state.terminal else None,
    )


def begin_attempt(connection: Connection, run: Run, attempt: Attempt, message: str, now: datetime) -> Run:
    """Store the intent to submit a run: from here on a submission may exist."""
    connection.execute(
        attempts.insert().values(
            run_id=run.id,
            number=attempt.number,
            token=attempt.token,
            intended_at=now,
            message="",
            resume_from=attempt.resume_from,
        )
    )
    started = replace(run, attempts=attempt.number, attempt=attempt, retry_at=None)
    return record(
        connection,
        started,
        RunState.SUBMITTED,
        Reason.SUBMITTING,
        message,
        now,
        attempts=attempt.number,
        retry_at=None,
        progress=None,
        waited_seconds=0,
        waits_since=None,
    )


def accept_attempt(
    connection: Connection,
    run: Run,
    flower_run_id: str,
    message: str,
    now: datetime,
    *,
    metrics_folder: str | None = None,
    results_folder: str | None = None,
) -> Run:
    """Store the id under which the SuperLink has accepted an attempt, and where the attempt's files will lie."""
    values: dict[str, Any] = {
        "flower_run_id": flower_run_id,
        "accepted_at": now,
        "metrics_folder": metrics_folder,
        "results_folder": results_folder,
    }
    set_attempt(connection, run, **values)
    attempt = replace(run.attempt, **values) if run.attempt is not None else None
    return record(connection, replace(run, attempt=attempt), RunState.SUBMITTED, Reason.ACCEPTED, message, now)


def set_attempt(connection: Connection, run: Run, **values: object) -> None:
    """Change columns of a run's newest attempt."""
    where = and_(attempts.c.run_id == run.id, attempts.c.number == run.attempts)
    connection.execute(attempts.update().where(where).values(**values))


def end_attempt(connection: Connection, run: Run, outcome: Outcome, now: datetime) -> None:
    """Store how a run's newest attempt ended."""
    set_attempt(
        connection,
        run,
        ended_at=now,
        outcome=outcome.state.value,
        reason=outcome.reason.value,
        message=outcome.message,
        failure_class=outcome.failure_class.value if outcome.failure_class else None,
    )


def request_stop(connection: Connection, run_ids: Sequence[int], reason: Reason, message: str) -> int:
    """Ask for runs to be stopped; those that have ended or are being stopped already stay as they are.

    Returns:
        How many runs were asked to stop.
    """
    where = and_(runs.c.id.in_(run_ids), runs.c.ended_at.is_(None), runs.c.stop_reason.is_(None))
    changed = connection.execute(runs.update().where(where).values(stop_reason=reason.value, stop_message=message))
    return changed.rowcount


def clear_stop(connection: Connection, run: Run) -> None:
    """Forget the stop that was read with a run, so that its next attempt may run; one that came since then stays."""
    if run.stop_reason is None:
        return
    where = and_(runs.c.id == run.id, runs.c.stop_reason == run.stop_reason.value)
    connection.execute(runs.update().where(where).values(stop_reason=None, stop_message=""))


def set_progress(connection: Connection, run_id: int, progress: Progress) -> None:
    """Store what the ServerApp says of its progress."""
    connection.execute(runs.update().where(runs.c.id == run_id).values(progress=progress_to_json(progress)))


def delete_old(connection: Connection, now: datetime, keep_days: int) -> int:
    """Remove runs that ended too long ago, a thousand at most in one call, and return how many."""
    old = select(runs.c.id).where(runs.c.ended_at < now - timedelta(days=keep_days)).limit(1000)
    return connection.execute(runs.delete().where(runs.c.id.in_(old))).rowcount
