"""The one family of errors that the server raises on purpose, each with a code that never changes.

They are caught once, at the edge (`cli.main`), and printed as one line each. This module imports nothing of
the package, so that every other module may import it.
"""

from __future__ import annotations

import errno
import grp
import os
from collections.abc import Sequence
from typing import NamedTuple

from fleven_agent.common.errors import EXIT_CONFIGURATION, EXIT_TEMPORARY, EXIT_USAGE, OperatorError


class ServerError(OperatorError):
    """An error of the server that an operator can act on."""

    code = "server-error"


class UsageError(ServerError):
    """The command line or its values are wrong; nothing was changed."""

    code = "usage"
    exit_code = EXIT_USAGE


class ConfigurationError(ServerError):
    """server.toml or the machine does not allow the daemon to start."""

    code = "configuration-invalid"
    exit_code = EXIT_CONFIGURATION


class TemporaryError(ServerError):
    """A daemon cannot start yet, for a reason that may pass by itself: systemd tries again."""

    code = "not-yet"
    exit_code = EXIT_TEMPORARY


class Obstacle(NamedTuple):
    """What keeps a daemon from starting.

    Attributes:
        problem: one line, with its hint.
        passing: whether it may go away without the operator.
    """

    problem: str
    passing: bool = False


def cannot_start(message: str, obstacles: Sequence[Obstacle], *, code: str) -> ServerError:
    """Return the error that names all obstacles: a `TemporaryError` when every one of them may pass by itself."""
    kind = TemporaryError if all(obstacle.passing for obstacle in obstacles) else ConfigurationError
    return kind(message, code=code, problems=[obstacle.problem for obstacle in obstacles])


def address_obstacle(key: str, address: str, error: OSError) -> Obstacle:
    """Return what a failed bind means: a VPN's address may come up and a port become free; permission will not.

    Args:
        key: the key of server.toml.
        address: its value, `host:port`.
        error: why the address could not be bound.
    """
    problem = f"{key}: {address}: {(error.strerror or str(error)).lower()}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return Obstacle(f"{problem} (ports below 1024 need root: choose a higher one)")
    if error.errno == errno.EADDRNOTAVAIL:
        return Obstacle(f"{problem} (no interface has it: see `ip address`)", passing=True)
    port = address.rpartition(":")[2]
    return Obstacle(f"{problem} (see who listens: ss -ltnp 'sport = :{port}')", passing=True)


class NotFoundError(ServerError):
    """The named schedule, run or node does not exist."""

    code = "not-found"
    exit_code = EXIT_USAGE


class StoreError(ServerError):
    """The register cannot be opened, read or written."""

    code = "register-unusable"


class FlowerError(ServerError):
    """A call of Flower's command line did not succeed."""

    code = "flower-failed"


class SuperLinkUnreachableError(FlowerError):
    """Nothing answers at the Control API."""

    code = "superlink-unreachable"
    exit_code = EXIT_TEMPORARY


class CertificateRefusedError(SuperLinkUnreachableError):
    """The SuperLink answers, and nobody believes its certificate: it has expired, or is made for other names."""


SERVICE_GROUP = "fleven-server"
"""Its members may use the commands without root."""


def permission_hint() -> str:
    """Return the advice for a register that this user may not touch."""
    if not os.geteuid():
        return "check owner and mode of the folder"
    try:
        grp.getgrnam(SERVICE_GROUP)
    except KeyError:
        return "use sudo"
    return f"use sudo, or join the group once: sudo usermod -aG {SERVICE_GROUP} $USER, then log in again"
