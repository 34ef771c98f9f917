"""Find and read one car's trips: CSV or Parquet files, checked column by column.

A file that cannot be used is left out with its reason; the car answers with an error only when nothing is left.
A reason leaves the car: it names columns and rows, and never a reading. Must not import flwr or torch.
"""

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .. import columns
from ..errors import Code, DataError

SUFFIXES = (".csv", ".parquet")
#: More implausible cells than this in one column say that the column is in another unit or is another reading.
MAXIMUM_IMPLAUSIBLE_SHARE = 0.2
DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Trip:
    """One file's usable rows.

    time: float64 [rows], seconds. values: float32 [rows, columns], in the order asked for, physical units.
    """

    name: str
    time: npt.NDArray[np.float64]
    values: npt.NDArray[np.float32]
    rows_read: int
    dropped_missing: int
    dropped_implausible: int


@dataclass(frozen=True)
class Trips:
    """All usable trips of a car, and the files left out with the reason of each."""

    trips: list[Trip]
    skipped: dict[str, DataError] = field(default_factory=dict)


def folder_of(node_config: dict[str, object], data_base_path: str, given: int | None = None) -> Path:
    """Return the folder with this car's trips: the node's own `data-path`, else `client_<partition-id>`.

    given: the partition under which the run knows this car; its folder bears the number in its own configuration where
    that has one. Raises DataError(partition-unknown) without any, which a car needs even with a `data-path`: the run's
    tables and seeds know it by that number.
    """
    partition = node_config.get("partition-id", given)
    if isinstance(partition, bool) or not isinstance(partition, int) or partition < 0:
        raise DataError(
            Code.PARTITION_UNKNOWN,
            "the node's configuration has no partition-id",
            "fleven-agent gives it; start another SuperNode with --node-config 'partition-id=0 num-partitions=3'",
        )
    own = str(node_config.get("data-path", "") or "")
    return Path(own) if own else Path(data_base_path) / f"client_{partition}"


def find(folder: Path) -> list[Path]:
    """Return the trip files directly in `folder`, in the order of the numbers in their names.

    Raises DataError(data-missing | data-empty).
    """
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        raise DataError(
            Code.DATA_MISSING,
            f"{folder}: no such folder",
            "copy the car's trips there, or set data-path in node.toml",
        ) from None
    except OSError as error:
        raise DataError(Code.DATA_UNREADABLE, f"{folder}: {error.strerror or error}") from None
    files = [path for path in entries if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not files:
        raise no_trips(folder)
    return sorted(files, key=lambda path: natural_order(path.name))


def no_trips(folder: Path) -> DataError:
    """Return the error of a folder that holds no trip, with what it may be instead."""
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    hint = f"did you mean the folder {folder / inner[0]}?" if inner else "`fleven data import` writes such files"
    return DataError(Code.DATA_EMPTY, f"{folder}: holds no .csv or .parquet file", hint)


def read_all(files: list[Path], names: tuple[str, ...]) -> Trips:
    """Read every file; raise the first file's DataError when none can be used."""
    trips: list[Trip] = []
    skipped: dict[str, DataError] = {}
    for path in files:
        try:
            trips.append(read(path, names))
        except DataError as error:
            skipped[path.name] = error
    if not trips:
        raise none_usable(list(skipped.values()))
    return Trips(trips, skipped)


def none_usable(reasons: list[DataError]) -> DataError:
    """Return the error of a car none of whose files can be used, from that of each."""
    first = reasons[0]
    more = f"; and {len(reasons) - 1} more files cannot be used" if len(reasons) > 1 else ""
    return DataError(first.code, first.message + more, first.hint)


def read(path: Path, names: tuple[str, ...]) -> Trip:
    """Read one trip.

    names: the columns wanted, canonical or the operator's own. Rows that lack any of them, or that hold a value
    outside its column's plausible range, are dropped (which leaves a gap that no window crosses).

    Raises DataError(data-unreadable | data-empty | column-missing | column-not-numeric | values-out-of-range).
    """
    wanted = (columns.TIME_COLUMN, *names)
    sources = _match_headers(path, _header(path), wanted)
    table = _load(path, sorted({source for source, _, _ in sources.values()}))
    if not len(table):
        raise DataError(Code.DATA_EMPTY, f"{path}: has no rows")
    raw = np.column_stack([_numbers(path, name, table[sources[name][0]], sources[name]) for name in wanted])
    missing = np.isnan(raw).any(axis=1)
    implausible = np.column_stack([_implausible(path, name, raw[:, i]) for i, name in enumerate(wanted)]).any(axis=1)
    keep = ~(missing | implausible)
    return Trip(
        name=path.name,
        time=raw[keep, 0],
        values=raw[keep, 1:].astype(np.float32),
        rows_read=len(raw),
        dropped_missing=int(missing.sum()),
        dropped_implausible=int((implausible & ~missing).sum()),
    )


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """Return what sorts names of files by the numbers in them; no two names have the same."""
    parts: list[tuple[int, int | str]] = [
        (0, int(part)) if part.isdigit() else (1, part) for part in DIGITS.split(name) if part
    ]
    return [*parts, (-1, name)]  # trip_1 and trip_01


def _header(path: Path) -> list[str]:
    import pandas as pd  # loaded only by tasks that read files: it costs a second on a Pi
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            return [str(name) for name in pq.read_schema(path).names]
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return [str(name) for name in pd.read_csv(path, nrows=1, index_col=False).columns]
    except pd.errors.ParserWarning:  # pandas warns unless what is too much is one empty cell
        raise DataError(
            Code.DATA_UNREADABLE,
            f"{path}: its rows have more cells than the header has names",
            "name the first column, or quote decimal commas; `fleven data import` reads other formats",
        ) from None
    except pd.errors.EmptyDataError:
        raise DataError(Code.DATA_EMPTY, f"{path}: is empty") from None
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pa.ArrowInvalid) as error:
        raise DataError(Code.DATA_UNREADABLE, f"{path}: {_first_line(error)}") from None


def _load(path: Path, sources: list[str]):  # type: ignore[no-untyped-def]  # a DataFrame; pandas is loaded lazily
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            # A column that was pandas' index when the file was written is a column like the others.
            return pq.read_table(path, columns=sources).to_pandas(ignore_metadata=True)
        # Without index_col, pandas makes an index of the first column where rows end in a comma, and shifts all others.
        return pd.read_csv(path, usecols=sources, low_memory=False, index_col=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pa.ArrowInvalid) as error:
        raise DataError(Code.DATA_UNREADABLE, f"{path}: {_first_line(error)}") from None


def _match_headers(path: Path, header: list[str], wanted: tuple[str, ...]) -> dict[str, tuple[str, float, float]]:
    """Return for each wanted column (header in the file, factor, offset); the exact name wins over an alias."""
    found: dict[str, tuple[str, float, float]] = {}
    for name in header:
        match = columns.match(name)
        if match is not None and match.column.name in wanted:
            found.setdefault(match.column.name, (name, match.factor, match.offset))
    found |= {name: (name, 1.0, 0.0) for name in header if name in wanted}
    if missing := [name for name in wanted if name not in found]:
        raise DataError(
            Code.COLUMN_MISSING,
            f"{path}: lacks {', '.join(missing)}; {_what_it_has(header)}",
            "`fleven data import --help` shows the names it knows and how to add one",
        )
    return found


def _what_it_has(header: list[str]) -> str:
    """Name the columns, unless the first line holds readings: those do not leave the car."""
    if any(re.search(r"(?:^|[;|\t])\s*[-+.,]?\d", name) for name in header):
        return "its first line holds numbers instead of names"
    return f"it has {', '.join(header[:20])}"


def _numbers(path: Path, name: str, series, source: tuple[str, float, float]) -> npt.NDArray[np.float64]:  # type: ignore[no-untyped-def]
    import pandas as pd

    header, factor, offset = source
    if not pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype):
        given = series.notna()
        converted = pd.to_numeric(series.astype(str), errors="coerce")  # as text: True is not a number
        bad = series[given & converted.isna()]
        if len(bad):
            row = int(bad.index[0]) + 2  # one for the header, one because people count from 1
            raise DataError(
                Code.COLUMN_NOT_NUMERIC,
                f"{path}: column {header}: row {row} holds no number",
                "`fleven data describe` on the car shows the cell; "
                "`fleven data import` takes units and decimal commas out of cells",
            )
        series = converted
    return np.asarray(series, dtype=np.float64) * factor + offset


def _implausible(path: Path, name: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    column = columns.CANONICAL.get(name)
    if column is None or name == columns.TIME_COLUMN:
        return np.isinf(values)
    outside = (values < column.minimum) | (values > column.maximum)
    given = int((~np.isnan(values)).sum())
    if given and outside.sum() > MAXIMUM_IMPLAUSIBLE_SHARE * given:
        raise DataError(
            Code.VALUES_OUT_OF_RANGE,
            f"{path}: {name}: {outside.sum() / given:.0%} of the values are outside "
            f"{column.minimum:g} to {column.maximum:g} {column.unit}",
            f"{name} is read in {column.unit}; `fleven data describe` on the car shows the values",
        )
    return outside


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
