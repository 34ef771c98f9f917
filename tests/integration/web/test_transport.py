"""TLS and plain HTTP on one port, over real sockets."""

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from certificates import write_certificates
from waiting import wait_for

from fleven.server.http import connection_guard, transport
from fleven.server.http.connection_guard import GuardedProtocol
from fleven.server.http.transport import SwitchingServer, TlsContext, TlsOnly
from fleven.server.trust.files import TrustFiles

NAMES = frozenset({"fleven-server", "127.0.0.1"})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the scheme and the length of the body."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps([scope["scheme"], size]).encode()})


@contextmanager
def serving(tls: TlsContext, app: Any = echo, loop: str = "auto") -> Iterator[int]:
    GuardedProtocol.by_address.clear()
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, ws="none", lifespan="off", loop=loop)  # type: ignore[arg-type]
    server = SwitchingServer(config, tls)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture
def own(tmp_path: Path) -> TrustFiles:
    files = TrustFiles(tmp_path / "trust")
    files.bring_up_to_date(datetime.now(UTC), lambda: NAMES)
    return files


def context_of(files: TrustFiles, given: tuple[Path, Path] | None = None) -> TlsContext:
    return TlsContext((files.server_certificate, files.server_key), "fleven-server", given)


def ask(port: int, trust: Path | None, name: str = "fleven-server", body: bytes = b"", **headers: str) -> Any:
    """Send a request, over TLS when an authority is named; return status and body."""
    if trust is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    else:
        raw = socket.create_connection(("127.0.0.1", port), 10)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.sock = ssl.create_default_context(cafile=str(trust)).wrap_socket(raw, server_hostname=name)
    try:
        connection.request("POST" if body else "GET", "/", body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
def test_tls_and_plain_are_told_apart_by_the_first_byte(own: TrustFiles, loop: str) -> None:
    large = b"x" * 3_000_000
    with serving(context_of(own), loop=loop) as port:
        assert ask(port, None) == (200, b'["http", 0]')
        assert ask(port, own.authority_bundle) == (200, b'["https", 0]')
        assert ask(port, own.authority_bundle, body=large) == (200, b'["https", 3000000]')
        assert ask(port, None, body=large) == (200, b'["http", 3000000]')
        # One byte, and the rest much later: nothing is lost.
        with socket.create_connection(("127.0.0.1", port), 10) as slow:
            for part in (b"G", b"ET / HTTP/1.1\r\nHost: x\r\nConnection: ", b"close\r\n\r\n"):
                slow.sendall(part)
                time.sleep(0.05)
            assert b'["http", 0]' in slow.makefile("rb").read()
        wait_for(lambda: not GuardedProtocol.by_address)


def test_a_plain_request_to_a_port_with_tls_only_is_told_so_and_kept(own: TrustFiles) -> None:
    with serving(context_of(own), TlsOnly(echo)) as port:
        status, body = ask(port, None, body=b"{}")
        assert (status, json.loads(body)["code"]) == (426, "https-required")
        status, body = ask(port, None, Accept="text/html", Host="fleet.example:9190")
        assert status == 426
        assert b'<a href="https://fleet.example:9190/">' in body
        status, body = ask(port, None, Accept="text/html", Host='"><script>')
        assert b"<script>" not in body
        assert ask(port, own.authority_bundle) == (200, b'["https", 0]')


def test_cars_are_shown_the_servers_own_certificate_and_browsers_the_operators(own: TrustFiles, tmp_path: Path) -> None:
    given = write_certificates(tmp_path / "given")
    with serving(context_of(own, (given / "server.crt", given / "server.key"))) as port:
        assert ask(port, own.authority_bundle)[0] == 200
        assert ask(port, given / "ca.crt", "127.0.0.1")[0] == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(port, own.authority_bundle, "127.0.0.1")


def test_a_renewed_certificate_is_shown_without_a_restart_and_open_connections_go_on(own: TrustFiles) -> None:
    tls = context_of(own)
    with serving(tls) as port:
        raw = socket.create_connection(("127.0.0.1", port), 10)
        trust = ssl.create_default_context(cafile=str(own.authority_bundle))
        with trust.wrap_socket(raw, server_hostname="fleven-server") as old:
            before = old.getpeercert()
            own.bring_up_to_date(datetime.now(UTC), lambda: NAMES, asked=True)
            tls.reload()
            old.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert old.recv(100).startswith(b"HTTP/1.1 200")
            again = socket.create_connection(("127.0.0.1", port), 10)
            with trust.wrap_socket(again, server_hostname="fleven-server") as new:
                assert new.getpeercert() != before
        own.server_certificate.write_text("nothing")
        with pytest.raises(ssl.SSLError):
            tls.reload()
        own.server_key.unlink()
        assert ask(port, own.authority_bundle)[0] == 200


def test_connections_that_say_nothing_or_never_end_their_handshake_count_and_are_closed(
    own: TrustFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connection_guard, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(GuardedProtocol, "maximum_per_address", 3)
    with serving(context_of(own)) as port:
        silent = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(2)]
        handshake = socket.create_connection(("127.0.0.1", port), 10)
        handshake.sendall(b"\x16\x03\x01")
        wait_for(lambda: GuardedProtocol.by_address["127.0.0.1"] == 3)
        refused = socket.create_connection(("127.0.0.1", port), 10)
        for connection in (refused, *silent, handshake):
            with suppress(ConnectionResetError):
                assert connection.recv(100) == b""
            connection.close()
        wait_for(lambda: not GuardedProtocol.by_address)
        assert ask(port, own.authority_bundle)[0] == 200


def test_a_server_that_ends_does_not_wait_for_connections_that_say_nothing(own: TrustFiles) -> None:
    with serving(context_of(own)) as port:
        silent = socket.create_connection(("127.0.0.1", port), 10)
        wait_for(lambda: bool(GuardedProtocol.by_address))
        began = time.monotonic()
    assert time.monotonic() - began < 3
    silent.close()
