"""SuperNode's executor as a fork of SuperNode: what both import is in memory once.

SuperNode starts ``flower-superexec`` as a program of its own, which imports Flower again: 100 MB for a process that
asks for a task now and then. Here SuperNode's process imports what both need, forks before gRPC has begun, and the fork
waits for the command line that SuperNode would have started. For everybody else it is the same: a child of SuperNode
with that name in its command line. Whatever is not as expected leaves Flower's own start. Standard library only.
"""

import ctypes
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fleven_agent.warm import memory
from fleven_agent.warm.flower_internals import installed_internals
from fleven_agent.warm.preload import quiet_threads, thread_count
from fleven_agent.warm.stand_ins import standing_in

MAXIMUM_BYTES = 1 << 16
NAME_BYTES = 15  # of a process's short name


class Started:
    """What SuperNode gets for the process that it started: it keeps it and asks nothing."""

    def __init__(self, process_id: int) -> None:
        self.pid = process_id


class ForkedExecutor:
    """Stands for the module ``subprocess`` in SuperNode's main loop; only the start of the executor differs.

    Args:
        name: program of the executor.
        process_id: the fork that waits.
        connection: to it.
    """

    def __init__(self, name: str, process_id: int, connection: socket.socket) -> None:
        self._name = name
        self._process_id = process_id
        self._connection: socket.socket | None = connection

    def Popen(self, arguments: Sequence[str], **options: Any) -> "Started | subprocess.Popen[bytes]":  # noqa: N802
        """Hand the command line to the fork; anything but the first start of the executor is a start as ever."""
        connection, self._connection = self._connection, None
        if connection is None or options or arguments[0] != self._name:
            self._connection = connection
            return subprocess.Popen(list(arguments), **options)
        with connection:
            try:
                connection.sendall(json.dumps(list(arguments[1:])).encode())
            except OSError:  # it has been killed meanwhile
                return subprocess.Popen(list(arguments))
        return Started(self._process_id)

    def __getattr__(self, name: str) -> object:
        return getattr(subprocess, name)


def fork_executor(name: str, run: Callable[[], object]) -> None:
    """Fork this process, which is to be SuperNode, for its executor.

    Args:
        name: program of the executor.
        run: runs it in this process, with ``sys.argv[1:]`` set; called in the fork only.

    Raises:
        ValueError: this process cannot be forked safely, or SuperNode does not start its executor as known.
        ImportError: Flower is not as known.
    """
    flower = installed_internals()
    with standing_in():
        importlib.import_module(flower.superexec_module)
        module = importlib.import_module(flower.supernode_module)
    if module.__dict__.get("subprocess") is not subprocess:
        raise ValueError("SuperNode starts its executor in an unknown way")
    quiet_threads()
    if thread_count() != 1:
        raise ValueError("importing Flower has left a thread")
    memory.settle()
    here, there = socket.socketpair()
    process_id = os.fork()
    if process_id == 0:
        here.close()
        _be_executor(name, there, run)
    there.close()
    gc.unfreeze()
    module.__dict__["subprocess"] = ForkedExecutor(name, process_id, here)


def _be_executor(name: str, connection: socket.socket, run: Callable[[], object]) -> None:
    """Wait for the command line, and run; this does not return."""
    message = b""
    while chunk := connection.recv(MAXIMUM_BYTES):  # until SuperNode has sent all, or is gone
        message += chunk
    connection.close()
    if not message:
        os._exit(0)
    arguments = [str(argument) for argument in json.loads(message)]
    sys.argv[1:] = arguments
    show_command_line(name, arguments)
    result = run()
    sys.exit(result if isinstance(result, int) else 0)


def show_command_line(name: str, arguments: Sequence[str]) -> None:
    """Have /proc show the program and its arguments instead of those of the process that was forked."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # fields 48 and 49, counted from 1 (proc(5))
    program = [sys.executable, str(Path(sys.argv[0]).with_name(name)), *arguments]
    text = b"\0".join(os.fsencode(part) for part in program)[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
    Path("/proc/self/comm").write_text(name[:NAME_BYTES], encoding="ascii")
