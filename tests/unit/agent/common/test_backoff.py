"""Delays grow, are capped, and spread."""

from hypothesis import given
from hypothesis import strategies as st

from fleven_agent.common.backoff import SPREAD, delay


@given(st.integers(-5, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_positive_and_capped(attempt: int, chance: float) -> None:
    found = delay(attempt, initial=1, factor=2, maximum=120, chance=chance)
    assert 1 * (1 - SPREAD) <= found <= 120 * (1 + SPREAD)


def test_delays_double_from_the_first_failure_on() -> None:
    assert [delay(n, initial=1, factor=2, maximum=10, chance=0.5) for n in (0, 1, 2, 3, 4, 5)] == [1, 1, 2, 4, 8, 10]


def test_chance_spreads_the_delay_around_its_middle() -> None:
    assert delay(1, initial=10, factor=2, maximum=100, chance=0.0) == 8
    assert delay(1, initial=10, factor=2, maximum=100, chance=0.75) == 11
