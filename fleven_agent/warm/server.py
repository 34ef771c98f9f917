"""The warm process: imports once, then forks a task for every launcher that asks.

One thread, no gRPC channel, nothing of an app: only such a process may fork safely, and it looks before each fork. It
owns no task: a task goes on when this process ends, and its launcher waits for it. It leaves by itself when memory is
short, when nothing came for a while, or when the agent that started it is gone. Imports the standard library and this
package; Flower and torch come by ``preload``.
"""

import argparse
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from fleven_agent.common.cell.asking import through_folder
from fleven_agent.common.cell.request import Request
from fleven_agent.common.files import write_private
from fleven_agent.warm import child, launcher, memory, polling, preload
from fleven_agent.warm import request as requests
from fleven_agent.warm.flower_internals import NotRecognisedError, installed_internals
from fleven_agent.warm.memory import settle
from fleven_agent.warm.module_record import ModuleRecord
from fleven_agent.warm.request import Refused
from fleven_agent.warm.settings import Fallback, WarmReason
from fleven_agent.warm.task_table import TaskTable

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
MAXIMUM_CULPRITS = 5


class WarmProcess:
    """Socket, tasks and status file of the warm process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.runtime: Path = options.runtime_directory
        self.record = ModuleRecord(options.state_directory / "modules.json")
        self.preloader = preload.Preloader(options.maximum_memory_bytes)
        self.environment = dict(os.environ)
        self.processors = os.sched_getaffinity(0)
        self.task_table = TaskTable()
        self.loaded: frozenset[str] = frozenset()
        """What tasks find imported."""
        self.ready = False
        self.memory_bytes: int | None = None
        self.last_activity = time.monotonic()
        self.left: WarmReason | None = None
        self.stop_asked = False
        self.listener = self._listen()
        self.wake_read, self.wake_write = socket.socketpair()

    # -- start

    def _listen(self) -> socket.socket:
        path = self.runtime / launcher.SOCKET_NAME
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            through_folder(str(self.runtime), launcher.SOCKET_NAME, listener.bind)
        finally:
            os.umask(mask)
        listener.listen(16)
        listener.setblocking(False)
        return listener

    def warm_up(self) -> None:
        """Import what every task needs, then what tasks imported before while no launcher waits."""
        started = time.monotonic()
        modules, left_out = self.record.read()
        try:
            preload.warm_up(self.preloader, self.options.module, modules, left_out, self._launcher_waits)
        except preload.CulpritError as culprit:
            self._start_again_without(culprit, modules, left_out)
        if self.options.short_polling and installed_internals().clientapp_module in sys.modules:
            self._shorten()
        self.loaded = frozenset(sys.modules)
        settle()
        self.memory_bytes = memory.proportional_bytes()
        self.ready = True
        self.write_status()
        log.info(
            "warm=ready modules=%d memory_mib=%d seconds=%.1f",
            len(sys.modules),
            (self.memory_bytes or 0) >> 20,
            time.monotonic() - started,
        )

    def _launcher_waits(self) -> bool:
        readable, _, _ = select.select([self.listener], [], [], 0)
        return bool(readable)

    def _shorten(self) -> None:
        for shorten in (polling.shorten_object_retries, polling.close_channel_at_once):
            try:
                shorten()
            except NotRecognisedError as error:
                log.info("polling=unchanged program=%s reason=%r", launcher.NAME, str(error))
        self.options.short_polling = False  # once: warming up again finds it done

    def _start_again_without(self, culprit: preload.CulpritError, modules: list[str], left_out: dict[str, str]) -> None:
        """Start this program again without a module; what it did cannot be undone in a running process."""
        log.warning("warm=restarting left_out=%s why=%r", culprit.module, culprit.why)
        if culprit.module in left_out:
            raise culprit  # it came in by another way; ending is all that is left, and the agent backs off
        left_out = {**left_out, culprit.module: culprit.why}
        # Each culprit costs a start. After a few the modules that tasks imported are not worth it any more.
        kept = modules if len(left_out) < MAXIMUM_CULPRITS else []
        self.record.write([name for name in kept if name != culprit.module], left_out)
        self.ready = False
        self.write_status()
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606

    # -- loop

    def serve(self) -> "Handover | None":
        """Serve until it is time to leave (None), or until this is the forked task (its handover)."""
        self.wake_read.setblocking(False)
        self.wake_write.setblocking(False)
        signal.set_wakeup_fd(self.wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._asked_to_stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        while self.left is None:
            ready = dict(poll.poll(CHECK_SECONDS * 1000))
            if self.wake_read.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    self.wake_read.recv(4096)
            self._reap()
            if self.listener.fileno() in ready and (handover := self._accept()) is not None:
                return handover
            if self.left is None:
                self.left = self._reason_to_leave()
        self.write_status()
        log.info("warm=leaving reason=%s tasks=%d", self.left.value, self.task_table.count)
        return None

    def _asked_to_stop(self, _number: int, _frame: object) -> None:
        self.stop_asked = True

    def _reason_to_leave(self) -> WarmReason | None:
        if self.stop_asked:
            return WarmReason.STOPPED
        if os.getppid() != self.options.parent_pid:
            return WarmReason.PARENT_GONE
        if self.task_table.connections:
            return None  # a task shares nearly all of this memory, so leaving would give nothing back
        if memory.is_short(self.options.minimum_available_bytes):
            return WarmReason.MEMORY_PRESSURE
        if time.monotonic() - self.last_activity > self.options.idle_seconds:
            return WarmReason.IDLE
        return None

    # -- tasks

    def _accept(self) -> "Handover | None":
        """Take one launcher's task: fork, or refuse. Returns the handover in the forked process only."""
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return None  # it gave up meanwhile
        descriptors: list[int] = []
        try:
            process_id = requests.peer_process_id(connection)
            request = requests.receive(connection, descriptors)
            requests.check(request, self.environment, self.processors, self.options.interpreter_flags)
            self._check_memory()
            return self._fork(request, connection, descriptors, process_id)
        except Refused as refusal:
            log.info("warm=refused reason=%s", refusal.reason.value)
            with contextlib.suppress(OSError):
                connection.send(f"refused {refusal.reason.value}\n".encode())
            connection.close()
        except OSError as error:
            log.warning("warm=lost error=%r", error)
            connection.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return None

    def _check_memory(self) -> None:
        if memory.is_short(self.options.minimum_available_bytes):
            self.left = None if self.task_table.connections else WarmReason.MEMORY_PRESSURE
            raise Refused(Fallback.MEMORY)

    def _fork(
        self, request: Request, connection: socket.socket, descriptors: list[int], launcher_process_id: int
    ) -> "Handover | None":
        process_id = os.fork()
        if process_id == 0:
            signal.set_wakeup_fd(-1)
            for held in (self.listener, self.wake_read, self.wake_write):
                held.close()
            for other in self.task_table.connections.values():
                other.close()
            own = [os.dup(descriptor) for descriptor in descriptors]
            return Handover(request, connection, own, self.record, self.loaded)
        self.task_table.begin(process_id, launcher_process_id, connection)
        self.last_activity = time.monotonic()
        self.write_status()
        return None

    def _reap(self) -> None:
        if self.task_table.reap():
            self.last_activity = time.monotonic()
            self._learn()
            self.write_status()

    def _learn(self) -> None:
        """Import what the ended tasks imported besides, so that the next finds it loaded."""
        modules, left_out = self.record.read()
        if not self.task_table.connections and self.preloader.missing(modules, left_out):
            self.warm_up()

    # -- to tell

    def write_status(self) -> None:
        """Replace the status file, which the agent reads."""
        content = {
            "schema_version": 1,
            "ready": self.ready,
            "left": self.left.value if self.left else None,
            "memory_bytes": self.memory_bytes,
            "modules": len(sys.modules),
            "tasks": self.task_table.count,
            "recent_tasks": self.task_table.rows(),
        }
        try:
            write_private(self.runtime / "status.json", content)
        except OSError as error:
            log.warning("warm=status-unwritten error=%r", error)


@dataclass(frozen=True, slots=True)
class Handover:
    """What the forked process needs to become the task."""

    request: Request
    connection: socket.socket
    descriptors: list[int]
    record: ModuleRecord
    loaded: frozenset[str]


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the warm process; only the agent starts it."""
    parser = argparse.ArgumentParser(prog="fleven_agent.warm", description=__doc__)
    parser.add_argument("--runtime-directory", type=Path, required=True)
    parser.add_argument("--state-directory", type=Path, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--idle-seconds", type=float, required=True)
    parser.add_argument("--minimum-available-bytes", type=int, required=True)
    parser.add_argument("--maximum-memory-bytes", type=int, required=True)
    parser.add_argument("--interpreter-flags", default="", help="of this Python, as the tasks' program has them")
    parser.add_argument("--oom-score-adjustment", type=int)
    parser.add_argument("--short-polling", action="store_true")
    parser.add_argument("--module", action="append", default=[])
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the warm process; in a forked task this does not return but ends as the task ends."""
    options = parse_options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder this was started in; a task gets its program's folder instead
    if options.oom_score_adjustment is not None:
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(options.oom_score_adjustment), encoding="ascii")
    process = WarmProcess(options)
    process.write_status()
    process.warm_up()
    handover = process.serve()
    if handover is not None:
        _forget_logging()
        child.run_task(handover.request, handover.connection, handover.descriptors, handover.record, handover.loaded)
    return 0


def _forget_logging() -> None:
    """Leave the root logger as a new Python has it."""
    root = logging.getLogger()
    root.handlers.clear()
    root.setLevel(logging.WARNING)
