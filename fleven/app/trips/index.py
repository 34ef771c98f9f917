"""What the trip files of a car come to, without reading them again in each task.

The digest of all files is kept beside the windows, under what the disk says of each file: name, size, inode, time of
modification and of change. The last of these cannot be set, so a file that was written again never looks the same,
whatever its modification time says (a Pi has no clock of its own while it is off). A file that was changed within the
last seconds is read again, as it could change once more within the clock's resolution. Whatever is wrong with what is
kept, the files are read. Must not import flwr, torch, numpy or pandas.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .reader import SUFFIXES

log = logging.getLogger("fleven.app")

FORMAT = 2
DIGEST_LENGTH = 32
DIGEST = re.compile(rf"[0-9a-f]{{{DIGEST_LENGTH}}}")
_SEPARATOR = "\0"  # the one character that no name of a file has
#: A change this long ago is told from the next one by its time.
SETTLED_SECONDS = 2.0
KEPT_FOLDERS = 4
#: Size, inode, modification [ns], change [ns].
Seen = tuple[int, int, int, int]


class TripIndex:
    """What is known of the trip files directly in a folder.

    kept: folder for what is remembered. Raises OSError, as its methods do, when the folder or a file cannot be read.
    """

    def __init__(self, folder: Path, kept: Path) -> None:
        self._folder, self._kept = folder, kept
        self._seen = listing(folder)
        self._lines = {name: _line(facts, name) for name, facts in self._seen.items()}
        place = kept / hashlib.blake2b(os.fsencode(folder.absolute()), digest_size=8).hexdigest()
        self._whole, self._parts = place.with_suffix(".content.json"), place.with_suffix(".files")
        self._digests: dict[str, str] | None = None

    def content(self) -> str:
        """Return a digest of the names and bytes of all files; equal for equal content only."""
        if not self._seen:
            return _digest("")
        fingerprint = _digest(_SEPARATOR.join([str(FORMAT), *sorted(self._lines.values())]))
        known = _load(self._whole)
        if _settled(self._seen) and known.get("fingerprint") == fingerprint and _is_digest(known.get("content")):
            return str(known["content"])
        digests = self.files()
        content = _digest(_SEPARATOR.join(sorted(f"{name}/{digest}" for name, digest in digests.items())))
        _store_digests(self._parts, digests, self._lines)
        _store(self._whole, json.dumps({"fingerprint": fingerprint, "content": content}).encode())
        _forget_old(self._kept)
        return content

    def files(self) -> dict[str, str]:
        """Return the digest of each file's bytes, by name."""
        if self._digests is None:
            self._digests = self._find_digests(_load_digests(self._parts))
        return self._digests

    def _find_digests(self, known: dict[str, str]) -> dict[str, str]:
        """Return the digest of each file: a known one where the disk says the same of the file, else of its bytes.

        known: by the lines of files.
        """
        now = time.time()
        digests: dict[str, str] = {}
        for name, line in self._lines.items():
            digest = known.get(line)
            if digest is None or abs(now - self._seen[name][3] / 1e9) <= SETTLED_SECONDS:
                with (self._folder / name).open("rb") as stream:
                    digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            digests[name] = digest
        return digests

    def unchanged(self, names: Iterable[str]) -> bool:
        """Return whether the disk still says the same of these files: what was read since then is of these bytes."""
        try:
            return all(_facts((self._folder / name).stat()) == self._seen[name] for name in names)
        except FileNotFoundError:
            return False


def listing(folder: Path) -> dict[str, Seen]:
    """Return what the disk says of the trip files in a folder, by name. Raises OSError."""
    found: dict[str, Seen] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name[0] != "." and name.lower().endswith(SUFFIXES) and entry.is_file():
                found[name] = _facts(entry.stat())
    return found


def _facts(status: os.stat_result) -> Seen:
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _line(facts: Seen, name: str) -> str:
    """Return all that tells one state of a file from another; it ends with the name, which may hold anything."""
    return "%d %d %d %d %s" % (*facts, name)  # noqa: UP031 - tens of thousands of them in each task


def _settled(seen: dict[str, Seen]) -> bool:
    newest = max((facts[3] for facts in seen.values()), default=0)
    return abs(time.time() - newest / 1e9) > SETTLED_SECONDS


def _load_digests(path: Path) -> dict[str, str]:
    """Return what `_store_digests` has kept: the digest of each file by its line; nothing where that is not whole."""
    try:
        text = path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return {}
    except OSError as error:
        log.warning("event=index-unusable reason=%r", str(error))
        return {}
    checksum, _, rest = text.partition(_SEPARATOR)
    if checksum != _digest(rest):
        log.warning("event=index-unusable reason='it is not whole'")
        return {}
    return {record[DIGEST_LENGTH:]: record[:DIGEST_LENGTH] for record in rest.split(_SEPARATOR)}


def _store_digests(path: Path, digests: dict[str, str], lines: dict[str, str]) -> None:
    """Keep the digests as text that takes a task milliseconds to read, where JSON of as many files takes 60."""
    rest = _SEPARATOR.join([digests[name] + line for name, line in lines.items()])
    _store(path, f"{_digest(rest)}{_SEPARATOR}{rest}".encode(errors="surrogateescape"))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=DIGEST_LENGTH // 2).hexdigest()


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def _load(path: Path) -> dict[str, Any]:
    """Return what is kept; nothing where that cannot be used."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("event=index-unusable reason=%r", str(error))
        return {}
    return content if isinstance(content, dict) else {}


def _store(path: Path, content: bytes) -> None:
    """Keep something; a disk that refuses it costs the next task some time, and no more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path, mode=0o600) as stream:
            stream.write(content)
    except OSError as error:
        log.warning("event=index-not-written reason=%r", str(error))


def _forget_old(kept: Path) -> None:
    """Remove what was kept of folders that have not been used for long."""
    try:
        entries = sorted(kept.glob("*.content.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for old in entries[KEPT_FOLDERS:]:
            old.unlink(missing_ok=True)
            (old.parent / old.name.replace(".content.json", ".files")).unlink(missing_ok=True)
    except OSError as error:
        log.warning("event=index-not-written reason=%r", str(error))
