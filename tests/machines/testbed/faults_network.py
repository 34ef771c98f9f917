"""Rows about addresses, names, cables and ports. Imports nothing of fleven."""

from __future__ import annotations

import json
import time
from pathlib import Path

from .fault import Action, Fault, configured, lasting
from .fleet import Fleet
from .machine import Machine
from .shell import wait_for

SWALLOW = Path(__file__).with_name("swallow.py")
LATE_SECONDS = 120
PULL_SECONDS = 120.0
"""Between two questions of an idle car's SuperNode for work."""
WORK_SECONDS = 30
"""For the work of a round, and for all that a run begins with, on a busy host."""
ADDRESS_6 = "fd7a:115c:a1e0::{}"  # as in a tailnet
BY_NAME = configured("server:9092")
BY_ADDRESS = configured()


def address_changes(index: int | None) -> Action:
    """The server (None) or a node has another address from one moment to the next, and all names say so."""

    def inject(fleet: Fleet) -> None:
        machine = fleet.server if index is None else fleet.nodes[index]
        network, _, last = machine.address.rpartition(".")
        new = f"{network}.{(int(last) + 100) % 200}"
        fleet.bed.switch.readdress(machine.name, machine.address, new)
        machine.address = new
        for one in fleet.bed.machines.values():
            one.write("/etc/hosts", fleet.bed.hosts())

    return inject


def link_cut(seconds: float, name: str = "n1") -> Action:
    def inject(fleet: Fleet) -> None:
        fleet.bed.switch.cut(name)
        lasting(seconds)
        fleet.bed.switch.restore(name)

    return inject


def link_silent(seconds: float) -> Action:
    """Out of coverage: frames vanish while the link still looks up."""

    def inject(fleet: Fleet) -> None:
        fleet.bed.switch.silence("n1")
        lasting(seconds)
        fleet.bed.switch.restore("n1")

    return inject


def link_flapping(fleet: Fleet) -> None:
    for _ in range(10):
        fleet.bed.switch.cut("n1")
        lasting(3)
        fleet.bed.switch.restore("n1")
        lasting(3)


def link_impaired(**impairment: float) -> Action:
    def inject(fleet: Fleet) -> None:
        fleet.bed.switch.impair("n1", **impairment)  # type: ignore[arg-type]  # numbers all
        lasting(60)
        fleet.bed.switch.restore("n1")

    return inject


def vpn_late(fleet: Fleet) -> None:
    """A car starts, and its VPN comes up two minutes later."""
    node = fleet.nodes[0]
    node.power_cut()
    node.start(network=False)
    lasting(LATE_SECONDS)
    fleet.bed.switch.plug(node.name, node.address)


def mtu(size: int) -> Action:
    def change(fleet: Fleet) -> None:
        fleet.bed.switch.limit_frames("n1", size)

    return change


def ipv6_only(fleet: Fleet) -> None:
    """Nobody has an IPv4 address any more; the server listens on IPv6, and the nodes name its address."""
    server, switch = fleet.server, fleet.bed.switch
    for number, machine in enumerate(fleet.bed.machines.values(), 1):
        switch.add_address6(machine.name, ADDRESS_6.format(number))
    server.run("cp", "/etc/fleven/server.toml", "/root/server.toml")
    server.write("/etc/fleven/server.toml", '[superlink]\nfleet-address = "[::]:9092"\n[web]\naddress = "[::]:9190"\n')
    server.run("systemctl", "restart", "fleven-superlink", "fleven-server")
    for machine in fleet.bed.machines.values():
        switch.remove_address(machine.name, machine.address)
    configured(f"[{ADDRESS_6.format(1)}]:9092")(fleet)


def ipv4_again(fleet: Fleet) -> None:
    for machine in fleet.bed.machines.values():
        fleet.bed.switch.plug(machine.name, machine.address)
    fleet.server.run("cp", "/root/server.toml", "/etc/fleven/server.toml")
    fleet.server.run("systemctl", "restart", "fleven-superlink", "fleven-server")
    BY_ADDRESS(fleet)


def supernode_killed(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    for pid in wait_for("a SuperNode", lambda: node.processes("bin/flower-supernode"), 60):
        node.try_run("kill", "-KILL", str(pid))


def port_closed(port: int, seconds: float) -> Action:
    """A firewall drops what a node sends to one port of the server."""

    def inject(fleet: Fleet) -> None:
        node = fleet.nodes[0]
        node.shell(
            "nft add table inet wall; nft 'add chain inet wall out { type filter hook output priority 0; }'; "
            f"nft add rule inet wall out tcp dport {port} drop"
        )
        lasting(seconds)
        node.run("nft", "delete", "table", "inet", "wall")

    return inject


def name_gone(seconds: float) -> Action:
    """The server's name means nothing on a node, and just then its SuperNode dies."""

    def inject(fleet: Fleet) -> None:
        node = fleet.nodes[0]
        node.write("/etc/hosts", "127.0.0.1 localhost\n")
        supernode_killed(fleet)
        lasting(seconds)
        node.write("/etc/hosts", fleet.bed.hosts())

    return inject


def calm(fleet: Fleet) -> None:
    """All cars have nothing to do and ask for work rarely, as after an hour without a run."""
    for node in fleet.nodes:
        node.run("systemctl", "restart", "fleven-agent")  # a SuperNode that has had no task asks rarely at once
    fleet.wait_ready()

    def stretched() -> bool:
        pace = "/run/fleven/warm/pace.json"
        wanted = [json.loads(node.run("cat", pace))["pull_seconds"] for node in fleet.nodes]
        return wanted == [PULL_SECONDS] * len(fleet.nodes)

    wait_for("all cars ask for work rarely", stretched, 180, 1.0)


def wake_up_lost(fleet: Fleet) -> None:
    """What the server says to the cars gets lost when a run begins: they find it by themselves, a pull later."""
    for node in fleet.nodes:
        node.shell(
            "nft add table inet wall; nft 'add chain inet wall in { type filter hook input priority 0; }'; "
            "nft 'add rule inet wall in tcp sport 9190 tcp flags & psh == psh drop'"
        )
    began = time.monotonic()
    run = fleet.submit("--set", "rounds=2")
    fleet.wait_round(run, 2, PULL_SECONDS + WORK_SECONDS)
    first_round_seconds = time.monotonic() - began
    state = fleet.wait_end(run)
    for node in fleet.nodes:
        node.run("nft", "delete", "table", "inet", "wall")
    if state != "succeeded" or first_round_seconds < WORK_SECONDS / 2:
        raise AssertionError(f"the run ended {state}; its first round took {first_round_seconds:.0f} s")
    print(f"first round without a wake-up: {first_round_seconds:.0f} s", flush=True)
    flower_run = str(fleet.run_json(run)["flower_run_id"])

    def all_trained() -> bool:
        tasks = [fleet.get(f"nodes/{node.name}/history?hours=1").get("tasks", []) for node in fleet.nodes]
        return all(any(str(task["flower_run_id"]) == flower_run for task in own) for own in tasks)

    wait_for("the server hears that each car has worked in it", all_trained, 120, 1.0)


def proxied(fleet: Fleet) -> None:
    """Something stands between the first node and the SuperLink, and forwards."""
    node, server = fleet.nodes[0], fleet.server.address
    node.write("/root/swallow.py", SWALLOW.read_text())
    node.run("systemd-run", "--unit=swallow", "python3", "/root/swallow.py", "9000", f"{server}:9092")
    fleet.configure(node, 0, f'report-url = "https://{server}:9190"', superlink="127.0.0.1:9000")
    node.run("systemctl", "restart", "fleven-agent")
    fleet.wait_ready()
    lasting(70)  # a SuperNode that has only just begun is given this time anyway


def swallowed(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    before = set(node.processes("bin/flower-supernode"))
    node.run("systemctl", "kill", "--signal=USR1", "swallow")
    wait_for("another SuperNode", lambda: set(node.processes("bin/flower-supernode")) - before, 240)


def not_proxied(fleet: Fleet) -> None:
    BY_ADDRESS(fleet)
    fleet.nodes[0].run("systemctl", "stop", "swallow")


def cards_swapped(fleet: Fleet) -> None:
    """Two cars exchange their cards: each system wakes up on the other's board, with the other's address."""
    one, other = fleet.nodes[:2]
    for machine in (one, other):
        machine.power_cut()
    exchange_addresses(fleet, one, other)
    fleet.bed.start(one, other)
    for machine in fleet.bed.machines.values():
        machine.write("/etc/hosts", fleet.bed.hosts())


def exchange_addresses(fleet: Fleet, one: Machine, other: Machine) -> None:
    for machine in (one, other):
        if Path(f"/run/netns/{fleet.bed.switch.prefix}-{machine.name}").exists():
            fleet.bed.switch.unplug(machine.name)
    one.address, other.address = other.address, one.address


def rows() -> list[Fault]:
    """In the order of the table."""
    return [
        Fault("link of a node cut for 5 s", link_cut(5)),
        Fault("link of a node cut for 90 s", link_cut(90)),
        Fault("link of a node cut for 10 min", link_cut(600)),
        Fault("link of a node flapping every 3 s for 60 s", link_flapping),
        Fault("30 % loss on a node's link for 60 s", link_impaired(loss_percent=30)),
        Fault("2 s delay on a node's link for 60 s", link_impaired(delay_seconds=1)),  # each way
        Fault("a node out of coverage for 90 s (link up, frames lost)", link_silent(90)),
        Fault("link of the server cut for 90 s", link_cut(90, "server")),
        Fault("address of the server changes in a round", address_changes(None), before=BY_NAME, after=BY_ADDRESS),
        Fault(
            "address of the server changes while nothing runs", address_changes(None),
            idle=True, before=BY_NAME, after=BY_ADDRESS,
        ),
        Fault("address of a node changes in a round", address_changes(0)),
        Fault("cards of two cars swapped", cards_swapped, by_hand="swaps them",
              simulated="the systems exchange their network addresses; both boards are this computer"),
        Fault("VPN of a node comes up two minutes after its start", vpn_late),
        Fault("IPv6 only, and SuperNode killed", supernode_killed, before=ipv6_only, after=ipv4_again),
        Fault("MTU of a node's link falls to 1280", mtu(1280), after=mtu(1500)),
        Fault("port of the SuperLink closed for a node for 60 s", port_closed(9092, 60)),
        Fault(
            "a proxy keeps a node's dead connection alive", swallowed,
            idle=True, lasts=True, before=proxied, after=not_proxied,
        ),
        Fault(
            "the wake-up of all nodes is lost", wake_up_lost, idle=True, before=calm,
            holds="all train in the run, within one stretched pull (120 s)",
        ),
        Fault("port of the reports closed for a node for 60 s", port_closed(9190, 60)),
        Fault(
            "name of the server unknown for 60 s, and SuperNode killed", name_gone(60), before=BY_NAME, after=BY_ADDRESS
        ),
    ]  # fmt: skip
