"""A `flwr` that has started already: Flower's own program, loaded in advance, which waits for its arguments.

Loading Flower takes most of the second that `flwr run` needs, and every run waits for it. A process that has done that
beforehand is given one command line, becomes that command, and ends with it; another one is started later, when nobody
waits. Where there is none, or it fails to take over, the program is started as usual. Run as a program it is that
process: imports of Flower happen there alone.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fleven.server.flower.executor_process import is_python_program
from fleven.server.flower.line import installed_line

logger = logging.getLogger("fleven.server.flower")
REST_SECONDS = 20.0
"""After a command, before the next process is loaded: what the command began needs the processor more."""
LARGEST_MESSAGE_BYTES = 1 << 20


class ReadyCommand:
    """Keeps one loaded process; safe to use from several threads.

    Args:
        environment: of the process.
        folder: its working folder.
        clock: monotonic seconds.
    """

    def __init__(
        self, environment: Mapping[str, str], folder: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._environment = dict(environment)
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._not_before = clock()

    def tend(self) -> None:
        """Start a process when there is none and the last command was a while ago; costs nothing otherwise."""
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._end()
                self._not_before = self._clock() + REST_SECONDS
            if self._process is None and self._clock() >= self._not_before:
                self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        # -I: the working folder holds what ServerApps write, and must not be searched for modules.
        command = [sys.executable, "-Iu", "-m", __name__]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    env=self._environment,
                    cwd=self._folder,
                    stdin=theirs.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            self._connection = ours
        except OSError as error:
            ours.close()
            self._not_before = self._clock() + REST_SECONDS
            logger.warning("event=flwr-not-ready error=%r", str(error))

    def take(self, arguments: Sequence[str], descriptors: Sequence[int]) -> subprocess.Popen[bytes] | None:
        """Have the process become a command; return it, or None when there is none that could.

        Args:
            arguments: full path of the program, and its arguments.
            descriptors: what the command inherits, as with `pass_fds`.
        """
        with self._lock:
            process, connection = self._process, self._connection
            self._process = self._connection = None
            self._not_before = self._clock() + REST_SECONDS
        if process is None or connection is None:
            return None
        taken = False
        with connection:
            if process.poll() is None and is_python_program(arguments[0]):
                try:
                    socket.send_fds(connection, [json.dumps(list(arguments)).encode()], descriptors)
                    taken = True
                except OSError as error:
                    logger.warning("event=flwr-not-ready error=%r", str(error))
        if taken:
            return process
        process.kill()
        process.communicate()
        return None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()
            self._not_before = float("inf")

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = self._connection = None


def main() -> None:
    """Load Flower's commands, wait for a command line, and become that command; end when nobody will send one."""
    importlib.import_module(installed_line().command_module)
    with socket.socket(fileno=os.dup(0)) as connection:
        message, descriptors, _flags, _address = socket.recv_fds(connection, LARGEST_MESSAGE_BYTES, 16)
    if not message:
        return
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.argv = json.loads(message)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
