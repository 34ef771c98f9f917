"""Queries of schedules. Rows in, plain values out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, or_, select
from sqlalchemy.exc import IntegrityError

from fleven.server.database.tables import schedules
from fleven.server.errors import NotFoundError, UsageError
from fleven.server.schedules.spec import Schedule, ScheduleSpec, parsed_spec, stored_text


def from_row(row: Row[Any]) -> Schedule:
    """Return the schedule of a row."""
    return Schedule(
        name=row.name,
        spec=parsed_spec(row.spec),
        paused=row.paused,
        pause_reason=row.pause_reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
        anchor_at=row.anchor_at,
        next_fire_at=row.next_fire_at,
    )


def find(connection: Connection, name: str) -> Schedule | None:
    """Return a schedule by name, or None."""
    row = connection.execute(select(schedules).where(schedules.c.name == name)).one_or_none()
    return None if row is None else from_row(row)


def get(connection: Connection, name: str) -> Schedule:
    """Return a schedule by name.

    Raises:
        NotFoundError: there is none; the hint names similar ones.
    """
    found = find(connection, name)
    if found is None:
        import difflib

        names = list(connection.execute(select(schedules.c.name).order_by(schedules.c.name)).scalars())
        close = difflib.get_close_matches(name, names, n=3) or names[:5]
        hint = f"there is: {', '.join(close)}" if close else "there is no schedule yet: fleven-server schedule add"
        raise NotFoundError(f"no schedule is named '{name}'", hint=hint, code="schedule-not-found")
    return found


def every(connection: Connection) -> list[Schedule]:
    """Return all schedules: what fires next comes first, then by name."""
    order = (schedules.c.paused, schedules.c.next_fire_at.is_(None), schedules.c.next_fire_at, schedules.c.name)
    return [from_row(row) for row in connection.execute(select(schedules).order_by(*order))]


def firing(connection: Connection, now: datetime) -> list[Schedule]:
    """Return the schedules that have to be looked at: due, or with an anchor ahead of a clock that was set back."""
    due = or_(schedules.c.next_fire_at <= now, schedules.c.anchor_at > now)
    statement = select(schedules).where(due, schedules.c.paused.is_(False)).order_by(schedules.c.next_fire_at)
    return [from_row(row) for row in connection.execute(statement)]


def next_fire(connection: Connection) -> datetime | None:
    """Return when the next of all schedules fires that are not paused."""
    statement = select(schedules.c.next_fire_at).where(
        schedules.c.paused.is_(False), schedules.c.next_fire_at.is_not(None)
    )
    return connection.execute(statement.order_by(schedules.c.next_fire_at).limit(1)).scalar()


def following(connection: Connection, name: str) -> list[Schedule]:
    """Return the schedules that run after the success of another."""
    statement = select(schedules).where(schedules.c.after == name, schedules.c.paused.is_(False))
    return [from_row(row) for row in connection.execute(statement)]


def insert(connection: Connection, name: str, spec: ScheduleSpec, now: datetime, next_fire_at: datetime | None) -> None:
    """Add a schedule.

    Raises:
        UsageError: the name is taken.
    """
    try:
        connection.execute(
            schedules.insert().values(
                name=name,
                spec=stored_text(spec),
                after=spec.after or None,
                paused=False,
                pause_reason="",
                created_at=now,
                updated_at=now,
                anchor_at=now,
                next_fire_at=next_fire_at,
            )
        )
    except IntegrityError as error:
        raise UsageError(
            f"a schedule named '{name}' exists already",
            hint=f"fleven-server schedule edit {name} …",
            code="schedule-exists",
        ) from error


def update(connection: Connection, name: str, now: datetime, **values: object) -> None:
    """Change columns of a schedule; `spec` is given as the settings themselves."""
    stored = {key: stored_text(value) if isinstance(value, ScheduleSpec) else value for key, value in values.items()}
    connection.execute(schedules.update().where(schedules.c.name == name).values(updated_at=now, **stored))


MOVE_ANCHOR = schedules.update().where(schedules.c.name == bindparam("moved_name"))


def move_anchor(connection: Connection, name: str, anchor: datetime, next_fire_at: datetime | None) -> None:
    """Store that all fires up to the anchor were handled."""
    values = {"moved_name": name, "anchor_at": anchor, "next_fire_at": next_fire_at}
    connection.execute(MOVE_ANCHOR, values)


def delete(connection: Connection, names: Sequence[str]) -> None:
    """Remove schedules; their runs stay."""
    connection.execute(schedules.delete().where(schedules.c.name.in_(names)))
