"""One thread that writes reports into the register, so that any number of cars costs one write lock.

Whatever has arrived while a transaction was being written goes into the next one together (group commit). The event
loop waits for the answer without blocking, and a full queue refuses at once instead of growing. Must not import
FastAPI.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from fleven.server.errors import ServerError, StoreError
from fleven.server.nodes.ingest import Arrival
from fleven.server.nodes.receipts import Receipt
from fleven.server.nodes.registry import NodeRegistry

logger = logging.getLogger("fleven.server.report_writer")

MAXIMUM_WAITING_BYTES = 64_000_000
"""Unpacked bodies that may wait to be written; a healthy server holds a few thousand."""
REPORTS_PER_TRANSACTION = 200
TRANSACTION_SECONDS = 0.25
"""After this time a transaction takes no further batch: the scheduler writes to the same register."""
GATHER_SECONDS = 0.01
"""A report waits this long for others to share its transaction: halves the commits of a large fleet."""
SLOW_SECONDS = 1.0
"""A transaction that takes longer means a disk that cannot keep up: worth a line in the journal."""
STOP_SECONDS = 10.0


class ReportsBusyError(ServerError):
    """More reports wait to be written than the server may hold."""

    code = "reports-busy"
    exit_code = 75


@dataclass(slots=True)
class _Waiting:
    arrival: Arrival
    size_bytes: int
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Receipt]


class ReportWriter:
    """The queue between the event loop and the register."""

    def __init__(self, register: NodeRegistry, *, maximum_waiting_bytes: int = MAXIMUM_WAITING_BYTES) -> None:
        self._register = register
        self._maximum_waiting_bytes = maximum_waiting_bytes
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="report-writer", daemon=True)
        self.written = 0
        """Reports written since the start."""

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, then end."""
        self._queue.put(None)
        self._thread.join(STOP_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    async def store(self, arrival: Arrival, size_bytes: int) -> Receipt:
        """Hand over a batch and wait until it is on the disk.

        Raises ReportsBusyError when too much waits already, StoreError when the register cannot be written.
        """
        with self._lock:
            if self._waiting_bytes + size_bytes > self._maximum_waiting_bytes:
                raise ReportsBusyError("too many reports wait to be written", hint="the node sends it again by itself")
            self._waiting_bytes += size_bytes
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Receipt] = loop.create_future()
        self._queue.put(_Waiting(arrival, size_bytes, loop, answer))
        return await answer

    def _run(self) -> None:
        stopping = False
        while not stopping and (first := self._queue.get()) is not None:
            batch = [first]
            count = len(first.arrival.reports)
            gather_until = time.monotonic() + GATHER_SECONDS
            while count < REPORTS_PER_TRANSACTION:
                try:
                    following = self._queue.get(timeout=max(0.0, gather_until - time.monotonic()))
                except queue.Empty:
                    break
                if following is None:
                    stopping = True
                    break
                batch.append(following)
                count += len(following.arrival.reports)
            self._write(batch)

    def _write(self, batch: Sequence[_Waiting]) -> None:
        """Write a batch, in several transactions when one would hold the write lock for too long."""
        while batch:
            began = time.monotonic()
            try:
                receipts = self._register.store_reports([waiting.arrival for waiting in batch], TRANSACTION_SECONDS)
            except StoreError as error:
                for waiting in batch:
                    self._finish(waiting, error)
                return
            except Exception as error:
                if len(batch) > 1:
                    # One report that reveals a defect must not cost the others their answer.
                    for waiting in batch:
                        self._write([waiting])
                    return
                logger.exception("event=report-not-stored")
                failed = StoreError(f"the report could not be stored: {error}", code="report-not-stored")
                self._finish(batch[0], failed)
                return
            if (seconds := time.monotonic() - began) > SLOW_SECONDS:
                logger.warning("event=slow-write seconds=%.1f batches=%d", seconds, len(receipts))
            # The register stops early when time is up: the rest goes into the next transaction.
            for waiting, receipt in zip(batch, receipts, strict=False):
                self.written += len(waiting.arrival.reports)
                self._finish(waiting, receipt)
            batch = batch[len(receipts) :]

    def _finish(self, waiting: _Waiting, outcome: Receipt | ServerError) -> None:
        with self._lock:
            self._waiting_bytes -= waiting.size_bytes

        def settle() -> None:
            # The client may have gone away and cancelled the wait.
            if waiting.answer.done():
                return
            if isinstance(outcome, ServerError):
                waiting.answer.set_exception(outcome)
            else:
                waiting.answer.set_result(outcome)

        try:
            waiting.loop.call_soon_threadsafe(settle)
        except RuntimeError:
            logger.debug("event=answer-lost reason=loop-closed")
