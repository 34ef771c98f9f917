"""Synthetic trips obey physics, look like a logger's, come back bit for bit, and say that they are synthetic."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fleven.app import columns
from fleven.data.errors import InputError
from fleven.data.synthetic.driving import STEP_SECONDS, Drive, draw_route, drive
from fleven.data.synthetic.sensors import Logger, readings, row_times
from fleven.data.synthetic.synthesis import README_NAME, draw_car, synthesise
from fleven.data.synthetic.vehicle import GRAVITY, HEATING_VALUE, Vehicle

CARS = [(1, 0), (1, 1), (1, 2), (7, 0), (99, 4)]


@pytest.fixture(scope="module", params=CARS, ids=[f"seed{seed}-car{car}" for seed, car in CARS])
def driven(request: pytest.FixtureRequest) -> tuple[Vehicle, Drive]:
    seed, car = request.param
    vehicle, driver = draw_car(seed, car)
    random = np.random.default_rng([seed, car])
    return vehicle, drive(vehicle, driver, draw_route(random, "highway", 900.0), random)


def test_a_drive_goes_from_standstill_to_standstill_at_speeds_that_a_road_allows(driven: tuple[Vehicle, Drive]) -> None:
    _, trace = driven
    assert trace.speed[0] == trace.speed[-1] == 0.0
    assert trace.speed.min() >= 0.0
    assert 90.0 < trace.speed.max() * 3.6 < 150.0
    assert (trace.speed == 0.0).mean() > 0.03
    assert -6.01 <= trace.acceleration.min() < -0.8
    assert 0.8 < trace.acceleration.max() < 4.0


def test_the_work_at_the_wheels_is_the_kinetic_energy_and_what_the_road_takes(driven: tuple[Vehicle, Drive]) -> None:
    """The equation of motion, written again from the parameters and summed over the whole drive."""
    vehicle, trace = driven
    weight = vehicle.mass_kg * GRAVITY / np.sqrt(1.0 + trace.slope**2)
    moving = trace.speed > 0.0
    road = weight * (vehicle.rolling_resistance * moving + trace.slope) * moving
    road = road + 0.5 * 1.184 * vehicle.drag_area_m2 * trace.speed**2
    ratio = np.array(vehicle.gear_ratios)[trace.gear] * vehicle.final_drive
    turning = np.where(trace.locked, 0.0025 * ratio**2, 0.0)
    inertia = vehicle.mass_kg * (1.04 + turning)
    work = trace.wheel_power.sum() * STEP_SECONDS
    kinetic = (inertia * trace.acceleration * trace.speed).sum() * STEP_SECONDS
    lost = (road * trace.speed).sum() * STEP_SECONDS
    assert work == pytest.approx(kinetic + lost, rel=1e-9)
    # Standstill to standstill with one inertia, the kinetic energy is zero: what remains is the spinning engine's.
    translation = (1.04 * vehicle.mass_kg * trace.acceleration * trace.speed).sum() * STEP_SECONDS
    assert abs(translation) < 0.01 * lost


def test_the_engine_gives_at_least_what_the_wheels_get(driven: tuple[Vehicle, Drive]) -> None:
    vehicle, trace = driven
    pulling = trace.locked & (trace.wheel_power > 0.0)
    given = trace.brake_power[pulling] * vehicle.driveline_efficiency
    assert (given >= trace.wheel_power[pulling]).all()
    drag = vehicle.friction_power(trace.rpm)
    assert (trace.brake_power >= -drag - 1e-6).all()


def test_no_engine_gives_more_than_its_air_allows(driven: tuple[Vehicle, Drive]) -> None:
    vehicle, trace = driven
    load = vehicle.load_percent(vehicle.air_flow(vehicle.fuel_flow(trace.brake_power, trace.rpm)), trace.rpm)
    assert load.max() <= 101.0
    assert load.max() > 60.0


def test_the_efficiency_is_a_petrol_engines(driven: tuple[Vehicle, Drive]) -> None:
    vehicle, trace = driven
    fuel = vehicle.fuel_flow(trace.brake_power, trace.rpm).sum() * STEP_SECONDS
    useful = np.maximum(trace.brake_power, 0.0).sum() * STEP_SECONDS
    assert 0.15 < useful / (fuel * HEATING_VALUE) < 0.36
    litres_per_100_km = fuel * 1000.0 / 745.0 / (trace.speed.sum() * STEP_SECONDS / 1e5)
    assert 3.5 < litres_per_100_km < 14.0


def test_engine_speed_is_the_gears_while_the_clutch_is_closed(driven: tuple[Vehicle, Drive]) -> None:
    vehicle, trace = driven
    ratio = np.array(vehicle.gear_ratios)[trace.gear] * vehicle.final_drive
    geared = trace.speed / vehicle.tyre_radius_m * ratio * 60.0 / (2.0 * np.pi)
    assert trace.locked.mean() > 0.5
    assert trace.rpm[trace.locked] == pytest.approx(geared[trace.locked], rel=1e-9)
    assert set(trace.gear[trace.locked]) == set(range(len(vehicle.gear_ratios)))


def test_a_standing_car_idles(driven: tuple[Vehicle, Drive]) -> None:
    vehicle, trace = driven
    standing = trace.speed == 0.0
    settled = standing & np.roll(standing, 10) & np.roll(standing, 20)
    assert trace.rpm[settled] == pytest.approx(vehicle.idle_rpm, rel=0.05)
    assert trace.rpm.min() >= vehicle.idle_rpm - 1e-6
    assert trace.rpm.max() < 5500.0


def test_gears_are_changed_one_at_a_time_and_not_back_and_forth(driven: tuple[Vehicle, Drive]) -> None:
    _, trace = driven
    changes = np.flatnonzero(np.diff(trace.gear))
    moving = trace.speed[changes + 1] > 1.0
    assert (np.abs(np.diff(trace.gear))[changes][moving] == 1).all()
    assert np.diff(changes[moving]).min() * STEP_SECONDS > 1.0
    minutes = trace.time[-1] / 60.0
    assert 1.0 < len(changes) / minutes < 25.0


def test_readings_stay_in_the_columns_ranges_and_on_the_sensors_steps(driven: tuple[Vehicle, Drive]) -> None:
    vehicle, trace = driven
    frame = readings(vehicle, trace, Logger(), np.random.default_rng(5))
    for name in frame:
        column, values = columns.CANONICAL[name], frame[name].dropna()
        assert values.between(column.minimum, column.maximum).all(), name
    assert (frame["vehicle_speed"].dropna() % 1.0 == 0.0).all()
    assert (frame["engine_rpm"].dropna() % 0.25 == 0.0).all()
    assert frame["engine_rpm"].min() > vehicle.idle_rpm - 60.0
    # Where a car runs steadily, the readings give back one of its gears.
    steady = frame["vehicle_speed"].diff().abs().eq(0) & frame["vehicle_speed"].gt(40)
    overall = frame["engine_rpm"] / (frame["vehicle_speed"] / 3.6) * vehicle.tyre_radius_m * 2 * np.pi / 60.0
    nearest = np.abs(overall.to_numpy()[:, None] / vehicle.final_drive / np.array(vehicle.gear_ratios) - 1).min(axis=1)
    assert np.nanmedian(nearest[steady.to_numpy()]) < 0.03


def test_rows_come_about_once_a_second_with_jitter_and_losses() -> None:
    times = row_times(Logger(), 20_000.0, np.random.default_rng(3))
    steps = np.diff(times)
    assert (steps > 0).all()
    assert np.median(steps) == pytest.approx(1.0, abs=0.02)
    assert 0.02 < np.std(steps[steps < 1.2]) < 0.1
    assert (steps > 4.0).sum() >= 5
    assert 0.93 < len(times) / 20_000.0 < 1.0


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        synthesise(tmp_path / name, cars=2, trips=2, minutes=3, seed=seed)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    trip = "client_0/synthetic-car-0_trip_0001.parquet"
    assert content(tmp_path / "a")[trip] != content(tmp_path / "c")[trip]


def test_a_car_does_not_depend_on_the_others(tmp_path: Path) -> None:
    synthesise(tmp_path / "two", cars=2, trips=2, minutes=2, seed=5)
    synthesise(tmp_path / "three", cars=3, trips=1, minutes=2, seed=5)
    trip = "client_1/synthetic-car-1_trip_0001.parquet"
    assert content(tmp_path / "two")[trip] == content(tmp_path / "three")[trip]


def test_everything_says_that_it_is_synthetic(tmp_path: Path) -> None:
    manifest = synthesise(tmp_path / "out", cars=2, trips=1, minutes=2, file_format="csv")
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["synthetic"] is True
    masses = [car["vehicle"]["mass_kg"] for car in manifest["cars"]]
    assert masses[0] != masses[1]
    assert "No car drove them" in (tmp_path / "out" / README_NAME).read_text()
    trips = sorted((tmp_path / "out").rglob("*.csv"))
    assert [path.name for path in trips] == ["synthetic-car-0_trip_0001.csv", "synthetic-car-1_trip_0001.csv"]
    assert list(pd.read_csv(trips[0])) == [
        *("time_sec", "vehicle_speed", "engine_rpm", "mass_air_flow"),
        *("calculated_load_value", "absolute_throttle_pos", "fuel_rate", "P_kW"),
    ]


def test_the_speed_can_be_learnt_but_not_read_off(tmp_path: Path) -> None:
    """A linear fit on one reading explains some of the speed, its recent past more, and never all of it."""
    synthesise(tmp_path / "out", cars=3, trips=2, minutes=10)
    features, now, target = ["engine_rpm", "mass_air_flow", "calculated_load_value"], [], []
    past = []
    for path in sorted((tmp_path / "out").rglob("*.parquet")):
        frame = pd.read_parquet(path).dropna()
        values = frame[features].to_numpy()
        past.append(np.hstack([np.roll(values, lag, axis=0)[20:] for lag in range(0, 20, 4)]))
        now.append(values[20:])
        target.append(frame["vehicle_speed"].to_numpy()[20:])
    speed = np.concatenate(target)

    def explained(inputs: list[np.ndarray]) -> float:
        matrix = np.column_stack([np.concatenate(inputs), np.ones(len(speed))])
        rest = speed - matrix @ np.linalg.lstsq(matrix, speed, rcond=None)[0]
        return float(1.0 - (rest**2).sum() / ((speed - speed.mean()) ** 2).sum())

    assert 0.4 < explained(now) < explained(past) - 0.03 < 0.95


@pytest.mark.parametrize("keys", [{"cars": 0}, {"trips": 0}, {"minutes": 0.5}, {"seed": -1}, {"cars": 10**6}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, keys: dict[str, int]) -> None:
    with pytest.raises(InputError):
        synthesise(tmp_path / "out", **keys)
    assert list(tmp_path.iterdir()) == []
