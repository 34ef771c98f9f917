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

from fleven_agent.common.cell import request as common
from fleven_agent.common.cell.request import Request, RequestError
from fleven_agent.warm.preload import app_modules, thread_count
from fleven_agent.warm.programs import interpreter_of, is_python_program
from fleven_agent.warm.settings import Fallback

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


def differing_variables(wanted: Mapping[str, str], at_start: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the variables read at start whose value in ``wanted`` this process never had.

    Two values count as equal: the one at start, and the one that an imported module has set since, for a
    new process would import that module too (Flower sets GRPC_VERBOSITY so).
    """
    names = {name for name in (*wanted, *at_start, *now) if name.startswith(READ_AT_START)}
    return sorted(name for name in names if wanted.get(name) not in (at_start.get(name), now.get(name)))


log = logging.getLogger(__name__)
DESCRIPTORS = 4  # standard input, output and error, and the lifeline
UCRED = struct.Struct("iII")  # process id, user id, group id (unix(7))


_not_of_an_app: set[str] = set()
"""Modules that were looked at before: this process never runs what would put another one in their place."""


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
    try:
        return common.receive(connection, descriptors, DESCRIPTORS)
    except RequestError as error:
        log.warning("warm=request-invalid error=%r", str(error))
        raise Refused(Fallback.ERROR) from None
    except EOFError:
        raise Refused(Fallback.ENDED) from None


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
    new = sys.modules.keys() - _not_of_an_app
    if app_modules(new):
        raise Refused(Fallback.MODULES)
    _not_of_an_app.update(new)
