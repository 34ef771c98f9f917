"""Slow work on threads of its own: each job runs again and again and hands its result to the deciding loop.

A job that blocks (a dead disk, a network that swallows packets) holds up only itself; the loop sees the last result.
Imports nothing of the agent but the log.
"""

import threading
from collections.abc import Callable

from fleven_agent.system.log import LOGGER, event


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
