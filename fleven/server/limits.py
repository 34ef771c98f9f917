"""Bounds on what a client of the fleet API may cost: bytes read, bytes unpacked, requests a second.

They exist so that a slow or hostile client can not stall the scheduler, which lives in the same process.
All of it is plain arithmetic over an injected clock. Must not import FastAPI, SQLAlchemy or anything of the register.
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
"""Tells zlib to expect gzip's header and trailer (zlib manual, inflateInit2)."""


class BodyTooLargeError(ValueError):
    """The body passes `limit_bytes`, packed or unpacked."""

    def __init__(self, limit_bytes: int, *, unpacked: bool) -> None:
        self.limit_bytes = limit_bytes
        self.unpacked = unpacked
        kind = "unpacked body" if unpacked else "body"
        super().__init__(f"the {kind} is larger than {limit_bytes} bytes")


class BodyMalformedError(ValueError):
    """The body is not one complete gzip stream."""


def unpack_gzip(packed: bytes, limit_bytes: int) -> bytes:
    """Unpack one gzip stream without ever holding more than `limit_bytes` of its content.

    Raises BodyTooLargeError for a stream that unpacks to more, BodyMalformedError for one that is damaged, cut short,
    or followed by other bytes.
    """
    unpacker = zlib.decompressobj(GZIP_WINDOW_BITS)
    try:
        content = unpacker.decompress(packed, limit_bytes + 1)
    except zlib.error as error:
        raise BodyMalformedError(f"the body is not gzip: {error}") from error
    if len(content) > limit_bytes:
        raise BodyTooLargeError(limit_bytes, unpacked=True)
    if not unpacker.eof:
        raise BodyMalformedError("the gzip body ends too early")
    if unpacker.unused_data:
        raise BodyMalformedError("bytes follow the gzip body")
    return content


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class RateLimiter:
    """A token bucket for each key (a sender id, a peer's address), with a bounded memory of keys.

    `per_second` tokens flow in up to `burst`; each request takes one. The key used longest ago is forgotten first,
    which can only be to the advantage of a client. Not safe for use from several threads: the event loop owns it.
    """

    def __init__(
        self, *, per_second: float, burst: int, monotonic: Callable[[], float], maximum_keys: int = 20_000
    ) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._monotonic = monotonic
        self._maximum_keys = maximum_keys
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_seconds(self, key: str) -> float:
        """Take one token of `key`: 0.0 when there was one, else the seconds until there will be."""
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
            bucket.tokens -= 1.0
            return 0.0
        return (1.0 - bucket.tokens) / self._per_second
