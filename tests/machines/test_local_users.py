"""What users of the machine who are nobody to the fleet reach on loopback: neither tasks, nor runs, nor tokens.

The attacks are tried against the packages as they are installed, and once more with the table of nftables away, so that
it is seen to be what stops them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from testbed.base import host_architecture
from testbed.bed import Bed
from testbed.fleet import Fleet
from testbed.machine import Machine, Result
from testbed.shell import wait_for

pytestmark = [pytest.mark.machines, pytest.mark.slow, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
STRANGER = "mallory"
MEMBER = "ana"
PYTHON = {role: f"/usr/lib/fleven/{role}/bin/python3" for role in ("node", "server")}
FIREWALL = {role: f"fleven-{role}-firewall.service" for role in ("node", "server")}
CONNECT = (
    "import socket, sys\n"
    "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close(); print('connected')\n"
    "except OSError as error: print(type(error).__name__)"
)
SHIPPED_APP = "/usr/share/fleven/app"


@pytest.fixture(scope="module")
def fleet(suite: str, debs: Path) -> Iterator[Fleet]:
    """A server and a car as they are installed, and on each a user who has nothing to do with them."""
    with Bed("flusers", suite, host_architecture()) as bed:
        fleet = Fleet.on(bed, debs, 1)
        fleet.boot()
        fleet.install()
        for machine in (fleet.server, *fleet.nodes):
            machine.run("useradd", "--create-home", STRANGER)
        fleet.server.run("useradd", "--create-home", "--groups", "fleven-server", MEMBER)
        fleet.start_agents()
        fleet.wait_ready()
        yield fleet


def reach(machine: Machine, user: str, address: str, port: int) -> str:
    """Say how a connection of a user ended."""
    return machine.try_run("/usr/bin/python3", "-c", CONNECT, address, str(port), user=user).output.strip()


@contextmanager
def without_table(machine: Machine, role: str) -> Iterator[None]:
    """As on a machine that has lost the table, or never had it."""
    machine.run("systemctl", "stop", FIREWALL[role])
    try:
        yield
    finally:
        machine.run("systemctl", "start", FIREWALL[role])


def submit_as(server: Machine, user: str) -> Result:
    """Have a user of the server submit an app, as `evilapp` was: code on the server and in every car.

    With the server's authority, which it tells whoever asks.
    """
    home = f"/home/{user}/flower"
    server.write(
        f"{home}/config.toml",
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:9093"\n'
        f'root-certificates = "{home}/ca.crt"\n',
    )
    told = json.loads(server.try_run("curl", "-fsSk", "https://127.0.0.1:9190/v1/trust", user=user).output)
    server.write(f"{home}/ca.crt", told["ca_certificates"])
    server.run("chown", "-R", f"{user}:", f"/home/{user}/flower")
    return server.try_run(
        *("env", f"FLWR_HOME=/home/{user}/flower", f"HOME=/home/{user}", "FLWR_TELEMETRY_ENABLED=0"),
        *("/usr/lib/fleven/server/bin/flwr", "run", SHIPPED_APP, "here", "--format", "json"),
        user=user,
        timeout_seconds=60,
    )


@pytest.mark.parametrize(("role", "ports"), [("node", (9094,)), ("server", (9091, 9093))])
def test_a_stranger_on_the_machine_reaches_no_port_and_the_right_users_do(
    fleet: Fleet, role: str, ports: tuple[int, ...]
) -> None:
    machine = fleet.nodes[0] if role == "node" else fleet.server
    right = "fleven" if role == "node" else "fleven-server"
    assert machine.show(FIREWALL[role], "ActiveState") == "active"
    for port in ports:
        assert reach(machine, STRANGER, "127.0.0.1", port) == "ConnectionRefusedError"
        for user in ("root", right):
            assert reach(machine, user, "127.0.0.1", port) == "connected", user
        with without_table(machine, role):
            assert reach(machine, STRANGER, "127.0.0.1", port) == "connected"
        assert reach(machine, STRANGER, "127.0.0.1", port) == "ConnectionRefusedError"


def test_the_table_comes_back_with_debians_own_service_and_after_a_reboot(fleet: Fleet) -> None:
    car = fleet.nodes[0]
    car.run("systemctl", "restart", "nftables.service")  # empties all tables; ours is loaded again right after
    wait_for(
        "the table is there again", lambda: reach(car, STRANGER, "127.0.0.1", 9094) == "ConnectionRefusedError", 10, 0.2
    )
    car.reboot()
    fleet.wait_ready()
    assert reach(car, "root", "127.0.0.1", 9094) == "connected"
    assert reach(car, STRANGER, "127.0.0.1", 9094) == "ConnectionRefusedError"


def test_a_stranger_takes_no_task_of_the_car_and_the_run_goes_well(fleet: Fleet) -> None:
    car = fleet.nodes[0]
    car.write("/opt/thief.py", (HERE / "task_thief.py").read_text())

    def steal_during_a_run() -> tuple[list[str], Result]:
        with ThreadPoolExecutor(1) as pool:
            thief = pool.submit(
                *(car.try_run, PYTHON["node"], "-I", "/opt/thief.py", "127.0.0.1:9094", "40"),
                user=STRANGER,
                timeout_seconds=120,
            )
            run = fleet.run_now("--set", "rounds=2", "--set", "min-nodes=1")
            return thief.result().output.split("\n"), run

    said, run = steal_during_a_run()
    assert run.exit_code == 0, run.output + run.errors
    assert [line for line in said if line.startswith("claimed")] == []
    assert any(line.startswith("refused") for line in said), said
    with without_table(car, "node"):
        said, _ = steal_during_a_run()
        assert any(line.startswith("claimed") for line in said), said
    wait_for("the car trains again", lambda: fleet.agent_state(car) == "running", 120, 1.0)


def test_a_stranger_submits_no_run_and_members_of_the_group_use_all_commands(fleet: Fleet) -> None:
    server = fleet.server
    fleet.wait_ready()
    refused = submit_as(server, STRANGER)
    assert json.loads(refused.output)["success"] is False, refused.output
    begun = server.try_run(
        *("fleven-server", "schedule", "run", "--set", "rounds=1", "--set", "min-nodes=1"),
        user=MEMBER,
        timeout_seconds=300,
    )
    assert begun.exit_code == 0, begun.output + begun.errors
    newest = json.loads(server.run("fleven-server", "runs", "--json"))[0]["id"]
    logs = server.try_run("fleven-server", "runs", "logs", str(newest), user=MEMBER)
    assert logs.exit_code == 0, logs.output + logs.errors
    assert "round" in logs.output
    with without_table(server, "server"):
        taken = submit_as(server, STRANGER)
        assert json.loads(taken.output)["success"] is True, taken.output
        stop = ("/usr/lib/fleven/server/bin/flwr", "stop", str(json.loads(taken.output)["run-id"]), "fleven-deployment")
        stopped = server.try_run("env", "FLWR_HOME=/var/lib/fleven-server/flwr", *stop, user="fleven-server")
        assert stopped.exit_code == 0, stopped.output + stopped.errors
    # What a member's commands and a run by hand have written lets the server go on.
    fleet.wait_ready()
    after = fleet.run_now("--set", "rounds=1", "--set", "min-nodes=1")
    assert after.exit_code == 0, after.output + after.errors


@pytest.mark.parametrize(
    ("role", "command", "check"),
    [
        ("node", "fleven-agent", "machine.local-users"),
        ("server", "fleven-server", "machine.local-users"),
    ],
)
def test_the_check_says_when_the_table_or_nftables_is_missing(
    fleet: Fleet, role: str, command: str, check: str
) -> None:
    machine = fleet.nodes[0] if role == "node" else fleet.server

    def said() -> tuple[str, str]:
        answer = json.loads(machine.try_run(command, "check", "--json").output)
        row = next(row for row in answer["checks"] if row["id"] == check)
        return row["status"], row["message"] + " " + (row.get("hint") or "")

    assert said()[0] == "ok"
    machine.run("nft", "delete", "table", "inet", f"fleven_{role}")
    assert said() == ("warning", said()[1])
    assert f"systemctl restart {FIREWALL[role]}" in said()[1]
    machine.run("mv", "/usr/sbin/nft", "/usr/sbin/nft.away")
    try:
        machine.run("systemctl", "restart", FIREWALL[role])
        assert machine.show(FIREWALL[role], "ActiveState") == "inactive"
        status, text = said()
        assert (status, "apt install nftables" in text) == ("warning", True), text
    finally:
        machine.run("mv", "/usr/sbin/nft.away", "/usr/sbin/nft")
    machine.run("systemctl", "restart", FIREWALL[role])
    assert said()[0] == "ok"


def test_no_token_stands_in_a_command_line_of_car_or_server(fleet: Fleet) -> None:
    seen: dict[str, set[str]] = {"car": set(), "server": set()}
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(fleet.run_now, "--set", "rounds=2", "--set", "min-nodes=1")
        while not run.done():
            for name, machine in (("car", fleet.nodes[0]), ("server", fleet.server)):
                seen[name] |= set(machine.try_run("ps", "-eo", "args", user="root").output.splitlines())
        assert run.result().exit_code == 0, run.result().errors
    for name, program in (("car", "flwr-clientapp"), ("server", "flwr-serverapp")):
        assert [line for line in seen[name] if program in line], name
        assert [line for line in seen[name] if "--token " in line and "/proc/self/fd/" not in line] == []


@pytest.mark.parametrize("folder", ["/var/lib/fleven/data", "/var/lib/fleven/identity", "/var/lib/fleven-models"])
def test_a_stranger_sees_neither_trips_nor_models_nor_keys(fleet: Fleet, folder: str) -> None:
    car = fleet.nodes[0]
    assert car.run("ls", "-A", folder).strip()
    assert car.try_run("ls", "-A", folder, user=STRANGER).exit_code != 0


def test_an_app_that_the_service_cannot_read_is_no_run_for_ever(fleet: Fleet) -> None:
    server = fleet.server
    server.shell("cp -r /usr/share/fleven/app /root/app; chmod 700 /root/app")
    said = server.try_run(
        "fleven-server", "schedule", "run", "--app", "/root/app", "--set", "min-nodes=1", timeout_seconds=120
    )
    assert said.exit_code not in {0, 124}, said.output
    assert "/root/app" in said.output + said.errors
    waiting = json.loads(server.run("fleven-server", "runs", "--json"))
    assert [run for run in waiting if run["state"] in {"submitted", "pending", "running"}] == []
