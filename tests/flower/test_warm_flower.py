"""Real SuperLink, SuperNode and executor with the warm launcher in front: runs, versions, kills and stops."""

import json
import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from federation import Federation, started
from waiting import wait_for

pytestmark = [pytest.mark.flower, pytest.mark.timeout(240)]

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "probe"
version = "{version}"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "lainf"
fab-include = ["probe/*.py"]
[tool.flwr.app.components]
serverapp = "probe.server:app"
clientapp = "probe.client:app"
[tool.flwr.app.config]
acts = "none"
replies-path = ""
"""

CLIENT = """
import os, sys, time
loaded_before = [name for name in ("torch", "probe.version") if name in sys.modules]
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from probe.version import VERSION

app = ClientApp()

@app.query()
def query(message: Message, context: Context) -> Message:
    act = str(message.content["act"]["act"])
    if act.startswith("wait"):
        with open(act.partition(":")[2], "w") as stream:
            stream.write(str(os.getpid()))
        time.sleep(4)
    if act == "raise":
        raise RuntimeError("as asked")
    facts = {"version": VERSION, "process_id": os.getpid(), "loaded_before": ",".join(loaded_before)}
    return Message(RecordDict({"facts": ConfigRecord(facts)}), reply_to=message)
"""

SERVER = """
import json, time
from pathlib import Path
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()

@app.main()
def main(grid: Grid, context: Context) -> None:
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.1)
    for act in str(context.run_config["acts"]).split(","):
        message = Message(RecordDict({"act": ConfigRecord({"act": act})}), nodes[0], "query", ttl=120.0)
        [identifier] = grid.push_messages([message])
        while not (replies := list(grid.pull_messages([identifier]))):
            time.sleep(0.05)
        [reply] = replies
        row = {"error": reply.error.reason} if reply.has_error() else dict(reply.content["facts"])
        with Path(str(context.run_config["replies-path"])).open("a") as stream:
            stream.write(json.dumps({"act": act, **row}) + "\\n")
"""


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same app in two versions, which differ in one module."""
    folders = {}
    for version in ("1.0.0", "2.0.0"):
        folder = tmp_path_factory.mktemp("app")
        (folder / "probe").mkdir()
        (folder / "pyproject.toml").write_text(PROJECT.format(version=version))
        (folder / "probe" / "__init__.py").write_text("")
        (folder / "probe" / "version.py").write_text(f"VERSION = {version!r}\n")
        (folder / "probe" / "client.py").write_text(textwrap.dedent(CLIENT))
        (folder / "probe" / "server.py").write_text(textwrap.dedent(SERVER))
        folders[version] = folder
    return folders


@pytest.fixture(scope="module")
def federation() -> Iterator[Federation]:
    """A SuperLink and one SuperNode with the warm launcher."""
    with started("test", 1, warm=True) as federation:
        yield federation


class Run:
    """A submitted run and what its ServerApp has written so far."""

    def __init__(self, federation: Any, app: Path, acts: str) -> None:
        self.path = federation.folder / f"replies-{time.monotonic_ns()}"
        federation.submit(app, {"acts": acts, "replies-path": str(self.path)})

    def replies(self, count: int, seconds: float = 90.0) -> list[dict[str, Any]]:
        """Wait for ``count`` replies and return them."""

        def read() -> list[dict[str, Any]]:
            rows = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
            return rows if len(rows) >= count else []

        found: list[dict[str, Any]] = wait_for(read, seconds)
        return found


def test_tasks_of_two_versions_in_turn_run_warm_and_run_their_own_code(federation: Any, apps: dict[str, Path]) -> None:
    node = federation.nodes[0]
    before = node.warm.status()["tasks_warm"]
    for version in ("1.0.0", "2.0.0", "1.0.0"):
        rows = Run(federation, apps[version], "none,raise,none").replies(3)
        assert [row.get("version") for row in rows] == [version, None, version]
        assert "as asked" in rows[1]["error"]
        assert rows[0]["loaded_before"] == rows[2]["loaded_before"] == "torch"
        assert rows[0]["process_id"] != rows[2]["process_id"]
    status = wait_for(lambda: node.warm.status() if not running(node) else None)
    assert status["tasks_warm"] == before + 9
    assert status["tasks_cold"] == 0
    assert [task.exit_status for task in node.warm.tasks()[-3:]] == [0, 1, 0]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--token"], ["--no-such-option"], ["--insecure", "--token", "x", "--root-certificates", "y"]],
)
def test_flowers_own_messages_are_the_same_warm_and_cold(federation: Any, arguments: list[str]) -> None:
    warm = federation.nodes[0].warm
    environment = warm.environment(federation.environment | {"FLWR_HOME": str(federation.folder / "node-0" / "flwr")})
    before = warm.status()["tasks_warm"]
    seen = []
    for path in (environment["PATH"], environment["PATH"].partition(os.pathsep)[2]):
        run = subprocess.run(
            ["flwr-clientapp", *arguments], env=environment | {"PATH": path}, capture_output=True, text=True
        )
        seen.append((run.returncode, run.stdout, run.stderr))
    assert seen[0] == seen[1]
    assert warm.status()["tasks_warm"] == before + 1


def running(node: Any) -> list[Any]:
    return [task for task in node.warm.tasks() if task.ended_at is None]


def test_flowers_programs_keep_their_names_and_are_recognised(federation: Any) -> None:
    node = federation.nodes[0]
    names = {Path(process.cmdline()[1]).name for process in psutil.Process(node.process.pid).children()}
    names.add(Path(psutil.Process(node.process.pid).cmdline()[1]).name)
    assert names == {"flower-supernode", "flower-superexec"}
    assert b"polling=unchanged" not in (federation.folder / "node-0.log").read_bytes()


def test_the_warm_process_is_killed_mid_task_and_the_run_goes_on(
    federation: Any, apps: dict[str, Path], tmp_path: Path
) -> None:
    node = federation.nodes[0]
    run = Run(federation, apps["1.0.0"], f"wait:{tmp_path / 'task'},none,none")
    task = int(wait_for(lambda: (tmp_path / "task").exists() and (tmp_path / "task").read_text()))
    server = node.warm.process_ids()[0]
    os.kill(server, signal.SIGKILL)
    rows = run.replies(3)
    assert [row["version"] for row in rows] == ["1.0.0"] * 3
    assert rows[0]["process_id"] == task
    wait_for(lambda: node.warm.status()["state"] == "ready")
    assert node.warm.process_ids()[0] != server


def test_sigterm_of_supernode_mid_task_leaves_nothing_running(apps: dict[str, Path], tmp_path: Path) -> None:
    with started("stop", 1, warm=True) as federation:
        node = federation.nodes[0]
        Run(federation, apps["1.0.0"], f"wait:{tmp_path / 'task'}")
        task = int(wait_for(lambda: (tmp_path / "task").exists() and (tmp_path / "task").read_text()))
        [server, *_] = node.warm.process_ids()
        everything = {process.pid for process in node.processes()} | {task}
        node.process.terminate()
        node.process.wait(30)
        wait_for(lambda: not any(_is_alive(process) for process in everything - {server}), 30)
        assert _is_alive(server)  # it serves the next SuperNode
        node.warm.stop()
        assert not _is_alive(server)


def _is_alive(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
