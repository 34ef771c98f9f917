"""One trip file: whether it is complete, and how many rows it has, from its header and its lines alone.

Of a Parquet file's footer one integer field is read (Thrift's compact protocol:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md); pyarrow would read it too, at a
hundred times the daemon's memory. Imports the standard library only.
"""

import os
from collections.abc import Callable
from pathlib import Path

_MAXIMUM_DEPTH = 32
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0

    def byte(self) -> int:
        value = self.content[self.position]
        self.position += 1
        return value

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("an integer is too long")

    def signed(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def field(self, last: int) -> tuple[int, int]:
        """Return (type, id) of the next field; type 0 ends the struct."""
        head = self.byte()
        if head == 0:
            return 0, 0
        delta = head >> 4
        return head & 0x0F, last + delta if delta else self.signed()

    def skip(self, kind: int, depth: int = 0) -> None:
        if depth > _MAXIMUM_DEPTH:
            raise ValueError("nested too deeply")
        match kind:
            case 1 | 2:
                return
            case 3:
                self.position += 1
            case 4 | 5 | 6:
                self.varint()
            case 7:
                self.position += 8
            case 8:
                length = self.varint()  # on a line of its own: it moves the position itself
                self.position += length
            case 9 | 10:
                self._skip_list(depth)
            case 11:
                self._skip_map(depth)
            case 12:
                last = 0
                while True:
                    inner, last = self.field(last)
                    if inner == 0:
                        return
                    self.skip(inner, depth + 1)
            case _:
                raise ValueError(f"unknown type {kind}")
        if self.position > len(self.content):
            raise ValueError("cut short")

    def _element(self, kind: int, depth: int) -> None:
        # Inside a container a boolean takes a byte; as a field it hides in the type.
        self.skip(_BYTE if kind in (_TRUE, _FALSE) else kind, depth + 1)

    def _skip_list(self, depth: int) -> None:
        head = self.byte()
        size = head >> 4
        size = self.varint() if size == 15 else size
        self._check(size)
        for _ in range(size):
            self._element(head & 0x0F, depth)

    def _skip_map(self, depth: int) -> None:
        size = self.varint()
        if size == 0:
            return
        self._check(size)
        kinds = self.byte()
        for _ in range(size):
            self._element(kinds >> 4, depth)
            self._element(kinds & 0x0F, depth)

    def _check(self, size: int) -> None:
        if size > len(self.content):
            raise ValueError("a list is longer than its file")


def field_of_struct(content: bytes, wanted: int) -> int | None:
    """Return the integer field ``wanted`` of the outermost struct, or None when it has none.

    Raises:
        ValueError, IndexError: when the content is damaged.
    """
    reader = _Reader(content)
    last = 0
    while True:
        kind, last = reader.field(last)
        if kind == 0:
            return None
        if last == wanted and kind in (_I16, _I32, _I64):
            return reader.signed()
        reader.skip(kind)


TRIP_SUFFIXES = (".csv", ".parquet")
MAXIMUM_HEADER_BYTES = 65_536
_PARQUET_MAGIC = b"PAR1"
_CHUNK_BYTES = 1 << 20


class UnreadableTripError(ValueError):
    """A trip that no ClientApp could read; the text says why."""


class UnfinishedTripError(UnreadableTripError):
    """A trip without its end, which its writer may still hold in a buffer."""


def count_rows(path: Path, progress: Callable[[], None] = lambda: None) -> int:
    """Return the number of rows of a trip: exactly for CSV, as its footer says for Parquet.

    Args:
        path: of the file.
        progress: called for each part that was read.

    Raises:
        UnfinishedTripError: when its end is missing.
        UnreadableTripError: when no ClientApp could read it.
        OSError: when the file cannot be opened or read.
    """
    return _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path, progress)


def _csv_rows(path: Path, progress: Callable[[], None]) -> int:
    with path.open("rb") as file:
        head = file.read(MAXIMUM_HEADER_BYTES)
        if not head.strip():
            raise UnfinishedTripError("the file is empty")
        if b"\0" in head:
            raise UnreadableTripError("not text: it holds zero bytes, as after a power cut while it was written")
        header, newline, _ = head.partition(b"\n")
        if not newline:
            raise UnfinishedTripError("there is a header, but no row")
        try:
            columns = [column.strip() for column in _split(header.decode("utf-8-sig"))]
        except UnicodeDecodeError:
            raise UnreadableTripError("the header is not UTF-8 text") from None
        if len(columns) < 2 or not all(columns):
            raise UnreadableTripError("the first line does not name at least two columns")
        if all(_is_number(column) for column in columns):
            raise UnreadableTripError("the first line holds numbers where the names of the columns should be")
        file.seek(len(header) + 1)
        rows, last = 0, b"\n"
        while chunk := file.read(_CHUNK_BYTES):
            rows += chunk.count(b"\n")
            last = chunk[-1:]
            progress()
        rows += last != b"\n"
    if rows == 0:
        raise UnfinishedTripError("there is a header, but no row")
    return rows


def _split(header: str) -> list[str]:
    delimiter = max(",;\t", key=header.count)
    return [column.strip('" \r') for column in header.split(delimiter)]


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _parquet_rows(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        if not _PARQUET_MAGIC.startswith(file.read(4)):
            raise UnreadableTripError("not a Parquet file")
        if size < 12:
            raise UnfinishedTripError("the Parquet file is cut short")
        file.seek(-8, os.SEEK_END)
        tail = file.read(8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != _PARQUET_MAGIC or length > size - 12:
            raise UnfinishedTripError("the Parquet file is cut short")
        file.seek(-8 - length, os.SEEK_END)
        footer = file.read(length)
    rows = rows_of_footer(footer)
    if rows <= 0:
        raise UnreadableTripError("the Parquet file holds no row")
    return rows


def rows_of_footer(footer: bytes) -> int:
    """Return num_rows of a Parquet footer (FileMetaData, Thrift compact protocol: parquet-format's parquet.thrift).

    Raises:
        UnreadableTripError: when the footer is damaged.
    """
    try:
        value = field_of_struct(footer, 3)
    except (ValueError, IndexError):
        value = None
    if value is None:
        raise UnreadableTripError("the Parquet file's footer is damaged")
    return value
