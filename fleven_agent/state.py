"""What outlasts a restart: the state folder, held by one agent at a time, and the small file of state in it.

The file is typed, versioned, and either whole or not there. One that cannot be used is set aside and the agent starts
with a fresh state: it never refuses to start because of it. While the agent runs, changes are collected and written
once a cycle. Imports the log, the errors and the common files only.
"""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fleven_agent.common.files import write_atomically
from fleven_agent.errors import AlreadyRunningError, StateError
from fleven_agent.protocol.codes import MAXIMUM_TEXT_CHARACTERS
from fleven_agent.protocol.identity import MAXIMUM_SEQUENCE_STEP
from fleven_agent.system.log import LOGGER, event

VERSION = 1
FILE_NAME = "state.json"
SEQUENCE_BLOCK = 1_000
"""Sequence numbers are reserved in blocks, so that the state is not written for every report."""
MAXIMUM_PREVIOUS_NODES = 50
TRAFFIC_WRITTEN_BYTES = 1_000_000
"""A power cut forgets at most so much of what was counted."""


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
    traffic_day: str = ""
    """Day of the counted bytes, ISO 8601."""
    traffic_day_bytes: int = 0
    traffic_month_bytes: int = 0
    supernode_pid: int | None = None
    supernode_start_ticks: int = 0
    boot_id: str = ""
    board_serial: str = ""
    """Serial number of the board that wrote it: a card copied for another board must not report as the first."""
    last_status: dict[str, Any] = field(default_factory=dict)
    """What `status` shows when no agent runs."""


def fresh() -> Remembered:
    """Return the state of a node that was never seen: with a new sender id."""
    return Remembered(sender_id=os.urandom(8).hex())


def decode(text: bytes) -> Remembered:
    """Read the content of a state file.

    Raises:
        ValueError: when this version cannot use it.
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
    "traffic_day": (str,),
    "board_serial": (str,),
    "last_status": (dict,),
}


def _checked(name: str, value: object) -> object:
    kinds = _KINDS.get(name, (int,))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{name} has the wrong type")
    if isinstance(value, int) and not isinstance(value, bool) and value < 0:
        raise ValueError(f"{name} is negative")
    if name == "previous_node_ids":
        return tuple(str(part) for part in value if isinstance(part, str))  # type: ignore[attr-defined]  # a list
    return value


def encode(state: Remembered) -> bytes:
    """Return the content of a state file."""
    return json.dumps({"version": VERSION, **asdict(state)}, separators=(",", ":")).encode()


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
        """Return the remembered state without touching the file; None when there is none.

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


def drained(known: Remembered) -> dict[str, Any]:
    """Return whether the node is drained, by its operator or by the server, and why."""
    reasons = [known.drain_reason if known.drained else "", known.server_reason if known.drained_by_server else ""]
    reason = "; ".join(filter(None, reasons))[:MAXIMUM_TEXT_CHARACTERS]
    return {"active": known.drained or known.drained_by_server, "reason": reason}


def make_folder(folder: Path, mode: int) -> None:
    """Make a folder with its parents.

    Raises:
        StateError: when that is not possible.
    """
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        hint = "run it as root or as a service, or set FLEVEN_STATE_DIR and FLEVEN_RUNTIME_DIR to folders of your own"
        raise StateError(f"{folder}: {error.strerror}", hint=hint) from None


def unusable_hint(error_number: int | None) -> str:
    """Say what to do about a state folder in which nothing can be written."""
    if error_number == errno.EROFS:
        return "it must be writable: mount it so when the card is read-only on purpose, else look into `dmesg`"
    if error_number in (errno.ENOSPC, errno.EDQUOT):
        return "free space, or files (inodes), on its disk"
    return "check the owner of the folder"


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
        raise StateError(f"{state_directory}: {error.strerror}", hint=unusable_hint(error.errno)) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        hint = "`fleven-agent status` shows it; each agent on a machine needs a FLEVEN_STATE_DIR of its own"
        raise AlreadyRunningError(f"another agent uses {state_directory}", hint=hint) from None
    try:
        yield
    finally:
        os.close(lock)


class AgentState:
    """Holds ``Remembered`` and the sequence of reports.

    Args:
        directory: the state folder.
        board_serial: serial number of this machine's board; None where it has none.
    """

    def __init__(self, directory: Path, board_serial: str | None = None) -> None:
        self._file = StateFile(directory)
        self.known = _of_this_board(self._file.load(warn=LOGGER.warning), board_serial)
        if self.known.drained_until_restart:
            self.known = replace(self.known, drained=False, drain_reason="", drained_until_restart=False)
        self._sequence = self.known.sequence_reserved
        self._dirty = True
        self._written_month_bytes = self.known.traffic_month_bytes
        self.problem = ""
        """Why the state cannot be written; empty when it can."""

    def change(self, **values: Any) -> None:
        """Change fields of the state; written at the end of the cycle."""
        changed = replace(self.known, **values)
        if changed != self.known:
            self.known = changed
            self._dirty = True

    def count(self, *, restarts: int = 0, tasks: int = 0, task_failures: int = 0, reports_lost: int = 0) -> None:
        """Add to the counters."""
        known = self.known
        self.change(
            restarts=known.restarts + restarts,
            tasks=known.tasks + tasks,
            task_failures=known.task_failures + task_failures,
            reports_lost=known.reports_lost + reports_lost,
        )

    def counted(self, day: str, day_bytes: int, month_bytes: int) -> None:
        """Take over what was sent and received; written with the next change, and after each megabyte.

        A count grows with every report: writing each of them would wear the card out.
        """
        self.known = replace(self.known, traffic_day=day, traffic_day_bytes=day_bytes, traffic_month_bytes=month_bytes)
        if abs(month_bytes - self._written_month_bytes) >= TRAFFIC_WRITTEN_BYTES:
            self._dirty = True

    def registered(self, node_id: str) -> str | None:
        """Note a registration; return the node id before, when it is another."""
        before = self.known.node_id
        if before == node_id:
            return None
        previous = [one for one in self.known.previous_node_ids if one not in (before, node_id)]
        previous = ([before] if before else []) + previous
        self.change(node_id=node_id, previous_node_ids=tuple(previous[:MAXIMUM_PREVIOUS_NODES]))
        return before

    def next_sequence(self) -> int:
        """Return a sequence number that was never used, whatever happened in between."""
        self._sequence += 1
        if self._sequence > self.known.sequence_reserved:
            self.change(sequence_reserved=self._sequence + SEQUENCE_BLOCK)
            self.save()
        return self._sequence

    def acknowledged(self, sequence: int) -> bool:
        """Go on from what the server has stored of ours; return whether that was ahead of us.

        Then our state is an old copy, or another board works with a copy of it.
        """
        if sequence <= self._sequence:
            return False
        if sequence - self._sequence > MAXIMUM_SEQUENCE_STEP:
            LOGGER.warning(event("the server names a number that no car reaches", ours=self._sequence, server=sequence))
            return False
        LOGGER.warning(event("the server knows later reports of this node", ours=self._sequence, server=sequence))
        self._sequence = sequence
        return True

    def save(self) -> None:
        """Write the state if it changed. A failed write is noted, not raised."""
        if not self._dirty:
            return
        try:
            self._file.save(self.known)
        except OSError as error:
            text = f"{self._file.path}: {error.strerror}"
            if text != self.problem:
                LOGGER.warning(event("state cannot be written", detail=text))
            self.problem = text
        else:
            self._dirty = False
            self._written_month_bytes = self.known.traffic_month_bytes
            self.problem = ""


def _of_this_board(found: Remembered, board_serial: str | None) -> Remembered:
    """Return the state, or a fresh one when another board has written it; drained stays drained."""
    if board_serial is None or found.board_serial == board_serial:
        return found
    if not found.board_serial:
        return replace(found, board_serial=board_serial)
    LOGGER.warning(event("the state is a copy from another board; this one begins as a new node"))
    drained = found.drained and not found.drained_until_restart
    return replace(
        fresh(), board_serial=board_serial, drained=drained, drain_reason=found.drain_reason if drained else ""
    )
