"""Making and changing schedules: validation against the app and the other schedules, then one transaction.

Shared by `add`, `edit`, `import` and `run`. Must not print.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from fleven.server.config import ServerConfig
from fleven.server.errors import UsageError
from fleven.server.flower.app_bundle import App, check_overrides, read_app
from fleven.server.schedules import calendar
from fleven.server.schedules import store as schedule_store
from fleven.server.schedules.spec import NAME_PATTERN, Schedule, ScheduleSpec

Describe = Callable[[Sequence[int | str], str], str]


def plain_problem(location: Sequence[int | str], message: str) -> str:
    """Return one line `key: problem`."""
    return f"{'.'.join(str(part) for part in location)}: {message.removeprefix('Value error, ')}"


def validated(values: Mapping[str, Any], describe: Describe = plain_problem) -> ScheduleSpec:
    """Return a schedule's settings.

    Raises:
        UsageError: values are wrong; all of them at once.
    """
    try:
        return ScheduleSpec.model_validate(values)
    except ValidationError as error:
        problems = [describe(problem["loc"], problem["msg"]) for problem in error.errors()]
        raise UsageError("the schedule has problems", code="schedule-invalid", problems=problems) from error


def check_name(name: str) -> str:
    """Return a valid name of a schedule.

    Raises:
        UsageError: it is none.
    """
    import re

    if not re.match(NAME_PATTERN, name):
        hint = "lower-case letters, digits, '.', '_' and '-', at most 63, for example nightly"
        raise UsageError(f"'{name}' is no name for a schedule", hint=hint)
    return name


def app_of(values: Mapping[str, Any], config: ServerConfig) -> App:
    """Return the app that a schedule's stored form names.

    Raises:
        AppUnusableError: it is missing or none.
    """
    return read_app(Path(values["app"]) if values.get("app") else config.app())


def completed(values: dict[str, Any], app: App) -> dict[str, Any]:
    """Return a schedule's stored form with `min-nodes` from the app's own config where nothing was said of it."""
    conditions = values.get("conditions", {})
    if "min-nodes" not in conditions:
        wanted = values.get("run-config", {}).get("min-nodes", app.config.get("min-nodes"))
        if isinstance(wanted, int) and not isinstance(wanted, bool):
            return {**values, "conditions": {**conditions, "min-nodes": wanted}}
    return values


def validated_for(values: Mapping[str, Any], app: App, describe: Describe = plain_problem) -> ScheduleSpec:
    """Return a schedule's settings, which fit its app.

    Raises:
        UsageError: the settings are wrong, or the app has no such config keys or other types; all of it at once.
    """
    errors: list[UsageError] = []
    try:
        spec = validated(values, describe)
    except UsageError as error:
        errors.append(error)
    try:
        check_overrides(app, values.get("run-config", {}))
    except UsageError as error:
        errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        problems = [problem for error in errors for problem in error.problems]
        raise UsageError("the schedule has problems", code="schedule-invalid", problems=problems)
    if spec.experiment and "experiment" not in app.config:
        raise UsageError(f"the app {app.name} has no config key 'experiment'", hint="leave --experiment out")
    return spec


def check_dependency(connection: Connection, name: str, spec: ScheduleSpec) -> None:
    """Check that the schedule which this one follows exists, and that they do not follow each other in a circle.

    Raises:
        UsageError: either does not hold.
    """
    seen, current = [name], spec.after
    while current:
        if current in seen:
            raise UsageError(f"--after: {' → '.join([*seen, current])} is a circle")
        seen.append(current)
        found = schedule_store.find(connection, current)
        if found is None:
            raise UsageError(f"--after: no schedule is named '{current}'", code="schedule-not-found")
        current = found.spec.after


def add(connection: Connection, name: str, spec: ScheduleSpec, now: datetime) -> Schedule:
    """Store a new schedule.

    Raises:
        UsageError: the name or the dependency is wrong.
    """
    check_name(name)
    check_dependency(connection, name, spec)
    schedule_store.insert(connection, name, spec, now, calendar.next_fire(spec, now, now))
    return schedule_store.get(connection, name)


def change(connection: Connection, schedule: Schedule, spec: ScheduleSpec, now: datetime) -> Schedule:
    """Store changed settings of a schedule. Fires before now are dealt with by the old settings."""
    check_dependency(connection, schedule.name, spec)
    anchor, next_fire = schedule.anchor_at, schedule.next_fire_at
    if spec.trigger != schedule.spec.trigger:
        anchor, next_fire = now, calendar.next_fire(spec, now, schedule.created_at)
    schedule_store.update(
        connection,
        schedule.name,
        now,
        spec=spec,
        after=spec.after or None,
        anchor_at=anchor,
        next_fire_at=next_fire,
    )
    return schedule_store.get(connection, schedule.name)


def pause(connection: Connection, name: str, reason: str, now: datetime) -> None:
    """Pause a schedule: no fires until it is resumed. Open runs go on."""
    schedule_store.get(connection, name)
    schedule_store.update(connection, name, now, paused=True, pause_reason=reason)


def resume(connection: Connection, name: str, now: datetime) -> Schedule:
    """Let a schedule fire again from now on; fires that passed meanwhile were paused, not missed."""
    schedule = schedule_store.get(connection, name)
    schedule_store.update(
        connection,
        name,
        now,
        paused=False,
        pause_reason="",
        anchor_at=now,
        next_fire_at=calendar.next_fire(schedule.spec, now, schedule.created_at),
    )
    return schedule_store.get(connection, name)
