"""What makes a schedule fire by itself: one class for each kind, with its fires and its words.

A new kind is a class here, in `AnyTrigger`, and its option in `cli/schedule_options.py`; nothing else names the kinds.
The field that is named like the kind is its option (`--cron`), the others go with it (`--timezone`). Cron expressions
follow Debian cron when daylight saving begins or ends (through cronsim): a job of a skipped hour runs right after the
gap, a job of a repeated hour runs once, jobs with a wildcard hour follow elapsed time. No clock is read here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import Field, field_validator

from fleven.server.schedules.parts import Duration, Part, check_zone, format_duration

CRON_FIELDS = 5
"""A sixth would be seconds: no run is that short."""
LOOK_BACK = timedelta(hours=3)
"""More than any clock is moved by when daylight saving begins or ends."""


class TriggerPart(Part):
    """Base of all kinds of trigger."""

    kind: str

    @abstractmethod
    def fires_after(self, after: datetime, base: datetime) -> Iterator[datetime]:
        """Yield the fires after a moment, in UTC and in order.

        Args:
            after: fires at this very moment are not among them.
            base: the creation of the schedule, where a rhythm without a start of its own counts from.
        """

    @abstractmethod
    def text(self) -> str:
        """Return the trigger in a few words."""

    def why_never(self, now: datetime) -> str:
        """Return why a trigger that has no fire after now has none."""
        return "never fires"


class CronTrigger(TriggerPart):
    """Fires by the clock on the wall of a time zone, with Debian cron's rules when daylight saving begins or ends."""

    kind: Literal["cron"] = "cron"
    cron: str
    timezone: str = "UTC"

    _zone = field_validator("timezone")(check_zone)

    @field_validator("cron")
    @classmethod
    def _expression(cls, value: str) -> str:
        if len(value.split()) != CRON_FIELDS:
            raise ValueError(f"'{value}' is not a cron expression of five fields (minute hour day month weekday)")
        try:
            CronSim(value, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(f"'{value}' is not a cron expression: {error} (minute hour day month weekday)") from error
        return value

    def fires_after(self, after: datetime, base: datetime) -> Iterator[datetime]:
        """Yield without end, but for an expression that no day fits."""
        # A job of a repeated hour runs at the first of the two: whether it did is only seen from before that hour.
        start = (after - LOOK_BACK).astimezone(ZoneInfo(self.timezone))
        last = after
        for fire in CronSim(self.cron, start):
            moment = fire.astimezone(UTC)
            if moment > last:
                yield moment
                last = moment

    def text(self) -> str:
        """Return the expression and its zone."""
        return f"cron {self.cron} ({self.timezone})"


class EveryTrigger(TriggerPart):
    """Fires in a fixed rhythm of elapsed time, counted from `start`."""

    kind: Literal["every"] = "every"
    every: Annotated[Duration, Field(ge=10)]
    start: datetime | None = None

    @field_validator("start")
    @classmethod
    def _aware(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    def fires_after(self, after: datetime, base: datetime) -> Iterator[datetime]:
        """Yield without end."""
        start, step = self.start or base, timedelta(seconds=self.every)
        index = max(0, (after - start) // step + 1)
        while True:
            yield (start + index * step).astimezone(UTC)
            index += 1

    def text(self) -> str:
        """Return the rhythm."""
        return f"every {format_duration(self.every)}"


class AtTrigger(TriggerPart):
    """Fires once, at a moment."""

    kind: Literal["at"] = "at"
    at: datetime

    @field_validator("at")
    @classmethod
    def _aware(cls, value: datetime) -> datetime:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value

    def fires_after(self, after: datetime, base: datetime) -> Iterator[datetime]:
        """Yield the moment, when it is still to come."""
        if self.at > after:
            yield self.at.astimezone(UTC)

    def text(self) -> str:
        """Return the moment as it was given."""
        return f"once at {self.at:%Y-%m-%d %H:%M %Z}"

    def why_never(self, now: datetime) -> str:
        """Return that the moment is past, with the current time."""
        return f"{self.at:%Y-%m-%d %H:%M %Z} is past: it is {now:%Y-%m-%d %H:%M} UTC (a time without a zone is UTC)"


class ManualTrigger(TriggerPart):
    """Fires only when it is told to (`schedule run`), or after another schedule (`after`)."""

    kind: Literal["manual"] = "manual"

    def fires_after(self, after: datetime, base: datetime) -> Iterator[datetime]:
        """Yield nothing."""
        return iter(())

    def text(self) -> str:
        """Return the word for it."""
        return "manual"


AnyTrigger = Annotated[CronTrigger | EveryTrigger | AtTrigger | ManualTrigger, Field(discriminator="kind")]

TRIGGERS: tuple[type[TriggerPart], ...] = get_args(get_args(AnyTrigger)[0])
"""All kinds, in the order in which they are offered."""
