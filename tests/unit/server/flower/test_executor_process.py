"""The waits of the SuperLink's executor: a second as usual, and none when a run was submitted."""

from __future__ import annotations

import os
from pathlib import Path

from fleven.server.flower.executor_process import SOON_LASTS_SECONDS, SOON_SECONDS, Waits


class Clock:
    """Time that passes only in pauses; `at` does something at a moment."""

    def __init__(self) -> None:
        self.now = 100.0
        self.happenings: dict[float, Path] = {}

    def pause(self, seconds: float) -> None:
        self.now += seconds
        for moment in [moment for moment in self.happenings if moment <= self.now]:
            file = self.happenings.pop(moment)
            file.touch()
            os.utime(file, ns=(int(self.now * 1e9), int(self.now * 1e9)))


def test_nothing_submitted_waits_as_long_as_flower(tmp_path: Path) -> None:
    clock = Clock()
    Waits(tmp_path / "submitted", lambda: clock.now, clock.pause).sleep(1.0)
    assert clock.now == 101.0


def test_a_submission_ends_the_wait_and_shortens_the_next_ones_for_a_while(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "submitted"
    waits = Waits(file, lambda: clock.now, clock.pause)
    clock.happenings[100.3] = file
    waits.sleep(1.0)
    assert 100.3 <= clock.now < 100.4
    woken = clock.now
    while clock.now < woken + SOON_LASTS_SECONDS:
        before = clock.now
        waits.sleep(1.0)
        assert clock.now - before <= SOON_SECONDS + 1e-9
    before = clock.now
    waits.sleep(1.0)
    assert abs(clock.now - before - 1.0) < 1e-9


def test_what_was_submitted_before_the_start_is_old(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "submitted"
    file.touch()
    Waits(file, lambda: clock.now, clock.pause).sleep(1.0)
    assert clock.now == 101.0
