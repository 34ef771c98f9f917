"""Leaves nothing of a task in the cell: processes, files, shared memory; and ends one that fills the disk.

What is left is found by the cell's control group, which the cell cannot write, not by marks that a program could take
off. One task is at work at a time, so all that is there after it is its. Standard library only.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROUNDS = 100
PAUSE_SECONDS = 0.01
REMOVE_SECONDS = 60.0
MINIMUM_FREE_BYTES = 100_000_000
MINIMUM_FREE_FILES = 1_000
UNPACKED = "apps"
"""In a home: where Flower unpacks the bundle of each run."""


class LeftoverError(Exception):
    """Something of a task cannot be ended or removed: the cell itself must end, and systemd ends all in it."""


def own_group(unit: str) -> Path:
    """Return the folder of this process's control group, which must be that of a unit of its own.

    Raises:
        LeftoverError: this process does not run as ``unit``, so that what else is in the group may be anybody's.
    """
    # One hierarchy for all (0), or systemd's own beside the controllers' (hosts with the first kind of control groups).
    roots = {"0:": ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"), "name=systemd": ("/sys/fs/cgroup/systemd",)}
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        number, names, path = line.split(":", 2)
        for root in roots.get("0:" if number == "0" else names, ()):
            found = Path(root) / path.lstrip("/")
            if found.name == unit and (found / "cgroup.procs").exists():
                return found
    raise LeftoverError(f"not in a control group of its own ({unit})")


def others(group: Path) -> list[int]:
    """Return all processes of the control group but this one."""
    pids = [int(line) for line in (group / "cgroup.procs").read_text(encoding="ascii").split()]
    return [pid for pid in pids if pid != os.getpid()]


def kill_others(group: Path) -> int:
    """Kill all processes of the group but this one, and reap them; return how many there were at first.

    Raises:
        LeftoverError: there are still some.
    """
    found = 0
    for attempt in range(ROUNDS):
        left = others(group)
        if attempt == 0:
            found = len(left)
        if not left:
            reap_strangers()
            return found
        # All of this user's processes in one go, which no fork can outrun (kill(2)); only the cell runs as this user.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(-1, signal.SIGKILL)
        reap_strangers()
        time.sleep(PAUSE_SECONDS)
    raise LeftoverError(f"{len(others(group))} processes do not end")


def reap_strangers() -> None:
    """Reap ended processes that came to this one when their parents ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def empty(folder: Path) -> None:
    """Remove all in a folder of this user, however deep and whatever its modes; the folder stays.

    Raises:
        LeftoverError: something is still there.
    """
    try:
        names = [entry.path for entry in os.scandir(folder)]
    except FileNotFoundError:
        return
    if not names:
        return
    remove(names)
    left = [entry.name for entry in os.scandir(folder)]
    if left:
        raise LeftoverError(f"{len(left)} entries of {folder} cannot be removed")


def remove(paths: Sequence[str]) -> None:
    """Remove files and folders of this user as far as it can be done, however deep and whatever their modes."""
    # Programs of the system that walk without recursion: a tree can be deeper than Python's stack.
    for command in (["chmod", "-R", "u+rwX", "--"], ["rm", "-rf", "--one-file-system", "--"]):
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            subprocess.run(
                [*command, *paths], stdin=subprocess.DEVNULL, capture_output=True, timeout=REMOVE_SECONDS, check=False
            )


@dataclass(frozen=True, slots=True)
class Space:
    """Free room of a file system: bytes and files."""

    free_bytes: int
    free_files: int

    @classmethod
    def of(cls, folder: Path) -> "Space":
        """Read it."""
        found = os.statvfs(folder)
        return cls(found.f_bavail * found.f_frsize, found.f_favail)

    def excess(self, now: "Space", maximum_bytes: int, maximum_files: int) -> str:
        """Return why a task that began with this much room has taken too much of it; empty when it has not."""
        if self.free_bytes - now.free_bytes > maximum_bytes:
            return f"it wrote more than {maximum_bytes // 1_000_000} MB"
        if self.free_bytes >= MINIMUM_FREE_BYTES > now.free_bytes:
            return "the disk is full"
        # Some file systems do not count files at all.
        if self.free_files - now.free_files > maximum_files or (self.free_files >= MINIMUM_FREE_FILES > now.free_files):
            return f"it made more than {maximum_files} files, or as many as the disk can hold"
        return ""


class Home:
    """The one folder in which apps may keep something between their tasks, such as prepared data.

    It belongs to one app at a time: when a task of another comes, what the one before left is removed first. Of the
    same app's earlier runs only their unpacked bundles are removed.
    """

    def __init__(self, folder: Path, owner: str = "") -> None:
        self.folder = folder
        self.owner = owner
        """Identity of the app whose files these are; empty for nobody's."""
        self.bundle = ""
        """Hash of the bundle that was unpacked last; empty when that is not known."""

    def prepare(self, app: str, bundle: str = "") -> None:
        """Make it ready for a task of an app, from a bundle; raises ``LeftoverError`` or ``OSError``."""
        if not app or app != self.owner:
            self.clear()
        elif bundle != self.bundle:
            remove([str(self.folder / UNPACKED)])
        self.owner, self.bundle = app, bundle
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def clear(self) -> None:
        """Remove all; raises ``LeftoverError``."""
        self.owner = self.bundle = ""
        empty(self.folder)
