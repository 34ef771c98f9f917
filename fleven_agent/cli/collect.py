"""`fleven-agent collect`: a support bundle: everything that somebody else needs to understand a car from a distance.

Secrets are blanked, private keys are never read, trips are never included. Prints what the bundle holds.
"""

import argparse
import errno
import io
import json
import os
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fleven_agent.checks import ALL, HINT_FOR_A_DEFECT, Context
from fleven_agent.common.checks import run_checks
from fleven_agent.common.errors import EXIT_STOPPED
from fleven_agent.config.parser import drop_ins, effective
from fleven_agent.errors import StateError
from fleven_agent.monitoring.machine import Reader
from fleven_agent.system import versions
from fleven_agent.system.log import redact

UNIT = "fleven-agent.service"
MAXIMUM_FILE_BYTES = 4_000_000


def collect(arguments: argparse.Namespace, state: Path, runtime: Path) -> int:
    """Write the bundle; return the exit code.

    Raises:
        StateError: the file cannot be written.
    """
    context = Context(arguments.config.absolute(), state, runtime)
    stamp = time.strftime("%Y%m%dT%H%M%S")
    target = arguments.output or Path(f"fleven-{os.uname().nodename}-{stamp}.tar.gz")
    root = target.name.removesuffix(".gz").removesuffix(".tar")
    held: list[dict[str, Any]] = []
    token = context.loaded.settings.report_token if context.loaded is not None else None
    partial = target.with_name(f".{target.name}.tmp")
    try:
        partial.unlink(missing_ok=True)  # left by one that was interrupted
        # Exclusively: root must not write through a link that somebody has put into a folder of theirs.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as bundle:
            for name, text in _parts(context, arguments.journal_lines):
                content = redact(text.replace(token, "***") if token else text).encode()
                entry = tarfile.TarInfo(f"{root}/{name}")
                entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
                bundle.addfile(entry, io.BytesIO(content))
                held.append({"name": name, "bytes": len(content)})
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StateError(f"{target}: {error.strerror}", hint="name another file with --output") from None
    if arguments.json:
        print(json.dumps({"file": str(target), "holds": held}, indent=2))
    else:
        print(f"wrote {target}, which holds:")
        print("\n".join(f"  {one['name']:24} {one['bytes']:>9} bytes" for one in held))
        print("Secrets are blanked; trips and keys are not included. Look through it before you send it.")
    return EXIT_STOPPED


def _parts(context: Context, journal_lines: int) -> Iterator[tuple[str, str]]:
    yield "versions.json", json.dumps(asdict(versions.collect()), indent=2)
    rows = [
        {"id": check.id, **asdict(result)}
        for check, result in run_checks(ALL, context, hint_for_a_defect=HINT_FOR_A_DEFECT)
    ]
    yield "check.json", json.dumps(rows, indent=2)
    yield "status.json", json.dumps(context.status or {"agent": "does not answer"}, indent=2)
    yield "resources.json", json.dumps(asdict(Reader([str(context.state_directory)]).read()), indent=2)
    if context.loaded is not None:
        yield "effective.json", json.dumps(effective(context.loaded), indent=2)
    yield f"configuration/{context.config_file.name}", _read(context.config_file)
    try:
        for file in drop_ins(context.config_file):
            yield f"configuration/{file.name}", _read(file)
    except OSError as error:
        yield "configuration/drop-ins.txt", f"{context.config_file}.d: {error.strerror}\n"
    yield "state.json", _read(context.state_directory / "state.json")
    yield "spool.txt", _listing(context.state_directory / "spool")
    yield "unit.txt", _run(["systemctl", "cat", UNIT]) + "\n" + _run(["systemctl", "status", "--no-pager", UNIT])
    yield (
        "journal.txt",
        _run(["journalctl", "--unit", UNIT, "--lines", str(journal_lines), "--no-pager", "-o", "short-iso"]),
    )
    yield "kernel.txt", _run(["journalctl", "--dmesg", "--lines", "200", "--no-pager"])


def _read(path: Path) -> str:
    """Return a file's text, of a long one the end.

    Run by root this reads folders of the user ``fleven``, whose links and pipes must lead nowhere else: only plain
    files are read, and a link only when root (or who runs this) has made it.
    """
    try:
        with os.fdopen(_open(path), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return f"{path}: not a plain file\n"
            file.seek(max(0, status.st_size - MAXIMUM_FILE_BYTES))
            return file.read(MAXIMUM_FILE_BYTES).decode("utf-8", "replace")
    except OSError as error:
        return f"{path}: {error.strerror}\n"


def _open(path: Path) -> int:
    """Open a file to read, or what a trusted link names; what was looked at is what is opened, whoever changes names.

    Raises:
        OSError: also for a link of another user.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    link = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(link).st_uid not in (0, os.geteuid()):
            raise OSError(errno.ELOOP, "a link of another user")
        return os.open(path.parent / os.readlink("", dir_fd=link), flags)
    finally:
        os.close(link)


def _listing(folder: Path) -> str:
    """Return the names and sizes in a folder; a link is not followed, neither the folder's own nor one in it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with os.scandir(descriptor) as entries:
                found = sorted((entry.name, entry.stat(follow_symlinks=False).st_size) for entry in entries)
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"{folder}: {error.strerror}\n"
    return "".join(f"{name} {size}\n" for name, size in found)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}\n"
    return (done.stdout + done.stderr).decode("utf-8", "replace")
