"""What a launcher asks of the warm process: who asks, for which task, and whether a fork of this process can be it.

Whatever is wrong raises ``Refused`` or ``OSError``; the launcher then starts the task cold. Imports the standard
library only. The launcher writes the same fields by hand, since it must start fast.
"""

import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from fleven_agent.warm.preload import app_modules, thread_count
from fleven_agent.warm.programs import interpreter_of, is_python_program
from fleven_agent.warm.settings import Fallback

MAXIMUM_BYTES = 16 * (1 << 20)  # more than Linux takes as arguments and environment together (a quarter of the stack)
# Variables that are read when a library is loaded or Python starts, so that setting them after a fork comes too late.
READ_AT_START = (
    "FLWR_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "BLIS_",
    "NUMEXPR_",
    "NPY_",
    "TORCH",
    "PYTORCH",
    "ATEN_",
    "CUDA_",
    "GRPC_",
    "PYTHON",
    "LD_",
    "MALLOC_",
    "GLIBC_TUNABLES",
    "ARROW_",
    "JE_ARROW_",
    "LANG",
    "LC_",
    "HOME",
    "VIRTUAL_ENV",
)


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


def differing_variables(wanted: Mapping[str, str], at_start: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the variables read at start whose value in ``wanted`` this process never had.

    Two values count as equal: the one at start, and the one that an imported module has set since, for a
    new process would import that module too (Flower sets GRPC_VERBOSITY so).
    """
    names = {name for name in (*wanted, *at_start, *now) if name.startswith(READ_AT_START)}
    return sorted(name for name in names if wanted.get(name) not in (at_start.get(name), now.get(name)))


log = logging.getLogger(__name__)
READ_SECONDS = 2.0
DESCRIPTORS = 4  # standard input, output and error, and the lifeline
UCRED = struct.Struct("iII")  # process id, user id, group id (unix(7))


class Refused(Exception):  # noqa: N818 - not an error: the launcher starts the task cold
    """The task is not for this process."""

    def __init__(self, reason: Fallback) -> None:
        super().__init__(reason.value)
        self.reason = reason


def peer_process_id(connection: socket.socket) -> int:
    """Return the process id of the other side, which must run as this user or as root."""
    process_id, user_id, _ = UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    if user_id not in (0, os.getuid()):
        raise Refused(Fallback.FOREIGN)
    return int(process_id)


def receive(connection: socket.socket, descriptors: list[int]) -> Request:
    """Read one request; the passed descriptors go into ``descriptors``, so that they can be closed whatever comes."""
    connection.settimeout(READ_SECONDS)
    data, passed, _, _ = socket.recv_fds(connection, 1 << 16, DESCRIPTORS)
    descriptors += passed
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 or len(passed) != DESCRIPTORS or length > MAXIMUM_BYTES:
        raise Refused(Fallback.ERROR)
    chunks = [data[4:]]
    missing = length - len(chunks[0])
    while missing > 0:
        chunk = connection.recv(min(missing, 1 << 16))
        if not chunk:
            raise Refused(Fallback.ENDED)
        chunks.append(chunk)
        missing -= len(chunk)
    try:
        return parse_request(b"".join(chunks))
    except RequestError as error:
        log.warning("warm=request-invalid error=%r", str(error))
        raise Refused(Fallback.ERROR) from None


def check(
    request: Request, environment_at_start: Mapping[str, str], processors: set[int], interpreter_flags: str
) -> None:
    """Raise ``Refused`` unless a fork of this process, now, can be what ``request`` asks for."""
    differing = differing_variables(request.environment, environment_at_start, os.environ)
    if set(request.processors) != processors:
        differing.append("processors")
    if not is_python_program(request.program, sys.prefix) or interpreter_of(request.program)[1] != interpreter_flags:
        differing.append("interpreter")
    if differing:
        log.info("warm=differs in=%s", ",".join(differing))
        raise Refused(Fallback.ENVIRONMENT)
    if thread_count() != 1 or threading.active_count() != 1:
        raise Refused(Fallback.THREADS)
    if app_modules(list(sys.modules)):
        raise Refused(Fallback.MODULES)
