"""The form of every error that an operator can act on, and the exit codes of all commands.

Agent and server derive their families from it; each is caught once, at the edge of its command. Imports the standard
library only.
"""

from collections.abc import Sequence

EXIT_STOPPED = 0
EXIT_FAILURE = 1
"""The command was understood and did not succeed."""
EXIT_USAGE = 2
"""The command line is wrong."""
EXIT_TEMPORARY = 75
"""Something that may pass by itself (EX_TEMPFAIL of sysexits.h): try again."""
EXIT_CONFIGURATION = 78
"""A daemon cannot start as configured (EX_CONFIG of sysexits.h): systemd does not restart it."""


class OperatorError(Exception):
    """An error that an operator can act on.

    Args:
        message: what is wrong, one line, without a full stop.
        hint: what to do next, or "".
        code: stable code of this error; the class's own unless given.
        problems: further lines, one problem each, when there are several.
    """

    code = "error"
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


def describe(problem: OSError) -> str:
    """Return an error of the operating system as ``file: problem``."""
    text = (problem.strerror or str(problem) or type(problem).__name__).lower()
    return f"{problem.filename}: {text}" if problem.filename else text
