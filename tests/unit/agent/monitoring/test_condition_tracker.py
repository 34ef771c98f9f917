"""A condition shows only after it has lasted, and goes only after it has been away."""

import pytest

from fleven_agent.monitoring.condition_tracker import ConditionTracker
from fleven_agent.monitoring.conditions import Finding
from fleven_agent.protocol.codes import ConditionCode as Code
from fleven_agent.protocol.codes import Severity


def hot(message: str) -> list[Finding]:
    return [Finding(Code.TEMPERATURE_HIGH, message, Severity.WARNING, "cool it")]


def down(message: str) -> list[Finding]:
    return [Finding(Code.SUPERNODE_DOWN, message, Severity.ERROR, "wait")]


def test_a_condition_shows_only_after_it_has_lasted() -> None:
    conditions = ConditionTracker()
    assert not conditions.update(hot("80 °C"), 0, 1_000)
    assert not conditions.update(hot("80 °C"), 9, 1_009)
    assert conditions.update(hot("80 °C"), 10, 1_010)
    assert (conditions.shown[0].since, conditions.shown[0].severity) == (1_000, Severity.WARNING)


def test_one_that_went_before_it_showed_begins_anew() -> None:
    conditions = ConditionTracker()
    conditions.update(hot("80 °C"), 0, 1_000)
    conditions.update([], 5, 1_005)
    conditions.update(hot("80 °C"), 8, 1_008)
    assert not conditions.update(hot("80 °C"), 17.5, 1_017.5)
    assert conditions.update(hot("80 °C"), 18, 1_018)
    assert conditions.shown[0].since == 1_008


def test_conditions_are_shown_in_their_order_and_each_goes_by_itself() -> None:
    conditions = ConditionTracker()
    assert conditions.update([*hot("80 °C"), *down("a")], 0, 0)
    assert conditions.codes == {Code.SUPERNODE_DOWN}
    assert conditions.update([*hot("80 °C"), *down("a")], 10, 10)
    assert [one.code for one in conditions.shown] == [Code.SUPERNODE_DOWN, Code.TEMPERATURE_HIGH]
    assert conditions.update(hot("80 °C"), 11, 11)
    assert not conditions.update(hot("81 °C"), 12, 12)
    assert conditions.codes == {Code.TEMPERATURE_HIGH}


def test_a_condition_goes_only_after_it_has_been_away() -> None:
    conditions = ConditionTracker()
    for now in (0, 10):
        conditions.update(hot("80 °C"), now, now)
    conditions.update([], 20, 20)
    assert conditions.codes == {Code.TEMPERATURE_HIGH}
    conditions.update(hot("79 °C"), 40, 40)
    conditions.update([], 50, 50)
    assert conditions.codes == {Code.TEMPERATURE_HIGH}
    assert conditions.shown[0].since == 0
    assert not conditions.update([], 79.5, 79.5)
    assert conditions.update([], 80, 80)
    assert conditions.shown == ()


def test_a_condition_at_once_keeps_its_beginning_while_its_words_change() -> None:
    conditions = ConditionTracker()
    conditions.update(down("a"), 0, 100)
    assert not conditions.update(down("b"), 5, 105)
    assert (conditions.shown[0].since, conditions.shown[0].message) == (100, "b")
    assert conditions.update([], 6, 106)


def test_a_clock_that_is_set_moves_the_beginning_with_it() -> None:
    """A board without a clock begins in 1970: a condition of that minute would else be half a century old."""
    conditions = ConditionTracker()
    conditions.update(down("a"), 100, 30)
    assert conditions.shown[0].since == 30
    conditions.update(down("a"), 160, 1_790_000_060)
    assert conditions.shown[0].since == 1_790_000_000
    # A clock that is slewed moves nothing: each change would be told to the server.
    conditions.update(down("a"), 220, 1_790_000_121)
    assert conditions.shown[0].since == 1_790_000_000


@pytest.mark.parametrize(("by_seconds", "set_anew"), [(4.9, False), (-4.9, False), (5.0, True), (-5.0, True)])
def test_a_clock_counts_as_set_from_five_seconds_on(by_seconds: float, set_anew: bool) -> None:
    conditions = ConditionTracker()
    conditions.update(down("a"), 100, 1_000)
    conditions.update(down("a"), 160, 1_060 + by_seconds)
    assert conditions.shown[0].since == (1_000 + by_seconds if set_anew else 1_000)
