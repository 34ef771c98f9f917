"""The process that touches trips, so that a disk that never answers holds up a process that can be given up.

A call into a dead USB disk or network share does not return, cannot be broken off, and takes its whole process along:
not even an end of the agent would come through. So all that opens, lists or measures data-path runs here. Reads
requests, one JSON object a line, and writes answers the same way; while it works it writes empty lines, which say that
calls return. Ends with its input. Imports the standard library and the watch over the folder only; run without
site-packages, which halves its memory.
"""

import contextlib
import json
import mmap
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fleven_agent.monitoring.trip_folder import TripFolder

PROGRESS_SECONDS = 1.0
OOM_SCORE = 300
"""The kernel ends this process before the supervisor when memory runs out (oom_score_adj)."""


def main() -> None:
    """Answer requests until the input ends."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
    worker = Worker(_progress(time.monotonic, lambda: _write("")))
    _write("")
    for line in sys.stdin:
        try:
            _write(json.dumps(worker.answer(json.loads(line))))
        except OSError:  # the agent is gone
            return


class Worker:
    """Answers requests about one folder at a time.

    Args:
        progress: called whenever a call has returned.
    """

    def __init__(self, progress: Callable[[], None]) -> None:
        self._progress = progress
        self._asked: dict[str, Any] | None = None
        self._folder: TripFolder | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what a request asks for.

        Args:
            request: ``folder``, the arguments of ``TripFolder``; ``scan``, whether to look at the trips too.

        Returns:
            ``disk``, [total, free] bytes of the file system or None; ``summary``, the fields of ``Summary`` or None.
        """
        if self._folder is None or request["folder"] != self._asked:
            self._asked = request["folder"]
            self._folder = TripFolder(**request["folder"], progress=self._progress)
        path = Path(request["folder"]["path"])
        disk = _disk(path)
        self._progress()
        summary = asdict(self._folder.scan()) if request["scan"] else None
        touch(path)
        return {"disk": disk, "summary": summary}


def touch(folder: Path) -> None:
    """Read one block of a file in the folder from the disk itself: what is cached says nothing of the disk."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        name = next((entry.path for entry in entries if entry.is_file()), None)
        if name is None:
            return
        descriptor = os.open(
            name, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC
        )  # not every file system takes it: then OSError
        try:
            with mmap.mmap(-1, 4_096) as block:  # aligned as O_DIRECT wants it
                os.preadv(descriptor, [block], 0)
        finally:
            os.close(descriptor)


def _disk(folder: Path) -> list[int] | None:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return [found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize]


def _progress(clock: Callable[[], float], tell: Callable[[], None]) -> Callable[[], None]:
    told = clock()

    def progress() -> None:
        nonlocal told
        if clock() - told >= PROGRESS_SECONDS:
            told = clock()
            tell()

    return progress


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
