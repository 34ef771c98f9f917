"""Starts the demonstration's processes and makes sure that none outlives it.

Why it exists: "stops cleanly" includes what a child's child left behind, so this process adopts orphans (Linux's child
subreaper) and ends every descendant. Must not import torch, pandas or flwr.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil

from fleven.demo.files import DemoError

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
STOP_GRACE_SECONDS = 20.0


def port_is_free(port: int) -> bool:
    """Return whether nobody listens on this TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@dataclasses.dataclass(frozen=True)
class Ended:
    """A process that ended although it should run."""

    name: str
    exit_code: int
    log: Path

    def last_lines(self, count: int = 12) -> str:
        """Return the end of its log, indented."""
        with contextlib.suppress(OSError):
            return "\n".join(f"  {line}" for line in self.log.read_text(errors="replace").splitlines()[-count:])
        return ""


class DemoProcesses:
    """The running processes, newest last. Use as a context manager: leaving it stops all that were not left running."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._left_running = False

    def __enter__(self) -> Self:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """Start a program of this installation that runs until it is stopped."""
        print(f"  $ {' '.join(command)}", file=sys.stderr, flush=True)
        self._running.append((name, self.begin(name, command, environment)))

    def output_of(self, command: list[str], environment: dict[str, str]) -> str:
        """Run a program to its end and return what it printed.

        Raises:
            DemoError: it failed; what it said is the message.
        """
        print(f"  $ {' '.join(command)}", file=sys.stderr, flush=True)
        program = str(Path(sys.executable).parent / command[0])
        done = subprocess.run(
            [program, *command[1:]], env=self._environment(environment), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DemoError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def begin(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a program that ends by itself; its output goes to ``<logs>/<name>.log``."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            # Its own session: Ctrl-C in the terminal reaches the demonstration only, which then stops all in order.
            return subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]],
                env=self._environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run_to_end(self, command: list[str], environment: dict[str, str], output: IO[str] | None) -> int:
        """Run a program in this terminal until it ends; return its exit code."""
        print(f"  $ {' '.join(command)}", file=sys.stderr, flush=True)
        program = str(Path(sys.executable).parent / command[0])
        with subprocess.Popen([program, *command[1:]], env=self._environment(environment), stdout=output) as process:
            try:
                return process.wait()
            except KeyboardInterrupt:
                process.terminate()
                raise

    @staticmethod
    def _environment(extra: dict[str, str]) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return os.environ | {"PATH": path} | extra

    def first_ended(self) -> Ended | None:
        """Return a process that is no longer running, or None."""
        for name, process in self._running:
            if (exit_code := process.poll()) is not None:
                return Ended(name, exit_code, self.logs / f"{name}.log")
        return None

    def stop(self) -> None:
        """Stop everything, agents first and the SuperLink last; then end every descendant that is still there."""
        if self._left_running:
            return
        # A second Ctrl-C must not cut this short and leave processes behind.
        with _ignoring_interrupts():
            # Cars leave while the SuperLink still hears them; servers only after the last car has gone.
            agents = [process for name, process in self._running if name.startswith("agent-")]
            servers = [process for name, process in self._running if not name.startswith("agent-")]
            for group in (agents, servers[::-1]):
                for process in group:
                    if process.poll() is None:
                        process.terminate()
                deadline = time.monotonic() + STOP_GRACE_SECONDS
                for process in group:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.0, deadline - time.monotonic()))
            _end(psutil.Process().children(recursive=True))
            for _, process in self._running:
                process.wait()
            self._running.clear()

    def leave_running(self, state_file: Path) -> None:
        """Write what runs to a file, for ``stop_left_running``, and let go of it."""
        left: list[dict[str, Any]] = []
        for name, process in self._running:
            left.append({"name": name, "pid": process.pid, "started_at": psutil.Process(process.pid).create_time()})
            # Popen would warn about a running child when it is collected; it is meant to outlive us.
            process.returncode = 0
        temporary = state_file.with_suffix(".tmp")
        temporary.write_text(json.dumps({"schema_version": 1, "processes": left}, indent=2), encoding="utf-8")
        temporary.replace(state_file)
        self._left_running = True

    @staticmethod
    def stop_left_running(state_file: Path) -> int:
        """Stop the processes named in a state file, with all their descendants; return how many there were."""
        ended = 0
        for entry in sorted(json.loads(state_file.read_text())["processes"], key=_agents_first):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(entry["pid"])
                # The number may belong to another program by now.
                if process.create_time() != entry["started_at"]:
                    continue
                family = [process, *process.children(recursive=True)]
                process.terminate()
                psutil.wait_procs([process], timeout=STOP_GRACE_SECONDS)
                _end(family[1:])
                _end([process])
                ended += len(family)
        state_file.unlink()
        return ended


def _agents_first(entry: dict[str, Any]) -> tuple[bool, bool]:
    return (not entry["name"].startswith("agent-"), entry["name"] == "superlink")


def _end(processes: list[psutil.Process]) -> None:
    """Terminate, then kill what does not go; return when all have gone."""
    for act in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                act(process)
        _, processes = psutil.wait_procs(processes, timeout=5)


@contextlib.contextmanager
def _ignoring_interrupts() -> Any:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
