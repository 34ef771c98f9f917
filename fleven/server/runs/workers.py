"""Slow calls on worker threads, their results back in the loop. Imports nothing that decides."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fleven.server.errors import ServerError

logger = logging.getLogger("fleven.server.scheduler")


class Kind(StrEnum):
    """What a worker was asked to do."""

    NODES = "nodes"
    SUBMIT = "submit"
    LOOK = "look"
    STOP = "stop"
    CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class Posted:
    """What a worker found out; handled by the loop at its next turn."""

    kind: Kind
    run_id: int | None = None
    value: Any = None
    error: ServerError | None = None


class Workers:
    """Hands work to threads and collects their results.

    Attributes:
        wake: set when something was posted.
    """

    def __init__(self, executor: Executor) -> None:
        self.wake = threading.Event()
        self._executor = executor
        self._posted: queue.SimpleQueue[Posted] = queue.SimpleQueue()

    def begin(self, kind: Kind, work: Callable[[], Any], run_id: int | None = None) -> None:
        """Let a thread do some work and post its result, or its error."""

        def job() -> None:
            try:
                posted = Posted(kind, run_id, value=work())
            except ServerError as error:
                posted = Posted(kind, run_id, error=error)
            except Exception as error:
                # A defect in a worker must not leave a run marked as busy for ever.
                logger.exception("event=worker-failed kind=%s run=%s", kind, run_id)
                posted = Posted(kind, run_id, error=ServerError(f"internal error: {error}", code="internal"))
            self._posted.put(posted)
            self.wake.set()

        self._executor.submit(job)

    def results(self) -> Iterator[Posted]:
        """Yield what was posted so far."""
        while not self._posted.empty():
            yield self._posted.get()
