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

logger = logging.getLogger("fleven.server.http_guard")

HEAD_SECONDS = 10.0
"""From the connection, or the first byte of a further request, to the end of the request's head."""
HEAD_BYTES = 32_768
REQUEST_SECONDS = 900.0
"""A model of 80 MB over a mobile link of 1 Mbit/s takes 11 minutes."""
CONNECTIONS_PER_ADDRESS = 128
"""Each car has its own address in the VPN; a browser opens six."""
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

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes: int = 0
    _in_head: bool = True
    _counted: str | None = None

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
        super().connection_lost(exc)

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
                note_closed(self._counted, "head-too-large")
                self.transport.abort()
                return
            part, data = data[:room], data[room:]
            if self._in_head:
                self._head_bytes += len(part)
            super().data_received(part)

    def on_message_begin(self) -> None:
        """A request begins: its head has a deadline."""
        super().on_message_begin()
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
        note_closed(self._counted, "too-slow")
        self.transport.abort()


def note_closed(address: str | None, reason: str) -> None:
    """Log a closed connection, once in ten seconds for each reason: thousands cannot fill the journal."""
    now = time.monotonic()
    if now - _logged_at.get(reason, -NOTE_EVERY_SECONDS) >= NOTE_EVERY_SECONDS:
        _logged_at[reason] = now
        logger.warning("event=connection-closed address=%s reason=%s", address, reason)


_logged_at: dict[str, float] = {}
