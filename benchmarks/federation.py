"""A federation of real Flower processes on this machine, stock or with FLEVEn's warm launcher, for the benchmarks.

All kinds run the same programs from the same environment; they differ in what stands first on SuperNode's PATH, and in
where tasks and ServerApps run: as SuperNode's or the SuperLink's own user, or in the cells of the packages.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
from local_processes import end_process, free_port

from fleven_agent.warm.cell_server import CellServer
from fleven_agent.warm.manager import WarmServer, WarmSettings
from fleven_agent.warm.settings import WarmMode

ROOT = Path(__file__).resolve().parent.parent
CONNECTION = "benchmark"
STATE = "state"
"""Folder of a federation that is the working folder of its ServerApps."""
AGENT_NICENESS = 10
"""Of SuperNode in fleven-agent.service, and of the tasks in it; fleven-task.service has the same."""
START_LIMIT_SECONDS = 120.0
RunConfig = Mapping[str, str | int | float | bool]


def pss_bytes(process_id: int) -> int:
    """Return a process's proportional set size; 0 when it has ended."""
    try:
        text = Path(f"/proc/{process_id}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process and of its children that it has waited for."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


@dataclass
class Node:
    """One SuperNode and what belongs to it."""

    process: subprocess.Popen[bytes]
    warm: WarmServer | None

    def processes(self) -> list[psutil.Process]:
        """Return SuperNode, its executor, its tasks, and the warm process."""
        found: dict[int, psutil.Process] = {}
        roots = [self.process.pid, *(self.warm.process_ids() if self.warm else [])]
        for root in roots:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(root)
                for member in (process, *process.children(recursive=True)):
                    found[member.pid] = member
        return list(found.values())

    def pss_bytes(self) -> int:
        """Return the memory of all of them, shared pages counted once."""
        return sum(pss_bytes(process.pid) for process in self.processes())

    def cpu_seconds(self) -> float:
        """Return the CPU time of all of them since they started, ended tasks included."""
        return sum(cpu_seconds(process) for process in self.processes())


@dataclass
class Federation:
    """A SuperLink and its nodes; use ``started``."""

    name: str
    folder: Path
    environment: dict[str, str]
    superlink: subprocess.Popen[bytes]
    nodes: list[Node] = field(default_factory=list)

    def written(self, name: str) -> Path:
        """Return the file that a ServerApp has written under a path relative to its folder, also one in a cell."""
        state = self.folder / STATE
        return next(iter(state.glob(f"files/*/{name}")), state / name)

    def submit(self, app: Path, config: RunConfig) -> str:
        """Submit ``app`` and return the run id; raises ``RuntimeError`` when Flower refuses it."""
        overrides = [f"{key}={json.dumps(value)}" for key, value in config.items()]
        command = ["flwr", "run", str(app), CONNECTION, "--format", "json", "--run-config", " ".join(overrides)]
        answer = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )
        try:
            return str(json.loads(answer.stdout)["run-id"])
        except (ValueError, KeyError):
            raise RuntimeError(f"{self.name}: flwr run said {answer.stdout!r} {answer.stderr!r}") from None

    def wait(self, run_id: str, limit_seconds: float = 120.0) -> None:
        """Wait for a run's end; raises ``RuntimeError`` when it fails or takes too long."""
        end = time.monotonic() + limit_seconds
        while (status := self.status(run_id)) != "finished:completed":
            if status.startswith(("finished", "unknown")) or time.monotonic() > end:
                raise RuntimeError(f"{self.name}: run {run_id} is {status}; its log ends:\n{self.log_tail(run_id)}")
            time.sleep(1.0)

    def check(self, run_id: str) -> None:
        """Raise ``RuntimeError`` when a run has ended otherwise than well."""
        status = self.status(run_id)
        if status.startswith(("finished", "unknown")) and status != "finished:completed":
            raise RuntimeError(f"{self.name}: run {run_id} is {status}; its log ends:\n{self.log_tail(run_id)}")

    def log_tail(self, run_id: str) -> str:
        """Return the end of a run's log."""
        command = ["flwr", "log", run_id, CONNECTION, "--show"]
        answer = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )
        return "\n".join((answer.stdout + answer.stderr).splitlines()[-60:])

    def status(self, run_id: str) -> str:
        """Return Flower's status of a run."""
        command = ["flwr", "list", CONNECTION, "--format", "json", "--run-id", run_id]
        answer = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )
        try:
            return str(json.loads(answer.stdout)["runs"][0]["status"])
        except (ValueError, KeyError, IndexError):
            return f"unknown: {answer.stdout!r} {answer.stderr!r}"

    def server_cpu_seconds(self) -> float:
        """Return the CPU time of the SuperLink, its executor and its ServerApps."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.superlink.pid)
            return sum(cpu_seconds(member) for member in (process, *process.children(recursive=True)))
        return 0.0


@contextlib.contextmanager
def started(
    name: str,
    nodes: int,
    *,
    warm: bool,
    node_configs: list[str] | None = None,
    cell: Path | None = None,
    app_cell: Path | None = None,
    packaged: bool = False,
    as_agent: bool = False,
) -> Iterator[Federation]:
    """Start a SuperLink and ``nodes`` SuperNodes and end all of them afterwards.

    Args:
        name: of the federation.
        nodes: how many.
        warm: whether they hand tasks to a warm process.
        node_configs: Flower's configuration of each node.
        cell: socket of the cell in which the tasks of the one node run, which is warm.
        app_cell: socket of the cells in which ServerApps run, with a packaged SuperLink.
        packaged: whether the SuperLink is started as the server's package does, and not as Flower's documentation.
        as_agent: whether SuperNode gives way to other programs as it does under the agent's unit.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"fleven-benchmark-{name}-"))
    stopping = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        environment = _environment(folder) | {"FLEVEN_BENCHMARK_KIND": name}
        ports = {key: free_port() for key in ("app", "fleet", "control")}
        _write_connection(folder, ports["control"])
        superlink = (_start_packaged if packaged else _start_plain)(folder, ports, environment, app_cell)
        stack.callback(end_process, superlink)
        federation = Federation(name, folder, environment, superlink)
        for number in range(nodes):
            config = node_configs[number] if node_configs else f"partition-id={number} num-partitions={nodes}"
            node = _start_node(
                folder, number, ports["fleet"], config, environment, warm=warm, cell=cell, as_agent=as_agent
            )
            federation.nodes.append(node)
            stack.callback(end_process, node.process)
            if node.warm:
                stack.callback(node.warm.close)
                stack.callback(node.warm.stop)
        ticking = threading.Thread(target=_tick, args=(federation.nodes, stopping), daemon=True)
        ticking.start()
        try:
            _wait_until_ready(federation)
            yield federation
        finally:
            stopping.set()
            ticking.join()


def _environment(folder: Path) -> dict[str, str]:
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "FLEVEN_", "PYTHON"))}
    return keep | {
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def _start_plain(
    folder: Path, ports: Mapping[str, int], environment: dict[str, str], _app_cell: Path | None
) -> subprocess.Popen[bytes]:
    """Start the SuperLink as Flower's documentation does."""
    (folder / STATE).mkdir()
    command = [
        *("flower-superlink", "--insecure", "--disable-runtime-dependency-installation"),
        *("--serverappio-api-address", f"127.0.0.1:{ports['app']}"),
        *("--fleet-api-address", f"127.0.0.1:{ports['fleet']}"),
        *("--control-api-address", f"127.0.0.1:{ports['control']}"),
    ]
    return _start(command, environment, folder, "superlink")


def _start_packaged(
    folder: Path, ports: Mapping[str, int], environment: dict[str, str], app_cell: Path | None
) -> subprocess.Popen[bytes]:
    """Start the SuperLink as the server's unit does."""
    config = folder / "server.toml"
    config.write_text(
        f'insecure = true\n[superlink]\nserver-app-cell = "{"off" if app_cell is None else "required"}"\n'
        f'fleet-address = "127.0.0.1:{ports["fleet"]}"\ncontrol-address = "127.0.0.1:{ports["control"]}"\n'
        f'serverappio-address = "127.0.0.1:{ports["app"]}"\n',
        encoding="utf-8",
    )
    told = {"FLEVEN_SERVER_STATE_DIR": str(folder / STATE), "FLEVEN_SERVER_CONFIG": str(config)}
    if app_cell is not None:
        told["FLEVEN_APP_CELL_SOCKET"] = str(app_cell)
    return _start(["fleven-server", "superlink"], environment | told, folder, "superlink")


def _write_connection(folder: Path, port: int) -> None:
    home = folder / "flwr"
    home.mkdir()
    lines = ["[superlink]", f'default = "{CONNECTION}"', f"[superlink.{CONNECTION}]"]
    lines += [f'address = "127.0.0.1:{port}"', "insecure = true"]
    (home / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _start_node(
    folder: Path,
    number: int,
    fleet_port: int,
    config: str,
    environment: dict[str, str],
    *,
    warm: bool,
    cell: Path | None = None,
    as_agent: bool = False,
) -> Node:
    name = f"node-{number}"
    home = folder / name
    home.mkdir()
    environment = environment | {"FLWR_HOME": str(home / "flwr")}
    server = None
    program = "flower-supernode"
    if warm:
        memory = psutil.virtual_memory().total
        settings = WarmSettings(mode=WarmMode.ON)
        kind = WarmServer if cell is None else partial(CellServer, socket_path=cell)
        server = kind(settings, state_directory=home, runtime_directory=home, total_memory_bytes=memory)
        environment = server.environment(environment)
        program = server.supernode_program(environment) or program
    command = [program, "--insecure", "--superlink", f"127.0.0.1:{fleet_port}", "--node-config", config]
    command += ["--clientappio-api-address", f"127.0.0.1:{free_port()}"]
    if as_agent:
        command = ["nice", f"--adjustment={AGENT_NICENESS}", *command]
    return Node(_start(command, environment, folder, name), server)


def _start(command: list[str], environment: dict[str, str], folder: Path, name: str) -> subprocess.Popen[bytes]:
    program = shutil.which(command[0], path=environment["PATH"]) or command[0]
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [program, *command[1:]], env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )


def _tick(nodes: list[Node], stopping: threading.Event) -> None:
    while not stopping.wait(1.0):
        for node in nodes:
            if node.warm is not None:
                node.warm.tick(wanted=True)


def _wait_until_ready(federation: Federation) -> None:
    end = time.monotonic() + START_LIMIT_SECONDS
    while time.monotonic() < end:
        logs = [(federation.folder / f"node-{i}.log").read_bytes() for i in range(len(federation.nodes))]
        warm = all(node.warm is None or node.warm.status()["state"] == "ready" for node in federation.nodes)
        if warm and all(b"SuperNode ID" in log for log in logs):
            return
        time.sleep(0.2)
    raise RuntimeError(f"{federation.name}: not all nodes came up; see {federation.folder}")
