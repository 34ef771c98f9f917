"""Cars join a real server and train under real Flower: invited, accepted, revoked, with a new key, and copied."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agent_harness import Agent, wait_for
from tiny_federation import free_port

from fleven_agent.common.addresses import connect_problem
from fleven_agent.system import procfs

pytestmark = [pytest.mark.flower, pytest.mark.timeout(300)]


class Server:
    """A server as it is installed: SuperLink and service with TLS and the server's own authority."""

    def __init__(self, folder: Path) -> None:
        self.fleet, self.web = free_port(), free_port()
        folder.mkdir()
        self.config = folder / "server.toml"
        self.doors("shut")
        self.config.write_text(
            f'[superlink]\nfleet-address = "127.0.0.1:{self.fleet}"\n'
            f'control-address = "127.0.0.1:{free_port()}"\nserverappio-address = "127.0.0.1:{free_port()}"\n'
            f'[web]\naddress = "127.0.0.1:{self.web}"\n',
            encoding="utf-8",
        )
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FLEVEN_SERVER_STATE_DIR": str(folder / "state"),
            "FLEVEN_SERVER_CONFIG": str(self.config),
        }
        self.log = folder / "log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def doors(self, how: str) -> None:
        """Open or shut the doors, for the next start."""
        folder = Path(f"{self.config}.d")
        folder.mkdir(exist_ok=True)
        (folder / "00-doors.toml").write_text(f"insecure = {'true' if how == 'open' else 'false'}\n", encoding="utf-8")

    def start(self) -> Server:
        """Start both programs, and wait until the web port answers."""
        for command in ("superlink", "serve"):
            with self.log.open("ab") as log:
                self.processes.append(
                    subprocess.Popen(
                        ["fleven-server", command],
                        env=self.environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        wait_for("the server", lambda: self("nodes", "pending").returncode == 0 and self.listens(), 90, self.said)
        return self

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `fleven-server`."""
        command = ["fleven-server", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)

    def listens(self) -> bool:
        """Return whether both programs take connections."""
        return not any(connect_problem(f"127.0.0.1:{port}", 2) for port in (self.fleet, self.web))

    def invite(self, *arguments: str) -> str:
        """Return a join code."""
        done = self("nodes", "invite", *arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr + self.said()
        return str(json.loads(done.stdout)["invitations"][0]["code"])

    def said(self) -> str:
        """Return the end of both programs' output."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-6_000:]

    def stop(self) -> None:
        """End both programs."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes = []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server")
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def cars(tmp_path: Path) -> Iterator[list[Agent]]:
    made = [Agent(tmp_path / f"car-{number}", "") for number in range(2)]
    yield made
    for one in made:
        one.clean_up()


def settings(number: int, server: Server | None = None) -> str:
    lines = [f'node-name = "car-{number}"', "insecure = false", f'clientapp-address = "127.0.0.1:{free_port()}"']
    if server is not None:
        lines += [f"partition-id = {number}", f'superlink = "127.0.0.1:{server.fleet}"']
        lines += [f'report-url = "https://127.0.0.1:{server.web}"']
    return (
        "\n".join([*lines, "[cell]", 'mode = "off"', "[warm]", 'mode = "off"', "[reports]", "interval-seconds = 2.0"])
        + "\n"
    )


def join(agent: Agent, code: str, *more: str) -> dict[str, Any]:
    done = agent.run("join", code, "--config", str(agent.config), "--json", *more, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_cars_join_work_under_a_new_key_and_leave(server: Server, cars: list[Agent]) -> None:
    server.start()
    invited, waiting = cars
    invited.config.write_text(settings(0), encoding="utf-8")
    first = join(invited, server.invite("car-0", "--partition", "5"), "--no-start")
    assert (first["name"], first["partition_id"]) == ("car-0", 5)
    invited.start()
    status = invited.wait_state("running", seconds=60)
    assert status["node"]["partition_id"] == 5

    waiting.config.write_text(settings(1, server), encoding="utf-8")
    waiting.start()
    shown = waiting.wait_condition("enrolment-pending", 30)
    shown = waiting.wait("its fingerprint", lambda: s if (s := waiting.status() or {}).get("identity") else None)
    pending = server("nodes", "pending", "--json").stdout
    assert shown["identity"]["key_fingerprint"] in pending
    assert waiting.status()["state"] == "gated"  # type: ignore[index]
    accepted = server("nodes", "accept", "car-1")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    waiting.wait_state("running", seconds=60)

    before = waiting.status()["identity"]["key_fingerprint"]  # type: ignore[index]
    rotated = server("nodes", "rotate", "car-1")
    assert rotated.returncode == 0, rotated.stdout + rotated.stderr
    waiting.wait(
        "a new key", lambda: ((waiting.status() or {}).get("identity") or {}).get("key_fingerprint") != before, 60
    )
    waiting.wait_state("running", seconds=60)
    ends = [line for line in waiting.log().splitlines() if "superlink-rejected" in line]
    assert ends == [], "SuperNode was started before the SuperLink took its key"

    revoked = server("nodes", "revoke", "car-0")
    assert revoked.returncode == 0, revoked.stdout + revoked.stderr
    invited.wait_condition("enrolment-refused", 30)
    invited.wait_state("gated")

    copied_and_held(server, waiting, invited)


def copied_and_held(server: Server, car: Agent, other: Agent) -> None:
    """Let another board work with a copy of a car's card. Both see this machine's one boot id."""
    other.stop()
    shutil.rmtree(other.state)
    shutil.copytree(car.state, other.state, ignore=shutil.ignore_patterns("agent.lock", "*.sock"))
    other.config.write_text(settings(1, server), encoding="utf-8")
    other.start()
    began = time.monotonic()
    for board in (other, car):
        board.wait_condition("identity-held", 30)
        board.wait_state("gated")
    assert time.monotonic() - began < 15, "noticed, and both are told, within a few reports"
    shown = json.loads(server("nodes", "--json").stdout)["nodes"]
    assert [one["health"] for one in shown if one["name"] == "car-1"] == ["held"]
    assert "event=car-held node=car-1" in server.said()


@pytest.mark.slow  # the same way is gone by the packages in tests/machines/test_upgrade.py
def test_an_open_fleet_is_moved_over_while_it_runs(server: Server, cars: list[Agent]) -> None:
    """As after the upgrade of version 0.1.0: an open server, cars with insecure = true; then one by one, then all."""
    server.doors("open")
    server.start()
    first, second = cars
    for number, car in enumerate(cars):
        text = settings(number, server).replace("insecure = false", "insecure = true").replace("https://", "http://")
        car.config.write_text(text, encoding="utf-8")
        car.start()
    for car in cars:
        car.wait_state("running", seconds=60)
        assert "--insecure" in command_line(car)
    answer = join(first, server.invite("car-0", "--partition", "0"))
    assert answer["ready"]
    second.wait("it asks by the way", lambda: standing(second) == "pending", 60)
    accepted = server("nodes", "accept", "car-1")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    second.wait("it is let in", lambda: standing(second) == "accepted", 60)
    for car in cars:
        assert "--insecure" in command_line(car), "the SuperLink is still open"
        car.wait("reports by TLS", lambda c=car: str((c.status() or {})["report_url"]).startswith("https://"))

    server.stop()
    server.doors("shut")
    server.start()
    for car in cars:
        car.wait("TLS", lambda c=car: "--root-certificates" in command_line(c), 90)
        car.wait_state("running", seconds=90)


def standing(agent: Agent) -> str:
    return str(((agent.status() or {}).get("identity") or {}).get("standing"))


def command_line(agent: Agent) -> list[str]:
    pid = (agent.status() or {}).get("supernode_pid")
    return procfs.command_line(pid) if pid else []
