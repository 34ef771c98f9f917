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
from fleven.data import cells, clock
from fleven.data.mapping import Assignment, Candidate, Rules, Split, assign, known_header, nearest
from fleven.data.reading import LogTable, UnreadableError, read_log
from fleven.errors import Problem

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class Dropped(StrEnum):
    """Why a row is not in the output. The values never change once shipped: manifests hold them."""

    BROKEN_LINE = "broken-line"  # another number of cells than the header
    REPEATED_HEADER = "repeated-header"
    NO_VEHICLE = "no-vehicle"  # the vehicle's cell is empty
    NO_CLOCK = "no-clock"  # the clock's cell is empty or can not be read
    NO_READING = "no-reading"  # not one value in any column
    DUPLICATE_TIME = "duplicate-time"  # merged into the first row of that time
    SHORT_TRIP = "short-trip"  # in a trip with fewer rows than --min-rows


# A column with more cells than this that can not be read is something else than its name says.
_READABLE_SHARE: Final = 0.5
ONLY_VEHICLE: Final = "vehicle"


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator chose; None means: find out by looking."""

    rules: Rules
    decimal: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    interval_seconds: float | None = None
    minimum_rows: int = 30
    pause_seconds: float = 300.0


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


class FileError(Exception):
    """A file can not be imported, with all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(problem.line() for problem in problems))
        self.problems = problems


def read_rows(path: Path, name: str, folder: str, options: Options) -> FileRows:
    """Read one file. `name` is how the manifest calls it, `folder` the folder that it lies in.

    Raises:
        FileError: no table, no clock, no usable column, unknown `--by` column, unknown unit.
    """
    rules = options.rules
    try:
        table = read_log(
            path,
            lambda header: known_header(header, rules),
            delimiter=options.delimiter,
            encoding=options.encoding,
        )
    except UnreadableError as error:
        raise FileError([Problem(name, "", str(error), error.hint)]) from error
    return _Reader(table, name, folder, options).rows()


class _Reader:
    """The steps of one file, which share its table and its account."""

    def __init__(self, table: LogTable, name: str, folder: str, options: Options) -> None:
        self._table = table
        self._name = name
        self._folder = folder
        self._options = options
        self._roles: Assignment = assign(table.headers, options.rules)
        self._notes = list(table.notes)
        self._problems: list[Problem] = []
        self._texts: dict[int, cells.Cells] = {}

    def rows(self) -> FileRows:
        self._check_by()
        mark = self._decimal_mark()
        time, clock_about = self._clock(mark)
        signals = self._signals(mark)
        if not signals and not self._problems:
            names = ", ".join(header for header in self._table.headers[:10] if header)
            hint = 'fleven data columns lists the names that are known; --map "HEADER=name" adds one'
            self._problems.append(Problem(self._name, "", f"has no column to learn from, only {names}", hint))
        if self._problems or time is None:
            raise FileError(self._problems)
        return self._keep(time, signals, clock_about, mark)

    def _check_by(self) -> None:
        by = self._options.rules.by
        if by is None or self._roles.vehicle is not None or by in list(Split):
            return
        hint = nearest(by, self._table.headers)
        self._problems.append(Problem(self._name, by, "no such column for --by", hint))

    def _cells(self, index: int) -> cells.Cells:
        if index not in self._texts:
            self._texts[index] = cells.take_apart(self._table.columns[index])
        return self._texts[index]

    def _decimal_mark(self) -> str:
        if self._options.decimal:
            return self._options.decimal
        candidates = [candidate for group in self._roles.signals.values() for candidate in group]
        texts = [each.index for each in candidates if cells.is_text(self._table.columns[each.index])]
        found = [cells.evidence(self._cells(index)) for index in texts]
        mark, guess = cells.file_mark(found, self._table.delimiter)
        if guess:
            self._notes.append(f"decimal mark taken to be {mark!r}: no cell proves it (--decimal says otherwise)")
        return mark

    def _clock(self, mark: str) -> tuple[clock.Clock | None, dict[str, Any]]:
        """Choose the first clock that can be used."""
        interval = self._options.interval_seconds
        if interval is not None:
            seconds = np.arange(self._table.rows, dtype=np.float64) * interval
            return clock.Clock(clock.ClockKind.SECONDS, seconds), {"column": None, "interval_seconds": interval}
        refused: dict[str, str] = {}
        date = None if self._roles.date is None else self._table.columns[self._roles.date]
        for candidate in self._roles.clocks:
            found = clock.read_clock(self._table.columns[candidate.index], candidate, mark, date)
            if isinstance(found, clock.Clock):
                self._roles.ignored |= {
                    each.header: f"a clock too; {candidate.header} is used"
                    for each in self._roles.clocks
                    if each is not candidate and each.header not in refused
                }
                self._roles.ignored |= {header: f"clock {reason}" for header, reason in refused.items()}
                return found, {"column": candidate.header, "kind": found.kind.value, "unit": candidate.unit or None}
            refused[candidate.header] = found
        self._problems.append(self._no_clock(refused))
        return None, {}

    def _no_clock(self, refused: dict[str, str]) -> Problem:
        if refused:
            problem = "; ".join(f"{header} {reason}" for header, reason in refused.items())
            return Problem(self._name, "time_sec", f"no clock can be used: {problem}", "--interval-seconds counts rows")
        close = nearest("time", self._table.headers)
        hint = f'--map "HEADER=time_sec" names the clock, --interval-seconds counts rows; {close}'
        return Problem(self._name, "time_sec", "no column is a clock", hint)

    def _signals(self, mark: str) -> dict[str, tuple[Candidate, cells.Parsed]]:
        chosen: dict[str, tuple[Candidate, cells.Parsed]] = {}
        for target, candidates in self._roles.signals.items():
            for candidate in candidates:
                if target in chosen:
                    self._roles.ignored[candidate.header] = f"{target} is taken from {chosen[target][0].header}"
                    continue
                parsed = self._parse(candidate, mark)
                reason = parsed if isinstance(parsed, str) else self._unusable(candidate, parsed)
                if reason:
                    self._roles.ignored[candidate.header] = reason
                elif not isinstance(parsed, str):
                    chosen[target] = candidate, parsed
        return chosen

    def _parse(self, candidate: Candidate, mark: str) -> cells.Parsed | str:
        column = self._table.columns[candidate.index]
        if cells.is_number(column):
            return cells.parse_numbers(column, candidate.target, candidate.unit)
        if not cells.is_text(column):
            return f"holds {column.type}, not numbers"
        taken = self._cells(candidate.index)
        own_mark = self._options.decimal or cells.evidence(taken).mark(mark)
        return cells.parse_texts(taken, candidate.target, candidate.unit, own_mark, declared=candidate.declared)

    def _unusable(self, candidate: Candidate, parsed: cells.Parsed) -> str:
        """Return why a parsed column is left out; a unit that nobody knows is the operator's to settle."""
        given = len(parsed.values) - parsed.missing
        if not given:
            return "empty"
        unknown = sum(parsed.unknown_units.values())
        if unknown > _READABLE_SHARE * given:
            unit = max(parsed.unknown_units, key=lambda each: parsed.unknown_units[each])
            column = columns.CANONICAL[candidate.target]
            reason = f"unit {unit} does not fit {candidate.target} [{column.unit}]"
            if candidate.explicit or candidate.target in ("vehicle_speed", "engine_rpm", "mass_air_flow"):
                hint = f'--unit "{candidate.target}={column.unit}" says what it is'
                self._problems.append(Problem(self._name, candidate.header, reason, hint))
            return reason
        if parsed.readable < _READABLE_SHARE * given:
            return f"{parsed.unreadable} of {given} cells are not numbers, such as {parsed.example!r}"
        return ""

    def _vehicles(self) -> NDArray[np.object_]:
        rows = self._table.rows
        by = self._options.rules.by
        if self._roles.vehicle is not None:
            return labels(self._table.columns[self._roles.vehicle])
        if by == Split.FILE:
            return np.full(rows, re.sub(r"(\.(csv|tsv|txt|log|gz|parquet|pq))+$", "", self._name), dtype=object)
        if by == Split.FOLDER:
            return np.full(rows, self._folder, dtype=object)
        return np.full(rows, ONLY_VEHICLE, dtype=object)

    def _keep(
        self,
        time: clock.Clock,
        signals: dict[str, tuple[Candidate, cells.Parsed]],
        clock_about: dict[str, Any],
        mark: str,
    ) -> FileRows:
        for header in self._roles.ignored:
            if cells.is_empty(self._table.columns[self._table.headers.index(header)]):
                self._roles.ignored[header] = "empty"
        about_columns, data = [], {columns.TIME_COLUMN: time.seconds}
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
        reason = self._reasons(frame, vehicle, clock_about)
        dropped: Counter[tuple[str, Dropped]] = Counter()
        for why in (Dropped.REPEATED_HEADER, Dropped.NO_VEHICLE, Dropped.NO_CLOCK, Dropped.NO_READING):
            here = reason == why
            names = vehicle[here] if why not in (Dropped.REPEATED_HEADER, Dropped.NO_VEHICLE) else [""] * here.sum()
            dropped.update((str(name), why) for name in names)
        dropped["", Dropped.BROKEN_LINE] = self._table.rows_broken
        keep = reason == ""
        about = {
            "name": self._name,
            "encoding": self._table.encoding or None,
            "delimiter": self._table.delimiter or None,
            "decimal": mark if self._texts else None,
            "clock": clock_about,
            "vehicle_column": self._header(self._roles.vehicle),
            "trip_column": self._header(self._roles.trip),
            "columns": about_columns,
            "ignored": [{"source": header, "reason": why} for header, why in self._roles.ignored.items()],
            "rows_read": self._table.rows + self._table.rows_broken,
        }
        return FileRows(
            self._name,
            frame[keep].reset_index(drop=True),
            vehicle[keep],
            None if trip is None else trip[keep],
            time.absolute,
            +dropped,
            about,
            self._notes,
        )

    def _header(self, index: int | None) -> str | None:
        return None if index is None else self._table.headers[index]

    def _reasons(
        self, frame: pd.DataFrame, vehicle: NDArray[np.object_], clock_about: dict[str, Any]
    ) -> NDArray[np.object_]:
        """Return why each row is dropped, an empty text for the rows that stay; the first reason counts."""
        reason = np.full(len(frame), "", dtype=object)
        signals = frame.drop(columns=columns.TIME_COLUMN)
        reason[signals.isna().all(axis=1).to_numpy()] = Dropped.NO_READING
        reason[frame[columns.TIME_COLUMN].isna().to_numpy()] = Dropped.NO_CLOCK
        reason[vehicle == ""] = Dropped.NO_VEHICLE
        source = clock_about["column"]
        if source is not None:
            column = self._table.columns[self._table.headers.index(source)]
            if cells.is_text(column):
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
    names = np.array(["" if text.lower() in cells.MISSING else text for text in texts], dtype=object)
    taken: NDArray[np.object_] = names[encoded.indices.to_numpy(zero_copy_only=False)]
    return taken


def _outside(target: str, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    column = columns.CANONICAL.get(target)
    if column is None:
        return np.zeros(len(values), dtype=bool)
    outside: NDArray[np.bool_] = (values < column.minimum) | (values > column.maximum)
    return outside


def _about(candidate: Candidate, parsed: cells.Parsed, outside: int) -> dict[str, Any]:
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
