"""How long systemd waits for a sign of life of the cell: briefly while a task could have stopped it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleven_agent.common.cell.watchdog import ALIVE_SECONDS, SLOW_SECONDS, Watchdog


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Stands for systemd's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield made


def seconds_of(message: bytes) -> float:
    facts = dict(line.split("=") for line in message.decode().splitlines())
    assert facts["WATCHDOG"] == "1"
    return int(facts["WATCHDOG_USEC"]) / 1e6


def test_it_is_short_while_tasks_work_and_long_while_the_process_is_busy_itself(told: socket.socket) -> None:
    watchdog = Watchdog()
    assert "NOTIFY_SOCKET" not in os.environ  # a task has no use for it
    watchdog.hurry()
    assert seconds_of(told.recv(100)) == ALIVE_SECONDS < 30
    with watchdog.slow():
        assert seconds_of(told.recv(100)) == SLOW_SECONDS
    assert seconds_of(told.recv(100)) == ALIVE_SECONDS
    watchdog.beat()  # has just been heard of
    with pytest.raises(BlockingIOError):
        told.recv(100)


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with Watchdog().slow():
        pass
