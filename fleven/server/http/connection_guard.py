"""Connections that cannot be used against the server: bounded in number, in the size of a request's head, in time.

uvicorn limits how many requests run, but a client that opens connections and says nothing, or sends a head that never
ends, costs it memory for ever. This protocol closes such connections. Must not import FastAPI or the register.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fleven_agent.protocol.codes import LONGEST_ATTENTION_SECONDS

logger = logging.getLogger("fleven.server.http_guard")

HEAD_SECONDS = 10.0
"""From the connection, or the first byte of a further request, to the end of the request's head."""
HEAD_BYTES = 32_768
REQUEST_SECONDS = LONGEST_ATTENTION_SECONDS + 60.0
"""A car's question about the server's attention is open for so long; a model of 80 MB over a mobile link of 1 Mbit/s
takes 11 minutes."""
CONNECTIONS_PER_ADDRESS = 128
"""Of those that have not proved who they are; a browser opens six."""
CONNECTIONS_PER_IDENTITY = 16
"""A car has two, and a third while it fetches a model; those of an agent that was killed close a while later."""
CONNECTION = "fleven.connection"
"""Key in a request's scope of the connection that it came by."""
NOTE_EVERY_SECONDS = 10.0
DESCRIPTORS_KEPT = 256
"""File descriptors that connections may not use: register, runs, `flwr` calls."""


def raise_descriptor_limit() -> int:
    """Allow this process as many file descriptors as the system lets it, and return how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(64, min(hard, 65_536) - DESCRIPTORS_KEPT)


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with deadlines and limits for each connection."""

    maximum_connections: ClassVar[int] = 768
    maximum_per_address: ClassVar[int] = CONNECTIONS_PER_ADDRESS
    by_address: ClassVar[Counter[str]] = Counter()
    maximum_per_identity: ClassVar[int] = CONNECTIONS_PER_IDENTITY
    by_identity: ClassVar[Counter[str]] = Counter()

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes: int = 0
    _in_head: bool = True
    _counted: str | None = None
    identity: str | None = None
    """Whose connection it has proved to be: from then on it counts as one of theirs, and no longer of its address."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Count the connection, and close it at once when there are too many."""
        super().connection_made(transport)
        self._counted = self.client[0] if self.client else ""
        if not self.count(self._counted, len(self.connections)):
            note_closed(self._counted, "too-many-connections")
            transport.abort()
            return
        self._arm(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the connection's slot."""
        self._disarm()
        if self._counted is not None:
            self.uncount(self._counted)
            self._counted = None
        if self.identity is not None:
            self.by_identity[self.identity] -= 1
            if self.by_identity[self.identity] <= 0:
                del self.by_identity[self.identity]
        super().connection_lost(exc)

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def prove(self, identity: str) -> bool:
        """Count the connection as one of an enrolled car's; return whether that car may have one more.

        So a thousand cars behind one address have room, and a stranger there does not. A connection belongs to whoever
        proved it first: what a proxy sends of others counts as theirs.
        """
        if self.identity is not None or self._counted is None:  # proved before, or closed meanwhile
            return True
        if self.by_identity[identity] >= self.maximum_per_identity:
            note_closed(self._counted, "too-many-connections")
            return False
        self.identity = identity
        self.by_identity[identity] += 1
        self.uncount(self._counted)
        self._counted = None
        return True

    @classmethod
    def count(cls, address: str, connections: int) -> bool:
        """Count a connection; return whether there is room for it.

        Args:
            address: where it comes from.
            connections: how many there are, this one included.
        """
        cls.by_address[address] += 1
        return connections <= cls.maximum_connections and cls.by_address[address] <= cls.maximum_per_address

    @classmethod
    def uncount(cls, address: str) -> None:
        """Free the place of a connection."""
        cls.by_address[address] -= 1
        if cls.by_address[address] <= 0:
            del cls.by_address[address]

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the head of the request grows too large."""
        while data and not self.transport.is_closing():
            # No more than a head may have is parsed before it must have ended, in however many pieces it comes.
            room = HEAD_BYTES - self._head_bytes if self._in_head else len(data)
            if room <= 0:
                note_closed(self._address, "head-too-large")
                self.transport.abort()
                return
            part, data = data[:room], data[room:]
            if self._in_head:
                self._head_bytes += len(part)
            super().data_received(part)

    def on_message_begin(self) -> None:
        """A request begins: its head has a deadline."""
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]  # applications may add keys
        self._in_head, self._head_bytes = True, 0
        self._arm(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        """The head is complete: the rest of the request has a deadline of its own."""
        self._in_head = False
        self._arm(REQUEST_SECONDS)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Between two requests uvicorn's keep-alive deadline holds."""
        self._disarm()
        super().on_response_complete()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        note_closed(self._address, "too-slow")
        self.transport.abort()


def note_closed(address: str | None, reason: str) -> None:
    """Log a closed connection, once in ten seconds for each reason: thousands cannot fill the journal."""
    now = time.monotonic()
    if now - _logged_at.get(reason, -NOTE_EVERY_SECONDS) >= NOTE_EVERY_SECONDS:
        _logged_at[reason] = now
        logger.warning("event=connection-closed address=%s reason=%s", address, reason)


_logged_at: dict[str, float] = {}
