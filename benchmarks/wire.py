#!/usr/bin/env python3
"""Counts what a machine's interface carries, by connection, with every header and acknowledgement.

Why it exists: what a SIM card is billed for is packets of IP, and an idle car's are mostly headers, TLS and
acknowledgements, which no counter of a program shows. Run in the machine's network namespace, as root:

    wire.py INTERFACE SECONDS FILE

One line of JSON a packet goes to FILE; `exchanges` and `by_connection` make figures of them. Standard library only, so
that it runs with the system's Python.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

PACKET_OUTGOING = 4
IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP = 6, 17
SEGMENT_BYTES = 1_448
"""What a packet of 1,500 bytes carries beside the headers of IP and TCP with time stamps."""
PAUSE_SECONDS = 1.5
"""Packets of one connection that are further apart than this belong to two exchanges."""


@dataclass(frozen=True)
class Packet:
    """What one packet is on a wire.

    Attributes:
        at: moment [s since the epoch].
        sent: by this machine.
        protocol: "tcp", "udp", or what else it is.
        local: own port; 0 without ports.
        remote: address and port of the other side.
        wire_bytes: from the header of IP on.
        payload_bytes: of TCP or UDP.
        syn, fin: of TCP; `fin` is an abort as well.
    """

    at: float
    sent: bool
    protocol: str
    local: int
    remote: str
    wire_bytes: int
    payload_bytes: int
    syn: bool = False
    fin: bool = False


def read_packet(frame: bytes, ether_type: int, *, sent: bool, at: float) -> Packet:
    """Return what a frame's packet is; offloading shows several segments as one packet, which is undone here."""
    if ether_type == IPV4:
        header, protocol = (frame[0] & 15) * 4, frame[9]
        length = struct.unpack_from("!H", frame, 2)[0]
        addresses = [socket.inet_ntoa(frame[start : start + 4]) for start in (12, 16)]
    elif ether_type == IPV6:
        header, protocol = 40, frame[6]
        length = 40 + struct.unpack_from("!H", frame, 4)[0]
        addresses = [socket.inet_ntop(socket.AF_INET6, frame[start : start + 16]) for start in (8, 24)]
    else:
        return Packet(at, sent, f"{ether_type:#06x}", 0, "", len(frame), 0)
    other = addresses[1] if sent else addresses[0]
    if protocol not in {TCP, UDP}:
        return Packet(at, sent, f"ip-{protocol}", 0, other, length, 0)
    ports = struct.unpack_from("!HH", frame, header)
    local, remote = ports if sent else ports[::-1]
    if protocol == UDP:
        return Packet(at, sent, "udp", local, f"{other}:{remote}", length, length - header - 8)
    offset, flags = (frame[header + 12] >> 4) * 4, frame[header + 13]
    payload = length - header - offset
    more = max(0, math.ceil(payload / SEGMENT_BYTES) - 1) * (header + offset)
    ends = bool(flags & 0b101)
    return Packet(at, sent, "tcp", local, f"{other}:{remote}", length + more, payload, bool(flags & 2), ends)


def capture(interface: str, seconds: float, file: Path) -> None:
    """Write each packet of an interface to a file, for a time; raises ``PermissionError`` without the right."""
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as raw, file.open("w") as out:
        raw.bind((interface, 3))
        while (left := deadline - time.monotonic()) > 0:
            raw.settimeout(min(left, 1.0))
            try:
                frame, (_, ether_type, kind, *_) = raw.recvfrom(70_000)
            except TimeoutError:
                out.flush()
                continue
            packet = read_packet(frame, ether_type, sent=kind == PACKET_OUTGOING, at=time.time())
            out.write(json.dumps(asdict(packet)) + "\n")


def read(file: Path) -> list[Packet]:
    """Return the packets of a file."""
    names = {one.name for one in fields(Packet)}
    return [
        Packet(**{name: value for name, value in json.loads(line).items() if name in names})
        for line in file.read_text().splitlines()
    ]


@dataclass
class Exchange:
    """Packets of one connection that follow each other.

    Attributes:
        at: moment of the first [s since the epoch].
        wire_bytes: of all.
        sent_bytes, received_bytes: payload.
        packets: how many.
        opens: the connection was made in it.
    """

    at: float
    wire_bytes: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    packets: int = 0
    opens: bool = False


def exchanges(packets: Sequence[Packet]) -> list[Exchange]:
    """Return the exchanges of one connection's packets, in order."""
    found: list[Exchange] = []
    last = float("-inf")
    for packet in packets:
        if packet.at - last > PAUSE_SECONDS:
            found.append(Exchange(packet.at))
        last, one = packet.at, found[-1]
        one.wire_bytes += packet.wire_bytes
        one.packets += 1
        one.opens = one.opens or packet.syn
        if packet.sent:
            one.sent_bytes += packet.payload_bytes
        else:
            one.received_bytes += packet.payload_bytes
    return found


def by_connection(packets: Sequence[Packet]) -> dict[tuple[str, int, str], list[Packet]]:
    """Return the packets of each connection: protocol, own port, the other side."""
    found: dict[tuple[str, int, str], list[Packet]] = defaultdict(list)
    for packet in packets:
        found[packet.protocol, packet.local, packet.remote].append(packet)
    return dict(found)


if __name__ == "__main__":
    capture(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
