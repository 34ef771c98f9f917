"""A text table to columns of cells: delimiter, headers and sections found by looking, every line accounted for.

Cells stay text. pyarrow is imported by the functions that read. Must not import torch, flwr or pandas.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fleven.app.columns import TIME_COLUMN
from fleven.data.importing.header_lines import Header, HeaderFinder, is_number, names_known, usual_width
from fleven.data.importing.header_names import Origin, parts
from fleven.data.importing.log_table import LogTable, Section, UnreadableError
from fleven.data.importing.logger_names import NAMES, folded_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

DELIMITERS: Final = (";", "\t", "|", ",")
DELIMITER_NAMES: Final = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
#: Marks the end of a line that was cut by a power loss.
CUT_MARK: Final = "\x1f"
_SAMPLE_CHARACTERS: Final = 200_000
_SAMPLE_LINES: Final = 200
# So many lines alike above the first header are rows, whatever parts their cells.
_ROWS_ABOVE: Final = 5
# How many rows below a header tell how many cells a row has.
_WIDTH_LINES: Final = 60
# A number that lost digits is a tenth or less of the one before.
_CUT_SHARE: Final = 0.3
_BLOCK_BYTES: Final = 16 << 20
_TITLE: Final = re.compile(r"\s*\[[^\]]*\][\s,;]*")


def read_table(
    text: str, known: Callable[[str], bool], encoding: str, notes: list[str], delimiter: str | None = None
) -> LogTable:
    """Split a text into cells. `notes` are those on its decoding; the table has them and its own.

    Raises:
        UnreadableError: no table.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    dialect = sniff(text[:_SAMPLE_CHARACTERS], known, delimiter)
    text = _without_glued_headers(text, dialect, known)
    table = _TextReader(text, dialect, known, encoding, notes).table()
    if len(table.columns) < 2:
        raise UnreadableError(*_no_columns(dialect.delimiter))
    return table


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a text table is laid out. `header_line` counts from 0; a row has as many cells as `header`.

    `named` is how many cells the header line itself has; the names after them are empty.
    """

    delimiter: str
    header_line: int
    header: tuple[str, ...]
    named: int


def sniff(sample: str, known: Callable[[str], bool], delimiter: str | None = None) -> Dialect:
    """Find delimiter and header line in the beginning of a file.

    The delimiter is the one whose header line has most known names, then the one that splits most lines alike.

    Raises:
        UnreadableError: no delimiter makes a table of it, or the header names more columns than the rows have.
    """
    lines = sample.split("\n")[:_SAMPLE_LINES]
    if delimiter is None and _are_words(lines, known):
        delimiter = " "
    best: tuple[tuple[int, float, int, int], str, int, int, list[str]] | None = None
    for candidate in (delimiter,) if delimiter else DELIMITERS:
        rows = _split(lines, candidate)
        width, alike = usual_width(rows)
        if width < 2:
            continue
        line, names = _header_line(rows, known)
        if line is None:
            line = next(i for i, row in enumerate(rows) if len(row) == width)
        else:
            width = usual_width(_rows_below(rows, line)[:_WIDTH_LINES])[0] or width
        score = (names, alike, width, -line)
        if best is None or score > best[0]:
            best = score, candidate, line, width, [cell.strip() for cell in rows[line]]
    if best is None:
        raise UnreadableError(*_no_columns(delimiter))
    _, found, line, width, header = best
    if all(not cell or is_number(cell) for cell in header[:width]):
        raise UnreadableError("has no header line", "add one line with the columns' names on top")
    return Dialect(found, line, _fitted(header, width), len(header))


def _without_glued_headers(text: str, dialect: Dialect, known: Callable[[str], bool]) -> str:
    """Break a line where a header begins in it: a power cut left its beginning, and the logger that restarted went on.

    The header is one if it begins as the first of the file does, and names two columns and nothing else.
    """
    line = text[:_SAMPLE_CHARACTERS].split("\n")[dialect.header_line]
    begin = line.partition(dialect.delimiter)[0] + dialect.delimiter
    if len(begin) <= 2:
        return text
    pieces, done, at = [], 0, text.find(begin)
    while at >= 0:
        end = text.find("\n", at)
        head = text[at : end if end >= 0 else len(text)]
        before = text[text.rfind("\n", 0, at) + 1 : at]
        is_row = re.search(r"\d", before) and not any(map(known, _split([before], dialect.delimiter)[0]))
        if is_row and names_known(_split([head], dialect.delimiter)[0], known) >= 2:
            pieces.append(text[done:at] + CUT_MARK + "\n")
            done = at
        at = text.find(begin, at + len(begin))
    return "".join([*pieces, text[done:]]) if pieces else text


def _are_words(lines: Sequence[str], known: Callable[[str], bool]) -> bool:
    """Whether single spaces part the cells (VBOX): no line has another delimiter, and a header names two columns."""
    if any(delimiter in line for delimiter in DELIMITERS for line in lines):
        return False
    rows = _split(lines, " ")
    line, names = _header_line(rows, known)
    return line is not None and names >= 2 and len(rows[line]) == usual_width(rows)[0]


def _no_columns(delimiter: str | None) -> tuple[str, str]:
    named = f"by {delimiter!r}" if delimiter else "by semicolon, tab, pipe or comma"
    return f"has no columns separated {named}", "is it a logger's table? --delimiter names another"


def _split(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    return [next(csv.reader([line], delimiter=delimiter), []) for line in lines]


def _header_line(rows: list[list[str]], known: Callable[[str], bool]) -> tuple[int | None, int]:
    """Return the line of the first header that the rows under it fit, and how many names of the best one are known.

    A file can hold a better header further down; what stands above it is a table too.
    """
    candidates = {line: row for line, row in enumerate(rows) if row and not any(map(is_number, row))}
    most = max((names_known(row, known) for row in candidates.values()), default=0)
    if not most:
        return None, 0
    headers = HeaderFinder(candidates, rows.__getitem__, known).find(least=(most + 1) // 2)
    for header in headers:
        follow = _rows_below(rows, header.end - 1)[:5]
        if not follow or abs(usual_width(follow)[0] - len(header.names)) <= 1:
            return header.names_line, most
    best = max(candidates, key=lambda line: (names_known(candidates[line], known), -line))
    return best, most


def _rows_below(rows: list[list[str]], line: int) -> list[list[str]]:
    """Return the lines below a line that hold more than a title such as `[Channel Data]`."""
    return [row for row in rows[line + 1 :] if len(row) > 1 and any(cell.strip() for cell in row)]


def _fitted(header: list[str], width: int) -> tuple[str, ...]:
    """Return a name for each cell of a row.

    One delimiter too many or too few at the end of the header is a common fault of loggers, and harmless.
    """
    if any(header[width:]):
        raise UnreadableError(_unlike(len(header), width), "name only the columns that the rows have, in their order")
    return tuple((header + [""] * width)[:width])


def _unlike(named: int, width: int) -> str:
    """Say that names and cells cannot be told to belong together: cells would land under the wrong names."""
    return f"the header names {named} columns, the rows have {width}"


class _TextReader:
    """The steps from a text to its table, which share its lines and the account of them."""

    def __init__(
        self, text: str, dialect: Dialect, known: Callable[[str], bool], encoding: str, notes: list[str]
    ) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self._dialect = dialect
        self._known = known
        self._encoding = encoding
        self._notes = notes
        # A header's width may differ from the rows' that follow, but a table keeps its delimiter.
        self._lines = pc.list_flatten(pc.split_pattern(pa.array([text], pa.large_string()), "\n"))
        self._blank = pc.equal(self._lines, "").to_numpy(zero_copy_only=False)
        self._cut = pc.ends_with(self._lines, CUT_MARK).to_numpy(zero_copy_only=False)
        self._broken = int(self._cut.sum())
        self._header_rows = 0

    def table(self) -> LogTable:
        first, later = self._headers()
        first = self._without_title(first)
        self._check_above(first)
        pieces: list[tuple[Header, list[Any]]] = []
        current, begin, lost = first, first.end, []
        for header in [*later, None]:
            end = header.first if header else len(self._lines)
            if header is not None:
                lost.append((header.first, header.end))
                self._header_rows += int((~self._blank[header.first : header.end]).sum())
                if header.same_as(current):
                    continue
                if self._blank[begin : header.first].all() and header.same_names(current):
                    # Names, units, names again (AiM): one header in two pieces.
                    current = replace(header, units=header.units if any(header.units) else current.units)
                    begin, lost = header.end, []
                    continue
            self._piece(pieces, current, begin, end, lost)
            if header is not None:
                current, begin, lost = header, header.end, []
                self._notes.append(
                    f"line {header.names_line + 1}: the header changes; from there on the new one applies"
                )
        if not pieces:
            self._refuse_empty(first)
        return self._joined(pieces, first)

    def _headers(self) -> tuple[Header, list[Header]]:
        """Return the first header and those after it."""
        candidates = {int(line): self._row(int(line)) for line in np.flatnonzero(self._without_number())}
        names = self._dialect.header_line
        if names not in candidates:
            candidates[names] = self._row(names)
        finder = HeaderFinder(candidates, self._row, self._known)
        headers = [header for header in finder.find(least=1) if header.names_line >= names]
        if not headers or headers[0].names_line != names:
            texts = tuple(cell.strip() for cell in candidates[names])
            headers = [Header(names, names + 1, names, texts, ("",) * len(texts)), *headers]
        # Names of a unit or of a single column can stand in a row; a header in mid-file names two columns or its clock.
        later = [self._without_title(each) for each in headers[1:] if self._is_header(each.names)]
        return headers[0], [self._with_ids(each) for each in later]

    def _without_title(self, header: Header) -> Header:
        """Take lines such as `[Channel Data]`, which some loggers write between names and rows, for header lines."""
        end = header.end
        while end < len(self._lines) and (self._blank[end] or _TITLE.fullmatch(self._lines[end].as_py())):
            end += 1
        return replace(header, end=end)

    def _with_ids(self, header: Header) -> Header:
        """Take a line of ids over a header in mid-file for its own, where a title or nothing parts it from the rows."""
        line = header.first - 1
        if not any(header.units) or line < 1 or not all(map(is_number, filter(None, self._row(line)))):
            return header
        above = self._lines[line - 1].as_py()
        return replace(header, first=line) if not above.strip() or _TITLE.fullmatch(above) else header

    def _is_header(self, names: Sequence[str]) -> bool:
        if names_known(names, self._known) >= 2:
            return True
        given = [name for name in names if name]
        return len(given) >= 2 and all(name[0].isalpha() for name in given) and _names_clock(given)

    def _without_number(self) -> NDArray[np.bool_]:
        """Return which lines hold something, and no cell that is a number: rows nearly always hold one."""
        import pyarrow.compute as pc

        delimiter = self._dialect.delimiter
        characters = r"\d.:+\-" + ("" if delimiter == "," else ",")
        edge = re.escape(delimiter)
        number = rf'(?:^|{edge})[ "]*[{characters}]*\d[{characters}]*[ "]*(?:{edge}|$)'
        found = pc.match_substring_regex(self._lines, number).to_numpy(zero_copy_only=False)
        without: NDArray[np.bool_] = ~found & ~self._blank & ~self._cut
        return without

    def _row(self, line: int) -> list[str]:
        return next(csv.reader([self._lines[line].as_py()], delimiter=self._dialect.delimiter), [])

    def _check_above(self, first: Header) -> None:
        """Count the rows above the first header, whose columns nobody names.

        One line of numbers there, where units stand below, is of ids. Rows may have another delimiter.
        """
        found: Counter[tuple[str, int]] = Counter()
        lines: dict[tuple[str, int], set[int]] = {}
        for line in np.flatnonzero(~self._blank[: first.first]).tolist():
            written = self._lines[line].as_py()
            for delimiter in DELIMITERS:
                row = _split([written], delimiter)[0]
                if sum(map(is_number, row)) >= 2:
                    found[delimiter, len(row)] += 1
                    lines.setdefault((delimiter, len(row)), set()).add(line)
        own = self._dialect.delimiter, len(self._dialect.header)
        rows: set[int] = set()
        for layout, count in found.items():
            if count >= _ROWS_ABOVE or layout == own:
                rows |= lines[layout]
        if rows == {first.first - 1} and any(first.units):
            rows = set()
        self._above = len(rows)
        if rows:
            self._notes.append(f"{len(rows)} rows above the first header, in line {first.names_line + 1}, are left out")

    def _piece(
        self, pieces: list[tuple[Header, list[Any]]], header: Header, begin: int, end: int, lost: list[tuple[int, int]]
    ) -> None:
        """Read the rows of one header: the lines from `begin` to `end` without those that are `lost`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        keep = ~(self._blank | self._cut)[begin:end]
        for first, after in lost:
            keep[max(first - begin, 0) : max(after - begin, 0)] = False
        if not keep.any():
            return
        lines = self._lines.slice(begin, end - begin).filter(pa.array(keep))
        width = self._width(header, lines)
        whole = pa.ListArray.from_arrays([0, len(lines)], lines.cast(pa.string()))
        body = pc.binary_join(whole, "\n")[0].as_py()
        try:
            names = _fitted(list(header.names), width)
            columns = self._cells(body, width)
            if columns and len(columns[0]):
                if end == len(self._lines) and not self._blank[-1]:
                    self._doubt_last_cell(columns)
                _check_unnamed(columns[len(header.names) :], len(header.names), width, self._dialect.delimiter)
                pieces.append((replace(header, names=names), columns))
        except UnreadableError as error:
            if header.names_line == self._dialect.header_line:
                raise
            raise UnreadableError(f"line {header.names_line + 1}: {error}", error.hint) from None

    def _doubt_last_cell(self, columns: list[Any]) -> None:
        """Empty the last cell of a file that ends within a line if it looks cut: `15` of `1507`."""
        import pyarrow as pa

        cells = [cell.strip() for cell in columns[-1].slice(max(len(columns[-1]) - _SAMPLE_LINES, 0)).to_pylist()]
        *others, last = cells
        if not last or not _looks_cut(last, [cell for cell in others if cell]):
            return
        kept = columns[-1].slice(0, len(columns[-1]) - 1)
        columns[-1] = pa.chunked_array([*kept.chunks, pa.array([""], pa.string())])
        self._notes.append(f"the file ends within a line, and its last cell, {last[:20]!r}, looks cut: left out")

    def _width(self, header: Header, lines: Any) -> int:
        rows = _split(lines.slice(0, _WIDTH_LINES).to_pylist(), self._dialect.delimiter)
        return usual_width(rows)[0] or len(header.names)

    def _cells(self, body: str, width: int) -> list[Any]:
        """Split rows into cells; returns a text column for each, empty where no row is whole."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        body, broken = _without_open_quotes(body, self._dialect.delimiter)
        self._broken += broken
        if not body.strip():
            return []
        names = [str(number) for number in range(width)]

        def skip(_row: Any) -> str:
            self._broken += 1
            return "skip"

        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(body.encode()),
                read_options=arrow_csv.ReadOptions(column_names=names, block_size=_BLOCK_BYTES),
                parse_options=arrow_csv.ParseOptions(delimiter=self._dialect.delimiter, invalid_row_handler=skip),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid as error:
            raise UnreadableError(f"cannot be split into cells: {str(error).splitlines()[0]}") from error
        return list(table.columns)

    def _refuse_empty(self, first: Header) -> None:
        if self._blank[first.end :].all():
            raise UnreadableError("has a header and no rows")
        hint = "is the delimiter right? --delimiter; a quoted cell ends on its own line"
        raise UnreadableError("has no row with as many cells as the header", hint)

    def _joined(self, pieces: list[tuple[Header, list[Any]]], first: Header) -> LogTable:
        """Lay the sections one under another: a column is the same where name, unit, origin and repetition are."""
        import pyarrow as pa

        order: dict[tuple[str, str, Origin, int], int] = {}
        chunks: list[list[Any]] = []
        sections: list[Section] = []
        rows = 0
        for header, columns in pieces:
            count = len(columns[0])
            seen: Counter[tuple[str, str, Origin]] = Counter()
            own: dict[int, Any] = {}
            units = (*header.units, *[""] * len(columns))
            origins = (*header.origins, *[Origin.UNKNOWN] * len(columns))
            for name, unit, origin, column in zip(header.names, units, origins, columns, strict=False):
                number = order.setdefault((name, unit, origin, seen[name, unit, origin]), len(order))
                seen[name, unit, origin] += 1
                own[number] = column
            chunks += [[pa.nulls(rows, pa.string())] if rows else [] for _ in range(len(order) - len(chunks))]
            for number, chunk in enumerate(chunks):
                chunk.extend(own[number].chunks if number in own else [pa.nulls(count, pa.string())])
            sections.append(Section(rows, count, frozenset(own)))
            rows += count
        blank = int(self._blank.sum()) - int(len(self._lines) and self._blank[-1])
        header_lines = int((~self._blank[first.first : first.end]).sum())
        return LogTable(
            [name for name, *_ in order],
            [pa.chunked_array(group, pa.string()) for group in chunks],
            rows,
            self._broken,
            self._encoding,
            self._dialect.delimiter,
            self._notes,
            units=[unit for _, unit, *_ in order],
            origins=[origin for *_, origin, _ in order],
            rows_header=self._header_rows,
            rows_above=self._above,
            sections=sections,
            lines={
                "blank": blank,
                "header": header_lines,
                "preamble": int((~self._blank[: first.first]).sum()) - self._above,
            },
        )


def _looks_cut(last: str, others: list[str]) -> bool:
    """Whether a cell has fewer decimals than all others of its column, or is a number that lost digits at its end."""
    if len(others) < 2:
        return False
    decimals = {len(re.split("[.,]", cell)[-1]) if re.search("[.,]", cell) else 0 for cell in others}
    if len(decimals) == 1 and (usual := decimals.pop()):
        return len(re.split("[.,]", last)[-1]) < usual or not re.search("[.,]", last)
    if not all(map(is_number, (last, others[-1]))):
        return len(last) < min(map(len, others))
    if len(last) >= len(others[-1]):
        return False
    before, now = (re.sub("[^0-9]", "", cell) for cell in (others[-1], last))
    return float(now or 0) < _CUT_SHARE * float(before or 0)


def _names_clock(names: Sequence[str]) -> bool:
    return any(NAMES.get(folded_key(parts(name)[0])) == TIME_COLUMN for name in names)


def _without_open_quotes(text: str, delimiter: str) -> tuple[str, int]:
    """Take out the lines with a quoted cell that does not end there, and count them.

    A cell spans no lines, so such a line is broken; left in, it would swallow the lines after it. A quote inside a cell
    (`12"`) begins nothing. Only lines that hold a quote are looked at: most files have none.
    """
    mark = re.escape(delimiter)
    quoted_text = r'"[^"\r\n]*+(?:""[^"\r\n]*+)*+'
    plain = rf"[^{mark}\r\n]*+"
    begins_open = re.compile(rf'(?:(?:{quoted_text}"{plain}|(?!"){plain}){mark})*+{quoted_text}(?=[\r\n]|\Z)')
    line_end = re.compile(r"\r\n?|\n|\Z")
    kept: list[str] = []
    taken = after = 0  # up to where the text is in `kept`, and up to where it has been looked at
    while (quote := text.find('"', after)) >= 0:
        start = max(text.rfind("\n", after, quote), text.rfind("\r", after, quote), after - 1) + 1
        found = line_end.search(text, quote)
        after = found.end() if found else len(text)
        if begins_open.match(text, start):
            kept.append(text[taken:start])
            taken = after
    return "".join([*kept, text[taken:]]), len(kept)


def _check_unnamed(columns: list[Any], named: int, width: int, delimiter: str) -> None:
    """Refuse cells in columns that only the rows have: which of the others they push aside cannot be known."""
    import pyarrow.compute as pc

    if all(pc.all(pc.equal(pc.utf8_trim_whitespace(column), "")).as_py() for column in columns):
        return
    hint = "a column of row numbers without a name?"
    if delimiter == ",":
        hint = f"decimal commas in a file that commas separate? {hint}"
    raise UnreadableError(_unlike(named, width), hint)
