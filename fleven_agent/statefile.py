"""What the agent remembers across restarts and power cuts, in one small file.

Typed, versioned, written to a temporary file, fsynced and renamed, mode 0600. A file that cannot be used is set
aside and the agent starts with a fresh state: it never refuses to start because of it. Imports nothing of the agent
but its errors.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fleven_agent.errors import StateError

VERSION = 1
FILE_NAME = "state.json"
SEQUENCE_BLOCK = 1_000
"""Sequence numbers are reserved in blocks, so that the state is not written for every report."""
MAXIMUM_PREVIOUS_NODES = 50


@dataclass(frozen=True, slots=True)
class Remembered:
    """The content of the state file."""

    sender_id: str
    sequence_reserved: int = 0
    """No report has a higher sequence than this."""
    attempt: int = 0
    """Index of the restart delay."""
    node_id: str | None = None
    previous_node_ids: tuple[str, ...] = ()
    """Newest first."""
    restarts: int = 0
    tasks: int = 0
    task_failures: int = 0
    reports_lost: int = 0
    drained: bool = False
    drain_reason: str = ""
    drained_until_restart: bool = False
    """The drain ends when the agent is started again."""
    drained_by_server: bool = False
    server_reason: str = ""
    supernode_pid: int | None = None
    supernode_start_ticks: int = 0
    boot_id: str = ""
    board_serial: str = ""
    """Of the board that wrote it: a card that was copied for another board must not report as the first."""
    last_status: dict[str, Any] = field(default_factory=dict)
    """What `status` shows when no agent runs."""


def fresh() -> Remembered:
    """Return the state of a node that was never seen: with a new sender id."""
    return Remembered(sender_id=secrets.token_hex(8))


def decode(text: bytes) -> Remembered:
    """Read the content of a state file.

    Raises:
        ValueError: when it is not one that this version can use.
    """
    content = json.loads(text.decode("utf-8"))
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"not a state file of version {VERSION}")
    values: dict[str, Any] = {}
    for item in fields(Remembered):
        if item.name in content:
            values[item.name] = _checked(item.name, content[item.name])
    if "sender_id" not in values or not values["sender_id"]:
        raise ValueError("no sender_id")
    return Remembered(**values)


_KINDS: dict[str, tuple[type, ...]] = {
    "sender_id": (str,),
    "node_id": (str, type(None)),
    "previous_node_ids": (list,),
    "drained": (bool,),
    "drained_until_restart": (bool,),
    "drained_by_server": (bool,),
    "drain_reason": (str,),
    "server_reason": (str,),
    "supernode_pid": (int, type(None)),
    "boot_id": (str,),
    "board_serial": (str,),
    "last_status": (dict,),
}


def _checked(name: str, value: object) -> object:
    kinds = _KINDS.get(name, (int,))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{name} is of the wrong kind")
    if isinstance(value, int) and not isinstance(value, bool) and value < 0:
        raise ValueError(f"{name} is negative")
    if name == "previous_node_ids":
        return tuple(str(part) for part in value if isinstance(part, str))  # type: ignore[attr-defined]  # a list
    return value


def encode(state: Remembered) -> bytes:
    """Return the content of a state file."""
    return json.dumps({"version": VERSION, **asdict(state)}, separators=(",", ":")).encode()


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file so that after a power cut there is either the old or the new one.

    The file gets the owner of its folder when root writes it, so that a command run by root leaves nothing that the
    daemon cannot read.

    Raises:
        OSError: when it cannot be written; the old file is then unharmed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()  # left by a process that died while writing
    try:
        # Exclusively: root must not write through a link that the folder's owner has put there.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if os.geteuid() == 0:
                owner = path.parent.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # the rename itself: not all file systems can sync a folder
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class StateFile:
    """The state file of one agent."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME

    def load(self, *, warn: Callable[[str], None]) -> Remembered:
        """Return the remembered state, or a fresh one; an unusable file is kept as ``state.json.unusable``."""
        try:
            return decode(self.path.read_bytes())
        except FileNotFoundError:
            return fresh()
        except (OSError, ValueError, RecursionError) as error:
            warn(f"state file {self.path} cannot be used ({error}); starting with a fresh state")
            with contextlib.suppress(OSError):
                self.path.replace(self.path.with_name(f"{FILE_NAME}.unusable"))
            return fresh()

    def peek(self) -> Remembered | None:
        """Return the remembered state without touching the file; None when there is none to be had.

        Raises:
            StateError: when this user may not read it.
        """
        try:
            return decode(self.path.read_bytes())
        except PermissionError:
            raise StateError(f"{self.path}: permission denied", hint="use sudo") from None
        except (OSError, ValueError, RecursionError):
            return None

    def save(self, state: Remembered) -> None:
        """Write the state.

        Raises:
            OSError: when it cannot be written.
        """
        write_atomically(self.path, encode(state))
