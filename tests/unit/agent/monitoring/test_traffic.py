"""Bytes of a day and a month: nothing counted twice, nothing lost to a clock, no connection mistaken for another."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven_agent.monitoring.traffic import Meter, Usage, near_limit, usage_from

DAY = date(2026, 5, 30)


def test_days_and_months_begin_at_nought() -> None:
    usage = Usage().after(10, DAY)
    assert usage == Usage("2026-05-30", 10, 10)
    assert usage.after(5, DAY) == Usage("2026-05-30", 15, 15)
    assert usage.after(5, DAY + timedelta(days=1)) == Usage("2026-05-31", 5, 15)
    assert usage.after(5, DAY + timedelta(days=2)) == Usage("2026-06-01", 5, 5)
    assert usage.after(5, date(2027, 5, 31)) == Usage("2027-05-31", 5, 5)


@pytest.mark.parametrize("today", [date(1970, 1, 1), date(2023, 12, 31), DAY - timedelta(days=1), date(2026, 4, 29)])
def test_a_clock_that_is_not_set_or_went_back_counts_on(today: date) -> None:
    assert Usage("2026-05-30", 10, 20).after(5, today) == Usage("2026-05-30", 15, 25)


def test_after_a_clock_that_was_far_ahead_the_count_begins_anew() -> None:
    assert Usage("2038-01-01", 10, 20).after(5, DAY) == Usage("2026-05-30", 5, 5)
    assert Usage("2026-06-30", 10, 20).after(5, DAY) == Usage("2026-06-30", 15, 25)
    assert Usage("2026-07-01", 10, 20).after(5, DAY) == Usage("2026-05-30", 5, 5)
    assert Usage().after(5, date(1970, 1, 1)) == Usage("1970-01-01", 5, 5)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 3)), max_size=40))
def test_what_a_month_carries_is_the_sum_of_its_parts(parts: list[tuple[int, int]]) -> None:
    usage, today, day, month = Usage(), DAY, 0, 0
    for grown, days in parts:
        before, today = today, today + timedelta(days=days)
        day = grown + (day if today == before else 0)
        month = grown + (month if (today.year, today.month) == (before.year, before.month) else 0)
        usage = usage.after(grown, today)
        assert (usage.day_bytes, usage.month_bytes) == (day, month)


def test_a_kept_day_that_is_none_begins_anew() -> None:
    assert usage_from("2026-05-30", 1, 2) == Usage("2026-05-30", 1, 2)
    assert usage_from("", 1, 2) == usage_from("yesterday", 1, 2) == Usage()


def test_connections_come_and_go() -> None:
    meter = Meter()
    assert meter.grown({1: 100, 2: 50}) == 150
    assert meter.grown({1: 130, 2: 50}) == 30
    assert meter.grown({2: 60}) == 10
    assert meter.grown({1: 5, 2: 60}) == 5  # the number was given to another one
    assert meter.grown({1: 3}) == 3
    assert meter.grown({}) == 0


@pytest.mark.parametrize(
    ("month_bytes", "limit", "words"),
    [
        (10**12, None, ""),
        (239_999_999, 300, ""),
        (240_000_000, 300, "240.0 MB of 300 MB are used this month"),
        (400_000_000, 300, "400.0 MB of 300 MB are used this month"),
    ],
)
def test_a_month_s_limit_is_told_from_four_fifths_on(month_bytes: int, limit: int | None, words: str) -> None:
    assert near_limit(month_bytes, limit) == words


def test_a_clock_counts_as_set_from_2024_on() -> None:
    assert Usage() == Usage("", 0, 0)
    assert Usage("2023-06-01", 10, 20).after(5, date(2023, 12, 31)) == Usage("2023-06-01", 15, 25)
    assert Usage("2023-06-01", 10, 20).after(5, date(2024, 1, 1)) == Usage("2024-01-01", 5, 5)
