"""Taking a task from a launcher: who it is, what it wants, and whether a fork of this process can be that task.

Whatever is wrong raises ``Refused`` or ``OSError``; the launcher then starts the task cold.
"""

import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Mapping

from fleven_agent.warm.modules import app_modules
from fleven_agent.warm.preload import thread_count
from fleven_agent.warm.reasons import Fallback
from fleven_agent.warm.request import (
    MAXIMUM_BYTES,
    Request,
    RequestError,
    differing_variables,
    parse_request,
)
from fleven_agent.warm.shebang import interpreter_of, is_python_program

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
