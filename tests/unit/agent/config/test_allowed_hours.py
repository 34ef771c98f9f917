"""Allowed hours: what a span means, which moments lie in it, and what is said of spans and zones that are no use."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from fleven_agent.config.allowed_hours import allowed, parse, problems
from fleven_agent.config.settings import Gates as Settings


@pytest.mark.parametrize(
    ("spans", "moment", "expected"),
    [
        ((), "2026-01-05 12:00", True),
        (("08:30-17:45",), "2026-01-05 08:29", False),
        (("08:30-17:45",), "2026-01-05 08:30", True),
        (("08:30-17:45",), "2026-01-05 17:44", True),
        (("08:30-17:45",), "2026-01-05 17:45", False),
        (("08:30-17:45", "19:00-20:00"), "2026-01-05 18:30", False),
        (("08:30-17:45", "19:00-20:00"), "2026-01-05 19:30", True),
        (("sun 22:00-06:00",), "2026-01-12 05:59", True),
        (("sun 22:00-06:00",), "2026-01-13 05:59", False),
        (("20:00-06:00",), "2026-01-05 20:00", True),
        (("20:00-06:00",), "2026-01-05 05:59", True),
        (("20:00-06:00",), "2026-01-05 06:00", False),
        (("20:00-06:00",), "2026-01-05 19:59", False),
        (("fri 22:00-06:00",), "2026-01-09 23:00", True),
        (("fri 22:00-06:00",), "2026-01-10 05:00", True),
        (("fri 22:00-06:00",), "2026-01-09 05:00", False),
        (("sat,sun 00:00-24:00",), "2026-01-10 23:59", True),
        (("sat,sun 00:00-24:00",), "2026-01-09 12:00", False),
        (("fri-mon 10:00-11:00",), "2026-01-11 10:30", True),
        (("fri-mon 10:00-11:00",), "2026-01-07 10:30", False),
    ],
)
def test_allowed_hours(spans: tuple[str, ...], moment: str, expected: bool) -> None:
    at = datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo("Europe/Lisbon"))
    assert allowed(spans, at) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:00-24:00", ({0, 1, 2, 3, 4, 5, 6}, 0, 1440)),
        (" Mon 9:07 - 18:59 ", ({0}, 547, 1139)),
        ("sat,sun 23:59-00:01", ({5, 6}, 1439, 1)),
        ("wed-fri 1:00-2:00", ({2, 3, 4}, 60, 120)),
        ("sat-tue 1:00-2:00", ({5, 6, 0, 1}, 60, 120)),
        ("mon-sun 1:00-2:00", ({0, 1, 2, 3, 4, 5, 6}, 60, 120)),
        ("tue-tue 1:00-2:00", ({1}, 60, 120)),
        ("mon,fri-sun 1:00-2:00", ({0, 4, 5, 6}, 60, 120)),
    ],
)
def test_what_a_span_means(text: str, expected: tuple[set[int], int, int]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("zone", ["Nowhere/Land", "America", "../etc/passwd"])
def test_spans_and_zones_that_cannot_be_used_are_named_with_a_hint(zone: str) -> None:
    """A name that is unknown, a folder, a path: Python raises another exception for each."""
    settings = Settings(allowed_hours=("20-6", "1:00-2:00", "x 1:00-2:00"), time_zone=zone)
    found = problems(settings)
    assert [problem for problem, _ in found] == [
        '"20-6" is not a span of hours',
        '"x" is not a weekday (mon to sun)',
        f'time-zone "{zone}" is not known on this machine',
    ]
    assert all(hint.startswith("for example ") for _, hint in found)
    assert problems(Settings(allowed_hours=("1:00-2:00",), time_zone="Europe/Lisbon")) == []


@pytest.mark.parametrize(
    "text",
    [
        "24:01-1:00",
        "23:60-1:00",
        "25:00-1:00",
        "1:00-24:30",
        "",
        "20-6",
        "25:00-26:00",
        "10:00-10:00",
        "xyz 10:00-11:00",
        "10:60-11:00",
        "mon- 1:00-2:00",
    ],
)
def test_spans_that_cannot_be_used(text: str) -> None:
    with pytest.raises(ValueError, match="is"):
        parse(text)
