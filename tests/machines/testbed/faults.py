"""The rows of the fault matrix: what goes wrong in the middle of a run, and how it is made good where it has to be.

Each fault works on a fleet whose run is in its first round. It returns when the cause is over: the rest is recovery.
Here stand processes, power and files; networks, disks and people have modules of their own. Imports nothing of fleven.
"""

from __future__ import annotations

from collections.abc import Callable

from . import faults_disk, faults_network, faults_operator
from .fault import Action, Fault, first_node, lasting, the_server
from .fleet import Fleet
from .machine import Machine
from .shell import wait_for

NODE_PROCESSES = {
    "agent": "bin/fleven-agent run",
    "SuperNode": "bin/flower-supernode",
    "executor": "bin/flower-superexec",
    "warm ClientApp process": "fleven_agent.warm",
}
SERVER_PROCESSES = {
    "SuperLink": "bin/flower-superlink",
    "ServerApp's executor": "bin/flower-superexec",
    "ServerApp": "flwr-serverapp",
    "fleven-server": "fleven-server serve",
}


def signalled(machine_of: Callable[[Fleet], Machine], pattern: str, signal: str) -> Action:
    """Send a signal to the processes of a kind, as soon as there are any."""

    def inject(fleet: Fleet) -> None:
        machine = machine_of(fleet)
        pids = wait_for(f"a process {pattern}", lambda: machine.processes(pattern), 120)
        machine.try_run("kill", f"-{signal}", *map(str, pids))

    return inject


def run_fails(fleet: Fleet) -> None:
    """A run without retries loses its ServerApp; who looks for warnings in the server's journal reads of it."""
    run = fleet.submit("--set", "rounds=100", "--retry", "0")
    fleet.wait_round(run, 1)
    signalled(the_server, SERVER_PROCESSES["ServerApp"], "KILL")(fleet)
    if (state := fleet.wait_end(run, 180)) != "failed":
        raise AssertionError(f"run {run} ended {state}")
    journal = "journalctl --no-pager --quiet --priority warning --unit fleven-server"

    def found() -> str:
        return fleet.server.shell(f"{journal} | grep -E 'run={run} .*state=failed' || true").strip()

    wait_for("the failed run in journalctl -p warning", found, 20)


def out_of_memory(fleet: Fleet) -> None:
    """A limit below what training needs; taken away once the kernel has killed something in it."""
    node = fleet.nodes[0]
    used = int(node.show("fleven-agent", "MemoryCurrent"))
    trainers = "flwr-clientapp|fleven_agent.warm|flower-superexec|flower-supernode"
    before = set(node.processes(trainers))
    limits = (f"MemoryMax={used // 2}", f"MemoryHigh={used // 2}")
    node.run("systemctl", "set-property", "--runtime", "fleven-agent", *limits)
    try:
        wait_for(
            "the kernel's kill",
            lambda: before - set(node.processes(trainers)),
            120,
        )
    finally:
        node.run("systemctl", "set-property", "--runtime", "fleven-agent", "MemoryMax=", "MemoryHigh=")


def powered_off(*names: str, seconds: float = 5) -> Action:
    """Take the power from machines at once, and give it back together."""

    def inject(fleet: Fleet) -> None:
        machines = [fleet.bed.machines[name] for name in names]
        for machine in machines:
            machine.power_cut()
        lasting(seconds)
        fleet.bed.start(*machines)

    return inject


def spoilt(machine_of: Callable[[Fleet], Machine], unit: str, find: str) -> Action:
    """Overwrite files with noise while the service is down, as a bad card does."""

    def inject(fleet: Fleet) -> None:
        machine = machine_of(fleet)
        machine.run("systemctl", "kill", "--signal=KILL", unit)
        files = machine.shell(find).split()
        for file in files:
            machine.run("sh", "-c", 'head -c 4096 /dev/urandom >"$1"', "-", file)

    return inject


def trip_spoilt(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    trip = node.shell("ls /var/lib/fleven/data/client_0/* | head -n 1").strip()
    node.run("sh", "-c", 'head -c 4096 /dev/urandom >"$1"', "-", trip)


def register_restored(fleet: Fleet) -> None:
    """The register is noise; the operator puts the newest backup in its place, as the documentation says.

    The backup of a bed is of its first start, before the cars were let in: they wait, and are let in again.
    """
    server = fleet.server
    backup = server.shell("ls -t /var/lib/fleven-server/backups/*.db | head -n 1").strip()
    server.run("systemctl", "stop", "fleven-server")
    register = "/var/lib/fleven-server/register.db"
    server.shell(f"head -c 65536 /dev/urandom > {register}; rm -f {register}-*")
    server.run("cp", "--preserve=mode,ownership", backup, register)
    server.run("systemctl", "start", "fleven-server")
    fleet.accept()


def faults() -> list[Fault]:
    """All rows, in the order of the table."""
    rows = []
    for where, machine_of, processes in (
        ("node", first_node, NODE_PROCESSES),
        ("server", the_server, SERVER_PROCESSES),
    ):
        for what, pattern in processes.items():
            rows.append(Fault(f"{where}: kill -9 of the {what}", signalled(machine_of, pattern, "KILL")))
            rows.append(Fault(f"{where}: SIGSTOP of the {what}", signalled(machine_of, pattern, "STOP")))
    state = "find /var/lib/fleven -maxdepth 1 -name '*.json' -type f"
    spool = "find /var/lib/fleven -path '*spool*' -type f"
    return [
        *rows,
        Fault(
            "server: kill -9 of the ServerApp of a run without retries", run_fails,
            holds="`journalctl -p warning` on the server names the failed run", idle=True,
        ),
        Fault("node: out of memory inside training (MemoryMax)", out_of_memory),
        Fault("power cut of one node", powered_off("n1")),
        Fault("power cut of two nodes", powered_off("n1", "n2")),
        Fault("power cut of the server", powered_off("server")),
        Fault("power cut of all machines", powered_off("server", "n1", "n2", "n3")),
        Fault("reboot of a node in a round", lambda fleet: fleet.nodes[0].reboot()),
        Fault("reboot of the server in a round", lambda fleet: fleet.server.reboot()),
        Fault("a trip file overwritten with noise", trip_spoilt),
        Fault("agent's state overwritten with noise", spoilt(first_node, "fleven-agent", state)),
        Fault("agent's spool overwritten with noise", spoilt(first_node, "fleven-agent", spool)),
        Fault(
            "register overwritten with noise", register_restored,
            by_hand="puts the newest backup in its place, lets the cars in that it does not know", forgets_run=True,
        ),
        *faults_network.rows(),
        *faults_disk.rows(),
        *faults_operator.rows(),
    ]  # fmt: skip
