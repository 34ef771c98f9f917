"""The scheduler against real Flower: submit and follow, stop, kills of the server, of a ServerApp and of the SuperLink.

One federation for the whole file, of the crash benchmark's making: a SuperLink, a server, two SuperNodes, an app
without work. Several runs are in flight at a time, so that the waits for Flower's heartbeats overlap.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crash_runs import crash_federation, show, start, until

pytestmark = [pytest.mark.flower, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield a federation whose server has seen both nodes."""
    with crash_federation(tmp_path_factory.mktemp("federation"), concurrent=4) as made:
        start(made, "killed", "lost", "stopped", "crashed", "plain", retries=3)
        yield made


@pytest.fixture(scope="module")
def killed_run(federation: Any) -> int:
    """Return a run whose ServerApp was killed after its first round; Flower notices within a minute."""
    run: int = federation.request("killed", "--set", "rounds=3", "--set", "pause-seconds=6.0")
    assert federation.wait_for_step("running", "started", 0, 120, run)
    until(lambda: checkpoints(federation, run), 60)
    (server_app,) = federation.server_apps()
    server_app.kill()
    return run


def checkpoints(federation: Any, run: int) -> list[Path]:
    """Return the checkpoints of a run's attempts."""
    ids = [row[0] for row in federation.rows("SELECT flower_run_id FROM attempts WHERE run_id = ?", run)]
    folders = [federation.state / "results" / "crash" / str(flower_id) for flower_id in ids]
    return [file for folder in folders for file in sorted(folder.glob("checkpoint-*.pt"))]


def submissions(federation: Any, run: int) -> list[str]:
    """Return the status of each submission of an ended run in Flower's own list, once Flower too has ended them all.

    A run has ended here when its result is whole; its ServerApp may go on for a moment, to draw plots.
    """

    def all_ended() -> list[str]:
        found = [row["status"] for row in federation.flower_runs() if f"+fleven.{run}." in row["fab-version"]]
        return found if all(status.startswith("finished:") for status in found) else []

    return sorted(until(all_ended, 60))


def ended(federation: Any, run: int, seconds: float) -> str:
    """Wait for the end of a run and return its state."""
    query = "SELECT state FROM runs WHERE id = ? AND ended_at IS NOT NULL"
    return str(until(lambda: federation.rows(query, run), seconds)[0][0])


def test_a_run_is_submitted_followed_and_ends_with_its_exit_code(federation: Any, killed_run: int) -> None:
    done = federation.command("schedule", "run", "plain", "--set", "rounds=1")
    assert "submitted (submitting)" in done.stdout
    assert "succeeded after" in done.stdout
    assert done.returncode == 0
    run = json.loads(federation.command("runs", "list", "--schedule", "plain", "--json").stdout)[0]
    assert (run["state"], run["attempts"], run["progress"]["round"]) == ("succeeded", 1, 1)
    assert submissions(federation, run["id"]) == ["finished:completed"]
    assert "Start `flwr-serverapp`" in federation.command("runs", "logs", str(run["id"])).stdout


def test_a_run_is_stopped_in_flower_too(federation: Any, killed_run: int) -> None:
    run = federation.request("stopped", "--set", "rounds=50", "--set", "pause-seconds=1.0")
    assert federation.wait_for_step("running", "started", 0, 120, run)
    federation.command("runs", "stop", str(run), "--reason", "enough")
    assert federation.command("runs", "watch", str(run), check=False).returncode == 4
    assert show(federation, run)["message"] == "stopped by the operator: enough"
    assert submissions(federation, run) == ["finished:stopped"]


@pytest.mark.parametrize("reason", ["submitting", "accepted"])
def test_the_server_killed_at_a_step_submits_once(federation: Any, killed_run: int, reason: str) -> None:
    run = federation.request("crashed", "--set", "rounds=1")
    assert federation.wait_for_step("submitted", reason, 0, 120, run)
    federation.kill("server")
    federation.start_server()
    assert ended(federation, run, 120) == "succeeded"
    assert submissions(federation, run) == ["finished:completed"]
    assert show(federation, run)["attempts"] == 1


def test_a_killed_server_app_is_noticed_and_the_run_goes_on_from_its_checkpoint(
    federation: Any, killed_run: int
) -> None:
    assert ended(federation, killed_run, 200) == "succeeded"
    shown = show(federation, killed_run)
    first, second = shown["attempts_made"]
    assert (first["reason"], first["failure_class"]) == ("server-app-died", "infrastructure")
    assert first["flower_run_id"] in second["resume_from"]
    assert submissions(federation, killed_run) == ["finished:completed", "finished:failed"]
    ledger = (federation.state / "results" / "crash" / "ledger.txt").read_text().splitlines()
    rounds = [
        line.split()[1] for line in ledger if line.split()[0] in (first["flower_run_id"], second["flower_run_id"])
    ]
    assert rounds == ["1", "2", "3"]


def test_a_superlink_that_lost_its_power_loses_no_run(federation: Any) -> None:
    run = federation.request("lost", "--set", "rounds=3", "--set", "pause-seconds=3.0")
    until(lambda: checkpoints(federation, run), 120)
    federation.kill_all_of("superlink")
    federation.start_superlink()
    assert ended(federation, run, 240) == "succeeded"
    shown = show(federation, run)
    assert [made["reason"] for made in shown["attempts_made"]] == ["superlink-restarted", "completed"]
    assert len(found := submissions(federation, run)) == 2
    assert found[0] == "finished:completed"
