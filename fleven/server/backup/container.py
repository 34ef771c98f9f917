"""Members one after another in a stream, in the oldest form of tar: so `tar` reads it, and a reader needs no trust.

Python's own tar reader follows extensions (long names, sparse files, links) before anybody can look at their sizes.
Here a header that is not a plain file of a known name and size ends the reading. Must not know what members mean.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from fleven.server.backup.contents import BackupError

BLOCK = tarfile.BLOCKSIZE
CHUNK_BYTES = 1 << 20
LARGEST_PADDING_BYTES = tarfile.RECORDSIZE


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before a member."""

    name: str
    size: int


def header(name: str, size: int, seconds: int = 0) -> bytes:
    """Return the header of a member.

    Args:
        name: as it will stand in the container.
        size: bytes that follow.
        seconds: time of change [s since 1970].
    """
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, seconds
    return entry.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")


def write_member(stream: IO[bytes], name: str, source: IO[bytes], size: int, seconds: int = 0) -> None:
    """Write a member of exactly this size.

    Raises:
        BackupError: the source holds less, or more.
    """
    stream.write(header(name, size, seconds))
    copy_exactly(source, stream.write, size, name)
    if source.read(1):
        raise BackupError(f"{name}: has grown while it was read", hint="try again")
    stream.write(bytes(-size % BLOCK))


def write_end(stream: IO[bytes]) -> None:
    """Write what ends a container."""
    stream.write(bytes(2 * BLOCK))


def read_header(stream: IO[bytes]) -> Header | None:
    """Return the header of the next member; None at the end.

    Raises:
        BackupError: it is not that of a plain file.
    """
    block = stream.read(BLOCK)
    if len(block) == BLOCK and not any(block):
        return None
    try:
        entry = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise BackupError(f"is cut off or damaged: {error}") from None
    if entry.type != tarfile.REGTYPE or entry.size < 0:
        raise BackupError(f"holds {entry.name[:100]!r}, which is not a plain file")
    return Header(entry.name, entry.size)


def read_member(stream: IO[bytes], found: Header, write: Callable[[bytes], object]) -> None:
    """Hand on the content of the member whose header was read last."""
    copy_exactly(stream, write, found.size, found.name)
    stream.read(-found.size % BLOCK)


def read_end(stream: IO[bytes]) -> None:
    """Read to the end, which holds nothing: what seals a stream tells only there whether it is whole.

    Raises:
        BackupError: something follows.
    """
    rest = stream.read(LARGEST_PADDING_BYTES + BLOCK)
    if any(rest) or len(rest) > LARGEST_PADDING_BYTES:
        raise BackupError("something follows its end")


def copy_exactly(source: IO[bytes], write: Callable[[bytes], object], size: int, name: str) -> None:
    """Copy this many bytes.

    Raises:
        BackupError: the source ends before.
    """
    left = size
    while left:
        chunk = source.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise BackupError(f"{name}: is cut off")
        write(chunk)
        left -= len(chunk)
