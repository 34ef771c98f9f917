"""Runs the SuperLink's `flower-superexec`, which starts the ServerApps: in cells, and as soon as a run is submitted.

Flower's executor asks the SuperLink once a second for a task. Here it goes on doing so, but looks at a file meanwhile
that the scheduler changes when it submits: a run need not wait for the end of the second. Where Flower's executor is
not as expected, it runs as it is, and says so; not where ServerApps must work in cells. A program: imports of Flower
happen in functions only.
"""

from __future__ import annotations

import importlib
import logging
import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fleven.server.flower.line import installed_line
from fleven.server.flower.task_cells import Spare, hide_tokens

log = logging.getLogger(__name__)
SUBMITTED_VARIABLE = "FLEVEN_SUBMITTED_FILE"
"""Names the file that changes with each submission."""
CELL_VARIABLE = "FLEVEN_CELL_SOCKET"
"""Names the socket of the cells in which ServerApps must work; empty where they need not."""
LOOK_SECONDS = 0.05
SOON_SECONDS = 0.1
"""Between two questions to the SuperLink while a run is being submitted."""
SOON_LASTS_SECONDS = 5.0


def is_python_program(program: str) -> bool:
    """Return whether a program is a script of the Python that runs this, so that it can be run inside another."""
    try:
        with Path(program).open("rb") as stream:
            first = stream.readline(256).decode(errors="replace")
    except OSError:
        return False
    interpreter = first.removeprefix("#!").split(maxsplit=1)[:1]
    same = bool(interpreter) and Path(interpreter[0]).parent == Path(sys.executable).parent
    return first.startswith("#!") and same and "python" in Path(interpreter[0]).name


class Waits:
    """The executor's waits between two questions; stands for the module `time` in its loop.

    Args:
        file: changes when a run is submitted.
        clock: monotonic seconds.
        pause: waits some seconds.
    """

    def __init__(
        self, file: Path, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._file, self._clock, self._pause = file, clock, pause
        self._seen = self._changed_ns()
        self._soon_until = -SOON_LASTS_SECONDS

    def _changed_ns(self) -> int:
        try:
            return self._file.stat().st_mtime_ns
        except OSError:
            return 0

    def sleep(self, seconds: float) -> None:
        """Wait some seconds, or less when a run is submitted meanwhile or was a moment ago."""
        end = self._clock() + seconds
        while (now := self._clock()) < end:
            changed = self._changed_ns()
            if changed != self._seen:
                self._seen, self._soon_until = changed, now + SOON_LASTS_SECONDS
                return
            if now < self._soon_until:
                self._pause(min(SOON_SECONDS, end - now))
                return
            self._pause(min(LOOK_SECONDS, end - now))

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


def shorten_waits(file: Path) -> None:
    """Shorten the waits of the executor's loop in this process.

    Raises:
        ImportError, ValueError: it is not as expected; nothing was changed.
    """
    module = importlib.import_module(installed_line().superlink_insides.executor_module)
    if module.__dict__.get("time") is not time:
        raise ValueError(f"{module.__name__} does not wait by the module time")
    module.__dict__["time"] = Waits(file)


def use_cells(cell_socket: str) -> None:
    """Have the executor hand ServerApps to cells where they must be apart; else hide their tokens alone.

    Ends the process with 1 when they must and this Flower is not as expected: they would do what the server may.
    """
    spare = Spare(Path(cell_socket), installed_line().server_app_modules) if cell_socket else None
    try:
        hide_tokens(spare)
    except (ValueError, ImportError, AttributeError) as error:
        if spare is not None:
            log.error("executor=refused error=%r", str(error))  # noqa: TRY400 - the reason says all
            sys.exit(1)
        log.warning("tokens=visible error=%r", str(error))
    if spare is not None:
        spare.make()


def main() -> None:
    """Become the program that the first argument names, with shorter waits and cells."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s:      %(message)s"))  # as the SuperLink's lines
    ours = logging.getLogger("fleven")
    ours.addHandler(handler)
    ours.propagate = False
    program, *arguments = sys.argv[1:]
    use_cells(os.environ.get(CELL_VARIABLE, ""))
    file = os.environ.get(SUBMITTED_VARIABLE, "")
    try:
        if file:
            shorten_waits(Path(file))
    except (ImportError, ValueError) as error:
        log.warning("the SuperLink's executor looks for runs once a second: %s", error)
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
