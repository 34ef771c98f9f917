"""A server whose app tries all it can: what a ServerApp reads, writes, reaches, leaves behind and uses up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testbed.base import host_architecture
from testbed.bed import Bed
from testbed.fleet import Fleet
from testbed.machine import Machine
from testbed.shell import wait_for

pytestmark = [pytest.mark.machines, pytest.mark.slow, pytest.mark.timeout(1200)]

HERE = Path(__file__).parent
STATE = "/var/lib/fleven-server"
SECRETS = (
    f"{STATE}/register.db",
    f"{STATE}/superlink.db",
    f"{STATE}/trust",
    f"{STATE}/executor.secret",
    f"{STATE}/flwr",
    "/etc/fleven/server.toml",
    "/etc/shadow",
    "/run/fleven-app",
    "/home",
    "/root",
)
FOREIGN_FILES = ("/usr/x", "/etc/x", "/run/x", "/var/tmp/x", "/var/cache/x", "/var/lib/x")
OUTSIDE = ("127.0.0.1:9091", "127.0.0.1:9092", "127.0.0.1:9093", "127.0.0.1:9190", "100.64.0.1:9092", "100.64.0.1:9190")
# Written out, as wherever an app is made: what each app says of itself is its own, and read where it is used.
PYPROJECT = """
[project]
name = "hostile"
version = "1.0.0"
description = "An app that tries all it can"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "hostile.app:server"
clientapp = "hostile.app:client"
[tool.flwr.app.config]
read = ""
write = ""
connect = ""
trials = "identity"
"""
APP = """
import contextlib, json, runpy, sys
from pathlib import Path
from flwr.clientapp import ClientApp
from flwr.proto.runtime_pb2 import PullPendingTasksRequest
from flwr.proto.runtime_pb2_grpc import RuntimeStub
from flwr.serverapp import ServerApp

server = ServerApp()
client = ClientApp()

@server.main()
def main(grid, context):
    folder = Path("metrics") / "hostile" / str(context.run_id)
    folder.mkdir(parents=True)
    config = context.run_config
    words = [word for key in ("read", "write", "connect", "trials") for word in (f"--{key}", str(config[key]))]
    sys.argv[1:] = words
    try:
        # Not by the grid's own stub: upon this refusal it interrupts the whole process.
        claimed = str(RuntimeStub(grid._channel).PullPendingTasks(PullPendingTasksRequest()))
    except Exception as error:
        claimed = f"refused: {error}"
    with (folder / "found.json").open("w", buffering=1) as out, contextlib.redirect_stdout(out):
        print(json.dumps({"pending": claimed[:200]}), flush=True)
        runpy.run_path(str(Path(__file__).with_name("hostile_task.py")))
    Path("elsewhere.json").write_text("{}")
"""


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest, suite: str, debs: Path) -> Iterator[Fleet]:
    """A server with the hostile app, and one car that is ready."""
    kept = Path(os.environ.get("FLEVEN_MACHINES_LOGS", "/tmp/fleven-machines-logs"))
    failures = request.session.testsfailed
    with Bed("flhapp", suite, host_architecture(), kept) as bed:
        fleet = Fleet.on(bed, debs, 1)
        fleet.boot()
        server = fleet.server
        # Less than the host has, so that filling the memory takes a moment and harms nobody.
        server.write("/etc/systemd/system/fleven-app@.service.d/50-test.conf", "[Service]\nMemoryMax=900M\n")
        fleet.install()
        server.write("/opt/hostile/pyproject.toml", PYPROJECT)
        server.write("/opt/hostile/hostile/__init__.py", "")
        server.write("/opt/hostile/hostile/app.py", APP)
        server.write("/opt/hostile/hostile/hostile_task.py", (HERE / "hostile_task.py").read_text())
        fleet.start_agents()
        fleet.wait_ready()
        yield fleet
        if request.session.testsfailed > failures:
            bed.collect(kept)
            print(f"journals of all machines: {kept}")


@pytest.fixture(scope="module")
def server(fleet: Fleet) -> Machine:
    """The server."""
    return fleet.server


FLWR = (
    "runuser",
    "-u",
    "fleven-server",
    "--",
    "env",
    f"FLWR_HOME={STATE}/flwr",
    "HOME=/tmp",
    "TERM=dumb",
    "grpc_proxy=",
)


def submit(server: Machine, trials: str) -> str:
    """Have the app try something; return Flower's id of the run, which has begun."""
    config = {
        "read": ":".join(SECRETS),
        "write": ":".join(FOREIGN_FILES),
        "connect": ",".join(OUTSIDE),
        "trials": trials,
    }
    words = [word for key, value in config.items() for word in ("--run-config", f"{key}='{value}'")]
    run = ("/usr/lib/fleven/server/bin/flwr", "run", "/opt/hostile", "fleven-deployment", "--format", "json")
    done = server.run(*FLWR, *run, *words)
    run_id = str(json.loads(done[done.index("{") :])["run-id"])

    def begun() -> bool:
        # By what SuperLink says: one that ends itself is gone before anybody sees it among the processes.
        said = server.journal("-u", "fleven-superlink", "--grep", f"Started task .* of run {run_id}$")
        return "Started task" in said

    wait_for("the app has begun", begun, 60, 0.5)
    return run_id


def told(server: Machine, run_id: str) -> dict[str, str]:
    """Return what the app has written down of what it could do."""
    found: dict[str, str] = {}
    for line in server.try_run("cat", f"{STATE}/metrics/hostile/{run_id}/found.json").output.splitlines():
        if line.startswith("{") and line.endswith("}"):
            found.update(json.loads(line))
    return found


def attack(server: Machine, trials: str) -> dict[str, str]:
    """Run the app; return what it could do, as far as it came."""
    run_id = submit(server, trials)
    found: dict[str, str] = {}

    def look() -> bool:
        found.update(told(server, run_id))
        return trials.rpartition(",")[2] in found or not cells(server, working=True)

    wait_for("it has tried all", look, 180, 1.0)
    wait_for("the run's cell is gone", lambda: not cells(server, working=True), 180, 1.0)
    look()
    return found


def cells(server: Machine, *, working: bool) -> list[str]:
    """Return the stand-ins of the ServerApps at work, or all that runs as the user of ServerApps."""
    if working:
        lines = server.shell("ps -u fleven-server -o args= || true").splitlines()
        return [line for line in lines if "programs/flwr-serverapp" in line]
    return server.shell("ps -u fleven-app -o args= || true").splitlines()


def nothing_is_left(server: Machine) -> None:
    def only_the_spare() -> bool:
        return all("fleven_agent.common.cell.single" in line for line in cells(server, working=False))

    wait_for("nothing of the app is left", only_the_spare, 30, 0.5)
    units = server.shell("systemctl list-units --no-legend --plain 'fleven-app@*' || true").splitlines()
    assert len(units) <= 1, units


def test_it_reads_no_secret_writes_its_own_folder_and_reaches_nobody(server: Machine) -> None:
    found = attack(server, "identity,processes,signal,trace,parent-memory,setuid,namespace,group")
    user = server.shell("id -u fleven-app").strip()
    assert found["identity"].startswith(f"({user},")
    for path in SECRETS:
        assert found[f"read {path}"].startswith("refused"), (path, found[f"read {path}"])
    for path in FOREIGN_FILES:
        assert found[f"write {path}"].startswith("refused"), path
    for address in OUTSIDE:
        assert found[f"connect {address}"].startswith("refused"), address
    # The one port that it reaches gives it its own run, and no other.
    assert "UNAUTHENTICATED" in found["pending"]
    assert found["processes"] == "none"
    assert found["trace"] == "-1"
    assert found["group"] == "none"
    for trial in ("parent-memory", "setuid", "namespace"):
        assert found[trial].startswith("refused"), trial
    reached = json.loads(found["signal"])
    assert len(reached) <= 3, reached  # the process beside it, and a cell that waits
    nothing_is_left(server)
    # What lies outside of the run's folder is in one of its own, and nothing lies beside the server's files.
    assert server.try_run("test", "-e", f"{STATE}/elsewhere.json").exit_code != 0
    assert server.shell(f"ls {STATE}/files/*/elsewhere.json").strip()
    owner = server.shell(f"stat -c '%U %a' {STATE}/metrics/hostile/*/found.json").split()
    assert owner == ["fleven-server", "640"]


@pytest.mark.parametrize("trial", ["stay", "bomb", "memory", "fill-tmp", "fill-home", "stop-cell", "end-all"])
def test_nothing_of_it_is_left_and_the_server_goes_on(fleet: Fleet, server: Machine, trial: str) -> None:
    before = server.shell("systemctl show -P MainPID fleven-superlink fleven-server")
    free = int(server.shell("df --output=avail -B1 /var/lib | tail -1"))
    found = attack(server, trial)
    # Who stops or ends the process beside it ends the way of its own files.
    assert trial in {"stop-cell", "end-all"} or "UNAUTHENTICATED" in found["pending"]
    nothing_is_left(server)
    assert server.shell("systemctl show -P MainPID fleven-superlink fleven-server") == before
    assert int(server.shell("df --output=avail -B1 /var/lib | tail -1")) > free - 3_500_000_000
    server.shell(f"rm -rf {STATE}/files")


def test_one_that_outlives_its_run_by_two_minutes_is_ended_with_all_that_it_left(server: Machine) -> None:
    run_id = submit(server, "outlive")
    wait_for("it goes on for ever", lambda: told(server, run_id).get("outlive"), 60, 0.5)

    def left() -> bool:
        return sum(line.startswith("sleep 86") for line in cells(server, working=False)) == 2

    wait_for("two processes are left behind", left, 20, 0.5)
    server.run(*FLWR, "/usr/lib/fleven/server/bin/flwr", "stop", run_id, "fleven-deployment")
    begin = time.monotonic()
    wait_for("it is ended", lambda: not cells(server, working=True), 180, 0.5)
    seconds = time.monotonic() - begin
    print(f"a ServerApp that went on after its run was ended after {seconds:.1f} s")
    assert 115 < seconds < 150
    assert "it went on after its run" in server.journal("-u", "fleven-superlink", "--grep", f"run={run_id} ")
    nothing_is_left(server)


def test_a_run_of_the_default_app_works_in_a_cell(fleet: Fleet, server: Machine) -> None:
    lines: set[str] = set()
    fleet.run_now("--set", "rounds=2", "--set", "min-nodes=1")
    shown = json.loads(server.shell("fleven-server runs list --json"))[0]
    assert shown["state"] == "succeeded"
    detail: dict[str, Any] = {}

    def all_told() -> bool:
        # A car tells of its last task, and of which app it was, when the run may have ended already.
        detail.update(json.loads(server.shell(f"fleven-server runs show {shown['id']} --json")))
        return len(detail["tasks"]) >= 4 and all(task["app_hash"] for task in detail["tasks"])

    wait_for("the car has said of which app its tasks were", all_told, 60, 2.0)
    assert len(detail["app_hash"]) == 64
    assert {task["app_hash"] for task in detail["tasks"]} == {detail["app_hash"]}
    assert detail["other_apps"] == {}
    assert "model.safetensors" in {file["name"] for file in detail["files"]}
    owner = server.shell(f"stat -c %U {detail['result']['model_path']}").strip()
    assert owner == "fleven-server"
    assert "Start `flwr-serverapp`" in server.shell(f"fleven-server runs logs {shown['id']}")
    lines |= set(server.shell("ps -eo args").splitlines())
    assert [line for line in lines if "--token " in line] == []
    check = json.loads(server.shell("fleven-server check --only machine.cell --json"))
    assert "another user" in json.dumps(check)
