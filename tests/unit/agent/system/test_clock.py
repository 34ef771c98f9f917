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
