"""Durations and sizes as people read them, on the car and on the server."""

import pytest

from fleven_agent.common.formatting import size_text, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (5399, "90 min"),
        (5400, "1 h 30 min"),
        (7200, "2 h"),
        (12_000, "3 h 20 min"),
        (172_769, "47 h 59 min"),
        (172_800, "2 d"),
        (864_000, "10 d"),
    ],
)
def test_a_duration_is_in_its_one_or_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_900, "99.9 kB"),
        (100_000, "100 kB"),
        (2_000_000, "2.0 MB"),
        (3_210_000_000, "3.2 GB"),
        (5e12, "5.0 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_a_size_is_in_the_largest_unit_that_keeps_a_digit_before_the_point(value: float | None, text: str) -> None:
    assert size_text(value) == text
