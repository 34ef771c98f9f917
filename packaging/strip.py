"""Strip the symbol tables of bundled libraries, and take over only results that load the very same bytes.

Why it exists: the tables are a third of PyTorch's library, but wheel builders move sections about, and binutils then
lays out some of these libraries in a new way that the loader refuses (numpy's OpenBLAS for one). dh_strip cannot tell.
So each result is compared, segment by segment, with what it came from. Standard library only.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PT_LOAD = 1
ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr, little endian, as on amd64 and arm64
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr


@dataclass(frozen=True)
class Segment:
    """A part of a library that the loader maps: addresses and sizes in bytes."""

    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int
    alignment: int


def segments(data: bytes) -> tuple[list[Segment], int]:
    """Return the loadable segments, and where the headers end in the file.

    Raises:
        ValueError: not a 64-bit little-endian ELF file.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    header = ELF_HEADER.unpack_from(data)
    start, size, count = header[5], header[9], header[10]
    found = []
    for index in range(count):
        kind, flags, offset, address, _, file_size, memory_size, alignment = PROGRAM_HEADER.unpack_from(
            data, start + index * size
        )
        if kind == PT_LOAD:
            found.append(Segment(flags, offset, address, file_size, memory_size, alignment))
    return found, start + count * size


def loads_the_same(before: bytes, after: bytes) -> bool:
    """Whether the loader makes the same memory of both files; the headers themselves may differ."""
    try:
        (old, _), (new, headers_end) = segments(before), segments(after)
    except (ValueError, struct.error):
        return False
    if len(old) != len(new):
        return False
    for one, other in zip(old, new, strict=True):
        if (one.flags, one.address, one.file_size, one.memory_size) != (
            other.flags, other.address, other.file_size, other.memory_size,
        ):  # fmt: skip
            return False
        if other.alignment > 1 and (other.address - other.offset) % other.alignment:
            return False
        skip = max(0, headers_end - other.offset) if other.offset < headers_end else 0
        skip = min(skip, one.file_size)
        first = memoryview(before)[one.offset + skip : one.offset + one.file_size]
        second = memoryview(after)[other.offset + skip : other.offset + other.file_size]
        if first != second:
            return False
    return True


def strip_all(libraries: Iterable[Path], tool: str) -> list[Path]:
    """Strip what can be stripped safely.

    Args:
        libraries: shared objects, changed in place.
        tool: strip of the target's binutils.

    Returns:
        Those that stay as they were, because the stripped file would not load the same.
    """
    kept = []
    for path in libraries:
        before = path.read_bytes()
        stripped = path.with_name(path.name + ".stripped")
        command = [tool, "--strip-unneeded", "--remove-section=.comment", "-o", str(stripped), str(path)]
        answer = subprocess.run(command, capture_output=True, check=False)
        if answer.returncode == 0 and loads_the_same(before, stripped.read_bytes()):
            stripped.replace(path)
        else:
            stripped.unlink(missing_ok=True)
            kept.append(path)
    return kept
