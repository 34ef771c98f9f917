"""`fleven data describe`: what is in the folder that FLEVEn trains from, as the cars will read it.

Files are read as the app reads them (canonical names or their aliases, plain numbers), so that a column that the app
would refuse shows here as a problem. Must not import torch or flwr.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fleven.app import columns
from fleven.app.trips.reader import MAXIMUM_IMPLAUSIBLE_SHARE
from fleven.data.errors import InputError, Problem
from fleven.data.gaps import GAP_FACTOR, sampling
from fleven.data.layout import TRIP_SUFFIXES, Progress, client_folders, read_manifest, trip_files

if TYPE_CHECKING:
    from numpy.typing import NDArray


def describe(path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Describe a folder with `client_<n>` folders, a folder of trips, or one trip file.

    Returns a dictionary ready for JSON: `clients`, `trips`, `columns` (over all clients and for each), `problems`.

    Raises:
        InputError: nothing there can be read.
    """
    files = _files(path)
    manifest = read_manifest(path) if path.is_dir() else None
    trips: list[dict[str, Any]] = []
    frames: dict[int | None, list[pd.DataFrame]] = {}
    problems: list[Problem] = []
    for number, (client, file, name) in enumerate(files):
        try:
            frame, notes = read_trip(file, name)
        except InputError as error:
            problems += error.problems
        else:
            problems += notes
            frames.setdefault(client, []).append(frame)
            trips.append(_trip(client, name, frame))
        if progress:
            progress("Reading trips", number + 1, len(files))
    if not trips:
        raise InputError(problems)
    merged = {client: pd.concat(group, ignore_index=True) for client, group in frames.items()}
    return {
        "path": str(path),
        "synthetic": bool(manifest["synthetic"]) if manifest else _says_synthetic(files[0][1]),
        "made_by": manifest["made_by"] if manifest else None,
        "gap_factor": GAP_FACTOR,
        "clients": [_client(client, [trip for trip in trips if trip["client"] == client]) for client in merged],
        "columns": _columns(pd.concat(list(merged.values()), ignore_index=True)),
        "columns_of_clients": [
            {"client": client, "columns": _columns(frame)} for client, frame in merged.items() if client is not None
        ],
        "trips": trips,
        "problems": [problem.line() for problem in problems],
    }


def _files(path: Path) -> list[tuple[int | None, Path, str]]:
    """Return (client, file, name) of all trip files at `path`."""
    if not path.exists():
        raise InputError(Problem(str(path), "", "no such file or folder"))
    if path.is_file():
        if path.suffix.lower() not in TRIP_SUFFIXES:
            raise InputError(Problem(str(path), "", "is not a .parquet or .csv file", "fleven data import makes them"))
        return [(None, path, path.name)]
    clients = client_folders(path)
    if not clients:
        found: list[tuple[int | None, Path, str]] = [(None, file, file.name) for file in trip_files(path)]
    else:
        found = [
            (number, file, f"{folder.name}/{file.name}")
            for number, folder in clients.items()
            for file in trip_files(folder)
        ]
    if not found:
        hint = "fleven data import and fleven data synthesise write such folders"
        raise InputError(Problem(str(path), "", "holds no client_<n> folder with trips, and no trip", hint))
    return found


def _says_synthetic(file: Path) -> bool | None:
    """Whether a trip file without its manifest says that it is synthetic; None where it does not say."""
    if file.suffix.lower() != ".parquet":
        return True if file.name.startswith("synthetic-") else None
    try:
        said = (pq.read_schema(file).metadata or {}).get(b"fleven.synthetic")
    except (OSError, pa.ArrowInvalid):
        return None
    return None if said is None else said == b"true"


def read_trip(path: Path, name: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Read one trip as canonical columns, and what is wrong with it.

    Raises:
        InputError: it cannot be read, is empty, or has no clock.
    """
    try:
        if path.suffix.lower() == ".parquet":
            table = pq.read_table(path)
            unnamed = [column for column in table.column_names if column.startswith("__index_level_")]  # pandas' own
            raw = table.drop_columns(unnamed).to_pandas(ignore_metadata=True)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                raw = pd.read_csv(path, low_memory=False, index_col=False)
    except pd.errors.ParserWarning:
        raise InputError(Problem(name, "", "its rows have more cells than the header has names")) from None
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise InputError(Problem(name, "", f"cannot be read: {str(error).strip().splitlines()[0]}")) from error
    data: dict[str, Any] = {}
    problems: list[Problem] = []
    for header in raw.columns:
        found = columns.match(str(header))
        target = found.column.name if found else str(header)
        if target in data and target != str(header):
            continue
        values = pd.to_numeric(raw[header], errors="coerce")
        texts = np.flatnonzero(raw[header].notna() & values.isna())
        if len(texts):
            hint = "fleven data import takes units and decimal commas out of cells"
            if found:
                example = f"{str(raw[header].iloc[texts[0]])[:40]!r} in row {texts[0] + 2}"
                problem = f"{len(texts)} cells are not numbers, such as {example}"
                problems.append(Problem(name, str(header), problem, hint))
            if not values.notna().any():
                continue
        scale = (found.factor, found.offset) if found else (1.0, 0.0)
        data[target] = np.asarray(values, dtype=np.float64) * scale[0] + scale[1]
        problems += _refused(name, str(header), target, data[target])
    if not len(raw):
        raise InputError(Problem(name, "", "has no rows"))
    if columns.TIME_COLUMN not in data:
        hint = "is it a logger's own file? fleven data import reads those"
        raise InputError(Problem(name, columns.TIME_COLUMN, "no such column", hint))
    frame = pd.DataFrame(data)
    if (frame[columns.TIME_COLUMN].diff().dropna() <= 0).any():
        problems.append(Problem(name, columns.TIME_COLUMN, "does not rise everywhere", "fleven data import cuts trips"))
    return frame, problems


def _refused(name: str, header: str, target: str, values: NDArray[np.float64]) -> list[Problem]:
    """Return a problem if a car that trains on this column refuses the file: its unit is likely another one."""
    column = columns.CANONICAL.get(target)
    given = values[~np.isnan(values)]
    if column is None or target == columns.TIME_COLUMN or not len(given):
        return []
    share = float(((given < column.minimum) | (given > column.maximum)).mean())
    if share <= MAXIMUM_IMPLAUSIBLE_SHARE:
        return []
    problem = (
        f"{share:.0%} of the values are outside {column.minimum:g} to {column.maximum:g} {column.unit} "
        f"(smallest {given.min():g}, largest {given.max():g}): a car that trains on it refuses the file"
    )
    return [Problem(name, header, problem, f"{target} is read in {column.unit}")]


def _trip(client: int | None, name: str, frame: pd.DataFrame) -> dict[str, Any]:
    time = frame[columns.TIME_COLUMN].dropna().to_numpy()
    pace = sampling(time)
    signals = frame.drop(columns=columns.TIME_COLUMN)
    return {
        "file": name,
        "client": client,
        "rows": len(frame),
        "duration_seconds": round(float(time[-1] - time[0]), 3) if len(time) else 0.0,
        "interval_seconds": pace.interval_seconds,
        "gaps": pace.gaps,
        "longest_gap_seconds": pace.longest_gap_seconds,
        "missing_cells": int(signals.isna().sum().sum()),
    }


def _client(client: int | None, trips: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "client": client,
        "trips": len(trips),
        "rows": sum(trip["rows"] for trip in trips),
        "seconds": round(sum(trip["duration_seconds"] for trip in trips), 3),
        "interval_seconds": round(float(np.median([trip["interval_seconds"] for trip in trips])), 3),
        "gaps": sum(trip["gaps"] for trip in trips),
        "longest_gap_seconds": max(trip["longest_gap_seconds"] for trip in trips),
        "missing_cells": sum(trip["missing_cells"] for trip in trips),
    }


def _columns(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Describe each column but the clock; canonical ones first."""
    order = [name for name in columns.CANONICAL if name in frame] + sorted(
        str(name) for name in set(frame) - set(columns.CANONICAL)
    )
    described = []
    for name in (each for each in order if each != columns.TIME_COLUMN):
        values = frame[name].dropna()
        known = columns.CANONICAL.get(name)
        outside = int(((values < known.minimum) | (values > known.maximum)).sum()) if known else 0
        numbers = (values.min(), values.mean(), values.max()) if len(values) else (None, None, None)
        least, mean, most = (None if number is None else round(float(number), 4) for number in numbers)
        described.append(
            {
                "name": name,
                "unit": columns.unit_of(name),
                "values": len(values),
                "missing": len(frame) - len(values),
                "out_of_range": outside,
                "minimum": least,
                "mean": mean,
                "maximum": most,
            }
        )
    return described
