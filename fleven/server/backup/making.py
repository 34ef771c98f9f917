"""Making a backup while the server works: databases copied whole, everything sealed into one file, the file read back.

The SuperLink's database is copied before the register: keys that Flower has and the register does not would else look
as if somebody had removed them. Must not decide for whom a backup is sealed.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import secrets
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from sqlalchemy import func, select

from fleven import __version__
from fleven.server.backup import container, sealing
from fleven.server.backup.contents import (
    CERTIFICATES,
    MANIFEST,
    REGISTER,
    SUPERLINK,
    TRUST_FILES,
    BackupError,
    Manifest,
    Member,
    largest,
)
from fleven.server.backup.sealing import Form, Opener, Seal
from fleven.server.config.loader import Loaded
from fleven.server.config.paths import Paths
from fleven.server.config.settings import split_address
from fleven.server.database.engine import check_integrity, copy_database, open_store
from fleven.server.database.tables import identities
from fleven.server.errors import ConfigurationError, permission_hint
from fleven.server.flower.line import installed_version
from fleven.server.trust.files import trust_files
from fleven.server.trust.names import machine_names
from fleven_agent.common.errors import describe
from fleven_agent.common.foreign_text import parse_toml
from fleven_agent.protocol.identity import IdentityStatus

SPARE_BYTES = 50_000_000
SECRET_KEYS = (("web", "report-token"),)
"""Keys of server.toml that are secrets: a file with one is left out of a backup without keys."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that goes into a backup under a name."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made.

    Attributes:
        file: where.
        size: its bytes.
        form: how it is sealed.
        manifest: what is in it.
    """

    file: Path
    size: int
    form: Form
    manifest: Manifest


def make(loaded: Loaded, paths: Paths, target: Path, seal: Seal, now: datetime, *, with_keys: bool) -> Made:
    """Write a backup, whole or not at all, and read it back.

    Args:
        loaded: the configuration and its files.
        paths: the server's folders.
        target: the file, which must not be there yet.
        seal: for whom.
        now: the current moment.
        with_keys: whether keys and enrolments go into it.

    Raises:
        BackupError: it cannot be sealed, or what was written is not what was read.
        ConfigurationError: this user may not read what belongs into it.
        OSError: the file cannot be written.
    """
    if with_keys and seal.form is Form.CLEAR:
        raise BackupError("a backup with keys is sealed for somebody", code="backup-unsealed")
    witness = sealing.fresh_key()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with staging(paths.state) as folder:
            sources, left_out = collect(loaded, paths, folder, with_keys=with_keys)
            manifest = described(loaded, paths, sources, left_out, now, with_keys=with_keys)
            # Exclusively, and never through a link: the folder may be open to others.
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(temporary, flags, 0o600), "w+b") as file:
                with sealing.sealed(file, seal, witness) as stream:
                    write(stream, manifest, sources, now)
                file.flush()
                os.fsync(file.fileno())
        read_back(temporary, seal, witness, manifest)
        name(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)
    return Made(target, target.stat().st_size, seal.form, manifest)


def name(temporary: Path, target: Path) -> None:
    """Give a file its name; one that somebody has taken meanwhile is theirs.

    Raises:
        BackupError: it is taken.
    """
    try:
        os.link(temporary, target)
    except FileExistsError as error:
        raise BackupError(f"{target}: is there already", hint="choose another name", code="file-exists") from error
    except OSError as error:
        # A memory stick's file system knows one name for each file.
        if target.exists():
            raise BackupError(f"{target}: is there already", code="file-exists") from error
        temporary.replace(target)


@contextmanager
def staging(state: Path) -> Iterator[Path]:
    """Make a folder beside the originals that nobody else may look into; it is gone afterwards."""
    folder = state / f".backup-{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def collect(loaded: Loaded, paths: Paths, folder: Path, *, with_keys: bool) -> tuple[list[Source], list[str]]:
    """Copy the databases into a folder; return all files of a backup, and what is left out.

    Raises:
        ConfigurationError: this user may not read one.
        StoreError: the register is damaged.
    """
    needed = sum(file.stat().st_size for file in (paths.register, paths.superlink_database) if file.exists())
    if shutil.disk_usage(folder).free < needed + SPARE_BYTES:
        raise BackupError(f"{paths.state}: {needed // 1_000_000 + 50} MB free are needed", hint="free some space")
    sources: list[Source] = []
    left_out = ["results and checkpoints of runs"]
    if with_keys:
        if paths.superlink_database.exists():
            sources.append(copied(paths.superlink_database, folder / SUPERLINK))
        # Under the lock: a renewal writes several files that belong together.
        files = trust_files(paths)
        if exists(files.authority_key):
            check_readable(files.authority_key)
            with files.locked():
                sources += [copied_file(files.folder / name, folder / name, f"trust/{name}") for name in TRUST_FILES
                            if exists(files.folder / name)]  # fmt: skip
        sources += [Source(f"certificates/{name}.pem", file) for name, file in own_certificates(loaded)]
    else:
        left_out.append("keys and certificates: no car trusts a server that has only this")
    sources.append(copied(paths.register, folder / REGISTER))
    check_integrity(folder / REGISTER)
    for source in configuration(loaded):
        if not with_keys and holds_secret(source.path):
            left_out.append(f"{source.path}, which holds a token")
        else:
            sources.append(source)
    models = sorted((paths.state / "models").glob("*/*.safetensors"))
    sources += [Source(f"models/{file.parent.name}/{file.name}", file) for file in models if not file.is_symlink()]
    known = [source for source in sources if largest(source.name) is not None]
    left_out += [f"{source.path}, whose name a backup cannot hold" for source in sources if source not in known]
    return known, left_out[:100]


def copied(database: Path, target: Path) -> Source:
    """Copy a database that is in use."""
    try:
        copy_database(database, target)
    except sqlite3.OperationalError as error:
        raise BackupError(f"{database}: {error}", hint=permission_hint()) from error
    return Source(target.name, target)


def copied_file(file: Path, target: Path, name: str) -> Source:
    """Copy a small file."""
    target.write_bytes(file.read_bytes())
    return Source(name, target)


def check_readable(key: Path) -> None:
    """Make sure that keys can be read.

    Raises:
        ConfigurationError: this user may not.
    """
    if not os.access(key, os.R_OK):
        text = f"{key}: no permission to read; keys are for root and the service alone"
        raise ConfigurationError(text, hint="use sudo, or --without-keys", code="trust-permission")


def exists(file: Path) -> bool:
    """Return whether a file is there.

    Raises:
        ConfigurationError: this user may not look.
    """
    try:
        return file.exists()
    except PermissionError as error:
        hint = "use sudo, or --without-keys"
        raise ConfigurationError(f"{file}: no permission to look", hint=hint, code="trust-permission") from error


def configuration(loaded: Loaded) -> list[Source]:
    """Return the files of server.toml under the names that they have by default."""
    sources = []
    for file in loaded.files:
        in_folder = file.parent.name.endswith(".toml.d")
        sources.append(Source(f"config/server.toml.d/{file.name}" if in_folder else "config/server.toml", file))
    return sources


def holds_secret(file: Path) -> bool:
    """Return whether a configuration file sets a key that is a secret."""
    content = parse_toml(file.read_bytes())
    return any(key in content.get(table, {}) for table, key in SECRET_KEYS)


def own_certificates(loaded: Loaded) -> list[tuple[str, Path]]:
    """Return the operator's own files that server.toml names, by the names that a backup gives them."""
    found = []
    for name, (table, key) in CERTIFICATES.items():
        file = getattr(getattr(loaded.config, table), key.replace("-", "_"))
        if file is not None:
            found.append((name, file))
    return found


def described(
    loaded: Loaded, paths: Paths, sources: list[Source], left_out: list[str], now: datetime, *, with_keys: bool
) -> Manifest:
    """Return the list of contents."""
    files = trust_files(paths)
    authorities = files.authority_facts()
    by_name = {source.name: source.path for source in sources}
    store = open_store(by_name[REGISTER])
    try:
        with store.read() as connection:
            accepted = identities.c.status == IdentityStatus.ACCEPTED.value
            cars = connection.execute(select(func.count()).select_from(identities).where(accepted)).scalar_one()
    finally:
        store.close()
    settle(by_name[REGISTER])
    config = loaded.config
    return Manifest(
        schema_version=1,
        created_at=now,
        fleven_version=__version__,
        flower_version=installed_version(),
        host=socket.gethostname(),
        with_keys=with_keys,
        fingerprint=authorities[0].fingerprint if authorities else None,
        reached_at=machine_names().reachable(files.given_names())[:200],
        fleet_port=split_address(config.superlink.fleet_address)[1],
        web_port=split_address(config.web.address)[1],
        cars=cars,
        left_out=[one[:300] for one in left_out],
        members=[Member(name=one.name, size=one.path.stat().st_size, sha256=digest(one.path)) for one in sources],
    )


def settle(database: Path) -> None:
    """Bring what a write-ahead log holds into the database itself, and take the log away."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")


def digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write(stream: IO[bytes], manifest: Manifest, sources: list[Source], now: datetime) -> None:
    """Write all members, compressed.

    Raises:
        BackupError: a file is not what the list of contents says any more.
    """
    listed = manifest.model_dump_json(indent=1).encode()
    seconds = int(now.timestamp())
    with gzip.GzipFile(fileobj=stream, mode="wb", filename="", mtime=seconds, compresslevel=6) as packed:
        out: Any = packed
        out.write(container.header(MANIFEST, len(listed), seconds))
        out.write(listed + bytes(-len(listed) % container.BLOCK))
        for source, member in zip(sources, manifest.members, strict=True):
            with source.path.open("rb") as content:
                container.write_member(out, source.name, content, member.size, seconds)
        container.write_end(out)


def read_back(file: Path, seal: Seal, witness: Any, manifest: Manifest) -> None:
    """Read a backup that was just written, and compare each member with what went into it.

    What `gpg` has sealed, only its key opens: there the file is looked at from outside.

    Raises:
        BackupError: it is not what was written.
    """
    with file.open("rb") as stream:
        form = sealing.form_of(os.pread(stream.fileno(), container.BLOCK, 0))
        if form is not seal.form:
            raise BackupError(f"{file}: was written as {seal.form} and reads as {form}")
        if form is Form.GPG:
            return
        opener = Opener(lambda: seal.passphrase, (str(witness).encode(),))
        with (
            sealing.opened(stream, form, opener) as opened,
            gzip.GzipFile(fileobj=opened, mode="rb") as unpacked,
        ):
            members: Any = unpacked
            found = container.read_header(members)
            listed = bytearray()
            if found is not None:
                container.read_member(members, found, listed.extend)
            if found is None or bytes(listed) != manifest.model_dump_json(indent=1).encode():
                raise BackupError(f"{file}: its list of contents is not what was written")
            for member in manifest.members:
                compare(members, member)
            container.read_end(members)


def compare(members: IO[bytes], member: Member) -> None:
    """Read the next member and compare it.

    Raises:
        BackupError: it is another.
    """
    found = container.read_header(members)
    read = hashlib.sha256()
    if found is not None and found.name == member.name:
        container.read_member(members, found, read.update)
    if read.hexdigest() != member.sha256:
        text = f"{member.name}: what was written is not what was read"
        raise BackupError(text, hint="look at the disk: journalctl -k")


def sync_folder(folder: Path) -> None:
    """Make a name of a folder outlast a power cut, where the file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        raise BackupError(describe(error)) from error
    finally:
        os.close(handle)
