"""What numbers of a clock count, by the pace that each reading would give the car."""

import numpy as np
import pytest

from fleven.data.importing.time_units import judge, speed_evidence


def names(numbers: list[float], speed_km_h: list[float]) -> list[str]:
    """Return the readings that can be, best first."""
    same = np.ones(len(numbers) - 1, dtype=np.bool_)
    return [reading.name for reading in judge(np.array(numbers), same, [speed_evidence(np.array(speed_km_h))]).readings]


@pytest.mark.parametrize(("factor", "name"), [(1.0, "seconds"), (1e3, "milliseconds"), (1e6, "microseconds")])
@pytest.mark.parametrize("step_seconds", [0.1, 0.5, 1.0])
def test_a_date_at_a_usual_pace_stays_one_while_the_car_hardly_changes_its_speed(
    factor: float, name: str, step_seconds: float
) -> None:
    """A thousandth of it would be a counter from 0, at which the speed looks lively."""
    numbers = [(1_772_704_800.0 + row * step_seconds) * factor for row in range(600)]
    cruise = [80.0 + 4.0 * (row // 300) for row in range(600)]
    assert names(numbers, cruise) == [name]


def test_a_fast_counter_that_is_no_date_is_proved_by_the_speed() -> None:
    lively = [40.0 + 10.0 * np.sin(row / 500.0) for row in range(4000)]
    assert names([float(row) for row in range(4000)], lively) == ["milliseconds"]


def test_a_slow_date_may_be_a_counter_that_has_run_for_weeks() -> None:
    """Twenty days in milliseconds, 20 rows a second: read as a date, the car would change its speed once a minute."""
    lively = [40.0 + 10.0 * np.sin(row / 50.0) for row in range(4000)]
    assert names([1_772_704_800.0 + 50.0 * row for row in range(4000)], lively) == ["milliseconds"]
