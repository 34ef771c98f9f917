"""The app of a run as the SuperLink has it: its hash, and whether it is what was submitted.

Read from the SuperLink's database; read only. Must not import the register.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

from fleven.server.flower.line import installed_line

BUSY_SECONDS = 5.0


def signed(flower_id: str | int) -> int:
    """Return Flower's id of a run or node as its database has it: a signed number of 64 bits."""
    return (int(flower_id) + 2**63) % 2**64 - 2**63


def bundle_of(database: Path, run_id: str) -> tuple[str, bytes] | None:
    """Return hash and content of a run's bundle; None when the database is away or of another form, or has none."""
    try:
        uri = f"{database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            row = connection.execute(installed_line().run_bundle, (signed(run_id),)).fetchone()
        return None if row is None else (str(row[0]), bytes(row[1]))
    except (sqlite3.Error, TypeError, ValueError):
        return None


def difference(app_hash: str, content: bytes, folder: Path) -> str:
    """Return in what a bundle is not the app of a folder; empty when each of its files is that folder's.

    Args:
        app_hash: SHA-256 that the bundle is said to have.
        content: the bundle.
        folder: the copy that was submitted.
    """
    if hashlib.sha256(content).hexdigest() != app_hash:
        return "its content has a different hash"
    own = installed_line().bundle_own_folder
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            for name in bundle.namelist():
                if name.startswith(own):
                    continue
                file = folder / name
                if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
                    return f"it holds {name}"
                if bundle.getinfo(name).file_size != file.stat().st_size or bundle.read(name) != file.read_bytes():
                    return f"its {name} differs"
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        return f"it cannot be read: {error}"
    return ""
