"""The authorities that sign this server's certificates, as a car is told them.

Read from the files that the SuperLink uses too, again when they change. It stands beside `trust.files.authority`, which
makes what is missing and loads what signs: each report asks here, and must not make a new authority. Must not import
the store or FastAPI.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig

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
    found = list(dict.fromkeys(CERTIFICATE.findall(text)))
    digests = tuple(hashlib.sha256(ssl.PEM_cert_to_DER_cert(one)).hexdigest() for one in found)
    return Authorities("".join(f"{one}\n" for one in found), digests)


class AuthorityFiles:
    """The authorities in some files, read again when one of them changes.

    Args:
        files: PEM, the most important first; one that is missing says nothing.
    """

    def __init__(self, *files: Path) -> None:
        self._files = files
        self._seen: list[tuple[int, int]] = []
        self._found = NONE

    def read(self) -> Authorities:
        """Return what the files hold now."""
        seen, content = [], ""
        for file in self._files:
            with contextlib.suppress(OSError):
                state = file.stat()
                seen.append((state.st_mtime_ns, state.st_size))
        if seen != self._seen:
            for file in self._files:
                with contextlib.suppress(OSError), file.open(encoding="ascii", errors="replace") as stream:
                    content += stream.read(MAXIMUM_BYTES // len(self._files)) + "\n"
            self._found, self._seen = parse(content), seen
        return self._found


def authority_files(config: ServerConfig, paths: Paths) -> AuthorityFiles:
    """Return the authorities of this server: its own, and that of the SuperLink's certificate where one is named."""
    named = config.superlink.root_certificates
    own = paths.trust / "ca.crt"
    return AuthorityFiles(own) if named is None else AuthorityFiles(own, named)
