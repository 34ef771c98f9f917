"""Forwards TCP connections until a signal: from then on it takes what comes on the present ones and passes nothing on.

Usage: swallow.py PORT HOST:PORT    SIGUSR1: swallow
A program of its own, standard library only. It stands for what sits between a car and its server (a proxy, the address
translation of a mobile network) and keeps a connection alive whose other half is gone: the kernel acknowledges all.
"""

import contextlib
import signal
import socket
import sys
import threading

connections: list[threading.Event] = []


def pump(source: socket.socket, target: socket.socket, swallowed: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            if not swallowed.is_set():
                target.sendall(data)
    if not swallowed.is_set():
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def swallow(*_: object) -> None:
    for swallowed in connections:
        swallowed.set()


def main() -> None:
    host, _, port = sys.argv[2].rpartition(":")
    signal.signal(signal.SIGUSR1, swallow)
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        while True:
            near, _ = listener.accept()
            try:
                far = socket.create_connection((host, int(port)), 10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            swallowed = threading.Event()
            connections.append(swallowed)
            for ends in ((near, far), (far, near)):
                threading.Thread(target=pump, args=(*ends, swallowed), daemon=True).start()


if __name__ == "__main__":
    main()
