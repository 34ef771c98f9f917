"""A real server as it is installed, in a folder of its own, and how cars join it: for tests with real Flower."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent_harness import Agent, wait_for
from tiny_federation import free_port

from fleven_agent.common.addresses import connect_problem


class Server:
    """A server as it is installed: SuperLink and service with TLS and the server's own authority."""

    def __init__(self, folder: Path) -> None:
        self.fleet, self.web = free_port(), free_port()
        folder.mkdir()
        self.config = folder / "server.toml"
        self.doors("shut")
        self.config.write_text(
            f'[superlink]\nserver-app-cell = "off"\nfleet-address = "127.0.0.1:{self.fleet}"\n'
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
