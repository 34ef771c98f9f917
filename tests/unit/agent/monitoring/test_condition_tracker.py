"""A condition shows only after it has lasted, and goes only after it has been away."""

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
    assert conditions.update([], 80, 80)
    assert conditions.shown == ()


def test_a_condition_at_once_keeps_its_beginning_while_its_words_change() -> None:
    conditions = ConditionTracker()
    conditions.update(down("a"), 0, 100)
    assert not conditions.update(down("b"), 5, 105)
    assert (conditions.shown[0].since, conditions.shown[0].message) == (100, "b")
    assert conditions.update([], 6, 106)
