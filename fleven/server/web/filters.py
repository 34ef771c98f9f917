"""How values look on the page. Pure functions, given to the templates as filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from markupsafe import Markup, escape

from fleven.server.charts import by_time, svg_sparkline, value_range
from fleven.server.database.readings import READINGS
from fleven.server.formatting import ago, number_text
from fleven.server.runs.results import car_label
from fleven.server.schedules.parts import format_duration
from fleven.server.schedules.spec import ScheduleSpec, trigger_text
from fleven_agent.common.formatting import size_text, span

SLOTS = 60
"""Parts into which the time shown in a line is divided: one a minute on the fleet page."""
BY_NAME = {kept.name: kept for kept in READINGS}


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


def moment_tag(moment: datetime | str | None) -> Markup:
    """A moment by the clock in the server's own time zone, which stays true on a page that is not fetched again."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if moment is None:
        return Markup('<span class="faint">never</span>')
    text = moment.astimezone().strftime("%a %d %b %Y %H:%M:%S %Z")
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(timespec="seconds"), text)


def local_time(moment: datetime | None) -> str:
    """A moment in the server's own time zone, with its name."""
    return "-" if moment is None else moment.astimezone().strftime("%a %d %b %H:%M %Z")


def number(value: Any, unit: str = "") -> Markup:
    """A number with its unit, a faint dash when there is none."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return Markup('<span class="faint">-</span>')
    whole = float(value) == int(value) if abs(value) < 1e15 else False
    text = f"{int(value):,}" if whole and abs(value) >= 10_000 else number_text(float(value))
    return escape(f"{text} {unit}" if unit else text)


def reading(value: Any, unit: str = "") -> Markup:
    """A measured number: one digit after the point is more than enough."""
    return number(round(value, 1) if isinstance(value, float) else value, unit)


def size(value: Any) -> Markup:
    """Bytes in the largest decimal unit that keeps a digit before the point."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return Markup('<span class="faint">-</span>')
    return escape(size_text(value))


def duration(seconds: Any) -> Markup:
    """Seconds in their largest units."""
    if seconds is None or isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return Markup('<span class="faint">-</span>')
    return escape(f"{seconds:.1f} s" if seconds < 10 else span(seconds))


def timeline(samples: Sequence[dict[str, Any]], name: str, now: datetime, hours: float) -> Markup:
    """One reading of the last hours as an inline SVG line, with gaps where the node was silent."""
    kept = BY_NAME[name]
    points = [(sample["at"], sample[name]) for sample in samples]
    values = by_time(points, now - timedelta(hours=hours), now, SLOTS)
    svg = svg_sparkline(values, label=kept.label, unit=kept.unit, points=SLOTS, minimum_span=kept.least_range)
    return Markup(svg)  # noqa: S704  (charts escapes every text)


def extent(samples: Sequence[dict[str, Any]], field: str) -> str:
    """Smallest and largest value of a reading; an hour's maximum counts too."""
    lows = [sample[field] for sample in samples]
    highs = [sample.get(f"{field}_maximum", sample[field]) for sample in samples]
    bounds = value_range([*lows, *highs])
    return "" if bounds is None else f"{number_text(round(bounds[0], 1))} to {number_text(round(bounds[1], 1))}"


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
    if wanted.when_drift:
        parts.append("drift")
    if wanted.no_error_condition:
        parts.append("no error")
    parts.append(f"waits up to {format_duration(wanted.wait)}")
    return ", ".join(parts)


FILTERS: dict[str, Callable[..., Any]] = {
    "time_tag": time_tag,
    "moment_tag": moment_tag,
    "local_time": local_time,
    "number": number,
    "reading": reading,
    "size": size,
    "duration": duration,
    "timeline": timeline,
    "extent": extent,
    "trigger": trigger_text,
    "conditions": conditions,
    "car_label": car_label,
}
