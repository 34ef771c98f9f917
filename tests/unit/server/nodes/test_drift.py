"""Drift of the model in use: Page's test on each car's errors, the condition, the fleet, and what waits for it."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven.server.database import Store
from fleven.server.nodes import drift
from fleven.server.nodes.drift import FEWEST, THRESHOLD, Reference, statistic
from fleven.server.nodes.model import Drift, Fleet, Node, NodeHealth
from fleven.server.runs import policy
from fleven.server.runs.model import Reason
from fleven.server.schedules.spec import Conditions
from fleven_agent.protocol.report import ModelState

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
CHAMPION = Reference("night@3", "c" * 64, 8.0, {"1": 4.0})


def node(name: str, partition: int = 0, told: Drift = Drift.NO_MODEL) -> Node:
    return Node(name, partition, NodeHealth.READY, drift=told)


def model(*errors: float, sha256: str = CHAMPION.sha256, experiment: str = "night") -> dict[str, Any]:
    return {"experiment": experiment, "sha256": sha256, "errors": list(errors)}


def judged(partition: int, errors: Any) -> Node:
    (found,) = drift.marked([node("car", partition)], {"car": errors}, {"night": CHAMPION}, {"car": NOW})
    return found


def test_the_sum_is_pages() -> None:
    # By hand, with an expected error of 10 and 0.2 tolerated: +0.3, +0.1, -0.7 (to 0), +0.8.
    assert [round(statistic(errors, 10.0), 9) for errors in ([15], [15, 13], [15, 13, 5], [15, 13, 5, 20])] == [
        0.3, 0.4, 0.0, 0.8,
    ]  # fmt: skip
    assert statistic([], 10.0) == 0.0


@given(st.lists(st.floats(0, 1e6), max_size=40), st.floats(1e-3, 1e6))
def test_the_sum_is_the_page_hinkley_form_of_the_largest_rise(errors: list[float], expected: float) -> None:
    """Max over k of the sum of the last k deviations: how Page states the test that the recursion computes."""
    deviations = [error / expected - 1.2 for error in errors]
    sums = [math.fsum(deviations[start:]) for start in range(len(deviations) + 1)]
    assert statistic(errors, expected) == pytest.approx(max(sums), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ((8.0,) * 30, Drift.STEADY),
        ((9.6,) * 30, Drift.STEADY),  # all that is tolerated, for ever
        ((16.0, 16.0), Drift.UNKNOWN),  # two trips say nothing yet
        ((8.0, 16.0, 16.0), Drift.DRIFTING),
        ((8.0, 8.0, 17.0), Drift.STEADY),  # one bad trip
        ((8.0, 8.0, 18.0), Drift.DRIFTING),  # one very bad trip
        ((12.0, 12.0, 12.0), Drift.STEADY),
        ((12.0, 12.0, 12.0, 12.0), Drift.DRIFTING),
        ((12.0, 12.0, 12.0, 12.0, 6.0, 6.0), Drift.STEADY),  # it fits again
        ((), Drift.UNKNOWN),
    ],
)
def test_a_car_is_judged_by_the_error_at_promotion(errors: tuple[float, ...], told: Drift) -> None:
    assert judged(0, model(*errors)).drift is told


def test_a_car_of_the_run_is_judged_by_its_own_error() -> None:
    assert judged(1, model(4.0, 8.1, 8.1)).drift is Drift.DRIFTING
    assert judged(2, model(4.0, 8.1, 8.1)).drift is Drift.STEADY


def test_the_condition_says_the_figures() -> None:
    found = judged(0, model(8.0, 24.0, 24.0))
    (condition,) = found.conditions
    assert (condition.code, condition.severity.value, condition.since) == ("model-drift", "warning", NOW)
    assert "night@3 had an error of 18.7 on the newest 3 trips, 8 when it was promoted" in condition.message


@pytest.mark.parametrize(
    "said", [None, "junk", model(99, 99, 99, sha256="d" * 64), model(99, 99, 99, experiment="day"), {}]
)
def test_a_car_without_the_champion_says_nothing(said: Any) -> None:
    assert judged(0, said).drift is Drift.NO_MODEL


def test_an_error_is_judged_by_its_share_in_whatever_unit_it_is() -> None:
    small = Reference("night@3", "c" * 64, 0.5, {})
    (found,) = drift.marked([node("car")], {"car": model(1.0, 1.0, 1.0)}, {"night": small}, {})
    assert found.drift is Drift.DRIFTING


@pytest.mark.parametrize("rmse", [None, 0.0])
def test_without_an_error_at_promotion_nothing_is_said(rmse: float | None) -> None:
    without = Reference("night@3", "c" * 64, rmse, {})
    (found,) = drift.marked([node("car")], {"car": model(9, 9, 9)}, {"night": without}, {})
    assert found.drift is Drift.UNKNOWN


def test_what_is_kept_of_a_report_is_bounded() -> None:
    errors = [{"at": NOW, "rmse": 1.0, "values": 5}] * 30
    state = ModelState.model_validate({"experiment": "night", "current": {"sha256": "c" * 64}, "errors": errors})
    assert drift.kept(state) == model(*[1.0] * 30)
    assert drift.kept(ModelState(experiment="night")) is None
    assert drift.kept(None) is None


FLEET = {
    "nobody has one": ([Drift.NO_MODEL] * 3, True),
    "nobody can tell": ([Drift.UNKNOWN, Drift.NO_MODEL], False),
    "steady": ([Drift.STEADY] * 3, False),
    "one of three": ([Drift.DRIFTING, Drift.STEADY, Drift.STEADY], False),
    "half": ([Drift.DRIFTING, Drift.STEADY], True),
    "one of those that can tell": ([Drift.DRIFTING, Drift.UNKNOWN, Drift.UNKNOWN], True),
}


@pytest.mark.parametrize("case", FLEET)
def test_a_schedule_waits_for_drift(case: str) -> None:
    told, met = FLEET[case]
    fleet = Fleet(tuple(node(f"car-{number}", number, one) for number, one in enumerate(told)), True)
    checks = {check.code: check for check in policy.node_checks(Conditions(when_drift=True), fleet, None)}
    assert checks[Reason.NO_DRIFT].met is met
    assert Reason.NO_DRIFT not in {check.code for check in policy.node_checks(Conditions(), fleet, None)}


def test_what_cars_are_measured_by_is_remembered(store: Store) -> None:
    with store.write() as connection:
        drift.remember(connection, "night", CHAMPION, NOW)
        drift.remember(connection, "day", Reference("day@1", "d" * 64, None, {}), NOW)
        drift.remember(connection, "night", Reference("night@4", "e" * 64, 1.5, {"2": 1.0}), NOW)
    with store.read() as connection:
        found = drift.remembered(connection)
    assert found["night"] == Reference("night@4", "e" * 64, 1.5, {"2": 1.0})
    assert found["day"].expected(0) is None
    assert FEWEST * 0.8 > THRESHOLD
