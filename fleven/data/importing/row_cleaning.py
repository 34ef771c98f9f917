"""One log file to clean rows: which clock, which columns, which vehicle, and every cell and row that was left out.

Must not import torch or flwr.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from fleven.app import columns
from fleven.data.errors import Problem
from fleven.data.importing import cell_parsing
from fleven.data.importing.column_mapping import Candidate, Split, known_header
from fleven.data.importing.column_selection import Choice, FileError, Options, choose
from fleven.data.importing.log_reader import LogTable, UnreadableError, read_log

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fleven.data.importing.input_files import Source


class Dropped(StrEnum):
    """Why a row is not in the output. The values never change once shipped: manifests hold them."""

    BROKEN_LINE = "broken-line"  # another number of cells than the header
    REPEATED_HEADER = "repeated-header"
    NO_VEHICLE = "no-vehicle"  # the vehicle's cell is empty
    NO_CLOCK = "no-clock"  # the clock's cell is empty or can not be read
    NO_READING = "no-reading"  # not one value in any column
    DUPLICATE_TIME = "duplicate-time"  # merged into the first row of that time
    SHORT_TRIP = "short-trip"  # in a trip with fewer rows than --min-rows


ONLY_VEHICLE: Final = "vehicle"


@dataclass(slots=True)
class FileRows:
    """A file's usable rows in file order, and the account of all others.

    `frame` holds `time_sec` [s] and the canonical columns; `vehicle` and `trip` are labels [rows], `trip` None where
    the file has no such column. `about` is the file's part of the manifest.
    """

    name: str
    frame: pd.DataFrame
    vehicle: NDArray[np.object_]
    trip: NDArray[np.object_] | None
    absolute: bool
    dropped: Counter[tuple[str, Dropped]]
    about: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def read_rows(source: Source, options: Options) -> FileRows:
    """Read one file.

    Raises:
        FileError: no table, no clock, no usable column, unknown `--by` column, unknown unit.
    """
    rules = options.rules
    try:
        table = read_log(
            source.path,
            lambda header: known_header(header, rules),
            delimiter=options.delimiter,
            encoding=options.encoding,
        )
    except UnreadableError as error:
        raise FileError([Problem(source.name, "", str(error), error.hint)]) from error
    return _Reader(table, source, choose(table, source.name, options), options).rows()


class _Reader:
    """The steps from a file's choice of columns to its rows, with the account of what is left out."""

    def __init__(self, table: LogTable, source: Source, choice: Choice, options: Options) -> None:
        self._table = table
        self._source = source
        self._choice = choice
        self._options = options
        self._roles = choice.roles

    def _vehicles(self) -> NDArray[np.object_]:
        rows = self._table.rows
        by = self._options.rules.by
        if self._roles.vehicle is not None:
            return labels(self._table.columns[self._roles.vehicle])
        if by == Split.FILE:
            return np.full(rows, self._source.stem, dtype=object)
        if by == Split.FOLDER:
            return np.full(rows, self._source.folder, dtype=object)
        # A folder that FLEVEn wrote: each client in it was a car.
        own = by is None and re.fullmatch(r"(?:.*/)?client_\d+", self._source.folder)
        return np.full(rows, self._source.folder if own else ONLY_VEHICLE, dtype=object)

    def rows(self) -> FileRows:
        """Return the rows with a vehicle, a clock and a reading."""
        signals = self._choice.signals
        for header in self._roles.ignored:
            if cell_parsing.is_empty(self._table.columns[self._table.headers.index(header)]):
                self._roles.ignored[header] = "empty"
        about_columns, data = [], {columns.TIME_COLUMN: self._choice.clock.seconds}
        order = [*columns.CANONICAL, *sorted(set(signals) - set(columns.CANONICAL))]
        for target in (name for name in order if name in signals):
            candidate, parsed = signals[target]
            outside = _outside(target, parsed.values)
            parsed.values[outside] = np.nan
            data[target] = parsed.values
            about_columns.append(_about(candidate, parsed, int(outside.sum())))
        frame = pd.DataFrame(data)
        vehicle = self._vehicles()
        trip = None if self._roles.trip is None else labels(self._table.columns[self._roles.trip])
        reason = self._reasons(frame, vehicle)
        dropped: Counter[tuple[str, Dropped]] = Counter()
        for why in (Dropped.REPEATED_HEADER, Dropped.NO_VEHICLE, Dropped.NO_CLOCK, Dropped.NO_READING):
            here = reason == why
            names = vehicle[here] if why not in (Dropped.REPEATED_HEADER, Dropped.NO_VEHICLE) else [""] * here.sum()
            dropped.update((str(name), why) for name in names)
        dropped["", Dropped.BROKEN_LINE] = self._table.rows_broken
        keep = reason == ""
        about = {
            "name": self._source.name,
            "synthetic": self._table.synthetic or self._source.name.rpartition("/")[2].startswith("synthetic-"),
            "encoding": self._table.encoding or None,
            "delimiter": self._table.delimiter or None,
            "decimal": self._choice.decimal,
            "clock": self._choice.about_clock,
            "vehicle_column": self._header(self._roles.vehicle),
            "trip_column": self._header(self._roles.trip),
            "columns": about_columns,
            "ignored": [{"source": header, "reason": why} for header, why in self._roles.ignored.items()],
            "rows_read": self._table.rows + self._table.rows_broken,
        }
        return FileRows(
            self._source.name,
            frame[keep].reset_index(drop=True),
            vehicle[keep],
            None if trip is None else trip[keep],
            self._choice.clock.absolute,
            +dropped,
            about,
            self._choice.notes,
        )

    def _header(self, index: int | None) -> str | None:
        return None if index is None else self._table.headers[index]

    def _reasons(self, frame: pd.DataFrame, vehicle: NDArray[np.object_]) -> NDArray[np.object_]:
        """Return why each row is dropped, an empty text for the rows that stay; the first reason counts."""
        reason = np.full(len(frame), "", dtype=object)
        signals = frame.drop(columns=columns.TIME_COLUMN)
        reason[signals.isna().all(axis=1).to_numpy()] = Dropped.NO_READING
        reason[frame[columns.TIME_COLUMN].isna().to_numpy()] = Dropped.NO_CLOCK
        reason[vehicle == ""] = Dropped.NO_VEHICLE
        source = self._choice.about_clock["column"]
        if source is not None:
            column = self._table.columns[self._table.headers.index(source)]
            if cell_parsing.is_text(column):
                import pyarrow.compute as pc

                again = pc.equal(pc.utf8_trim_whitespace(column), source)
                reason[pc.fill_null(again, False).to_numpy()] = Dropped.REPEATED_HEADER
        return reason


def labels(column: Any) -> NDArray[np.object_]:
    """Return a column of names as text [rows], an empty text for no name; `8.0` is the vehicle 8."""
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(pc.fill_null(pc.cast(column, pa.string()), "")).combine_chunks()
    texts = [re.sub(r"^(\d+)\.0+$", r"\1", str(text).strip()) for text in encoded.dictionary.to_pylist()]
    names = np.array(["" if text.lower() in cell_parsing.MISSING else text for text in texts], dtype=object)
    taken: NDArray[np.object_] = names[encoded.indices.to_numpy(zero_copy_only=False)]
    return taken


def _outside(target: str, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    column = columns.CANONICAL.get(target)
    if column is None:
        return np.zeros(len(values), dtype=bool)
    outside: NDArray[np.bool_] = (values < column.minimum) | (values > column.maximum)
    return outside


def _about(candidate: Candidate, parsed: cell_parsing.Parsed, outside: int) -> dict[str, Any]:
    written = [unit for unit in parsed.units if unit] or ([candidate.unit] if candidate.unit else [])
    return {
        "name": candidate.target,
        "unit": columns.unit_of(candidate.target) or (written[0] if written else ""),
        "source": candidate.header,
        "source_units": written,
        "decimal": parsed.decimal or None,
        "values": parsed.readable - outside,
        "missing": parsed.missing,
        "unreadable": parsed.unreadable,
        "example_unreadable": parsed.example or None,
        "out_of_range": outside,
    }
