"""The demonstration as a newcomer runs it: real processes, real Flower, from start to a clean end.

The ports are the product's own, so each test runs in a network of its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytestmark = [
    pytest.mark.flower,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"),
        reason="needs root, unshare and ip for a network of its own",
    ),
]

OWN_NETWORK = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
FLEVEN = str(Path(sys.executable).parent / "fleven")


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return all processes whose environment holds this mark: what a demonstration started, at whatever depth."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLEVEN_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    def start_demo(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*OWN_NETWORK, FLEVEN, "demo", "--output", str(tmp_path / "out"), *arguments],
            cwd=tmp_path,
            env=os.environ | {"FLEVEN_TEST_MARK": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start_demo


def test_three_cars_train_and_everything_is_stopped(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    output, messages = start("--rounds", "2", "--json").communicate(timeout=240)
    result = json.loads(output)
    assert result["state"] == "succeeded", messages
    assert result["rounds"] == 2
    assert {car["partition_id"] for car in result["cars"]} == {0, 1, 2}
    assert result["global"]["rmse"] > result["global"]["mae"] > 0
    assert result["global"]["r2"] > 0
    assert Path(result["model_path"]).stat().st_size > 1000
    assert len(result["plots"]) >= 2
    for plot in result["plots"]:
        assert Path(plot).read_bytes().startswith(b"\x89PNG")
    assert marked_processes(str(tmp_path)) == []


# The texts mark the stages of a demonstration; an interruption may come in any of them.
@pytest.mark.parametrize("stage", ["Trips for", "SuperLink and server", "cars join", "One run"])
def test_an_interruption_leaves_no_process_and_no_file(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, stage: str
) -> None:
    process = start("--rounds", "50", "--json")
    assert process.stderr is not None
    deadline = time.monotonic() + 120
    while stage not in (line := process.stderr.readline()):
        assert line, f"the demonstration ended before '{stage}'"
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)
    assert process.returncode == 130
    assert marked_processes(str(tmp_path)) == []
    assert not (tmp_path / "out").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    listen = "import socket, time; s = socket.create_server(('127.0.0.1', 9093)); time.sleep(60)"
    # 9093 is 2385 in hexadecimal: the demonstration starts once the kernel shows the listener.
    script = (
        f'"{sys.executable}" -c "{listen}" & while ! grep -q :2385 /proc/net/tcp; do :; done; '
        f'"{FLEVEN}" demo --output "{tmp_path}/out"; code=$?; kill $!; exit $code'
    )
    finished = subprocess.run(
        [*OWN_NETWORK, "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 1
    assert "9093 (Control API)" in finished.stderr
    assert not (tmp_path / "out").exists()
