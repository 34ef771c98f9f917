"""The car's models on disk: `current` and `previous` are links, and moving them by a rename is the switch.

A power cut at any moment leaves a model that was whole and tried, or the one before it. Holds no lock: one thread of
the agent writes, `fleven predict` only reads. Imports the standard library and ``common.files``.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fleven_agent.common.files import write_private

FOLDER = "models"
CURRENT, PREVIOUS = "current", "previous"
SUFFIX = ".safetensors"
SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_ERRORS = 30
"""So many of the newest errors are kept and told."""


@dataclass(frozen=True, slots=True)
class Error:
    """The error of the present model on one trip. ``at``: stamp of the trip [s since the epoch]."""

    at: float
    rmse: float
    values: int


@dataclass(frozen=True, slots=True)
class Notes:
    """What is remembered beside the files.

    Attributes:
        names: name and wall stamp of each model that is kept, by SHA-256.
        refused: SHA-256 of the model that failed its trial.
        refused_on: stamp of the newest trip then.
        refused_because: why it failed.
        scored_trip: stamp of the newest trip on which a model was tried.
        errors: of the present model, oldest first.
    """

    names: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    refused: str = ""
    refused_on: float | None = None
    refused_because: str = ""
    scored_trip: float | None = None
    errors: tuple[Error, ...] = ()


class Shelf:
    """One car's models.

    Args:
        state_directory: of the agent.
    """

    def __init__(self, state_directory: Path) -> None:
        self.folder = state_directory / FOLDER
        self.notes = _read(self.folder / "notes.json")

    def file(self, sha256: str) -> Path:
        """Return where a model lies when it is whole."""
        return self.folder / f"{sha256}{SUFFIX}"

    def part(self, sha256: str) -> Path:
        """Return where a model lies while it is fetched."""
        return self.folder / f"{sha256}.part"

    def linked(self, name: str) -> str:
        """Return the SHA-256 that ``current`` or ``previous`` names; "" for none, or one whose file is gone."""
        try:
            target = (self.folder / name).readlink()
        except OSError:
            return ""
        sha256 = target.name.removesuffix(SUFFIX)
        return sha256 if SHA256.fullmatch(sha256) and self.file(sha256).is_file() else ""

    def append(self, sha256: str, content: bytes) -> int:
        """Add bytes to what is fetched; return how many there are then. Raises OSError."""
        self.folder.mkdir(mode=0o750, exist_ok=True)
        with self.part(sha256).open("ab") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            return stream.tell()

    def fetched_bytes(self, sha256: str) -> int:
        """Return how many bytes of a model were fetched."""
        try:
            return self.part(sha256).stat().st_size
        except OSError:
            return 0

    def complete(self, sha256: str) -> bool:
        """Take in what was fetched if it is what was promised; else drop it. Raises OSError."""
        part = self.part(sha256)
        with part.open("rb") as stream:
            right = hashlib.file_digest(stream, "sha256").hexdigest() == sha256
        if right:
            part.replace(self.file(sha256))
            _sync(self.folder)
        else:
            part.unlink()
        return right

    def whole(self, sha256: str) -> bool:
        """Return whether a kept model is still what it was: cards rot."""
        try:
            with self.file(sha256).open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
        except OSError:
            return False

    def switch(self, sha256: str, name: str, wall: float) -> None:
        """Use a model that is on the shelf; the one before it becomes ``previous``. Raises OSError."""
        before = self.linked(CURRENT)
        if before and before != sha256:
            self._link(PREVIOUS, before)
        self._link(CURRENT, sha256)
        self.note(names={**self.notes.names, sha256: (name, wall)}, errors=(), refused="", refused_because="")
        self.clean()

    def go_back(self, because: str) -> str:
        """Use the previous model instead of one that cannot be used; return its SHA-256, "" where there is none."""
        bad, good = self.linked(CURRENT), self.linked(PREVIOUS)
        if good and good != bad:
            self._link(CURRENT, good)
        else:
            good = ""
            with contextlib.suppress(FileNotFoundError):
                (self.folder / CURRENT).unlink()
        with contextlib.suppress(FileNotFoundError):
            (self.folder / PREVIOUS).unlink()
        self.note(refused=bad, refused_because=because, errors=())
        self.clean()
        return good

    def note(self, **changes: Any) -> None:
        """Remember, on disk too. Raises OSError."""
        self.notes = replace(self.notes, **changes)
        write_private(self.folder / "notes.json", {"version": 1, **asdict(self.notes)})

    def clean(self, keep: str = "") -> None:
        """Remove what is neither current nor previous, nor ``keep``, which is being fetched."""
        kept = {self.linked(CURRENT), self.linked(PREVIOUS), keep} - {""}
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                sha256, dot, suffix = entry.name.partition(".")
                if dot and f".{suffix}" in {SUFFIX, ".part"} and sha256 not in kept:
                    Path(entry.path).unlink(missing_ok=True)
        names = {sha256: said for sha256, said in self.notes.names.items() if sha256 in kept}
        if names != self.notes.names:
            self.note(names=names)

    def _link(self, name: str, sha256: str) -> None:
        fresh = self.folder / f".{name}.new"
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        fresh.symlink_to(f"{sha256}{SUFFIX}")
        fresh.replace(self.folder / name)
        _sync(self.folder)


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path) -> Notes:
    """Return what was remembered; nothing where the file is missing or damaged: it can all be found out again."""
    try:
        stored = json.loads(path.read_bytes())
        return Notes(
            names={str(key): (str(name), float(since)) for key, (name, since) in stored["names"].items()},
            refused=str(stored["refused"]),
            refused_on=_number(stored["refused_on"]),
            refused_because=str(stored["refused_because"]),
            scored_trip=_number(stored["scored_trip"]),
            errors=tuple(Error(float(e["at"]), float(e["rmse"]), int(e["values"])) for e in stored["errors"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Notes()


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
