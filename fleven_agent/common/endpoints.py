"""What stands behind a port: found out by speaking to it, for those who typed the wrong one.

A SuperLink's ports speak HTTP/2; the server's page and every other web server HTTP/1. Blocking, with a deadline;
changes nothing on the other side. Imports addresses only.
"""

import contextlib
import socket
import ssl
import time
from enum import StrEnum

from fleven_agent.common import addresses

HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The preface with which an HTTP/2 client begins, and an empty SETTINGS frame (RFC 9113, 3.4)."""
_HTTP1_REQUEST = b"HEAD / HTTP/1.0\r\n\r\n"
_SETTINGS = 4
_ALERT = b"\x15\x03"
"""How a TLS server answers what is not TLS: a record of type alert (RFC 8446, 5.1)."""


class Protocol(StrEnum):
    """What a port speaks."""

    HTTP2 = "http2"
    HTTP1 = "http1"
    TLS = "tls"
    OTHER = "other"
    SILENT = "silent"


DESCRIPTIONS = {
    Protocol.HTTP2: "a gRPC server (HTTP/2), as the SuperLink's ports are",
    Protocol.HTTP1: "a web server (HTTP/1), as the page of fleven-server is",
    Protocol.TLS: "a server that wants TLS",
    Protocol.OTHER: "a server that speaks neither HTTP nor TLS",
    Protocol.SILENT: "something that takes connections and says nothing",
}


def classify(first: bytes) -> Protocol:
    """Return what the first bytes of an answer to an HTTP/2 preface, or to an HTTP/1 request, tell."""
    if len(first) >= 9 and first[3] == _SETTINGS and first[5:9] == b"\x00\x00\x00\x00":
        return Protocol.HTTP2
    if first.startswith(b"HTTP/1."):
        return Protocol.HTTP1
    if first.startswith(_ALERT):
        return Protocol.TLS
    return Protocol.OTHER if first else Protocol.SILENT


def protocol_at(address: str, timeout_seconds: float = 5.0, *, tls: ssl.SSLContext | None = None) -> Protocol:
    """Ask what speaks at ``HOST:PORT``.

    Args:
        address: as ``addresses.split`` takes it.
        timeout_seconds: for all of it.
        tls: speak inside TLS.

    Raises:
        OSError: it cannot be reached, or (ssl.SSLError) TLS fails.
        ValueError: the address cannot be read.
    """
    deadline = time.monotonic() + timeout_seconds
    found = classify(_answer(address, HTTP2_GREETING, deadline, tls))
    if found is Protocol.SILENT:  # a web server may hang up on a greeting that it does not know
        found = classify(_answer(address, _HTTP1_REQUEST, deadline, tls))
    return found


def _answer(address: str, said: bytes, deadline: float, tls: ssl.SSLContext | None) -> bytes:
    host, port = addresses.split(address)
    with contextlib.ExitStack() as stack:
        link: socket.socket = stack.enter_context(
            socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic()))
        )
        if tls is not None:
            link = stack.enter_context(tls.wrap_socket(link, server_hostname=host))
        first = b""
        with contextlib.suppress(OSError):
            link.sendall(said)
            while len(first) < 9 and (left := deadline - time.monotonic()) > 0:
                link.settimeout(min(left, 2.0))
                chunk = link.recv(64)
                if not chunk:
                    break
                first += chunk
        return first
