"""When a schedule fires: next fires, missed fires, blackouts. Pure; no clock is read.

The fires themselves come from the schedule's trigger (`triggers`); what becomes of those that were missed is said here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from zoneinfo import ZoneInfo

from fleven.server.schedules.spec import Blackout, Missed, ScheduleSpec

ON_TIME = timedelta(seconds=90)
"""A fire that is at most this late was not missed: the loop was only busy or just restarted."""
MAXIMUM_COUNTED = 1000
"""More fires than this are not counted one by one when they were missed."""
MAXIMUM_LAST = 10 * MAXIMUM_COUNTED
"""Of more fires than this that are not too late, the oldest are left out."""
A_WEEK = timedelta(days=7)
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def next_fire(spec: ScheduleSpec, after: datetime, base: datetime) -> datetime | None:
    """Return the first fire after a moment, or None when there is none."""
    return next(spec.trigger.fires_after(after, base), None)


def next_fires(spec: ScheduleSpec, after: datetime, base: datetime, count: int) -> list[datetime]:
    """Return up to `count` fires after a moment."""
    return list(islice(spec.trigger.fires_after(after, base), count))


class PassedOver(StrEnum):
    """Why a fire gets no run of its own."""

    MISSED = "missed"
    TOO_LATE = "too-late"


@dataclass(frozen=True, slots=True)
class Passed:
    """Fires that get no run of their own, summed up in one skipped run.

    Attributes:
        reason: why they get none.
        first: the first of them.
        last: the last of them.
        count: how many; `MAXIMUM_COUNTED` means that many or more.
    """

    reason: PassedOver
    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Firing:
    """What one look at the clock means for a schedule.

    Attributes:
        due: fires that become runs, in order.
        passed: fires that become one skipped run for each reason.
        anchor: all fires up to here are handled.
        next_fire: the first fire after the anchor.
    """

    due: tuple[datetime, ...]
    passed: tuple[Passed, ...]
    anchor: datetime
    next_fire: datetime | None


def fire(spec: ScheduleSpec, anchor: datetime, base: datetime, now: datetime) -> Firing:
    """Return the fires between the anchor and now, by the schedule's rules for missed ones.

    A clock that was set back moves the anchor back with it; fires that already have a run are recognised by their key
    in the register and are not doubled.

    Args:
        spec: the schedule.
        anchor: all fires up to here were handled.
        base: creation of the schedule.
        now: the current time.
    """
    if now <= anchor:
        return Firing((), (), now, next_fire(spec, now, base))
    horizon = now - timedelta(seconds=spec.maximum_lateness)
    too_late = fires_until(spec, anchor, min(horizon - timedelta(microseconds=1), now), base)
    start = max(anchor, horizon - timedelta(microseconds=1))
    within = last_fires(spec, start, now, base)
    on_time = [moment for moment in within if now - moment <= ON_TIME]
    late = [moment for moment in within if now - moment > ON_TIME]
    missed: list[datetime]
    match spec.missed:
        case Missed.ALL:
            due, missed = [*late, *on_time], []
        case Missed.LATEST:
            due, missed = ([*on_time], late) if on_time else (late[-1:], late[:-1])
        case Missed.SKIP:
            due, missed = [*on_time], late
    passed = [summed(PassedOver.TOO_LATE, too_late), summed(PassedOver.MISSED, missed)]
    return Firing(tuple(due), tuple(part for part in passed if part), now, next_fire(spec, now, base))


def fires_until(spec: ScheduleSpec, after: datetime, until: datetime, base: datetime) -> list[datetime]:
    """Return the fires in (after, until]; the first `MAXIMUM_COUNTED` of them when there are more."""
    if until <= after:
        return []
    return list(islice(takewhile_until(spec.trigger.fires_after(after, base), until), MAXIMUM_COUNTED))


def last_fires(spec: ScheduleSpec, after: datetime, until: datetime, base: datetime) -> list[datetime]:
    """Return the fires in (after, until]; only the last `MAXIMUM_LAST` of them when there are more."""
    # Looked for from the end: the first of a year of fires every ten seconds are of no use, and would take long.
    span = timedelta(hours=1)
    while True:
        start = max(after, until - span)
        found = list(takewhile_until(spec.trigger.fires_after(start, base), until))
        if start == after or len(found) >= MAXIMUM_LAST:
            return found[-MAXIMUM_LAST:]
        span *= 2


def takewhile_until(fires: Iterator[datetime], until: datetime) -> Iterator[datetime]:
    """Yield fires up to and including a moment."""
    for moment in fires:
        if moment > until:
            return
        yield moment


def summed(reason: PassedOver, moments: list[datetime]) -> Passed | None:
    """Return several fires as one note, or None for none."""
    return Passed(reason, moments[0], moments[-1], len(moments)) if moments else None


def blackout_until(blackouts: tuple[Blackout, ...], now: datetime) -> datetime | None:
    """Return when the blackout that holds now ends, or None when none does.

    Windows that touch or overlap count as one. A blackout that holds for a week never ends: the first end of a
    window after that week is returned for it.
    """
    end: datetime | None = None
    while end is None or end < now + A_WEEK:
        ends = [found for window in blackouts if (found := window_end(window, end or now)) is not None]
        if not ends:
            break
        end = max(ends)
    return end


def window_end(window: Blackout, now: datetime) -> datetime | None:
    """Return when a blackout window ends if it holds now, else None; the end itself is free."""
    zone = ZoneInfo(window.timezone)
    here = now.astimezone(zone)
    # A window over midnight belongs to the day on which it begins, so yesterday's may still hold.
    for day in (here.date(), here.date() - timedelta(days=1)):
        if window.days and WEEKDAYS[day.weekday()] not in window.days:
            continue
        start = datetime.combine(day, window.start, zone)
        last_day = day if window.end > window.start else day + timedelta(days=1)
        end = datetime.combine(last_day, window.end, zone)
        if start.astimezone(UTC) <= now.astimezone(UTC) < end.astimezone(UTC):
            return end.astimezone(UTC)
    return None
