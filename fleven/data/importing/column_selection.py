"""Which of a file's columns are used: the clock that runs, the decimal mark that fits, the fullest of like columns.

Must not import torch or flwr.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fleven.app import columns
from fleven.data.errors import Problem
from fleven.data.importing import cell_parsing, clock
from fleven.data.importing.column_mapping import DOUBTFUL, Assignment, Candidate, Rules, Split, assign, nearest
from fleven.data.importing.log_table import LogTable, Section
from fleven.data.importing.time_units import SLOWEST_SECONDS, engine_evidence, speed_evidence

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What J1939 sends for "not available" (all bits set), as it looks in the column's unit, also rounded.
NOT_AVAILABLE: Final = {
    "engine_rpm": (8191.875, 8191.88, 8191.87, 8191.9, 8191.8, 8160.0),
    "vehicle_speed": (255.99609375, 255.996, 255.99, 256.0),
    "calculated_load_value": (255.0,),
    "fuel_rate": (3276.75, 3276.8, 3212.75),
}
# A column with more cells than this that cannot be read is something else than its name says.
_READABLE_SHARE: Final = 0.5


# Of several columns for one quantity, one with fewer values than this share of the fullest is passed over.
_FULL_SHARE: Final = 0.5
# One that shows the same all the time is passed over for one that goes over more than this share of the range.
_MOVING_SHARE: Final = 0.02
_ABOUT_AS_GOOD: Final = 0.9


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
    """A file cannot be imported, with all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(problem.line() for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Signal:
    """A column that is used: parsed [rows of the file], and the sections of the file that take it from here."""

    candidate: Candidate
    parsed: cell_parsing.Parsed
    sections: tuple[int, ...]
    absent: int

    @property
    def missing(self) -> int:
        """Empty cells, without the rows of a file whose header does not name the column."""
        return self.parsed.missing - self.absent


@dataclass(frozen=True, slots=True)
class Choice:
    """What is used of a file. `signals` are the parsed columns by canonical name, `about_*` the manifest's part.

    `clock_column` [rows] tells which of the file's clocks a row's time is of: times of two clocks do not compare.
    """

    roles: Assignment
    clock: clock.Clock
    about_clock: dict[str, Any]
    signals: dict[str, list[Signal]]
    decimal: str | None
    notes: list[str]
    clock_column: NDArray[np.int64]


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
        self._roles: Assignment = assign(table.headers, options.rules, table.units, table.origins)
        self._notes = list(table.notes)
        self._problems: list[Problem] = []
        self._texts: dict[int, cell_parsing.Cells] = {}
        self._sections = table.parts()

    def choice(self) -> Choice:
        self._check_by()
        mark = self._decimal_mark()
        signals = self._signals(mark)
        time = self._clock(mark, signals)
        if not signals and not self._problems:
            names = ", ".join(header for header in self._table.headers[:10] if header)
            hint = 'fleven data columns lists the names that are known; --map "HEADER=name" adds one'
            self._problems.append(Problem(self._name, "", f"has no column to learn from, only {names}", hint))
        if self._problems or time is None:
            raise FileError(self._problems)
        self._note_unknown_units(signals)
        found, about, which = time
        return Choice(self._roles, found, about, signals, mark if self._texts else None, self._notes, which)

    def _note_unknown_units(self, signals: dict[str, list[Signal]]) -> None:
        """Say why a quantity is missing where a column of its name is there: a unit that nobody knows."""
        for target, (header, said) in self._roles.unfit.items():
            if target not in signals:
                spellings = {scale: unit for unit, scale in reversed(columns.UNITS[columns.unit_of(target)].items())}
                hint = f"if it is one of {', '.join(reversed(spellings.values()))}: --unit {target}=UNIT"
                self._notes.append(f"{target} is not read: {said!r} of {header} is no known unit of it ({hint})")

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
        signals = [candidate.index for group in self._roles.signals.values() for candidate in group]
        clocks = [candidate.index for candidate in self._roles.clocks]
        mark, guess = self._proved_mark(signals)
        if guess:  # the other columns were written by the same logger
            mark, guess = self._proved_mark([*signals, *clocks])
        if guess:
            mark, guess = self._proved_mark(list(range(len(self._table.columns))))
        if guess:
            mark = min((mark, "," if mark == "." else "."), key=self._implausible)
            self._notes.append(f"decimal mark taken to be {mark!r}: no cell proves it (--decimal names another)")
        return mark

    def _proved_mark(self, indices: list[int]) -> tuple[str, bool]:
        texts = [index for index in indices if cell_parsing.is_text(self._table.columns[index])]
        return cell_parsing.file_mark(
            [cell_parsing.evidence(self._cells(index)) for index in texts], self._table.delimiter
        )

    def _implausible(self, mark: str) -> int:
        """Return how many values no car has if this is the decimal mark."""
        count = 0
        for candidate in (each for group in self._roles.signals.values() for each in group):
            column = columns.CANONICAL.get(candidate.target)
            parsed = self._parse(candidate, mark)
            if column is not None and not isinstance(parsed, str):
                count += int(((parsed.values < column.minimum) | (parsed.values > column.maximum)).sum())
        return count

    def _clock(
        self, mark: str, signals: dict[str, list[Signal]]
    ) -> tuple[clock.Clock, dict[str, Any], NDArray[np.int64]] | None:
        """Choose the best clock that can be used, and in sections without it the best of theirs."""
        interval = self._options.interval_seconds
        which = np.zeros(self._table.rows, dtype=np.int64)
        if interval is not None:
            seconds = np.arange(self._table.rows, dtype=np.float64) * interval
            counted: dict[str, Any] = {"column": None, "interval_seconds": interval}
            return clock.Clock(clock.ClockKind.SECONDS, seconds), counted, which
        around = self._clock_context(signals)
        refused: dict[str, str] = {}
        usable: list[tuple[Candidate, clock.Clock]] = []
        for candidate in self._roles.clocks:
            found = clock.read_clock(self._table.columns[candidate.index], candidate, mark, around)
            if isinstance(found, clock.Clock):
                usable.append((candidate, found))
            else:
                refused[candidate.header] = found
        if not usable:
            self._problems.append(self._no_clock(refused))
            return None
        best = self._best_clock(usable, around)
        candidate, found = usable[best]
        seconds = found.seconds.copy()
        which[:] = candidate.index
        used = {candidate.index}
        for section in self._sections:
            if candidate.index in section.columns:
                continue
            # A clock with another zero cannot go on where the first one ends.
            others = [each for each in usable if each[0].index in section.columns and each[1].kind == found.kind]
            if others:
                other, its = others[self._best_clock(others, around)]
                rows = slice(section.first_row, section.first_row + section.rows)
                seconds[rows], which[rows] = its.seconds[rows], other.index
                used.add(other.index)
        self._tell_clock(candidate, found, [each for each, _ in usable if each.index not in used], refused)
        unit = candidate.unit or found.unit or None
        about = {"column": candidate.header, "kind": found.kind.value, "unit": unit}
        return replace(found, seconds=seconds), about, which

    def _tell_clock(
        self, candidate: Candidate, found: clock.Clock, others: list[Candidate], refused: dict[str, str]
    ) -> None:
        self._notes += _doubtful(found, candidate)
        self._notes += [f"{candidate.header} {note}" for note in found.notes]
        self._roles.ignored |= {each.header: f"a clock too; {candidate.header} is used" for each in others}
        self._roles.ignored |= {header: f"clock {reason}" for header, reason in refused.items()}

    def _clock_context(self, signals: dict[str, list[Signal]]) -> clock.ClockContext:
        """Return what helps to read the clocks: rows by vehicle and trip, the date beside, speed and engine speed."""
        rows = self._table.rows
        group = np.zeros(rows, dtype=np.int64)
        for index in (self._roles.vehicle, self._roles.trip):
            if index is not None:
                _, codes = np.unique(cell_parsing.labels(self._table.columns[index]).astype(str), return_inverse=True)
                group = group * (int(codes.max(initial=0)) + 1) + codes
        order = np.argsort(group, kind="stable")
        date = self._roles.date
        evidence = [
            make(_plausible(name, self.values(signals[name])))
            for name, make in (("vehicle_speed", speed_evidence), ("engine_rpm", engine_evidence))
            if name in signals
        ]
        return clock.ClockContext(
            order,
            np.diff(group[order]) == 0,
            None if date is None else self._table.columns[date],
            "" if date is None else self._table.headers[date],
            tuple(evidence),
        )

    def _best_clock(self, usable: list[tuple[Candidate, clock.Clock]], around: clock.ClockContext) -> int:
        """Return which clock tells most rows apart; the first of those that are about as good."""
        rising = [int((clock.rows_steps(found.seconds, around) > 0).sum()) for _, found in usable]
        enough = _ABOUT_AS_GOOD * max(rising)
        ranks = [
            (not candidate.explicit, rising[number] < enough, candidate.stand_in, number)
            for number, (candidate, _) in enumerate(usable)
        ]
        return min(ranks)[-1]

    def _no_clock(self, refused: dict[str, str]) -> Problem:
        if refused:
            problem = "; ".join(f"{header} {reason}" for header, reason in refused.items())
            return Problem(self._name, "time_sec", f"no clock can be used: {problem}", "--interval-seconds counts rows")
        close = nearest("time", self._table.headers)
        hint = f'--map "HEADER=time_sec" names the clock, --interval-seconds counts rows; {close}'
        return Problem(self._name, "time_sec", "no column is a clock", hint)

    def values(self, group: list[Signal]) -> NDArray[np.float64]:
        """Return a quantity's values [rows], each section's from its own column."""
        return joined(group, self._sections, self._table.rows)

    def _signals(self, mark: str) -> dict[str, list[Signal]]:
        """Choose for each quantity, in each section, the fullest real column, else the fullest stand-in."""
        chosen: dict[str, list[Signal]] = {}
        for target, candidates in self._roles.signals.items():
            usable: list[tuple[Candidate, cell_parsing.Parsed]] = []
            for candidate in candidates:
                parsed = self._parse(candidate, mark)
                reason = parsed if isinstance(parsed, str) else self._unusable(candidate, parsed)
                if reason:
                    self._roles.ignored[candidate.header] = reason
                elif not isinstance(parsed, str):
                    usable.append((candidate, parsed))
            if usable:
                chosen[target] = self._best(target, usable)
        return chosen

    def _best(self, target: str, usable: list[tuple[Candidate, cell_parsing.Parsed]]) -> list[Signal]:
        taken: dict[int, list[int]] = {}
        for number, section in enumerate(self._sections):
            rows = slice(section.first_row, section.first_row + section.rows)
            counts = {
                each: int(np.isfinite(parsed.values[rows]).sum())
                for each, (candidate, parsed) in enumerate(usable)
                if candidate.index in section.columns
            }
            if not counts:
                continue
            enough = _FULL_SHARE * max(counts.values())
            still = _standing(target, {each: usable[each][1].values[rows] for each in counts})
            best = min(
                counts,
                key=lambda each, counts=counts, enough=enough, still=still: (  # type: ignore[misc]
                    not usable[each][0].explicit or not counts[each],
                    counts[each] < enough,
                    each in still,
                    each,
                ),
            )
            taken.setdefault(best, []).append(number)
        signals = []
        for each, sections in sorted(taken.items()):
            candidate, parsed = usable[each]
            absent = sum(part.rows for part in self._sections if candidate.index not in part.columns)
            signals.append(Signal(candidate, parsed, tuple(sections), absent))
            if candidate.stand_in:
                self._notes.append(f"{target} is taken from {candidate.header}, which only stands in for it")
            elif candidate.doubt >= DOUBTFUL:
                said = "which may be that of a wheel or of GPS"
                self._notes.append(f"{target} is taken from {candidate.header}, {said}")
        first = signals[0].candidate.header
        for each, (candidate, _) in enumerate(usable):
            if each not in taken:
                self._roles.ignored[candidate.header] = f"{target} is taken from {first}"
        self._refuse_a_lost_unit(target, signals)
        return signals

    def _refuse_a_lost_unit(self, target: str, signals: list[Signal]) -> None:
        """Refuse a quantity that is in mph under one header and in nothing that is said under another."""
        column = columns.CANONICAL.get(target)
        if column is None:
            return
        other = next((each for each in signals if columns.conversion(column, each.candidate.unit) != (1.0, 0.0)), None)
        for signal in signals:
            if other is not None and not signal.candidate.unit and not any(signal.parsed.units):
                reason = f"has no unit under one header of the file, and {other.candidate.unit} under another"
                hint = f'--unit "{target}={other.candidate.unit}" says that it is the same'
                self._problems.append(Problem(self._name, signal.candidate.header, reason, hint))

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


def _plausible(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values without those that no car has and those that say that there is none."""
    column = columns.CANONICAL[name]
    bad = (values < column.minimum) | (values >= column.maximum) | np.isin(values, NOT_AVAILABLE.get(name, ()))
    return np.where(bad, np.nan, values)


def joined(group: list[Signal], sections: list[Section], rows: int) -> NDArray[np.float64]:
    """Return a quantity's values [rows], each section's from the column that it takes them from."""
    if len(group) == 1 and len(group[0].sections) == len(sections):
        return group[0].parsed.values
    values = np.full(rows, np.nan)
    for signal in group:
        for number in signal.sections:
            part = slice(sections[number].first_row, sections[number].first_row + sections[number].rows)
            values[part] = signal.parsed.values[part]
    return values


def _standing(target: str, values: dict[int, NDArray[np.float64]]) -> set[int]:
    """Return which columns show one value all the time where another one of the quantity moves."""
    column = columns.CANONICAL.get(target)
    ranges = {each: float(np.ptp(given)) for each, part in values.items() if len(given := part[np.isfinite(part)])}
    least = _MOVING_SHARE * (column.maximum - column.minimum) if column is not None else 0.0
    if not ranges or max(ranges.values()) <= least:
        return set()
    return {each for each, width in ranges.items() if width == 0.0}


def _doubtful(found: clock.Clock, candidate: Candidate) -> list[str]:
    """Ask about a clock in seconds that would make the logger slower than any: it is likely to be in milliseconds."""
    steps = np.diff(found.seconds[np.isfinite(found.seconds)])
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if found.kind != clock.ClockKind.SECONDS or candidate.unit or found.unit or usual < SLOWEST_SECONDS:
        return []
    return [f"{candidate.header} steps by {usual:g} s: is it in milliseconds? --unit {columns.TIME_COLUMN}=ms says so"]
