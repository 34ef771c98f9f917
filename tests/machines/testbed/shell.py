"""Runs programs of this host for the test bed, and waits for conditions. Imports nothing of fleven."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


class BedError(Exception):
    """The test bed itself cannot do what was asked; not a failure of what is tested."""


class HostCommandError(BedError):
    """A program on the host failed."""


def run(*command: str, text_input: str | None = None, timeout_seconds: float = 600, check: bool = True) -> str:
    """Run a program and return its output.

    Raises:
        BedError: it ended with another status than 0, with the end of what it said.
    """
    answer = subprocess.run(
        command, input=text_input, capture_output=True, text=True, timeout=timeout_seconds, check=False
    )
    if check and answer.returncode:
        raise HostCommandError(
            f"{' '.join(command)}: exit {answer.returncode}: {(answer.stdout + answer.stderr)[-2000:]}"
        )
    return answer.stdout


def wait_for(
    what: str, probe: Callable[[], Value | None], timeout_seconds: float, interval_seconds: float = 0.1
) -> Value:
    """Ask `probe` until it answers with something true, and return that.

    Raises:
        TimeoutError: naming `what` did not come.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_seconds:.0f} s")
        time.sleep(interval_seconds)


def missing_programs(*names: str) -> list[str]:
    """Those of `names` that this host does not have."""
    return [name for name in names if shutil.which(name) is None]
