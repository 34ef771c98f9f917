"""Speaks to systemd (sd_notify(3)): readiness, status, watchdog, reloading, stopping. Silent without systemd."""

import os
import time
from collections.abc import Callable, Mapping

import sdnotify


class Notify:
    """Messages to the service manager.

    Args:
        environment: with NOTIFY_SOCKET and WATCHDOG_USEC when systemd wants messages.
        clock: monotonic seconds.
        send: takes one message; replaced in tests.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        send: Callable[[str], None] | None = None,
    ) -> None:
        environment = os.environ if environment is None else environment
        self._clock = clock
        self._send = send or (sdnotify.SystemdNotifier().notify if environment.get("NOTIFY_SOCKET") else _nobody)
        self._status = ""
        self._watchdog_seconds = _watchdog(environment)
        self._beat_at = float("-inf")

    @property
    def watchdog_interval_seconds(self) -> float | None:
        """How often ``watchdog`` must be called: at half of what systemd allows."""
        return self._watchdog_seconds / 2 if self._watchdog_seconds else None

    def ready(self) -> None:
        """The agent works: its configuration is valid and one cycle has run."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Show a line in `systemctl status`; sent only when it changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def watchdog(self) -> None:
        """Say that the deciding loop is alive; sent no more often than needed."""
        interval = self.watchdog_interval_seconds
        if interval is not None and self._clock() - self._beat_at >= interval / 2:
            self._beat_at = self._clock()
            self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it. systemd wants the moment to tell answers apart (Type=notify-reload)."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(self._clock() * 1e6)}")
        self._beat_at = float("-inf")  # the loop waits for the reload: the watchdog's time begins now
        self.watchdog()

    def stopping(self) -> None:
        """The agent begins to stop."""
        self._send("STOPPING=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for more time to stop, or to start, from now on."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")


def _watchdog(environment: Mapping[str, str]) -> float | None:
    try:
        microseconds = int(environment.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    pid = environment.get("WATCHDOG_PID")
    if microseconds <= 0 or (pid and pid != str(os.getpid())):
        return None
    return microseconds / 1e6


def _nobody(_message: str) -> None:
    return None
