"""A task as its stand-in saw its own process, read from the stand-in's connection. Standard library only."""

import os
import socket
from dataclasses import dataclass

MAXIMUM_BYTES = 16 * (1 << 20)  # more than Linux takes as arguments and environment together (a quarter of the stack)
READ_SECONDS = 2.0


class RequestError(ValueError):
    """The bytes are not a request."""


@dataclass(frozen=True, slots=True)
class Request:
    """One task as the launcher saw its own process."""

    program: str
    """Path of Flower's own ``flwr-clientapp``, which the task runs."""
    folder: str
    umask: int
    ignored_signals: tuple[int, ...]
    blocked_signals: tuple[int, ...]
    processors: tuple[int, ...]
    niceness: int
    limits: tuple[tuple[int, int], ...]
    """Soft and hard limit of each resource, by its number."""
    arguments: tuple[str, ...]
    environment: dict[str, str]


def parse_request(body: bytes) -> Request:
    """Return the request in ``body`` (NUL-separated fields); raises ``RequestError``."""
    fields = [os.fsdecode(field) for field in body.split(b"\0")]
    try:
        program, folder, umask, ignored, blocked, processors, niceness, limits, count = fields[:9]
        numbers = [int(number) for number in limits.split()]
        split = 9 + int(count)
        pairs = [field.partition("=") for field in fields[split:]]
        request = Request(
            program=program,
            folder=folder,
            umask=int(umask),
            ignored_signals=tuple(int(number) for number in ignored.split()),
            blocked_signals=tuple(int(number) for number in blocked.split()),
            processors=tuple(int(number) for number in processors.split()),
            niceness=int(niceness),
            limits=tuple(zip(numbers[::2], numbers[1::2], strict=True)),
            arguments=tuple(fields[9:split]),
            environment={name: value for name, sign, value in pairs if sign},
        )
    except ValueError as error:
        raise RequestError(str(error)) from error
    if len(request.arguments) != split - 9:
        raise RequestError(f"{split - 9} arguments promised, {len(request.arguments)} sent")
    return request


def body_of(request: Request) -> bytes:
    """Return the bytes that ``parse_request`` understands."""
    facts = [
        request.program,
        request.folder,
        request.umask,
        " ".join(str(number) for number in request.ignored_signals),
        " ".join(str(number) for number in request.blocked_signals),
        " ".join(str(number) for number in request.processors),
        request.niceness,
        " ".join(str(value) for pair in request.limits for value in pair),
        len(request.arguments),
    ]
    fields = [*(str(fact) for fact in facts), *request.arguments]
    fields += [f"{name}={value}" for name, value in request.environment.items()]
    return b"\0".join(os.fsencode(field) for field in fields)


def receive(connection: socket.socket, descriptors: list[int], count: int) -> Request:
    """Read one request; the passed descriptors go into ``descriptors``, so that they can be closed whatever comes.

    Raises:
        RequestError: it is none.
        EOFError: the other side went away in the middle of it.
        OSError: it did not come in time.
    """
    connection.settimeout(READ_SECONDS)
    data, passed, _, _ = socket.recv_fds(connection, 1 << 16, count)
    descriptors += passed
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 or len(passed) != count or length > MAXIMUM_BYTES:
        raise RequestError(f"{len(data)} bytes with {len(passed)} descriptors")
    chunks = [data[4:]]
    missing = length - len(chunks[0])
    while missing > 0:
        chunk = connection.recv(min(missing, 1 << 16))
        if not chunk:
            raise EOFError
        chunks.append(chunk)
        missing -= len(chunk)
    return parse_request(b"".join(chunks))
