"""Signs of life of a cell's process to systemd, which kills one that a task has stopped.

Standard library only; must not know what the process does.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator

BEAT_SECONDS = 2.0
ALIVE_SECONDS = 12.0
"""Without a sign of life for so long the process has been stopped, and systemd starts another."""
SLOW_SECONDS = 180.0


class Watchdog:
    """Tells systemd that the loop is alive: a task could stop this process, which is of its own user.

    While a task is at work systemd waits for a sign of life as long as it takes to be sure; while this process imports
    or removes files, when no task is there to stop it, as long as the slowest board may need.
    """

    def __init__(self) -> None:
        self.path = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + self.path[1:] if self.path.startswith("@") else self.path
        self._beat_at = float("-inf")

    def beat(self) -> None:
        """Send a sign of life, no more often than needed."""
        now = time.monotonic()
        if now - self._beat_at < BEAT_SECONDS:
            return
        self._beat_at = now
        self._send("WATCHDOG=1")

    def hurry(self) -> None:
        """Have systemd kill this process soon when no sign of life comes."""
        self._allow(ALIVE_SECONDS)

    def give_time(self) -> None:
        """Have systemd wait: this process is about to do something that takes long on a slow board."""
        self._allow(SLOW_SECONDS)

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """Give time to what is done within."""
        self.give_time()
        try:
            yield
        finally:
            self.hurry()

    def _allow(self, seconds: float) -> None:
        self._beat_at = time.monotonic()
        self._send(f"WATCHDOG_USEC={seconds * 1e6:.0f}\nWATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.connect(self._address)
            own.send(text.encode())
