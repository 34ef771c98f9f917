"""The way to this machine's own SuperLink when its certificate is refused: by the certificate that it was started with.

A certificate may end under a run, and the SuperLink reads a new one only at its next start, which would end the run.
Until then gRPC refuses each new connection, and cannot be told otherwise; so a relay in this process makes the TLS
connection. It believes one certificate and no other: the one whose fingerprint the SuperLink wrote down at its start.

Standard library only.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import ssl
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fleven.server.config.settings import split_address

logger = logging.getLogger("fleven.server.flower")

CONNECT_SECONDS = 5.0
CHUNK_BYTES = 65_536


def recorded_certificate(record: Path) -> str | None:
    """Return the SHA-256 of the certificate that the SuperLink uses, in hexadecimal digits; None when it is not known.

    Args:
        record: what the SuperLink wrote down at its start.
    """
    try:
        certificate = json.loads(record.read_bytes())["certificate"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return certificate if isinstance(certificate, str) else None


@contextmanager
def pinned_connection(address: str, certificate: str, protocols: Sequence[str]) -> Iterator[str]:
    """Lead connections to the SuperLink as long as the block lasts; yields gRPC's name of the socket to connect to.

    The socket lies in a folder that only this user may enter, and takes no TLS: that begins here. Where the
    SuperLink does not answer, or shows another certificate, a connection is closed again.

    Args:
        address: `host:port` of the SuperLink.
        certificate: SHA-256 of the certificate that it must show, in hexadecimal digits.
        protocols: what is offered in the handshake.
    """
    relay = _Relay(split_address(address), certificate, protocols)
    with tempfile.TemporaryDirectory(prefix="fleven-superlink-") as folder:
        socket = Path(folder, "socket")
        thread = threading.Thread(target=relay.work, args=(socket,), name="pinned-connection", daemon=True)
        thread.start()
        relay.listening.wait()
        try:
            yield f"unix:{socket}"
        finally:
            relay.end()
            thread.join(CONNECT_SECONDS)


class _Relay:
    def __init__(self, address: tuple[str, int], certificate: str, protocols: Sequence[str]) -> None:
        self._address = address
        self._certificate = certificate
        self.listening = threading.Event()
        """Set when connections can be made, or never can."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Neither name nor authority nor time counts, only that it is this very certificate: see `_same`.
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._context.set_alpn_protocols(list(protocols))

    def work(self, socket: Path) -> None:
        """Take connections until the end is asked for; those that are left end with it."""
        try:
            asyncio.run(self._serve(socket))
        except OSError:
            logger.exception("event=pinned-connection-failed")
        finally:
            self.listening.set()

    def end(self) -> None:
        """Ask for the end, from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._ended.set)

    async def _serve(self, socket: Path) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_unix_server(self._lead, str(socket))
        self.listening.set()
        await self._ended.wait()
        server.close()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Lead one connection until either side ends it; nothing is sent before the certificate was compared."""
        try:
            opening = asyncio.open_connection(*self._address, ssl=self._context)
            far_reader, far = await asyncio.wait_for(opening, CONNECT_SECONDS)
            try:
                if self._same(far):
                    ways = [asyncio.ensure_future(_copy(*way)) for way in ((reader, far), (far_reader, writer))]
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                    for way in ways:
                        way.cancel()
            finally:
                # A farewell in TLS would be waited for.
                far.transport.abort()
        except (OSError, TimeoutError) as error:
            logger.debug("event=pinned-connection-failed error=%r", str(error))
        finally:
            writer.close()

    def _same(self, far: asyncio.StreamWriter) -> bool:
        shown = far.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return shown is not None and hashlib.sha256(shown).hexdigest() == self._certificate


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
