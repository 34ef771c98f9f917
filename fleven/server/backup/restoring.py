"""Restoring a backup: unpacked beside the server's own files, checked whole, and only then put in their place.

What was there before is kept in a folder of its own. Nothing of the server's own files is touched before every byte of
the backup was read and found correct. Must not start or stop services.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import tomli_w

from fleven.server.backup import container, sealing
from fleven.server.backup.contents import (
    CERTIFICATES,
    LARGEST_MANIFEST_BYTES,
    MANIFEST,
    REGISTER,
    SUPERLINK,
    BackupError,
    Manifest,
    parsed,
)
from fleven.server.backup.making import SPARE_BYTES, digest, settle, sync_folder
from fleven.server.backup.sealing import Form, Opener
from fleven.server.config.paths import Paths
from fleven.server.database.engine import check_integrity, open_store
from fleven.server.errors import UsageError
from fleven.server.flower.superlink_database import database_obstacles

CERTIFICATES_DROP_IN = "99-restored-certificates.toml"
CERTIFICATES_FOLDER = "restored-certificates"
PUBLIC, GROUP_READABLE, SECRET = 0o644, 0o640, 0o600
DATABASE_COMPANIONS = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did.

    Attributes:
        manifest: what was in the backup; None for a copy of the register alone.
        put: files that were put in place.
        kept_in: the folder with what was there before; None when nothing was.
        not_put: what was in the backup and stays out, and why.
    """

    manifest: Manifest | None
    put: tuple[Path, ...]
    kept_in: Path | None
    not_put: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """One file to put in place.

    Attributes:
        source: where it was unpacked.
        target: where it goes.
        mode: its rights.
        owner_of: it gets owner and group of this folder.
        group_only: it gets the group of that folder and belongs to whoever restores.
    """

    source: Path
    target: Path
    mode: int
    owner_of: Path
    group_only: bool = False


def restore(
    file: Path,
    opener: Opener,
    paths: Paths,
    config_file: Path,
    now: datetime,
    *,
    force: bool,
    keep_configuration: bool,
) -> Restored:
    """Put a backup in the place of what this server has. Nothing of the server may run meanwhile.

    Args:
        file: the backup, or a nightly copy of the register.
        opener: opens it.
        paths: the server's folders.
        config_file: where server.toml belongs.
        now: the current moment.
        force: also when this server has a register or an authority already.
        keep_configuration: leave server.toml as it is.

    Raises:
        BackupError: it is damaged, or nothing that this version can restore; nothing was changed.
        UsageError: there is something here already, or it cannot be opened so; nothing was changed.
        OSError: it cannot be read, or its content not be written; what was there is back in its place.
    """
    if not force:
        check_empty(paths)
    folder = paths.state / f".restore-{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    try:
        manifest = unpack(file, opener, folder)
        check(Paths(folder))
        placements, not_put = plan(folder, manifest, paths, config_file, keep_configuration=keep_configuration)
        aside = paths.state / f"before-restore-{now:%Y%m%dT%H%M%SZ}"
        kept_in = put(placements, paths, config_file, aside, whole=manifest is not None and manifest.with_keys)
        return Restored(manifest, tuple(one.target for one in placements), kept_in, tuple(not_put))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_empty(paths: Paths) -> None:
    """Make sure that nothing would be replaced.

    Raises:
        UsageError: something would.
    """
    there = [path for path in (paths.register, paths.superlink_database, paths.trust / "ca.key") if path.exists()]
    if there:
        hint = "--force replaces it with the backup, and sets the present one aside"
        raise UsageError(f"{there[0]}: this server has one already", hint=hint, code="server-not-empty")


def unpack(file: Path, opener: Opener, folder: Path) -> Manifest | None:
    """Unpack a backup into a folder; returns its list of contents, None for a copy of the register alone."""
    with named(file), file.open("rb") as stream:
        form = sealing.form_of(os.pread(stream.fileno(), container.BLOCK, 0))
        if form is Form.REGISTER:
            check_space(folder, file.stat().st_size)
            shutil.copyfile(file, folder / REGISTER)
            return None
        with sealing.opened(stream, form, opener) as opened, gzip.GzipFile(fileobj=opened, mode="rb") as unpacked:
            return unpack_members(unpacked, folder)  # type: ignore[arg-type]


@contextmanager
def named(file: Path) -> Iterator[None]:
    """Name the backup in what is wrong with it."""
    try:
        yield
    except BackupError as error:
        raise BackupError(f"{file}: {error.message}", hint=error.hint, code=error.code) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BackupError(f"{file}: is cut off or damaged: {error}") from error


def unpack_members(members: IO[bytes], folder: Path) -> Manifest:
    """Unpack the list of contents, then exactly what it lists, each member compared with it.

    Raises:
        BackupError: something else is there.
    """
    found = container.read_header(members)
    if found is None or found.name != MANIFEST or found.size > LARGEST_MANIFEST_BYTES:
        raise BackupError("does not begin with a list of contents")
    listed = bytearray()
    container.read_member(members, found, listed.extend)
    manifest = parsed(bytes(listed))
    check_space(folder, manifest.total_bytes)
    for member in manifest.members:
        found = container.read_header(members)
        if found is None or (found.name, found.size) != (member.name, member.size):
            raise BackupError(f"holds {found.name[:100]!r} where {member.name} belongs" if found else "is cut off")
        target = folder / member.name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        read = hashlib.sha256()
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, SECRET)
        with os.fdopen(handle, "wb") as out:

            def take(chunk: bytes, out: Any = out, read: Any = read) -> None:
                out.write(chunk)
                read.update(chunk)

            container.read_member(members, found, take)
            out.flush()
            os.fsync(out.fileno())
        if read.hexdigest() != member.sha256:
            raise BackupError(f"{member.name}: is not what its list of contents says")
    container.read_end(members)
    return manifest


def check_space(folder: Path, needed_bytes: int) -> None:
    """Make sure that the disk has room.

    Raises:
        BackupError: it has not.
    """
    if shutil.disk_usage(folder).free < needed_bytes + SPARE_BYTES:
        raise BackupError(f"{folder.parent}: {needed_bytes // 1_000_000 + 50} MB free are needed to unpack it")


def check(unpacked: Paths) -> None:
    """Open what was unpacked as the server would; the register is brought to this version's form.

    Raises:
        StoreError: the register is damaged, or of a newer version.
        BackupError: the installed Flower cannot use the SuperLink's database.
    """
    check_integrity(unpacked.register)
    open_store(unpacked.register).close()
    settle(unpacked.register)
    if obstacles := database_obstacles(unpacked):
        raise BackupError(obstacles[0].problem)


def plan(
    folder: Path, manifest: Manifest | None, paths: Paths, config_file: Path, *, keep_configuration: bool
) -> tuple[list[Placement], list[str]]:
    """Return which file goes where, and what stays out."""
    state = paths.state
    placements = [Placement(folder / REGISTER, paths.register, SECRET, state)]
    not_put: list[str] = []
    names = [one.name for one in manifest.members if one.name != REGISTER] if manifest is not None else []
    configuration = config_file.parent
    certificates: dict[str, dict[str, str]] = {}
    for name in names:
        source = folder / name
        kind, _, rest = name.partition("/")
        if name == SUPERLINK:
            placements.append(Placement(source, paths.superlink_database, GROUP_READABLE, state))
        elif kind == "trust":
            mode = SECRET if rest.endswith((".key", ".json")) else GROUP_READABLE
            placements.append(Placement(source, paths.trust / rest, mode, state))
        elif kind == "models":
            placements.append(Placement(source, state / "models" / rest, GROUP_READABLE, state))
        elif keep_configuration:
            not_put.append(f"{name}: the configuration stays as it is")
        elif kind == "certificates":
            table, key = CERTIFICATES[rest.removesuffix(".pem")]
            target = configuration / CERTIFICATES_FOLDER / rest
            placements.append(Placement(source, target, GROUP_READABLE, state, group_only=True))
            certificates.setdefault(table, {})[key] = str(target)
        elif kind == "config":
            target = config_file if rest == "server.toml" else Path(f"{config_file}.d") / rest.partition("/")[2]
            mode = GROUP_READABLE if "report-token" in source.read_text("utf-8", "replace") else PUBLIC
            placements.append(Placement(source, target, mode, state, group_only=True))
    if certificates:
        # They may have lain anywhere: where that is, a backup does not decide on this machine.
        source = folder / CERTIFICATES_DROP_IN
        source.write_text(f"# Written by `fleven-server restore`.\n{tomli_w.dumps(certificates)}", encoding="utf-8")
        drop_in = Path(f"{config_file}.d") / CERTIFICATES_DROP_IN
        placements.append(Placement(source, drop_in, PUBLIC, state, group_only=True))
    return placements, not_put


def put(
    placements: list[Placement],
    paths: Paths,
    config_file: Path,
    aside: Path,
    *,
    whole: bool = False,
    without: Sequence[Path] = (),
) -> Path | None:
    """Put files in place; what was there is moved into a folder, and back again when that fails.

    Args:
        placements: the files.
        paths: the server's folders.
        config_file: where server.toml belongs.
        aside: folder for what was there, in the state folder; its name begins with "before-".
        whole: the backup holds keys: a SuperLink's database or authority that it has not is moved away, too.
        without: more files to move away.

    Returns:
        The folder, or None when nothing was there.
    """
    moved: list[tuple[Path, Path]] = []
    done: list[Path] = []
    try:
        for path in dict.fromkeys([*replaced(placements, paths, whole=whole), *without]):
            inside = path.relative_to(paths.state) if path.is_relative_to(paths.state) else Path("config", path.name)
            if path.parent.name == f"{config_file.name}.d":
                inside = Path("config", path.parent.name, path.name)
            made_folder(aside / inside, paths.state, aside.parent)
            shutil.move(path, aside / inside)
            moved.append((aside / inside, path))
        for one in placements:
            place(one, paths.state)
            done.append(one.target)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        for kept, path in reversed(moved):
            shutil.move(kept, path)
        raise
    for folder in {one.target.parent for one in placements}:
        sync_folder(folder)
    return aside if moved else None


def replaced(placements: list[Placement], paths: Paths, *, whole: bool) -> list[Path]:
    """Return the files that make room: those of the same name, and what belongs to another database or authority."""
    found = [one.target for one in placements]
    found += [Path(f"{paths.register}{end}") for end in DATABASE_COMPANIONS]
    if whole:
        found += [Path(f"{paths.superlink_database}{end}") for end in ("", *DATABASE_COMPANIONS)]
        found += [path for path in sorted(paths.trust.glob("*")) if path.name != "lock"]
    return [path for path in dict.fromkeys(found) if path.exists() or path.is_symlink()]


def made_folder(path: Path, state: Path, top: Path) -> None:
    """Make the folders above a file, below a folder that is there; as root for the services' user."""
    missing = [folder for folder in path.parents if folder.is_relative_to(top) and not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700 if folder.name.startswith("before-") else 0o750)
        if os.geteuid() == 0 and folder.is_relative_to(state):
            owner = state.stat()
            os.chown(folder, owner.st_uid, owner.st_gid)


def place(one: Placement, state: Path) -> None:
    """Put one file in place, with owner and rights."""
    top = next(folder for folder in one.target.parents if folder.exists())
    made_folder(one.target, state, top)
    temporary = one.target.with_name(f".{one.target.name}.{secrets.token_hex(4)}.restored")
    try:
        # Copied: the configuration may lie on another file system.
        shutil.copyfile(one.source, temporary)
        if os.geteuid() == 0:
            owner = one.owner_of.stat()
            os.chown(temporary, -1 if one.group_only else owner.st_uid, owner.st_gid)
        temporary.chmod(one.mode)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        if digest(temporary) != digest(one.source):
            raise BackupError(f"{one.target}: was not written as it was read", hint="look at the disk: journalctl -k")
        temporary.replace(one.target)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
