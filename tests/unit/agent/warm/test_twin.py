"""SuperNode's executor as a fork: which start is handed over, and what /proc shows of it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fleven_agent.warm.twin import ForkedExecutor, Started

NAME = "flower-superexec"


def test_the_first_start_of_the_executor_goes_to_the_fork_and_all_others_are_starts() -> None:
    here, there = socket.socketpair()
    forked = ForkedExecutor(NAME, 4711, here)
    other = forked.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    assert isinstance(other, subprocess.Popen)
    assert other.wait(20) == 3
    started = forked.Popen([NAME, "--insecure", "--parent-pid", "1"])
    assert isinstance(started, Started)
    assert started.pid == 4711
    with there:
        assert json.loads(there.recv(4096)) == ["--insecure", "--parent-pid", "1"]
        assert there.recv(1) == b""
    with pytest.raises(FileNotFoundError):  # a second one is not the fork's
        forked.Popen(["/nowhere/flower-superexec"])
    assert forked.PIPE == subprocess.PIPE


def test_a_fork_that_is_gone_leaves_flowers_own_start(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = socket.socketpair()
    there.close()
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", started.append)
    ForkedExecutor(NAME, 4711, here).Popen([NAME, "--insecure"])
    assert started == [[NAME, "--insecure"]]


def test_proc_shows_the_executors_own_command_line() -> None:
    code = (
        "import sys, time; from fleven_agent.warm.twin import show_command_line\n"
        "sys.argv[0] = '/folder/flower-supernode'; show_command_line('flower-superexec', ['--insecure', 'x'])\n"
        "print(flush=True); time.sleep(60)"
    )
    long = "--node-config=" + "x" * 200
    process = subprocess.Popen([sys.executable, "-c", code, long], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        content = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        shown = [os.fsdecode(part) for part in content.split(b"\0") if part]
        assert shown == [sys.executable, "/folder/flower-superexec", "--insecure", "x"]
    finally:
        process.kill()
        process.communicate()
