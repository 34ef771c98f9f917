"""Gaps, split, windows and statistics: no window crosses a border, and nothing leaks from test to training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven.app.errors import Code, DataError
from fleven.app.settings import Settings, parse
from fleven.app.trips import windows as trip_windows
from fleven.app.trips.reader import Trip, Trips
from fleven.app.trips.windows import BLOCK_ROWS, Scaler, Statistics


def windowed(trips: Trips, settings: Settings) -> trip_windows.Prepared:
    return trip_windows.window(trip_windows.Rows.of(trips, settings.maximum_gap_factor), settings)


def trip_of(steps: list[float], number: int) -> Trip:
    """A trip whose columns tell which row is which: feature = time, target = 1000 * trip + row."""
    time = np.cumsum(np.array([0.0, *steps]))
    rows = np.arange(len(time))
    values = np.column_stack([time, 1000.0 * number + rows]).astype(np.float32)
    return Trip(f"trip_{number}", time, values, len(time), 0, 0)


def settings_of(length: int, predictions: int, share: float, split_by: str) -> Settings:
    return parse(
        {
            "feature-columns": "a",
            "target-column": "b",
            "sequence-length": length,
            "prediction-length": predictions,
            "train-test-split": share,
            "split-by": split_by,
        }
    )


steps = st.lists(st.sampled_from([1.0, 1.0, 1.0, 1.0, 1.1, 0.0, 2.9, 50.0, -30.0]), min_size=30, max_size=90)


@given(
    trips=st.lists(steps, min_size=2, max_size=5),
    length=st.integers(1, 8),
    predictions=st.integers(1, 3),
    share=st.sampled_from([0.5, 0.8, 0.9]),
    split_by=st.sampled_from(["time", "trip"]),
)
def test_no_window_crosses_a_trip_a_gap_or_the_split(
    trips: list[list[float]], length: int, predictions: int, share: float, split_by: str
) -> None:
    settings = settings_of(length, predictions, share, split_by)
    try:
        prepared = windowed(Trips([trip_of(s, number) for number, s in enumerate(trips)]), settings)
    except DataError as error:
        assert error.code in (Code.WINDOWS_TOO_FEW, Code.TRIPS_TOO_FEW)  # noqa: PT017  # both are right answers here
        return
    span = length + predictions - 1
    medians = [np.median([step for step in s if step > 0]) for s in trips]
    covered: dict[str, set[float]] = {"train": set(), "test": set()}
    for side, starts in (("train", prepared.train_starts), ("test", prepared.test_starts)):
        for start in starts:
            window = prepared.values[start : start + span]
            assert len(window) == span
            names = window[:, 1]
            trip = int(names[0] // 1000)
            assert (names // 1000 == trip).all()
            apart = np.diff(window[:, 0].astype(float))
            assert (apart > 0).all()
            assert (apart <= settings.maximum_gap_factor * medians[trip] + 1e-3).all()
            covered[side].update(names.tolist())
    assert not covered["train"] & covered["test"]
    if split_by == "time" and covered["test"] and covered["train"]:
        for trip in {name // 1000 for name in covered["test"]}:
            earlier = [name for name in covered["train"] if name // 1000 == trip]
            later = [name for name in covered["test"] if name // 1000 == trip]
            assert not earlier or max(earlier) < min(later)


@given(trips=st.lists(steps, min_size=2, max_size=4), share=st.sampled_from([0.5, 0.8]))
def test_the_scaler_sees_no_held_out_row(trips: list[list[float]], share: float) -> None:
    settings = settings_of(3, 1, share, "time")
    made = [trip_of(s, number) for number, s in enumerate(trips)]
    try:
        before = windowed(Trips(made), settings)
    except DataError:
        return
    spoilt = []
    for trip in made:
        kept = np.diff(trip.time, prepend=-np.inf) != 0
        train_rows = int(np.floor(kept.sum() * share))
        values = trip.values.copy()
        values[np.flatnonzero(kept)[train_rows:]] = 1e6
        spoilt.append(Trip(trip.name, trip.time, values, trip.rows_read, 0, 0))
    after = windowed(Trips(spoilt), settings)
    np.testing.assert_array_equal(before.statistics.mean, after.statistics.mean)
    np.testing.assert_array_equal(before.statistics.deviation, after.statistics.deviation)
    assert before.statistics.count == after.statistics.count


def test_every_window_that_fits_is_found() -> None:
    prepared = windowed(Trips([trip_of([1.0] * 99, 0)]), settings_of(10, 1, 0.8, "time"))
    assert prepared.train_starts.tolist() == list(range(71))
    assert prepared.test_starts.tolist() == list(range(80, 91))
    assert prepared.gaps == 0


def test_gaps_are_measured_by_the_trips_own_pace() -> None:
    slow = trip_of([4.0] * 20 + [12.0] + [4.0] * 20 + [12.1] + [4.0] * 20, 0)
    fast = trip_of([1.0] * 20 + [4.0] + [1.0] * 20, 1)
    _, slow_breaks = trip_windows.segments(slow, 3.0)
    _, fast_breaks = trip_windows.segments(fast, 3.0)
    assert np.flatnonzero(slow_breaks).tolist() == [42]
    assert np.flatnonzero(fast_breaks).tolist() == [21]


def test_repeated_times_are_dropped_and_a_step_back_is_a_gap() -> None:
    values, breaks = trip_windows.segments(trip_of([1.0, 0.0, 1.0, -2.0, 1.0], 0), 3.0)
    assert values[:, 1].tolist() == [0, 1, 3, 4, 5]
    assert np.flatnonzero(breaks).tolist() == [3]


def test_whole_trips_are_held_out() -> None:
    trips = Trips([trip_of([1.0] * rows, number) for number, rows in enumerate((49, 49, 49, 49, 49))])
    prepared = windowed(trips, settings_of(5, 1, 0.8, "trip"))
    assert set(prepared.values[prepared.test_starts, 1] // 1000) == {4}
    assert set(prepared.values[prepared.train_starts, 1] // 1000) == {0, 1, 2, 3}


def test_one_trip_can_not_be_split_by_trips() -> None:
    with pytest.raises(DataError, match="use split-by=time") as caught:
        windowed(Trips([trip_of([1.0] * 99, 0)]), settings_of(5, 1, 0.8, "trip"))
    assert caught.value.code is Code.TRIPS_TOO_FEW


def test_too_few_windows_say_how_many_there_were() -> None:
    with pytest.raises(DataError, match="12 usable rows in 1 trips give 5 training windows of 5") as caught:
        windowed(Trips([trip_of([1.0] * 11, 0)]), settings_of(5, 1, 0.8, "time"))
    assert caught.value.code is Code.WINDOWS_TOO_FEW


def test_a_car_without_held_out_windows_still_trains() -> None:
    prepared = windowed(Trips([trip_of([1.0] * 29, 0)]), settings_of(10, 1, 0.8, "time"))
    assert len(prepared.train_starts) == 15
    assert len(prepared.test_starts) == 0


@given(
    parts=st.lists(
        st.lists(st.floats(-1e4, 1e4, allow_nan=False, width=32), min_size=0, max_size=40), min_size=1, max_size=6
    )
)
def test_pooled_statistics_are_those_of_all_rows(parts: list[list[float]]) -> None:
    pooled = Statistics(0, np.zeros(1), np.zeros(1))
    for part in parts:
        pooled = pooled.merge(Statistics.of(np.array(part, dtype=np.float32).reshape(-1, 1)))
    everything = np.array([value for part in parts for value in part], dtype=np.float32).reshape(-1, 1)
    whole = Statistics.of(everything)
    assert pooled.count == whole.count
    np.testing.assert_allclose(pooled.mean, whole.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(pooled.deviation, whole.deviation, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("rows", [0, 1, BLOCK_ROWS, 2 * BLOCK_ROWS + 7])
def test_readings_in_blocks_come_to_the_same(rows: int) -> None:
    values = np.random.default_rng(4).normal([2000.0, 0.1], [700.0, 0.05], (rows, 2)).astype(np.float32)
    found, wide = Statistics.of(values), values.astype(np.float64)
    mean = wide.mean(axis=0) if rows else np.zeros(2)
    assert found.count == rows
    np.testing.assert_allclose(found.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(found.deviation, ((wide - mean) ** 2).sum(axis=0), rtol=1e-12)
    scaler = Scaler(np.array([1900.0, 0.2]), np.array([600.0, 0.04]))
    scaled = scaler.scale(values)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, ((wide - scaler.mean) / scaler.std).astype(np.float32))


def test_a_column_that_never_changes_scales_to_zero() -> None:
    values = np.column_stack([np.full(20, 7.0), np.arange(20.0)]).astype(np.float32)
    scaled = Scaler.of(Statistics.of(values)).scale(values)
    assert (scaled[:, 0] == 0).all()
    assert scaled[:, 1].std() == pytest.approx(1.0, rel=1e-6)


def test_prepare_reads_a_cars_folder(make_car: Callable[..., Path], small: Callable[..., Settings]) -> None:
    folder = make_car(trips=2, rows=100)
    (folder / "trip_9.csv").write_text("time_sec\n0\n")
    prepared = trip_windows.prepare(folder, small())
    assert prepared.values.shape == (200, 4)
    assert prepared.trips == 2
    assert prepared.skipped == ("trip_9.csv: column-missing",)
    assert len(prepared.train_starts) == 2 * (80 - 5 + 1)
    assert len(prepared.test_starts) == 2 * (20 - 5 + 1)
