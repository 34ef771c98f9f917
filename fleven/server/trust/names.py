"""By which names and addresses this machine is reached: what its certificate must hold for.

Only looks: at the interfaces, the resolver and, where it can be asked, Tailscale. Must not import the register.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from fleven.server.trust.certificates import SERVER_COMMON_NAME, is_name
from fleven_agent.common.tailscale import tailscale_status

ALWAYS = frozenset({SERVER_COMMON_NAME, "localhost", "127.0.0.1", "::1"})
"""Cars ask for the first of these, whatever address they connect to."""
RESOLVE_SECONDS = 3.0
IPV6_TABLE = Path("/proc/net/if_inet6")
TEMPORARY_FLAG = 0x01
"""IFA_F_TEMPORARY of linux/if_addr.h: an address of RFC 8981, another one tomorrow."""


@dataclass(frozen=True, slots=True)
class MachineNames:
    """What this machine is called.

    Attributes:
        host: its host name.
        qualified: its host name with the domain, as the resolver knows it; may equal `host`.
        addresses: of its interfaces, those of a tailnet included; no loopback, link-local or temporary ones.
        tailnet: its name in the tailnet; empty when there is none or it cannot be read.
    """

    host: str
    qualified: str
    addresses: tuple[str, ...]
    tailnet: str

    def certified(self, given: Iterable[str] = ()) -> frozenset[str]:
        """Return all names that the certificate must hold for, with those that the operator has given."""
        own = {self.host, self.qualified, self.tailnet, *self.addresses}
        return ALWAYS | {name for name in own if name and is_name(name)} | frozenset(given)

    def reachable(self, given: Iterable[str] = ()) -> list[str]:
        """Return where a car may reach this machine, in the order to try: the operator's, the tailnet's, the rest."""
        exact = [name for name in given if not name.startswith("*")]
        qualified = [self.qualified] if "." in self.qualified else []
        tailnet_first = sorted(self.addresses, key=lambda one: (not _is_tailnet(one), ":" in one))
        found = [*exact, *([self.tailnet] if self.tailnet else []), *tailnet_first, *qualified]
        return list(dict.fromkeys(found)) or [self.host]


def machine_names() -> MachineNames:
    """Look up this machine's names; takes up to some seconds where the resolver or Tailscale does not answer."""
    host = socket.gethostname().lower()
    tailnet = tailscale_status()
    return MachineNames(host, qualified_name(host), interface_addresses(), tailnet.name if tailnet else "")


def interface_addresses() -> tuple[str, ...]:
    """Return the addresses of the interfaces that are worth a place in a certificate, sorted."""
    temporary = temporary_addresses()
    found = set()
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = ipaddress.ip_address(entry.address.partition("%")[0])
            if not (address.is_loopback or address.is_link_local or str(address) in temporary):
                found.add(str(address))
    return tuple(sorted(found))


def temporary_addresses(table: Path = IPV6_TABLE) -> frozenset[str]:
    """Return the IPv6 addresses that the kernel gives up again by itself; none when it does not say."""
    try:
        rows = [line.split() for line in table.read_text().splitlines()]
    except OSError:
        return frozenset()
    return frozenset(
        str(ipaddress.IPv6Address(int(row[0], 16)))
        for row in rows
        if len(row) == 6 and int(row[4], 16) & TEMPORARY_FLAG
    )


def qualified_name(host: str) -> str:
    """Return the host name with its domain, or the host name alone when the resolver does not answer in time."""
    found: list[str] = []

    def ask() -> None:
        try:
            found.extend(entry[3] for entry in socket.getaddrinfo(host, None, flags=socket.AI_CANONNAME) if entry[3])
        except (OSError, UnicodeError):
            return

    # The system's resolver knows no deadline.
    asking = threading.Thread(target=ask, name="resolve", daemon=True)
    asking.start()
    asking.join(RESOLVE_SECONDS)
    name = found[0].lower().rstrip(".") if found else host
    return host if name.startswith("localhost") else name


def _is_tailnet(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return any(parsed in network for network in TAILNET)


TAILNET = (ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd7a:115c:a1e0::/48"))
"""Where Tailscale's addresses lie. Only the order of addresses rests on it: the range belongs to others, too."""
