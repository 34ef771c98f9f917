"""What an operator can say about a schedule: one frozen model for the command line, TOML files and the register.

Everything a schedule does follows from this value; when it fires next is kept beside it (`Schedule`). This
module must not read clocks, files of apps, or the register.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, time
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fleven.server.schedules.parts import Duration, Part, check_zone
from fleven.server.schedules.triggers import AnyTrigger, ManualTrigger


class FailureClass(StrEnum):
    """Kinds of failure that a schedule may want to retry or not."""

    INFRASTRUCTURE = "infrastructure"
    """SuperLink, ServerApp or this machine failed during the run."""
    NODES = "nodes"
    """Too few cars answered."""
    APP = "app"
    """The ServerApp ended with an error of its own."""
    CONFIGURATION = "configuration"
    """The app refused its run config: trying again would not help."""
    TIMEOUT = "timeout"
    """The run was stopped at its maximum duration."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule with when it fired and when it fires next."""

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
RunConfigValue = bool | int | float | str


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


class Prefer(StrEnum):
    """Which cars go first where a run asks fewer than there are."""

    RANDOM = "random"
    FRESHEST = "freshest"
    """Those with the newest trips."""
    FEWEST_TASKS = "fewest-tasks"
    """Those that have trained least of late."""
    COOLEST = "coolest"


class Promote(StrEnum):
    """What becomes of the model of a run that has succeeded."""

    BY_HAND = "by-hand"
    """It stays a candidate until somebody promotes it."""
    IF_BETTER = "if-better"
    """Every car scores it beside the champion, and it takes the champion's place where it is better."""


class Conditions(Part):
    """What must hold before a run starts, and which cars it asks."""

    min_nodes: int = Field(default=1, ge=0, le=100_000)
    max_nodes: int = Field(default=0, ge=0, le=100_000)
    """How many cars are asked at most; 0: all that count."""
    prefer: Prefer = Prefer.RANDOM
    nodes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    fresh_data: bool = False
    no_error_condition: bool = False
    no_suspicious_update: bool = False
    when_drift: bool = False
    """Only when the champion no longer fits half of the cars that can tell."""
    wait: Annotated[Duration, Field(ge=1)] = 12 * 3600

    @model_validator(mode="after")
    def _not_fewer_than_needed(self) -> Conditions:
        needed = max(self.min_nodes, len(set(self.nodes)))
        if 0 < self.max_nodes < needed:
            raise ValueError(f"max-nodes {self.max_nodes} is less than the {needed} nodes that are needed")
        return self


class Retry(Part):
    """How often, how soon and after which failures a run is tried again."""

    attempts: int = Field(default=1, ge=0, le=100)
    backoff: Annotated[Duration, Field(ge=1)] = 60
    maximum_backoff: Annotated[Duration, Field(ge=1)] = 3600
    on: tuple[FailureClass, ...] = (FailureClass.INFRASTRUCTURE, FailureClass.NODES)
    resume: bool = True


class Blackout(Part):
    """Hours in which no run starts: from `start` to `end` on the given weekdays, across midnight if need be."""

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
    """All settings of a schedule except its name."""

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
    promote: Promote = Promote.BY_HAND
    minimum_gain: float = Field(default=0.01, ge=0, lt=1)
    """Share by which the pooled error must fall below the champion's."""
    maximum_losers: float = Field(default=0.2, ge=0, le=1)
    """Share of the cars whose error may grow beyond the tolerance."""
    loser_tolerance: float = Field(default=0.05, ge=0, le=10)
    """Share by which a car's error may grow before the car counts as a loser."""

    def to_json(self) -> dict[str, Any]:
        """Return the stored form: kebab-case keys, only what differs from the defaults, and always `min-nodes`."""
        stored = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        # The kind is a default of each trigger, and yet the key by which it is read back.
        stored["trigger"] = {"kind": self.trigger.kind, **stored.get("trigger", {})}
        # Without it the app's own value is taken: a value that was given must not look as if it were missing.
        stored["conditions"] = {"min-nodes": self.conditions.min_nodes, **stored.get("conditions", {})}
        return stored


def trigger_text(spec: ScheduleSpec) -> str:
    """Return in a few words what makes a schedule fire."""
    if not spec.after:
        return spec.trigger.text()
    follows = f"after {spec.after}"
    return follows if isinstance(spec.trigger, ManualTrigger) else f"{spec.trigger.text()}, {follows}"


@lru_cache(maxsize=4096)
def parsed_spec(text: str) -> ScheduleSpec:
    """Return the settings that a stored JSON text holds; equal texts are parsed once."""
    return ScheduleSpec.model_validate_json(text)


def stored_text(spec: ScheduleSpec) -> str:
    """Return the JSON text of settings, as the register keeps it."""
    return json.dumps(spec.to_json(), sort_keys=True)
