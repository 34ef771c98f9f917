"""Reports that must not get lost wait here, on disk, until the server has acknowledged them.

One file for each report, ``SEQUENCE-SENDER.json.gz``, written atomically; so a power cut costs at most the report being
written, and a damaged file only itself. Bounded in number and bytes: the oldest go first, and are counted. Nothing
here raises because of a full or broken disk. Imports ``common.files`` only.
"""

import contextlib
import errno
import json
import os
import re
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleven_agent.common.files import write_atomically

_NAME = re.compile(r"^(?P<sequence>\d{20})-(?P<sender>[0-9a-f]{1,64})\.json\.gz$")
_GZIP = 16 + zlib.MAX_WBITS
MAXIMUM_REPORT_BYTES = 4_000_000
_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT}
_SHORT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A report that waits."""

    current: bool
    """False for a sender whose state was lost: its reports are older than all of the present sender."""
    sequence: int
    sender_id: str
    name: str
    size_bytes: int


def compress(content: bytes) -> bytes:
    """Return content as gzip."""
    packer = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    return packer.compress(content) + packer.flush()


def decompress(content: bytes) -> bytes:
    """Return the content of gzip, at most ``MAXIMUM_REPORT_BYTES``.

    Raises:
        ValueError: when it is damaged, cut short, or too large.
    """
    unpacker = zlib.decompressobj(_GZIP)
    try:
        text = unpacker.decompress(content, MAXIMUM_REPORT_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacker.eof:
        raise ValueError("cut short or too large")
    return text


class Spool:
    """The waiting reports of one agent.

    Args:
        directory: where they lie; made when it is missing.
        sender_id: of the present agent.
        maximum_reports: bound on their number.
        maximum_bytes: bound on the sum of their sizes.
    """

    def __init__(self, directory: Path, sender_id: str, *, maximum_reports: int, maximum_bytes: int) -> None:
        self.directory = directory
        self.sender_id = sender_id
        self.maximum_reports = maximum_reports
        self.maximum_bytes = maximum_bytes
        self.lost = 0
        """Reports that were dropped, until ``take_lost`` is called."""
        self._entries = self._scan()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, report: Mapping[str, Any]) -> bool:
        """Keep a report, dropping the oldest when there is no room. Return whether it is on disk now."""
        sequence = int(report["sequence"])
        content = compress(json.dumps(report, separators=(",", ":")).encode())
        name = f"{sequence:020d}-{self.sender_id}.json.gz"
        while self._entries and (
            len(self._entries) >= self.maximum_reports or self._bytes() + len(content) > self.maximum_bytes
        ):
            self._drop_oldest()
        while True:
            try:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(self.directory / name, content)
            except OSError as error:
                if error.errno not in _DISK_IS_FULL or not self._entries:
                    return False
                self._drop_oldest()  # an old report makes room for a new one
                continue
            self._entries.append(Entry(True, sequence, self.sender_id, name, len(content)))
            return True

    def oldest(self, count: int) -> list[dict[str, Any]]:
        """Return the oldest reports in order; damaged ones are dropped and counted."""
        found: list[dict[str, Any]] = []
        for entry in list(self._entries):
            if len(found) >= count:
                break
            try:
                report = self._read(entry)
            except OSError:
                break  # too few descriptors or too little memory; nothing is wrong with the report
            if report is None:
                self._remove(entry)
                self.lost += 1
            else:
                found.append(report)
        return found

    def acknowledge(self, acknowledged: Collection[tuple[str, int]]) -> int:
        """Forget these reports, each named by sender and sequence; return how many there were."""
        done = [entry for entry in self._entries if (entry.sender_id, entry.sequence) in acknowledged]
        for entry in done:
            self._remove(entry)
        return len(done)

    def drop(self, sender_id: str, sequence: int) -> None:
        """Give one report up, and count it."""
        for entry in list(self._entries):
            if (entry.sender_id, entry.sequence) == (sender_id, sequence):
                self._remove(entry)
                self.lost += 1

    def take_lost(self) -> int:
        """Return how many reports were lost since the last call."""
        lost, self.lost = self.lost, 0
        return lost

    def highest_sequence(self) -> int:
        """Return the highest sequence of the present sender that waits, 0 without one."""
        return max((entry.sequence for entry in self._entries if entry.current), default=0)

    def _read(self, entry: Entry) -> dict[str, Any] | None:
        try:
            report = json.loads(decompress((self.directory / entry.name).read_bytes()))
        except OSError as error:
            if error.errno in _SHORT_OF_RESOURCES:
                raise
            return None
        except (ValueError, RecursionError):
            return None
        same = isinstance(report, dict) and report.get("sequence") == entry.sequence
        return report if same and report.get("sender_id") == entry.sender_id else None

    def _bytes(self) -> int:
        return sum(entry.size_bytes for entry in self._entries)

    def _drop_oldest(self) -> None:
        self._remove(self._entries[0])
        self.lost += 1

    def _remove(self, entry: Entry) -> None:
        self._entries.remove(entry)
        with contextlib.suppress(OSError):
            (self.directory / entry.name).unlink()

    def _scan(self) -> list[Entry]:
        found: list[Entry] = []
        try:
            with os.scandir(self.directory) as files:
                for file in files:
                    match = _NAME.match(file.name)
                    if match is None:
                        self._remove_foreign(file)
                        continue
                    sender = match["sender"]
                    size = file.stat(follow_symlinks=False).st_size
                    found.append(Entry(sender == self.sender_id, int(match["sequence"]), sender, file.name, size))
        except OSError:
            return []
        return sorted(found)

    def _remove_foreign(self, file: "os.DirEntry[str]") -> None:
        if file.name.endswith(".tmp"):  # a write that a power cut interrupted
            with contextlib.suppress(OSError):
                (self.directory / file.name).unlink()
