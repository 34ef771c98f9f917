"""Removes the copies of apps that Flower leaves below FLWR_HOME/apps: a folder for each run that was ever submitted.

Each task brings its app along, and its ClientApp unpacks it into a folder named after the app's hash, unless that
folder is there already. So no folder has to stay, and one that a power cut left half unpacked must not: Flower
would take it for complete. Before SuperNode starts, when no task can be at work, all go; while it runs, only old ones
and only in a long pause.

Folders are first renamed out of Flower's sight, so that Flower never finds one half-removed, and then removed on a
thread. Imports periodic and the journal.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from fleven_agent.system.log import LOGGER, event
from fleven_agent.system.periodic import Periodic

DISCARDED = "discarded-apps"
KEPT = 3
PAUSE_SECONDS = 600.0
"""SuperNode must have been without a task for this long: longer than the gaps between the rounds of a run."""
INTERVAL_SECONDS = 600.0


class AppCache:
    """The copies of one FLWR_HOME.

    Args:
        apps: the folder in which Flower unpacks them.
        idle_seconds: returns for how long no task has been at work; called from another thread.
    """

    def __init__(self, apps: Path, idle_seconds: Callable[[], float]) -> None:
        self._apps, self._discarded = apps, apps.parent / DISCARDED
        self._idle_seconds = idle_seconds
        self._job = Periodic("apps", self.prune, INTERVAL_SECONDS)

    def start(self) -> None:
        """Start looking for old copies from time to time."""
        self._job.start()

    def stop(self) -> None:
        """Stop looking."""
        self._job.stop()

    def clear(self) -> None:
        """Put all copies away. SuperNode must not be running."""
        self._put_away(_folders(self._apps))
        self._job.hurry()

    def prune(self) -> None:
        """Put old copies away when there is a long pause, and remove what was put away."""
        old = _folders(self._apps)[KEPT:]
        if old and self._idle_seconds() >= PAUSE_SECONDS:
            self._put_away(old)
        discarded = _folders(self._discarded)
        if not discarded:
            return
        import shutil  # with it come bz2 and lzma; most agents never remove an app

        freed, removed = 0, 0
        for folder in discarded:
            size = disk_bytes(folder)
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                LOGGER.warning(event("app not removed", folder=folder), extra={"repeats": True})
            else:
                freed, removed = freed + size, removed + 1
        if removed:
            LOGGER.info(event("apps of earlier runs removed", folders=removed, freed_bytes=freed))

    def _put_away(self, folders: list[Path]) -> None:
        for folder in folders:
            try:
                self._discarded.mkdir(mode=0o700, exist_ok=True)
                target = self._discarded / folder.name
                number = 0
                while target.exists():  # the same app was put away before and has not been removed yet
                    number += 1
                    target = self._discarded / f"{folder.name}.{number}"
                folder.rename(target)
            except FileNotFoundError:
                continue  # the thread and the loop both put it away
            except OSError as error:
                LOGGER.warning(event("app not put away", folder=folder, detail=error.strerror), extra={"repeats": True})


def _folders(parent: Path) -> list[Path]:
    """Return the folders in a folder, newest first."""
    found: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    found.append((entry.stat(follow_symlinks=False).st_mtime, Path(entry.path)))
    return [path for _, path in sorted(found, reverse=True)]


def disk_bytes(folder: Path) -> int:
    """Return what a folder and all below it take up on the disk."""
    total = 0
    for parent, _, files in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in files)):  # noqa: PTH118  # as os.walk gives it
            with contextlib.suppress(OSError):
                total += os.lstat(path).st_blocks * 512
    return total
