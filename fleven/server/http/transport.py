"""One port for TLS and, where the server is open, plain HTTP: the first byte of a connection tells which it is.

A record of a TLS handshake begins with 0x16, and no method of HTTP does. The byte is only looked at, so that whoever
comes next reads it; that needs the socket before a transport of the loop begins to read. A connection counts from its
first moment. Must not import FastAPI or the register.
"""

from __future__ import annotations

import asyncio
import html
import json
import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import uvicorn
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fleven.server.http.connection_guard import HEAD_SECONDS, GuardedProtocol, note_closed

logger = logging.getLogger("fleven.server.transport")

HANDSHAKE_BYTE = b"\x16"
"""Content type of the records of a TLS handshake (RFC 8446, 5.1)."""
ACCEPTED_AT_ONCE = 100
ACCEPT_AGAIN_SECONDS = 1.0
FAREWELL_SECONDS = 1.0
"""At the end of the server: TLS waits for the other side's farewell, and a car that is silent sends none."""


def server_context(certificate: Path, private_key: Path) -> ssl.SSLContext:
    """Return what a TLS server needs: its certificate with its key, TLS 1.2 or later, HTTP/1.1.

    Raises:
        OSError: they cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, private_key, password="")
    return context


class TlsContext:
    """The certificates that this port shows; they can be read again while it serves.

    Cars ask for one name, and are shown the server's own certificate. Whoever asks otherwise is shown the operator's,
    where one is given.

    Args:
        own: certificate and key of the server's own authority.
        own_name: the name that cars ask for.
        given: the operator's certificate and key, or None.
    """

    def __init__(self, own: tuple[Path, Path], own_name: str, given: tuple[Path, Path] | None) -> None:
        self._own, self._own_name, self._given = own, own_name, given
        self.context = self._read()

    def reload(self) -> None:
        """Read the files again; connections that are open go on with what they began with.

        Raises:
            OSError: they cannot be used; what was read before stays.
        """
        self.context = self._read()

    def files(self) -> list[Path]:
        """Return the files that are read."""
        return [*self._own, *(self._given or ())]

    def _read(self) -> ssl.SSLContext:
        own = server_context(*self._own)
        if self._given is None:
            return own
        given = server_context(*self._given)

        def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
            if name == self._own_name:
                connection.context = own

        given.sni_callback = choose
        return given


class SwitchingServer(uvicorn.Server):
    """uvicorn, with connections that it is handed when their first byte is there: as TLS, or as they are.

    Args:
        config: uvicorn's configuration, without certificates.
        tls: the certificates.
    """

    def __init__(self, config: uvicorn.Config, tls: TlsContext) -> None:
        super().__init__(config)
        self.tls = tls
        self._listeners: list[socket.socket] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept connections of the listening sockets."""
        await super().startup([])
        if self.should_exit:
            return
        self._listeners = sockets or []
        for listener in self._listeners:
            listener.setblocking(False)
            self._listen(listener)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, then let uvicorn end what is open."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            asyncio.get_running_loop().remove_reader(listener)
        hanging_up = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self._hang_up)
        await super().shutdown(sockets)
        hanging_up.cancel()

    def _hang_up(self) -> None:
        """End what is still open, or uvicorn waits for it, and cannot end the application in order."""
        for connection in self.server_state.connections:
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    def protocol(self) -> GuardedProtocol:
        """Return what reads the requests of one connection."""
        return GuardedProtocol(self.config, self.server_state, self.lifespan.state)

    def _listen(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptor or memory is left: the kernel keeps the connections meanwhile.
                logger.warning("event=accept-failed error=%r", str(error))
                loop.remove_reader(listener)
                loop.call_later(ACCEPT_AGAIN_SECONDS, self._listen, listener)
                return
            connection.setblocking(False)
            NewConnection(self, connection, str(address[0])).begin()


class NewConnection:
    """A connection before its first byte is there, and while it shakes hands.

    Args:
        server: who goes on with it.
        connection: its socket.
        address: where it comes from.
    """

    def __init__(self, server: SwitchingServer, connection: socket.socket, address: str) -> None:
        self._server, self._socket, self._address = server, connection, address
        self._loop = asyncio.get_running_loop()
        self._open: set[Any] = server.server_state.connections
        self._deadline: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Count it, and wait for its first byte."""
        self._open.add(self)
        if not GuardedProtocol.count(self._address, len(self._open)):
            note_closed(self._address, "too-many-connections")
            self._end()
            return
        self._deadline = self._loop.call_later(HEAD_SECONDS, self._expire)
        self._loop.add_reader(self._socket, self._look)

    def shutdown(self) -> None:
        """Close at once: uvicorn ends, and nothing was asked yet."""
        if self._deadline is not None:
            self._end()

    def _look(self) -> None:
        try:
            first = self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        if not first:
            self._end()
            return
        self._stop_waiting()
        task = self._loop.create_task(self._hand_over(tls=first == HANDSHAKE_BYTE))
        self._server.server_state.tasks.add(task)
        task.add_done_callback(self._server.server_state.tasks.discard)

    async def _hand_over(self, *, tls: bool) -> None:
        """Let uvicorn's protocol go on; it counts for itself from the end of the handshake on."""
        options: dict[str, Any] = {}
        if tls:
            options = {"ssl": self._server.tls.context, "ssl_handshake_timeout": HEAD_SECONDS}
        try:
            await self._loop.connect_accepted_socket(self._server.protocol, self._socket, **options)
        except (OSError, RuntimeError) as error:
            # Strangers scan ports, and a car whose authority is another one says so in its own journal.
            logger.debug("event=handshake-failed address=%s error=%r", self._address, str(error))
            self._socket.close()
        finally:
            self._give_back()

    def _expire(self) -> None:
        note_closed(self._address, "too-slow")
        self._end()

    def _end(self) -> None:
        self._stop_waiting()
        self._give_back()
        self._socket.close()

    def _stop_waiting(self) -> None:
        self._loop.remove_reader(self._socket)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_back(self) -> None:
        self._open.discard(self)
        GuardedProtocol.uncount(self._address)


class TlsOnly:
    """Answers a plain request that there is TLS here, and nothing else. Plain ASGI, outside of all that reads more."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let TLS through; send a browser to https, and tell a program."""
        if scope["type"] != "http" or scope["scheme"] == "https":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        url = f"https://{headers.get('host', '')}{scope['path']}"
        wants_page = scope["method"] in ("GET", "HEAD") and "text/html" in headers.get("accept", "")
        kind, body = _page(url) if wants_page else _refusal()
        await send(
            {
                "type": "http.response.start",
                # Not 400: an agent throws a report away that was malformed, and this one it is to keep.
                "status": 426,
                "headers": [
                    (b"content-type", kind),
                    (b"content-length", str(len(body)).encode()),
                    (b"connection", b"close"),
                    (b"upgrade", b"TLS/1.2, HTTP/1.1"),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})


def _page(url: str) -> tuple[bytes, bytes]:
    link = html.escape(url, quote=True)
    text = f'<!doctype html><meta charset="utf-8"><title>FLEVEn</title><p>This is <a href="{link}">{link}</a>'
    return b"text/html; charset=utf-8", f"{text}: only https is answered here.\n".encode()


def _refusal() -> tuple[bytes, bytes]:
    answer = {
        "code": "https-required",
        "message": "this server answers over https only",
        "hint": "let the car join: `fleven-server nodes invite` on the server prints the line for it",
        "problems": [],
    }
    return b"application/json", json.dumps(answer).encode()
