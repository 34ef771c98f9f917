"""By which network the way to an address goes: the kernel's own answer (rtnetlink(7)), and what people call it.

A VPN's interface hides what carries it, and a mobile connection is paid for all the same: for a tunnel, the interface
of the default route counts too. Names are those of NetworkManager's connections and of the wireless network (SSID),
where this machine tells them. Needs no privilege. Imports ``common.files`` only.
"""

import array
import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fleven_agent.common.files import program_on_path

_NETLINK_ROUTE = 0
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLM_F_REQUEST = 1
_RTA_DST, _RTA_OIF = 1, 4
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_GET_ESSID = 0x8B1B  # SIOCGIWESSID of linux/wireless.h
_ESSID_BYTES = 32
_TUNNEL_TYPES = {"65534", "768", "769", "776", "778"}  # ARPHRD_NONE, _TUNNEL, _TUNNEL6, _SIT, _IPGRE of if_arp.h
_DEFAULT_ROUTE_FIELDS, _DEFAULT_ROUTE6_FIELDS = 8, 10
COMMAND_SECONDS = 5.0
NAMES_LAST_SECONDS = 60.0
"""So long NetworkManager's names are believed while the interface is the same: asking costs a process."""


@dataclass(frozen=True, slots=True)
class Way:
    """The way to the SuperLink.

    Attributes:
        names: of what it goes by: the interface, what carries it when that is a tunnel, and their networks' names;
            nothing while there is no way.
    """

    names: tuple[str, ...] = ()


def interface_to(address: str) -> str:
    """Return the interface that leads to an IP address; an empty text when none does.

    Raises:
        OSError: the kernel does not tell.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    attribute = struct.pack("=HH", 4 + len(packed), _RTA_DST) + packed
    route = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    header = _HEADER.pack(_HEADER.size + len(route) + len(attribute), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as link:
        link.settimeout(1.0)
        link.send(header + route + attribute)
        data = link.recv(65_536)
    if len(data) < _HEADER.size + _ROUTE.size or _HEADER.unpack_from(data)[1] != _RTM_NEWROUTE:
        return ""  # "network is unreachable", as an error message
    index = _attributes(data[_HEADER.size + _ROUTE.size :]).get(_RTA_OIF)
    return socket.if_indextoname(struct.unpack("=I", index)[0]) if index else ""


def _attributes(data: bytes) -> dict[int, bytes]:
    found, position = {}, 0
    while position + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, position)
        if length < 4:
            break
        found[kind] = data[position + 4 : position + length]
        position += (length + 3) & ~3
    return found


def is_tunnel(interface: str, system: Path = Path("/sys/class/net")) -> bool:
    """Return whether an interface is carried by another one: a VPN's, and no modem's."""
    try:
        kind = (system / interface / "type").read_text(encoding="ascii").strip()
    except OSError:
        return False
    return kind in _TUNNEL_TYPES and not (system / interface / "device").exists()


def default_interfaces(table: str, table6: str) -> list[str]:
    """Return the interfaces of the default routes, the preferred one first.

    Args:
        table: content of /proc/net/route.
        table6: content of /proc/net/ipv6_route.
    """
    found: list[tuple[int, int, str]] = []
    for line in table.splitlines()[1:]:
        parts = line.split()
        if len(parts) >= _DEFAULT_ROUTE_FIELDS and parts[1] == parts[7] == "00000000":
            found.append((0, int(parts[6]), parts[0]))
    for line in table6.splitlines():
        parts = line.split()
        if len(parts) >= _DEFAULT_ROUTE6_FIELDS and set(parts[0]) == {"0"} and parts[1] == "00" and parts[9] != "lo":
            found.append((1, int(parts[5], 16), parts[9]))
    return list(dict.fromkeys(interface for _, _, interface in sorted(found)))


def carrier(interface: str) -> str:
    """Return what carries a tunnel: the preferred default route's interface that is none itself, or an empty text."""
    tables = []
    for name in ("route", "ipv6_route"):
        try:
            tables.append(Path("/proc/net", name).read_text(encoding="ascii"))
        except OSError:
            tables.append("")
    others = [one for one in default_interfaces(*tables) if one != interface and not is_tunnel(one)]
    return others[0] if others else ""


def wireless_name(interface: str) -> str:
    """Return the name of the wireless network that an interface is in; empty when it is in none."""
    buffer = array.array("B", bytes(_ESSID_BYTES + 1))
    request = struct.pack("16sPHH4x", interface.encode()[:15], buffer.buffer_info()[0], len(buffer), 0)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _GET_ESSID, request)
    except OSError:
        return ""
    return buffer.tobytes().split(b"\0", 1)[0].decode(errors="replace")


def connection_names(output: str) -> dict[str, str]:
    """Return the name of each device's connection, from `nmcli -t -f DEVICE,NAME connection show --active`."""
    found = {}
    for line in output.splitlines():
        device, colon, name = line.replace("\\:", "\0").partition(":")
        if colon and device:
            found[device.replace("\0", ":")] = name.replace("\0", ":").replace("\\\\", "\\")
    return found


def manager_names() -> dict[str, str]:
    """Return NetworkManager's connections by device; nothing where it does not run or does not tell."""
    program = program_on_path("nmcli")
    if program is None:
        return {}
    command = [program, "-t", "-f", "DEVICE,NAME", "connection", "show", "--active"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return connection_names(done.stdout.decode(errors="replace")) if done.returncode == 0 else {}
    return {}


class WayFinder:
    """Finds the way to the SuperLink again and again; a program is asked for names now and then only.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._managed: dict[str, str] = {}
        self._managed_for: tuple[str, ...] = ()
        self._managed_at = float("-inf")

    def find(self, address: str, wanted: tuple[str, ...]) -> Way:
        """Return the way to an IP address.

        Args:
            address: of the SuperLink.
            wanted: the names that matter; while all of them are interfaces', no other names are looked for.
        """
        try:
            interface = interface_to(address)
        except OSError:
            return Way()
        if not interface:
            return Way()
        used = [interface]
        if is_tunnel(interface) and (below := carrier(interface)):
            used.append(below)
        names = list(used)
        if not set(wanted) & set(used):
            for one in used:
                if (ssid := wireless_name(one)) and ssid not in names:
                    names.append(ssid)
            if self._managed_for != tuple(names) or self._clock() - self._managed_at >= NAMES_LAST_SECONDS:
                self._managed, self._managed_for, self._managed_at = manager_names(), tuple(names), self._clock()
            names += [name for one in used if (name := self._managed.get(one)) and name not in names]
        return Way(tuple(names))
