"""The one family of errors that the server raises on purpose, each with a code that never changes.

They are caught once, at the edge (`cli.main`), and printed as one line each. This module imports nothing of the
package, so that every other module may import it.
"""

from __future__ import annotations

from collections.abc import Sequence

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
