"""From fires to runs, in one transaction each: here an occurrence becomes a row that cannot be lost or duplicated.

Used by the loop (fires, dependencies) and by the commands (run now). Must not call Flower.
"""

from __future__ import annotations

import logging
import secrets
from datetime import UTC, datetime

from sqlalchemy import Connection

from fleven.server.database import Store
from fleven.server.runs import policy
from fleven.server.runs import store as run_store
from fleven.server.runs.model import Reason, Run, RunState, Trigger
from fleven.server.runs.store import NewRun
from fleven.server.schedules import calendar
from fleven.server.schedules import store as schedule_store
from fleven.server.schedules.spec import Schedule, ScheduleSpec

logger = logging.getLogger("fleven.server.scheduler")

PASSED_OVER = {calendar.PassedOver.MISSED: Reason.MISSED, calendar.PassedOver.TOO_LATE: Reason.TOO_LATE}
"""State and reason of a run whose fire the calendar passed over."""


def stamp(moment: datetime) -> str:
    """Return a moment as it is written in keys: `2026-11-24T02:00:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fire_due(store: Store, now: datetime) -> None:
    """Turn all fires up to now into runs."""
    with store.read() as connection:
        due = [schedule.name for schedule in schedule_store.firing(connection, now)]
    if not due:
        return
    with store.write() as connection:
        # Read again under the write lock: the operator may have paused or edited it in between.
        open_ids = run_store.open_ids_by_schedule(connection)
        for schedule in schedule_store.firing(connection, now):
            fire_one(connection, schedule, now, open_ids.setdefault(schedule.name, []))


def fire_one(connection: Connection, schedule: Schedule, now: datetime, open_ids: list[int]) -> None:
    """Store the runs of one schedule's fires and move its anchor, all or nothing.

    Args:
        connection: a writing transaction.
        schedule: a schedule that is due.
        now: the current time.
        open_ids: numbers of its open runs; new ones are added.
    """
    fires = calendar.fire(schedule.spec, schedule.anchor_at, schedule.created_at, now)
    for passed in fires.passed:
        many = f"{passed.count} fires" if passed.count > 1 else "a fire"
        if passed.count >= calendar.MAXIMUM_COUNTED:
            many = f"{passed.count} fires or more"
        why = (
            "the server was not running"
            if passed.reason is calendar.PassedOver.MISSED
            else "later than maximum-lateness allows"
        )
        message = f"{many} from {stamp(passed.first)} to {stamp(passed.last)}: {why}"
        key = f"{schedule.name}@{stamp(passed.first)}/{stamp(passed.last)}"
        new = NewRun(
            schedule.name,
            schedule.spec,
            Trigger.SCHEDULED,
            passed.last,
            key,
            RunState.SKIPPED,
            PASSED_OVER[passed.reason],
            message,
            passed.count,
        )
        run_store.add(connection, new, now)
    for due in fires.due:
        key = f"{schedule.name}@{stamp(due)}"
        arrive(connection, schedule.name, schedule.spec, Trigger.SCHEDULED, due, key, now, open_ids)
    schedule_store.move_anchor(connection, schedule.name, fires.anchor, fires.next_fire)


def arrive(
    connection: Connection,
    name: str,
    spec: ScheduleSpec,
    trigger: Trigger,
    due: datetime,
    key: str,
    now: datetime,
    open_ids: list[int],
) -> int | None:
    """Store a new run by the schedule's overlap policy; return its number, or None when its key has one already."""
    arrival = policy.arrive(spec.overlap, open_ids, trigger, due)
    new = NewRun(name, spec, trigger, due, key, arrival.state, arrival.reason, arrival.message)
    run_id = run_store.add(connection, new, now)
    if run_id is not None:
        if arrival.replaced:
            run_store.request_stop(connection, arrival.replaced, Reason.REPLACED, f"replaced by run {run_id}")
        if not arrival.state.terminal:
            open_ids.append(run_id)
        logger.info("event=run-made run=%d schedule=%s trigger=%s state=%s", run_id, name, trigger, arrival.state)
    return run_id


def run_now(connection: Connection, name: str, spec: ScheduleSpec, now: datetime) -> int:
    """Store a run that the operator asked for, and return its number."""
    key, open_ids = f"{name}@manual-{secrets.token_hex(8)}", run_store.open_ids(connection, name)
    run_id = arrive(connection, name, spec, Trigger.MANUAL, now, key, now, open_ids)
    if run_id is None:
        raise AssertionError("a random key was given twice")
    return run_id


def fire_dependents(connection: Connection, finished: Run, now: datetime) -> None:
    """Store a run of each schedule that follows the one whose run has just succeeded."""
    for schedule in schedule_store.following(connection, finished.schedule_name):
        key = f"{schedule.name}@after-{finished.id}"
        open_ids = run_store.open_ids(connection, schedule.name)
        arrive(connection, schedule.name, schedule.spec, Trigger.DEPENDENCY, now, key, now, open_ids)
