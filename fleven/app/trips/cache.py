"""Prepared windows kept on the car's disk, so that each round does not read and check the trips again.

An entry is keyed by the bytes of the trip files and the settings that shape windows. It only saves time: whatever is
wrong with it, it is made again, from the rows that are kept of each trip. Must not import flwr, torch or pandas.
"""

import hashlib
import json
import logging
import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from ..files import write_atomically
from ..settings import Settings
from .index import TripIndex
from .kept_rows import rows_of
from .windows import Prepared, Statistics, prepare, window

log = logging.getLogger("fleven.app")

#: Raised whenever reader.py or windows.py get other rows or windows from the same files.
FORMAT = 3
KEPT_ENTRIES = 4
_SHAPING = ("target_column", "feature_columns", "sequence_length", "prediction_length", "train_test_split")
_RULES = ("split_by", "maximum_gap_factor")


def cache_folder() -> Path:
    """Return where entries live: below FLWR_HOME, the one folder that a ClientApp can always write to."""
    home = os.environ.get("FLWR_HOME", "")
    return (Path(home) if home else Path.home() / ".flwr") / "cache" / "fleven-windows"


def prepare_cached(folder: Path, settings: Settings) -> Prepared:
    """Like windows.prepare, but from the cache where it holds this very data. Raises the same DataErrors."""
    if not settings.cache_windows:
        return prepare(folder, settings)
    try:
        index = TripIndex(folder, cache_folder())
        content = index.content()
        entry = _entry(content, settings)
        prepared = _load(entry, settings)
        if prepared is None:
            rows, unchanged = rows_of(folder, index, cache_folder() / "trips", settings)
            prepared = window(rows, settings)
            if unchanged:
                _store(entry, prepared)
    except OSError:  # a trip that cannot be read: reading it says so with a code
        return prepare(folder, settings)
    return prepared


def _entry(content: str, settings: Settings) -> Path:
    """Return where the windows of trips with this content are kept."""
    rules = {name: getattr(settings, name) for name in (*_SHAPING, *_RULES)}
    text = json.dumps([FORMAT, rules, content], sort_keys=True)
    return cache_folder() / f"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.npz"


def _store(entry: Path, prepared: Prepared) -> None:
    """Write an entry and remove old ones; a disk that refuses it costs the next task some time, and no more."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(entry, mode=0o600) as stream:
            _write(stream, prepared)
        entries = sorted(entry.parent.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for old in entries[KEPT_ENTRIES:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("event=cache-not-written reason=%r", str(error))


def _write(stream: IO[bytes], prepared: Prepared) -> None:
    statistics = prepared.statistics
    facts = {
        "count": statistics.count,
        "trips": prepared.trips,
        "rows_read": prepared.rows_read,
        "rows_dropped": prepared.rows_dropped,
        "gaps": prepared.gaps,
        "skipped": list(prepared.skipped),
    }
    np.savez(
        stream,
        facts=np.array(json.dumps(facts)),
        values=prepared.values,
        train_starts=prepared.train_starts.astype(np.int32),
        test_starts=prepared.test_starts.astype(np.int32),
        mean=statistics.mean,
        deviation=statistics.deviation,
    )


def _load(entry: Path, settings: Settings) -> Prepared | None:
    """Return what an entry holds; None where there is none that can be used."""
    try:
        with entry.open("rb") as stream:
            return _checked(_read(stream), settings)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("event=cache-unusable reason=%r", str(error))
        return None


def _read(stream: IO[bytes]) -> Prepared:
    with np.load(stream, allow_pickle=False) as stored:
        facts = json.loads(str(stored["facts"]))
        return Prepared(
            values=stored["values"],
            train_starts=stored["train_starts"].astype(np.int64),
            test_starts=stored["test_starts"].astype(np.int64),
            statistics=Statistics(facts["count"], stored["mean"], stored["deviation"]),
            trips=facts["trips"],
            rows_read=facts["rows_read"],
            rows_dropped=facts["rows_dropped"],
            gaps=facts["gaps"],
            skipped=tuple(facts["skipped"]),
        )


def _checked(prepared: Prepared, settings: Settings) -> Prepared:
    """Return it. Raises ValueError for what these windows cannot be: training follows the starts without looking."""
    columns, values = len(settings.columns), prepared.values
    if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] != columns:
        raise ValueError(f"its readings are {values.dtype} of {values.shape}")
    last = len(values) - settings.span
    for starts in (prepared.train_starts, prepared.test_starts):
        if starts.ndim != 1 or (len(starts) and not 0 <= starts.min() <= starts.max() <= last):
            raise ValueError("its windows are not within its readings")
    statistics = prepared.statistics
    if statistics.mean.shape != (columns,) or statistics.deviation.shape != (columns,):
        raise ValueError("its statistics are of other columns")
    if not all(isinstance(count, int) for count in (statistics.count, prepared.trips, prepared.gaps)):
        raise ValueError("its counts are not numbers")
    return prepared
