"""The Flower app under real Flower: SuperLink, three SuperNodes (one with broken data) and the operator's own commands.

One federation serves all tests of this file: starting it takes longer than most of them.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytestmark = [pytest.mark.flower, pytest.mark.timeout(400)]

TINY = 'sequence-length=5 hidden-size=4 local-epochs=1 min-nodes=3 threads=1 experiment="Test"'
#: What the copy of the app that travels says of itself, so that it can be told from the one installed here.
TRAVELLER = "9.9.9"


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for a condition and return its value; fail saying what did not happen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.2)
    pytest.fail(f"{what} did not happen within {seconds:g} s")


@dataclass
class Federation:
    """A running SuperLink and its SuperNodes."""

    folder: Path
    app: Path
    environment: dict[str, str]

    def flwr(self, *arguments: str, seconds: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["flwr", *arguments], capture_output=True, text=True, env=self.environment, cwd=self.folder, timeout=seconds
        )

    def submit(self, run_config: str) -> str:
        done = self.flwr("run", str(self.app), "test", "--run-config", f"{TINY} {run_config}", "--format", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        return str(json.loads(done.stdout)["run-id"])

    def read(self, run_id: str, name: str) -> Any:
        path = self.folder / "metrics" / "Test" / run_id / name
        return json.loads(path.read_text()) if path.exists() else None

    def state(self, run_id: str) -> str:
        status = self.read(run_id, "status.json")
        return status["state"] if status else ""

    def ended(self, run_id: str) -> bool:
        return self.state(run_id) in ("succeeded", "failed", "stopped")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def write_trips(folder: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(2):
        speed = np.clip(np.cumsum(random.normal(0, 2, 120)) + 50, 0, 140)
        table = {
            "time_sec": np.arange(120.0),
            "vehicle_speed": speed,
            "engine_rpm": 800 + 30 * speed,
            "mass_air_flow": 2 + 0.3 * speed,
            "calculated_load_value": 20 + 0.4 * speed,
        }
        pd.DataFrame(table).to_csv(folder / f"trip_{number}.csv", index=False)


def copy_of_the_app(repository: Path, folder: Path) -> Path:
    shutil.copytree(
        repository / "fleven" / "app", folder / "fleven" / "app", ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "fleven" / "__init__.py").write_text(f'"""Copy for a test."""\n\n__version__ = "{TRAVELLER}"\n')
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def federation(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("federation")
    for partition in range(2):
        write_trips(folder / "data" / f"client_{partition}", partition)
    (folder / "data" / "client_2").mkdir()
    (folder / "data" / "client_2" / "trip_0.csv").write_text("time_sec,engine_rpm\n0,800\n")
    server, fleet, control, *clients = free_ports(6)
    home = folder / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(f'[superlink.test]\naddress = "127.0.0.1:{control}"\ninsecure = true\n')
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "200",
    }
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, argv: list[str], home: Path) -> None:
        with (folder / f"{name}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    argv,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=environment | {"FLWR_HOME": str(home)},
                    start_new_session=True,
                )
            )

    start(
        "superlink",
        [
            "flower-superlink", "--insecure", "--database", str(folder / "superlink.db"),
            "--disable-runtime-dependency-installation",
            "--serverappio-api-address", f"127.0.0.1:{server}",
            "--fleet-api-address", f"127.0.0.1:{fleet}",
            "--control-api-address", f"127.0.0.1:{control}",
        ],
        home,
    )  # fmt: skip
    until(lambda: is_open(fleet) and is_open(control), 120, "the SuperLink's start")
    for partition, port in enumerate(clients):
        config = f'partition-id={partition} num-partitions=3 data-path="{folder}/data/client_{partition}"'
        start(
            f"node-{partition}",
            [
                "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{fleet}",
                "--clientappio-api-address", f"127.0.0.1:{port}", "--node-config", config,
            ],
            folder / f"node-{partition}",
        )  # fmt: skip
    try:
        yield Federation(folder, copy_of_the_app(repository, folder / "app"), environment)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_run_by_hand_goes_on_without_the_car_with_broken_data(federation: Federation) -> None:
    done = federation.flwr("run", str(federation.app), "test", "--stream", "--run-config", f"{TINY} rounds=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "event=round-finished round=2 rounds=2 nodes=2" in done.stdout
    (folder,) = (federation.folder / "metrics" / "Test").iterdir()
    result = federation.read(folder.name, "result.json")
    assert result["state"] == "succeeded"
    assert result["contributions"] == {"1": [0, 1], "2": [0, 1]}
    (excluded,) = result["excluded"]
    assert (excluded["partition_id"], excluded["error_code"]) == (2, "column-missing")
    assert "client_2/trip_0.csv: lacks" in excluded["reason"]
    assert result["global"]["rmse"] > 0
    for path in (result["model_path"], *result["plots"]):
        assert Path(path).is_relative_to(federation.folder / "results" / "Test" / folder.name)
        assert Path(path).stat().st_size > 0
    # The app that travelled ran on both sides, not the one that is installed beside Flower.
    assert all(f"fleven={TRAVELLER} " in car["versions"] for car in result["cars"])
    log = federation.flwr("log", folder.name, "test", "--show")
    assert "event=evaluated round=2" in log.stdout
    listed = federation.flwr("ls", "test", "--format", "json")
    assert [(run["run-id"], run["status"]) for run in json.loads(listed.stdout)["runs"]] == [
        (folder.name, "finished:completed")
    ]


def test_a_wrong_value_fails_with_one_line_and_no_traceback(federation: Federation) -> None:
    run_id = federation.submit('rounds=0 strategy="fedsgd"')
    until(lambda: federation.ended(run_id), 120, "the end of the run")
    error = federation.read(run_id, "status.json")["error"]
    assert error["code"] == "settings-invalid"
    said = "rounds: must be greater than or equal to 1 (got 0); strategy: must be 'fedavg'"
    assert said in error["message"]
    log = until(
        lambda: (
            (text := federation.flwr("log", run_id, "test", "--show").stdout) and "ServerApp raised" in text and text
        ),
        60,
        "the error in the run's log",
    )
    assert f"fleven.app.errors.SettingsError: settings-invalid: {said}" in log
    assert "Traceback" not in log


def test_a_run_in_which_no_round_trained_fails_and_names_the_cars(federation: Federation) -> None:
    wrong = f"{TINY} rounds=2 learning-rate=1e20 quorum=2"
    done = federation.flwr("run", str(federation.app), "test", "--stream", "--run-config", wrong)
    assert "no-round-trained" in done.stdout
    newest = max((federation.folder / "metrics" / "Test").iterdir(), key=lambda path: path.stat().st_mtime)
    status, result = (federation.read(newest.name, f"{name}.json") for name in ("status", "result"))
    assert (status["state"], status["error"]["code"]) == ("failed", "no-round-trained")
    for partition in range(2):
        assert f"partition {partition}: training-diverged: " in status["error"]["message"]
    listed = json.loads(federation.flwr("ls", "test", "--format", "json").stdout)["runs"]
    assert [run["status"] for run in listed if run["run-id"] == newest.name] == ["finished:failed"]
    assert result["error"] == status["error"]
    assert result["model_path"] is None
    assert not list((federation.folder / "results" / "Test" / newest.name).glob("*.safetensors"))


def test_a_wrong_key_is_refused_before_there_is_a_run(federation: Federation) -> None:
    done = federation.flwr("run", str(federation.app), "test", "--run-config", "roundz=3")
    assert done.returncode != 0
    assert "run configuration" in (done.stdout + done.stderr).lower()


def test_a_run_that_is_stopped_says_so(federation: Federation) -> None:
    run_id = federation.submit("rounds=200")
    until(lambda: (s := federation.read(run_id, "status.json")) and s["round"] >= 1, 180, "the first round")
    assert federation.flwr("stop", run_id, "test").returncode == 0
    assert until(lambda: federation.ended(run_id) and federation.state(run_id), 120, "the end of the run") == "stopped"


def test_the_bundle_that_travels_holds_the_app_and_nothing_else(repository: Path, federation: Federation) -> None:
    out = federation.folder / "build"
    out.mkdir()
    done = subprocess.run(
        ["flwr", "build", "--app", str(federation.app)],
        capture_output=True, text=True, env=federation.environment, cwd=out, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (fab,) = out.glob("*.fab")
    names = set(zipfile.ZipFile(fab).namelist())
    app = {str(path.relative_to(repository)) for path in (repository / "fleven" / "app").rglob("*.py")}
    app.remove("fleven/app/simulation.py")  # for benchmarks and tests only
    assert {name for name in names if not name.startswith(".info/")} == app | {"fleven/__init__.py", "pyproject.toml"}
