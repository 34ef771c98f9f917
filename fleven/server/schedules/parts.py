"""What the parts of a schedule are made of: the base of their models, durations, time zones.

Must not read clocks or the register.
"""

from __future__ import annotations

import re
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.functional_validators import BeforeValidator

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


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
        raise ValueError(f"'{value}' is not a duration (write 90s, 15m, 4h, 1h30m, 7d)")
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
        raise ValueError(f"'{value}' is not a time zone (write one like Europe/Lisbon or America/Sao_Paulo)") from error
    return value
