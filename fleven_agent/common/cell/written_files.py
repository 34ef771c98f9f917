"""What a task has written in its cell: which files are new, different or gone since the last look.

A file is told by its inode, size and time. Hidden files (``.x``), in which programs write what is not yet whole, links
and everything that is no plain file are passed over. Standard library only.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAXIMUM_FILES = 20_000
MAXIMUM_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Seen:
    """What tells one state of a file from another."""

    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, state: os.stat_result) -> "Seen":
        """Take it from what the system says of a file."""
        return cls(state.st_ino, state.st_size, state.st_mtime_ns)


@dataclass(slots=True)
class WrittenFiles:
    """The files below one folder.

    Attributes:
        root: the folder.
        known: what each file was when it was last looked at, by its path below the folder.
    """

    root: Path
    known: dict[str, Seen] = field(default_factory=dict)

    def changes(self) -> tuple[list[str], list[str]]:
        """Return the paths of new and different files, oldest first, and of those that are gone.

        What is returned as different becomes known by ``open_changed``, what is gone is forgotten.
        """
        found = dict(self._walk(self.root, "", 0))
        gone = [name for name in self.known if name not in found]
        for name in gone:
            del self.known[name]
        different = [name for name, seen in found.items() if self.known.get(name) != seen]
        return sorted(different, key=lambda name: (found[name].changed_ns, name)), gone

    def open_changed(self, name: str) -> int | None:
        """Return a descriptor to read a file, and know it as it is now; None when it is a plain file no more."""
        try:
            descriptor = os.open(self.root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            os.close(descriptor)
            return None
        self.known[name] = Seen.of(state)
        return descriptor

    def learn(self, name: str) -> None:
        """Know a file as it is now: one that did not come from the task."""
        self.known[name] = Seen.of((self.root / name).stat())

    def _walk(self, folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, Seen]]:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return
        for entry in entries[:MAXIMUM_FILES]:
            name = f"{prefix}{entry.name}"
            if entry.name.startswith(".") or not is_sayable(name):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    if depth < MAXIMUM_DEPTH:
                        yield from self._walk(Path(entry.path), f"{name}/", depth + 1)
                elif entry.is_file(follow_symlinks=False):
                    yield name, Seen.of(entry.stat(follow_symlinks=False))
            except OSError:  # it has gone meanwhile
                continue


def is_sayable(name: str) -> bool:
    """Return whether a path can be passed on: text that a terminal shows as it is."""
    return len(os.fsencode(name)) <= 1000 and name.isprintable() and "\\" not in name
