"""Prepared windows kept on the car's disk, so that each round does not read and check the trips again.

An entry is keyed by the bytes of the trip files and the settings that shape windows. It is a help and never a
source of trouble: whatever is wrong with it, the trips are read again. Must not import flwr, torch or pandas.
"""

import hashlib
import json
import logging
import os
import zipfile
from pathlib import Path

import numpy as np

from ..files import write_atomically
from ..settings import Settings
from .reader import find, read_all
from .windows import Prepared, Statistics, window

log = logging.getLogger("fleven.app")

#: Raised whenever trips.py or data.py come to other rows or windows from the same files.
FORMAT = 2
KEPT_ENTRIES = 4
_SHAPING = ("target_column", "feature_columns", "sequence_length", "prediction_length", "train_test_split")
_RULES = ("split_by", "maximum_gap_factor")


def cache_folder() -> Path:
    """Return where entries live: below FLWR_HOME, the one folder that a ClientApp can surely write to."""
    home = os.environ.get("FLWR_HOME", "")
    return (Path(home) if home else Path.home() / ".flwr") / "cache" / "fleven-windows"


def prepare_cached(folder: Path, settings: Settings) -> Prepared:
    """Like data.prepare, but from the cache where it holds this very data. Raises the same DataErrors."""
    files = find(folder)
    if not settings.cache_windows:
        return window(read_all(files, settings.columns), settings)
    try:
        entry = cache_folder() / f"{entry_key(files, settings)}.npz"
    except OSError:  # a trip that can not be read: reading it says so with a code
        return window(read_all(files, settings.columns), settings)
    try:
        return _load(entry)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("event=cache-unusable reason=%r", str(error))
    prepared = window(read_all(files, settings.columns), settings)
    try:
        _store(entry, prepared)
    except OSError as error:
        log.warning("event=cache-not-written reason=%r", str(error))
    return prepared


def entry_key(files: list[Path], settings: Settings) -> str:
    """Return the key of these files' content under these settings.

    Modification times are not trusted: a Pi has no clock of its own while it is off.
    """
    digest = hashlib.blake2b(digest_size=16)
    rules = {name: getattr(settings, name) for name in (*_SHAPING, *_RULES)}
    digest.update(json.dumps([FORMAT, rules], sort_keys=True).encode())
    for path in files:
        with path.open("rb") as stream:
            digest.update(f"\0{path.name}\0".encode())
            digest.update(hashlib.file_digest(stream, "blake2b").digest())
    return digest.hexdigest()


def _store(entry: Path, prepared: Prepared) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    statistics = prepared.statistics
    facts = {
        "count": statistics.count,
        "trips": prepared.trips,
        "rows_read": prepared.rows_read,
        "rows_dropped": prepared.rows_dropped,
        "gaps": prepared.gaps,
        "skipped": list(prepared.skipped),
    }
    with write_atomically(entry, mode=0o600) as stream:
        np.savez(
            stream,
            facts=np.array(json.dumps(facts)),
            values=prepared.values,
            train_starts=prepared.train_starts.astype(np.int32),
            test_starts=prepared.test_starts.astype(np.int32),
            mean=statistics.mean,
            deviation=statistics.deviation,
        )
    entries = sorted(entry.parent.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for old in entries[KEPT_ENTRIES:]:
        old.unlink(missing_ok=True)


def _load(entry: Path) -> Prepared:
    with entry.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
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
