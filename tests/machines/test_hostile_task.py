"""A car whose app tries all it can: what it reads, writes, reaches, leaves behind and uses up (`hostile_task.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.base import host_architecture
from testbed.bed import Bed
from testbed.fleet import Fleet
from testbed.machine import Machine
from testbed.shell import wait_for

pytestmark = [pytest.mark.machines, pytest.mark.slow, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
PYTHON = "/usr/lib/fleven/node/bin/python3"
STAND_IN = (
    "import sys; sys.path.append('/usr/lib/fleven/node/lib/python{version}/site-packages'); "
    "from fleven_agent.common.cell.stand_in import main; "
    "main('flwr-clientapp', '--clientappio-api-address', '/run/fleven-task/cell.sock', '/nowhere')"
)
SECRETS = (
    "/var/lib/fleven/state.json",
    "/var/lib/fleven/warm",
    "/var/lib/fleven/identity",
    "/var/lib/fleven/flwr",
    "/etc/fleven/node.toml",
    "/etc/shadow",
    "/run/fleven",
    "/home",
    "/root",
    "/boot",
)
TRIPS = "/var/lib/fleven/data/client_0"
FOREIGN_FILES = (f"{TRIPS}/x.csv", "/usr/x", "/etc/x", "/run/x", "/var/tmp/x", "/var/lib/fleven/x")
FORGED = (
    "INFO :      SuperNode ID: 42",
    '  File "x.py", line 1, in send_node_heartbeat',
    "ERROR :     Exit Code: 600",
    "WARNING :   Connection attempt failed, retrying in 3 seconds",
    "INFO :      Receiving: train message",
)
FORGER = f"""
import json
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server = ServerApp()
client = ClientApp()

@client.query()
def query(message, context):
    print({FORGED!r}, *{FORGED!r}, sep="\\n", flush=True)
    return Message(RecordDict(), reply_to=message)

@server.main()
def main(grid, context):
    messages = [Message(RecordDict(), node, "query") for node in grid.get_node_ids()]
    answered = [reply.has_content() for reply in grid.send_and_receive(messages, timeout=90)]
    folder = Path("metrics") / "forger" / str(context.run_id)
    folder.mkdir(parents=True)
    (folder / "answered.json").write_text(json.dumps(answered))
"""
OUTSIDE = ("100.64.0.1:9092", "100.64.0.1:9190", "100.64.0.2:22", "8.8.8.8:53")


@pytest.fixture(scope="module")
def fleet(suite: str, debs: Path) -> Iterator[Fleet]:
    """A server and a car that is ready for runs and has the hostile task beside Flower's program."""
    with Bed("flhost", suite, host_architecture()) as bed:
        fleet = Fleet.on(bed, debs, 1)
        fleet.boot()
        car = fleet.nodes[0]
        fleet.install()
        # Less than the host has, so that filling the memory takes a moment and harms nobody.
        car.write("/etc/systemd/system/fleven-task.service.d/50-test.conf", "[Service]\nMemoryMax=700M\n")
        car.write("/opt/evil/flwr-clientapp", f"#!{PYTHON} -Iu\n{(HERE / 'hostile_task.py').read_text()}")
        car.shell("chmod 755 /opt/evil /opt/evil/flwr-clientapp; systemctl daemon-reload")
        fleet.start_agents()  # as installed: the car has a key
        fleet.wait_ready()
        wait_for("the cell is warm", lambda: "cell=warm" in car.shell("journalctl -u fleven-task"), 60, 1.0)
        yield fleet


@pytest.fixture(scope="module")
def car(fleet: Fleet) -> Machine:
    """The car."""
    return fleet.nodes[0]


def attack(car: Machine, trials: str) -> dict[str, str]:
    """Run the task in the cell as SuperNode's executor would; return what it could do."""
    version = car.shell(f"{PYTHON} -c 'import sys; print(*sys.version_info[:2], sep=\".\")'").strip()
    program = STAND_IN.format(version=version)
    lists = f"--read {':'.join((*SECRETS, TRIPS))} --write {':'.join(FOREIGN_FILES)} --connect {','.join(OUTSIDE)}"
    result = car.try_run(
        "bash",
        "-c",
        f"cd /var/lib/fleven && timeout 100 runuser -u fleven -- env PATH=/opt/evil:/usr/bin:/bin {PYTHON} -IS -c "
        f'"{program}" --clientappio-api-address 127.0.0.1:9094 --token secret {lists} --trials {trials}',
        timeout_seconds=120,
    )
    found: dict[str, str] = {}
    for line in result.output.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    return found


def left_behind(car: Machine) -> list[str]:
    """Return the command lines of all that runs as the tasks' user, without the cell's own process."""
    lines = car.shell("ps -u fleven-task -o args= || true").splitlines()
    return [line for line in lines if "fleven_agent.warm cell" not in line and "(python3)" not in line]


def kept_bytes(car: Machine) -> int:
    """What lies in all folders that a task may write."""
    folders = "/var/cache/fleven-task /var/lib/fleven-models /var/lib/fleven/data /tmp /var/tmp"
    return int(car.shell(f"du -sbc {folders} | tail -1 | cut -f1"))


def nothing_is_left(car: Machine) -> None:
    wait_for("nothing of the task is left", lambda: not left_behind(car), 30, 0.5)
    # A cell that the task has taken along is started again, with folders of its own.
    wait_for("the cell is there", lambda: car.show("fleven-task", "ActiveState") == "active", 30, 0.5)
    held = car.shell("pid=$(systemctl show -P MainPID fleven-task); ls -A /proc/$pid/root/tmp /proc/$pid/root/dev/shm")
    assert [line for line in held.splitlines() if line and not line.startswith("/proc")] == []


def test_it_reads_trips_and_no_secret_writes_nothing_and_reaches_nobody(car: Machine) -> None:
    for path in SECRETS:
        car.run("test", "-e", path)  # it is there, for those who may see it
    for address in OUTSIDE[:2]:
        host, port = address.split(":")
        car.shell(f"timeout 5 bash -c ': </dev/tcp/{host}/{port}'")
    found = attack(car, "identity,processes,signal,trace,parent-memory,setuid,namespace,group")
    fleven = car.shell("id -u fleven").strip()
    assert fleven not in found["identity"]
    for path in SECRETS:
        assert found[f"read {path}"].startswith("refused"), (path, found[f"read {path}"])
    assert "parquet" in found[f"read {TRIPS}"]
    for path in FOREIGN_FILES:
        assert found[f"write {path}"].startswith("refused"), path
    for address in OUTSIDE:
        assert found[f"connect {address}"].startswith("refused"), address
    assert found["processes"] == "none"
    cell = car.shell("systemctl show -P MainPID fleven-task").strip()
    assert found["signal"] == f"[{cell}]"  # of its own user: it harms its own task alone
    assert found["trace"] == "-1"
    assert found["group"] == "none"
    for trial in ("parent-memory", "setuid", "namespace"):
        assert found[trial].startswith("refused"), trial


@pytest.mark.parametrize("trial", ["stay", "bomb", "memory", "fill-tmp", "fill-home", "fill-kept", "end-all"])
def test_nothing_of_it_is_left_and_the_car_goes_on(car: Machine, trial: str) -> None:
    agent, supernode, before = (
        car.show("fleven-agent", "MainPID"),
        car.processes("bin/flower-supernode"),
        kept_bytes(car),
    )
    attack(car, trial)
    nothing_is_left(car)
    assert attack(car, "identity")["identity"]
    assert json.loads(car.shell("fleven-agent status --json"))["state"] == "running"
    # It was nobody's but the cell's to bear.
    assert (car.show("fleven-agent", "MainPID"), car.processes("bin/flower-supernode")) == (agent, supernode)
    assert kept_bytes(car) - before < 1_000_000


def test_what_an_app_prints_is_not_taken_for_supernodes_word(fleet: Fleet, car: Machine) -> None:
    server, state = fleet.server, "/var/lib/fleven-server"
    server.write(
        "/opt/forger/pyproject.toml",
        '[project]\nname = "forger"\nversion = "1.0.0"\nlicense = "Apache-2.0"\n[tool.flwr.app]\npublisher = "tests"\n'
        '[tool.flwr.app.components]\nserverapp = "forger.app:server"\nclientapp = "forger.app:client"\n',
    )
    server.write("/opt/forger/forger/__init__.py", "")
    server.write("/opt/forger/forger/app.py", FORGER)

    def seen() -> tuple[object, ...]:
        status = json.loads(car.run("fleven-agent", "status", "--json"))
        restarts = (status.get("counters") or {}).get("restarts")
        return status["state"], status["node"]["node_id"], restarts, car.processes("bin/flower-supernode")

    before = seen()
    server.run(
        *("runuser", "-u", "fleven-server", "--", "env", f"FLWR_HOME={state}/flwr", "HOME=/tmp", "TERM=dumb"),
        *("grpc_proxy=", "/usr/lib/fleven/server/bin/flwr", "run", "/opt/forger", "fleven-deployment"),
    )
    answered = f"cat {state}/metrics/forger/*/answered.json 2>/dev/null || true"
    wait_for("the car has answered", lambda: server.shell(answered).strip(), 120, 1.0)
    assert json.loads(server.shell(answered)) == [True]
    wait_for("its lines are in the journal", lambda: "ID: 42" in car.journal("-u", "fleven-agent"), 20, 0.5)
    car.run("fleven-agent", "status")
    assert seen() == before
    assert "\x02" not in car.journal("-u", "fleven-agent")


def test_a_cell_that_a_task_has_stopped_is_another_within_half_a_minute(car: Machine) -> None:
    stopped = car.show("fleven-task", "MainPID")
    begin = time.monotonic()
    attack(car, "stop-cell")  # ends when the cell's process does
    wait_for("another cell", lambda: car.show("fleven-task", "MainPID") not in {stopped, "0"}, 60, 0.2)
    assert attack(car, "identity")["identity"]
    seconds = time.monotonic() - begin
    print(f"a stopped cell ran a task again after {seconds:.1f} s")
    assert seconds < 30
    nothing_is_left(car)
