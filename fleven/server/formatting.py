"""Numbers, times and lists as text, as commands and page write them; durations and sizes are in `common.formatting`."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime

from fleven_agent.common.formatting import span

NAME_LENGTH = 64


def ago(moment: datetime | None, at: datetime) -> str:
    """Return how long ago or how far ahead a moment is: `12 s ago`, `in 3 h`."""
    if moment is None:
        return "never"
    seconds = (at - moment).total_seconds()
    text = span(abs(seconds))
    return f"{text} ago" if seconds >= 0 else f"in {text}"


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


def reading(value: float | None, unit: str = "") -> str:
    """A number as short as it can be read, or a dash."""
    return "-" if value is None else f"{number_text(round(value, 1))}{unit}"


def number_text(value: float) -> str:
    """A number, as short as is readable: at most four significant digits, no exponent below a million."""
    if not math.isfinite(value):
        return "-"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    text = f"{value:.4g}"
    return text if "e" in text else text.rstrip("0").rstrip(".") if "." in text else text


def clean_text(text: str, length: int = 4000) -> str:
    """The text without control characters (line breaks and tabs stay): it will be printed on terminals."""
    if text.isprintable():
        return text[:length]
    return "".join(c for c in text[:length] if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs", "Cf"))


def clean_name(name: str) -> str:
    """A node name that is safe in a URL path, a metric label and a terminal; `unnamed` when nothing is left."""
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in name.strip())
    return kept.strip("-.")[:NAME_LENGTH] or "unnamed"
