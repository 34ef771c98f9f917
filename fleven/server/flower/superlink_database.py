"""The SuperLink's database before the SuperLink opens it.

Flower changes the tables of its database in place, statement by statement. A power cut in between leaves a file that
Flower never opens again. So it is done here beforehand, by Flower's own migrations, on a copy that is put in place when
it is complete.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from fleven.server.config.paths import Paths
from fleven.server.errors import Obstacle, ServerError, cannot_start, permission_hint
from fleven.server.flower.line import installed_line

log = logging.getLogger(__name__)
NOT_RECOGNISED = 3
PASSING = ("is locked", "is full", "disk I/O error", "unable to open")
"""Words of SQLite's messages that are about the machine, not about the content of the file."""
# In a process of its own: Flower ends the process when a migration fails.
MIGRATE = f"""
import sys
from importlib import import_module
try:
    run_migrations = import_module(sys.argv[2]).run_migrations
except ImportError:
    sys.exit({NOT_RECOGNISED})
from sqlalchemy import create_engine
engine = create_engine("sqlite:///" + sys.argv[1])
run_migrations(engine)
engine.dispose()
"""


def known_revisions() -> dict[str, frozenset[str]]:
    """Return the revisions of its database that the installed Flower knows, each with those before it.

    Read from the headers of Flower's migration files, without importing Flower; empty when they cannot be told.
    """
    spec = find_spec("flwr")
    if spec is None or not spec.submodule_search_locations:
        return {}
    folder = Path(spec.submodule_search_locations[0]) / installed_line().revisions_folder
    line = r"^{}\s*(?::[^=\n]*)?=\s*(.+)$"
    own, before = (re.compile(line.format(name), re.MULTILINE) for name in ("revision", "down_revision"))
    found: dict[str, frozenset[str]] = {}
    for file in folder.glob("rev_*.py"):
        text = file.read_text(encoding="utf-8")
        if (name := own.search(text)) and (names := quoted(name[1])):
            previous = before.search(text)
            found[min(names)] = quoted(previous[1]) if previous else frozenset()
    return found


def quoted(text: str) -> frozenset[str]:
    """Return the texts in quotes of a line of Python."""
    return frozenset(re.findall(r"[\"']([^\"']+)[\"']", text))


def newest_revisions() -> frozenset[str]:
    """Return the revisions that a database of the installed Flower ends at: those that none follows."""
    known = known_revisions()
    return frozenset(known) - {name for before in known.values() for name in before}


def database_obstacles(paths: Paths) -> list[Obstacle]:
    """Return what keeps the installed Flower from opening the SuperLink's database."""
    file = paths.superlink_database
    if not file.exists():
        return []
    if not os.access(file, os.R_OK | os.W_OK):
        return [Obstacle(f"{file}: no permission to write ({permission_hint()})")]
    try:
        found = revisions_of(file)
    except sqlite3.DatabaseError as error:
        if passes(str(error)):
            return [Obstacle(f"{file}: {error} (see who uses it: fuser -v {file})", passing=True)]
        hint = "move it away, and the SuperLink starts a new one"
        return [Obstacle(f"{file}: is not a readable database: {error} ({hint})")]
    known = known_revisions()
    if unknown := sorted(found - known.keys()) if known else []:
        hint = "install that version again, or move the file away"
        return [Obstacle(f"{file}: was written by a newer Flower: revision {', '.join(unknown)} ({hint})")]
    return []


def passes(problem: str) -> bool:
    """Return whether SQLite's message means no fault of the database, and may go away by itself."""
    return any(words in problem for words in PASSING)


def revisions_of(file: Path) -> frozenset[str]:
    """Return the revision that a database says it has; empty when it names none."""
    with closing(sqlite3.connect(file, timeout=5)) as connection:
        if "alembic_version" not in tables_of(connection):
            return frozenset()
        return frozenset(row[0] for row in connection.execute("SELECT version_num FROM alembic_version"))


def tables_of(connection: sqlite3.Connection) -> set[str]:
    """Return the names of all tables."""
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def bring_up_to_date(paths: Paths) -> None:
    """Make the SuperLink's database, or bring it to the installed Flower's form: whole, or not at all.

    A database that cannot be brought there and holds no run (one whose making was cut off) is moved aside, and a new
    one is made. Does nothing with a Flower whose migrations are elsewhere.

    Raises:
        ConfigurationError: it holds runs and cannot be brought to this Flower's form; it is left as it was.
        TemporaryError: the disk is full or fails, or something else uses the database; it is left as it was.
    """
    try:
        _bring_up_to_date(paths.superlink_database)
    except sqlite3.OperationalError as error:
        raise unusable(paths.superlink_database, str(error)) from error


def unusable(file: Path, problem: str) -> ServerError:
    """Return the error for a database that cannot be brought to this Flower's form."""
    hint = "install the version that wrote it, or move the file away, and the SuperLink starts a new one"
    if passing := passes(problem):
        hint = "free some space, end what uses it, or look at the disk: journalctl -k"
    text = f"{file}: cannot be brought to this Flower's form: {problem} ({hint})"
    obstacle = Obstacle(text, passing)
    return cannot_start("the SuperLink's database cannot be used", [obstacle], code="superlink-database")


def _bring_up_to_date(file: Path) -> None:
    newest = newest_revisions()
    if not newest or (file.exists() and revisions_of(file) == newest):
        return
    new = file.with_name(f"{file.name}.new")
    clear(new)
    if file.exists():
        copy(file, new)
    problem = migrate(new)
    if problem and not passes(problem) and file.exists() and not holds_runs(file):
        aside = file.with_name(f"{file.name}.unusable-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        log.warning("event=superlink-database-renewed reason=%r moved_to=%s", problem, aside)
        file.replace(aside)
        clear(file)
        clear(new)
        problem = migrate(new)
    if problem:
        clear(new)
        raise unusable(file, problem)
    if new.exists():
        put_in_place(new, file)


def migrate(file: Path) -> str:
    """Run Flower's migrations; returns what went wrong, or nothing. A Flower without them makes no file."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", MIGRATE, str(file), installed_line().run_migrations],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode in (0, NOT_RECOGNISED):
        return ""
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"\(?(sqlite3|sqlalchemy|alembic)\.|\w*Error:", line)]
    return (named or lines or [f"exit code {done.returncode}"])[0][:200]


def holds_runs(file: Path) -> bool:
    """Return whether a database knows any run: then it must not be replaced."""
    with closing(sqlite3.connect(file, timeout=5)) as connection:
        if "run" not in tables_of(connection):
            return False
        return connection.execute("SELECT 1 FROM run LIMIT 1").fetchone() is not None


def copy(file: Path, new: Path) -> None:
    """Copy a database with what its write-ahead log holds, and empty that log."""
    with closing(sqlite3.connect(file, timeout=30)) as connection, closing(sqlite3.connect(new)) as target:
        # A log that outlived its database would be taken for the new one's.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.backup(target)


def put_in_place(new: Path, file: Path) -> None:
    """Replace a database by another, so that a power cut leaves the one or the other."""
    with closing(sqlite3.connect(new)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with new.open("rb+") as handle:
        os.fsync(handle.fileno())
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    new.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def clear(file: Path) -> None:
    """Remove a database with its companions, if it is there."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
