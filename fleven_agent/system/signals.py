"""What wakes the loop: signals, and threads with news. Handlers only count and wake; the loop asks what was requested.

Imports nothing of the agent.
"""

import contextlib
import os
import select
import signal
from types import FrameType


class Signals:
    """SIGTERM and SIGINT (end), SIGHUP (reload), SIGCHLD, and a pipe by which any thread wakes the loop."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Only handlers add to the first, only the loop to the others: a handler may run between any two steps of it.
        self._quits = self._terminals_closed = self._quits_taken = 0
        self._reload = False
        self._in_terminal = _terminal_is_there()

    def install(self) -> None:
        """Take the signals over from Python; called once, from the main thread."""

        def on_quit(_number: int, _frame: FrameType | None) -> None:
            self._quits += 1

        def on_reload(_number: int, _frame: FrameType | None) -> None:
            self._reload = True

        def on_child(_number: int, _frame: FrameType | None) -> None:
            return None  # only there so that the wake-up descriptor is written

        signal.signal(signal.SIGTERM, on_quit)
        signal.signal(signal.SIGINT, on_quit)
        signal.signal(signal.SIGHUP, on_reload)
        signal.signal(signal.SIGCHLD, on_child)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def wake(self) -> None:
        """Wake the loop; called from any thread."""
        with contextlib.suppress(OSError):  # a full pipe wakes the loop as well
            os.write(self._write, b"w")

    def wait(self, seconds: float) -> None:
        """Wait until something wakes the loop, at most this long."""
        readable, _, _ = select.select([self._read], [], [], max(0.0, seconds))
        if readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4_096)

    def take_reload(self) -> bool:
        """Return, once for each, whether a reload was asked for. A SIGHUP of a closing terminal asks for the end."""
        if not self._reload:
            return False
        self._reload = False
        if self._in_terminal and not _terminal_is_there():
            self._terminals_closed += 1
            return False
        return True

    def take_quit(self) -> bool:
        """Return, once for each, whether the end was asked for."""
        if self._quits_taken >= self._quits + self._terminals_closed:
            return False
        self._quits_taken += 1
        return True


def _terminal_is_there() -> bool:
    """Return whether stderr is a terminal that is still open."""
    try:
        return os.isatty(2) and os.tcgetpgrp(2) >= 0
    except OSError:
        return False
