"""The lock that keeps a second server off the same register, and a restore off a server that works."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleven.server.errors import TemporaryError


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the lock.

    Args:
        state: the state folder.

    Raises:
        TemporaryError: another process holds it.
    """
    handle = os.open(state / "serve.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        if os.geteuid() == 0:  # a command of root's: the service must be able to open it afterwards
            owner = state.stat()
            os.fchown(handle, owner.st_uid, owner.st_gid)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TemporaryError(
                f"another fleven-server serves {state}", hint="systemctl status fleven-server", code="already-running"
            ) from None
        os.set_inheritable(handle, False)
        yield
    finally:
        os.close(handle)
