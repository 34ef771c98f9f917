"""The one way out of a cell: connections made inside it are carried to one address outside, and no other.

A cell has a network of its own with nothing on it. Its process listens there, on the port of the API that the task
needs, and passes the listening socket to the stand-in outside, which accepts what comes and connects to the real one.
Imported by the stand-in, which must start fast: compiled modules only.
"""

# ruff: noqa: SIM105 - contextlib would cost more than the whole start
from __future__ import annotations

import _socket
import errno
import os
import select

CHUNK_BYTES = 1 << 18


class Relay:
    """Carries bytes both ways between the cell's connections and one address.

    Args:
        listener: descriptor of the socket that listens inside the cell; taken over.
        host, port: numeric address outside.
    """

    def __init__(self, listener: int, host: str, port: int) -> None:
        os.set_blocking(listener, False)
        self._listener = _socket.socket(fileno=listener)
        self._family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
        self._address = (host, port)
        self._other: dict[int, _socket.socket] = {}
        self._own: dict[int, _socket.socket] = {}
        self._waiting: dict[int, bytes] = {}
        """Bytes that the socket of this descriptor has not taken yet."""
        self._ended: set[int] = set()
        """Descriptors that have said all; closed both ways when the other side has as well."""
        self.poll = select.poll()
        self.poll.register(listener, select.POLLIN)

    def handle(self, descriptor: int, events: int) -> bool:
        """Do what a descriptor is ready for; return whether it is one of the relay's."""
        if descriptor == self._listener.fileno():
            self._accept()
            return True
        if descriptor not in self._own:
            return False
        if events & select.POLLOUT and not self._write(descriptor):
            return True
        if descriptor in self._own and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._read(descriptor)
        return True

    def close(self) -> None:
        """Close all connections and the listening socket."""
        while self._own:
            self._close(next(iter(self._own)))
        self._listener.close()

    def _accept(self) -> None:
        try:
            inside = _socket.socket(fileno=self._listener._accept()[0])  # type: ignore[attr-defined]
        except OSError:
            return
        outside = _socket.socket(self._family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            outside.connect(self._address)
        except OSError:
            outside.close()
            inside.close()
            return
        for one, other in ((inside, outside), (outside, inside)):
            one.setblocking(False)
            one.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            self._own[one.fileno()], self._other[one.fileno()] = one, other
            self.poll.register(one.fileno(), select.POLLIN)

    def _read(self, descriptor: int) -> None:
        own, other = self._own[descriptor], self._other[descriptor]
        try:
            data = own.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._close(descriptor)
            return
        if not data:
            self._end(descriptor)
            return
        self._send(other, descriptor, data)

    def _send(self, other: _socket.socket, source: int, data: bytes) -> None:
        try:
            sent = other.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(source)
            return
        if sent < len(data):
            # Nothing more is read from the one side until the other has taken this.
            self._waiting[other.fileno()] = data[sent:]
            self._watch(other.fileno())
            self._watch(source)

    def _write(self, descriptor: int) -> bool:
        """Send on what waits; return whether the pair is still there."""
        own, data = self._own[descriptor], self._waiting.pop(descriptor, b"")
        source = self._other[descriptor].fileno()
        try:
            sent = own.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(descriptor)
            return False
        if sent < len(data):
            self._waiting[descriptor] = data[sent:]
        elif source in self._ended:
            self._shut(own)
        self._watch(descriptor)
        self._watch(source)
        return True

    def _end(self, descriptor: int) -> None:
        other = self._other[descriptor]
        self._ended.add(descriptor)
        if other.fileno() in self._ended and descriptor not in self._waiting and other.fileno() not in self._waiting:
            self._close(descriptor)
            return
        if other.fileno() not in self._waiting:
            self._shut(other)
        self._watch(descriptor)

    def _shut(self, own: _socket.socket) -> None:
        try:
            own.shutdown(_socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise

    def _watch(self, descriptor: int) -> None:
        other = self._other[descriptor].fileno()
        reads = select.POLLIN if descriptor not in self._ended and other not in self._waiting else 0
        writes = select.POLLOUT if descriptor in self._waiting else 0
        if reads or writes:
            self.poll.register(descriptor, reads | writes)
        else:
            # A hang-up is reported whatever is asked for: it would keep the loop busy.
            try:
                self.poll.unregister(descriptor)
            except KeyError:
                pass

    def _close(self, descriptor: int) -> None:
        for own in (self._own[descriptor], self._other[descriptor]):
            number = own.fileno()
            try:
                self.poll.unregister(number)
            except KeyError:
                pass
            del self._own[number], self._other[number]
            self._waiting.pop(number, None)
            self._ended.discard(number)
            own.close()
