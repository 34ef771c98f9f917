"""The last thing that a task does: end at once, with the exit status that Python would have ended with.

A normal end of the interpreter would first take every module apart, and so copy the memory that the task shares with
the warm process, page by page: 0.1 to 0.5 s of CPU for nothing. So the task ends in an exit function. It has to be the
last one to run, which is the first one to be registered: this module is imported before all others, and imports only
what Python has loaded anyway.
"""

import atexit
import os
import sys
from collections.abc import Callable

FLUSH_FAILED = 120  # what Python ends with when standard output cannot be flushed (Python/pylifecycle.c)


class Ending:
    """How this process ends. In the warm process itself nothing is set, and it ends as any Python does."""

    status: int | None = None
    before: Callable[[int], None] | None = None


ending = Ending()


def status_of(code: object) -> int:
    """Return the exit status of ``SystemExit(code)`` (Python/pythonrun.c: None is 0, a text is 1)."""
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1


def end() -> None:
    """End the process if it is a task that knows its exit status."""
    if ending.status is None:
        return
    status = ending.status
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except (OSError, ValueError):
        status = FLUSH_FAILED
    try:
        if sys.stderr is not None and not sys.stderr.closed:
            sys.stderr.flush()
    except (OSError, ValueError):
        status = FLUSH_FAILED
    if ending.before is not None:
        ending.before(status)
    os._exit(status)


def register() -> None:
    """Make ``end`` the last exit function of this process."""
    atexit.register(end)
