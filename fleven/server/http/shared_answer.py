"""One answer for all who ask at the same time: what is costly to make is made once, however many read it.

Without it eight readers of `/metrics` make eight texts of megabytes at a time. It is sent in parts, each when the one
before has gone: given in one piece, what a slow reader has not taken is copied for each of them. Imports nothing of the
package.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable

SHARED_SECONDS = 1.0
"""Prometheus asks every 15 s or less often, so nobody sees an older answer than before."""
PART_BYTES = 64 * 1024


class SharedAnswer:
    """The newest answer, made again when it is too old; requests that come while one is made wait for that one.

    Args:
        make: makes the answer; called by one thread at a time.
        clock: monotonic seconds.
    """

    def __init__(self, make: Callable[[], bytes], clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        self._answer = b""
        self._made_at = float("-inf")

    def get(self) -> bytes:
        """Return an answer that is at most `SHARED_SECONDS` old; raises what `make` raises."""
        with self._lock:
            if self._clock() - self._made_at > SHARED_SECONDS:
                self._answer = self._make()
                self._made_at = self._clock()
            return self._answer


async def parts(answer: bytes) -> AsyncIterator[bytes]:
    """Yield an answer part by part."""
    for begin in range(0, len(answer), PART_BYTES):
        yield answer[begin : begin + PART_BYTES]
