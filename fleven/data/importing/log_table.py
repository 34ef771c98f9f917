"""What a log file is before its cells mean anything: columns of cells, sections, and the account of its lines.

Must not import numpy, pandas, torch or flwr.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fleven.data.importing.header_names import Origin


class UnreadableError(Exception):
    """The file is not a table that can be read; the message says why, `hint` what to do."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Section:
    """The rows under one header of a file: `rows` of them from `first_row` on, with the columns that it names."""

    first_row: int
    rows: int
    columns: frozenset[int]


@dataclass(frozen=True, slots=True)
class LogTable:
    """A file's cells: `columns[i]` is a pyarrow array under `headers[i]`, with the unit `units[i]` of a row of units.

    `origins[i]` is who measured it, where a row of sources says so.

    `rows` are whole rows. `rows_broken` are lines with more or fewer cells than the header, or with a quoted cell
    that does not end; `rows_header` are the lines of headers after the first, `rows_above` rows above the first,
    `rows_joined` lines with a single reading that went into the row of another.
    A file whose header changes has one section for each; where a column is not named, its cells are null. `lines`
    counts the other lines of a text file. `synthetic` says that the file calls itself so.
    """

    headers: list[str]
    columns: list[Any]
    rows: int
    rows_broken: int = 0
    encoding: str = ""
    delimiter: str = ""
    notes: list[str] = field(default_factory=list)
    synthetic: bool = False
    units: list[str] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    rows_header: int = 0
    rows_above: int = 0
    rows_joined: int = 0
    sections: list[Section] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)

    @property
    def rows_read(self) -> int:
        """Every line of the file except its first header and the lines above that are not rows."""
        return self.rows + self.rows_broken + self.rows_header + self.rows_above + self.rows_joined

    def parts(self) -> list[Section]:
        """Return the sections, of which a plain table is one."""
        return self.sections or [Section(0, self.rows, frozenset(range(len(self.columns))))]
