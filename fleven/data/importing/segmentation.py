"""One file's rows to trips: in order, one row a time, cut where a drive ends.

Must not import torch or flwr.
"""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from fleven.app import columns
from fleven.data.gaps import boundaries
from fleven.data.importing.clock import ClockKind, unwrap_midnight
from fleven.data.importing.column_selection import Options
from fleven.data.importing.row_cleaning import Dropped, FileRows
from fleven.data.layout import Trip


def to_trips(rows: FileRows, options: Options) -> tuple[list[Trip], Counter[tuple[str, Dropped]]]:
    """Cut one file's rows into trips; returns them and the rows lost on the way."""
    dropped: Counter[tuple[str, Dropped]] = Counter()
    if not len(rows.frame):
        return [], dropped
    label = pd.Series(rows.vehicle)
    keys = [label] if rows.trip is None else [label, pd.Series(rows.trip)]
    together = pd.DataFrame(dict(enumerate(keys))).groupby(list(range(len(keys))), sort=False).ngroup()
    group = np.asarray(together, dtype=np.int64)
    time = rows.frame[columns.TIME_COLUMN].to_numpy()
    # A clock that counts from the engine's start orders nothing across starts: there the file's order stands.
    order = np.lexsort((time, group)) if rows.absolute else np.argsort(group, kind="stable")
    frame, group, vehicle = rows.frame.iloc[order], group[order], rows.vehicle[order]
    time = time[order]
    if rows.about["clock"].get("kind") == ClockKind.DURATION:
        time = unwrap_midnight(time, np.diff(group) == 0, options.pause_seconds)
    frame = frame.assign(**{columns.TIME_COLUMN: time}).reset_index(drop=True)
    number = np.cumsum(boundaries(time, group, options.pause_seconds)) - 1
    frame, number, vehicle = _merge_duplicates(frame, number, vehicle, dropped)
    edges = np.concatenate([np.flatnonzero(np.diff(number, prepend=-1)), [len(number)]])
    trips = []
    for first, last in itertools.pairwise(edges.tolist()):
        name = str(vehicle[first])
        if last - first < options.minimum_rows:
            dropped[name, Dropped.SHORT_TRIP] += last - first
            continue
        trips.append(_trip(frame.iloc[first:last], name, rows))
    return trips, dropped


def _merge_duplicates(
    frame: pd.DataFrame,
    number: np.ndarray[Any, np.dtype[np.int64]],
    vehicle: np.ndarray[Any, np.dtype[np.object_]],
    dropped: Counter[tuple[str, Dropped]],
) -> tuple[pd.DataFrame, np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.object_]]]:
    """Make one row of all rows of a trip with the same time: in each column the first value that is there."""
    time = frame[columns.TIME_COLUMN].to_numpy()
    again = np.zeros(len(frame), dtype=bool)
    again[1:] = (np.diff(time) == 0) & (np.diff(number) == 0)
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
