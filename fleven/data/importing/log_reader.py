"""A logger's file to a table of cells as they stand: unpacked, decoded, split.

Cells of text files stay text; Parquet keeps its types. What a cell means is decided elsewhere. pyarrow is imported by
the functions that read. Must not import torch, flwr or pandas.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fleven.data.importing.log_table import LogTable, UnreadableError
from fleven.data.importing.text_table import CUT_MARK, read_table

if TYPE_CHECKING:
    from pathlib import Path

TEXT_SUFFIXES: Final = (".csv", ".tsv", ".txt", ".log", ".msl", ".vbo", ".csv.gz", ".tsv.gz", ".txt.gz", ".log.gz")
PARQUET_SUFFIXES: Final = (".parquet", ".pq")
#: A small file can unpack to more than the machine holds.
MAXIMUM_UNPACKED_BYTES: Final = 1 << 30
_SAMPLE_CHARACTERS: Final = 200_000
_LONGEST_CHARACTER: Final = 4
_MOST: Final = 0.9
# Control characters that a text table does not hold.
_CONTROL: Final = re.compile(r"[\x01-\x08\x0e-\x1b]")


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
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(data)
    if not data.strip(b"\0 \r\n\t"):
        raise UnreadableError("is empty")
    if data[:4] == b"PAR1":
        return _read_parquet(data)
    if data[:4] == b"PK\x03\x04" or data[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise UnreadableError("is a spreadsheet or an archive, not text", "save it as CSV, or unpack it")
    text, used, notes = decode(data, encoding)
    return read_table(text, known, used, notes, delimiter)


def _unpacked(data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(MAXIMUM_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError("is a broken gzip file") from error
    if len(unpacked) > MAXIMUM_UNPACKED_BYTES:
        hint = "unpack it and cut it into several files"
        raise UnreadableError(f"unpacks to more than {MAXIMUM_UNPACKED_BYTES >> 20} MiB", hint)
    return unpacked


def decode(data: bytes, encoding: str | None = None) -> tuple[str, str, list[str]]:
    """Return (text, encoding, notes): by byte order mark, else UTF-8, else Windows-1252, else Latin-1.

    Zero bytes, which a power cut leaves at the end of a file, are taken out and noted; the line that they cut ends in
    a mark (the unit separator).
    """
    notes: list[str] = []
    if encoding is None:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            encoding = "utf-16"
        elif every_other := _zeros_every_other(data):
            encoding = every_other
        elif b"\0" in data:
            zeros = data.count(b"\0")
            # A run of zeros stands where the rest of a line was never written.
            data = re.sub(rb"(?<=\n)\0{2,}", b"", data)
            data = re.sub(rb"\0{2,}", CUT_MARK.encode() + b"\n", data).replace(b"\0", b"")
            notes.append(f"{zeros} zero bytes taken out: the logger lost power while writing?")
    for candidate in (encoding,) if encoding else ("utf-8-sig", "cp1252", "latin-1"):
        try:
            text = _decoded(data, candidate)
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


def _zeros_every_other(data: bytes) -> str:
    """Return which UTF-16 without a byte order mark this is, an empty text for none: every other byte is zero."""
    sample = data[:_SAMPLE_CHARACTERS]
    shares = [sample[begin::2].count(0) / max(len(sample[begin::2]), 1) for begin in (0, 1)]
    if max(shares) < _MOST or min(shares) > 1 - _MOST:
        return ""
    return "utf-16-be" if shares[0] > shares[1] else "utf-16-le"


def _decoded(data: bytes, encoding: str) -> str:
    """Decode; a character that the end of the file cuts marks its line as cut."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if error.start < len(data) - _LONGEST_CHARACTER or not encoding.lower().startswith("utf"):
            raise
        return data[: error.start].decode(encoding) + CUT_MARK


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
