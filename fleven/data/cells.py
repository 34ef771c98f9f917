"""Cells to numbers: decimal commas, thousands separators, units inside cells, missing and unreadable ones.

All work is done once for each different cell, not for each row: sensors have few values. pandas and pyarrow are
imported by the functions. Must not import torch or flwr.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fleven.app import columns

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

MISSING: Final = frozenset(
    (
        *("", "-", "--", "---", "?", "nan", "na", "n/a", "#n/a", "null", "none", "nil", "unknown", "not available"),
        *("inf", "-inf", "infinity", "-infinity", "\u221e", "no data", "nodata", "unable to connect"),
    )
)
# Blanks and quotes that group digits: space, no-break spaces, apostrophes (Switzerland).
_GROUPING: Final = " \u00a0\u202f'\u2019"
_CELL: Final = (
    rf"^(?P<number>[+\-\u2212]?(?:\d{{1,3}}(?:[{_GROUPING}]\d{{3}})+(?:[.,]\d+)?|[\d.,]*\d[.,]?)(?:[eE][+\-]?\d+)?)"
    r"\s*(?P<unit>1/min|[^\d\s].*)?$"
)


@dataclass(frozen=True, slots=True)
class Cells:
    """A column's different cells: `texts[codes[row]]` is the cell of a row.

    `numbers` and `units` are the parts of each text that looks like a number with or without a unit (NaN if it does
    not). `missing` marks the texts that say that there is no value.
    """

    codes: NDArray[np.int64]
    counts: NDArray[np.int64]
    texts: pd.Series[str]
    numbers: pd.Series[str]
    units: pd.Series[str]
    missing: NDArray[np.bool_]


@dataclass(slots=True)
class Parsed:
    """A column as float64 [rows] in the canonical unit, NaN where there is no value, and how it came about."""

    values: NDArray[np.float64]
    missing: int = 0
    unreadable: int = 0
    example: str = ""
    units: dict[str, int] = field(default_factory=dict)
    unknown_units: dict[str, int] = field(default_factory=dict)
    decimal: str = ""

    @property
    def readable(self) -> int:
        return len(self.values) - self.missing - self.unreadable


def take_apart(column: Any) -> Cells:
    """Split a text column into its different cells, and those into number and unit."""
    import pandas as pd
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(column, null_encoding="encode").combine_chunks()
    if hasattr(encoded, "chunks"):  # an empty chunked array
        encoded = encoded.chunk(0)
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    texts = pd.Series(encoded.dictionary.to_pylist(), dtype=object).fillna("").astype(str).str.strip()
    missing = texts.str.lower().isin(MISSING).to_numpy(dtype=bool)
    parts = texts.str.extract(_CELL)
    units = parts["unit"].fillna("").str.strip().where(parts["number"].notna(), "")
    counts = np.bincount(codes, minlength=len(texts))
    return Cells(codes, counts, texts, parts["number"], units, missing)


@dataclass(frozen=True, slots=True)
class Evidence:
    """How many different cells prove that the comma, or the point, is the decimal mark; `grouped` could be either."""

    comma: int = 0
    point: int = 0
    grouped: int = 0

    def mark(self, otherwise: str) -> str:
        """Return the decimal mark that the cells prove, else `otherwise`."""
        if self.comma == self.point:
            return otherwise
        return "," if self.comma > self.point else "."


def evidence(cells: Cells) -> Evidence:
    """Count what a column's cells say about the decimal mark.

    Both marks in a cell: the later one is decimal. One mark twice: it groups thousands. One mark once: decimal, unless
    exactly one to three digits (the first not 0) stand before it and exactly three behind, which may be thousands.
    """
    numbers = cells.numbers.dropna()
    commas, points = numbers.str.count(","), numbers.str.count(r"\.")
    both = (commas > 0) & (points > 0)
    later_comma = numbers.str.rfind(",") > numbers.str.rfind(".")
    thousands = numbers.str.contains(r"^[+\-\u2212]?[1-9]\d{0,2}[.,]\d{3}$")
    one_comma, one_point = (commas == 1) & (points == 0), (points == 1) & (commas == 0)
    comma = (both & later_comma) | (one_comma & ~thousands) | ((points > 1) & (commas == 0))
    point = (both & ~later_comma) | (one_point & ~thousands) | ((commas > 1) & (points == 0))
    return Evidence(int(comma.sum()), int(point.sum()), int((thousands & (one_comma | one_point)).sum()))


def file_mark(evidences: Sequence[Evidence], delimiter: str) -> tuple[str, bool]:
    """Return the decimal mark of a whole file, and whether that is a guess.

    Without proof in any column: a file that is not separated by commas comes from a country with decimal commas.
    """
    commas = sum(each.comma > each.point for each in evidences)
    points = sum(each.point > each.comma for each in evidences)
    if commas != points:
        return ("," if commas > points else "."), False
    guess = any(each.grouped for each in evidences)
    return ("," if delimiter in (";", "\t") and guess else "."), guess


def to_numbers(texts: pd.Series[str], mark: str) -> NDArray[np.float64]:
    """Return number texts as float64; NaN for those that do not fit the decimal mark."""
    import pandas as pd

    grouping = f"[{_GROUPING}{'.' if mark == ',' else ','}]"
    point = "," if mark == "," else r"\."
    exponent = r"(?:[eE][+\-]?\d+)?"
    valid = texts.str.contains(
        rf"^[+\-\u2212]?(?:\d{{1,3}}(?:{grouping}\d{{3}})+(?:{point}\d*)?|\d+(?:{point}\d*)?|{point}\d+){exponent}$",
        na=False,
    )
    plain = texts.str.replace(grouping, "", regex=True).str.replace("\u2212", "-").str.replace(mark, ".")
    values = np.array(pd.to_numeric(plain.where(valid), errors="coerce"), dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def parse_texts(cells: Cells, target: str, unit: str, mark: str, *, declared: bool) -> Parsed:
    """Turn a text column's cells into the canonical unit of `target`.

    `unit` holds for cells without one of their own (empty: already canonical), or with `declared` for all cells.
    """
    column = columns.CANONICAL.get(target)
    values = to_numbers(cells.numbers, mark)
    known: dict[str, int] = {}
    unknown: dict[str, int] = {}
    written = cells.units.to_numpy(dtype=object)
    for each in dict.fromkeys(written.tolist()):
        chosen = unit if declared or not each else each
        here = (written == each) & ~cells.missing & ~np.isnan(values)
        rows = int(cells.counts[here].sum())
        if not rows:
            continue
        scale = (1.0, 0.0) if column is None else columns.conversion(column, normal_unit(chosen))
        if scale is None:
            unknown[chosen] = rows
            values[here] = np.nan
        else:
            known[chosen] = known.get(chosen, 0) + rows
            values[here] = values[here] * scale[0] + scale[1]
    values[cells.missing] = np.nan
    bad = np.isnan(values) & ~cells.missing
    example = str(cells.texts[int(np.argmax(bad))])[:40] if bad.any() else ""
    missing = int(cells.counts[cells.missing].sum())
    return Parsed(values[cells.codes], missing, int(cells.counts[bad].sum()), example, known, unknown, mark)


def parse_numbers(column: Any, target: str, unit: str) -> Parsed:
    """Turn a numeric column (Parquet) into the canonical unit of `target`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pc.cast(column, pa.float64(), safe=False).to_numpy().astype(np.float64, copy=True)
    values[~np.isfinite(values)] = np.nan
    canonical = columns.CANONICAL.get(target)
    scale = (1.0, 0.0) if canonical is None else columns.conversion(canonical, normal_unit(unit))
    missing = int(np.isnan(values).sum())
    if scale is None:
        return Parsed(np.full(len(values), np.nan), missing, len(values) - missing, "", {}, {unit: len(values)})
    return Parsed(values * scale[0] + scale[1], missing, 0, "", {unit: len(values) - missing})


def normal_unit(unit: str) -> str:
    """Return a unit without the accidents of keyboards: masculine ordinal for degree, blanks inside."""
    return unit.replace("º", "°").replace(" ", "")


def is_text(column: Any) -> bool:
    """Whether a pyarrow column holds text."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_number(column: Any) -> bool:
    """Whether a pyarrow column holds numbers."""
    import pyarrow as pa

    kind = column.type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
