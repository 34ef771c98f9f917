"""Which files an import reads, each once, and what it calls them: no two alike, as names can become vehicles.

Standard library only.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleven.data.errors import InputError, Problem
from fleven.data.importing.log_reader import PARQUET_SUFFIXES, TEXT_SUFFIXES
from fleven.data.importing.partitioning import natural


@dataclass(frozen=True, slots=True)
class Source:
    """One input file. `named` says that it was named itself, and not found in a folder.

    `name` is how the manifest calls it, `stem` how `--by file` calls its vehicle, `folder` how `--by folder` does:
    each is as short as it can be while no other file, or folder of files, is called so.
    """

    path: Path
    name: str
    stem: str
    folder: str
    named: bool


def find_sources(inputs: Sequence[Path]) -> list[Source]:
    """Return all files to read, those in folders by name. A file that is there twice, also as a link, is read once.

    Raises:
        InputError: for each input that is not there or holds no log.
    """
    places: dict[Path, Path] = {}  # the file itself -> the first path to it, which its names are made of
    names: dict[Path, str] = {}
    named: set[Path] = set()
    problems: list[Problem] = []
    for path in inputs:
        if not path.exists():
            close = difflib.get_close_matches(path.name, _names_beside(path), n=1)
            hint = f"did you mean {close[0]}?" if close else ""
            problems.append(Problem(str(path), "", "no such file or folder", hint))
            continue
        found = _logs_in(path) if path.is_dir() else [path]
        if not found:
            hint = f"logs end in {', '.join((*TEXT_SUFFIXES[:4], *PARQUET_SUFFIXES[:1]))}"
            problems.append(Problem(str(path), "", "holds no log", hint))
        for each in found:
            written = Path(os.path.abspath(each))  # noqa: PTH100  # resolve() would rename a link called client_0
            place = places.setdefault(each.resolve(), written)
            names.setdefault(place, each.name if each == path else str(each.relative_to(path)))
            if each == path:
                named.add(place)
    if problems:
        raise InputError(problems)
    names = _told_apart(names)
    folders = _told_apart({place.parent: place.parent.name for place in names})
    stems = Counter(map(_stem, names.values()))
    sources = []
    for path, place in places.items():
        name = names[place]
        stem = _stem(name) if stems[_stem(name)] == 1 else name
        sources.append(Source(path, name, stem, folders[place.parent], place in named))
    return sources


def _told_apart(names: Mapping[Path, str]) -> dict[Path, str]:
    """Return the names with one folder more in front of those that are alike, until none are."""
    longer = dict(names)
    while alike := {name for name, times in Counter(longer.values()).items() if times > 1}:
        for path, name in longer.items():
            if name in alike:
                longer[path] = "/".join(path.parts[-len(Path(name).parts) - 1 :])
    return longer


def _stem(name: str) -> str:
    return re.sub(r"(\.(csv|tsv|txt|log|gz|parquet|pq))+$", "", name)


def _logs_in(folder: Path) -> list[Path]:
    return sorted((path for path in folder.rglob("*") if _is_log(path, folder)), key=lambda path: natural(str(path)))


def _is_log(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    suffix = path.name.lower().endswith((*TEXT_SUFFIXES, *PARQUET_SUFFIXES))
    hidden = any(part.startswith(".") for part in parts)
    return suffix and not hidden and path.is_file() and path.stem.upper() != "README"


def _names_beside(path: Path) -> list[str]:
    try:
        return [each.name for each in path.parent.iterdir()]
    except OSError:
        return []
