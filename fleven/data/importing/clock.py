"""A log's clock to seconds: numbers, `00:03:02`, date and time, and which of several clocks to believe.

Must not import torch or flwr.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

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

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fleven.data.importing.column_mapping import Candidate

DAY_SECONDS: Final = 86_400.0
# A clock that shows the same time in more than this share of its steps does not tell rows apart.
_STANDING_SHARE: Final = 0.8
# The year 5138: a time beyond it is a count of something smaller than seconds, or a broken cell.
_LATEST_SECONDS: Final = 1e11
_READABLE_SHARE: Final = 0.8
_CLOCK_TEXT: Final = r"^(?:(?P<h>\d+):)?(?P<m>\d+):(?P<s>[0-5]?\d(?:[.,]\d+)?)$"
# Tried in this order; where day and month could be swapped, the reading with the shorter log wins.
_DATE_FORMATS: Final = (
    "ISO8601",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M:%S",
    "%d.%m.%Y %H:%M:%S",
    "%d-%m-%Y %H:%M:%S",
    "%Y/%m/%d %H:%M:%S",
    "%d-%b-%Y %H:%M:%S",
    "%m/%d/%Y %I:%M:%S %p",
    "%d/%m/%Y %I:%M:%S %p",
    "%a %b %d %H:%M:%S %Y",
)


class ClockKind(StrEnum):
    """What a clock's zero is."""

    SECONDS = "seconds"  # of the trip, the engine or the logger: says nothing across a restart
    DURATION = "duration"  # h:mm:ss since some start, or the time of day
    EPOCH = "epoch"  # seconds since 1970
    DATE_TIME = "date-time"


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock's readings: seconds [rows], NaN where it can not be read. `absolute` clocks order a whole log."""

    kind: ClockKind
    seconds: NDArray[np.float64]

    @property
    def absolute(self) -> bool:
        return self.kind in (ClockKind.EPOCH, ClockKind.DATE_TIME)


def read_clock(column: Any, candidate: Candidate, mark: str, date: Any | None = None) -> Clock | str:
    """Return the clock in a column, or why it is none. `date` is a column with the day for times of day."""
    import pyarrow as pa

    if is_number(column):
        parsed = parse_numbers(column, columns.TIME_COLUMN, candidate.unit)
        return _usable(_from_numbers(parsed.values, candidate.unit))
    if pa.types.is_timestamp(column.type):
        return _usable(Clock(ClockKind.DATE_TIME, _timestamps(column)))
    if not is_text(column):
        return f"holds {column.type}, not times"
    cells = take_apart(column)
    own_mark = evidence(cells).mark(mark)
    parsed = parse_texts(cells, columns.TIME_COLUMN, candidate.unit, own_mark, declared=candidate.declared)
    if _share(parsed.values) >= _READABLE_SHARE * _given(cells):
        units = [unit for unit in parsed.units if unit]
        return _usable(_from_numbers(parsed.values, candidate.unit or (units[0] if units else "")))
    texts = pd.Series(cells.texts.to_pylist(), dtype=str)
    durations = _durations(texts)
    if _share(durations[cells.codes]) >= _READABLE_SHARE * _given(cells):
        if date is not None and is_text(date):
            joined = _joined(date, column)
            stamps = _date_times(pd.Series(joined.texts.to_pylist(), dtype=str))[joined.codes]
            if _share(stamps) >= _READABLE_SHARE * _given(cells):
                return _usable(Clock(ClockKind.DATE_TIME, stamps))
        return _usable(Clock(ClockKind.DURATION, durations[cells.codes]))
    stamps = _date_times(texts)[cells.codes]
    if _share(stamps) >= _READABLE_SHARE * _given(cells):
        return _usable(Clock(ClockKind.DATE_TIME, stamps))
    return f"holds no times that can be read, such as {parsed.example or 'nothing'!r}"


def _given(cells: Cells) -> float:
    """Share of rows that have a cell at all; at least a little, so that an empty column is no clock."""
    total = int(cells.counts.sum())
    return max(1.0 - float(cells.counts[cells.missing].sum()) / max(total, 1), 0.05)


def _share(values: NDArray[np.float64]) -> float:
    return float(np.isfinite(values).mean()) if len(values) else 0.0


def _usable(clock: Clock) -> Clock | str:
    """Refuse a clock that does not move, or whose unit can not be right; empty the cells that are no time."""
    if clock.absolute:
        beyond = np.abs(clock.seconds) >= _LATEST_SECONDS
        given = int(np.isfinite(clock.seconds).sum())
        if 2 * int(beyond.sum()) > given:
            example = float(clock.seconds[beyond][0])
            return f"says {example:.4g} s since 1970: --unit {columns.TIME_COLUMN}=ms (or us, ns) says what it counts"
        clock = Clock(clock.kind, np.where(beyond, np.nan, clock.seconds))
    seconds = clock.seconds[np.isfinite(clock.seconds)]
    if len(seconds) > 1 and float((np.diff(seconds) == 0).mean()) > _STANDING_SHARE:
        return f"stands still: {len(np.unique(seconds))} different times in {len(seconds)} rows"
    return clock


def _from_numbers(values: NDArray[np.float64], unit: str) -> Clock:
    """Recognise seconds, milliseconds, micro- and nanoseconds since 1970 by their size where no unit is given."""
    finite = values[np.isfinite(values)]
    typical = float(np.median(finite)) if len(finite) else 0.0
    if not unit:
        for least, factor in ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3)):
            if typical >= least:
                return Clock(ClockKind.EPOCH, values * factor)
    # 1e8 s is March 1973; no engine has run for three years.
    return Clock(ClockKind.EPOCH if typical >= 1e8 else ClockKind.SECONDS, values)


def _durations(texts: pd.Series[str]) -> NDArray[np.float64]:
    """`1:02:03.5` and `02:03` to seconds; NaN for anything else."""
    parts = texts.str.extract(_CLOCK_TEXT)
    numbers = [pd.to_numeric(parts[name].str.replace(",", "."), errors="coerce").to_numpy() for name in ("h", "m", "s")]
    hours, minutes, seconds = (np.asarray(each, dtype=np.float64) for each in numbers)
    return np.nan_to_num(hours) * 3600.0 + minutes * 60.0 + seconds


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


def _date_times(texts: pd.Series[str]) -> NDArray[np.float64]:
    """Date and time texts to seconds since 1970 UTC (a text without a zone counts as UTC); NaN for anything else."""
    # Names of zones that are UTC, and fractions, would need a format each.
    plain = texts.str.replace(r"\b(?:GMT|UTC)(?:[+-]00:?00)?\b ?", "", regex=True).str.replace(",", ".")
    fraction = plain.str.extract(r":\d{2}(\.\d+)", expand=False)
    plain = plain.str.replace(r"(:\d{2})\.\d+", r"\1", regex=True).str.strip()
    best = np.full(len(texts), np.nan)
    for form in _DATE_FORMATS:
        stamps = pd.to_datetime(plain, format=form, errors="coerce", utc=True)
        whole = stamps.to_numpy(dtype="datetime64[ns]")
        seconds = np.where(np.isnat(whole), np.nan, whole.astype(np.int64) / 1e9)
        if _better(seconds, best):
            best = seconds
    best += pd.to_numeric(fraction, errors="coerce").fillna(0.0).to_numpy(dtype=np.float64)
    return best


def _better(new: NDArray[np.float64], old: NDArray[np.float64]) -> bool:
    read_new, read_old = int(np.isfinite(new).sum()), int(np.isfinite(old).sum())
    if read_new != read_old or not read_new:
        return read_new > read_old
    return float(np.nanmax(new) - np.nanmin(new)) < float(np.nanmax(old) - np.nanmin(old))


def unwrap_midnight(seconds: NDArray[np.float64], same: NDArray[np.bool_], longest_pause: float) -> NDArray[np.float64]:
    """Carry times of day over midnight: a drive from 23:59 to 00:01 is one drive.

    `same[i]` says that row i+1 belongs to the same vehicle as row i. A step back that, a day later, is a step forward
    of at most `longest_pause` [s] crosses midnight.
    """
    steps = np.diff(seconds)
    crosses = same & (steps < 0) & (steps + DAY_SECONDS > 0) & (steps + DAY_SECONDS <= longest_pause)
    days = np.concatenate([[0.0], np.cumsum(crosses)])
    return seconds + days * DAY_SECONDS
