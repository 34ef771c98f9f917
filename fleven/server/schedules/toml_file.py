"""Schedules as TOML: one table `[schedules.NAME]` each.

Export and import lose nothing; a file is imported as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import tomli_w

from fleven.server.database import Store
from fleven.server.errors import ServerError, UsageError
from fleven.server.schedules import editing
from fleven.server.schedules import store as schedule_store
from fleven.server.schedules.editing import Place
from fleven.server.schedules.spec import Schedule, ScheduleSpec
from fleven_agent.common.foreign_text import parse_toml


def to_toml(found: Sequence[Schedule]) -> str:
    """Return schedules as TOML."""
    return tomli_w.dumps({"schedules": {schedule.name: schedule.spec.to_json() for schedule in found}}) if found else ""


def from_toml(text: str, file: str, place: Place, existing: Mapping[str, ScheduleSpec]) -> dict[str, ScheduleSpec]:
    """Return the schedules of a TOML text, each checked against its app.

    Args:
        text: the TOML.
        file: its name, for messages.
        place: where and when they are given.
        existing: the schedules that there are, by name: what does not change of them is not refused.

    Raises:
        UsageError: the text or its schedules have problems; all of them at once.
    """
    try:
        content = parse_toml(text.encode())
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from error
    problems = [
        f"{file}: {key}: unknown key (a schedule is a table [schedules.NAME])" for key in content if key != "schedules"
    ]
    tables = content.get("schedules", {})
    if not isinstance(tables, dict):
        problems.append(f"{file}: schedules: is not a table")
        tables = {}
    wanted: dict[str, ScheduleSpec] = {}
    for name, values in tables.items():
        try:
            wanted[name] = one(name, values, place, existing.get(name))
        except ServerError as error:
            lines = error.problems or error.lines()
            problems += [f"{file}: schedules.{name}: {line}" for line in lines]
    if problems:
        raise UsageError(f"{file}: nothing was imported", code="import-invalid", problems=problems)
    return wanted


def one(name: str, values: Any, place: Place, old: ScheduleSpec | None) -> ScheduleSpec:
    """Return the settings of one table.

    Raises:
        ServerError: something is wrong with it; all of it at once.
    """
    if not isinstance(values, Mapping):
        raise UsageError("is not a table")
    problems, app = editing.Problems(), None
    with problems.of():
        editing.check_name(name)
    with problems.of():
        app = editing.app_of(values, place.config)
    return editing.checked(dict(values), app, place, old=old, problems=problems)


def in_order(wanted: Mapping[str, ScheduleSpec]) -> list[str]:
    """Return names so that each schedule comes after the one that it follows (circles are found when stored)."""
    order: list[str] = []

    def place(name: str, path: tuple[str, ...]) -> None:
        if name in order or name not in wanted or name in path:
            return
        place(wanted[name].after, (*path, name))
        order.append(name)

    for name in wanted:
        place(name, ())
    return order


def store_all(
    store: Store, wanted: Mapping[str, ScheduleSpec], now: datetime, *, replace: bool, dry_run: bool
) -> dict[str, list[str]]:
    """Store schedules in one transaction and return the names that were added, changed and unchanged.

    Raises:
        UsageError: one exists already (without `replace`), or a dependency is wrong; nothing is stored then.
    """
    outcome: dict[str, list[str]] = {"added": [], "changed": [], "unchanged": []}
    with store.write() as connection:
        existing = {schedule.name: schedule for schedule in schedule_store.every(connection)}
        clashes = sorted(name for name in wanted if name in existing and wanted[name] != existing[name].spec)
        if clashes and not replace:
            raise UsageError(
                f"exists already: {', '.join(clashes)}", hint="--replace changes them", code="schedule-exists"
            )
        for name in in_order(wanted):
            if name not in existing:
                editing.add(connection, name, wanted[name], now)
                outcome["added"].append(name)
            elif wanted[name] == existing[name].spec:
                outcome["unchanged"].append(name)
            else:
                editing.change(connection, existing[name], wanted[name], now)
                outcome["changed"].append(name)
        if dry_run:
            connection.rollback()
    return outcome
