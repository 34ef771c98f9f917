"""A real federation whose processes can be killed one by one: SuperLink, server, SuperNodes, an app without work.

For `server_crash.py` and for the tests of the scheduler against real Flower. The app writes `status.json`, a checkpoint
after each round and its process id, and goes on from `resume-from`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from local_processes import family, free_port

BIN = Path(sys.executable).parent
EXPERIMENT = "crash"

APP = """
import json, os, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server = ServerApp()
client = ClientApp()

@client.train()
def train(message, context):
    return Message(content=RecordDict({"metrics": MetricRecord({"x": 1.0})}), reply_to=message)

def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("." + path.name)
    part.write_text(text)
    part.rename(path)

@server.main()
def main(grid, context):
    config = context.run_config
    run_id = str(context.run_id)
    metrics = Path(config["metrics-base-path"]) / config["experiment"] / run_id
    results = Path(config["results-base-path"]) / config["experiment"] / run_id
    rounds = int(config["rounds"])
    first = 1
    if config["resume-from"]:
        first = json.loads(Path(config["resume-from"]).read_text())["round"] + 1

    def status(state, number):
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
        write(metrics / "status.json", json.dumps({"schema_version": 1, "run_id": run_id, "state": state,
            "round": number, "rounds": rounds, "updated_at": now, "message": ""}))

    write(metrics / "pid", str(os.getpid()))
    status("running", first - 1)
    for number in range(first, rounds + 1):
        content = RecordDict({"config": ConfigRecord({"round": number})})
        nodes = list(grid.get_node_ids())
        wanted = [Message(content=content, message_type="train", dst_node_id=node) for node in nodes]
        list(grid.send_and_receive(wanted, timeout=60))
        results.parent.mkdir(parents=True, exist_ok=True)
        with (results.parent / "ledger.txt").open("a") as ledger:
            ledger.write(f"{run_id} {number}\\n")
        write(results / f"checkpoint-round-{number:06d}.pt", json.dumps({"round": number}))
        status("running", number)
        time.sleep(float(config["pause-seconds"]))
    status("succeeded", rounds)
"""

# Written out, as wherever an app is made: what each app says of itself is its own, and read where it is used.
PYPROJECT = """
[project]
name = "tiny"
version = "1.0.0"
description = "An app without work"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "tiny_app.apps:server"
clientapp = "tiny_app.apps:client"
[tool.flwr.app.config]
rounds = 2
pause-seconds = 0.0
experiment = "crash"
metrics-base-path = "metrics"
results-base-path = "results"
resume-from = ""
"""


@dataclass
class Federation:
    """A SuperLink, a server and SuperNodes as real processes in one folder."""

    folder: Path
    concurrent: int = 3
    cell: str = ""
    """Socket of a cell for ServerApps; without one they run as this user."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    starts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.state = self.folder / "state"
        self.register = self.state / "register.db"
        self.app = self.folder / "tiny"
        (self.app / "tiny_app").mkdir(parents=True)
        (self.app / "pyproject.toml").write_text(PYPROJECT)
        (self.app / "tiny_app" / "__init__.py").touch()
        (self.app / "tiny_app" / "apps.py").write_text(APP)
        self.fleet_port, self.control_port = free_port(), free_port()
        config = self.folder / "server.toml"
        config.write_text(
            f'insecure = true\napp-path = "{self.app}"\n[superlink]\nfleet-address = "127.0.0.1:{self.fleet_port}"\n'
            f'control-address = "127.0.0.1:{self.control_port}"\nserverappio-address = "127.0.0.1:{free_port()}"\n'
            f'server-app-cell = "{"required" if self.cell else "off"}"\n'
            f'[web]\naddress = "127.0.0.1:{free_port()}"\n[fleet]\ncount-unmanaged = true\n'
            f"[scheduler]\nmax-concurrent-runs = {self.concurrent}\n"
        )
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FLEVEN_SERVER_CONFIG": str(config),
            "FLEVEN_SERVER_STATE_DIR": str(self.state),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "FLEVEN_APP_CELL_SOCKET": self.cell,
        }

    def spawn(self, name: str, arguments: list[str], **environment: str) -> None:
        """Start a process; its output goes to a file of its own."""
        self.starts[name] += 1
        with (self.folder / f"{name}.{self.starts[name]}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                arguments,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self, nodes: int = 2) -> None:
        """Start everything."""
        self.start_superlink()
        self.start_server()
        for index in range(nodes):
            self.spawn(
                f"node-{index}",
                [
                    *(str(BIN / "flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{self.fleet_port}"),
                    *("--clientappio-api-address", f"127.0.0.1:{free_port()}"),
                    *("--node-config", f"partition-id={index}"),
                ],
                FLWR_HOME=str(self.folder / f"node-{index}"),
            )

    def start_superlink(self) -> None:
        """Start the SuperLink."""
        self.spawn("superlink", [str(BIN / "fleven-server"), "superlink"])

    def wait_for_superlink(self, seconds: float) -> None:
        """Wait until the SuperLink listens.

        Raises:
            TimeoutError: it does not.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.control_port)) == 0:
                    return
            time.sleep(0.1)
        raise TimeoutError("the SuperLink did not start")

    def start_server(self) -> None:
        """Start the server."""
        self.spawn("server", [str(BIN / "fleven-server"), "serve"])

    def kill(self, name: str) -> None:
        """Kill one process without warning; what it has started lives on."""
        self.processes[name].kill()
        self.processes[name].wait(30)

    def kill_all_of(self, name: str) -> None:
        """Kill a process and all that it has started, at once."""
        members = family(self.processes[name].pid)
        for process in members:
            # Some end by themselves at any moment.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(members, 30)
        self.processes[name].wait(30)

    def server_apps(self) -> list[psutil.Process]:
        """Return the ServerApps that run."""
        try:
            family = psutil.Process(self.processes["superlink"].pid).children(recursive=True)
            return [process for process in family if any("flwr-serverapp" in word for word in process.cmdline())]
        except psutil.NoSuchProcess:
            return []

    def stop(self) -> None:
        """End everything."""
        for process in self.processes.values():
            if process.poll() is None:
                members = family(process.pid)
                process.terminate()
                _, alive = psutil.wait_procs(members, 15)
                for survivor in alive:
                    survivor.kill()
                process.wait(30)

    def command(
        self, *arguments: str, check: bool = True, program: str = "fleven-server"
    ) -> subprocess.CompletedProcess[str]:
        """Run a command against the server."""
        return subprocess.run(
            [str(BIN / program), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=check,
        )

    def request(self, *arguments: str) -> int:
        """Ask for a run and return its number."""
        done = self.command("schedule", "run", "--no-follow", "--json", *arguments)
        return int(json.loads(done.stdout)["id"])

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Read the register."""
        with closing(sqlite3.connect(f"file:{self.register}?mode=ro", uri=True, timeout=20)) as connection:
            return list(connection.execute(query, values))

    def wait_for_register(self, seconds: float) -> None:
        """Wait until the server has written its heartbeat.

        Raises:
            TimeoutError: it has not.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(sqlite3.OperationalError):
                if self.rows("SELECT 1 FROM facts WHERE key = 'service'"):
                    return
            time.sleep(0.1)
        raise TimeoutError("the server did not start")

    def last_step(self) -> int:
        """Return the number of the newest step."""
        return int(str(self.rows("SELECT coalesce(max(id), 0) FROM run_steps")[0][0]))

    def wait_for_step(self, state: str, reason: str, after: int, seconds: float, run: int | None = None) -> bool:
        """Wait until the register shows such a step that is newer than another, and return whether it came."""
        query = "SELECT 1 FROM run_steps WHERE id > ? AND state = ? AND reason = ?"
        values: list[object] = [after, state, reason]
        if run is not None:
            query, values = f"{query} AND run_id = ?", [*values, run]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.rows(query, *values):
                return True
            time.sleep(0.01)
        return False

    def wait_until(self, query: str, seconds: float) -> bool:
        """Wait until a query finds nothing, and return whether it came so far."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.rows(query):
                return True
            time.sleep(0.2)
        return False

    def flower_runs(self) -> list[dict[str, str]]:
        """Return Flower's own list of runs."""
        done = subprocess.run(
            [str(BIN / "flwr"), "ls", "fleven-deployment", "--format", "json"],
            env={**self.environment, "FLWR_HOME": str(self.state / "flwr")},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        found: list[dict[str, str]] = json.loads(done.stdout)["runs"]
        return found
