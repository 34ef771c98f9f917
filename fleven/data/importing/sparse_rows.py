"""Incomplete rows: one value in each row, or many rows in a second that the clock does not tell apart.

Pure functions over a file's rows in order of trips and time. Must not import torch or flwr.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fleven.app import columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

# A column that is empty in more rows than this is read less often than the rows come.
_FULL_SHARE: Final = 0.5
# Where hardly any row is whole, a column may be empty in fewer.
_WHOLE_ROWS_SHARE: Final = 0.2
_NEARLY_FULL_SHARE: Final = 0.75
_LEAST_VALUES: Final = 5
#: A value is held for so many of its column's own usual intervals,
AGE_INTERVALS: Final = 3.0
#: and at most so long: what a driver changes in a moment, and what only the weather or the tank changes.
LONGEST_AGE_SECONDS: Final = 5.0
LONGEST_AGE_SLOW_SECONDS: Final = 120.0
_SLOW: Final = frozenset(
    ("barometric_pressure", "engine_coolant_temp", "intake_air_temp", "ambient_air_temp", "fuel_level")
)
# So many rows must share their second, and so many of those must differ, before a clock counts as too coarse.
_COARSE_SHARE: Final = 0.2
_COARSE_ROWS: Final = 10
_DIFFERING_SHARE: Final = 0.5
# A second with so many times the usual number of rows is a clock that stood, such as 00:00:00 until GPS has a fix.
_CROWDED: Final = 5


@dataclass(frozen=True, slots=True)
class Held:
    """How a column's values were held forward: for how long at most, and how many cells that filled."""

    age_limit_seconds: float
    cells: int


def hold_forward(
    frame: pd.DataFrame, trip: NDArray[np.int64], named: Mapping[str, NDArray[np.bool_]]
) -> tuple[pd.DataFrame, dict[str, Held]]:
    """Fill the empty cells of columns that are read less often than rows come, from the row before.

    `trip` [rows] numbers the trips without falling. A value is held for three of its column's usual intervals, at most
    5 s (temperatures, air pressure, tank: 120 s), and never into another trip, nor into rows whose header does not name
    the column (`named`, for those that have such rows). Columns that are nearly full, and those
    that come too seldom for that, stay as they are.
    """
    time = frame[columns.TIME_COLUMN].to_numpy()
    signals = [name for name in frame.columns if name != columns.TIME_COLUMN]
    given = {name: frame[name].notna().to_numpy() for name in signals}
    used = [name for name in signals if given[name].sum() >= _LEAST_VALUES]
    if len(used) < 2 or not len(frame):
        return frame, {}
    there = {name: named.get(name, np.ones(len(frame), dtype=bool)) for name in used}
    whole = float(np.logical_and.reduce([given[name] | ~there[name] for name in used]).mean())
    most = _NEARLY_FULL_SHARE if whole < _WHOLE_ROWS_SHARE else _FULL_SHARE
    held: dict[str, Held] = {}
    filled: dict[str, NDArray[np.float64]] = {}
    for name in used:
        share = float(given[name][there[name]].mean())
        if share > most or (share == most and most == _FULL_SHARE):
            continue
        limit = _age_limit(name, time[given[name]], trip[given[name]])
        if limit is None:
            continue
        values = frame[name].to_numpy()
        last = np.maximum.accumulate(np.where(given[name], np.arange(len(values)), -1))
        source = np.maximum(last, 0)
        fits = ~given[name] & there[name] & (last >= 0) & (trip[source] == trip) & (time - time[source] <= limit)
        if fits.any():
            filled[name] = np.where(fits, values[source], values)
            held[name] = Held(round(limit, 3), int(fits.sum()))
    return (frame.assign(**filled) if filled else frame), held


def _age_limit(name: str, time: NDArray[np.float64], trip: NDArray[np.int64]) -> float | None:
    """Return for how long a column's value may be held [s]; None for one that comes too seldom."""
    steps = np.diff(time)[np.diff(trip) == 0]
    steps = steps[steps > 0]
    if not len(steps):
        return None
    interval = float(np.median(steps))
    longest = LONGEST_AGE_SLOW_SECONDS if name in _SLOW else LONGEST_AGE_SECONDS
    return min(AGE_INTERVALS * interval, longest) if interval <= longest else None


def spread_seconds(frame: pd.DataFrame, trip: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return times [rows] that part rows of one second evenly; None where the clock is fine enough.

    Only where the clock shows whole seconds and the rows of a second contradict each other: rows that complete each
    other are one reading.
    """
    time = frame[columns.TIME_COLUMN].to_numpy()
    if len(time) < 2 or not (time == np.floor(time)).all():
        return None
    again = np.zeros(len(time), dtype=bool)
    again[1:] = (np.diff(time) == 0) & (np.diff(trip) == 0)
    starts = np.flatnonzero(~again)
    sizes = np.diff(np.append(starts, len(time)))
    usual = int(np.median(sizes))
    crowded = sizes > _CROWDED * usual
    again &= ~np.repeat(crowded, sizes)
    if int(again.sum()) < _COARSE_ROWS or float(again.mean()) < _COARSE_SHARE:
        return None
    values = frame.drop(columns=columns.TIME_COLUMN).to_numpy()
    differs = np.zeros(len(time), dtype=bool)
    with np.errstate(invalid="ignore"):
        changes = np.abs(np.diff(values, axis=0))
    differs[1:] = (np.nan_to_num(changes) > 0).any(axis=1)
    if float(differs[again].mean()) < _DIFFERING_SHARE:
        return None
    seconds = np.diff(time[starts])[np.diff(trip[starts]) == 0]
    if not len(seconds) or float(np.median(seconds)) != 1.0:
        return None
    rank = np.arange(len(time)) - np.repeat(starts, sizes)
    shares = sizes.astype(np.float64)
    # A trip's first and last second are parts: the first one's rows are its last, the last one's its first.
    edges = np.diff(trip[starts], prepend=-1) != 0
    first, last = edges & (sizes < usual), np.append(edges[1:], True) & (sizes < usual)
    offset = np.where(first & ~last, usual - sizes, 0)
    shares[first | last] = usual
    later = (rank + np.repeat(offset, sizes)) / np.repeat(shares, sizes)
    spread: NDArray[np.float64] = time + np.where(np.repeat(crowded, sizes), 0.0, later)
    return spread
