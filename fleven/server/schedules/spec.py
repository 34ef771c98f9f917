"""What an operator can say about a schedule: one frozen model for the command line, TOML files and the register.

Everything a schedule does follows from this value; where it stands in time is kept beside it (`Schedule`). This
module must not read clocks, files of apps, or the register.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, time
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, field_validator, model_validator
from pydantic.functional_validators import BeforeValidator


class FailureClass(StrEnum):
    """Kinds of failure that a schedule may want to retry or not."""

    INFRASTRUCTURE = "infrastructure"
    """SuperLink, ServerApp or this machine died under the run."""
    NODES = "nodes"
    """Too few cars answered."""
    APP = "app"
    """The ServerApp ended with an error of its own."""
    CONFIGURATION = "configuration"
    """The app refused its run config: trying again changes nothing."""
    TIMEOUT = "timeout"
    """The run was stopped at its maximum duration."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule with its place in time."""

    name: str
    spec: ScheduleSpec
    paused: bool
    pause_reason: str
    created_at: datetime
    updated_at: datetime
    anchor_at: datetime
    """All fires up to and including this moment have been turned into runs."""
    next_fire_at: datetime | None
    """The first fire after the anchor; None for a manual schedule or one with no fire left."""


NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"
CRON_FIELDS = 5
"""A sixth would be seconds: no run is that short."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
RunConfigValue = bool | int | float | str


def parse_duration(value: Any) -> Any:
    """Return seconds for `90`, `"90s"`, `"15m"`, `"4h"`, `"1h30m"`, `"7d"` or `"2w"`.

    Raises:
        ValueError: the text is none of these.
    """
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text.isdigit():
        return int(text)
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text).strip():
        raise ValueError(f"'{value}' is no duration (write 90s, 15m, 4h, 1h30m, 7d)")
    return round(sum(float(number) * _UNITS[unit] for number, unit in parts))


def format_duration(seconds: float) -> str:
    """Return a duration in the shortest form that `parse_duration` reads back."""
    rest, text = round(seconds), ""
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, _UNITS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"


Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    Field(ge=0, le=366 * 86_400),
]


class Overlap(StrEnum):
    """What happens when a schedule fires while its earlier run is still open."""

    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"


class Missed(StrEnum):
    """What happens to fires that passed while the server was down."""

    SKIP = "skip"
    LATEST = "latest"
    ALL = "all"


class Part(BaseModel):
    """Base of the parts of a schedule: frozen, kebab-case, unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda name: name.replace("_", "-"), populate_by_name=True
    )


def check_zone(value: str) -> str:
    """Return the name of a time zone that this machine knows.

    Raises:
        ValueError: it does not.
    """
    try:
        ZoneInfo(value)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"'{value}' is no time zone (write one like Europe/Lisbon or America/Sao_Paulo)") from error
    return value


class CronTrigger(Part):
    """Fires by the clock on the wall of a time zone, with Debian cron's rules when daylight saving begins or ends."""

    kind: Literal["cron"] = "cron"
    cron: str
    timezone: str = "UTC"

    _zone = field_validator("timezone")(check_zone)

    @field_validator("cron")
    @classmethod
    def _expression(cls, value: str) -> str:
        if len(value.split()) != CRON_FIELDS:
            raise ValueError(f"'{value}' is no cron expression of five fields (minute hour day month weekday)")
        try:
            CronSim(value, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(f"'{value}' is no cron expression: {error} (minute hour day month weekday)") from error
        return value


class EveryTrigger(Part):
    """Fires in a fixed rhythm of elapsed time, counted from `start`."""

    kind: Literal["every"] = "every"
    every: Annotated[Duration, Field(ge=10)]
    start: datetime | None = None

    @field_validator("start")
    @classmethod
    def _aware(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class AtTrigger(Part):
    """Fires once, at a moment."""

    kind: Literal["at"] = "at"
    at: datetime

    @field_validator("at")
    @classmethod
    def _aware(cls, value: datetime) -> datetime:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value


class ManualTrigger(Part):
    """Fires only when it is told to (`schedule run`), or after another schedule (`after`)."""

    kind: Literal["manual"] = "manual"


AnyTrigger = Annotated[CronTrigger | EveryTrigger | AtTrigger | ManualTrigger, Field(discriminator="kind")]


class Conditions(Part):
    """What must hold before a run starts."""

    min_nodes: int = Field(default=1, ge=0, le=100_000)
    nodes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    fresh_data: bool = False
    no_error_condition: bool = False
    wait: Annotated[Duration, Field(ge=1)] = 12 * 3600


class Retry(Part):
    """How often, how soon and after which failures a run is tried again."""

    attempts: int = Field(default=1, ge=0, le=100)
    backoff: Annotated[Duration, Field(ge=1)] = 60
    maximum_backoff: Annotated[Duration, Field(ge=1)] = 3600
    on: tuple[FailureClass, ...] = (FailureClass.INFRASTRUCTURE, FailureClass.NODES)
    resume: bool = True


class Blackout(Part):
    """Hours in which no run starts: from `start` to `end` on the given weekdays, over midnight if need be."""

    start: time
    end: time
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ()
    timezone: str = "UTC"

    _zone = field_validator("timezone")(check_zone)

    @model_validator(mode="after")
    def _not_empty(self) -> Blackout:
        if self.start == self.end:
            raise ValueError("start and end are the same (a blackout of a whole day is 00:00 to 23:59)")
        return self


class ScheduleSpec(Part):
    """All that is said about a schedule, but for its name."""

    description: str = Field(default="", max_length=500)
    app: str = ""
    experiment: str = Field(default="", max_length=100)
    run_config: dict[str, RunConfigValue] = Field(default_factory=dict)
    trigger: AnyTrigger = ManualTrigger()
    after: str = ""
    conditions: Conditions = Conditions()
    overlap: Overlap = Overlap.SKIP
    missed: Missed = Missed.LATEST
    maximum_lateness: Annotated[Duration, Field(ge=1)] = 24 * 3600
    retry: Retry = Retry()
    max_duration: Annotated[Duration, Field(ge=10)] | None = None
    blackouts: tuple[Blackout, ...] = ()
    priority: int = Field(default=0, ge=-1000, le=1000)

    def to_json(self) -> dict[str, Any]:
        """Return the stored form: kebab-case keys, only what differs from the defaults, and always `min-nodes`."""
        stored = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        # The kind is a default of each trigger, and yet the key by which it is read back.
        stored["trigger"] = {"kind": self.trigger.kind, **stored.get("trigger", {})}
        # Where nothing is said of it, the app's own value is taken: what was said must not look like nothing.
        stored["conditions"] = {"min-nodes": self.conditions.min_nodes, **stored.get("conditions", {})}
        return stored


def trigger_text(spec: ScheduleSpec) -> str:
    """Return a schedule's trigger in a few words."""
    match spec.trigger:
        case CronTrigger(cron=cron, timezone=zone):
            text = f"cron {cron} ({zone})"
        case EveryTrigger(every=seconds):
            text = f"every {format_duration(seconds)}"
        case AtTrigger(at=at):
            text = f"once at {at:%Y-%m-%d %H:%M %Z}"
        case _:
            text = "manual"
    if spec.after:
        text = f"after {spec.after}" if text == "manual" else f"{text}, after {spec.after}"
    return text


@lru_cache(maxsize=4096)
def parsed_spec(text: str) -> ScheduleSpec:
    """Return the settings that a stored JSON text holds; equal texts are parsed once."""
    return ScheduleSpec.model_validate_json(text)


def stored_text(spec: ScheduleSpec) -> str:
    """Return the JSON text of settings, as the register keeps it."""
    return json.dumps(spec.to_json(), sort_keys=True)
