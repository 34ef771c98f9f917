"""The one family of errors that the server raises on purpose, each with a code that never changes.

They are caught once, at the edge (`cli.main`), and printed as one line each. This module imports nothing of the
package, so that every other module may import it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import NamedTuple

EXIT_FAILURE = 1
"""The command was understood and did not succeed."""
EXIT_USAGE = 2
"""The command line is wrong."""
EXIT_TEMPORARY = 75
"""Something that may pass by itself (EX_TEMPFAIL of sysexits.h): try again."""
EXIT_CONFIGURATION = 78
"""A daemon cannot start as configured (EX_CONFIG of sysexits.h): systemd does not restart it."""


class ServerError(Exception):
    """An error that an operator can act on.

    Args:
        message: what is wrong, one line, without a full stop.
        hint: what to do next, or "".
        code: stable code of this error; the class's own unless given.
        problems: further lines, one problem each, when there are several.
    """

    code = "server-error"
    exit_code = EXIT_FAILURE

    def __init__(self, message: str, *, hint: str = "", code: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = tuple(problems)
        if code:
            self.code = code

    def lines(self) -> list[str]:
        """Return the text for a terminal: the message with its hint, then one line for each problem."""
        first = f"{self.message} ({self.hint})" if self.hint else self.message
        return [first, *self.problems]


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
    """Return what a failed bind means: a VPN's address comes up later and a held port is let go; permission is not.

    Args:
        key: the key of server.toml.
        address: its value, `host:port`.
        error: why the address was not to be had.
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
