"""The demonstration's process keeper, with real processes: nothing outlives it, whatever its children do."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from waiting import wait_for


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Folder with two programs: one that forks a child into a session of its own, and one that ignores SIGTERM."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write_program(
        folder / "forks",
        """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        print(child.pid, flush=True)
        time.sleep(600)
        """,
    )
    write_program(
        folder / "stubborn",
        """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", flush=True)
        time.sleep(600)
        """,
    )
    return folder


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(body)}")
    path.chmod(0o755)


def keep(code: str, logs: Path) -> str:
    """Run code in a process of its own, since the keeper makes a subreaper of its process; return what it printed."""
    script = f"from pathlib import Path\nfrom fleven.demo.processes import DemoProcesses\nlogs = Path({str(logs)!r})\n"
    command = [sys.executable, "-c", script + textwrap.dedent(code)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=30, check=True).stdout


def test_a_child_in_a_session_of_its_own_is_ended_too(programs: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "forks.log"
    keep(
        f"""
        import time
        with DemoProcesses(logs) as processes:
            processes.start("forks", [{str(programs / "forks")!r}], {{}})
            while not (logs / "forks.log").read_text().strip():
                time.sleep(0.02)
        """,
        tmp_path / "logs",
    )
    assert not psutil.pid_exists(int(log.read_text()))


def test_a_program_that_ignores_sigterm_is_killed(programs: Path, tmp_path: Path) -> None:
    output = keep(
        f"""
        import time
        from fleven.demo import processes as demo_processes
        demo_processes.STOP_GRACE_SECONDS = 0.2
        with DemoProcesses(logs) as processes:
            processes.start("stubborn", [{str(programs / "stubborn")!r}], {{}})
            while "ready" not in (logs / "stubborn.log").read_text():
                time.sleep(0.02)
            print(processes._running[0][1].pid)
        """,
        tmp_path / "logs",
    )
    assert not psutil.pid_exists(int(output))


def test_what_was_left_running_is_stopped_by_its_state_file(programs: Path, tmp_path: Path) -> None:
    state = tmp_path / "demo.json"
    keep(
        f"""
        with DemoProcesses(logs) as processes:
            processes.start("forks", [{str(programs / "forks")!r}], {{}})
            processes.leave_running(Path({str(state)!r}))
        """,
        tmp_path / "logs",
    )
    pid = json.loads(state.read_text())["processes"][0]["pid"]
    assert psutil.pid_exists(pid)
    wait_for(lambda: bool(psutil.Process(pid).children()))
    child = psutil.Process(pid).children()[0]
    from fleven.demo.processes import DemoProcesses

    assert DemoProcesses.stop_left_running(state) == 2
    assert not psutil.pid_exists(pid)
    assert not child.is_running()
    assert not state.exists()


def test_a_process_number_that_was_given_to_another_program_is_left_alone(tmp_path: Path) -> None:
    from fleven.demo.processes import DemoProcesses

    state = tmp_path / "demo.json"
    state.write_text(json.dumps({"processes": [{"name": "agent-0", "pid": os.getpid(), "started_at": 1.0}]}))
    assert DemoProcesses.stop_left_running(state) == 0
