"""What apps keep in a car from run to run, such as its own model: plain files, bounded, and readable for the group.

All tasks of a car run as one user, so a hostile one can take away what others kept, or put something else there; it
cannot fill the disk with it, and no reader meets more than files. It is called when no task is at work. Standard
library only.
"""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from fleven_agent.common.cell import sweep

FOLDER_VARIABLE = "FLEVEN_CAR_STATE_DIR"
"""Names the folder to a task."""
MAXIMUM_BYTES = 200_000_000
MAXIMUM_FILES = 1_000
SUFFIX = ".npz"


class Kept:
    """The folder: in it one folder for each experiment, in each of these files of arrays, and nothing else.

    Args:
        folder: must be there; of the user that tasks run as.
        maximum_bytes, maximum_files: of all together.
    """

    def __init__(self, folder: Path, maximum_bytes: int = MAXIMUM_BYTES, maximum_files: int = MAXIMUM_FILES) -> None:
        self.folder = folder
        self._maximum_bytes = maximum_bytes
        self._maximum_files = maximum_files

    def tidy(self) -> int:
        """Remove what must not be there, and the oldest of what is too much; return how many entries went."""
        strange: list[str] = []
        files: list[tuple[int, int, str]] = []
        now = time.time_ns()
        os.chmod(self.folder, 0o750)  # noqa: PTH101, S103 - a task may have closed it
        for entry in _entries(self.folder, strange):
            if not entry.is_dir(follow_symlinks=False):
                strange.append(entry.path)
                continue
            os.chmod(entry.path, 0o750)  # noqa: PTH101, S103 - its own entry, not a link
            for file in _entries(Path(entry.path), strange):
                found = file.stat(follow_symlinks=False)
                if not (stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and file.name.endswith(SUFFIX)):
                    strange.append(file.path)
                    continue
                if stat.S_IMODE(found.st_mode) != 0o640:
                    os.chmod(file.path, 0o640)  # noqa: PTH101
                if found.st_mtime_ns > now:  # the newest is the one that is used
                    os.utime(file.path, ns=(now, now))
                # By the time of the last change, which a program cannot set.
                files.append((found.st_ctime_ns, found.st_size, file.path))
        strange += self._too_much(files)
        for first in range(0, len(strange), 1_000):
            sweep.remove(strange[first : first + 1_000])
        for entry in list(os.scandir(self.folder)):
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(entry.path)  # noqa: PTH106
        return len(strange)

    def _too_much(self, files: list[tuple[int, int, str]]) -> list[str]:
        bytes_left, files_left = self._maximum_bytes, self._maximum_files
        over = []
        for _, size, path in sorted(files, reverse=True):
            bytes_left, files_left = bytes_left - size, files_left - 1
            if bytes_left < 0 or files_left < 0:
                over.append(path)
        return over


def _entries(folder: Path, strange: list[str]) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder; one that cannot be read is strange itself."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError:
        strange.append(str(folder))
