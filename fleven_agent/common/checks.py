"""The diagnostics of `fleven-agent check` and `fleven-server check`: what a check is, and how checks are run.

A check is an id, a title, and a function from a context to a result. The context is each side's own. Ids are
``group.name`` and never change once shipped, so that scripts can name them. Imports the standard library only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from fleven_agent.common.errors import describe

ContextT = TypeVar("ContextT")


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """One outcome; ``hint`` says what to do."""

    status: Status
    message: str
    hint: str = ""


def ok(message: str) -> Result:
    """Return that all is well."""
    return Result(Status.OK, message)


def warning(message: str, hint: str) -> Result:
    """Return that it works, but not for long or not well."""
    return Result(Status.WARNING, message, hint)


def error(message: str, hint: str) -> Result:
    """Return that it does not work."""
    return Result(Status.ERROR, message, hint)


def skipped(message: str) -> Result:
    """Return that it could not be checked."""
    return Result(Status.SKIPPED, message)


class SkippedError(Exception):
    """Something that a check needs is missing; the message says what."""


@dataclass(frozen=True, slots=True)
class Check(Generic[ContextT]):
    """A named check. ``run`` may raise ``SkippedError``."""

    id: str
    title: str
    run: Callable[[ContextT], Result]


def run_checks(
    checks: Sequence[Check[ContextT]], context: ContextT, *, hint_for_a_defect: str
) -> Iterator[tuple[Check[ContextT], Result]]:
    """Run checks one after another; a check that fails itself is an error with ``hint_for_a_defect``, no traceback."""
    for check in checks:
        try:
            yield check, check.run(context)
        except SkippedError as caught:
            yield check, skipped(str(caught))
        except PermissionError as caught:  # once, and by the check that is about the rights, it is said what to do
            yield check, skipped(f"this user may not read {caught.filename or 'what it is about'}")
        except OSError as caught:  # a missing file, a full disk: the operator's, and no defect
            yield check, error(describe(caught), "correct that, then check again")
        except Exception as caught:  # whatever is broken here, the other checks are still wanted
            yield check, error(f"the check itself failed: {type(caught).__name__}: {caught}", hint_for_a_defect)


def select(checks: Sequence[Check[ContextT]], only: Sequence[str]) -> list[Check[ContextT]]:
    """Return the checks whose id or group is named, in their order; all without names.

    Raises:
        KeyError: a name that is neither; its argument is the name.
    """
    for name in only:
        if not any(name in (check.id, check.id.partition(".")[0]) for check in checks):
            raise KeyError(name)
    return [check for check in checks if not only or check.id in only or check.id.partition(".")[0] in only]
