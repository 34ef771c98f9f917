"""One HTTP connection that is kept between exchanges: a car's report is smaller than the handshakes around it.

Blocking; each session belongs to one thread. Imports ``identity.secure_http``, to read within bounds.
"""

import contextlib
import http.client
import socket
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

from fleven_agent.identity.secure_http import read_all

MAXIMUM_ANSWER_BYTES = 1_000_000
_CLOSED = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, http.client.CannotSendRequest)


@dataclass(frozen=True, slots=True)
class Exchange:
    """An answer, and the wall clock before the request and after the answer [s since the epoch]."""

    status: int
    reason: str
    content: bytes
    began: float
    ended: float


class Session:
    """Keeps a connection as long as it is asked for the same one.

    Args:
        keepalive_seconds: after such a silence the kernel asks whether the other side is still there; it notices a
            connection that nobody closed, and keeps those between from forgetting it. None: it does not ask.
    """

    def __init__(self, keepalive_seconds: float | None = None) -> None:
        self.keepalive_seconds = keepalive_seconds
        self._key: Hashable = None
        self._connection: http.client.HTTPConnection | None = None

    def exchange(
        self,
        key: Hashable,
        make: Callable[[], http.client.HTTPConnection],
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str],
        timeout_seconds: float,
    ) -> Exchange:
        """Send one request and read the answer. One that the other side has closed meanwhile is made again, once.

        Args:
            key: another one than the last closes the connection: another server, or another trust.
            make: returns a connection, not yet made.
            method: of the request; the request must bear being sent twice.
            path: of the request.
            body: of the request.
            headers: of the request.
            timeout_seconds: for connecting and for each wait for bytes, and again for the answer as a whole.

        Raises:
            OSError: the exchange failed; the connection is closed.
            http.client.HTTPException: the same.
            ValueError: the answer is too large.
        """
        if key != self._key:
            self.close()
        kept = self._connection is not None
        self._key = key
        try:
            try:
                return self._once(make, method, path, body, headers, timeout_seconds)
            except _CLOSED:
                if not kept:
                    raise
                self._drop()
                return self._once(make, method, path, body, headers, timeout_seconds)
        except BaseException:
            self._drop()
            raise

    def abort(self) -> None:
        """End the exchange that is under way in another thread."""
        connection = self._connection
        raw = connection.sock if connection is not None else None
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._drop()
        self._key = None

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _once(
        self,
        make: Callable[[], http.client.HTTPConnection],
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_seconds: float,
    ) -> Exchange:
        connection = self._connection
        if connection is None:
            connection = self._connection = make()
            connection.connect()
            self._keep_alive(connection.sock)
        connection.sock.settimeout(timeout_seconds)
        began = time.time()
        # The server compresses nothing; without a header that says so, each request is shorter.
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        with _together(connection.sock):
            connection.endheaders(body)
        response = connection.getresponse()
        content = read_all(response, timeout_seconds, MAXIMUM_ANSWER_BYTES)
        response.close()  # the connection takes no further request before; it stays open itself
        ended = time.time()
        if response.will_close:
            self._drop()
        return Exchange(response.status, response.reason, content, began, ended)

    def _keep_alive(self, raw: socket.socket) -> None:
        if self.keepalive_seconds is None:
            return
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(self.keepalive_seconds))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


@contextlib.contextmanager
def _together(raw: socket.socket) -> Iterator[None]:
    """Send what is written within the block in as few packets as hold it: http.client writes head and body apart."""
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    yield
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
