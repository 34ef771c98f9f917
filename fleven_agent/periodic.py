"""Slow work on threads of its own: each job runs again and again and hands its result to the deciding loop.

A job that blocks (a dead disk, a network that swallows packets) holds up only itself; the loop sees the last result.
Imports nothing of the agent but the journal.
"""

import socket
import threading
import time
from collections.abc import Callable

from fleven_agent.addresses import split
from fleven_agent.journal import LOGGER, event


class Periodic:
    """One job on one thread.

    Args:
        name: of the thread.
        job: does one piece of work.
        interval_seconds: between the end of one and the start of the next; may be changed while it runs.
    """

    def __init__(self, name: str, job: Callable[[], None], interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds
        self._job = job
        self._wanted = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; the job runs at once."""
        self._thread.start()

    def hurry(self) -> None:
        """Run the job now instead of at its time."""
        self._wanted.set()

    def stop(self) -> None:
        """Let the thread end after its present piece of work. Does not wait for it."""
        self._stopping = True
        self._wanted.set()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._job()
            except Exception:  # one bad round of a job must not end all later ones
                LOGGER.exception(event("job failed", job=self._thread.name), extra={"repeats": True})
            self._wanted.wait(self.interval_seconds)
            self._wanted.clear()


def connect_problem(address: str, timeout_seconds: float = 5.0) -> str:
    """Try a TCP connection to ``HOST:PORT``; return why it failed, or an empty text."""
    host, port = split(address)
    try:
        with socket.create_connection((host, port), timeout=timeout_seconds):
            return ""
    except socket.gaierror as error:
        return f"the name {host} cannot be resolved ({error.strerror})"
    except TimeoutError:
        return f"no answer within {timeout_seconds:g} s"
    except OSError as error:
        return (error.strerror or str(error)).lower()


class Probe:
    """Whether the SuperLink's port takes connections. Unreachable only after two tries in a row."""

    def __init__(self, address: str, connect: Callable[[str], str] = connect_problem) -> None:
        self.address = address
        self.problem = ""
        self._connect = connect
        self._failures = 0
        self.checked_at = float("-inf")

    def run(self) -> None:
        """Try once."""
        problem = self._connect(self.address)
        self._failures = self._failures + 1 if problem else 0
        self.problem = problem if self._failures >= 2 else ""
        self.checked_at = time.monotonic()
