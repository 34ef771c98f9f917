"""Which bundles hold the same app: the server marks the version in each, so every run has a bundle with its own hash.

What an app has prepared in the cell, such as windows of ten thousand trips, is for its own later runs as well, and for
no other app. SuperNode is the one that has a run's bundle before its first task; it notes the app of each in
``apps_file``, and its executor says it with each task. Where nothing is noted, each run is an app of its own.
Imports the standard library only.
"""

import hashlib
import importlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleven_agent.warm import apps_file
from fleven_agent.warm.flower_internals import installed_internals

MARK = re.compile(rb'[+.]fleven\.\d+\.\d+\.[0-9a-f]{16}(?=")')
"""In the version of a bundle: what the server has added to that of the app."""
CONFIGURATION = "pyproject.toml"
FLOWERS_OWN = ".info/"
"""Lists of the other files, which Flower checks and removes."""
MAXIMUM_BYTES = 256_000_000
"""Of a bundle, unpacked."""
MOST_APPS = 32


def identity_of(bundle: bytes) -> str:
    """Return the same for bundles that differ by the server's mark alone. Raises ValueError for what is no bundle."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.filename.startswith(FLOWERS_OWN)]
            if sum(entry.file_size for entry in entries) > MAXIMUM_BYTES:
                raise ValueError("the bundle is too large")
            for entry in sorted(entries, key=lambda entry: entry.filename):
                content = archive.read(entry)
                if entry.filename == CONFIGURATION:
                    content = MARK.sub(b"", content)
                for part in (entry.filename.encode(errors="surrogateescape"), content):
                    digest.update(len(part).to_bytes(8, "big") + part)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise ValueError(f"not a bundle: {error}") from error
    return digest.hexdigest()


def note_apps() -> None:
    """Have this process, which is SuperNode, note the app of each bundle; raises ``ValueError`` if it cannot."""
    flower = installed_internals()
    module = importlib.import_module(flower.supernode_module)
    read = module.__dict__.get(flower.bundle_function)
    file = os.environ.get(apps_file.VARIABLE)
    if not file or not callable(read):
        raise ValueError("SuperNode reads bundles in an unknown way" if file else f"{apps_file.VARIABLE} names no file")
    module.__dict__[flower.bundle_function] = noting(read, Path(file))


def noting(read: Callable[..., Any], file: Path) -> Callable[..., Any]:
    """Return ``read`` (bundle, run), which also notes in ``file`` which app the bundle holds."""
    known: dict[str, str] = {}

    def read_and_note(bundle: Any, run: Any, *others: Any, **named: Any) -> Any:
        try:
            known[str(run.fab_hash)] = identity_of(bundle)
            for old in list(known)[:-MOST_APPS]:
                del known[old]
            apps_file.write(file, known)
        except (OSError, ValueError, TypeError, AttributeError):
            known.clear()  # the run is an app of its own then
        return read(bundle, run, *others, **named)

    return read_and_note
