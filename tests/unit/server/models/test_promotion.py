"""Whether a run's model takes the champion's place: a pure decision over what the cars found of both."""

from __future__ import annotations

from typing import Any

import pytest

from fleven.server.models.promotion import Pair, Verdict, judge, pairs_of, pooled
from fleven.server.schedules.spec import ScheduleSpec

CHAMPION = ("night@2", "c" * 64)
SPEC = ScheduleSpec(promote="if-better", minimum_gain=0.01, maximum_losers=0.25, loser_tolerance=0.1)


def car(partition: int, own: float | None, champion: float | None, windows: int = 100, **more: Any) -> dict[str, Any]:
    return {
        "partition_id": partition, "node_name": f"car-{partition}", "windows_test": windows, "rmse": own,
        "champion_rmse": champion,
    } | more  # fmt: skip


def result(*cars: dict[str, Any], **champion: Any) -> dict[str, Any]:
    return {"global": {"rmse": 1.0}, "cars": list(cars), "champion": {"sha256": CHAMPION[1], "code": ""} | champion}


def test_the_first_model_that_was_measured_becomes_the_champion() -> None:
    assert judge({"global": {"rmse": 9.0}}, None, SPEC).code is Verdict.FIRST
    assert judge({"global": {"rmse": None}}, None, SPEC).code is Verdict.NOT_MEASURED
    found = judge({}, None, SPEC)
    assert (found.code, found.cars, found.losers, found.gain) == (Verdict.NOT_MEASURED, 0, (), None)


def test_errors_are_pooled_over_windows_and_not_over_cars() -> None:
    assert pooled([Pair("a", 300, 2.0, 4.0), Pair("b", 100, 4.0, 2.0)]) == pytest.approx((7**0.5, 13**0.5))


@pytest.mark.parametrize(
    ("cars", "code", "losers"),
    [
        ([(9.0, 10.0)] * 4, Verdict.BETTER, ()),
        ([(9.9, 10.0)] * 4, Verdict.BETTER, ()),  # exactly the gain that is asked for
        ([(9.91, 10.0)] * 4, Verdict.GAIN_TOO_SMALL, ()),
        ([(10.0, 10.0)] * 4, Verdict.GAIN_TOO_SMALL, ()),
        ([(12.0, 10.0)] * 4, Verdict.GAIN_TOO_SMALL, ("car-0", "car-1", "car-2", "car-3")),
        # Much better on the whole, worse on one of four: as many as may lose.
        ([(11.2, 10.0), (7.0, 10.0), (7.0, 10.0), (7.0, 10.0)], Verdict.BETTER, ("car-0",)),
        ([(11.2, 10.0), (11.2, 10.0), (5.0, 10.0), (5.0, 10.0)], Verdict.TOO_MANY_LOSERS, ("car-0", "car-1")),
        # Worse, but within the tolerance.
        ([(11.0, 10.0), (11.0, 10.0), (5.0, 10.0), (5.0, 10.0)], Verdict.BETTER, ()),
    ],
)
def test_gain_and_losers_decide(cars: list[tuple[float, float]], code: Verdict, losers: tuple[str, ...]) -> None:
    found = judge(result(*(car(number, *pair) for number, pair in enumerate(cars))), CHAMPION, SPEC)
    assert (found.code, found.losers, found.champion, found.cars) == (code, losers, "night@2", 4)
    assert found.code.promoted == (code is Verdict.BETTER)
    assert f"on {len(cars)} cars" in found.message


def test_the_figures_of_a_decision_are_told() -> None:
    found = judge(result(car(0, 8.0, 10.0), car(1, 8.0, 10.0)), CHAMPION, SPEC)
    assert found.gain == pytest.approx(0.2)
    assert found.message == "RMSE 8 against 10 of night@2 on 2 cars, 20.0% lower"
    assert found.plain()["promoted"] is True
    worse = judge(result(car(0, 12.0, 10.0)), CHAMPION, SPEC)
    assert worse.message == "RMSE 12 against 10 of night@2 on 1 cars, 20.0% higher; must fall by 1.0% at least"


def test_cars_that_cannot_judge_have_no_say() -> None:
    told = result(
        car(4, 99.0, 1.0, update_suspicious=True),
        car(0, 8.0, 10.0),
        car(1, None, None, 0),
        car(2, 8.0, None),
        car(3, 99.0, 1.0, update_suspicious=True),
    )
    assert [pair.car for pair in pairs_of(told | {"cars": [*told["cars"], "nonsense"]})] == ["car-0"]
    assert judge(told, CHAMPION, SPEC).code is Verdict.BETTER
    assert judge(result(car(1, None, None, 0)), CHAMPION, SPEC).code is Verdict.NOT_MEASURED


def test_a_comparison_with_another_model_than_the_champion_of_now_counts_for_nothing() -> None:
    better = car(0, 1.0, 10.0)
    assert judge(result(better, sha256="d" * 64), CHAMPION, SPEC).code is Verdict.CHAMPION_CHANGED
    assert judge(result(better) | {"champion": None}, CHAMPION, SPEC).code is Verdict.CHAMPION_CHANGED
    other = judge(result(better, code="champion-too-large", reason="it has 99 bytes"), CHAMPION, SPEC)
    assert other.code is Verdict.NOT_COMPARED
    assert "champion-too-large: it has 99 bytes" in other.message
    # What a run wrote is not kept at any length.
    long = judge(result(better, code="champion-too-large", reason="x" * 600), CHAMPION, SPEC)
    assert long.message.endswith(f": {'x' * 500}")
    assert "x" * 501 not in long.message


def test_a_champion_that_is_never_wrong_is_not_beaten() -> None:
    found = judge(result(car(0, 0.0, 0.0)), CHAMPION, SPEC)
    assert (found.code, found.gain) == (Verdict.GAIN_TOO_SMALL, 0.0)


def test_the_gain_is_a_share_however_small_the_errors_are_and_as_much_as_is_asked_for_is_enough() -> None:
    spec = ScheduleSpec(promote="if-better", minimum_gain=0.25)
    found = judge(result(car(0, 0.375, 0.5)), CHAMPION, spec)
    assert (found.code, found.gain) == (Verdict.BETTER, 0.25)
