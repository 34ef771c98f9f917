"""Forwards frames between two interfaces with a delay, a loss and a limit of the rate: netem for kernels without it.

Usage: relay.py INTERFACE INTERFACE DELAY_SECONDS LOSS_PERCENT BYTES_PER_SECOND
A program of its own, standard library only. Frames are passed with their virtio header, so that checksums and
segmentation that the kernel has put off stay put off.
"""

import collections
import random
import select
import socket
import sys
import time

ETH_P_ALL = 0x0003  # linux/if_ether.h
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23  # linux/if_packet.h
PACKET_OUTGOING = 4
QUEUE_BYTES = 256_000  # what a slow modem would buffer; more is dropped, as there
FRAME_BYTES = 65_536 + 64


def open_interface(name: str) -> socket.socket:
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    link.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_000_000)
    link.bind((name, 0))
    link.setblocking(False)
    return link


def main() -> None:
    first, second = open_interface(sys.argv[1]), open_interface(sys.argv[2])
    delay_seconds, loss, rate = float(sys.argv[3]), float(sys.argv[4]) / 100, float(sys.argv[5])
    other = {first: second, second: first}
    queues: dict[socket.socket, collections.deque[tuple[float, bytes]]] = {s: collections.deque() for s in other}
    queued = dict.fromkeys(other, 0)
    line_free_at = dict.fromkeys(other, 0.0)
    chance = random.Random(1)
    while True:
        now = time.monotonic()
        due = [queue[0][0] for queue in queues.values() if queue]
        readable, _, _ = select.select(list(other), [], [], max(0.0, min(due) - now) if due else None)
        now = time.monotonic()
        for source in readable:
            frame, address = source.recvfrom(FRAME_BYTES)
            if address[2] == PACKET_OUTGOING or chance.random() < loss:
                continue
            target = other[source]
            if rate:
                if queued[target] + len(frame) > QUEUE_BYTES:
                    continue
                line_free_at[target] = max(now, line_free_at[target]) + len(frame) / rate
                ready = line_free_at[target] + delay_seconds
            else:
                ready = now + delay_seconds
            queues[target].append((ready, frame))
            queued[target] += len(frame)
        for target, queue in queues.items():
            while queue and queue[0][0] <= now:
                _, frame = queue.popleft()
                queued[target] -= len(frame)
                try:
                    target.send(frame)
                except OSError:  # the interface is down for the moment: the frame is lost, as on a cable
                    continue


if __name__ == "__main__":
    main()
