"""The agent's side of the cell: a ``WarmServer`` whose tasks and warmth live in the unit ``fleven-task.service``.

The agent cannot start that unit and need not: systemd does when somebody connects. Over one connection the agent says
what is to be imported, and hears which tasks there are. Without the cell no task runs, and ``problem`` says why; the
agent then closes a gate. Standard library only, and light.
"""

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fleven_agent.common.cell.output import VARIABLE
from fleven_agent.warm.manager import WarmServer, WarmTask
from fleven_agent.warm.module_record import ModuleRecord
from fleven_agent.warm.programs import CLIENTAPP, PROGRAMS, SUPEREXEC
from fleven_agent.warm.settings import WarmReason, WarmSettings, WarmState

log = logging.getLogger(__name__)

DEFAULT_SOCKET = Path("/run/fleven-task/cell.sock")
RETRY_SECONDS = 5.0
START_SECONDS = 5.0
MISSING_SECONDS = 20.0
"""How long the cell may be away before the car stops training."""
MAXIMUM_LINE_BYTES = 4 << 20


class CellServer(WarmServer):
    """The cell as the agent sees it.

    Args:
        socket_path: where systemd listens for it.
        settings, state_directory, runtime_directory, total_memory_bytes, clock: as of ``WarmServer``.
    """

    def __init__(
        self,
        settings: WarmSettings,
        *,
        socket_path: Path,
        state_directory: Path,
        runtime_directory: Path,
        total_memory_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            settings,
            state_directory=state_directory,
            runtime_directory=runtime_directory,
            total_memory_bytes=total_memory_bytes,
            clock=clock,
        )
        self.cell_socket = self._socket_path = socket_path
        self._connection: socket.socket | None = None
        self._bytes = b""
        self._latest: dict[str, Any] = {}
        self._tasks_before = 0
        self._cold_before: dict[str, int] = {}
        self._cold_seen = 0
        self._learned_seen = 0
        self._tried_at = float("-inf")
        self._there_at = float("-inf")
        self._greeted = False
        self._unusable = ""
        self._asked_warm: bool | None = None
        """What this cell's process was asked for last; None while it may be as an agent before this one had it."""
        self._record = ModuleRecord(state_directory / "warm" / "modules.json")

    def problem(self) -> str:
        """Return why no task can run; empty when the cell is there."""
        if self._connection is None and self._clock() - self._tried_at >= RETRY_SECONDS:
            self._connect()
        else:
            self._listen()
        if self._connection is not None and self._latest:
            self._there_at = self._clock()
        elif self._clock() - self._there_at < MISSING_SECONDS:
            return ""  # systemd starts it again, and tasks wait for it
        elif self._connection is not None:
            return "it does not answer; see journalctl -u fleven-task"
        return self._unusable or str(self._latest.get("problem", ""))

    def tick(self, *, wanted: bool) -> None:
        """Hear what the cell tells, and have it warm while tasks may come. Never blocks."""
        if self.problem() or self._connection is None:
            return
        cold = sum(self._latest.get("cold", {}).values())
        self._demanded = self._demanded or cold > self._cold_seen
        self._cold_seen = cold
        if not self.decision.enabled or (self._asked_warm and not wanted):
            self._ask(warm=False)  # also a cell that was warm before the configuration was another
        elif wanted and self._demanded and self._environment is not None:
            self._demanded = False
            self._ask(warm=True)

    def expect_task(self) -> None:
        """Have the cell import again what tasks need, if it has cooled."""
        self._demanded = self._demanded or not self._asked_warm

    def stop(self, grace_seconds: float = 5.0) -> None:
        """Have the cell give its memory back."""
        self._demanded = True
        self._ask(warm=False)

    def close(self) -> None:
        """Leave the cell to itself; it ends when nobody else comes."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def status(self) -> dict[str, str | int | float | bool | None]:
        """Return the same table as without a cell."""
        told = {**self._latest, "tasks": (self._latest.get("tasks") or 0) + self._tasks_before}
        table = {**super().status(), "process_id": self._latest.get("process_id")}
        cold = self._cold_counts()
        table["tasks_warm"] = told["tasks"]
        table["tasks_cold"] = sum(cold.values())
        table["last_cold_reason"] = next(reversed(cold), None) if cold else None
        return table

    def process_ids(self) -> list[int]:
        """Return the cell's process and its task: none of them is a descendant of SuperNode."""
        if self._connection is None or not isinstance(self._latest.get("process_id"), int):
            return []
        return [self._latest["process_id"], *(task.process_id for task in self.tasks() if task.ended_at is None)]

    # -- inner

    def _programs(self) -> tuple[str, ...]:
        return PROGRAMS if self.settings.short_polling else (CLIENTAPP, SUPEREXEC)

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return SuperNode's environment; where ``unplaced`` then says why, SuperNode must not start with it."""
        self.unplaced = ""
        return {**super().environment(base), VARIABLE: "1"}

    def _give_up(self, reason: WarmReason, message: str) -> None:
        super()._give_up(reason, message)
        self.unplaced = f"the programs that hand tasks over cannot be placed: {message}"

    def _connect(self) -> None:
        self._tried_at = self._clock()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(1.0)
        try:
            connection.connect(str(self._socket_path))
            connection.sendall(b"A")
        except OSError as error:
            connection.close()
            self._unusable = f"{self._socket_path}: {error.strerror or error}"
            return
        self._connection, self._bytes, self._unusable = connection, b"", ""
        self._remember_counts()
        if not self._greeted:
            # When the agent starts it waits for the cell's first word: SuperNode would be held back for one more cycle.
            self._greeted = True
            with contextlib.suppress(OSError):
                connection.settimeout(START_SECONDS)
                self._bytes = connection.recv(1 << 16)
        connection.setblocking(False)
        self._listen()
        self._asked_warm, self._demanded = None, True
        log.info("cell=connected")

    def _remember_counts(self) -> None:
        """Keep the counts of a cell's process that has gone; the next begins with none."""
        self._tasks_before += int(self._latest.get("tasks") or 0)
        self._cold_before = self._cold_counts()
        self._latest = {}
        self._cold_seen = self._learned_seen = 0

    def _cold_counts(self) -> dict[str, int]:
        counts = dict(self._cold_before)
        for reason, count in self._latest.get("cold", {}).items():
            counts[reason] = counts.pop(reason, 0) + count
        return counts

    def _listen(self) -> None:
        if self._connection is None:
            return
        try:
            while data := self._connection.recv(1 << 16):
                self._bytes += data
                if len(self._bytes) > MAXIMUM_LINE_BYTES:
                    break
        except BlockingIOError:
            self._understand()
            return
        except OSError:
            pass
        self._understand()
        self._connection.close()
        self._connection = None
        self._tried_at = float("-inf")  # systemd starts it again at once
        self._reason = WarmReason.CRASHED
        self._crashes += 1
        log.warning("cell=gone")

    def _understand(self) -> None:
        *lines, self._bytes = self._bytes.split(b"\n")
        for line in lines:
            told = json.loads(line)
            # It starts itself again, with the same process id, to change what it has imported.
            if _counted(told) < _counted(self._latest):
                self._remember_counts()
            self._latest = told
            if (left := told.get("left")) in set(WarmReason):
                self._reason = WarmReason(left)
                self._asked_warm = False
            elif told.get("ready"):
                self._reason = WarmReason.ENABLED
        if lines:
            self._keep_record()

    def _keep_record(self) -> None:
        learned = [str(name) for name in self._latest.get("learned", [])]
        left_out = {str(name): str(why) for name, why in self._latest.get("left_out", {}).items()}
        with contextlib.suppress(OSError):
            known, before = self._record.read()
            if left_out.items() - before.items():
                self._record.write([name for name in known if name not in left_out], {**before, **left_out})
            if len(learned) > self._learned_seen:
                self._learned_seen = len(learned)
                self._record.add(learned)

    def _ask(self, *, warm: bool) -> None:
        if self._connection is None or warm == self._asked_warm:
            return
        learned, left_out = self._record.read()
        options = {
            "modules": list(self.settings.modules),
            "learned": learned,
            "left_out": left_out,
            "maximum_memory_bytes": self.settings.maximum_memory_bytes,
            "minimum_available_bytes": self.settings.minimum_available_bytes,
            "idle_seconds": self.settings.idle_seconds,
            "short_polling": self.settings.short_polling,
            "interpreter_flags": self._interpreter_flags,
        }
        asked = {"warm": options if warm else None, "environment": self._environment or {}}
        try:
            # A configuration is a few kilobytes, and the connection's buffer holds far more.
            self._connection.send(json.dumps(asked).encode() + b"\n")
        except OSError:
            return
        self._asked_warm = warm
        if warm:
            self._starts += 1

    def _current_state(self, told: Mapping[str, object]) -> WarmState:
        if not self.decision.enabled:
            return WarmState.OFF
        if self._latest.get("ready"):
            return WarmState.READY
        return WarmState.WARMING if self._asked_warm else WarmState.ABSENT

    def _told(self) -> dict[str, object]:
        return self._latest

    def tasks(self) -> list[WarmTask]:
        """Return the running and the most recent finished tasks, oldest first."""
        self._listen()  # a task is short, and its cost is asked for when its stand-in has just ended
        rows = self._latest.get("recent_tasks")
        kept = set(WarmTask.__dataclass_fields__)
        return [
            WarmTask(**{name: value for name, value in row.items() if name in kept})
            for row in (rows if isinstance(rows, list) else [])
        ]


def _counted(told: Mapping[str, Any]) -> int:
    return int(told.get("tasks") or 0) + sum(int(count) for count in told.get("cold", {}).values())


def default_socket() -> Path:
    """Return where the cell of this machine is reached (FLEVEN_CELL_SOCKET)."""
    return Path(os.environ.get("FLEVEN_CELL_SOCKET", DEFAULT_SOCKET))
