"""The usable rows of each trip, kept on the car's disk, so that one new trip does not cost reading all others again.

Rows lie in packs: one for each time that trips were read, put together when there are many. A pack says of each of its
files by which bytes it was read; what is found under the same name and digest is not read again. It only saves time:
whatever is wrong with a pack, its trips are read again. Must not import flwr, torch or pandas.
"""

import bisect
import hashlib
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
FORMAT = 2
MOST_PACKS = 8
#: Names are put in their places one by one while they are fewer than one of so many.
FEW = 16
KEPT_FOLDERS = 4
SUFFIX = ".rows.npz"
File = tuple[str, str]
"""Name and digest."""
Counts = npt.NDArray[np.int64]
BROKEN = (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Pack:
    """Some trips, end to end.

    path: where it is kept; None while it is not. files: in the natural order of their names, as their rows are. sizes,
    sizes_read: int64 [files], usable rows of each, and with the others. errors: of the files that cannot be used.
    rows: values [rows, columns] and breaks [rows]; None while they are only on the disk.
    """

    path: Path | None
    files: list[File]
    sizes: Counts
    sizes_read: Counts
    errors: dict[File, DataError]
    rows: tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]] | None = None

    def load(self, columns: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return values [rows, columns] and breaks [rows]. Raises one of BROKEN for what cannot be used."""
        if self.rows is not None:
            return self.rows
        assert self.path is not None  # noqa: S101  # or it would have its rows
        with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            values, breaks = stored["values"], stored["breaks"]
        count = int(self.sizes.sum())
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
    digests = index.files()
    if not digests:
        raise no_trips(folder)
    place = _place(folder, kept, settings)
    packs = _known(place)
    files = [(name, digests[name]) for name in _ordered(digests, packs)]
    while True:
        known = {file for pack in packs for file in pack.files}
        new = [file for file in files if file not in known]
        fresh = [*packs, _read(folder, new, settings)] if new else packs
        try:
            joined = _join(files, fresh, len(settings.columns))
            break
        except BROKEN as error:
            log.warning("event=rows-unusable reason=%r", str(error))
            packs = []  # none of them is believed; with what is just read, joining cannot fail in this way
    if unchanged := index.unchanged(name for name, _ in new):
        _keep(place, packs, fresh, joined)
    if len(joined.errors) == len(files):
        raise none_usable([joined.errors[file] for file in files])
    assert joined.rows is not None  # noqa: S101  # they have just been joined
    return (
        Rows(
            *joined.rows,
            sizes=joined.sizes[[file not in joined.errors for file in files]] if joined.errors else joined.sizes,
            rows_read=int(joined.sizes_read.sum()),
            skipped=tuple(f"{file[0]}: {joined.errors[file].code}" for file in files if file in joined.errors),
        ),
        unchanged,
    )


def _ordered(names: Mapping[str, object], packs: list[Pack]) -> list[str]:
    """Return the names in natural order; those of the largest pack are in it already, and the others few."""
    largest = max((pack.files for pack in packs), key=len, default=[])
    ordered = [name for name, _ in largest if name in names]
    rest = names.keys() - set(ordered)
    if len(rest) * FEW > len(names):
        return sorted(names, key=natural_order)
    for name in rest:
        bisect.insort(ordered, name, key=natural_order)
    return ordered


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
                packs.append(_pack(path, json.loads(stored["trips"].tobytes()), stored["sizes"], stored["sizes_read"]))
        except BROKEN as error:
            log.warning("event=rows-unusable reason=%r", str(error))
    return packs


def _pack(path: Path, trips: dict[str, list[Any]], sizes: Counts, sizes_read: Counts) -> Pack:
    """Return a pack as it was kept. Raises one of BROKEN for what it cannot be."""
    files = list(zip(map(str, trips["names"]), map(str, trips["digests"]), strict=True))
    for counts in (sizes, sizes_read):
        if counts.dtype != np.int64 or counts.shape != (len(files),):
            raise ValueError(f"its counts are {counts.dtype} of {counts.shape}")
    if len({name for name, _ in files}) != len(files) or (sizes < 0).any() or (sizes > sizes_read).any():
        raise ValueError("its counts or names cannot be")
    errors = {files[at]: DataError(Code(code), str(message), str(hint)) for at, code, message, hint in trips["errors"]}
    return Pack(path, files, sizes, sizes_read, errors)


def _read(folder: Path, files: list[File], settings: Settings) -> Pack:
    """Read files; those that cannot be used are noted with the reason."""
    sizes, sizes_read = np.zeros((2, len(files)), dtype=np.int64)
    errors: dict[File, DataError] = {}
    values = [np.empty((0, len(settings.columns)), dtype=np.float32)]
    breaks = [np.empty(0, dtype=np.bool_)]
    for at, (name, digest) in enumerate(files):
        try:
            trip = read(folder / name, settings.columns)
        except DataError as error:
            errors[name, digest] = error
            continue
        own_values, own_breaks = segments(trip, settings.maximum_gap_factor)
        values.append(own_values)
        breaks.append(own_breaks)
        sizes[at], sizes_read[at] = len(own_values), trip.rows_read
    return Pack(None, files, sizes, sizes_read, errors, (np.concatenate(values), np.concatenate(breaks)))


def _join(files: list[File], packs: list[Pack], columns: int) -> Pack:
    """Return these files as one pack; of those in several packs the last. Raises one of BROKEN for one of no use."""
    place = {file: at for at, file in enumerate(files)}
    places = [np.array([place.get(file, -1) for file in pack.files], dtype=np.int64) for pack in packs]
    whose = np.full(len(files), -1)
    sizes, sizes_read = np.zeros((2, len(files)), dtype=np.int64)
    for number, (pack, to) in enumerate(zip(packs, places, strict=True)):
        wanted = to >= 0
        whose[to[wanted]] = number
        sizes[to[wanted]], sizes_read[to[wanted]] = pack.sizes[wanted], pack.sizes_read[wanted]
    errors = {
        file: error
        for number, pack in enumerate(packs)
        for file, error in pack.errors.items()
        if file in place and whose[place[file]] == number
    }
    values = np.empty((int(sizes.sum()), columns), dtype=np.float32)
    breaks = np.empty(len(values), dtype=np.bool_)
    starts = _starts(sizes)
    for number, (pack, to) in enumerate(zip(packs, places, strict=True)):
        chosen = (to >= 0) & (pack.sizes > 0)
        chosen[chosen] = whose[to[chosen]] == number
        if not chosen.any():
            continue
        own_values, own_breaks = pack.load(columns)
        for source, target, size in _stretches(_starts(pack.sizes)[chosen], starts[to[chosen]], pack.sizes[chosen]):
            values[target : target + size] = own_values[source : source + size]
            breaks[target : target + size] = own_breaks[source : source + size]
    return Pack(None, files, sizes, sizes_read, errors, (values, breaks))


def _starts(sizes: Counts) -> Counts:
    """Return the first row of each trip."""
    return np.asarray(np.cumsum(sizes) - sizes)


def _stretches(sources: Counts, targets: Counts, sizes: Counts) -> list[tuple[int, int, int]]:
    """Return (first row there, first row here, rows): trips that follow each other on both sides are one stretch."""
    begins = np.ones(len(sizes), dtype=bool)
    begins[1:] = (np.diff(sources) != sizes[:-1]) | (np.diff(targets) != sizes[:-1])
    firsts = np.flatnonzero(begins)
    rows = np.add.reduceat(sizes, firsts)
    return list(zip(sources[firsts].tolist(), targets[firsts].tolist(), rows.tolist(), strict=True))


def _keep(place: Path, packs: list[Pack], fresh: list[Pack], joined: Pack) -> None:
    """Write what was read, or everything as one pack when there are many, or too much of what is kept has gone.

    A disk that refuses it costs the next task some time, and no more.
    """
    held = sum(int(pack.sizes.sum()) for pack in packs)
    together = len(fresh) > MOST_PACKS or held > 2 * int(joined.sizes.sum())
    if fresh is packs and not together:
        return
    try:
        place.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.name.split(".")[0]) for path in place.glob(f"*{SUFFIX}")]
        path = place / f"{max(numbers, default=0) + 1:06}{SUFFIX}"
        _write(path, joined if together else fresh[-1])
        # Of packs that were not believed, too.
        stay = {path} if together else {path, *(pack.path for pack in packs)}
        for old in set(place.glob(f"*{SUFFIX}")) - stay:
            old.unlink(missing_ok=True)
        _forget_old(place.parent)
    except (OSError, ValueError) as error:
        log.warning("event=rows-not-written reason=%r", str(error))


def _write(path: Path, pack: Pack) -> None:
    trips = {
        "names": [name for name, _ in pack.files],
        "digests": [digest for _, digest in pack.files],
        "errors": [
            [at, error.code, error.message, error.hint]
            for at, file in enumerate(pack.files)
            if (error := pack.errors.get(file)) is not None
        ],
    }
    assert pack.rows is not None  # noqa: S101  # it was made from them
    values, breaks = pack.rows
    with write_atomically(path, mode=0o600) as stream:
        text = np.frombuffer(json.dumps(trips, separators=(",", ":")).encode(), dtype=np.uint8)
        np.savez(stream, trips=text, sizes=pack.sizes, sizes_read=pack.sizes_read, values=values, breaks=breaks)


def _forget_old(kept: Path) -> None:
    """Remove the packs of folders and columns that have not been used for long."""
    places = sorted(kept.iterdir(), key=lambda place: place.stat().st_mtime_ns, reverse=True)
    for old in places[KEPT_FOLDERS:]:
        shutil.rmtree(old, ignore_errors=True)
