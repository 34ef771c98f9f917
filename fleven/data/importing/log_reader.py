"""A logger's file to a table of cells as they stand: encoding, delimiter and header found by looking.

Cells of text files stay text; Parquet keeps its types. What a cell means is decided elsewhere. pyarrow is imported by
the functions that read. Must not import torch, flwr or pandas.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

DELIMITERS: Final = (";", "\t", "|", ",")
DELIMITER_NAMES: Final = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
TEXT_SUFFIXES: Final = (".csv", ".tsv", ".txt", ".log", ".csv.gz", ".tsv.gz", ".txt.gz")
PARQUET_SUFFIXES: Final = (".parquet", ".pq")
_SAMPLE_CHARACTERS: Final = 200_000
_SAMPLE_LINES: Final = 60
_BLOCK_BYTES: Final = 16 << 20
# Control characters that a text table does not hold.
_CONTROL: Final = re.compile(r"[\x01-\x08\x0e-\x1b]")


class UnreadableError(Exception):
    """The file is not a table that can be read; the message says why, `hint` what to do."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a text table is laid out. `header_line` counts from 0; a row has as many cells as `header`.

    `named` is how many cells the header line itself has; the names after them are empty.
    """

    delimiter: str
    header_line: int
    header: tuple[str, ...]
    named: int


@dataclass(frozen=True, slots=True)
class LogTable:
    """A file's cells: `columns[i]` is a pyarrow array under `headers[i]`.

    `rows` are whole rows; `rows_broken` are lines with another number of cells than the header, or with a quoted cell
    that does not end. `synthetic` says that the file calls itself so.
    """

    headers: list[str]
    columns: list[Any]
    rows: int
    rows_broken: int = 0
    encoding: str = ""
    delimiter: str = ""
    notes: list[str] = field(default_factory=list)
    synthetic: bool = False


def read_log(
    path: Path, known: Callable[[str], bool], *, delimiter: str | None = None, encoding: str | None = None
) -> LogTable:
    """Read a CSV-like text file (also gzip) or a Parquet file.

    `known(header)` says whether a header is one that the importer knows; it finds the header line and the delimiter.

    Raises:
        UnreadableError: empty, binary, no table, wrong encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"can not be read: {error.strerror}") from error
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UnreadableError("is a broken gzip file") from error
    if not data.strip(b"\0 \r\n\t"):
        raise UnreadableError("is empty")
    if data[:4] == b"PAR1":
        return _read_parquet(data)
    if data[:4] == b"PK\x03\x04" or data[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise UnreadableError("is a spreadsheet or an archive, not text", "save it as CSV, or unpack it")
    text, used, notes = decode(data, encoding)
    dialect = sniff(text[:_SAMPLE_CHARACTERS], known, delimiter)
    return _read_text(text, dialect, used, notes)


def decode(data: bytes, encoding: str | None = None) -> tuple[str, str, list[str]]:
    """Return (text, encoding, notes): by byte order mark, else UTF-8, else Windows-1252, else Latin-1.

    Zero bytes, which a power cut leaves at the end of a file, are taken out and noted.
    """
    notes: list[str] = []
    if encoding is None:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            encoding = "utf-16"
        elif b"\0" in data:
            zeros = data.count(b"\0")
            data = data.replace(b"\0", b"")
            notes.append(f"{zeros} zero bytes taken out: the logger lost power while writing?")
    for candidate in (encoding,) if encoding else ("utf-8-sig", "cp1252", "latin-1"):
        try:
            text = data.decode(candidate)
        except (UnicodeDecodeError, LookupError):
            continue
        sample = text[:_SAMPLE_CHARACTERS]
        if len(_CONTROL.findall(sample)) > len(sample) / 200:
            break
        marked = data.startswith(b"\xef\xbb\xbf")
        return text, "utf-8" if candidate == "utf-8-sig" and not marked else candidate, notes
    if encoding:
        raise UnreadableError(f"is not text in {encoding}", "name another --encoding, or none: it is found by looking")
    raise UnreadableError("is binary, not a table")


def sniff(sample: str, known: Callable[[str], bool], delimiter: str | None = None) -> Dialect:
    """Find delimiter and header line in the beginning of a file.

    The delimiter is the one whose header line has most known names, then the one that splits most lines alike.

    Raises:
        UnreadableError: no delimiter makes a table of it, or the header names more columns than the rows have.
    """
    lines = sample.splitlines()[:_SAMPLE_LINES]
    best: tuple[tuple[int, float, int], str, int, list[str]] | None = None
    for candidate in (delimiter,) if delimiter else DELIMITERS:
        rows = [next(csv.reader([line], delimiter=candidate), []) for line in lines]
        widths = Counter(len(row) for row in rows if any(cell.strip() for cell in row))
        if not widths:
            continue
        width, alike = max(widths.items(), key=lambda item: (item[1], item[0]))
        if width < 2:
            continue
        # A line with a number in it is no header, whatever names stand beside the number.
        names = [0 if any(map(_is_number, row)) else sum(known(cell) for cell in row) for row in rows]
        line = names.index(max(names)) if max(names) else next(i for i, row in enumerate(rows) if len(row) == width)
        score = (max(names), alike / sum(widths.values()), width)
        if best is None or score > best[0]:
            best = score, candidate, line, [cell.strip() for cell in rows[line]]
    if best is None:
        named = f"by {delimiter!r}" if delimiter else "by semicolon, tab, pipe or comma"
        raise UnreadableError(f"has no columns separated {named}", "is it a logger's table? --delimiter names another")
    (_, _, width), found, line, header = best
    if all(not cell or _is_number(cell) for cell in header[:width]):
        raise UnreadableError("has no header line", "add one line with the columns' names on top")
    # One delimiter too many or too few at the end of the header is a common fault of loggers, and harmless.
    if any(header[width:]):
        raise UnreadableError(_unlike(len(header), width), "name only the columns that the rows have, in their order")
    return Dialect(found, line, tuple((header + [""] * width)[:width]), len(header))


def _unlike(named: int, width: int) -> str:
    """Say that names and cells can not be told to belong together: cells would land under the wrong names."""
    return f"the header names {named} columns, the rows have {width}"


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"\s*[\d.,:+-]*\d[\d.,:+-]*\s*", cell) is not None


def _read_text(text: str, dialect: Dialect, encoding: str, notes: list[str]) -> LogTable:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    body = _after_line(text, dialect.header_line)
    if not body.strip():
        raise UnreadableError("has a header and no rows")
    body, broken = _without_open_quotes(body, dialect.delimiter)
    if not body.strip():
        raise UnreadableError("has no row with as many cells as the header", "a quoted cell ends on its own line")
    names = [str(number) for number in range(len(dialect.header))]

    def skip(_row: Any) -> str:
        nonlocal broken
        broken += 1
        return "skip"

    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(body.encode()),
            read_options=arrow_csv.ReadOptions(column_names=names, block_size=_BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(delimiter=dialect.delimiter, invalid_row_handler=skip),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise UnreadableError(f"can not be split into cells: {str(error).splitlines()[0]}") from error
    if not table.num_rows:
        raise UnreadableError("has no row with as many cells as the header", "is the delimiter right? --delimiter")
    _check_unnamed(table.columns[dialect.named :], dialect)
    return LogTable(
        list(dialect.header), list(table.columns), table.num_rows, broken, encoding, dialect.delimiter, notes
    )


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


def _check_unnamed(columns: list[Any], dialect: Dialect) -> None:
    """Refuse cells in columns that only the rows have: which of the others they push aside can not be known."""
    import pyarrow.compute as pc

    if all(pc.all(pc.equal(pc.utf8_trim_whitespace(column), "")).as_py() for column in columns):
        return
    hint = "a column of row numbers without a name?"
    if dialect.delimiter == ",":
        hint = f"decimal commas in a file that commas separate? {hint}"
    raise UnreadableError(_unlike(dialect.named, len(dialect.header)), hint)


def _after_line(text: str, line: int) -> str:
    """Return the text after the line of this number, counted as `str.splitlines` counts the sample."""
    position = 0
    for _ in range(line + 1):
        found = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]").search(text, position)
        if found is None:
            return ""
        position = found.end()
    return text[position:]


def _read_parquet(data: bytes) -> LogTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise UnreadableError(f"is a broken Parquet file: {str(error).splitlines()[0]}") from error
    if not table.num_rows:
        raise UnreadableError("has no rows")
    synthetic = (table.schema.metadata or {}).get(b"fleven.synthetic") == b"true"
    names = [str(name) for name in table.column_names]
    return LogTable(names, list(table.columns), table.num_rows, synthetic=synthetic)
