"""A `flwr` that is loaded in advance: the real program takes one command line over, and another is loaded later."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

import pytest
from hand_clock import HandClock

from fleven.server.flower.ready_command import REST_SECONDS, ReadyCommand

PROGRAM = str(Path(sys.executable).parent / "flwr")


def test_it_becomes_the_command_that_it_is_given_with_its_lock(tmp_path: Path) -> None:
    clock = HandClock(0.0)
    ready = ReadyCommand({**os.environ, "FLWR_HOME": str(tmp_path)}, tmp_path, clock)
    assert ready.take([PROGRAM, "--version"], []) is None
    clock.now = REST_SECONDS + 1
    ready.tend()
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = ready.take([PROGRAM, "--version"], [lock])
    assert process is not None
    os.close(lock)
    other = os.open(tmp_path / "lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):  # the command holds what it was given
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with process:
        said, complained = process.communicate(timeout=60)
    os.close(other)
    assert process.returncode == 0, complained
    assert b"Flower" in said

    ready.tend()  # not yet: what was submitted needs the processor
    assert ready.take([PROGRAM, "--version"], []) is None
    ready.close()


def test_one_that_was_killed_is_none_and_is_replaced(tmp_path: Path) -> None:
    clock = HandClock(0.0)
    ready = ReadyCommand(dict(os.environ), tmp_path, clock)
    ready.tend()
    assert ready._process is not None
    ready._process.kill()
    ready._process.wait()
    assert ready.take([PROGRAM, "--version"], []) is None
    clock.now += REST_SECONDS
    ready.tend()
    assert ready._process is not None
    assert ready._process.poll() is None
    ready.close()
