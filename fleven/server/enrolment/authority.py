"""The authorities that sign this server's certificates, as a car is told them.

Read from the files that the SuperLink uses too, again when they change. Must not import the store or FastAPI.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from fleven.server.config import Paths, ServerConfig

CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----")
MAXIMUM_BYTES = 32_000


@dataclass(frozen=True, slots=True)
class Authorities:
    """Certificates of authorities, the present one first.

    Attributes:
        bundle: PEM; "" when the server has none.
        fingerprints: SHA-256 of each one's DER in hexadecimal digits, in their order.
    """

    bundle: str = ""
    fingerprints: tuple[str, ...] = ()


NONE = Authorities()


def parse(text: str) -> Authorities:
    """Return the certificates of a PEM text, without whatever stands between them."""
    found = CERTIFICATE.findall(text)
    digests = tuple(hashlib.sha256(ssl.PEM_cert_to_DER_cert(one)).hexdigest() for one in found)
    return Authorities("".join(f"{one}\n" for one in found), digests)


class AuthorityFile:
    """The authorities in a file, read again when it changes.

    Args:
        file: PEM; None for a server without.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._seen: tuple[int, int] | None = None
        self._found = NONE

    def read(self) -> Authorities:
        """Return what the file holds now; nothing while it is missing."""
        if self._file is None:
            return NONE
        try:
            state = self._file.stat()
            seen = (state.st_mtime_ns, state.st_size)
            if seen != self._seen:
                with self._file.open(encoding="ascii", errors="replace") as stream:
                    self._found, self._seen = parse(stream.read(MAXIMUM_BYTES)), seen
        except OSError:
            return NONE
        return self._found


def authority_file(config: ServerConfig, paths: Paths) -> AuthorityFile:
    """Return the authorities of this server: those of server.toml where it names them, else its own."""
    if config.superlink.root_certificates is not None:
        return AuthorityFile(config.superlink.root_certificates)
    return AuthorityFile(paths.state / "trust" / "ca.crt")
