"""How a task starts as a program in a cell: without what the stand-in's side of its command line and environment meant.

Standard library only; must not know who started the task, nor what becomes of it.
"""

import contextlib
import os
import resource
import signal
from collections.abc import Sequence
from typing import NoReturn

from fleven_agent.common.cell.request import Request

# Of the environment that the stand-in passes on, a task needs neither the way to the agent nor marks of its processes.
DROPPED_PREFIXES = ("FLEVEN_", "XDG_", "DBUS_", "SSH_", "SUDO_")


def without_parent(arguments: list[str]) -> list[str]:
    """Return the arguments without ``--parent-pid N``, which cannot be seen from here; the cell watches instead."""
    if "--parent-pid" not in arguments[:-1]:
        return arguments
    at = arguments.index("--parent-pid")
    return [*arguments[:at], *arguments[at + 2 :]]


def become_program(request: Request, descriptors: Sequence[int]) -> NoReturn:
    """Become the program of a task, in a forked process; raises ``OSError``."""
    os.setsid()
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    for number in range(1, signal.NSIG):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o077)
    os.chdir(request.environment["HOME"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    arguments = list(request.arguments)
    if "--token" in arguments[:-1]:
        # Not in the command line, which every user of the machine can read.
        at = arguments.index("--token")
        held = os.memfd_create("token", 0)
        os.write(held, arguments[at + 1].encode())
        arguments[at : at + 2] = ["--token-file", f"/proc/self/fd/{held}"]
    os.execve(request.program, [request.program, *arguments], request.environment)  # noqa: S606
