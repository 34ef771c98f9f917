"""How values look on the page. Pure functions, given to the templates as filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup, escape

from fleven.server.charts import number_text, svg_sparkline
from fleven.server.cli_common import ago, span
from fleven.server.schedule_spec import (
    AtTrigger,
    CronTrigger,
    EveryTrigger,
    ScheduleSpec,
    format_duration,
)

UNITS = ("B", "kB", "MB", "GB", "TB")


def time_tag(moment: datetime | str | None, now: datetime) -> Markup:
    """A moment as `12 s ago`, with the full time for the pointer and for programs."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if moment is None:
        return Markup('<span class="faint">never</span>')
    local = moment.astimezone()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"), local.strftime("%a %d %b %Y %H:%M:%S %Z"), ago(moment, now)
    )


def local_time(moment: datetime | None) -> str:
    """A moment in the server's own time zone, with its name."""
    return "-" if moment is None else moment.astimezone().strftime("%a %d %b %H:%M %Z")


def number(value: Any, unit: str = "") -> Markup:
    """A number with its unit, a faint dash when there is none."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return Markup('<span class="faint">-</span>')
    text = number_text(float(value))
    return escape(f"{text} {unit}" if unit else text)


def size(value: Any) -> Markup:
    """Bytes in the largest decimal unit that keeps a digit before the point."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return Markup('<span class="faint">-</span>')
    amount = float(value)
    for unit in UNITS:
        if abs(amount) < 1000 or unit == UNITS[-1]:
            return escape(f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}")
        amount /= 1000
    raise AssertionError("the last unit takes every amount")


def duration(seconds: Any) -> Markup:
    """Seconds in their largest units."""
    if seconds is None or isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return Markup('<span class="faint">-</span>')
    return escape(f"{seconds:.1f} s" if seconds < 10 else span(seconds))


def sparkline(values: Sequence[float | None], label: str, unit: str = "") -> Markup:
    """An inline SVG line; every text in it is escaped by `charts`."""
    return Markup(svg_sparkline(values, label=label, unit=unit))  # noqa: S704


def trigger(spec: ScheduleSpec) -> str:
    """When a schedule fires, in words."""
    when = spec.trigger
    if isinstance(when, CronTrigger):
        return f"cron {when.cron} ({when.timezone})"
    if isinstance(when, EveryTrigger):
        return f"every {format_duration(when.every)}"
    if isinstance(when, AtTrigger):
        return f"once at {local_time(when.at)}"
    return f"after {spec.after} succeeds" if spec.after else "only by hand"


def conditions(spec: ScheduleSpec) -> str:
    """What must hold before a run starts, in words."""
    wanted = spec.conditions
    parts = [f"{wanted.min_nodes} node{'s' if wanted.min_nodes != 1 else ''} ready"] if wanted.min_nodes else []
    if wanted.nodes:
        parts.append(f"with {', '.join(wanted.nodes)}")
    if wanted.labels:
        parts.append(f"labels {', '.join(wanted.labels)}")
    if wanted.fresh_data:
        parts.append("new data")
    if wanted.no_error_condition:
        parts.append("no error")
    parts.append(f"waits up to {format_duration(wanted.wait)}")
    return ", ".join(parts)


FILTERS: dict[str, Callable[..., Any]] = {
    "time_tag": time_tag,
    "local_time": local_time,
    "number": number,
    "size": size,
    "duration": duration,
    "sparkline": sparkline,
    "trigger": trigger,
    "conditions": conditions,
}
