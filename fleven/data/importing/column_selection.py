"""Which of a file's columns are used: the clock that runs, the decimal mark that fits, the fullest of like columns.

Must not import torch or flwr.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fleven.app import columns
from fleven.data.errors import Problem
from fleven.data.importing import cell_parsing, clock
from fleven.data.importing.column_mapping import Assignment, Candidate, Rules, Split, assign, nearest
from fleven.data.importing.log_reader import LogTable

# A column with more cells than this that can not be read is something else than its name says.
_READABLE_SHARE: Final = 0.5


# A logger that reads less often than this shows no driving.
SLOWEST_SECONDS: Final = 60.0


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


class FileError(Exception):
    """A file can not be imported, with all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(problem.line() for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Choice:
    """What is used of a file. `signals` are the parsed columns by canonical name, `about_*` the manifest's part."""

    roles: Assignment
    clock: clock.Clock
    about_clock: dict[str, Any]
    signals: dict[str, tuple[Candidate, cell_parsing.Parsed]]
    decimal: str | None
    notes: list[str]


def choose(table: LogTable, name: str, options: Options) -> Choice:
    """Choose and parse a file's columns. `name` is how messages call the file.

    Raises:
        FileError: unknown `--by` column, no clock, nothing to learn from, a unit that nobody knows.
    """
    return _Chooser(table, name, options).choice()


class _Chooser:
    """The steps of one file, which share its table, its notes and its problems."""

    def __init__(self, table: LogTable, name: str, options: Options) -> None:
        self._table = table
        self._name = name
        self._options = options
        self._roles: Assignment = assign(table.headers, options.rules)
        self._notes = list(table.notes)
        self._problems: list[Problem] = []
        self._texts: dict[int, cell_parsing.Cells] = {}

    def choice(self) -> Choice:
        self._check_by()
        mark = self._decimal_mark()
        time, about_clock = self._clock(mark)
        signals = self._signals(mark)
        if not signals and not self._problems:
            names = ", ".join(header for header in self._table.headers[:10] if header)
            keys = {columns.key(header) for header in self._table.headers}
            hint = 'fleven data columns lists the names that are known; --map "HEADER=name" adds one'
            if {"pid", "value"} <= keys:
                hint = "it has one value a row: export it with one column a sensor"
            self._problems.append(Problem(self._name, "", f"has no column to learn from, only {names}", hint))
        if self._problems or time is None:
            raise FileError(self._problems)
        return Choice(self._roles, time, about_clock, signals, mark if self._texts else None, self._notes)

    def _check_by(self) -> None:
        by = self._options.rules.by
        if by is None or self._roles.vehicle is not None or by in list(Split):
            return
        hint = nearest(by, self._table.headers)
        self._problems.append(Problem(self._name, by, "no such column for --by", hint))

    def _cells(self, index: int) -> cell_parsing.Cells:
        if index not in self._texts:
            self._texts[index] = cell_parsing.take_apart(self._table.columns[index])
        return self._texts[index]

    def _decimal_mark(self) -> str:
        if self._options.decimal:
            return self._options.decimal
        candidates = [candidate for group in self._roles.signals.values() for candidate in group]
        texts = [each.index for each in candidates if cell_parsing.is_text(self._table.columns[each.index])]
        found = [cell_parsing.evidence(self._cells(index)) for index in texts]
        mark, guess = cell_parsing.file_mark(found, self._table.delimiter)
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
                self._notes += _doubtful(found, candidate)
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

    def _signals(self, mark: str) -> dict[str, tuple[Candidate, cell_parsing.Parsed]]:
        chosen: dict[str, tuple[Candidate, cell_parsing.Parsed]] = {}
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

    def _parse(self, candidate: Candidate, mark: str) -> cell_parsing.Parsed | str:
        column = self._table.columns[candidate.index]
        if cell_parsing.is_number(column):
            return cell_parsing.parse_numbers(column, candidate.target, candidate.unit)
        if not cell_parsing.is_text(column):
            return f"holds {column.type}, not numbers"
        taken = self._cells(candidate.index)
        own_mark = self._options.decimal or cell_parsing.evidence(taken).mark(mark)
        return cell_parsing.parse_texts(taken, candidate.target, candidate.unit, own_mark, declared=candidate.declared)

    def _unusable(self, candidate: Candidate, parsed: cell_parsing.Parsed) -> str:
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


def _doubtful(found: clock.Clock, candidate: Candidate) -> list[str]:
    """Ask about a clock in seconds that would make the logger slower than any: it is likely to be in milliseconds."""
    steps = np.diff(found.seconds[np.isfinite(found.seconds)])
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if found.kind != clock.ClockKind.SECONDS or candidate.unit or usual < SLOWEST_SECONDS:
        return []
    return [f"{candidate.header} steps by {usual:g} s: is it in milliseconds? --unit {columns.TIME_COLUMN}=ms says so"]
