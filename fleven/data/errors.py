"""Errors of the `fleven` command: coded, with an exit code and a hint, caught once in `fleven.cli`.

Imports the standard library only, so that any part of the command may raise them without loading more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class ErrorCode(StrEnum):
    """What went wrong. The values never change once shipped: scripts compare them (`--json` prints them)."""

    BAD_INPUT = "bad-input"
    OUTPUT_EXISTS = "output-exists"
    OUTPUT_FAILED = "output-failed"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the input.

    `where` is a file, folder or option; `what` the column, row or value in it, empty where the whole is meant.
    """

    where: str
    what: str
    problem: str
    hint: str = ""

    def line(self) -> str:
        """Return the problem as one line: `where: what: problem (hint)`."""
        text = ": ".join(part for part in (self.where, self.what, self.problem) if part)
        return f"{text} ({self.hint})" if self.hint else text


class FlevenError(Exception):
    """Base of what the `fleven` command reports to the operator without a traceback."""

    code = ErrorCode.BAD_INPUT
    exit_code = 2

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(problem.line() for problem in self.problems))

    @property
    def hint(self) -> str:
        """The first hint, empty when no problem has one."""
        return next((problem.hint for problem in self.problems if problem.hint), "")


class InputError(FlevenError):
    """The command line or the files named on it cannot be used."""


class OutputExistsError(FlevenError):
    """The output folder holds something that must not be overwritten."""

    code = ErrorCode.OUTPUT_EXISTS


class OutputError(FlevenError):
    """The output could not be written: full disk, missing permission."""

    code = ErrorCode.OUTPUT_FAILED
    exit_code = 1
