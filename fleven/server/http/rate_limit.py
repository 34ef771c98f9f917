"""Bounds on how many requests a client of the fleet API may send, so that none can stall the scheduler.

Plain arithmetic over an injected clock. Must not import SQLAlchemy or anything of the register.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from fleven.server.http.request_body import RequestError


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class RateLimiter:
    """A token bucket for each key (a sender id, a peer's address), with a bounded memory of keys.

    `per_second` tokens flow in up to `burst`; a request takes one, or its bytes. The key used longest ago is forgotten
    first, which can only be to the advantage of a client. Not for use from several threads: the event loop owns it.
    """

    def __init__(
        self, *, per_second: float, burst: int, monotonic: Callable[[], float], maximum_keys: int = 20_000
    ) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._monotonic = monotonic
        self._maximum_keys = maximum_keys
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_seconds(self, key: str, amount: float = 1.0) -> float:
        """Take `amount` tokens of `key`: 0.0 when there was one at least, else the seconds until there will be.

        What is taken beyond those that are there is a debt, which the next request waits for.
        """
        now = self._monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._burst, now)
            if len(self._buckets) > self._maximum_keys:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
            elapsed_seconds = max(0.0, now - bucket.filled_at)
            bucket.tokens = min(self._burst, bucket.tokens + elapsed_seconds * self._per_second)
            bucket.filled_at = now
        if bucket.tokens >= 1.0:
            bucket.tokens -= amount
            return 0.0
        return (1.0 - bucket.tokens) / self._per_second


def limit(wait_seconds: float, who: str, what: str = "too many requests") -> None:
    """Refuse with 429 when there is something to wait for."""
    if wait_seconds > 0:
        message = f"{who} sends {what}"
        raise RequestError(429, "rate-limited", message, retry_seconds=wait_seconds)
