"""Tables whose columns are not quantities: one reading in each line, units or parts of a time in their own columns.

Such a table is turned into a plain one, with a column for each quantity and its unit where all else looks for it. Must
not import torch, flwr or pandas.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from fleven.data.importing.cell_parsing import evidence, is_text, labels, take_apart, to_numbers
from fleven.data.importing.clock import Clock, ClockContext, read_clock
from fleven.data.importing.column_mapping import Assignment, Rules, assign, known_header
from fleven.data.importing.header_names import Origin, parts
from fleven.data.importing.logger_names import folded_key, is_unit
from fleven.data.importing.sparse_rows import LONGEST_AGE_SECONDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fleven.data.importing.log_table import LogTable

_LABEL_KEYS: Final = frozenset(
    (
        *("pid", "pidname", "parameter", "parametername", "sensor", "sensorname", "signal", "signalname"),
        *("channel", "channelname", "name", "variable", "metric", "measurement", "command"),
    )
)
_VALUE_KEYS: Final = frozenset(("value", "val", "reading", "wert", "valor", "valeur", "valore"))
_UNIT_KEYS: Final = frozenset(
    ("unit", "units", "einheit", "einheiten", "unidad", "unidades", "unidade", "unite", "unita")
)
# The parts of a date and time, as small boards with GPS write them: names, and what is not one any more.
_TIME_PARTS: Final = {
    "year": (("year", "yr", "ano", "jahr", "annee"), 2262),
    "month": (("month", "mon", "mes", "monat", "mois"), 13),
    "day": (("day", "dia", "tag", "jour"), 32),
    "hour": (("hour", "hours", "hora", "stunde", "heure", "hh"), 25),
    "minute": (("minute", "minutes", "min", "minuto", "mm"), 60),
    "second": (("second", "seconds", "sec", "segundo", "sekunde", "seconde", "ss"), 61),
}
_READABLE_SHARE: Final = 0.8


def reshaped(table: LogTable, rules: Rules) -> LogTable:
    """Return a table of quantities.

    Readings in lines become rows, a column of units goes into the cells beside it, hour, minute and second become one
    clock.
    """
    if len(table.parts()) > 1:
        return table
    return _with_units_in_cells(_widened(_with_one_clock(table), rules))


def _with_one_clock(table: LogTable) -> LogTable:
    """Put hour, minute and second together, with year, month and day where these are there too."""
    import pyarrow as pa

    keys = [folded_key(header) for header in table.headers]
    found = {
        part: index
        for part, (names, _) in _TIME_PARTS.items()
        if (index := next((number for number, key in enumerate(keys) if key in names), None)) is not None
    }
    if not {"hour", "minute", "second"} <= set(found) or not all(
        is_text(table.columns[each]) for each in found.values()
    ):
        return table
    dated = {"year", "month", "day"} <= set(found)
    used = {part: index for part, index in found.items() if dated or part in ("hour", "minute", "second")}
    numbers = {}
    for part, index in used.items():
        cells = take_apart(table.columns[index])
        numbers[part] = to_numbers(cells.texts, evidence(cells).mark("."))[cells.codes]
    with np.errstate(invalid="ignore"):
        whole = np.logical_and.reduce([(each >= 0) & (each < _TIME_PARTS[part][1]) for part, each in numbers.items()])
    if not len(whole) or float(whole.mean()) < _READABLE_SHARE:
        return table
    texts = []
    for number, good in enumerate(whole.tolist()):
        here = {part: float(each[number]) for part, each in numbers.items()}
        texts.append(_time_text(here) if good else "")
    kept = [index for index in range(len(keys)) if index not in used.values()]
    name = "Date and time" if dated else "Time of day"
    note = f"{name} is put together from {', '.join(table.headers[index] for index in used.values())}"
    return replace(
        table,
        headers=[name, *(table.headers[index] for index in kept)],
        columns=[pa.chunked_array([pa.array(texts, pa.string())]), *(table.columns[index] for index in kept)],
        units=["", *(table.units[index] for index in kept)] if table.units else [],
        origins=[Origin.UNKNOWN, *(table.origins[index] for index in kept)] if table.origins else [],
        notes=[*table.notes, note],
        sections=[],
    )


def _time_text(parts_of_it: dict[str, float]) -> str:
    hour, minute, second = (parts_of_it[part] for part in ("hour", "minute", "second"))
    text = f"{hour:02.0f}:{minute:02.0f}:{second:06.3f}"
    if "year" not in parts_of_it:
        return text
    year = parts_of_it["year"] + (2000 if parts_of_it["year"] < 100 else 0)
    return f"{year:04.0f}-{parts_of_it['month']:02.0f}-{parts_of_it['day']:02.0f} {text}"


def _with_units_in_cells(table: LogTable) -> LogTable:
    """Write the cells of `Speed unit` behind those of `Speed`."""
    import pyarrow.compute as pc

    keys = [folded_key(parts(header).name) for header in table.headers]
    found = list(table.columns)
    for beside, key in enumerate(keys):
        name = next((key.removesuffix(word) for word in _UNIT_KEYS if key.endswith(word) and key != word), None)
        if name not in keys or not is_text(table.columns[beside]):
            continue
        units = take_apart(table.columns[beside])
        if not any(is_unit(text) for text in units.texts.to_pylist()):
            continue
        index = keys.index(name)
        value, unit = (pc.fill_null(table.columns[each].cast("string"), "") for each in (index, beside))
        written = pc.and_(pc.not_equal(pc.utf8_trim_whitespace(value), ""), pc.not_equal(unit, ""))
        found[index] = pc.if_else(written, pc.binary_join_element_wise(value, unit, " "), value)
    return replace(table, columns=found)


def _widened(table: LogTable, rules: Rules) -> LogTable:
    """Gather readings that stand in lines of their own (`SECONDS;PID;VALUE;UNITS`) into rows.

    A row goes on until a quantity comes again, `LONGEST_AGE_SECONDS` at most; its time is that of its first reading.
    """
    import pyarrow as pa

    keys = [folded_key(header) for header in table.headers]
    label, value, unit = (
        next((index for index, key in enumerate(keys) if key in group), None)
        for group in (_LABEL_KEYS, _VALUE_KEYS, _UNIT_KEYS)
    )
    roles = assign(table.headers, rules)
    if label is None or value is None or roles.signals or not roles.clocks:
        return table
    cells = table.columns[value].cast("string").to_numpy().astype(object)
    names, codes = _names(table, label, unit, cells)
    known = np.array([known_header(name, rules) for name in names])
    if not known.any():
        return table
    row = _rows(np.where(known[codes], codes, -1), _seconds(table, roles), _groups(table, roles))
    used = np.flatnonzero(row >= 0)
    count = int(row.max()) + 1
    firsts = used[np.unique(row[used], return_index=True)[1]]
    headers, columns = [], []
    for number, name in enumerate(names):
        column = np.full(count, None, dtype=object)
        here = np.flatnonzero(codes == number)
        if known[number]:
            column[row[here]] = cells[here]
        else:  # nobody reads it, but it must not pass for an empty one
            column[0] = cells[here[0]]
        headers.append(name)
        columns.append(pa.chunked_array([pa.array(column, pa.string())]))
    for index, header in enumerate(table.headers):
        if index not in (label, value, unit):
            headers.append(header)
            columns.append(table.columns[index].take(pa.array(firsts)))
    note = f"one reading in each line: {table.rows} lines became {count} rows"
    return replace(
        table,
        headers=headers,
        columns=columns,
        rows=count,
        rows_joined=table.rows - count,
        notes=[*table.notes, note],
        units=[],
        origins=[],
        sections=[],
    )


def _names(
    table: LogTable, label: int, unit: int | None, cells: NDArray[np.object_]
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the quantities, with their units in brackets, and which of them each line is of [lines].

    `cells` [lines] in another unit than most of their quantity get it written behind them.
    """
    names, codes = np.unique(labels(table.columns[label]).astype(str), return_inverse=True)
    if unit is None:
        return names.tolist(), codes
    units, its = np.unique(labels(table.columns[unit]).astype(str), return_inverse=True)
    written = []
    for number, name in enumerate(names.tolist()):
        counts = np.bincount(its[codes == number], minlength=len(units))
        counts[units == ""] = 0
        usual = int(counts.argmax())
        written.append(f"{name} ({units[usual]})" if counts[usual] else name)
        for other in np.flatnonzero(counts):
            here = (codes == number) & (its == other)
            if other != usual:
                cells[here] = [f"{cell} {units[other]}" for cell in cells[here]]
    return written, codes


def _seconds(table: LogTable, roles: Assignment) -> NDArray[np.float64]:
    """Return the time of each line, zeros where no clock can be read: then only the names part the rows."""
    around = ClockContext.plain(table.rows, None if roles.date is None else table.columns[roles.date])
    for candidate in roles.clocks:
        column = table.columns[candidate.index]
        mark = evidence(take_apart(column)).mark(".") if is_text(column) else "."
        found = read_clock(column, candidate, mark, around)
        if isinstance(found, Clock):
            return found.seconds
    return np.zeros(table.rows)


def _groups(table: LogTable, roles: Assignment) -> NDArray[np.int64]:
    """Return a number for each line that differs where vehicle or trip differ."""
    group = np.zeros(table.rows, dtype=np.int64)
    for index in (roles.vehicle, roles.trip):
        if index is not None:
            _, codes = np.unique(labels(table.columns[index]).astype(str), return_inverse=True)
            group = group * (int(codes.max(initial=0)) + 1) + codes
    return group


def _rows(codes: NDArray[np.int64], seconds: NDArray[np.float64], group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row that each line's reading belongs to, -1 for lines of a quantity that nobody needs (code -1)."""
    rows: list[int] = []
    row, begin, its_group = -1, np.inf, -1
    seen: set[int] = set()
    for code, second, of in zip(codes.tolist(), seconds.tolist(), group.tolist(), strict=True):
        if code < 0:
            rows.append(-1)
            continue
        if code in seen or of != its_group or not 0.0 <= second - begin <= LONGEST_AGE_SECONDS:
            row, begin, its_group = row + 1, second, of
            seen.clear()
        seen.add(code)
        rows.append(row)
    return np.array(rows, dtype=np.int64)
