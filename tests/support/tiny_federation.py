"""A real SuperLink and a tiny Flower app without torch, whose run goes on until it is told to end.

Each round asks every node that is there, also those that join meanwhile, and is over when two cars (partitions) have
answered well; so a run ends well only if every car keeps coming back.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from agent_harness import wait_for

from fleven_agent.supernode.process import end_leftovers

_PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "tiny"
version = "1.0.0"
description = "rounds without learning"
license = "Apache-2.0"
dependencies = ["flwr"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "lainf"
[tool.flwr.app.components]
serverapp = "tiny.server:app"
clientapp = "tiny.client:app"
[tool.flwr.app.config]
folder = ""
seconds = 1.0
cars = 2
"""
_CLIENT = """
import os, time
from pathlib import Path
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    partition = int(context.node_config["partition-id"])
    folder = Path(context.run_config["folder"])
    (folder / f"pid-{partition}").write_text(str(os.getpid()))
    if (folder / f"fail-{partition}").exists():
        raise ValueError("told to fail")
    if (folder / f"stick-{partition}").exists():
        time.sleep(3600)
    until, total = time.monotonic() + float(context.run_config["seconds"]), 0
    while time.monotonic() < until:
        total += sum(range(2000))
        time.sleep(0.02)
    content = RecordDict({"metrics": MetricRecord({"partition": partition, "total": float(total)})})
    return Message(content, reply_to=message)
"""
_SERVER = """
import json, time
from pathlib import Path
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    folder, cars = Path(context.run_config["folder"]), int(context.run_config["cars"])
    number = 0
    while not (folder / "end").exists():
        number += 1
        good, waiting, asked = {}, {}, {}
        while len(good) < cars:
            for node in list(grid.get_node_ids()):
                if node not in asked:
                    content = RecordDict({"config": ConfigRecord({"round": number})})
                    [sent] = grid.push_messages([Message(content, node, "train", group_id=str(number))])
                    asked[node], waiting[sent] = sent, node
            for reply in grid.pull_messages(list(waiting)):
                node = waiting.pop(reply.metadata.reply_to_message_id)
                if reply.has_error():
                    with (folder / "errors").open("a") as file:
                        file.write(f"{number} {node} {reply.error.reason}\\n")
                    asked.pop(node, None)
                else:
                    good[int(reply.content["metrics"]["partition"])] = str(node)
            time.sleep(0.3)
        with (folder / "rounds").open("a") as file:
            file.write(json.dumps({"round": number, "good": good}) + "\\n")
"""
CONNECTION = "test"


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Federation:
    """A SuperLink with its database, and runs of the tiny app.

    Args:
        folder: for all files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet_port, self.control_port, self.app_port = free_port(), free_port(), free_port()
        self.home = folder / "flwr-home"
        self.home.mkdir(parents=True)
        self.app = folder / "app"
        (self.app / "tiny").mkdir(parents=True)
        (self.app / "pyproject.toml").write_text(_PYPROJECT, encoding="utf-8")
        for name, text in (("__init__", ""), ("client", _CLIENT), ("server", _SERVER)):
            (self.app / "tiny" / f"{name}.py").write_text(text, encoding="utf-8")
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "FLWR_HOME": str(self.home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        self.log = folder / "superlink.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._runs = 0

    def start(self, *, certificates: Path | None = None, node_keys: bool = False) -> "Federation":
        """Start the SuperLink with the database it had.

        Args:
            certificates: a folder of certificates; TLS is used when it is named.
            node_keys: take only nodes whose public key was registered.
        """
        transport, trust = ["--insecure"], "insecure = true"
        if certificates is not None:
            trust = f'root-certificates = "{certificates}/ca.crt"'
            transport = ["--ssl-certfile", str(certificates / "server.crt")]
            transport += ["--ssl-keyfile", str(certificates / "server.key")]
            transport += ["--ssl-ca-certfile", str(certificates / "ca.crt")]
        if node_keys:
            transport += ["--enable-supernode-auth"]
        connection = f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{self.control_port}"\n{trust}\n'
        (self.home / "config.toml").write_text(connection, encoding="utf-8")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "flower-superlink",
                    *transport,
                    "--disable-runtime-dependency-installation",
                    *("--database", str(self.folder / "superlink.db")),
                    *("--fleet-api-address", f"127.0.0.1:{self.fleet_port}"),
                    *("--control-api-address", f"127.0.0.1:{self.control_port}"),
                    *("--serverappio-api-address", f"127.0.0.1:{self.app_port}"),
                ],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for("the SuperLink", self._listens, 60, lambda: self.log.read_text(encoding="utf-8"))
        return self

    def kill(self) -> None:
        """Kill the SuperLink and its ServerApps, as a power cut would."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        end_leftovers(f"FLWR_HOME={self.home}")  # ServerApps are in sessions of their own

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Let no file of the SuperLink grow or change, as on a full disk (simulated: a limit on the size of files)."""
        assert self._process is not None
        superlink = psutil.Process(self._process.pid)
        soft, hard = superlink.rlimit(psutil.RLIMIT_FSIZE)
        superlink.rlimit(psutil.RLIMIT_FSIZE, (1, hard))
        try:
            yield
        finally:
            superlink.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))

    def _listens(self) -> bool:
        for port in (self.fleet_port, self.control_port):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return False
        return True

    def flwr(self, *arguments: str) -> Any:
        """Run a command of `flwr` and return its JSON answer."""
        done = subprocess.run(
            ["flwr", *arguments, "--format", "json"], env=self.environment, capture_output=True, text=True, timeout=60
        )
        return json.loads(done.stdout[done.stdout.index("{") :])

    def run(self, *, seconds: float = 1.0, cars: int = 2) -> "Run":
        """Submit a run."""
        self._runs += 1
        folder = self.folder / f"run-{self._runs}"
        folder.mkdir()
        settings = f'folder="{folder}" seconds={seconds} cars={cars}'
        answer = self.flwr("run", str(self.app), CONNECTION, "--run-config", settings)
        return Run(self, str(answer["run-id"]), folder)


class Run:
    """A run of the tiny app."""

    def __init__(self, federation: Federation, run_id: str, folder: Path) -> None:
        self.federation, self.id, self.folder = federation, run_id, folder

    def rounds(self) -> list[dict[str, Any]]:
        """Return the rounds that are over."""
        file = self.folder / "rounds"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    def errors(self) -> str:
        """Return the error replies so far."""
        file = self.folder / "errors"
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def wait_rounds(self, more: int, seconds: float, explain: Sequence[Path] = ()) -> float:
        """Wait until so many more rounds are over; return how long it took [s]."""
        began, wanted = time.monotonic(), len(self.rounds()) + more

        def said() -> str:
            files = (*explain, self.federation.log)
            return "\n".join(
                f"--- {file}\n{file.read_text(encoding='utf-8', errors='replace')[-4_000:]}" for file in files
            )

        wait_for(f"round {wanted}", lambda: len(self.rounds()) >= wanted, seconds, said)
        return time.monotonic() - began

    def status(self) -> str:
        """Return its status as Flower says it, such as "finished:completed"."""
        return str(self.federation.flwr("list", CONNECTION, "--run-id", self.id)["runs"][0]["status"])

    def end(self, seconds: float = 60) -> str:
        """Tell it to end after its round; return its last status."""
        (self.folder / "end").touch()
        wait_for("the end of the run", lambda: self.status().startswith("finished"), seconds)
        return self.status()
