"""The fleet's scaler: all cars' rows together, and none of them alone."""

import numpy as np
import pytest

from fleven.app.server.scaling import pool
from fleven.app.trips.windows import Scaler, Statistics

COLUMNS = ("engine_rpm", "vehicle_speed")
RANDOM = np.random.default_rng(7)


def rows(count: int = 1000, rpm: float = 2000.0, speed: float = 50.0) -> np.ndarray:
    return np.column_stack([RANDOM.normal(rpm, 500, count), RANDOM.normal(speed, 20, count)])


def test_cars_that_drive_differently_are_pooled_exactly() -> None:
    tables = [rows(1000), rows(500, 2400.0, 65.0), rows(1200, 1600.0, 35.0)]
    pooled = pool({key: Statistics.of(table) for key, table in enumerate(tables)}, COLUMNS, 0.5)
    whole = Statistics.of(np.concatenate(tables))
    assert not pooled.left_out
    assert pooled.statistics.count == 2700
    np.testing.assert_allclose(pooled.statistics.mean, whole.mean)
    np.testing.assert_allclose(pooled.statistics.deviation, whole.deviation)


@pytest.mark.parametrize(
    ("mean", "deviation", "named"),
    [
        ([16_000.0, 50.0], [1e8, 1e5], "engine_rpm"),
        ([2000.0, 254.0], [1e8, 1e5], "vehicle_speed"),
        ([8000.0, 50.0], [5e10, 1e5], "engine_rpm"),
        ([16_000.0, 254.0], [0.0, 0.0], "engine_rpm, vehicle_speed"),
    ],
)
def test_one_car_of_three_does_not_move_the_scaler(mean: list[float], deviation: list[float], named: str) -> None:
    honest = {0: Statistics.of(rows()), 2: Statistics.of(rows())}
    liar = Statistics(1000, np.array(mean), np.array(deviation))
    pooled = pool({0: honest[0], 1: liar, 2: honest[2]}, COLUMNS, 0.5)
    assert pooled.left_out == {1: f"its {named} are unlike all other cars'"}
    assert Scaler.of(pooled.statistics).mean.tolist() == honest[0].merge(honest[2]).mean.tolist()


def test_a_car_with_a_thousand_times_the_rows_has_no_more_than_its_share() -> None:
    parts = {0: Statistics.of(rows()), 1: Statistics(10**9, np.array([4000.0, 120.0]), np.array([1e15, 1e11]))}
    parts[2] = Statistics.of(rows())
    pooled = pool(parts, COLUMNS, 0.5)
    assert not pooled.left_out
    assert pooled.statistics.count == 3500, "as many rows as one and a half of the middle car"
    # It says 120 km/h, and counts as one spread of 20 away from the middle.
    assert pooled.statistics.mean[1] == pytest.approx(50 + 20 * 1500 / 3500, abs=1)


def test_a_car_that_is_far_but_possible_counts_as_less_far() -> None:
    parts = {key: Statistics.of(rows()) for key in range(4)}
    lie = Statistics(1000, np.array([2000.0 + 5.5 * 500, 50.0 + 5.5 * 20]), 1000 * np.array([5.5 * 500, 5.5 * 20]) ** 2)
    honest, pooled = pool(parts, COLUMNS, 0.5), pool(parts | {4: lie}, COLUMNS, 0.5)
    assert not pooled.left_out
    before, after = Scaler.of(honest.statistics), Scaler.of(pooled.statistics)
    assert (np.abs(after.mean - before.mean) < 0.25 * before.std).all()
    assert (after.std < 1.3 * before.std).all()


def test_of_a_fleet_of_which_half_drives_far_otherwise_all_count_as_they_are() -> None:
    town, motorway = (
        [Statistics.of(rows(1000, 1500.0, 30.0)) for _ in range(2)],
        Statistics.of(rows(1000, 3000.0, 120.0)),
    )
    pooled = pool({0: town[0], 1: town[1], 2: motorway, 3: motorway}, COLUMNS, 0.5)
    assert pooled.statistics.mean[1] == pytest.approx(75, abs=1)


def test_a_column_that_stands_still_on_most_cars_does_not_make_the_others_odd() -> None:
    parts = {
        key: Statistics(1000, np.array([800.0, speed]), np.array([1e7, 0.0])) for key, speed in enumerate((0, 0, 2))
    }
    assert not pool(parts, COLUMNS, 0.5).left_out


@pytest.mark.parametrize("count", [1, 2])
def test_of_few_cars_none_is_odd(count: int) -> None:
    parts = {key: Statistics.of(rows(rpm=1000.0 + 10_000 * key)) for key in range(count)}
    assert not pool(parts, COLUMNS, 0.5).left_out


def test_of_a_fleet_of_which_one_half_idles_no_car_is_left_out() -> None:
    idling = Statistics(1000, np.array([800.0, 0.0]), np.array([1e5, 0.0]))
    driving = Statistics(1000, np.array([2500.0, 115.0]), np.array([1e7, 25_000.0]))
    pooled = pool({0: idling, 1: idling, 2: driving, 3: driving}, COLUMNS, 0.5)
    assert not pooled.left_out
    assert pooled.statistics.mean.tolist() == [1650.0, 57.5]


def test_a_car_that_puts_itself_in_the_middle_does_not_become_the_scaler() -> None:
    idling = Statistics(1000, np.array([800.0, 0.0]), np.array([1e5, 0.0]))
    driving = Statistics(1000, np.array([2500.0, 115.0]), np.array([1e7, 25_000.0]))
    liar = Statistics(1000, np.array([1650.0, 57.0]), np.array([0.0, 0.0]))
    pooled = pool({0: idling, 1: driving, 2: liar}, COLUMNS, 0.5)
    assert not pooled.left_out
    assert pooled.statistics.count == 3000
    assert Scaler.of(pooled.statistics).std[1] > 40
