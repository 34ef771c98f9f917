"""Reading a request's body without trusting it: its length, its speed, its compression. Raises coded errors only.

What unpacking may cost is bounded too: the scheduler lives in the same process.
"""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from fleven.server.errors import ServerError

BODY_SECONDS = 20.0
"""A car on a bad mobile link sends a megabyte in this time at 50 kB/s; a slower one sends smaller batches."""
INLINE_BYTES = 64_000
"""Bodies up to this size are unpacked in the event loop (under a millisecond), larger ones on a thread."""


class RequestError(ServerError):
    """A request that the server refuses; `status` is the HTTP status."""

    def __init__(self, status: int, code: str, message: str, *, hint: str = "", retry_seconds: float = 0.0) -> None:
        super().__init__(message, hint=hint, code=code)
        self.status = status
        self.retry_seconds = retry_seconds


async def read_body(request: Request, *, limit_bytes: int, unpacked_limit_bytes: int) -> bytes:
    """The unpacked body of a request.

    Raises:
        RequestError: 408 too slow, 413 too large, 415 compressed with something other than gzip, 400 damaged.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("gzip", "identity", ""):
        raise RequestError(415, "encoding-unsupported", f"content-encoding {encoding[:40]} is not known", hint="gzip")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise too_large(limit_bytes, unpacked=False)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            packed = await _receive(request, limit_bytes)
    except TimeoutError:
        raise RequestError(408, "body-too-slow", f"the body took longer than {BODY_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise RequestError(400, "body-incomplete", "the client went away while sending") from None
    if encoding != "gzip":
        return packed
    try:
        if len(packed) <= INLINE_BYTES:
            return unpack_gzip(packed, unpacked_limit_bytes)
        return await asyncio.to_thread(unpack_gzip, packed, unpacked_limit_bytes)
    except BodyTooLargeError as error:
        raise too_large(error.limit_bytes, unpacked=True) from error
    except BodyMalformedError as error:
        raise RequestError(400, "body-malformed", str(error)) from error


async def _receive(request: Request, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes:
            raise too_large(limit_bytes, unpacked=False)
        chunks.append(chunk)
    return b"".join(chunks)


def too_large(limit_bytes: int, *, unpacked: bool) -> RequestError:
    """The error for a body that passes its limit."""
    key = "maximum-unpacked-report-bytes" if unpacked else "maximum-report-bytes"
    kind = "unpacked body" if unpacked else "body"
    message = f"the {kind} is larger than {limit_bytes} bytes"
    return RequestError(413, "body-too-large", message, hint=f"send fewer reports at once, or raise web.{key}")


GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
"""Tells zlib to expect gzip's header and trailer (zlib manual, inflateInit2)."""


class BodyTooLargeError(ValueError):
    """The body passes `limit_bytes`, compressed or not."""

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
