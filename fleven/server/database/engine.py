"""Opening the register: permissions, WAL, integrity, migrations; and the transactions that everything runs in."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from fleven.server.database import tables
from fleven.server.database.fair_lock import Turns
from fleven.server.errors import StoreError, permission_hint

BUSY_TIMEOUT_SECONDS = 8
"""Who waits longer for the register gives up. Below the unit's WatchdogSec: the deciding loop waits here too."""
MIGRATIONS = Path(__file__).resolve().parent / "migrations"


class Store:
    """The open register.

    Attributes:
        engine: for reading; `write()` opens the transactions that change something.
        path: the database file.
    """

    def __init__(self, engine: Engine, path: Path) -> None:
        self.engine = engine
        self.path = path
        self._writer = engine.execution_options(fleven_write=True)
        self._turns = Turns()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open one consistent view."""
        with translated(self.path), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that holds SQLite's write lock from its start, committed at the end of the block.

        Threads of this process get it in the order in which they ask, and wait no longer than `BUSY_TIMEOUT_SECONDS`
        for each other and for other processes together.
        """
        asked_at = time.monotonic()
        with self._turns.turn(BUSY_TIMEOUT_SECONDS) as mine:
            if not mine:
                raise store_problem(self.path, "database is locked")
            with translated(self.path), self._writer.connect() as connection:
                left = BUSY_TIMEOUT_SECONDS - (time.monotonic() - asked_at)
                connection.execution_options(fleven_wait_seconds=max(0.0, left))
                with connection.begin():
                    yield connection

    def fact(self, key: str) -> tuple[Any, datetime] | None:
        """Return a fact that the service wrote down (its heartbeat, the SuperLink's state) and its time."""
        with self.read() as connection:
            row = connection.execute(
                tables.facts.select().where(tables.facts.c.key == key),
            ).one_or_none()
        return None if row is None else (row.value, row.at)

    def set_fact(self, key: str, value: Any, now: datetime) -> None:
        """Write down a fact for other processes to read."""
        statement = insert(tables.facts).values(key=key, value=value, at=now)
        with self.write() as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=["key"], set_={"value": value, "at": now})
            )

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's own errors into one line that says what to do."""
    try:
        yield
    except OperationalError as error:
        raise store_problem(path, str(error.orig)) from error


def store_problem(path: Path, text: str) -> StoreError:
    """Return the error for a message of SQLite."""
    if "readonly" in text or "unable to open" in text:
        return StoreError(f"{path}: {text}", hint=permission_hint(), code="register-permission")
    if "locked" in text:
        return StoreError(f"{path}: stays locked by another process", hint="try again", code="register-locked")
    if "disk is full" in text or "disk I/O" in text:
        return StoreError(f"{path}: {text}", hint="free space on this disk", code="register-disk")
    return StoreError(f"{path}: {text}", code="register-unusable")


def prepare_folder(path: Path) -> None:
    """Create the state folder when it is missing.

    Raises:
        StoreError: it cannot be created or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise StoreError(
            f"{path.parent}: {error.strerror}", hint=permission_hint(), code="register-permission"
        ) from error
    writable = os.access(path.parent, os.W_OK | os.X_OK) and (not path.exists() or os.access(path, os.R_OK | os.W_OK))
    if not writable:
        raise StoreError(f"{path}: no permission to write", hint=permission_hint(), code="register-permission")


def create(path: Path) -> Engine:
    """Return an engine for a register file: WAL, foreign keys, transactions that begin where the code says so."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        # The driver's own idea of when a transaction begins is switched off: `_begin` says it.
        connection.isolation_level = None
        for pragma in ("journal_mode = WAL", "foreign_keys = ON", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        wait_seconds = options.get("fleven_wait_seconds", BUSY_TIMEOUT_SECONDS)
        connection.exec_driver_sql(
            f"PRAGMA busy_timeout = {1000 * wait_seconds:.0f}"
        )  # the pool's, last used by others
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("fleven_write") else "BEGIN")

    return engine


def check_integrity(path: Path) -> None:
    """Read the whole file and check it.

    Raises:
        StoreError: the file is damaged; the hint names the newest backup.
    """
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)) as connection:
            answer = str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    except sqlite3.DatabaseError as error:
        answer = str(error)
        if isinstance(error, sqlite3.OperationalError):
            raise store_problem(path, answer) from error
    if answer != "ok":
        backups = sorted((path.parent / "backups").glob("register-*.db"))
        hint = f"stop the service and copy {backups[-1]} over it" if backups else "no backup found beside it"
        raise StoreError(f"{path}: is damaged: {answer}", hint=hint, code="register-damaged")


DOWN_REVISION = re.compile(r'^down_revision = "([^"]+)"', re.MULTILINE)


def newest_revision() -> str:
    """Return the newest revision of the tables: the one that no other follows. Their files begin with their numbers."""
    files = list((MIGRATIONS / "versions").glob("[0-9]*_*.py"))
    followed = {found[1] for file in files if (found := DOWN_REVISION.search(file.read_text(encoding="utf-8")))}
    (newest,) = {file.name.partition("_")[0] for file in files} - followed
    return newest


def migrate(engine: Engine, path: Path) -> None:
    """Bring the tables to the newest revision; does nothing when they are already there.

    Raises:
        StoreError: a newer version of FLEVEn wrote the register.
    """
    with engine.begin() as connection:
        exists = connection.dialect.has_table(connection, "alembic_version")
        current = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() if exists else None
    if current == newest_revision():
        return
    # Imported late: Alembic costs a tenth of a second, and nearly every command finds the register up to date.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.execution_options(fleven_write=True).begin() as connection:
        if current is not None and current == revision_of(path):  # nobody was faster
            keep_copy(path, current)
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StoreError(
                f"{path}: was written by a newer FLEVEn (revision {current})",
                hint="install that version again, or restore a backup",
                code="register-newer",
            ) from error


def kept_copy(path: Path, revision: str) -> Path:
    """Return where a register is kept as it was before it was brought from this revision to a newer one."""
    return path.parent / "before-upgrade" / f"register-{revision}.db"


def keep_copy(path: Path, revision: str) -> None:
    """Keep a register as the release before can read it, instead of the copy of the upgrade before.

    Raises:
        sqlite3.OperationalError: the copy cannot be written.
        OSError: the same.
    """
    kept = kept_copy(path, revision)
    kept.parent.mkdir(exist_ok=True, mode=0o750)
    temporary = kept.with_suffix(".partial")
    temporary.unlink(missing_ok=True)
    copy_database(path, temporary)
    owner = path.stat()
    for made in (kept.parent, temporary):
        if os.geteuid() == 0:
            os.chown(made, owner.st_uid, owner.st_gid)
    temporary.chmod(0o600)
    temporary.replace(kept)
    for older in kept.parent.glob("register-*.db"):
        if older != kept:
            older.unlink()


def revision_of(path: Path) -> str | None:
    """Return the revision of a register's tables, None when it has none; raises ``sqlite3.DatabaseError``."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
        except (sqlite3.OperationalError, TypeError):
            return None


def open_store(path: Path, *, check: bool = False) -> Store:
    """Open the register, creating and migrating it as needed.

    Args:
        path: the database file.
        check: read the whole file for damage first (the service does so at its start).

    Raises:
        StoreError: no permission, damaged, locked, or written by a newer version.
    """
    prepare_folder(path)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    elif check:
        check_integrity(path)
    share_with_group(path)
    engine = create(path)
    try:
        with translated(path):
            migrate(engine, path)
    except BaseException:
        engine.dispose()
        raise
    return Store(engine, path)


def share_with_group(path: Path) -> None:
    """Open a register to its folder's group where the folder is open to it: so the group's members use the commands.

    SQLite gives its two files beside the register the register's own mode. Only the owner of a file may change it.
    """
    folder = path.parent.stat()
    if not folder.st_mode & stat.S_IWGRP:
        return
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        try:
            found = file.stat()
            if found.st_uid != os.geteuid():
                continue
            if found.st_gid != folder.st_gid:
                os.chown(file, -1, folder.st_gid)
            if not found.st_mode & stat.S_IWGRP:
                file.chmod(stat.S_IMODE(found.st_mode) | stat.S_IRGRP | stat.S_IWGRP)
        except FileNotFoundError:
            continue


def copy_database(database: Path, target: Path) -> None:
    """Copy a database while others use it; only its owner may read the copy.

    Raises:
        sqlite3.OperationalError: it cannot be read, or the copy not be written.
    """
    os.close(os.open(target, os.O_CREAT | os.O_RDWR, 0o600))
    existing = f"{database.absolute().as_uri()}?mode=rw"
    with (
        closing(sqlite3.connect(existing, uri=True, timeout=BUSY_TIMEOUT_SECONDS)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        # In one step: between steps SQLite begins again whenever somebody has written, which on a busy fleet is always.
        # Nobody has to wait for the copy: writers go on beside a reader.
        source.backup(copy)


def back_up(store: Store, folder: Path, now: datetime, keep_days: int) -> Path:
    """Copy the register while it is in use, check the copy, and remove copies that are too old.

    Args:
        store: the open register.
        folder: where the copies go, as register-YYYY-MM-DD.db.
        now: time of the copy.
        keep_days: copies older than this are removed.

    Returns:
        The copy.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    target = folder / f"register-{now.astimezone(UTC):%Y-%m-%d}.db"
    temporary = target.with_suffix(".partial")
    for left_over in folder.glob("register-*.partial*"):
        left_over.unlink()
    copy_database(store.path, temporary)
    check_integrity(temporary)
    temporary.replace(target)
    for old in folder.glob("register-*.db"):
        if (now.timestamp() - old.stat().st_mtime) > keep_days * 86_400:
            old.unlink()
    return target
