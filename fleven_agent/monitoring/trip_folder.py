"""Watches the folder of trips cheaply: counts new ones, sets unreadable ones aside, leaves files being written alone.

A file is looked at once; it is looked at again only when its size or time changed. Nothing is ever deleted: an
unreadable trip moves to ``quarantine/`` beside a ``.reason`` file. A file that only lacks its end, or that this user
may not open, may be a good trip and stays where it is. Reads headers and counts lines with the standard library alone;
whether the values make sense is the ClientApp's to say. Runs in a process of its own, ``trip_worker``.
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fleven_agent.monitoring.trip_files import TRIP_SUFFIXES, UnfinishedTripError, UnreadableTripError, count_rows

QUARANTINE = "quarantine"
_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".swp", "~")
UNFINISHED_SECONDS = 3_600.0
"""How long a file without its rest must stay unchanged before nobody can be writing it any more: a logger's buffer of
some kilobytes holds minutes of a slow bus back, and a Parquet file gets its footer at the end of the drive."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a scan found; the fields of ``report.DataSummary`` and what health needs beside them."""

    path: str
    trips: int = 0
    rows: int = 0
    newest_trip_at: float | None = None
    """Wall-clock time of the newest trip's last change [s since the epoch]."""
    quarantined: int = 0
    unfinished: int = 0
    """Files that are still being written."""
    problem: str = ""
    """Why there is nothing to train on."""
    absent: bool = False
    """The app's own folder is not here, nor the one above it: this machine is not set up for that app."""
    unmovable: str = ""
    """Why a trip that cannot be used is still there: it could not be set aside, or not even be opened."""


@dataclass(frozen=True, slots=True)
class _Known:
    size_bytes: int
    changed_ns: int
    seen_at: float
    """Monotonic moment at which it was first seen like this [s]."""
    rows: int
    fault: str
    settled: bool


class TripFolder:
    """The watch over one folder.

    Args:
        path: folder of trips, as in node.toml.
        settle_seconds: a file that changed within this time is still being written.
        quarantine: whether unreadable trips are moved.
        minimum_rows: fewer rows in all give the app not one window.
        optional: nothing is missing when not even the folder above is there.
        progress: called whenever a call into the folder has returned.
    """

    def __init__(
        self,
        path: str,
        *,
        settle_seconds: float,
        quarantine: bool,
        minimum_rows: int,
        optional: bool = False,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = Path(path)
        self._settle_seconds = settle_seconds
        self._quarantine = quarantine
        self._minimum_rows = minimum_rows
        self._optional = optional
        self._wall, self._clock, self._progress = wall, clock, progress
        self._known: dict[str, _Known] = {}

    def scan(self) -> Summary:
        """Look at what is new. Never raises for what lies in the folder."""
        try:
            files = self._files()
        except OSError as error:
            absent = self._optional and isinstance(error, FileNotFoundError) and not self.path.parent.is_dir()
            problem = "" if absent else f"folder of trips {self.path}: {error.strerror}"
            return Summary(str(self.path), problem=problem, absent=absent)
        known: dict[str, _Known] = {}
        kept: list[str] = []
        for name, status in files:
            self._progress()
            try:
                entry = self._look(name, status)
            except FileNotFoundError:
                continue
            except OSError as error:
                kept.append(f"{name} cannot be read: {error.strerror}")
                continue
            if entry.fault and entry.settled and self._quarantine:
                problem = self._set_aside(name, entry.fault)
                if not problem:
                    continue
                kept.append(problem)
            known[name] = entry
        self._known = known
        return self._summary(known, kept)

    def _summary(self, known: dict[str, _Known], kept: list[str]) -> Summary:
        good = {name: entry for name, entry in known.items() if entry.settled and not entry.fault}
        rows = sum(entry.rows for entry in good.values())
        bad = sum(1 for entry in known.values() if entry.settled and entry.fault)
        unfinished = sum(1 for entry in known.values() if not entry.settled)
        problem = ""
        if not good and unfinished:
            problem = f"no finished trip yet in {self.path}: {unfinished} may still be written"
        elif not good:
            problem = f"no readable trip in {self.path}"
        elif rows < self._minimum_rows:
            problem = f"{rows} rows in {self.path} are too few; one window needs {self._minimum_rows}"
        unmovable = ""
        if kept:
            unmovable = kept[0] + (f", and {len(kept) - 1} more" if len(kept) > 1 else "")
        elif bad:
            unmovable = f"{bad} unreadable trips in {self.path}, and data.quarantine is false"
        return Summary(
            path=str(self.path),
            trips=len(good),
            rows=rows,
            newest_trip_at=max((entry.changed_ns / 1e9 for entry in good.values()), default=None),
            quarantined=self._count_quarantined(),
            unfinished=unfinished,
            problem=problem,
            unmovable=unmovable,
        )

    def _files(self) -> list[tuple[str, os.stat_result]]:
        found: list[tuple[str, os.stat_result]] = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                name = entry.name.lower()
                if name.startswith((".", "_")) or name.endswith(_UNFINISHED) or not name.endswith(TRIP_SUFFIXES):
                    continue
                self._progress()
                with contextlib.suppress(OSError):
                    if entry.is_file():
                        found.append((entry.name, entry.stat()))
        return sorted(found)

    def _look(self, name: str, status: os.stat_result) -> _Known:
        before, now = self._known.get(name), self._clock()
        same = before is not None and (before.size_bytes, before.changed_ns) == (status.st_size, status.st_mtime_ns)
        if same and before is not None and before.settled:
            return before
        seen_at = before.seen_at if same and before is not None else now
        # Old by its own time, or unchanged for as long as we watch: the clock of a Pi may be wrong after a power cut.
        settled = self._settle_seconds <= max(self._wall() - status.st_mtime, now - seen_at)
        rows, fault = 0, ""
        # The footer of a Parquet file is written last: with it the file is complete, however new it is.
        if settled or name.lower().endswith(".parquet"):
            try:
                rows = count_rows(self.path / name, self._progress)
            except UnfinishedTripError as error:
                # Its own time proves nothing here: the clock may have stepped while a logger writes.
                fault, settled = str(error), settled and now - seen_at >= UNFINISHED_SECONDS
            except UnreadableTripError as error:
                fault = str(error)
        settled = settled or rows > 0
        return _Known(status.st_size, status.st_mtime_ns, seen_at, rows, fault if settled else "", settled)

    def _set_aside(self, name: str, fault: str) -> str:
        """Move a file to the quarantine; return why that was not possible, or an empty text."""
        folder = self.path / QUARANTINE
        try:
            folder.mkdir(exist_ok=True)
            # A user who may write trips may put a link here: nothing is written through one, nor over anything.
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _move_with_reason(self.path / name, descriptor, fault)
            finally:
                os.close(descriptor)
        except OSError as error:
            return f"{name} is unreadable ({fault}) and cannot be set aside: {error.strerror}"
        return ""

    def _count_quarantined(self) -> int:
        try:
            with os.scandir(self.path / QUARANTINE) as entries:
                return sum(1 for entry in entries if entry.name.lower().endswith(TRIP_SUFFIXES))
        except OSError:
            return 0


def _move_with_reason(trip: Path, folder: int, fault: str) -> None:
    """Move a trip into an open folder under a name that is free there, beside a file that says why.

    Raises:
        OSError: it cannot be moved; nothing is left beside it then.
    """
    for number in range(1_000):
        target = f"{trip.stem}.{number}{trip.suffix}" if number else trip.name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(f"{target}.reason", flags, 0o644, dir_fd=folder)
        except FileExistsError:
            continue
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{fault}\n")
        try:
            os.link(trip, target, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            os.unlink(f"{target}.reason", dir_fd=folder)
            continue
        except OSError:
            # A card with FAT knows no second name for a file; there the check and the move are two steps.
            if _is_taken(target, folder):
                os.unlink(f"{target}.reason", dir_fd=folder)
                continue
            os.rename(trip, target, dst_dir_fd=folder)
            return
        trip.unlink()
        return
    raise FileExistsError(errno.EEXIST, "a thousand trips of this name are there already")


def _is_taken(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
