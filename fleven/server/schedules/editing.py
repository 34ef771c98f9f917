"""Making and changing schedules: validation against the app and the other schedules, then one transaction.

Shared by `add`, `edit`, `import` and `run`. Must not print.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from fleven.server.config.settings import ServerConfig
from fleven.server.errors import ServerError, UsageError
from fleven.server.flower.app_bundle import App, AppUnusableError, read_app
from fleven.server.flower.app_check import run_config_problems
from fleven.server.schedules import calendar
from fleven.server.schedules import store as schedule_store
from fleven.server.schedules.spec import NAME_PATTERN, Promote, Schedule, ScheduleSpec
from fleven.server.service_user import Account, is_hidden_from

Describe = Callable[[Sequence[int | str], str], str]
CHAMPION = "champion"
"""Config key by which an app takes the model that its own is to be compared with."""
CONDITION_KEYS = {"experiment": ("experiment",), "min-nodes": ("conditions", "min-nodes"), CHAMPION: ("promote",)}
"""Config keys of an app that follow from a schedule's own settings, where its run config does not name them."""


class Problems:
    """Collects what is wrong with a value, part by part, to be told all at once."""

    def __init__(self) -> None:
        self.errors: list[ServerError] = []

    @contextmanager
    def of(self) -> Iterator[None]:
        """Keep the error that ends a part."""
        try:
            yield
        except ServerError as error:
            self.errors.append(error)

    def add(self, line: str, code: str = "schedule-invalid") -> None:
        """Note one problem."""
        self.errors.append(UsageError("the schedule has problems", code=code, problems=[line]))

    def tell(self) -> None:
        """Raise what was collected, if anything.

        Raises:
            ServerError: the only problem as it was, or a UsageError that lists all of them.
        """
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            problems = [line for error in self.errors for line in error.problems or error.lines()]
            raise UsageError("the schedule has problems", code="schedule-invalid", problems=problems)


@dataclass(frozen=True, slots=True)
class Place:
    """Where and when a schedule is given.

    Attributes:
        config: server.toml.
        now: the current time.
        account: the services' user, when another asks; see `service_account`.
        service_process_id: the running service, which must see the app's folder; None when it does not run.
    """

    config: ServerConfig
    now: datetime
    account: Account | None = None
    service_process_id: int | None = None


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
        UsageError: it is not one.
    """
    if not re.match(NAME_PATTERN, name):
        hint = "lower-case letters, digits, '.', '_' and '-', at most 63, for example nightly"
        raise UsageError(f"'{name}' is not a valid name for a schedule", hint=hint)
    return name


def app_of(values: Mapping[str, Any], config: ServerConfig) -> App:
    """Return the app that a schedule's stored form names.

    Raises:
        AppUnusableError: it is missing or none.
    """
    return read_app(Path(values["app"]) if values.get("app") else config.app())


def completed(values: dict[str, Any], app: App) -> dict[str, Any]:
    """Return a schedule's stored form with `min-nodes` from the app's own config where it was not given."""
    conditions = values.get("conditions", {})
    if isinstance(conditions, Mapping) and "min-nodes" not in conditions:
        wanted = values.get("run-config", {}).get("min-nodes", app.config.get("min-nodes"))
        if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 0:
            return {**values, "conditions": {**conditions, "min-nodes": wanted}}
    return values


def run_config_of(app: App, spec: ScheduleSpec, resume_from: str | None = None) -> dict[str, bool | int | float | str]:
    """Return the run config that a run is submitted with.

    The schedule's own settings win; `min-nodes` and `experiment` follow from its conditions where the app has such
    keys.
    """
    values: dict[str, bool | int | float | str] = {}
    if "min-nodes" in app.config and spec.conditions.min_nodes > 0:
        values["min-nodes"] = spec.conditions.min_nodes
    if "experiment" in app.config and spec.experiment:
        values["experiment"] = spec.experiment
    values |= spec.run_config
    if resume_from is not None and "resume-from" in app.config:
        values["resume-from"] = resume_from
    return values


def checked(
    values: dict[str, Any],
    app: App | None,
    place: Place,
    *,
    old: ScheduleSpec | None = None,
    describe: Describe = plain_problem,
    problems: Problems | None = None,
) -> ScheduleSpec:
    """Return a schedule's settings, which fit its app and can still fire.

    Args:
        values: its stored form.
        app: its app; None when that is unusable, which was noted.
        place: where and when it is given.
        old: what it was before, when it is changed.
        describe: writes a problem of a key.
        problems: what was found wrong before.

    Raises:
        ServerError: something is wrong; all of it at once.
    """
    problems = problems or Problems()
    spec = None
    with problems.of():
        spec = validated(completed(values, app) if app is not None else values, describe)
    if spec is not None:
        with problems.of():
            check_trigger(spec, old, place.now, describe)
    if app is not None:
        with problems.of():
            check_run_config(values, spec, app, place, describe)
    problems.tell()
    if spec is None:
        raise AssertionError("a schedule without settings and without problems")
    return spec


def check_trigger(spec: ScheduleSpec, old: ScheduleSpec | None, now: datetime, describe: Describe) -> None:
    """Check that a trigger that is new has a fire ahead of it.

    Raises:
        UsageError: it has none.
    """
    trigger = spec.trigger
    if (old is not None and trigger == old.trigger) or trigger.kind == "manual":
        return
    if calendar.next_fire(spec, now, now) is not None:
        return
    line = describe(("trigger", trigger.kind, trigger.kind), trigger.why_never(now))
    raise UsageError("the schedule has problems", code="schedule-invalid", problems=[line])


def check_run_config(
    values: Mapping[str, Any], spec: ScheduleSpec | None, app: App, place: Place, describe: Describe
) -> None:
    """Check run-config overrides against the app's own keys and types, then by what the app itself says.

    Raises:
        UsageError: something does not fit; all of it at once.
        AppUnusableError: the service cannot read the app.
    """
    said = values.get("run-config", {})
    if not isinstance(said, Mapping):
        return
    overrides = run_config_of(app, spec) if spec is not None else dict(said)
    compared = spec is not None and spec.promote is Promote.IF_BETTER
    if compared and CHAMPION in app.config and CHAMPION not in said:
        overrides[CHAMPION] = "the champion at that time"  # so that the app says what does not go with one
    if place.service_process_id is not None and is_hidden_from(place.service_process_id, app.path.absolute()):
        hint = "its unit hides /home, /root and /tmp: put the app under /opt or /srv"
        raise AppUnusableError(f"{app.path}: the running service does not see it", hint=hint)
    lines = []
    for key, problem in run_config_problems(app, overrides, place.account):
        own = CONDITION_KEYS.get(key) if key not in said else None
        lines.append(describe(own, problem) if own else f"{key}: {problem}" if key else problem)
    if spec is not None and spec.experiment and "experiment" not in app.config:
        lines.append(describe(("experiment",), f"the app {app.name} has no config key 'experiment'"))
    if compared and CHAMPION not in app.config:
        lines.append(describe(("promote",), f"the app {app.name} has no config key '{CHAMPION}' to compare with"))
    if lines:
        raise UsageError("the run config does not fit the app", code="run-config-invalid", problems=lines)


def check_dependency(connection: Connection, name: str, after: str) -> None:
    """Check that the schedule which this one follows exists, and that they do not follow each other in a circle.

    Raises:
        UsageError: either does not hold.
    """
    seen, current = [name], after
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
    check_dependency(connection, name, spec.after)
    schedule_store.insert(connection, name, spec, now, calendar.next_fire(spec, now, now))
    return schedule_store.get(connection, name)


def change(connection: Connection, schedule: Schedule, spec: ScheduleSpec, now: datetime) -> Schedule:
    """Store changed settings of a schedule. Fires before now follow the old settings."""
    check_dependency(connection, schedule.name, spec.after)
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
    """Let a schedule fire again from now on; fires that passed meanwhile do not count as missed."""
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
