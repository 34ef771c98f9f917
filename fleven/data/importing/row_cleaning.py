"""From one log file to clean rows: which clock, which columns, which vehicle, and every cell and row that was left out.

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
from fleven.data.importing.clock import ClockKind
from fleven.data.importing.column_mapping import Split, known_header
from fleven.data.importing.column_selection import NOT_AVAILABLE, Choice, FileError, Options, Signal, choose, joined
from fleven.data.importing.log_reader import read_log
from fleven.data.importing.log_table import LogTable, Section, UnreadableError
from fleven.data.importing.reshaping import reshaped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fleven.data.importing.input_files import Source


class Dropped(StrEnum):
    """Why a row is not in the output. The values never change once shipped: manifests hold them."""

    BROKEN_LINE = "broken-line"  # a different number of cells than the header
    ABOVE_HEADER = "above-header"  # above the first header, so that nobody names its columns
    REPEATED_HEADER = "repeated-header"  # a header, or a row of units, after the first
    NO_VEHICLE = "no-vehicle"  # the vehicle's cell is empty
    NO_CLOCK = "no-clock"  # the clock's cell is empty or cannot be read
    NO_READING = "no-reading"  # not one value in any column
    ONE_READING = "one-reading"  # a line with one reading, which went into the row of another
    DUPLICATE_TIME = "duplicate-time"  # merged into the first row of that time
    SHORT_TRIP = "short-trip"  # in a trip with fewer rows than --min-rows


ONLY_VEHICLE: Final = "vehicle"
# Readings too, so that they count only where another column of the row says the same; 254 is J1939's "error".
_NOT_AVAILABLE_BESIDE: Final = {
    "vehicle_speed": (255.0,),
    "engine_rpm": (8192.0,),
    "calculated_load_value": (254.0,),
    "engine_coolant_temp": (215.0,),
    "intake_air_temp": (215.0,),
}
# Ends of a range that only a broken sensor or a missing answer gives; 100 % of load, throttle or tank are driven.
_ENDS: Final = {
    "vehicle_speed": (255.0,),
    "engine_rpm": (16383.75,),
    "mass_air_flow": (655.35,),
    "fuel_rate": (3276.75,),
    "engine_coolant_temp": (-40.0, 215.0),
    "intake_air_temp": (-40.0, 215.0),
    "ambient_air_temp": (-40.0, 215.0),
    "barometric_pressure": (0.0, 255.0),
    "intake_manifold_pressure": (0.0, 255.0),
}
# A car does not go from standing to this within a row, or back; a logger that fills empty cells with 0 shows it often.
_JUMP_KM_H: Final = 20.0
_JUMPS_SHARE: Final = 0.1
# So many different values of a percentage, none above 1, are more likely shares.
_FEWEST_SHARES: Final = 10
_STUCK_SHARE: Final = 0.01
_STUCK_ROWS: Final = 3


@dataclass(slots=True)
class FileRows:
    """A file's usable rows in file order, and the account of all others.

    `frame` holds `time_sec` [s] and the canonical columns; `vehicle` and `trip` are labels [rows], `trip` None where
    the file has no such column; `clock_column` [rows] says which clock a time is of. `period` is after how many seconds
    the clock shows the same again, None for one that does not. `named` [rows] says, of a column that not every header
    of the file names, which rows have it. `about` is the file's part of the manifest.
    """

    name: str
    frame: pd.DataFrame
    vehicle: NDArray[np.object_]
    trip: NDArray[np.object_] | None
    clock_column: NDArray[np.int64]
    absolute: bool
    period: float | None
    dropped: Counter[tuple[str, Dropped]]
    about: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    named: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


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
    table = reshaped(table, rules)
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
            return cell_parsing.labels(self._table.columns[self._roles.vehicle])
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
        data = {columns.TIME_COLUMN: self._choice.clock.seconds}
        order = [*columns.CANONICAL, *sorted(set(signals) - set(columns.CANONICAL))]
        sections = self._table.parts()
        for target in (name for name in order if name in signals):
            data[target] = joined(signals[target], sections, self._table.rows).copy()
        absent = self._without_not_available(data)
        about_columns = []
        for target in (name for name in order if name in signals):
            outside = _outside(target, data[target])
            self._note_stuck(target, data[target])
            self._note_shares(target, data[target])
            self._note_zeros(target, data[target])
            data[target][outside] = np.nan
            for signal in signals[target]:
                own = _rows_of(signal, sections, self._table.rows)
                counts = int((outside & own).sum()), int((absent[target] & own).sum())
                about_columns.append(_about(signal, *counts))
        frame = pd.DataFrame(data)
        vehicle = self._vehicles()
        trip = None if self._roles.trip is None else cell_parsing.labels(self._table.columns[self._roles.trip])
        reason = self._reasons(frame, vehicle)
        dropped: Counter[tuple[str, Dropped]] = Counter()
        for why in (Dropped.NO_VEHICLE, Dropped.NO_CLOCK, Dropped.NO_READING):
            here = reason == why
            names = vehicle[here] if why != Dropped.NO_VEHICLE else [""] * here.sum()
            dropped.update((str(name), why) for name in names)
        dropped["", Dropped.BROKEN_LINE] = self._table.rows_broken
        dropped["", Dropped.REPEATED_HEADER] = self._table.rows_header
        dropped["", Dropped.ABOVE_HEADER] = self._table.rows_above
        dropped["", Dropped.ONE_READING] = self._table.rows_joined
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
            "rows_read": self._table.rows_read,
            "lines": self._table.lines or None,
        }
        return FileRows(
            self._source.name,
            frame[keep].reset_index(drop=True),
            vehicle[keep],
            None if trip is None else trip[keep],
            self._choice.clock_column[keep],
            self._choice.clock.absolute,
            self._choice.clock.period if self._choice.clock.kind == ClockKind.DURATION else None,
            +dropped,
            about,
            self._choice.notes,
            self._named(keep),
        )

    def _named(self, keep: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
        sections = self._table.parts()
        owned = {
            name: np.logical_or.reduce([_rows_of(signal, sections, self._table.rows) for signal in group])[keep]
            for name, group in self._choice.signals.items()
        }
        return {name: own for name, own in owned.items() if not own.all()}

    def _without_not_available(self, data: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.bool_]]:
        """Empty the cells in which J1939 says "not available"; return where they were."""
        absent = {
            name: np.isin(values, NOT_AVAILABLE.get(name, ()))
            for name, values in data.items()
            if name != columns.TIME_COLUMN
        }
        surely = np.logical_or.reduce([absent[name] for name in absent if name != "fuel_rate"] or [np.zeros(0, bool)])
        for name in set(absent) & set(_NOT_AVAILABLE_BESIDE):
            absent[name] |= surely & np.isin(data[name], _NOT_AVAILABLE_BESIDE[name])
        for name, here in absent.items():
            if here.any():
                example = float(data[name][here][0])
                self._choice.notes.append(
                    f'{name}: {int(here.sum())} cells say {example:g}, which is J1939\'s "not available": left out'
                )
                data[name][here] = np.nan
        return absent

    def _note_stuck(self, target: str, values: NDArray[np.float64]) -> None:
        """Say so where a reading stays at the very end of its range: that is no driving."""
        given = int(np.isfinite(values).sum())
        for end in _ENDS.get(target, ()):
            stuck = int((values == end).sum())
            if stuck >= max(_STUCK_ROWS, _STUCK_SHARE * given):
                unit = columns.unit_of(target)
                self._choice.notes.append(
                    f"{target}: {stuck} of {given} values are {end:g} {unit}, the very end of its range: "
                    "a sensor that does not answer?"
                )

    def _note_shares(self, target: str, values: NDArray[np.float64]) -> None:
        """Say so where a percentage is never above 1: many loggers write 0.45 for 45 %."""
        given = values[np.isfinite(values)]
        if columns.unit_of(target) == "%" and len(np.unique(given)) >= _FEWEST_SHARES and given.max() <= 1.0:
            self._choice.notes.append(
                f"{target}: no value is above {given.max():.3g} %, as if they were shares of 1: "
                f"--unit {target}=share says so"
            )

    def _note_zeros(self, target: str, values: NDArray[np.float64]) -> None:
        """Say so where speed is 0 again and again for a row or a few while the car drives."""
        given = values[np.isfinite(values)]
        if target != "vehicle_speed" or len(given) < _FEWEST_SHARES:
            return
        before, after = given[:-1], given[1:]
        jumps = int(((np.minimum(before, after) == 0) & (np.maximum(before, after) >= _JUMP_KM_H)).sum())
        if jumps > _JUMPS_SHARE * len(given):
            self._choice.notes.append(
                f"{target}: {jumps} times in {len(given)} rows between 0 and {_JUMP_KM_H:g} km/h or more: "
                "are cells without a reading filled with 0?"
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
        return reason


def _outside(target: str, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    column = columns.CANONICAL.get(target)
    if column is None:
        return np.zeros(len(values), dtype=bool)
    outside: NDArray[np.bool_] = (values < column.minimum) | (values > column.maximum)
    return outside


def _rows_of(signal: Signal, sections: list[Section], rows: int) -> NDArray[np.bool_]:
    own = np.zeros(rows, dtype=bool)
    for number in signal.sections:
        own[sections[number].first_row : sections[number].first_row + sections[number].rows] = True
    return own


def _about(signal: Signal, outside: int, not_available: int) -> dict[str, Any]:
    candidate, parsed = signal.candidate, signal.parsed
    written = [unit for unit in parsed.units if unit] or ([candidate.unit] if candidate.unit else [])
    return {
        "name": candidate.target,
        "unit": columns.unit_of(candidate.target) or (written[0] if written else ""),
        "source": candidate.header,
        "source_units": written,
        "decimal": parsed.decimal or None,
        "values": parsed.readable - outside - not_available,
        "missing": signal.missing,
        "unreadable": parsed.unreadable,
        "example_unreadable": parsed.example or None,
        "out_of_range": outside,
        "not_available": not_available,
    }
