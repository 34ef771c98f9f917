"""SuperNode as a process: start in a group of its own, pump its output, stop it, and leave nothing behind.

Carries out what ``supervisor`` decides. Imports procfs only; knows nothing of Flower's words.
"""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fleven_agent.system import procfs

CHILD_OOM_SCORE = 500
"""The kernel ends training before the supervisor when memory runs out (oom_score_adj, -1000 to 1000)."""
MAXIMUM_LINE_BYTES = 8_192


class Child:
    """One SuperNode process with all that descends from it."""

    def __init__(self, popen: subprocess.Popen[bytes], marker: str) -> None:
        self._popen = popen
        self._marker = marker
        self.pid = popen.pid
        found = procfs.stat(popen.pid)
        self.start_ticks = found.start_ticks if found else 0
        self._pump: threading.Thread | None = None

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        marker: str,
        on_line: Callable[[str], None],
    ) -> "Child":
        """Start the process and the thread that reads its output.

        Args:
            argv: program and arguments; the program is looked up in the PATH of ``environment``.
            environment: the whole environment of the process.
            directory: working directory.
            marker: ``NAME=value`` in the environment, by which its descendants are found again.
            on_line: called from the pump's thread with each line of stdout and stderr.

        Raises:
            OSError: when the program cannot be started.
        """
        popen = subprocess.Popen(
            list(argv),
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
        child = cls(popen, marker)
        with contextlib.suppress(OSError):
            Path(f"/proc/{popen.pid}/oom_score_adj").write_text(str(CHILD_OOM_SCORE), encoding="ascii")
        if popen.stdout is None:  # PIPE was asked for
            raise OSError("no pipe to the process")
        child._pump = threading.Thread(
            target=_pump, args=(popen.stdout.fileno(), popen.stdout, on_line), name="output", daemon=True
        )
        child._pump.start()
        return child

    def poll(self) -> int | None:
        """Return the exit status when the process has ended (negative for a signal), else None."""
        return self._popen.poll()

    def terminate(self) -> None:
        """Ask SuperNode to end; it passes that on to its children."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a stopped process sees TERM only when it continues

    def kill(self) -> None:
        """Kill the whole group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def resume(self) -> None:
        """Let the whole group continue after a SIGSTOP."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGCONT)

    def clean_up(self, spared: Sequence[int] = ()) -> int:
        """After the end of the process: kill what is left of it, close the pipe. Return how many were left."""
        self.kill()
        left = end_leftovers(self._marker, session=self.pid, spared=spared)
        if self._pump is not None:
            self._pump.join(timeout=2.0)
        return left

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)


def end_leftovers(marker: str, *, session: int | None = None, spared: Sequence[int] = ()) -> int:
    """Kill all processes that carry the marker or belong to the session. Return their number."""
    left = procfs.marked(marker, session=session, except_for=[os.getpid(), *spared])
    for one in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(one.pid, signal.SIGKILL)
    return len(left)


def _pump(descriptor: int, stream: object, on_line: Callable[[str], None]) -> None:
    """Read lines until nobody holds the other end. ``stream`` is kept so that the descriptor stays open."""
    rest = b""
    while True:
        try:
            chunk = os.read(descriptor, 65_536)
        except OSError:
            break
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            on_line(line[:MAXIMUM_LINE_BYTES].decode("utf-8", "replace"))
        if len(rest) > MAXIMUM_LINE_BYTES:
            on_line(rest[:MAXIMUM_LINE_BYTES].decode("utf-8", "replace"))
            rest = b""
    if rest:
        on_line(rest.decode("utf-8", "replace"))
    close = getattr(stream, "close", None)
    if close is not None:
        close()


def protect_from_oom() -> None:
    """Ask the kernel to spare this process when memory runs out; needs a privilege, so it may not work."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-500", encoding="ascii")
