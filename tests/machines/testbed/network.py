"""The machines' network: one switch in a namespace, a cable to each machine, and faults on the cables.

No address or route is ever made on this host's own network. Imports nothing of fleven.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from .shell import HostCommandError, run, wait_for

RELAY = Path(__file__).with_name("relay.py")


@dataclass
class Switch:
    """A bridge in a namespace of its own.

    Attributes:
        prefix: keeps test beds apart.
        network: the first three numbers of a /24.
    """

    prefix: str
    network: str
    relays: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return f"{self.prefix}-sw"

    def command(self, *command: str, text_input: str | None = None, check: bool = True) -> str:
        """Run a program on the switch, which reaches all machines at .254."""
        return run("ip", "netns", "exec", self.namespace, *command, text_input=text_input, check=check)

    def up(self) -> None:
        run("ip", "netns", "add", self.namespace)
        ip = ("ip", "-n", self.namespace)
        run(*ip, "link", "set", "lo", "up")
        run(*ip, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
        run(*ip, "addr", "add", f"{self.network}.254/24", "dev", "br0")
        run(*ip, "link", "set", "br0", "up")

    def down(self) -> None:
        for name in list(self.relays):
            self._stop_relay(name)
        run("ip", "netns", "del", self.namespace, check=False)

    @staticmethod
    def port(machine: str) -> str:
        return f"p-{machine}"

    def plug(self, machine: str, address: str) -> str:
        """Make a machine's namespace with eth0 on the switch; returns its name. Safe to call again."""
        namespace, port = f"{self.prefix}-{machine}", self.port(machine)
        if not Path(f"/run/netns/{namespace}").exists():
            run("ip", "netns", "add", namespace)
            run("ip", "link", "add", "eth0", "netns", namespace, "type", "veth",
                "peer", "name", port, "netns", self.namespace)  # fmt: skip
        run("ip", "-n", self.namespace, "link", "set", port, "master", "br0", "up")
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        run("ip", "-n", namespace, "addr", "replace", f"{address}/24", "dev", "eth0")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        return namespace

    def readdress(self, machine: str, old: str, new: str) -> None:
        """Give a machine another address in place of its own; nobody closes the connections of the old one."""
        ip = ("ip", "-n", f"{self.prefix}-{machine}")
        run(*ip, "addr", "del", f"{old}/24", "dev", "eth0")  # first: the second address of a network goes with it
        run(*ip, "addr", "add", f"{new}/24", "dev", "eth0")

    def take_down(self, machine: str) -> None:
        """Leave a machine without a network until `plug`, as before its VPN has come up."""
        run("ip", "-n", f"{self.prefix}-{machine}", "link", "set", "eth0", "down")
        run("ip", "-n", f"{self.prefix}-{machine}", "addr", "flush", "dev", "eth0")

    def limit_frames(self, machine: str, mtu: int) -> None:
        """Set the size of the largest packet at both ends of a machine's cable."""
        run("ip", "-n", f"{self.prefix}-{machine}", "link", "set", "eth0", "mtu", str(mtu))
        run("ip", "-n", self.namespace, "link", "set", self.port(machine), "mtu", str(mtu))

    def add_address6(self, machine: str, address: str) -> None:
        """Give a machine an IPv6 address besides its own, usable at once."""
        run("ip", "-n", f"{self.prefix}-{machine}", "addr", "replace", f"{address}/64", "dev", "eth0", "nodad")

    def remove_address(self, machine: str, address: str) -> None:
        run("ip", "-n", f"{self.prefix}-{machine}", "addr", "del", f"{address}/24", "dev", "eth0")

    def unplug(self, machine: str) -> None:
        self._stop_relay(machine)
        run("ip", "netns", "del", f"{self.prefix}-{machine}", check=False)
        run("ip", "-n", self.namespace, "link", "del", self.port(machine), check=False)

    def cut(self, machine: str) -> None:
        """Pull the cable: the machine sees the carrier go."""
        run("ip", "-n", self.namespace, "link", "set", self.port(machine), "down")

    def silence(self, machine: str) -> None:
        """Lose every frame while the link still looks up, as a car out of coverage does."""
        self.command("bridge", "link", "set", "dev", self.port(machine), "state", "0")

    def impair(
        self, machine: str, *, delay_seconds: float = 0, loss_percent: float = 0, bytes_per_second: int = 0
    ) -> None:
        """Delay, lose or throttle frames in both directions (0 for not at all) by a relay in user space."""
        self._stop_relay(machine)
        port, inner, outer = self.port(machine), f"i-{machine}", f"o-{machine}"
        ip = ("ip", "-n", self.namespace)
        run(*ip, "link", "set", port, "nomaster")
        run(*ip, "link", "add", inner, "type", "veth", "peer", "name", outer)
        run(*ip, "link", "set", inner, "up", "promisc", "on")
        run(*ip, "link", "set", port, "promisc", "on")
        run(*ip, "link", "set", outer, "master", "br0", "up")
        self.relays[machine] = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, sys.executable, str(RELAY), port, inner,
             str(delay_seconds), str(loss_percent), str(bytes_per_second)]
        )  # fmt: skip

    def restore(self, machine: str) -> None:
        """Undo every fault on a machine's cable."""
        self._stop_relay(machine)
        run("ip", "-n", self.namespace, "link", "set", self.port(machine), "master", "br0", "up")

        def forwards() -> bool:  # the bridge refuses until the port has noticed that its cable is back
            try:
                self.command("bridge", "link", "set", "dev", self.port(machine), "state", "3")
            except HostCommandError:
                return False
            return True

        wait_for(f"the port of {machine} forwards", forwards, 10, 0.1)

    def _stop_relay(self, machine: str) -> None:
        relay = self.relays.pop(machine, None)
        if relay is None:
            return
        relay.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            relay.wait(5)
        run("ip", "-n", self.namespace, "link", "del", f"o-{machine}", check=False)
