"""The rows of the fault matrix: what goes wrong in the middle of a run, and how it is made good where it has to be.

Each fault works on a fleet whose run is in its first round. It returns when the cause is over: the rest is recovery.
Imports nothing of fleven.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .fleet import NEWER, Fleet, install
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


@dataclass(frozen=True)
class Fault:
    """One row.

    Attributes:
        name: what happens, for the table.
        inject: makes it happen, and ends it where it does not end by itself.
        by_hand: what a person does in it, because it is a person's mistake or visit; empty for all other rows.
        simulated: what is not the real thing; empty when everything is.
        forgets_run: the server knows nothing of the run afterwards; the next one has to succeed in its place.
    """

    name: str
    inject: Callable[[Fleet], None]
    by_hand: str = ""
    simulated: str = ""
    forgets_run: bool = False


def signalled(machine_of: Callable[[Fleet], Machine], pattern: str, signal: str) -> Callable[[Fleet], None]:
    """Send a signal to the processes of a kind, as soon as there are any."""

    def inject(fleet: Fleet) -> None:
        machine = machine_of(fleet)
        pids = wait_for(f"a process {pattern}", lambda: machine.processes(pattern), 120)
        machine.try_run("kill", f"-{signal}", *map(str, pids))

    return inject


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


def powered_off(*names: str, seconds: float = 5) -> Callable[[Fleet], None]:
    """Take the power from machines at once, and give it back together."""

    def inject(fleet: Fleet) -> None:
        machines = [fleet.bed.machines[name] for name in names]
        for machine in machines:
            machine.power_cut()
        time.sleep(seconds)  # the length of the fault itself
        fleet.bed.start(*machines)

    return inject


def link_cut(seconds: float) -> Callable[[Fleet], None]:
    def inject(fleet: Fleet) -> None:
        fleet.bed.switch.cut("n1")
        time.sleep(seconds)  # the length of the fault itself
        fleet.bed.switch.restore("n1")

    return inject


def link_flapping(fleet: Fleet) -> None:
    for _ in range(10):
        fleet.bed.switch.cut("n1")
        time.sleep(3)  # the length of the fault itself
        fleet.bed.switch.restore("n1")
        time.sleep(3)


def link_impaired(**impairment: float) -> Callable[[Fleet], None]:
    def inject(fleet: Fleet) -> None:
        fleet.bed.switch.impair("n1", **impairment)  # type: ignore[arg-type]  # numbers all
        time.sleep(60)  # the length of the fault itself
        fleet.bed.switch.restore("n1")

    return inject


def disk_full(machine_of: Callable[[Fleet], Machine], folder: str) -> Callable[[Fleet], None]:
    """Fill the state's own small disk to the last byte for a minute."""

    def inject(fleet: Fleet) -> None:
        machine = machine_of(fleet)
        machine.try_run("sh", "-c", f"cat /dev/zero > {folder}/filler")
        time.sleep(60)  # the length of the fault itself
        machine.run("rm", f"{folder}/filler")

    return inject


def other_partition(fleet: Fleet) -> None:
    fleet.configure(fleet.nodes[1], 0)
    fleet.nodes[1].run("systemctl", "restart", "fleven-agent")
    fleet.wait_condition("duplicate-partition")
    fleet.configure(fleet.nodes[1], 1)
    fleet.nodes[1].run("systemctl", "restart", "fleven-agent")


def other_flower(fleet: Fleet) -> None:
    node = fleet.nodes[1]
    metadata = node.shell("ls -d /usr/lib/fleven/node/lib/python3*/site-packages/flwr-*.dist-info").strip()
    other = f"{metadata.rsplit('/', 1)[0]}/flwr-1.33.0.dist-info"
    node.run("cp", f"{metadata}/METADATA", "/root/METADATA")
    node.run("sed", "-i", "s/^Version: .*/Version: 1.33.0/", f"{metadata}/METADATA")
    node.run("mv", metadata, other)
    node.run("systemctl", "restart", "fleven-agent")
    fleet.wait_condition("version-mismatch")
    node.run("mv", other, metadata)
    node.run("cp", "/root/METADATA", f"{metadata}/METADATA")
    node.run("systemctl", "restart", "fleven-agent")


def spoilt(machine_of: Callable[[Fleet], Machine], unit: str, find: str) -> Callable[[Fleet], None]:
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
    """The register is noise; the operator puts the newest backup in its place, as the documentation says."""
    server = fleet.server
    backup = server.shell("ls -t /var/lib/fleven-server/backups/*.db | head -n 1").strip()
    server.run("systemctl", "stop", "fleven-server")
    register = "/var/lib/fleven-server/register.db"
    server.shell(f"head -c 65536 /dev/urandom > {register}; rm -f {register}-*")
    server.run("cp", "--preserve=mode,ownership", backup, register)
    server.run("systemctl", "start", "fleven-server")


def configuration_broken(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    good = node.run("cat", "/etc/fleven/node.toml")
    node.write("/etc/fleven/node.toml", "partition-id = 0\nsuperlink = \n")
    node.try_run("systemctl", "reload", "fleven-agent")
    node.try_run("systemctl", "restart", "fleven-agent")
    wait_for("the agent refuses it", lambda: node.show("fleven-agent", "ActiveState") == "failed", 120)
    node.write("/etc/fleven/node.toml", good)
    node.run("systemctl", "start", "fleven-agent")


def package_changed(new: str, *options: str) -> Callable[[Fleet], None]:
    def inject(fleet: Fleet) -> None:
        node = fleet.nodes[0]
        if new == "newer":
            install(node, f"{fleet.debs.name}/{NEWER}")
        else:
            node.run("apt-get", "install", "-y", *options, f"./mnt/{fleet.package('node')}", timeout_seconds=900)

    return inject


def clock(*offsets: str) -> Callable[[Fleet], None]:
    """All services of a node see another time; more than one offset makes it jump."""

    def inject(fleet: Fleet) -> None:
        node = fleet.nodes[0]
        node.shell("ls /usr/lib/*/faketime/libfaketime.so.1 > /etc/ld.so.preload")
        for offset in offsets:
            node.write("/etc/faketimerc", f"{offset}\n")
            node.run("systemctl", "restart", "fleven-agent")
            time.sleep(45)  # the length of the fault itself
        node.run("rm", "/etc/ld.so.preload")
        node.run("systemctl", "restart", "fleven-agent")

    return inject


def first_node(fleet: Fleet) -> Machine:
    return fleet.nodes[0]


def superlink_database_deleted(fleet: Fleet) -> None:
    """Take the SuperLink's memory away: it knows no run and no node any more."""
    fleet.server.shell(
        "rm /var/lib/fleven-server/superlink.db*; systemctl kill --signal=KILL fleven-superlink; "
        "timeout 60 sh -c 'until systemctl is-active -q fleven-superlink; do sleep 0.5; done'"
    )


def server_frozen(seconds: float, every: str) -> Callable[[Fleet], None]:
    """Freeze both services of the server while a schedule is due several times; its missed runs are summed up."""

    def inject(fleet: Fleet) -> None:
        server, both = fleet.server, "fleven-superlink fleven-server"
        server.run("fleven-server", "schedule", "add", "often", "--every", every, "--set", "rounds=1")
        server.shell(f"for unit in {both}; do systemctl freeze $unit; done; sleep {seconds:.0f}; "
                     f"for unit in {both}; do systemctl thaw $unit; done")  # fmt: skip
        made = fleet.ask(server, "fleven-server", "runs", "list", "--schedule", "often", "--json")
        server.run("fleven-server", "schedule", "remove", "often", "--stop")
        if len(made) > 3:
            raise AssertionError(f"{len(made)} runs were made of the fires in one sleep")

    return inject


def the_server(fleet: Fleet) -> Machine:
    return fleet.server


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
        Fault("node: out of memory inside training (MemoryMax)", out_of_memory),
        Fault("power cut of one node", powered_off("n1")),
        Fault("power cut of two nodes", powered_off("n1", "n2")),
        Fault("power cut of the server", powered_off("server")),
        Fault("power cut of all machines", powered_off("server", "n1", "n2", "n3")),
        Fault("reboot of a node in a round", lambda fleet: fleet.nodes[0].reboot()),
        Fault("link of a node cut for 5 s", link_cut(5)),
        Fault("link of a node cut for 90 s", link_cut(90)),
        Fault("link of a node cut for 10 min", link_cut(600)),
        Fault("link of a node flapping every 3 s for 60 s", link_flapping),
        Fault("30 % loss on a node's link for 60 s", link_impaired(loss_percent=30)),
        Fault("2 s delay on a node's link for 60 s", link_impaired(delay_seconds=1)),  # each way
        Fault("disk of a node full for 60 s", disk_full(first_node, "/var/lib/fleven")),
        Fault("disk of the server full for 60 s", disk_full(the_server, "/var/lib/fleven-server")),
        Fault("clock of a node 1 h ahead", clock("+1h"), simulated="libfaketime in all its services"),
        Fault("clock of a node jumping", clock("+1h", "-1h"), simulated="libfaketime in all its services"),
        Fault("two nodes with one partition-id", other_partition, by_hand="gives one its own number again"),
        Fault(
            "node of another Flower version", other_flower,
            by_hand="installs the right version", simulated="only the version number differs",
        ),
        Fault("a trip file overwritten with noise", trip_spoilt),
        Fault("agent's state overwritten with noise", spoilt(first_node, "fleven-agent", state)),
        Fault("agent's spool overwritten with noise", spoilt(first_node, "fleven-agent", spool)),
        Fault(
            "register overwritten with noise", register_restored,
            by_hand="puts the newest backup in its place", forgets_run=True,
        ),
        Fault("superlink.db deleted", superlink_database_deleted, by_hand="deletes it and restarts the SuperLink"),
        Fault(
            "server frozen for 20 min with a schedule due every 5 min", server_frozen(1200, every="5m"),
            simulated="its two services frozen by systemd, as a suspended machine has all its processes",
        ),
        Fault("node.toml broken by the operator and mended", configuration_broken, by_hand="mends it and starts it"),
        Fault("upgrade of a node in a round", package_changed("newer"), by_hand="apt install"),
        Fault("downgrade of a node in a round", package_changed("older", "--allow-downgrades"), by_hand="apt install"),
    ]  # fmt: skip


def prepare_disks(fleet: Fleet) -> None:
    """Give the states of the first node and the server disks small enough to fill (gone with the power)."""
    for machine, folder, unit in (
        (fleet.nodes[0], Path("/var/lib/fleven"), "fleven-agent"),
        (fleet.server, Path("/var/lib/fleven-server"), "fleven-server fleven-superlink"),
    ):
        machine.shell(
            f"systemctl stop {unit}; cp -a {folder} /root/state; mount -t tmpfs -o size=400M,mode=755 tmpfs {folder}; "
            f"cp -a /root/state/. {folder}/; rm -r /root/state; systemctl start {unit}"
        )
