"""The agent's side of the cell, against a listener that plays the cell's words."""

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hand_clock import HandClock

from fleven_agent.warm.cell_server import MISSING_SECONDS, RETRY_SECONDS, CellServer
from fleven_agent.warm.programs import PROGRAMS
from fleven_agent.warm.settings import WarmMode, WarmReason, WarmSettings, WarmState

TOLD: dict[str, Any] = {"process_id": 4711, "ready": False, "left": None, "problem": "", "tasks": 0, "cold": {}}
ROW = {
    "process_id": 4712,
    "launcher_process_id": 1,
    "started_at": 1.0,
    "ended_at": None,
    "exit_status": None,
    "cpu_seconds": None,
    "peak_rss_bytes": None,
    "warm": False,
    "app": "ab12",
    "killed": "",
}


class Cell:
    """A listener in the cell's place."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.connection: socket.socket | None = None

    def accept(self) -> None:
        """Take the agent's connection."""
        self.connection, _ = self.listener.accept()
        assert self.connection.recv(1) == b"A"

    def tell(self, **changes: object) -> None:
        """Say what the cell is."""
        assert self.connection is not None
        self.connection.sendall(json.dumps({**TOLD, **changes}).encode() + b"\n")

    def asked(self) -> dict[str, Any]:
        """Return what the agent asks for."""
        assert self.connection is not None
        self.connection.settimeout(5)
        return dict(json.loads(self.connection.recv(1 << 16)))

    def close(self) -> None:
        """Be gone."""
        if self.connection is not None:
            self.connection.close()
        self.listener.close()


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Cell]:
    """A cell at cell.sock."""
    made = Cell(tmp_path / "cell.sock")
    yield made
    made.close()


@pytest.fixture
def clock() -> HandClock:
    """Monotonic seconds of the test."""
    return HandClock()


@pytest.fixture
def server(tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[CellServer]:
    """The agent's side, with programs of Flower's names on PATH."""
    monkeypatch.setattr("fleven_agent.warm.cell_server.START_SECONDS", 0.01)
    folder = tmp_path / "flower"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(f"#!{sys.executable} -Iu\n")
        (folder / name).chmod(0o755)
    made = CellServer(
        WarmSettings(mode=WarmMode.ON),
        socket_path=tmp_path / "cell.sock",
        state_directory=tmp_path / "state",
        runtime_directory=tmp_path / "run",
        total_memory_bytes=4 << 30,
        clock=clock,
    )
    made.environment({"PATH": str(folder)})
    yield made
    made.close()


def test_without_a_cell_no_task_runs_and_the_reason_is_told(server: CellServer) -> None:
    assert "cell.sock" in server.problem()
    assert "No such file" in server.problem()
    assert server.process_ids() == []


def test_the_launcher_in_front_of_path_leads_to_the_cell_and_nowhere_else(server: CellServer, tmp_path: Path) -> None:
    text = (tmp_path / "state/warm/bin/flwr-clientapp").read_text()
    assert "common.cell.stand_in" in text
    assert str(tmp_path / "cell.sock") in text


def test_a_cell_is_there_when_it_has_spoken(server: CellServer, cell: Cell, clock: HandClock) -> None:
    assert "does not answer" in server.problem()
    cell.accept()
    cell.tell()
    assert server.problem() == ""
    cell.tell(problem="it runs as root")
    assert server.problem() == "it runs as root"
    cell.tell(recent_tasks=[ROW])
    assert [(task.process_id, task.warm, task.app) for task in server.tasks()] == [(4712, False, "ab12")]
    assert server.process_ids() == [4711, 4712]


def test_a_cell_that_was_warm_is_cooled_when_the_configuration_says_off(
    server: CellServer, cell: Cell, tmp_path: Path
) -> None:
    off = CellServer(
        WarmSettings(mode=WarmMode.OFF),
        socket_path=tmp_path / "cell.sock",
        state_directory=tmp_path / "state",
        runtime_directory=tmp_path / "run",
        total_memory_bytes=4 << 30,
    )
    off.problem()
    cell.accept()
    cell.tell(ready=True)
    off.tick(wanted=True)
    assert cell.asked()["warm"] is None
    off.close()


def test_it_is_asked_to_warm_once_and_again_after_a_cold_task(server: CellServer, cell: Cell) -> None:
    server.problem()
    cell.accept()
    cell.tell()
    server.tick(wanted=True)
    asked = cell.asked()
    assert asked["warm"]["interpreter_flags"] == "-Iu"
    assert asked["environment"]["PATH"].startswith("/")
    assert server.status()["state"] == WarmState.WARMING
    cell.tell(ready=True)
    server.tick(wanted=True)
    assert server.status()["state"] == WarmState.READY
    cell.tell(left="idle")
    server.tick(wanted=True)
    assert (server.status()["state"], server.status()["reason"]) == (WarmState.ABSENT, WarmReason.IDLE)
    cell.tell(left="idle", cold={"absent": 1})
    server.tick(wanted=True)
    assert cell.asked()["warm"] is not None
    assert server.status()["last_cold_reason"] == "absent"
    server.stop()
    assert cell.asked()["warm"] is None


def test_a_cell_that_has_cooled_is_warmed_again_before_the_task_comes(server: CellServer, cell: Cell) -> None:
    server.problem()
    cell.accept()
    cell.tell()
    server.tick(wanted=True)
    cell.asked()
    cell.tell(ready=True)
    server.tick(wanted=True)
    server.expect_task()  # it is warm: nothing to do, and nothing kept for later
    cell.tell(left="idle")
    server.tick(wanted=True)
    assert server.status()["state"] == WarmState.ABSENT
    server.expect_task()
    server.tick(wanted=True)
    assert server.status()["state"] == WarmState.WARMING
    assert cell.asked()["warm"] is not None


def test_a_cell_that_goes_is_waited_for_and_then_missed(server: CellServer, cell: Cell, clock: HandClock) -> None:
    server.problem()
    cell.accept()
    cell.tell(tasks=3, ready=True)
    assert server.problem() == ""
    assert cell.connection is not None
    cell.connection.close()
    assert server.problem() == ""
    assert server.problem() == ""  # connects again, and nobody has spoken yet
    clock.now += MISSING_SECONDS + RETRY_SECONDS
    assert "does not answer" in server.problem()
    cell.accept()
    cell.tell(process_id=99, tasks=2)
    assert server.problem() == ""
    assert server.status()["tasks_warm"] == 5


def test_programs_that_cannot_be_placed_keep_supernode_from_starting_until_they_can(
    server: CellServer, tmp_path: Path
) -> None:
    server.environment({"PATH": "/nowhere"})
    assert "cannot be placed" in server.unplaced
    server.environment({"PATH": str(tmp_path / "flower")})
    assert server.unplaced == ""
