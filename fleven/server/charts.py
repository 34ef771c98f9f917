"""Small charts without a plotting library: sparklines for the terminal, inline SVG for the web page.

Colours and fonts come from the page's style sheet (classes `series-0` to `series-7`), so that one chart serves light
and dark. Must not import anything of the register: everything here is a pure function over numbers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from fleven.server.formatting import number_text

Value = float | None

BLOCKS = "▁▂▃▄▅▆▇█"
GAP = " "
SERIES_COLOURS = 8
"""How many different series classes the style sheet defines."""


def resample(values: Sequence[Value], width: int) -> list[Value]:
    """Means of `width` equal slices of `values`; a slice without a number is None, a shorter input stays as it is."""
    if width < 1:
        raise ValueError("width must be at least 1")
    if len(values) <= width:
        return list(values)
    means: list[Value] = []
    for index in range(width):
        slice_values = values[index * len(values) // width : (index + 1) * len(values) // width]
        numbers = [value for value in slice_values if value is not None and math.isfinite(value)]
        means.append(sum(numbers) / len(numbers) if numbers else None)
    return means


def by_time(points: Sequence[tuple[datetime, Value]], start: datetime, end: datetime, slots: int) -> list[Value]:
    """Means of the values in each of `slots` equal parts of the time from `start` to `end`; None where there is none.

    A node that was away for an hour leaves a gap of an hour, whatever came before and after.
    """
    if slots < 1 or end <= start:
        raise ValueError("slots must be at least 1, and end after start")
    sums: list[tuple[float, int]] = [(0.0, 0)] * slots
    width_seconds = (end - start).total_seconds() / slots
    for moment, value in points:
        if value is None or not math.isfinite(value) or not start <= moment <= end:
            continue
        slot = min(slots - 1, int((moment - start).total_seconds() / width_seconds))
        total, count = sums[slot]
        sums[slot] = (total + value, count + 1)
    return [total / count if count else None for total, count in sums]


def value_range(values: Sequence[Value]) -> tuple[float, float] | None:
    """Smallest and largest finite value, or None without one."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    return (min(numbers), max(numbers)) if numbers else None


def text_sparkline(values: Sequence[Value], width: int, *, low: Value = None, high: Value = None) -> str:
    """One line of block characters, oldest first, a blank for each gap; scaled to `low`..`high` or to the values."""
    shown = resample(values, width)
    bounds = value_range(shown)
    if bounds is None:
        return ""
    bottom = bounds[0] if low is None else low
    top = bounds[1] if high is None else high
    span = top - bottom
    blocks: list[str] = []
    for value in shown:
        if value is None or not math.isfinite(value):
            blocks.append(GAP)
        elif span <= 0:
            blocks.append(BLOCKS[0])
        else:
            share = min(1.0, max(0.0, (value - bottom) / span))
            blocks.append(BLOCKS[round(share * (len(BLOCKS) - 1))])
    return "".join(blocks)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) that enclose `low`..`high`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("ticks need finite bounds")
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / max(1, count)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1.0, 2.0, 5.0, 10.0) if factor * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _segments(points: Sequence[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """Runs of points without a gap, so that a line is never drawn across missing values."""
    segments: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            segments.append([])
        else:
            segments[-1].append(point)
    return [segment for segment in segments if segment]


def _path(segment: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in segment)


def svg_sparkline(
    values: Sequence[Value],
    *,
    label: str,
    unit: str = "",
    minimum_span: float = 0.0,
    width: int = 120,
    height: int = 28,
    points: int = 60,
) -> str:
    """An inline SVG line of `values`, oldest first, with a text alternative naming smallest, largest and last.

    The height stands for at least `minimum_span`, so that noise does not look like a change. Without a finite value the
    answer is an empty string.
    """
    shown = resample(values, points)
    bounds = value_range(shown)
    if bounds is None:
        return ""
    low, high = bounds
    span = max(high - low, minimum_span) or 1.0
    bottom = (low + high - span) / 2
    step = width / max(1, len(shown) - 1)
    coordinates = [
        None
        if value is None or not math.isfinite(value)
        else (index * step, height - 2 - (value - bottom) / span * (height - 4))
        for index, value in enumerate(shown)
    ]
    last = next(value for value in reversed(shown) if value is not None and math.isfinite(value))
    suffix = f" {unit}" if unit else ""
    title = (
        f"{label}: {number_text(last)}{suffix} now, {number_text(low)} to {number_text(high)}{suffix} in the time shown"
    )
    marks = "".join(
        f'<path d="{_path(segment)}"/>'
        if len(segment) > 1
        else f'<circle cx="{segment[0][0]:.1f}" cy="{segment[0][1]:.1f}" r="1.5"/>'
        for segment in _segments(coordinates)
    )
    return (
        f'<svg class="sparkline" role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none"><title>{escape(title)}</title>{marks}</svg>'
    )


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: `points` are (x, y) in the units of the axes, y None for a gap."""

    name: str
    points: Sequence[tuple[float, Value]]


WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40


def svg_line_chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> str:
    """An inline SVG line chart with axes, round tick marks and a dot for each value; empty without a finite value."""
    ys = [y for line in series for _, y in line.points]
    xs = [x for line in series for x, y in line.points if y is not None and math.isfinite(y)]
    bounds = value_range(ys)
    if bounds is None:
        return ""
    y_ticks = nice_ticks(*bounds)
    x_low, x_high = min(xs), max(xs)
    if x_low == x_high:
        # Of a number beyond 2**53, one more is the same number.
        margin = max(1.0, abs(x_low) * 1e-9)
        x_low, x_high = x_low - margin, x_high + margin

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y_ticks[-1] - y) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)
        return across, down

    parts = [
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {HEIGHT}"><title>{escape(title)}</title>',
        *_axes(y_ticks, sorted({x for x in xs if x == int(x)}), place, x_label, y_label),
    ]
    for index, line in enumerate(series):
        parts.append(f'<g class="series-{index % SERIES_COLOURS}">')
        placed = [None if y is None or not math.isfinite(y) else place(x, y) for x, y in line.points]
        parts += [f'<path d="{_path(segment)}"/>' for segment in _segments(placed) if len(segment) > 1]
        for x, y in line.points:
            if y is not None and math.isfinite(y):
                across, down = place(x, y)
                hint = escape(f"{line.name}, {x_label} {number_text(x)}: {number_text(y)}")
                parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3"><title>{hint}</title></circle>')
        parts.append("</g>")
    parts.append("</svg>")
    return "".join(parts)


def _axes(
    y_ticks: Sequence[float],
    x_values: Sequence[float],
    place: Callable[[float, float], tuple[float, float]],
    x_label: str,
    y_label: str,
) -> list[str]:
    parts: list[str] = []
    for tick in y_ticks:
        _, down = place(x_values[0] if x_values else 0.0, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{number_text(tick)}</text>')
    every = max(1, math.ceil(len(x_values) / 12))
    for x in x_values[::every]:
        across, _ = place(x, y_ticks[0])
        text = number_text(x)
        parts.append(f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    height_middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text transform="translate(12 {height_middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    return parts
