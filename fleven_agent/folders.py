"""The agent's folders: made when they are missing, and held by one agent at a time. Imports the errors only."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from fleven_agent.errors import AlreadyRunningError, StateError


def make_folder(folder: Path, mode: int) -> None:
    """Make a folder with its parents.

    Raises:
        StateError: when that is not possible.
    """
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        hint = "run it as root or as a service, or set FLEVEN_STATE_DIR and FLEVEN_RUNTIME_DIR to folders of yours"
        raise StateError(f"{folder}: {error.strerror}", hint=hint) from None


@contextlib.contextmanager
def locked(state_directory: Path) -> Iterator[None]:
    """Hold the state folder, until the end of the block or of the process.

    Raises:
        StateError: the folder cannot be used.
        AlreadyRunningError: another agent holds it.
    """
    make_folder(state_directory, 0o700)
    try:
        lock = os.open(state_directory / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{state_directory}: {error.strerror}", hint="check the owner of the folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        hint = "`fleven-agent status` shows it; several on one machine need a FLEVEN_STATE_DIR each"
        raise AlreadyRunningError(f"another agent uses {state_directory}", hint=hint) from None
    try:
        yield
    finally:
        os.close(lock)
