"""Figures, times and lists as text: the one way in which commands, journal and page write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime


def ago(moment: datetime | None, at: datetime) -> str:
    """Return how long ago or how far ahead a moment is: `12 s ago`, `in 3 h`."""
    if moment is None:
        return "never"
    seconds = (at - moment).total_seconds()
    text = span(abs(seconds))
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def span(seconds: float) -> str:
    """Return a duration in its one or two largest units, with spaces: `45 s`, `12 min`, `3 h 20 min`, `5 d`."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    if whole < 90 * 60:
        return f"{round(whole / 60)} min"
    hours, minutes = divmod(round(whole / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round(hours / 24)} d"


def local(moment: datetime | None) -> str:
    """Return a moment in the machine's time zone: `Tue 24 Nov 02:00`."""
    if moment is None:
        return "-"
    return moment.astimezone().strftime("%a %d %b %H:%M")


def joined(names: Iterable[str], limit: int = 8) -> str:
    """Return names in one phrase; after `limit` names only how many more there are."""
    listed: Sequence[str] = list(names)
    if len(listed) > limit:
        return f"{', '.join(listed[:limit])} and {len(listed) - limit} more"
    return ", ".join(listed)


def duration_text(seconds: float) -> str:
    """A duration in its largest whole unit: 42 s, 12 min, 3 h, 5 d."""
    if seconds < 120:
        return f"{round(seconds)} s"
    if seconds < 7200:
        return f"{round(seconds / 60)} min"
    if seconds < 172_800:
        return f"{round(seconds / 3600)} h"
    return f"{round(seconds / 86_400)} d"


def reading(value: float | None, unit: str = "") -> str:
    """A number as short as it can be read, or a dash."""
    return "-" if value is None else f"{number_text(round(value, 1))}{unit}"


def size_text(value: float | None) -> str:
    """Bytes in the largest decimal unit that keeps a digit before the point."""
    if value is None:
        return "-"
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(amount) < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def number_text(value: float) -> str:
    """A number, as short as is readable: at most four significant digits, no exponent below a million."""
    if not math.isfinite(value):
        return "-"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    text = f"{value:.4g}"
    return text if "e" in text else text.rstrip("0").rstrip(".") if "." in text else text
