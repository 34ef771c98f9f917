"""A moment since the boot, told by the wall clock of the day."""

import time

import pytest

from fleven_agent.system import clock


def test_a_moment_is_told_by_the_clock_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = clock.since_boot()
    monkeypatch.setattr(clock.time, "clock_gettime", lambda _: moment + 60)
    monkeypatch.setattr(clock.time, "time", lambda: 90.0)
    assert clock.wall_stamp(moment) == 30.0
    monkeypatch.setattr(clock.time, "time", lambda: 1_790_000_090.0)
    assert clock.wall_stamp(moment) == 1_790_000_030.0


def test_now_is_now() -> None:
    assert abs(clock.wall_stamp(clock.since_boot()) - time.time()) < 1.0


@pytest.mark.parametrize(
    ("offset", "known", "expected"),
    [
        (None, None, None),
        (None, 5.0, 5.0),  # a server that does not say: what it said before stands
        (0.4, None, None),
        (-2.0, 900.0, None),  # a time service has set this clock
        (3_600.0, None, 4_500.0),
        (-3_600.0, None, -2_700.0),
        (3_600.0, 4_500.7, 4_500.7),  # measured again, through the jitter of a mobile link
        (3_600.0, 4_502.0, 4_500.0),
    ],
)
def test_the_servers_time_is_counted_from_the_boot(
    offset: float | None, known: float | None, expected: float | None
) -> None:
    assert clock.server_time_at_boot(offset, known, wall_seconds=1_000.0, since_boot_seconds=100.0) == expected
