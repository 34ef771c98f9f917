"""The `fleven` command as a process: exit codes, streams, interruption, help that stays fast."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]
FLEVEN = [sys.executable, "-m", "fleven.cli"]
LOG = "car;time_sec;SPEED;RPM\n" + "".join(
    f"{car};{i};{30 + i % 9}km/h;{1500 + i},5RPM\n" for car in "ab" for i in range(40)
)


@pytest.fixture
def fleven(tmp_path: Path) -> Command:
    """Return a function that runs `fleven` with arguments in an empty folder, 80 columns wide."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
        command = [*FLEVEN, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log.csv").write_text(LOG)
    return tmp_path / "log.csv"


def test_the_version_is_the_distributions(fleven: Command) -> None:
    finished = fleven("--version")
    assert (finished.returncode, finished.stdout) == (0, f"fleven {version('fleven')}\n")


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.argv = ['fleven', 'data', 'import', '--help']\nfrom fleven.cli import main\n"
        "try:\n    main()\nfinally:\n    heavy = {'pandas', 'numpy', 'pyarrow', 'torch', 'flwr'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr


def test_import_then_describe(fleven: Command, log: Path, tmp_path: Path) -> None:
    imported = fleven("data", "import", log, "--out", "trips")
    assert imported.returncode == 0, imported.stderr
    assert "Written to trips/" in imported.stdout
    assert "80  kept" in imported.stdout
    assert max(len(line) for line in imported.stdout.splitlines()) <= 80
    described = fleven("data", "describe", "trips", "--details")
    assert described.returncode == 0, described.stderr
    assert "client_1/b_trip_0001.parquet" in described.stdout
    assert max(len(line) for line in described.stdout.splitlines()) <= 80


def test_json_is_the_manifest_and_nothing_else(fleven: Command, log: Path, tmp_path: Path) -> None:
    finished = fleven("data", "import", log, "--out", "trips", "--json", "--format", "csv")
    manifest = json.loads(finished.stdout)
    assert manifest == json.loads((tmp_path / "trips" / "manifest.json").read_text())
    assert finished.stderr == ""
    assert json.loads(fleven("data", "describe", "trips", "--json").stdout)["clients"][1]["rows"] == 40
    assert {each["name"] for each in json.loads(fleven("data", "columns", "--json").stdout)} >= {
        "vehicle_speed",
        "P_kW",
    }


def test_all_problems_come_at_once_one_line_each(fleven: Command, log: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "shoes.csv").write_text("time_sec;size\n0;43\n1;44\n")
    finished = fleven("data", "import", log, "empty.csv", "shoes.csv", "--out", "trips")
    assert finished.returncode == 2
    assert [line.split(":")[0] for line in finished.stderr.splitlines()] == ["empty.csv", "shoes.csv"]
    assert finished.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.csv", "log.csv", "shoes.csv"]


def test_an_unknown_column_names_the_nearest(fleven: Command, log: Path) -> None:
    finished = fleven("data", "import", log, "--out", "trips", "--by", "carr")
    assert (finished.returncode, finished.stderr) == (2, "log.csv: carr: no such column for --by (did you mean car?)\n")


def test_a_folder_is_not_replaced_unasked(fleven: Command, log: Path, tmp_path: Path) -> None:
    assert fleven("data", "import", log, "--out", "trips").returncode == 0
    again = fleven("data", "synthesise", "trips")
    assert again.returncode == 2
    assert "trips: holds data already (--force replaces what FLEVEn wrote there)" in again.stderr
    assert fleven("data", "synthesise", "trips", "--cars", "1", "--trips", "1", "--force").returncode == 0
    assert "synthetic" in (tmp_path / "trips" / "README.txt").read_text().lower()


def test_a_disk_that_can_not_be_written_ends_with_1(fleven: Command, log: Path) -> None:
    finished = fleven("data", "import", log, "--out", "/proc/trips")
    assert finished.returncode == 1
    assert finished.stderr.startswith("/proc/trips: cannot be written: ")
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_an_interruption_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        [*FLEVEN, "data", "synthesise", "trips", "--cars", "200", "--trips", "50"], cwd=tmp_path, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".trips.unfinished-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors == b"interrupted: nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def test_the_shell_completes_commands(tmp_path: Path) -> None:
    environment = {**os.environ, "_FLEVEN_COMPLETE": "complete_bash", "COMP_WORDS": "fleven data ", "COMP_CWORD": "2"}
    program = Path(sys.executable).parent / "fleven"
    finished = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=60)
    assert set(finished.stdout.split()) == {"import", "describe", "synthesise", "columns"}
