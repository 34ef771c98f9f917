"""From a log's clock to seconds: numbers, `00:03:02`, date and time, and why a column is not a clock.

Must not import torch or flwr.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fleven.app import columns
from fleven.data.importing.cell_parsing import (
    Cells,
    evidence,
    is_number,
    is_text,
    parse_numbers,
    parse_texts,
    take_apart,
)
from fleven.data.importing.logger_names import normal_unit
from fleven.data.importing.time_units import (
    DAY_SECONDS,
    SECONDS,
    Evidence,
    Verdict,
    contradicted,
    digits_of_a_clock,
    judge,
)
from fleven.data.importing.timestamps import date_times, durations, is_compact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fleven.data.importing.column_mapping import Candidate

# A clock that shows the same time in more than this share of its steps does not tell rows apart.
_STANDING_SHARE: Final = 0.8
# Unless it shows whole seconds, and the logger reads up to so many rows in each.
_MOST_ROWS_A_SECOND: Final = 50
_BACKWARDS_SHARE: Final = 0.5
# The year 5138: a time beyond it is a count of something smaller than seconds, or a broken cell.
_LATEST_SECONDS: Final = 1e11
_READABLE_SHARE: Final = 0.8
_HALF_DAY_SECONDS: Final = DAY_SECONDS / 2
_HOUR_SECONDS: Final = 3600.0


class ClockKind(StrEnum):
    """What a clock's zero is."""

    SECONDS = "seconds"  # of the trip, the engine or the logger: says nothing across a restart
    DURATION = "duration"  # h:mm:ss since some start, or the time of day
    EPOCH = "epoch"  # seconds since 1970
    DATE_TIME = "date-time"


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock's readings: seconds [rows], NaN where it cannot be read. `absolute` clocks order a whole log.

    `period` is after how many seconds it shows the same again. `unit` is what its numbers were found to count, empty
    where that was said. `notes` tell the operator what was taken for granted.
    """

    kind: ClockKind
    seconds: NDArray[np.float64]
    period: float = DAY_SECONDS
    unit: str = ""
    notes: tuple[str, ...] = ()

    @property
    def absolute(self) -> bool:
        """Whether its times compare across restarts."""
        return self.kind in (ClockKind.EPOCH, ClockKind.DATE_TIME)


@dataclass(frozen=True, slots=True)
class ClockContext:
    """What helps to read a clock: the rows' order by vehicle, a date beside it, and readings that change with time.

    `order` puts the rows [rows] of a vehicle one after another, in the file's order; `same[i]` says that the rows at
    i and i+1 of that order are of the same vehicle.
    """

    order: NDArray[np.int64]
    same: NDArray[np.bool_]
    date: Any | None = None
    date_header: str = ""
    evidence: tuple[Evidence, ...] = field(default=())

    @classmethod
    def plain(cls, rows: int, date: Any | None = None) -> ClockContext:
        """Return those of a file with one vehicle and nothing else to go by."""
        return cls(np.arange(rows), np.ones(max(rows - 1, 0), dtype=bool), date, "date")


def read_clock(column: Any, candidate: Candidate, mark: str, around: ClockContext) -> Clock | str:
    """Return the clock in a column, or why it is none."""
    import pyarrow as pa

    if is_number(column):
        parsed = parse_numbers(column, columns.TIME_COLUMN, candidate.unit)
        return _checked(_from_numbers(parsed.values, candidate, candidate.unit, around), around)
    if pa.types.is_timestamp(column.type):
        return _checked(Clock(ClockKind.DATE_TIME, _timestamps(column)), around)
    if not is_text(column):
        return f"holds {column.type}, not times"
    cells = take_apart(column)
    own_mark = evidence(cells).mark(mark)
    parsed = parse_texts(cells, columns.TIME_COLUMN, candidate.unit, own_mark, declared=candidate.declared)
    if _share(parsed.values) >= _READABLE_SHARE * _given(cells) and not is_compact(_readable(cells)):
        units = [unit for unit in parsed.units if unit]
        unit = candidate.unit or (units[0] if units else "")
        return _checked(_from_numbers(parsed.values, candidate, unit, around), around)
    found = durations(cells.texts)
    seconds = found.seconds[cells.codes]
    if _share(seconds) >= _READABLE_SHARE * _given(cells):
        return _checked(_time_of_day(column, cells, seconds, found.hours_dropped, found.twelve_hours, around), around)
    stamps = date_times(cells.texts)
    seconds = stamps.seconds[cells.codes]
    if _share(seconds) >= _READABLE_SHARE * _given(cells):
        return _checked(_date_time(seconds, cells, guessed=stamps.guessed_first), around)
    joined = _with_date(column, cells, around)
    if isinstance(joined, Clock):
        return _checked(joined, around)
    if parsed.unknown_units and candidate.unit in parsed.unknown_units:
        hint = f"--unit {columns.TIME_COLUMN}=s (or ms) says what it is"
        return f"is in {candidate.unit!r}, which is no unit of time: {hint}"
    read = np.isfinite(parsed.values) | np.isfinite(found.seconds[cells.codes]) | np.isfinite(seconds)
    unread = cells.codes[~read & ~cells.missing[cells.codes]]
    example = cells.texts[int(unread[0])].as_py()[:40] if len(unread) else parsed.example
    return f"holds no times that can be read, such as {example or 'nothing'!r}"


def _readable(cells: Cells) -> Any:
    import pyarrow as pa

    return cells.texts.filter(pa.array(~cells.missing))


def _given(cells: Cells) -> float:
    """Share of rows that have a cell at all; at least a little, so that an empty column is no clock."""
    total = int(cells.counts.sum())
    return max(1.0 - float(cells.counts[cells.missing].sum()) / max(total, 1), 0.05)


def _share(values: NDArray[np.float64]) -> float:
    return float(np.isfinite(values).mean()) if len(values) else 0.0


def _time_of_day(
    column: Any,
    cells: Cells,
    seconds: NDArray[np.float64],
    hours_dropped: bool,
    twelve_hours: bool,
    around: ClockContext,
) -> Clock:
    """Return a clock of h:mm:ss, with the date beside it where that can be read."""
    notes: tuple[str, ...] = ()
    if around.date is not None:
        joined = _with_date(column, cells, around)
        if isinstance(joined, Clock):
            return joined
        if joined:
            notes = (joined,)
    if hours_dropped:
        notes += (
            "shows minutes and seconds alone, as spreadsheets leave times of day when they drop the hours: drives that "
            "are whole hours apart cannot be told apart",
        )
        return Clock(ClockKind.DURATION, seconds, _HOUR_SECONDS, notes=notes)
    return Clock(ClockKind.DURATION, seconds, _HALF_DAY_SECONDS if twelve_hours else DAY_SECONDS, notes=notes)


def _with_date(column: Any, cells: Cells, around: ClockContext) -> Clock | str:
    """Return the clock of date and time in two columns, or what is wrong with the date; an empty text without one."""
    if around.date is None or not is_text(around.date):
        return ""
    joined = _joined(around.date, column)
    stamps = date_times(joined.texts)
    seconds = stamps.seconds[joined.codes]
    if _share(seconds) >= _READABLE_SHARE * _given(cells):
        return _date_time(seconds, joined, guessed=stamps.guessed_first)
    dates = take_apart(around.date)
    if dates.missing.all():
        return ""
    example = dates.texts[int(np.argmin(dates.missing))].as_py()[:40]
    return f"{around.date_header} holds no dates that can be read, such as {example!r}: the time of day is used alone"


def _date_time(seconds: NDArray[np.float64], cells: Cells, *, guessed: str) -> Clock:
    notes: tuple[str, ...] = ()
    if guessed:
        example = cells.texts[int(np.argmin(cells.missing))].as_py()[:40]
        notes = (f"does not say whether day or month comes first, as in {example!r}: the {guessed} is assumed to",)
    return Clock(ClockKind.DATE_TIME, seconds, notes=notes)


def _checked(clock: Clock | str, around: ClockContext) -> Clock | str:
    """Refuse a clock that does not move, or whose unit cannot be right; empty the cells that are no time."""
    if isinstance(clock, str):
        return clock
    if clock.absolute:
        beyond = np.abs(clock.seconds) >= _LATEST_SECONDS
        given = int(np.isfinite(clock.seconds).sum())
        if 2 * int(beyond.sum()) > given:
            example = float(clock.seconds[beyond][0])
            return f"says {example:.4g} s since 1970: --unit {columns.TIME_COLUMN}=ms (or us, ns) says what it counts"
        clock = replace(clock, seconds=np.where(beyond, np.nan, clock.seconds))
    seconds = clock.seconds[np.isfinite(clock.seconds)]
    rising = np.diff(seconds)[np.diff(seconds) > 0]
    every_second = len(rising) > 0 and float(np.median(rising)) <= 1.0
    standing = _standing(seconds, whole=every_second and bool((seconds == np.floor(seconds)).all()))
    if standing:
        return standing
    back, moving = _steps_back(clock.seconds, around)
    if not clock.absolute and moving and back > _BACKWARDS_SHARE * moving:
        return f"runs backwards: {back} of {moving} steps go back"
    return clock


def _standing(seconds: NDArray[np.float64], *, whole: bool) -> str:
    """Return why a clock tells no rows apart, an empty text where it does.

    One of `whole` seconds may show the same in most rows, as long as it goes on every second.
    """
    if len(seconds) < 2:
        return ""
    steps = np.diff(seconds)
    rising = steps[steps > 0]
    busy = len(rising) >= 2 and len(rising) * _MOST_ROWS_A_SECOND >= len(seconds)
    if float((steps == 0).mean()) <= _STANDING_SHARE or (whole and busy):
        return ""
    return f"stands still: {len(np.unique(seconds))} different times in {len(seconds)} rows"


def _steps_back(seconds: NDArray[np.float64], around: ClockContext) -> tuple[int, int]:
    """Return how many steps of a vehicle's rows go back, and how many go anywhere."""
    steps = rows_steps(seconds, around)
    return int((steps < 0).sum()), int((steps != 0).sum())


def rows_steps(seconds: NDArray[np.float64], around: ClockContext) -> NDArray[np.float64]:
    """Return the steps from row to row of the same vehicle, over rows without a time."""
    ordered = seconds[around.order]
    vehicle = np.concatenate([[0], np.cumsum(~around.same)]) if len(ordered) else np.zeros(0, dtype=np.int64)
    given = np.isfinite(ordered)
    steps: NDArray[np.float64] = np.diff(ordered[given])[np.diff(vehicle[given]) == 0]
    return steps


def _from_numbers(values: NDArray[np.float64], candidate: Candidate, unit: str, around: ClockContext) -> Clock | str:
    """Find out what numbers count: by their unit, else by the logger's pace and what the car would have to do."""
    finite = values[np.isfinite(values)]
    typical = float(np.median(finite)) if len(finite) else 0.0
    kind = ClockKind.EPOCH if typical >= 1e8 else ClockKind.SECONDS
    ordered = values[around.order]
    evidence = [_ordered(each, around) for each in around.evidence]
    if unit and not candidate.declared:
        sized = typical < _LATEST_SECONDS
        return (sized and _not_as_said(ordered, unit, around, evidence)) or Clock(kind, values)
    if candidate.declared or (candidate.in_seconds and typical < _LATEST_SECONDS):
        return Clock(kind, values)
    digits = digits_of_a_clock(ordered)
    if digits is not None:
        clock = np.empty(len(values))
        clock[around.order] = digits
        return Clock(ClockKind.DURATION, clock, notes=("is read as hhmmss: no number in it ends in 60 to 99",))
    verdict = judge(ordered, around.same, evidence)
    if len(verdict.readings) > 1:
        return _standing(finite, whole=True) or _ambiguous(verdict)
    if not verdict.readings:
        return _by_size(values, typical, kind)
    reading = verdict.readings[0]
    seconds = values * reading.factor + reading.offset
    if reading.factor >= DAY_SECONDS:
        seconds = np.round(seconds, 3)  # days are written with nine digits behind the mark at best
    if reading.since_1970:
        kind = ClockKind.DATE_TIME if reading.factor >= DAY_SECONDS else ClockKind.EPOCH
        return Clock(kind, seconds, unit="" if reading.factor == SECONDS.factor else reading.name)
    if reading.factor == SECONDS.factor:
        return Clock(ClockKind.SECONDS, seconds)
    note = f"counts {reading.name}: a step is {verdict.step:g}, which is {verdict.step * reading.factor:.3g} s"
    return Clock(ClockKind.SECONDS, seconds, unit=reading.name, notes=(note,))


def _not_as_said(seconds: NDArray[np.float64], unit: str, around: ClockContext, evidence: list[Evidence]) -> str:
    """Return why a clock cannot count what it says, an empty text if it can."""
    scale = columns.conversion(columns.CANONICAL[columns.TIME_COLUMN], normal_unit(unit))
    verdict = contradicted(seconds / scale[0], scale[0], around.same, evidence) if scale else None
    if verdict is None or scale is None:
        return ""
    others = " or ".join(each.name for each in verdict.readings)
    ways = " or ".join(f"--unit {columns.TIME_COLUMN}={each.unit}" for each in verdict.readings if each.unit)
    said = (
        f"says {unit}, which would be a row every {verdict.step * scale[0]:.3g} s, and the car's readings say {others}"
    )
    return f"{said}: {ways} (or ={unit}) says which"


def _ordered(each: Evidence, around: ClockContext) -> Evidence:
    return replace(each, values=each.values[around.order])


def _ambiguous(verdict: Verdict) -> str:
    said = " or ".join(f"{each.name} (steps of {verdict.step * each.factor:.3g} s)" for each in verdict.readings)
    ways = " or ".join(f"--unit {columns.TIME_COLUMN}={each.unit}" for each in verdict.readings if each.unit)
    return f"does not say what it counts, and it may be {said}: {ways} says which"


def _by_size(values: NDArray[np.float64], typical: float, kind: ClockKind) -> Clock:
    """Recognise milli-, micro- and nanoseconds since 1970 by their size alone, where the pace says nothing."""
    for least, factor in ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3)):
        if typical >= least:
            return Clock(ClockKind.EPOCH, values * factor)
    return Clock(kind, values)


def _joined(date: Any, time: Any) -> Cells:
    import pyarrow.compute as pc

    return take_apart(pc.binary_join_element_wise(date, time, " "))


def _timestamps(column: Any) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    # Not safe: nanoseconds are cut off, which no logger measures.
    micros = pc.cast(pc.cast(column, pa.timestamp("us", tz=column.type.tz), safe=False), pa.int64())
    seconds: NDArray[np.float64] = pc.cast(micros, pa.float64()).to_numpy().astype(np.float64) / 1e6
    return seconds


def unwrap(
    seconds: NDArray[np.float64], same: NDArray[np.bool_], period: float, longest_pause: float
) -> NDArray[np.float64]:
    """Carry times of day over midnight: a drive from 23:59 to 00:01 is one drive.

    `same[i]` says that row i+1 belongs to the same vehicle as row i; `period` [s] is when the clock restarts. A step
    back that, a period later, is a step forward of at most `longest_pause` [s] crosses midnight; a clock that begins
    again within the day must go on within 10 s.
    """
    longest = longest_pause if period == DAY_SECONDS else min(longest_pause, 10.0)
    steps = np.diff(seconds)
    crosses = same & (steps < 0) & (steps + period > 0) & (steps + period <= longest)
    periods = np.concatenate([[0.0], np.cumsum(crosses)])
    return seconds + periods * period
