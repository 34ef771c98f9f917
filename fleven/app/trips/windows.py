"""From a car's trips to windows: gaps, split, statistics, scaler. No window crosses a trip, a gap or the split.

Windows are never built: a window is the number of its first row, and the network reads its rows in place. Must not
import flwr or torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from ..errors import Code, DataError
from ..settings import Settings
from .reader import Trip, Trips, find, read_all

MINIMUM_TRAIN_WINDOWS = 10
BLOCK_ROWS = 8_192
Floats = npt.NDArray[np.float64]
Starts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Statistics:
    """Count, mean and sum of squared deviations of each column: enough to pool cars without seeing a reading."""

    count: int
    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, values: npt.NDArray[np.floating]) -> Self:
        """Statistics of `values` [rows, columns], in float64."""
        mean = sum((block.sum(axis=0) for block in _wide(values)), np.zeros(values.shape[1])) / max(len(values), 1)
        deviation = sum((((block - mean) ** 2).sum(axis=0) for block in _wide(values)), np.zeros(values.shape[1]))
        return cls(len(values), mean, deviation)

    def merge(self, other: "Statistics") -> "Statistics":
        """Pool two sets of readings (Chan, Golub, LeVeque 1979, parallel variance)."""
        count = self.count + other.count
        if not count:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        cross = delta**2 * (self.count * other.count / count)
        return Statistics(count, mean, self.deviation + other.deviation + cross)


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of each column over the training rows of all cars, in physical units."""

    mean: Floats
    std: Floats

    @classmethod
    def of(cls, statistics: Statistics) -> Self:
        """A column that never changes gets a standard deviation of 1: it scales to 0, and there is no division by 0."""
        std = np.sqrt(statistics.deviation / max(statistics.count, 1))
        return cls(statistics.mean, np.where(std > 1e-9, std, 1.0))

    def scale(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return `values` [rows, columns] with mean 0 and standard deviation 1 over the fleet."""
        scaled = np.empty(values.shape, dtype=np.float32)
        for at, block in enumerate(_wide(values)):
            scaled[at * BLOCK_ROWS : at * BLOCK_ROWS + len(block)] = (block - self.mean) / self.std
        return scaled


def _wide(values: npt.NDArray[np.floating]) -> Iterator[Floats]:
    """Yield `values` in float64, so many rows at once that they stay in the processor's cache."""
    for at in range(0, len(values), BLOCK_ROWS):
        yield values[at : at + BLOCK_ROWS].astype(np.float64)


@dataclass(frozen=True)
class Prepared:
    """A car's rows, and where its windows start.

    values: float32 [rows, columns], features in order, then the target, physical units, all trips one after another.
    train_starts, test_starts: first row of each window. statistics: of the training rows only.
    """

    values: npt.NDArray[np.float32]
    train_starts: Starts
    test_starts: Starts
    statistics: Statistics
    trips: int
    rows_read: int
    rows_dropped: int
    gaps: int
    skipped: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Usable rows."""
        return len(self.values)


@dataclass(frozen=True)
class Rows:
    """A car's usable rows, all trips one after another.

    values: float32 [rows, columns], features in order, then the target, physical units. breaks: bool [rows], where a
    trip goes on after a gap. sizes: int64 [trips], rows of each. rows_read: with those that cannot be used. skipped:
    the files left out, each with its code.
    """

    values: npt.NDArray[np.float32]
    breaks: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int64]
    rows_read: int
    skipped: tuple[str, ...]

    @classmethod
    def of(cls, trips: Trips, maximum_gap_factor: float) -> Self:
        """Put trips end to end."""
        parts = [segments(trip, maximum_gap_factor) for trip in trips.trips]
        return cls(
            values=np.concatenate([values for values, _ in parts]),
            breaks=np.concatenate([breaks for _, breaks in parts]),
            sizes=np.array([len(values) for values, _ in parts], dtype=np.int64),
            rows_read=sum(trip.rows_read for trip in trips.trips),
            skipped=tuple(f"{name}: {error.code}" for name, error in trips.skipped.items()),
        )


def prepare(folder: Path, settings: Settings) -> Prepared:
    """Find, read, check and window the trips in `folder`.

    Raises DataError with the first reason why this car cannot take part.
    """
    trips = read_all(find(folder), settings.columns)
    return window(Rows.of(trips, settings.maximum_gap_factor), settings)


def window(rows: Rows, settings: Settings) -> Prepared:
    """Mark where training and held-out windows start.

    Raises DataError(trips-too-few | windows-too-few).
    """
    values, sizes = rows.values, rows.sizes
    trip_of_row = np.repeat(np.arange(len(sizes)), sizes)
    held_out = split(trip_of_row, settings.train_test_split, settings.split_by)
    first = np.diff(trip_of_row, prepend=-1) != 0
    first |= rows.breaks
    gaps = int(first.sum()) - int(np.count_nonzero(sizes))
    first |= np.diff(held_out, prepend=held_out[:1]) != 0
    starts = window_starts(np.cumsum(first), settings.span)
    train, test = starts[~held_out[starts]], starts[held_out[starts]]
    if len(train) < MINIMUM_TRAIN_WINDOWS:
        raise DataError(
            Code.WINDOWS_TOO_FEW,
            f"{len(values)} usable rows in {len(sizes)} trips give {len(train)} training windows "
            f"of {settings.span} readings",
            f"at least {MINIMUM_TRAIN_WINDOWS} are needed: more or longer trips, or a shorter sequence-length",
        )
    return Prepared(
        values=values,
        train_starts=train,
        test_starts=test,
        statistics=Statistics.of(values[~held_out]),
        trips=len(sizes),
        rows_read=rows.rows_read,
        rows_dropped=rows.rows_read - len(values),
        gaps=gaps,
        skipped=rows.skipped,
    )


def segments(trip: Trip, maximum_gap_factor: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return a trip's rows without repeated times, and which of them begin a new segment.

    A gap is a step in time longer than `maximum_gap_factor` times the trip's own median step, or a step back. The
    rule is relative because loggers differ: one reading a second here, one every four or six there.
    """
    keep = np.diff(trip.time, prepend=-np.inf) != 0
    time, values = trip.time[keep], trip.values[keep]
    steps = np.diff(time)
    forward = steps[steps > 0]
    median = float(np.median(forward)) if len(forward) else 0.0
    breaks = np.zeros(len(time), dtype=bool)
    breaks[1:] = (steps < 0) | (steps > maximum_gap_factor * median)
    return values, breaks


def split(trip_of_row: npt.NDArray[np.int64], train_share: float, split_by: str) -> npt.NDArray[np.bool_]:
    """Return which rows are held out.

    time: the last rows of each trip, `1 - train_share` of them. trip: the last whole trips, as many as bring the
    training rows nearest to `train_share`, at least one on either side.

    Raises DataError(trips-too-few) when there is no second trip to hold out.
    """
    sizes = np.bincount(trip_of_row)
    ends = np.cumsum(sizes)
    if split_by == "time":
        position = np.arange(len(trip_of_row)) - (ends - sizes)[trip_of_row]
        last = np.floor(sizes * train_share)[trip_of_row]
        return np.asarray(position >= last)
    if len(sizes) < 2:
        raise DataError(
            Code.TRIPS_TOO_FEW, "the car has one trip, and split-by=trip needs two", "use split-by=time, or add a trip"
        )
    cut = 1 + int(np.argmin(np.abs(ends[:-1] / ends[-1] - train_share)))
    return np.asarray(trip_of_row >= cut)


def window_starts(segment_of_row: npt.NDArray[np.int64], span: int) -> Starts:
    """Return the first row of each run of `span` rows within one segment. Segments are numbered without falling."""
    count = len(segment_of_row) - span + 1
    if count <= 0:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(segment_of_row[:count] == segment_of_row[span - 1 :])
