"""Allowed hours: when a car may train, in a time zone.

Pure. Imports ``zoneinfo`` only when a zone is named. Imports nothing of the agent but the settings.
"""

import re
from datetime import datetime, tzinfo

from fleven_agent.config.settings import Gates

_SPAN = re.compile(r"^(?:(?P<days>[a-z,\-]+)\s+)?(?P<start>\d{1,2}:\d{2})\s*-\s*(?P<end>\d{1,2}:\d{2})$")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HINT = 'for example "20:00-06:00" or "sat,sun 00:00-24:00"'

Span = tuple[frozenset[int], int, int]
"""Weekdays (0 is Monday), first minute of the day, minute after the last; an end before the start is next day's."""


def parse(text: str) -> Span:
    """Parse one span.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    match = _SPAN.match(text.strip().lower())
    if match is None:
        raise ValueError(f'"{text}" is not a span of hours')
    start, end = _minute(match["start"]), _minute(match["end"])
    if start == end:
        raise ValueError(f'"{text}" is empty')
    return _weekdays(match["days"]), start, end


def _minute(text: str) -> int:
    hour, minute = (int(part) for part in text.split(":"))
    if minute > 59 or hour * 60 + minute > 24 * 60:
        raise ValueError(f'"{text}" is not a time of day')
    return hour * 60 + minute


def _weekdays(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise ValueError(f'"{part}" is not a weekday (mon to sun)')
        begin = _DAYS.index(first)
        length = (_DAYS.index(last) - begin) % 7 if dash else 0
        days.update((begin + step) % 7 for step in range(length + 1))
    return frozenset(days)


def zone(name: str | None) -> tzinfo | None:
    """Return a time zone by its name; None means the machine's own.

    Raises:
        ValueError: when this machine does not know the name.
    """
    if name is None:
        return None
    from zoneinfo import ZoneInfo  # 1 MB of memory that only a named zone needs

    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f'time-zone "{name}" is not known on this machine') from error


def allowed(spans: tuple[str, ...], moment: datetime) -> bool:
    """Return whether a local moment lies in one of the spans; no spans allow all.

    Across midnight the weekday is that of the start: "fri 22:00-06:00" ends on Saturday morning.
    """
    if not spans:
        return True
    minute = moment.hour * 60 + moment.minute
    today, yesterday = moment.weekday(), (moment.weekday() - 1) % 7
    for days, start, end in map(parse, spans):
        if start < end:
            if today in days and start <= minute < end:
                return True
        elif (today in days and minute >= start) or (yesterday in days and minute < end):
            return True
    return False


def problems(gates: Gates) -> list[tuple[str, str]]:
    """Return (problem, hint) for each span or zone that cannot be used."""
    found: list[tuple[str, str]] = []
    for text in gates.allowed_hours:
        try:
            parse(text)
        except ValueError as error:
            found.append((str(error), _HINT))
    try:
        zone(gates.time_zone)
    except ValueError as error:
        found.append((str(error), 'for example "America/Sao_Paulo"; the package tzdata provides the names'))
    return found
