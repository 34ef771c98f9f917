"""From cells to numbers: decimal commas, thousands separators, units inside cells, missing and unreadable ones.

All work is done once for each different cell, not for each row: sensors have few values. pyarrow is imported by the
functions. Must not import torch or flwr.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fleven.app import columns
from fleven.data.importing.logger_names import normal_unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

MISSING: Final = frozenset(
    (
        *("", "-", "--", "---", "?", "nan", "na", "n/a", "#n/a", "null", "none", "nil", "unknown", "not available"),
        *("inf", "-inf", "infinity", "-infinity", "\u221e", "no data", "nodata", "unable to connect"),
    )
)
# Spaces and quotes that group digits: space, no-break spaces, apostrophes (Switzerland).
_GROUPING: Final = " \u00a0\u202f'\u2019"
# Regular expressions of this module are RE2's, which pyarrow runs.
_CELL: Final = (
    rf"^(?P<number>[+\-\x{{2212}}]?(?:\d{{1,3}}(?:[{_GROUPING}]\d{{3}})+(?:[.,]\d+)?|[\d.,]*\d[.,]?)"
    r"(?:[eE][+\-]?\d+)?)\s*(?P<unit>1/min|[^\d\s].*)?$"
)


@dataclass(frozen=True, slots=True)
class Cells:
    """A column's different cells: `texts[codes[row]]` is the cell of a row, `counts` how many rows have it.

    `numbers` and `units` are pyarrow texts: the parts of each cell that looks like a number with or without a unit
    (null if it does not). `missing` marks the cells that say that there is no value.
    """

    codes: NDArray[np.int64]
    counts: NDArray[np.int64]
    texts: Any
    numbers: Any
    units: Any
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
        """How many cells hold a number."""
        return len(self.values) - self.missing - self.unreadable


def take_apart(column: Any) -> Cells:
    """Split a text column into its different cells, and those into number and unit."""
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(pc.fill_null(column.cast(pa.string()), ""))
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    texts = pc.utf8_trim_whitespace(encoded.dictionary)
    missing = pc.is_in(pc.utf8_lower(texts), pa.array(sorted(MISSING))).to_numpy(zero_copy_only=False)
    parts = pc.extract_regex(texts, _CELL)
    numbers, units = pc.struct_field(parts, "number"), pc.struct_field(parts, "unit")
    hexadecimal = pc.match_substring_regex(texts, r"^0[xX][0-9a-fA-F]+$")  # not a 0 in a unit that begins with x
    numbers, units = (pc.if_else(hexadecimal, pa.scalar(None, pa.string()), each) for each in (numbers, units))
    return Cells(codes, np.bincount(codes, minlength=len(texts)), texts, numbers, units, missing)


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
    import pyarrow.compute as pc

    def matches(pattern: str) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = pc.match_substring_regex(numbers, pattern).to_numpy(zero_copy_only=False)
        return found

    numbers = pc.drop_null(cells.numbers)
    commas = pc.count_substring(numbers, ",").to_numpy(zero_copy_only=False)
    points = pc.count_substring(numbers, ".").to_numpy(zero_copy_only=False)
    both = (commas > 0) & (points > 0)
    later_comma = matches(r",[^.,]*$")
    thousands = matches(r"^[+\-\x{2212}]?[1-9]\d{0,2}[.,]\d{3}$")
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


def to_numbers(texts: Any, mark: str) -> NDArray[np.float64]:
    """Return pyarrow texts as float64; NaN for those that do not fit the decimal mark."""
    import pyarrow as pa
    import pyarrow.compute as pc

    grouping = f"[{_GROUPING}{'.' if mark == ',' else ','}]"
    point = "," if mark == "," else r"\."
    exponent = r"(?:[eE][+\-]?\d+)?"
    whole = rf"(?:\d{{1,3}}(?:{grouping}\d{{3}})+(?:{point}\d*)?|\d+(?:{point}\d*)?|{point}\d+)"
    valid = pc.match_substring_regex(texts, rf"^[+\-\x{{2212}}]?{whole}{exponent}$")
    plain = pc.if_else(valid, texts, pa.scalar(None, pa.string()))
    for pattern, replacement in ((rf"^\+|{grouping}", ""), (r"\x{2212}", "-"), (",", ".")):
        plain = pc.replace_substring_regex(plain, pattern, replacement)
    # `5.` is a number to people, not to Arrow.
    plain = pc.replace_substring_regex(plain, r"\.($|[eE])", r"\1")
    values: NDArray[np.float64] = pc.cast(plain, pa.float64()).to_numpy(zero_copy_only=False).copy()
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
    written, units = _distinct(cells.units)
    usable = ~cells.missing & ~np.isnan(values)
    rows = np.bincount(written[usable], weights=cells.counts[usable], minlength=len(units)).astype(np.int64)
    foreign = np.zeros(len(units), dtype=bool)
    # Dates look like numbers with as many units as there are rows: only units that convert cost a pass over the cells.
    for number in np.flatnonzero(rows).tolist():
        chosen = unit if declared or not units[number] else units[number]
        scale = (1.0, 0.0) if column is None else columns.conversion(column, normal_unit(chosen))
        if scale is None:
            unknown[chosen] = int(rows[number])
            foreign[number] = True
        else:
            known[chosen] = known.get(chosen, 0) + int(rows[number])
            if scale != (1.0, 0.0):
                here = (written == number) & usable
                values[here] = values[here] * scale[0] + scale[1]
    values[foreign[written] & usable] = np.nan
    values[cells.missing] = np.nan
    bad = np.isnan(values) & ~cells.missing
    example = cells.texts[int(np.argmax(bad))].as_py()[:40] if bad.any() else ""
    missing = int(cells.counts[cells.missing].sum())
    return Parsed(values[cells.codes], missing, int(cells.counts[bad].sum()), example, known, unknown, mark)


def _distinct(units: Any) -> tuple[NDArray[np.int64], list[str]]:
    """Return (number of the unit of each cell, units)."""
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(pc.utf8_trim_whitespace(pc.fill_null(units, "")))
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()


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


def labels(column: Any) -> NDArray[np.object_]:
    """Return a column of names as text [rows], an empty text for no name; `8.0` is the vehicle 8."""
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(pc.fill_null(pc.cast(column, pa.string()), "")).combine_chunks()
    texts = [re.sub(r"^(\d+)\.0+$", r"\1", str(text).strip()) for text in encoded.dictionary.to_pylist()]
    names = np.array(["" if text.lower() in MISSING else text for text in texts], dtype=object)
    taken: NDArray[np.object_] = names[encoded.indices.to_numpy(zero_copy_only=False)]
    return taken


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


def is_empty(column: Any) -> bool:
    """Whether a pyarrow column holds nothing at all."""
    import pyarrow.compute as pc

    if not is_text(column):
        return bool(column.null_count == len(column))
    longest = pc.max(pc.utf8_length(column.cast("string"))).as_py()
    return not longest
