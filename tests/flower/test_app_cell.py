"""ServerApps in cells, with real Flower: a run from start to end, one whose ServerApp dies, one without a cell.

The cells are without a sandbox here: that they are apart is shown on machines.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from app_cells import AppCells
from crash_runs import crash_federation, show, start, until

pytestmark = [pytest.mark.flower, pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppCells]:
    """Yield what listens as systemd does."""
    # A socket's path is short.
    made = AppCells(tmp_path_factory.mktemp("cells"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, cells: AppCells) -> Iterator[Any]:
    """Yield a federation whose server has seen both nodes."""
    folder = tmp_path_factory.mktemp("federation")
    with crash_federation(folder, cell=str(cells.path)) as made:
        start(made, "celled", retries=2)
        yield made


def test_a_run_goes_through_a_cell_and_goes_on_from_a_checkpoint_when_its_server_app_dies(
    federation: Any, cells: AppCells
) -> None:
    run = federation.request("celled", "--set", "rounds=3", "--set", "pause-seconds=4.0")
    results = federation.state / "results" / "crash"
    first = until(lambda: next(iter(results.glob("*/checkpoint-*.pt")), None), 120)
    # The ServerApp works in a cell: its process is the keeper's child, and its files are handed over.
    pid = int((federation.state / "metrics" / "crash" / first.parent.name / "pid").read_text())
    server_app = psutil.Process(pid)
    assert server_app.ppid() in {keeper.pid for keeper in cells.keepers}
    # Other tests' SuperNodes, and other installations, may show theirs meanwhile.
    server_apps = [c for p in psutil.process_iter() if (c := _command(p)) and "serverapp" in " ".join(c)]
    ours = [command for command in server_apps if any(word.startswith(sys.prefix) for word in command)]
    assert ours
    assert not [command for command in ours if "--token" in command]
    server_app.kill()
    assert until(lambda: show(federation, run)["ended_at"], 240)
    shown = show(federation, run)
    assert shown["state"] == "succeeded"
    before, after = shown["attempts_made"]
    assert before["flower_run_id"] in after["resume_from"]
    names = {file.name for file in (results / after["flower_run_id"]).iterdir()}
    assert names == {"checkpoint-round-000002.pt", "checkpoint-round-000003.pt"}, (
        "the first was given, and not run again"
    )
    # One app was submitted, and is what the SuperLink has.
    assert len(shown["app_hash"]) == 64
    assert before["app_hash"] != after["app_hash"], "each attempt carries its own mark"
    assert "Start `flwr-serverapp`" in federation.command("runs", "logs", str(run)).stdout
    # What an app writes beside its run's folders lies in one of the run's own.
    assert (federation.state / "files" / after["flower_run_id"] / "results" / "crash" / "ledger.txt").is_file()
    until(lambda: sum(keeper.poll() is None for keeper in cells.keepers) <= 1, 30)  # one waits for the next run


def test_a_stopped_run_leaves_no_cell(federation: Any, cells: AppCells) -> None:
    run = federation.request("celled", "--set", "rounds=50", "--set", "pause-seconds=1.0")
    assert federation.wait_for_step("running", "started", 0, 120, run)
    federation.command("runs", "stop", str(run), "--reason", "enough")
    assert federation.command("runs", "watch", str(run), check=False).returncode == 4
    until(lambda: sum(keeper.poll() is None for keeper in cells.keepers) <= 1, 60)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if "flwr-serverapp" in " ".join(process.cmdline()) else []
    except psutil.Error:
        return []
