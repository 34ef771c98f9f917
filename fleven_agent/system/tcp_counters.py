"""Bytes over SuperNode's connections to the SuperLink, from the kernel's own count (sock_diag(7), TCP_INFO).

Interface counters would count the operator's SSH session and miss a SuperLink on the same machine. Also tells whether a
connection still works. Asked for every few seconds; needs no privilege. Imports nothing of the agent.
"""

import contextlib
import os
import re
import socket
import struct
from collections.abc import Sequence, Set
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
_SEGMENTS_OFFSET = 136  # segs_out and segs_in
_SENT_OFFSET = 200  # with those that were sent again; from Linux 4.19
_HEADER_BYTES = {socket.AF_INET: 20 + 32, socket.AF_INET6: 40 + 32}
"""Of a segment: IP, and TCP with its timestamps."""
_MAPPED = bytes(10) + b"\xff\xff"
_SOCKET_LINK = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Connection:
    """One established connection."""

    inode: int
    """Of its socket: the name by which it is known as long as it lives."""
    local: str
    """Address of this end, an IPv4 address in its own form."""
    remote: str
    received_bytes: int
    sent_bytes: int
    """Those that the other end has acknowledged."""
    waiting_bytes: int
    """Those that it has not, sent or unsent."""
    wire_bytes: int = 0
    """All that went over the wire both ways: headers and repetitions, too."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sums over the open connections."""

    received_bytes: int
    sent_bytes: int


def traffic(found: Sequence[Connection]) -> Traffic:
    """Return what connections have carried."""
    return Traffic(sum(one.received_bytes for one in found), sum(one.sent_bytes for one in found))


def connections(pid: int, port: int) -> list[Connection] | None:
    """Return a process's established connections to a remote TCP port.

    None when the kernel or the permissions do not let us know.
    """
    try:
        inodes = _sockets_of(pid)
        return [one for family in (socket.AF_INET, socket.AF_INET6) for one in _dump(family, {port}, inodes)]
    except (OSError, struct.error):
        return None


def wire_bytes(pids: Sequence[int], ports: Set[int]) -> dict[int, int] | None:
    """Return what each connection of these processes to these remote ports has carried, by its socket's inode.

    None when the kernel does not let us know.
    """
    inodes: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            inodes |= _sockets_of(pid)
    try:
        found = [one for family in (socket.AF_INET, socket.AF_INET6) for one in _dump(family, ports, inodes)]
    except (OSError, struct.error):
        return None
    return {one.inode: one.wire_bytes for one in found}


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


def _dump(family: int, ports: Set[int], inodes: Set[int]) -> list[Connection]:
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, _ESTABLISHED) + bytes(48)
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
    found: list[Connection] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as link:
        link.settimeout(1.0)
        link.send(header + request)
        while True:
            data = link.recv(65_536)
            position = 0
            while position + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, position)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < _HEADER.size:
                    return found
                one = _connection(data[position + _HEADER.size : position + length], ports, inodes)
                if one is not None:
                    found.append(one)
                position += (length + 3) & ~3


def _connection(message: bytes, ports: Set[int], inodes: Set[int]) -> Connection | None:
    family, _, _, _, _, remote_port, local, remote, _, _, _, _, waiting, _, inode = _MESSAGE.unpack_from(message)
    if int.from_bytes(remote_port, "big") not in ports or inode not in inodes:
        return None
    position = _MESSAGE.size
    while position + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, position)
        if length < 4:
            return None
        if kind == _INET_DIAG_INFO and length - 4 >= _RECEIVED_OFFSET + 8:
            info = message[position + 4 : position + length]
            (sent,) = struct.unpack_from("=Q", info, _ACKNOWLEDGED_OFFSET)
            (received,) = struct.unpack_from("=Q", info, _RECEIVED_OFFSET)
            ends = _address(family, local), _address(family, remote)
            wire = received + _sent_with_headers(info, family, ends[1], sent)
            return Connection(inode, *ends, received, sent, waiting, wire)
        position += (length + 3) & ~3
    return None


def _sent_with_headers(info: bytes, family: int, remote: str, acknowledged: int) -> int:
    sent = acknowledged
    if len(info) >= _SENT_OFFSET + 8:
        (sent,) = struct.unpack_from("=Q", info, _SENT_OFFSET)
    segments = sum(struct.unpack_from("=II", info, _SEGMENTS_OFFSET)) if len(info) >= _SEGMENTS_OFFSET + 8 else 0
    version = socket.AF_INET6 if family == socket.AF_INET6 and ":" in remote else socket.AF_INET
    return sent + segments * _HEADER_BYTES[version]


def _address(family: int, packed: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(family, packed[:4])
    # A socket for both families shows its IPv4 peers as ::ffff:a.b.c.d.
    return (
        socket.inet_ntop(socket.AF_INET, packed[12:])
        if packed.startswith(_MAPPED)
        else socket.inet_ntop(family, packed)
    )
