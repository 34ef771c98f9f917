"""Files that are either whole or not there: written beside, synced, renamed. Imports the standard library only."""

import contextlib
import json
import os
import threading
from pathlib import Path


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file so that a reader, or a power cut, finds the old content or the new.

    The folder is made when it is missing. The file gets the owner of its folder when root writes it, so that a command
    run by root leaves nothing that the daemon cannot read.

    Raises:
        OSError: when it cannot be written; the old file is then unharmed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()  # left by a process that died while writing
    try:
        # Exclusively: root must not write through a link that the folder's owner has put there.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if os.geteuid() == 0:
                owner = path.parent.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # the rename itself: not all file systems can sync a folder
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_private(path: Path, content: object) -> None:
    """Write ``content`` as JSON, readable for the owner alone; raises ``OSError`` as ``write_atomically`` does."""
    write_atomically(path, json.dumps(content).encode())


def program_on_path(name: str, path: str | None = None) -> str | None:
    """Return the first program of a name in the folders of ``path``; of this process's PATH when none is given.

    As ``shutil.which``, without the bz2 and lzma that come with shutil and that an idle agent would keep.
    """
    if path is None:
        path = os.environ.get("PATH", os.defpath)
    for folder in path.split(os.pathsep):
        program = Path(folder, name)
        if program.is_file() and os.access(program, os.X_OK):
            return str(program)
    return None
