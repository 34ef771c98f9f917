"""Takes the files that a ServerApp has written in its cell into the run's own folders, and gives it what it may read.

The cell passes an open file and a path below its folder, which stands for the server's state folder. What lies in a
folder that is named by the run's id goes to the same path here; anything else, into a folder of the run's own, so that
an app writes over nothing that is not its run's. Links are never made. Standard library and `common` only: loaded for
each run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fleven_agent.common.cell.written_files import is_sayable
from fleven_agent.common.files import write_atomically

OTHER_FILES = "files"
"""In the state folder: a folder for each run, for what its app has written outside of the folders of that run."""
CLOSED = frozenset({"trust", "backups", "flwr", "apps", "programs", "models", OTHER_FILES})
"""Folders of the server's own, in which no run has one."""
MAXIMUM_RUN_BYTES = 20_000_000_000
MAXIMUM_RUN_FILES = 50_000
MINIMUM_FREE_BYTES = 100_000_000
"""So much of the disk no run takes: the register and the SuperLink's database go on growing."""
MAXIMUM_REASON_CHARACTERS = 500
CHECKPOINT_SUFFIXES = (".safetensors", ".pt")
MAXIMUM_GIVEN_BYTES = 2_000_000_000
CHUNK_BYTES = 1 << 20


class TooMuchError(OSError):
    """The run has written more than it may."""


@dataclass(slots=True)
class RunFiles:
    """The files of one run.

    Attributes:
        state: the server's state folder.
        run_id: Flower's id of the run.
        held: size [bytes] of each file taken, by the cell's path.
    """

    state: Path
    run_id: str
    held: dict[str, int] = field(default_factory=dict)

    def target(self, name: str) -> Path | None:
        """Return where a file of the cell's goes; None for a path that is none."""
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or not is_sayable(name):
            return None
        if parts[0] not in CLOSED and self.run_id in parts[1:-1]:
            return self.state.joinpath(*parts)
        return self.state.joinpath(OTHER_FILES, self.run_id, *parts)

    def take(self, name: str, descriptor: int) -> bool:
        """Copy an open file to its place, whole or not at all; return False for one that is not taken.

        Raises:
            TooMuchError: it would be more than the run may write, or than the disk has room for.
            OSError: it cannot be written.
        """
        target, found = self.target(name), os.fstat(descriptor)
        if target is None or not stat.S_ISREG(found.st_mode):
            return False
        free = shutil.disk_usage(self.state).free
        if free - found.st_size < MINIMUM_FREE_BYTES:
            raise TooMuchError(f"{name}: the disk of {self.state} is full")
        others = sum(self.held.values()) - self.held.get(name, 0)
        if others + found.st_size > MAXIMUM_RUN_BYTES or len(self.held) >= MAXIMUM_RUN_FILES:
            raise TooMuchError(
                f"{name}: the run has written more than {MAXIMUM_RUN_BYTES // 10**9} GB or too many files"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, path = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".part", dir=target.parent)
        try:
            with os.fdopen(temporary, "wb") as stream:
                self.held[name] = _copy(descriptor, stream.fileno(), found.st_size)
                os.fchmod(stream.fileno(), 0o640)
                os.fsync(stream.fileno())
            Path(path).replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(path).unlink()
            raise
        return True

    def remove(self, name: str) -> None:
        """Remove a file that was taken and is gone in the cell; raises ``OSError``."""
        target = self.target(name)
        if self.held.pop(name, None) is not None and target is not None:
            target.unlink(missing_ok=True)


def _end_file(state: Path, run_id: str) -> Path:
    return state / OTHER_FILES / f"{run_id}.ended"


def write_end(state: Path, run_id: str, reason: str) -> None:
    """Leave word why a ServerApp is ended from here: Flower knows only that it is gone. Raises ``OSError``."""
    file = _end_file(state, run_id)
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, reason[:MAXIMUM_REASON_CHARACTERS].encode())


def read_end(state: Path, run_id: str) -> str:
    """Return why a ServerApp was ended by the server; "" when it was not."""
    try:
        with _end_file(state, run_id).open(encoding="utf-8", errors="replace") as stream:
            return stream.read(MAXIMUM_REASON_CHARACTERS)
    except OSError:
        return ""


def remove_end(state: Path, run_id: str) -> None:
    """Remove that word, once it stands in the run."""
    with contextlib.suppress(OSError):
        _end_file(state, run_id).unlink(missing_ok=True)


def _copy(source: int, target: int, size: int) -> int:
    """Copy up to ``size`` bytes from the beginning; return how many. The task may still be writing to it."""
    copied = 0
    while copied < size and (chunk := os.pread(source, min(CHUNK_BYTES, size - copied), copied)):
        os.write(target, chunk)
        copied += len(chunk)
    return copied


def given(state: Path, named_by_run: str) -> Iterator[tuple[str, Path]]:
    """Yield path in the cell and file of each model that a run may read, when it lies in the state folder.

    Only plain files of the kinds that checkpoints have: who writes a run's configuration reads nothing else with it.

    Args:
        state: the server's state folder.
        named_by_run: file or folder, as the run's configuration names it; of a folder the newest by name that fit.
    """
    if not named_by_run:
        return
    named = state / named_by_run
    files = sorted(named.iterdir(), key=lambda file: file.name, reverse=True) if named.is_dir() else [named]
    total = 0
    for file in files:
        if file.suffix not in CHECKPOINT_SUFFIXES or file.name.startswith(".") or not file.is_file():
            continue
        real, root = file.resolve(), state.resolve()
        closed = CLOSED - {"models", OTHER_FILES}
        if not real.is_relative_to(root) or real.relative_to(root).parts[0] in closed or real.suffix != file.suffix:
            continue
        total += real.stat().st_size
        if total > MAXIMUM_GIVEN_BYTES:
            return
        try:
            inside = Path(os.path.normpath(file)).relative_to(state)
        except ValueError:
            continue
        yield str(inside), real
