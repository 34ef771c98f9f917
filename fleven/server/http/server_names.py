"""What this server is called: the machine's own names, and those in the certificate that it shows.

A certificate may be renewed with other names while the server runs, so its file is looked at again now and then.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

from fleven.server.config.paths import Paths
from fleven.server.config.settings import EVERY_ADDRESS, ServerConfig, split_address
from fleven.server.errors import ServerError
from fleven.server.trust.certificates import facts
from fleven.server.trust.files import TrustFiles
from fleven.server.trust.names import machine_names

LOOK_EVERY_SECONDS = 10.0


def own_names() -> frozenset[str]:
    """Return the host name, as it is and as Avahi and the like publish it. Asks nobody."""
    name = socket.gethostname().lower().rstrip(".")
    return frozenset({name, name.partition(".")[0], f"{name.partition('.')[0]}.local"})


def certificate_names(file: Path) -> frozenset[str]:
    """Return the names of the first certificate of a PEM file, in small letters; none when it cannot be read."""
    try:
        return frozenset(name.lower().rstrip(".") for name in facts(file.read_bytes()).names)
    except (OSError, ValueError):
        return frozenset()


class ServerNames:
    """The names in force. The event loop owns it.

    Args:
        certificate: its file, which need not be there yet.
        monotonic: seconds that only grow.
    """

    def __init__(self, certificate: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._certificate = certificate
        self._monotonic = monotonic
        self._looked_at = float("-inf")
        self._changed_at: float | None = None
        self._own = own_names()
        self._names = self._own

    def get(self) -> frozenset[str]:
        """Return all names."""
        now = self._monotonic()
        if now - self._looked_at >= LOOK_EVERY_SECONDS:
            self._looked_at = now
            try:
                changed_at: float | None = self._certificate.stat().st_mtime
            except OSError:
                changed_at = None
            if changed_at != self._changed_at:
                self._changed_at = changed_at
                self._names = self._own | certificate_names(self._certificate)
        return self._names


def own_address(config: ServerConfig, paths: Paths) -> str:
    """Return the host for a link to this server's page: the first name or address by which it is reached.

    An address that the page is bound to alone goes first; then what the operator named, the tailnet's, the machine's.
    """
    bound = split_address(config.web.address)[0]
    if bound not in EVERY_ADDRESS:
        return f"[{bound}]" if ":" in bound else bound
    try:
        given = TrustFiles(paths.trust).given_names()
    except (OSError, ServerError):
        # A member of the group may not look there; the link is as good with the machine's own names.
        given = ()
    host = machine_names().reachable(given)[0]
    return f"[{host}]" if ":" in host else host
