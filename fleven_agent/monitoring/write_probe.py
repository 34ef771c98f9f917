"""Whether the state folder can be written: a card that has turned read-only fails each task, and tells nobody else.

A card that wears out often turns read-only as a whole; the kernel then remounts the file system, or fails each write.
Asking for the mount's flags costs nothing and is done at each turn; a real write, through to the card, is done now and
then, since each one wears the card itself: one block into a file that stays. Runs on a worker thread; imports the
standard library only.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

FILE = ".writable"
WRITE_SECONDS = 3_600.0
"""Between two writes while all is well: with its journal ext4 writes 20 to 60 kB for each, 1.5 MB a day at most."""
AGAIN_SECONDS = 5.0
"""Between two tries after one that failed; those write nothing."""


class WriteProbe:
    """The probe of one folder."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._due = float("-inf")
        self.problem = ""
        """Why the folder cannot be written; empty while it can."""

    def want(self) -> None:
        """Write at the next turn: something has failed that may have failed for this reason."""
        self._due = float("-inf")

    def run(self) -> None:
        """Look at the mount, and write when it is time."""
        try:
            if os.statvfs(self._folder).f_flag & os.ST_RDONLY:
                self.problem = f"the file system of {self._folder} is read-only"
                self._due = float("-inf")
                return
            if self._clock() < self._due:
                return
            self._write()
        except OSError as error:
            self.problem = f"{self._folder} cannot be written: {(error.strerror or str(error)).lower()}"
            self._due = self._clock() + AGAIN_SECONDS
        else:
            self.problem = ""
            self._due = self._clock() + WRITE_SECONDS

    def _write(self) -> None:
        descriptor = os.open(self._folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.pwrite(descriptor, f"{self._clock():.0f}".ljust(512).encode(), 0)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
