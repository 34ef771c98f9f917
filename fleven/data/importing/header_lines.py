"""Which lines of a text table are its header: names, and the rows of units, sources and ids that stand with them.

Loggers write a header again in the middle of a file, with other columns too: each one holds from its line on. Works on
lines that are split into cells; standard library only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fleven.data.importing.header_names import Origin, origin_of
from fleven.data.importing.logger_names import is_unit

# A row of units may have cells that are none, such as the name of a calculation.
_UNIT_SHARE: Final = 0.6
_LINES_WITH_NAMES: Final = 4
_NUMBER: Final = re.compile(r"\s*[\d.,:+-]*\d[\d.,:+-]*\s*")
_TIME: Final = re.compile(r"\d{1,2}[:.]\d{2}[:.]\d{2}|\d{4}-\d{2}-\d{2}|\d{1,2}:\d{2}$")
_NOTHING: Final = frozenset(("", "-", "--", "?", "nan", "na", "n/a", "null", "none", "no data"))


@dataclass(frozen=True, slots=True)
class Header:
    """One header of a table, from line `first` up to and without line `end`, both counted from 0.

    `units` has a text for each name, empty without a row of units or where that has none; `origins` has who measured
    each, and nothing without a row of sources.
    """

    first: int
    end: int
    names_line: int
    names: tuple[str, ...]
    units: tuple[str, ...]
    origins: tuple[Origin, ...] = ()

    def same_as(self, other: Header) -> bool:
        """Whether the other header gives the columns the same names and units in the same order."""
        return (
            self.same_names(other) and _stripped(self.units) == _stripped(other.units) and self.origins == other.origins
        )

    def same_names(self, other: Header) -> bool:
        """Whether the other header has the same names in the same order."""
        return _stripped(self.names) == _stripped(other.names)


def _stripped(cells: Sequence[str]) -> list[str]:
    texts = [cell.strip().casefold() for cell in cells]
    while texts and not texts[-1]:
        texts.pop()
    return texts


def is_number(cell: str) -> bool:
    """Whether a cell is a number, a time or a date of digits alone."""
    return _NUMBER.fullmatch(cell) is not None


def is_unit_row(row: Sequence[str]) -> bool:
    """Whether a row holds units: two at least, most of the cells that say something, and none is a number."""
    given = [cell for cell in row if cell.strip().lower() not in _NOTHING]
    if len(given) < 2 or any(map(is_number, given)):
        return False
    return sum(map(is_unit, given)) >= _UNIT_SHARE * len(given)


def names_known(row: Sequence[str], known: Callable[[str], bool]) -> int:
    """Return how many cells of a line are known names; a line with a number in it names nothing."""
    return 0 if any(map(is_number, row)) else sum(known(cell) for cell in row)


def usual_width(rows: Sequence[Sequence[str]]) -> tuple[int, float]:
    """Return the most common number of cells, the larger one where two are as common, and its share of the lines."""
    widths = Counter(len(row) for row in rows if any(cell.strip() for cell in row))
    if not widths:
        return 0, 0.0
    width, alike = max(widths.items(), key=lambda item: (item[1], item[0]))
    return width, alike / sum(widths.values())


class HeaderFinder:
    """Finds headers among the lines without a number, which are few; `row(line)` returns any line's cells."""

    def __init__(
        self, candidates: Mapping[int, Sequence[str]], row: Callable[[int], Sequence[str]], known: Callable[[str], bool]
    ) -> None:
        self._candidates = candidates
        self._row = row
        self._known = known

    def find(self, least: int, after: int = 0) -> list[Header]:
        """Return the headers with `least` known names or more, in the order of their lines, none before `after`."""
        found: list[Header] = []
        end = after
        for line in sorted(self._candidates):
            if line >= end and (header := self._header(line, end, least)) is not None:
                found.append(header)
                end = header.end
        return found

    def _header(self, line: int, after: int, least: int) -> Header | None:
        row = self._candidates[line]
        names = names_known(row, self._known)
        if names < least or len([cell for cell in row if cell.strip()]) < 2:
            return None
        if is_unit_row(row) and self._names_beside(line, names):
            return None
        first, units_line, end = line, None, line + 1
        texts = [cell.strip() for cell in row]
        if fills := self._fills_gaps(self._candidates.get(line + 1, ()), texts):
            texts, end = fills, line + 2
        origins: tuple[Origin, ...] = ()
        if line - 1 >= after and self._has_units(self._candidates.get(line - 1, ()), row):
            first = units_line = line - 1
        names_end = end
        for below in range(end, end + _LINES_WITH_NAMES - 1):
            cells = self._candidates.get(below)
            if cells is not None and self._has_units(cells, row):
                if units_line is None:
                    units_line = below
                end = below + 1
            elif cells is not None and self._is_about_columns(cells, len(row)):
                origins = _origins_of(cells, len(row)) or origins
                end = below + 1
            elif not self._is_sandwiched(below, line):
                break
        if units_line is None:  # without units, words under the names are a row of readings that failed
            end, origins = names_end, ()
        units = self._row(units_line) if units_line is not None else ()
        return Header(first, end, line, tuple(texts), _units_of(units, len(texts)), origins)

    def _fills_gaps(self, cells: Sequence[str], names: Sequence[str]) -> list[str] | None:
        """Return the names with those of the line under them, if that has some only where these are empty (VCDS)."""
        given = [number for number, cell in enumerate(cells) if cell.strip()]
        if len(cells) != len(names) or any(names[number] for number in given):
            return None
        if not any(self._known(cells[number]) for number in given):
            return None
        return [name or cell.strip() for name, cell in zip(names, cells, strict=True)]

    def _has_units(self, cells: Sequence[str], names: Sequence[str]) -> bool:
        """Whether a line holds units: most of its cells do, or one is a unit of the known name that it stands under."""
        if is_unit_row(cells):
            return True
        if len(cells) != len(names) or any(map(is_number, cells)):
            return False
        pairs = [(cell.strip(), name) for cell, name in zip(cells, names, strict=True) if cell.strip()]
        if any(cell.casefold() == name.strip().casefold() for cell, name in pairs):  # the names again
            return False
        return any(is_unit(cell) and self._known(name) and self._known(f"{name} ({cell})") for cell, name in pairs)

    def _names_beside(self, line: int, names: int) -> bool:
        """Whether a line of units stands beside a line that names the columns better."""
        for beside in (line - 1, line + 1):
            row = self._candidates.get(beside)
            if row is not None and len(row) == len(self._candidates[line]) and not is_unit_row(row):
                return True
            if row is not None and names_known(row, self._known) > names:
                return True
        return False

    def _is_about_columns(self, row: Sequence[str], width: int) -> bool:
        """Whether a row under the names tells of sources or ids: words, no time, no names of columns."""
        given = [cell.strip() for cell in row if cell.strip().lower() not in _NOTHING]
        if not given or abs(len(row) - width) > 1 or names_known(row, self._known) >= 2:
            return False
        return not any(_TIME.search(cell) for cell in given)

    def _is_sandwiched(self, below: int, names_line: int) -> bool:
        """Whether one line of numbers (ids) stands between the names and a row of units."""
        return below == names_line + 1 and is_unit_row(self._candidates.get(below + 1, ()))


def _units_of(row: Sequence[str], width: int) -> tuple[str, ...]:
    texts = [cell.strip().strip("[]()").strip() for cell in row]
    texts = ["" if text.lower() in _NOTHING else text for text in texts]
    return tuple((texts + [""] * width)[:width])


def _origins_of(row: Sequence[str], width: int) -> tuple[Origin, ...]:
    """Return who measured each column, nothing if a row of words tells it of none."""
    found = [origin_of(cell) for cell in row]
    return tuple((found + [Origin.UNKNOWN] * width)[:width]) if any(found) else ()
