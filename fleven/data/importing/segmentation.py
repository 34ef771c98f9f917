"""From one file's rows to trips: in order, one row for each moment, cut where a drive ends.

The clock is cut where it goes back before anything is sorted: a board without a clock of its own begins every drive at
the same hour. Must not import torch or flwr.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from fleven.app import columns
from fleven.data.gaps import boundaries
from fleven.data.importing.clock import unwrap
from fleven.data.importing.column_selection import Options
from fleven.data.importing.row_cleaning import Dropped, FileRows
from fleven.data.importing.sparse_rows import Held, hold_forward, spread_seconds
from fleven.data.layout import Trip

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Rows that come at most so late are sorted; a clock that goes back further, or for good, was set back.
DISORDER_SECONDS: Final = 2.0
# Rows that are late fill holes. If a stretch holds so many times its usual rows, the clock passed it twice.
_TWICE: Final = 1.5
# An export with the newest row on top.
_NEWEST_FIRST_SHARE: Final = 0.9
# So few rows with a time far off, between rows that go on, are broken readings of the clock.
_STRAY_ROWS: Final = 3


class Cut(StrEnum):
    """What ended a trip."""

    CLOCK_BACK = "clock-back"
    PAUSE = "pause"
    LABEL = "label"


@dataclass(slots=True)
class Cutting:
    """A file's trips, the rows lost on the way, and what the operator should know of it."""

    trips: list[Trip] = field(default_factory=list)
    dropped: Counter[tuple[str, Dropped]] = field(default_factory=Counter)
    cuts: Counter[Cut] = field(default_factory=Counter)
    held: dict[str, Held] = field(default_factory=dict)
    rows_spread: int = 0
    notes: list[str] = field(default_factory=list)


def to_trips(rows: FileRows, options: Options) -> Cutting:
    """Cut one file's rows into trips."""
    result = Cutting()
    if not len(rows.frame):
        return result
    group, order = _by_label(rows)
    time = rows.frame[columns.TIME_COLUMN].to_numpy()[order]
    if rows.absolute:
        order, time = _oldest_first(order, time, group, result)
    elif rows.period is not None:
        time = unwrap(time, np.diff(group) == 0, rows.period, options.pause_seconds)
    piece, sorting = _pieces(time, group, options.pause_seconds, absolute=rows.absolute, result=result)
    order, time, piece = order[sorting], time[sorting], piece[sorting]
    frame = rows.frame.iloc[order].assign(**{columns.TIME_COLUMN: time}).reset_index(drop=True)
    vehicle = rows.vehicle[order]
    number = np.cumsum(boundaries(time, piece, options.pause_seconds)) - 1
    result.cuts[Cut.PAUSE] += int(number[-1]) - (len(np.unique(piece)) - 1)
    spread = spread_seconds(frame, number)
    if spread is not None:
        result.rows_spread = len(frame) - len(np.unique(np.column_stack([number, time]), axis=0))
        result.notes.append(
            f"{len(frame)} rows under a clock of whole seconds, several in each: spread evenly over their second"
        )
        frame = frame.assign(**{columns.TIME_COLUMN: spread})
    kept = _first_of_time(frame[columns.TIME_COLUMN].to_numpy(), number)
    frame, number, vehicle = _merge_duplicates(frame, number, vehicle, result.dropped)
    frame, result.held = hold_forward(frame, number, {name: own[order][kept] for name, own in rows.named.items()})
    result.notes += [
        f"{name} is not in every row: held forward for at most {held.age_limit_seconds:g} s ({held.cells} cells)"
        for name, held in result.held.items()
    ]
    edges = np.concatenate([np.flatnonzero(np.diff(number, prepend=-1)), [len(number)]])
    for first, last in itertools.pairwise(edges.tolist()):
        name = str(vehicle[first])
        if last - first < options.minimum_rows:
            result.dropped[name, Dropped.SHORT_TRIP] += last - first
            continue
        result.trips.append(_trip(frame.iloc[first:last], name, rows))
    return result


def _by_label(rows: FileRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows in order of vehicle, trip label and clock, in the file's order inside: (label, order) [rows]."""
    keys = [pd.Series(rows.vehicle), pd.Series(rows.clock_column)]
    if rows.trip is not None:
        keys.append(pd.Series(rows.trip))
    together = pd.DataFrame(dict(enumerate(keys))).groupby(list(range(len(keys))), sort=False).ngroup()
    group = np.asarray(together, dtype=np.int64)
    order = np.argsort(group, kind="stable")
    return group[order], order


def _oldest_first(
    order: NDArray[np.int64], time: NDArray[np.float64], group: NDArray[np.int64], result: Cutting
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Turn round the rows of a label whose clock with a date runs backwards: such a clock cannot."""
    edges = np.concatenate([np.flatnonzero(np.diff(group, prepend=-1)), [len(group)]])
    order, time = order.copy(), time.copy()
    turned = 0
    for first, last in itertools.pairwise(edges.tolist()):
        steps = np.diff(time[first:last])
        moving = int((steps != 0).sum())
        if moving >= 2 and int((steps < 0).sum()) > _NEWEST_FIRST_SHARE * moving:
            order[first:last] = order[first:last][::-1]
            time[first:last] = time[first:last][::-1]
            turned += last - first
    if turned:
        result.notes.append(f"{turned} rows are in the file with the newest first: reversed")
    return order, time


def _pieces(
    time: NDArray[np.float64],
    group: NDArray[np.int64],
    pause_seconds: float,
    *,
    absolute: bool,
    result: Cutting,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut where the clock goes back, then sort what is only a little out of order: (piece of each row, order) [rows].

    Of an `absolute` clock, a few rows whose time is far off, between rows that go on, make a piece of their own.
    """
    stray = _strays(time, group, pause_seconds) if absolute else np.zeros(len(time), dtype=bool)
    kept = np.flatnonzero(~stray)
    begins = _begins(time[kept], group[kept], result, absolute=absolute)
    piece = np.zeros(len(time), dtype=np.int64)
    piece[kept] = np.cumsum(begins) - 1
    pieces = int(piece.max()) + 1
    piece[stray] = pieces + np.cumsum(np.diff(np.flatnonzero(stray), prepend=-2) != 1) - 1
    if stray.any():
        result.notes.append(f"{int(stray.sum())} rows have a time far off between rows that go on: not used")
    return piece, np.lexsort((time, piece))


def _strays(time: NDArray[np.float64], group: NDArray[np.int64], pause_seconds: float) -> NDArray[np.bool_]:
    """Return which rows have a time far off while the rows before and after go on; at most three together."""
    stray = np.zeros(len(time), dtype=bool)
    far = np.concatenate([[False], (np.abs(np.diff(time)) > pause_seconds) & (np.diff(group) == 0)])
    for first in np.flatnonzero(far).tolist():
        if stray[first - 1]:
            continue
        before = time[first - 1]
        for after in range(first + 1, min(first + _STRAY_ROWS + 1, len(time))):
            step = time[after] - before
            if group[after] == group[first] and -DISORDER_SECONDS <= step <= pause_seconds:
                stray[first:after] = True
                break
    return stray


def _begins(
    time: NDArray[np.float64], group: NDArray[np.int64], result: Cutting, *, absolute: bool
) -> NDArray[np.bool_]:
    """Return which rows begin a piece: another label, or the clock went back, and not only for some late rows."""
    begins = np.ones(len(time), dtype=bool)
    begins[1:] = np.diff(group) != 0
    result.cuts[Cut.LABEL] += int(begins.sum()) - 1
    steps = np.diff(time)
    back = np.concatenate([[False], steps < 0]) & ~begins
    pace = _pace(time, group)
    late, furthest, largest, cuts = 0, 0.0, 0.0, 0
    start = 0
    covered = -1  # the last row that an earlier step back has explained
    for row in np.flatnonzero(back | begins).tolist():
        if begins[row]:
            start = row
            continue
        if row <= covered:
            continue
        last = _late_rows(time, group, start, row, pace)
        if last is None:
            begins[row] = True
            start = row
            cuts += 1
            largest = max(largest, float(time[row - 1] - time[row]))
        else:
            covered = last
            highest = float(time[start : last + 1].max()) if last - start < 1000 else float(time[row - 1])
            below = time[row : last + 1]
            late += int((below < time[row - 1]).sum())
            furthest = max(furthest, highest - float(below.min()))
    result.cuts[Cut.CLOCK_BACK] += cuts
    if late:
        result.notes.append(
            f"{late} rows come late, by at most {furthest:.3g} s: sorted, as rows up to {DISORDER_SECONDS:g} s late are"
        )
    if cuts and absolute:
        often = "once" if cuts == 1 else f"{cuts} times"
        result.notes.append(f"the clock goes back {often}, by up to {largest:.6g} s: a trip begins there")
    return begins


@dataclass(frozen=True, slots=True)
class _Pace:
    """How a logger runs: its usual step [s], rows a second, rows of one time."""

    step: float
    rate: float
    tick: float


def _pace(time: NDArray[np.float64], group: NDArray[np.int64]) -> _Pace:
    """Measure it: the step on the times in order, since steps from and to a late row are no steps of the logger."""
    written = np.diff(time)[np.diff(group) == 0]
    order = np.lexsort((time, group))
    rising = np.diff(time[order])[np.diff(group[order]) == 0]
    rising = rising[rising > 0]
    if not len(rising):
        return _Pace(0.0, 0.0, 1.0)
    usual = float(np.median(rising))
    tick = len(written) / max(int((written != 0).sum()), 1)
    return _Pace(usual, tick / usual, tick)


def _late_rows(time: NDArray[np.float64], group: NDArray[np.int64], start: int, row: int, pace: _Pace) -> int | None:
    """Return the last row of a stretch in which rows come late, None where the clock was set back at `row`.

    Late rows fill holes of the rows before them, and the next row follows the latest of all; a clock that was set back
    passes the same stretch once more, and goes on from where it was set to.
    """
    least, most = time[row], time[row - 1]
    first = row
    while first > start and time[first - 1] >= least:
        first -= 1
        most = max(most, time[first])
        if most - least > DISORDER_SECONDS:
            return None
    if most - least > DISORDER_SECONDS or (first == start and start != row - 1 and time[start] > least):
        return None
    last = row
    while last + 1 < len(time) and group[last + 1] == group[row] and time[last + 1] <= most:
        last += 1
        if time[last] < least:
            least = time[last]
            if most - least > DISORDER_SECONDS:
                return None
    if last + 1 < len(time) and group[last + 1] == group[row]:
        following = time[last + 1]
        if abs(following - time[last] - pace.step) < abs(following - most - pace.step):
            return None
    expected = (most - least) * pace.rate + pace.tick
    return last if last - first + 1 <= _TWICE * expected else None


def _first_of_time(time: NDArray[np.float64], number: NDArray[np.int64]) -> NDArray[np.bool_]:
    first = np.ones(len(time), dtype=bool)
    first[1:] = (np.diff(time) != 0) | (np.diff(number) != 0)
    return first


def _merge_duplicates(
    frame: pd.DataFrame,
    number: NDArray[np.int64],
    vehicle: NDArray[np.object_],
    dropped: Counter[tuple[str, Dropped]],
) -> tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.object_]]:
    """Make one row of all rows of a trip with the same time: in each column the first value that is there."""
    again = ~_first_of_time(frame[columns.TIME_COLUMN].to_numpy(), number)
    if not again.any():
        return frame, number, vehicle
    dropped.update((str(name), Dropped.DUPLICATE_TIME) for name in vehicle[again])
    merged = frame.groupby(np.cumsum(~again), sort=False).first().reset_index(drop=True)
    return merged, number[~again], vehicle[~again]


def _trip(frame: pd.DataFrame, vehicle: str, rows: FileRows) -> Trip:
    begin = float(frame[columns.TIME_COLUMN].iloc[0])
    start = None
    if rows.absolute:
        start = datetime.fromtimestamp(begin, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # Logs give milliseconds at best; the subtraction leaves digits behind them that nobody measured.
    time = (frame[columns.TIME_COLUMN] - begin).round(6)
    return Trip(vehicle, frame.assign(**{columns.TIME_COLUMN: time}).reset_index(drop=True), rows.name, start)
