"""Bytes over SuperNode's connections to the SuperLink, from the kernel's own count (sock_diag(7), TCP_INFO).

Interface counters would count the operator's SSH session and miss a SuperLink on the same machine. Asked for a few
times a task; needs no privilege. Imports nothing of the agent.
"""

import os
import re
import socket
import struct
from dataclasses import dataclass

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_ESTABLISHED = 1 << 1
_INET_DIAG_INFO = 2
_HEADER = struct.Struct("=IHHII")
_MESSAGE = struct.Struct("=BBBB2s2s16s16sI8sIIIII")
# Offsets in struct tcp_info of linux/tcp.h; fixed, since the kernel only appends to it.
_ACKNOWLEDGED_OFFSET = 120
_RECEIVED_OFFSET = 128
_SOCKET_LINK = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sums over the open connections."""

    received_bytes: int
    sent_bytes: int


def traffic(pid: int, port: int) -> Traffic | None:
    """Return what a process's established connections to a remote TCP port have carried.

    None when the kernel or the permissions do not let us know.
    """
    try:
        inodes = _sockets_of(pid)
        rows = [row for family in (socket.AF_INET, socket.AF_INET6) for row in _dump(family)]
    except (OSError, struct.error):
        return None
    mine = [row for row in rows if row[0] == port and row[1] in inodes]
    return Traffic(sum(row[2] for row in mine), sum(row[3] for row in mine))


def _sockets_of(pid: int) -> set[int]:
    found: set[int] = set()
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):  # noqa: PTH208  # pathlib would double the cost of a frequent call
        try:
            match = _SOCKET_LINK.match(os.readlink(f"{folder}/{name}"))  # noqa: PTH115  # as above
        except OSError:
            continue
        if match:
            found.add(int(match[1]))
    return found


def _dump(family: int) -> list[tuple[int, int, int, int]]:
    """Return (remote port, inode, bytes received, bytes sent) of each connection."""
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, _ESTABLISHED) + bytes(48)
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
    rows: list[tuple[int, int, int, int]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as link:
        link.settimeout(1.0)
        link.send(header + request)
        while True:
            data = link.recv(65_536)
            position = 0
            while position + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, position)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < _HEADER.size:
                    return rows
                row = _row(data[position + _HEADER.size : position + length])
                if row is not None:
                    rows.append(row)
                position += (length + 3) & ~3


def _row(message: bytes) -> tuple[int, int, int, int] | None:
    fields = _MESSAGE.unpack_from(message)
    port, inode = int.from_bytes(fields[5], "big"), fields[14]
    position = _MESSAGE.size
    while position + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, position)
        if length < 4:
            return None
        if kind == _INET_DIAG_INFO and length - 4 >= _RECEIVED_OFFSET + 8:
            info = message[position + 4 : position + length]
            (sent,) = struct.unpack_from("=Q", info, _ACKNOWLEDGED_OFFSET)
            (received,) = struct.unpack_from("=Q", info, _RECEIVED_OFFSET)
            return port, inode, received, sent
        position += (length + 3) & ~3
    return None
