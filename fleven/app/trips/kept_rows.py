"""The usable rows of each trip, kept on the car's disk, so that one new trip does not cost reading all others again.

Rows lie in packs: one for each time that trips were read, put together when there are many. A pack says of each of its
files by which bytes it was read; what is found under the same name and digest is not read again. It only saves time:
whatever is wrong with a pack, its trips are read again. Must not import flwr, torch or pandas.
"""

import hashlib
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import Code, DataError
from ..files import write_atomically
from ..settings import Settings
from .index import TripIndex
from .reader import natural_order, no_trips, none_usable, read
from .windows import Rows, segments

log = logging.getLogger("fleven.app")

#: Raised whenever reader.py or windows.segments get other rows from the same file.
FORMAT = 1
MOST_PACKS = 8
KEPT_FOLDERS = 4
SUFFIX = ".rows.npz"
File = tuple[str, str]
"""Name and digest."""
BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Trip:
    """What was read of a file.

    rows: usable ones. rows_read: with the others. error: why the file cannot be used.
    """

    rows: int
    rows_read: int
    error: DataError | None = None


@dataclass(frozen=True)
class Pack:
    """Some trips, end to end.

    path: where it is kept; None while it is not. trips: in the order of their rows.
    """

    path: Path | None
    trips: dict[File, Trip]
    rows: tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]] | None = None

    def load(self, columns: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return values [rows, columns] and breaks [rows]. Raises one of BROKEN for what cannot be used."""
        if self.rows is not None:
            return self.rows
        assert self.path is not None  # noqa: S101  # or it would have its rows
        with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            values, breaks = stored["values"], stored["breaks"]
        count = sum(trip.rows for trip in self.trips.values())
        if values.dtype != np.float32 or values.shape != (count, columns):
            raise ValueError(f"its readings are {values.dtype} of {values.shape}")
        if breaks.dtype != np.bool_ or breaks.shape != (count,):
            raise ValueError(f"its breaks are {breaks.dtype} of {breaks.shape}")
        return values, breaks


def rows_of(folder: Path, index: TripIndex, kept: Path, settings: Settings) -> tuple[Rows, bool]:
    """Return the rows of all trips in a folder, as windows.Rows.of(read_all(find(folder))) would; read what is new.

    Besides, whether these rows are of the bytes that the index knows: not when a file was changed meanwhile.
    index: of that folder. kept: folder for packs. Raises DataError when no file can be used, OSError as the index.
    """
    files = sorted(index.files().items(), key=lambda file: natural_order(file[0]))
    if not files:
        raise no_trips(folder)
    place = _place(folder, kept, settings)
    packs = _known(place)
    while True:
        known = {file for pack in packs for file in pack.trips}
        new = [file for file in files if file not in known]
        fresh = [*packs, _read(folder, new, settings)] if new else packs
        try:
            joined, trips = _join(files, fresh, len(settings.columns))
            break
        except BROKEN as error:
            log.warning("event=rows-unusable reason=%r", str(error))
            packs = []  # none of them is believed; with what is just read, joining cannot fail in this way
    if unchanged := index.unchanged():
        _keep(place, files, packs, fresh, (joined, trips))
    if all(trip.error for trip in trips.values()):
        raise none_usable([trip.error for trip in trips.values() if trip.error])
    return joined, unchanged


def _place(folder: Path, kept: Path, settings: Settings) -> Path:
    """Return the folder of the packs that hold these columns of these files."""
    facts = [FORMAT, os.fspath(folder.absolute()), settings.columns, settings.maximum_gap_factor]
    return kept / hashlib.blake2b(json.dumps(facts).encode(errors="surrogateescape"), digest_size=12).hexdigest()


def _known(place: Path) -> list[Pack]:
    """Return the packs in a folder, without their rows."""
    packs = []
    for path in sorted(place.glob(f"*{SUFFIX}")):
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                packs.append(Pack(path, dict(_trip(*entry) for entry in json.loads(str(stored["trips"])))))
        except BROKEN as error:
            log.warning("event=rows-unusable reason=%r", str(error))
    return packs


def _trip(name: str, digest: str, rows: int, rows_read: int, error: list[str] | None) -> tuple[File, Trip]:
    if not (type(rows) is type(rows_read) is int and 0 <= rows <= rows_read):
        raise ValueError(f"{rows!r} of {rows_read!r} rows")
    reason = None if error is None else DataError(Code(error[0]), *map(str, error[1:]))
    return (str(name), str(digest)), Trip(rows, rows_read, reason)


def _read(folder: Path, files: Iterable[File], settings: Settings) -> Pack:
    """Read files; those that cannot be used are noted with the reason."""
    trips: dict[File, Trip] = {}
    values = [np.empty((0, len(settings.columns)), dtype=np.float32)]
    breaks = [np.empty(0, dtype=np.bool_)]
    for name, digest in files:
        try:
            trip = read(folder / name, settings.columns)
        except DataError as error:
            trips[name, digest] = Trip(0, 0, error)
            continue
        own_values, own_breaks = segments(trip, settings.maximum_gap_factor)
        values.append(own_values)
        breaks.append(own_breaks)
        trips[name, digest] = Trip(len(values[-1]), trip.rows_read)
    return Pack(None, trips, (np.concatenate(values), np.concatenate(breaks)))


def _join(files: list[File], packs: list[Pack], columns: int) -> tuple[Rows, dict[File, Trip]]:
    """Return the rows of these files, and what is known of each. Raises one of BROKEN for a pack that is of no use."""
    whose = {file: number for number, pack in enumerate(packs) for file in pack.trips}
    trips = {file: packs[whose[file]].trips[file] for file in files}
    sizes = np.array([trip.rows for trip in trips.values()], dtype=np.int64)
    ends = np.cumsum(sizes)
    values = np.empty((int(sizes.sum()), columns), dtype=np.float32)
    breaks = np.empty(len(values), dtype=np.bool_)
    start_of = dict(zip(files, (ends - sizes).tolist(), strict=True))
    for number, pack in enumerate(packs):
        if not any(trip.rows and whose[file] == number and file in start_of for file, trip in pack.trips.items()):
            continue
        own_values, own_breaks = pack.load(columns)
        at = 0
        for file, trip in pack.trips.items():
            to = start_of.get(file)
            if to is not None and whose[file] == number:
                values[to : to + trip.rows] = own_values[at : at + trip.rows]
                breaks[to : to + trip.rows] = own_breaks[at : at + trip.rows]
            at += trip.rows
    usable = np.array([trip.error is None for trip in trips.values()], dtype=bool)
    skipped = tuple(f"{name}: {trip.error.code}" for (name, _), trip in trips.items() if trip.error)
    return Rows(values, breaks, sizes[usable], sum(trip.rows_read for trip in trips.values()), skipped), trips


def _keep(
    place: Path, files: list[File], packs: list[Pack], fresh: list[Pack], whole: tuple[Rows, dict[File, Trip]]
) -> None:
    """Write what was read, or everything as one pack when there are many, or too much of what is kept has gone.

    A disk that refuses it costs the next task some time, and no more.
    """
    held = sum(trip.rows for pack in packs for trip in pack.trips.values())
    together = len(fresh) > MOST_PACKS or held > 2 * len(whole[0].values)
    if fresh is packs and not together:
        return
    try:
        place.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.name.split(".")[0]) for path in place.glob(f"*{SUFFIX}")]
        path = place / f"{max(numbers, default=0) + 1:06}{SUFFIX}"
        pack = Pack(path, whole[1], (whole[0].values, whole[0].breaks)) if together else fresh[-1]
        _write(path, pack)
        # Of packs that were not believed, too.
        stay = {path} if together else {path, *(pack.path for pack in packs)}
        for old in set(place.glob(f"*{SUFFIX}")) - stay:
            old.unlink(missing_ok=True)
        _forget_old(place.parent)
    except (OSError, ValueError) as error:
        log.warning("event=rows-not-written reason=%r", str(error))


def _write(path: Path, pack: Pack) -> None:
    entries = [
        [*file, trip.rows, trip.rows_read, trip.error and [trip.error.code, trip.error.message, trip.error.hint]]
        for file, trip in pack.trips.items()
    ]
    assert pack.rows is not None  # noqa: S101  # it was made from them
    with write_atomically(path, mode=0o600) as stream:
        trips = np.array(json.dumps(entries, separators=(",", ":")))
        np.savez(stream, trips=trips, values=pack.rows[0], breaks=pack.rows[1])


def _forget_old(kept: Path) -> None:
    """Remove the packs of folders and columns that have not been used for long."""
    places = sorted(kept.iterdir(), key=lambda place: place.stat().st_mtime_ns, reverse=True)
    for old in places[KEPT_FOLDERS:]:
        shutil.rmtree(old, ignore_errors=True)
