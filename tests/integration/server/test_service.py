"""`fleven-server serve` as a process: ready, alive, the only one, stopped; with `flwr` as a fake on PATH."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
# Written out, as wherever an app is made: what each app says of itself is its own, and read where it is used.
PYPROJECT = """
[project]
name = "tiny"
version = "1.0.0"
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "tiny:server"
clientapp = "tiny:client"
"""


class Server:
    """A server process with its folders."""

    def __init__(self, folder: Path, free_port: Callable[[], int]) -> None:
        self.folder = folder
        self.state = folder / "state"
        (folder / "tiny").mkdir()
        (folder / "tiny" / "pyproject.toml").write_text(PYPROJECT)
        self.port = free_port()
        self.config = folder / "server.toml"
        self.config.write_text(
            "insecure = true\n"
            f'app-path = "{folder / "tiny"}"\n[superlink]\ncontrol-address = "127.0.0.1:{free_port()}"\n'
            f'[web]\naddress = "127.0.0.1:{self.port}"\n'
        )
        self.environment = {
            **os.environ,
            "FLEVEN_SERVER_STATE_DIR": str(self.state),
            "FLEVEN_SERVER_CONFIG": str(self.config),
        }
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(BIN / "fleven-server"), "serve"],
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "fleven-server"), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    def fact(self, key: str) -> Any:
        with closing(sqlite3.connect(self.state / "register.db", timeout=20)) as connection:
            row = connection.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None


@pytest.fixture
def server(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Server]:
    made = Server(tmp_path, free_port)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


def notifications(listener: socket.socket, wanted: str, seconds: float = 60) -> list[str]:
    """Return what was told to systemd, up to a wanted message."""
    listener.settimeout(seconds)
    found: list[str] = []
    while wanted not in found:
        found.append(listener.recv(4096).decode())
    return found


def test_it_tells_systemd_feeds_the_watchdog_answers_and_stops(server: Server, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        left_over = server.state / "apps" / "run-99-1"
        left_over.mkdir(parents=True)
        process = server.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        notifications(listener, "READY=1")
        assert not left_over.exists()
        notifications(listener, "WATCHDOG=1")
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/openapi.json", timeout=20) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        notifications(listener, "STOPPING=1")
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert output.splitlines()[-1].endswith("event=stopped")


def test_a_second_server_and_a_port_in_use_are_refused(server: Server, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        server.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        notifications(listener, "READY=1")
    second = server.start()
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 75
    assert "another fleven-server serves" in output
    other = server.start(FLEVEN_SERVER_STATE_DIR=str(tmp_path / "other"))
    output, _ = other.communicate(timeout=60)
    assert other.returncode == 75
    assert f"web.address: 127.0.0.1:{server.port}: address already in use" in output


def test_a_command_is_seen_at_once_and_a_waiting_run_survives_kill_9(server: Server, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        first = server.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        notifications(listener, "READY=1")
        server.command("schedule", "run", "--no-follow")
        shown = wait_for_state(server, "waiting")
        assert shown["reason"] == "superlink-unreachable"
        first.kill()
        first.communicate(timeout=30)
        server.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        notifications(listener, "READY=1")
    server.command("runs", "stop", "1")
    assert wait_for_state(server, "cancelled")["reason"] == "operator"


def wait_for_state(server: Server, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        shown: dict[str, Any] = json.loads(server.command("runs", "show", "1", "--json").stdout)
        if shown["state"] == state:
            return shown
        time.sleep(0.1)
    raise AssertionError(f"run 1 is {shown['state']}, not {state}")


def test_a_damaged_register_is_refused_and_names_the_backup(server: Server) -> None:
    server.command("schedule", "add", "x", check=False)
    file = server.state / "register.db"
    (server.state / "backups").mkdir()
    (server.state / "backups" / "register-2026-05-04.db").touch()
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    content = bytearray(file.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    file.write_bytes(content)
    process = server.start()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "is damaged" in output
    assert "register-2026-05-04.db" in output
    assert "Traceback" not in output


def test_a_register_of_a_newer_version_is_refused(server: Server) -> None:
    server.command("schedule", "add", "x", check=False)
    with closing(sqlite3.connect(server.state / "register.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    done = server.command("schedule", check=False)
    assert done.returncode == 1
    assert "was written by a newer FLEVEn" in done.stderr
    assert "Traceback" not in done.stderr
