"""Which tasks the warm process has forked, and how they ended; written to the status file that the agent reads.

The cell has a row of its own (``common.cell.server``): it runs as another user and loads nothing of ``warm``. Imports
the standard library only.
"""

import os
import socket
import time
from collections import deque
from dataclasses import asdict, dataclass

RECENT_TASKS = 16


@dataclass(slots=True)
class TaskRow:
    """One task, with the fields of ``manager.WarmTask``."""

    process_id: int
    launcher_process_id: int
    started_at: float
    ended_at: float | None = None
    exit_status: int | None = None
    cpu_seconds: float | None = None
    peak_rss_bytes: int | None = None


class TaskTable:
    """The running tasks with the connections to their launchers, and the latest ended ones."""

    def __init__(self) -> None:
        self.count = 0
        self.connections: dict[int, socket.socket] = {}
        self._running: dict[int, TaskRow] = {}
        self._recent: deque[TaskRow] = deque(maxlen=RECENT_TASKS)

    def begin(self, process_id: int, launcher_process_id: int, connection: socket.socket) -> None:
        """Note a forked task."""
        self.count += 1
        self.connections[process_id] = connection
        self._running[process_id] = TaskRow(process_id, launcher_process_id, time.time())

    def reap(self) -> bool:
        """Reap every task that has ended and tell its launcher how; returns whether there was one."""
        ended = False
        for process_id in list(self._running):
            reaped, status, usage = os.wait4(process_id, os.WNOHANG)
            if reaped == 0:
                continue
            ended = True
            row, connection = self._running.pop(process_id), self.connections.pop(process_id)
            row.exit_status = os.waitstatus_to_exitcode(status)
            row.ended_at = time.time()
            row.cpu_seconds = round(usage.ru_utime + usage.ru_stime, 4)
            row.peak_rss_bytes = usage.ru_maxrss * 1024
            self._recent.append(row)
            try:
                connection.send(f"ended {row.exit_status}\n".encode())
            except OSError:
                pass  # the launcher was killed; the task followed it
            finally:
                connection.close()
        return ended

    def rows(self) -> list[dict[str, object]]:
        """Return the latest ended tasks and then the running ones."""
        return [asdict(row) for row in (*self._recent, *self._running.values())]
