"""The cell's own process: takes tasks from stand-ins and runs one at a time, as this user, in this unit's sandbox.

All that keeps a task from the rest of the machine stands in the unit: another user, no network, no folder of the agent
or the server, limits of memory, processes and rights. This process starts the task there, gives it the one way out that
it needs (see ``relay``), ends it when its stand-in goes, and leaves nothing of it. It runs as the same user, so it
makes itself unreadable for the task, believes nothing that the task could have written, and when something of a task
does not go, ends itself, upon which systemd ends all that is in the unit.

It starts programs; ``fleven_agent.warm.cell`` adds tasks that are forks. Standard library only.
"""

import argparse
import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from fleven_agent.common.cell import sweep
from fleven_agent.common.cell.program import DROPPED_PREFIXES, become_program, without_parent
from fleven_agent.common.cell.request import Request, RequestError, receive
from fleven_agent.common.cell.sandbox import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    isolation_problem,
    process_control,
)
from fleven_agent.common.cell.stand_in import APP_VARIABLE, IDENTITY_VARIABLE
from fleven_agent.common.cell.watchdog import Watchdog

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
GRACE_SECONDS = 3.0
"""How long a task may go on once the next one is there: its answer has been given, or nobody wants it any more."""
ALONE_SECONDS = 60.0
"""How long the process stays without a task and without somebody who watches it; systemd starts it again."""
RECENT_TASKS = 16
AGENT = b"A"
"""First byte of a connection that watches the cell; a task begins with the length of its request, whose first is 0."""
MAXIMUM_LINE_BYTES = 1 << 20
MAXIMUM_NOTE_BYTES = 1 << 18


@dataclass(slots=True)
class Row:
    """One task, as it is told to whoever watches the cell."""

    process_id: int
    launcher_process_id: int
    started_at: float
    ended_at: float | None = None
    exit_status: int | None = None
    cpu_seconds: float | None = None
    peak_rss_bytes: int | None = None
    warm: bool = False
    app: str = ""
    killed: str = ""
    """Why the cell ended it."""


@dataclass(slots=True)
class Asked:
    """A task that a stand-in has brought."""

    request: Request
    connection: socket.socket
    descriptors: list[int]
    launcher_process_id: int

    def close(self) -> None:
        """Let it go; the stand-in ends."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []
        self.connection.close()


@dataclass(slots=True)
class Running:
    """The task at work."""

    row: Row
    asked: Asked
    spaces: list[sweep.Space]
    """Of each folder that the task may write to, when it began."""
    note: int | None = None
    """Descriptor of the pipe on which a fork says that it has begun, and what it imported."""
    noted: bytes = b""
    next_since: float | None = None
    listener: socket.socket | None = None
    """Where the task connects to."""

    def stop_listening(self) -> None:
        """Free the port for the next task: its stand-in may be there before the one of this task has gone.

        Closing would not do, since that one holds the same socket.
        """
        if self.listener is not None:
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None


@dataclass(slots=True)
class Told:
    """What the cell is, for whoever watches it."""

    process_id: int = field(default_factory=os.getpid)
    ready: bool = False
    left: str | None = None
    problem: str = ""
    memory_bytes: int | None = None
    modules: int = 0
    tasks: int = 0
    cold: dict[str, int] = field(default_factory=dict)
    learned: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


class Cell:
    """Listens, runs tasks, and tells.

    Args:
        options: see ``parser``.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.listener = socket.socket(fileno=options.listener)
        self.listener.setblocking(False)
        self.group = sweep.own_group(options.unit)
        self.home = sweep.Home(options.home / "home", options.home_owner)
        self.told = Told()
        self.told.problem = isolation_problem()
        self.recent: deque[Row] = deque(maxlen=RECENT_TASKS)
        self.running: Running | None = None
        self.queue: deque[Asked] = deque()
        self.watcher = socket.socket(fileno=options.watcher) if options.watcher is not None else None
        self.watcher_bytes = b""
        self.configuration: dict[str, object] | None = None
        self.wake_read, self.wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.stop_asked = False
        self.active_at = time.monotonic()
        self.notify = Watchdog()

    # -- loop

    def serve(self) -> None:
        """Serve until asked to stop, or until nobody has wanted anything for a while."""
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._asked_to_stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self.tell()
        self.notify.hurry()
        while not self.stop_asked:
            self.notify.beat()
            self._wait()
            self.cycle(time.monotonic())
            if self.left_behind():
                break

    def cycle(self, now: float) -> None:
        """Do what is due."""
        self._accept_all()
        self._read_watcher()
        self._watch_task(now)
        self._reap()
        if self.running is None and self.queue:
            self.begin(self.queue.popleft())
        if self.running is not None or self.queue:
            self.active_at = now

    def left_behind(self) -> bool:
        """Whether the process should end: nobody is there for whom it could be of use."""
        return self.watcher is None and self.running is None and time.monotonic() - self.active_at > ALONE_SECONDS

    def _asked_to_stop(self, _number: int, _frame: object) -> None:
        self.stop_asked = True

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        if self.watcher is not None:
            poll.register(self.watcher, select.POLLIN)
        if self.running is not None:
            poll.register(self.running.asked.connection, select.POLLIN)
            if self.running.note is not None:
                poll.register(self.running.note, select.POLLIN)
        poll.poll(TICK_SECONDS * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_read, 4096)

    # -- connections

    def _accept_all(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(2.0)
            try:
                if connection.recv(1, socket.MSG_PEEK) == AGENT:
                    self._take_watcher(connection)
                else:
                    self._take_task(connection)
            except OSError as error:
                log.warning("cell=lost error=%r", error)
                connection.close()

    def _take_watcher(self, connection: socket.socket) -> None:
        connection.recv(1)
        connection.setblocking(False)
        if self.watcher is not None:
            self.watcher.close()
        self.watcher, self.watcher_bytes = connection, b""
        self.tell()

    def _take_task(self, connection: socket.socket) -> None:
        descriptors: list[int] = []
        try:
            request = receive(connection, descriptors, 3)
        except (RequestError, EOFError, OSError) as error:
            log.warning("cell=request-invalid error=%r", str(error))
            for descriptor in descriptors:
                os.close(descriptor)
            connection.close()
            return
        connection.setblocking(False)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        process_id = int.from_bytes(credentials[:4], sys.byteorder)
        self.queue.append(Asked(request, connection, descriptors, process_id))
        if self.running is not None and self.running.next_since is None:
            self.running.next_since = time.monotonic()

    def _read_watcher(self) -> None:
        if self.watcher is None:
            return
        try:
            while data := self.watcher.recv(1 << 16):
                self.watcher_bytes += data
                if len(self.watcher_bytes) > MAXIMUM_LINE_BYTES:
                    break
        except BlockingIOError:
            pass
        except OSError:
            data = b""
        else:
            self.watcher.close()
            self.watcher = None
            return
        *lines, self.watcher_bytes = self.watcher_bytes.split(b"\n")
        for line in lines:
            self.configuration = json.loads(line)

    # -- tasks

    def begin(self, asked: Asked) -> None:
        """Start a task, or refuse it."""
        try:
            self._must_be_apart()
            app = asked.request.environment.get(APP_VARIABLE, "")
            with self.notify.slow():
                self.home.prepare(asked.request.environment.get(IDENTITY_VARIABLE, app), app)
            listener, request = self._way_out(asked.request)
            asked.request = replace(request, environment=self.task_environment(request.environment))
            row = Row(0, asked.launcher_process_id, time.time(), app=app)
            self.running = Running(row, asked, [sweep.Space.of(folder) for folder in self.written_folders()])
            self.running.listener = listener
            self.start_task(self.running)
            socket.send_fds(asked.connection, [f"ready {row.process_id}\n".encode()], [listener.fileno()])
        except (OSError, ValueError) as error:
            log.warning("cell=refused error=%r", str(error))
            with contextlib.suppress(OSError):
                asked.connection.send(f"refused {error}\n".encode()[:200])
            asked.close()
            if self.running is not None and self.running.row.process_id:
                self._kill("its stand-in went away")
            elif self.running is not None:
                self.running.stop_listening()
                self.running = None
        self.tell()

    def _must_be_apart(self) -> None:
        if self.told.problem:
            raise OSError(f"it is not isolated from the machine: {self.told.problem}")

    def start_task(self, running: Running) -> None:
        """Start the program of a task; ``warm.cell`` forks where it can."""
        self.start_program(running)

    def start_program(self, running: Running) -> None:
        """Start the task as a new program; raises ``OSError``."""
        running.row.warm = False
        process_id = os.fork()
        if process_id == 0:
            try:
                become_program(running.asked.request, running.asked.descriptors)
            except BaseException as error:
                os.write(2, f"the task was not started in the cell: {error!r}\n".encode())
            os._exit(127)
        running.row.process_id = process_id

    def _way_out(self, request: Request) -> tuple[socket.socket, Request]:
        """Listen where the task will connect to; return the socket and the request with that address."""
        option = self.options.address_option
        arguments = without_parent(list(request.arguments))
        if option not in arguments[:-1]:
            raise ValueError(f"the command line has no {option}")
        at = arguments.index(option) + 1
        port = int(arguments[at].rpartition(":")[2])
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(16)
        except OSError:
            listener.close()
            raise
        arguments[at] = f"127.0.0.1:{port}"
        return listener, replace(request, arguments=tuple(arguments))

    def task_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return what of an environment a task gets."""
        kept = {name: value for name, value in environment.items() if not name.startswith(DROPPED_PREFIXES)}
        home = str(self.home.folder)
        return {**kept, "HOME": home, "FLWR_HOME": home, "TMPDIR": "/tmp"}  # noqa: S108 - the cell's own

    def _watch_task(self, now: float) -> None:
        running = self.running
        if running is None:
            return
        self._read_note(running)
        try:
            gone = running.asked.connection.recv(1) == b""
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if running.row.killed:
            return
        if gone:
            self._kill("its stand-in went away")
        elif running.next_since is not None and now - running.next_since > GRACE_SECONDS:
            self._kill("the next task is there")
        elif excess := self._excess(running):
            self._kill(excess)
            self.home.owner = ""  # what it wrote goes with it

    def written_folders(self) -> list[Path]:
        """Return the folders on disks that a task may write to."""
        return [self.home.folder]

    def _excess(self, running: Running) -> str:
        limits = self.options.maximum_bytes, self.options.maximum_files
        for folder, before in zip(self.written_folders(), running.spaces, strict=True):
            if excess := before.excess(sweep.Space.of(folder), *limits):
                return excess
        return ""

    def _kill(self, why: str) -> None:
        if self.running is None:
            return
        self.running.row.killed = why
        log.warning("cell=task-killed process_id=%d why=%r", self.running.row.process_id, why)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.running.row.process_id, signal.SIGKILL)

    def _read_note(self, running: Running) -> None:
        if running.note is None:
            return
        try:
            while data := os.read(running.note, 1 << 16):
                running.noted = (running.noted + data)[:MAXIMUM_NOTE_BYTES]
        except BlockingIOError:
            return

    def _reap(self) -> None:
        running = self.running
        if running is None:
            sweep.reap_strangers()
            return
        reaped, status, usage = os.wait4(running.row.process_id, os.WNOHANG | os.WUNTRACED)
        if reaped == 0:
            return
        if os.WIFSTOPPED(status):  # the agent is another user and cannot continue it
            os.kill(running.row.process_id, signal.SIGCONT)
            return
        row = running.row
        row.exit_status, row.ended_at = os.waitstatus_to_exitcode(status), time.time()
        row.cpu_seconds = round(usage.ru_utime + usage.ru_stime, 4)
        row.peak_rss_bytes = usage.ru_maxrss * 1024
        self._read_note(running)
        self.running = None
        with self.notify.slow():
            left = self.leave_nothing()
        if self.begin_again(running):
            return
        if running.note is not None:
            os.close(running.note)
        self.recent.append(row)
        self.count(running)
        if left or row.killed:
            log.info("cell=task-ended process_id=%d leftovers=%d killed=%r", row.process_id, left, row.killed)
        self.tell()
        with contextlib.suppress(OSError):
            running.asked.connection.send(f"ended {row.exit_status}\n".encode())
        running.asked.close()
        running.stop_listening()
        self.task_ended(running)

    def begin_again(self, running: Running) -> bool:
        """Whether the task had not begun, and was started in another way; ``warm.cell`` may."""
        return False

    def count(self, running: Running) -> None:
        """Count a task that has ended; ``warm.cell`` does."""

    def task_ended(self, running: Running) -> None:
        """Do what is due after a task; ``warm.cell`` learns from it."""

    def leave_nothing(self) -> int:
        """End and remove what is left of a task; return how many processes there were. Raises ``LeftoverError``."""
        left = sweep.kill_others(self.group)
        for folder in self.options.swept:
            sweep.empty(folder)
        if not self.home.owner:
            self.home.clear()
        return left

    # -- to tell

    def tell(self) -> None:
        """Send the watcher one line; one that does not read is not waited for."""
        if self.watcher is None:
            return
        rows = [*self.recent, *([self.running.row] if self.running is not None else [])]
        line = json.dumps({"schema_version": 1, **asdict(self.told), "recent_tasks": [asdict(row) for row in rows]})
        try:
            self.watcher.send(line.encode() + b"\n")
        except BlockingIOError:
            return
        except OSError:
            self.watcher.close()
            self.watcher = None


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the options of the cell's process; only its unit starts it."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--unit", required=True, help="name of the unit that this process is, and nothing else is in")
    made.add_argument("--listener", type=int, default=3, help="descriptor from systemd")
    made.add_argument("--watcher", type=int, help="descriptor of the connection that watches, after a new start")
    made.add_argument("--home", type=Path, required=True, help="folder that apps may write")
    made.add_argument("--home-owner", default="", help="identity of the app whose files are in it, after a new start")
    made.add_argument("--address-option", required=True, help="of the task's program: where it connects to")
    made.add_argument("--maximum-bytes", type=int, default=2_000_000_000, help="that a task may write to the disk")
    made.add_argument("--maximum-files", type=int, default=100_000, help="that a task may make")
    made.add_argument("--swept", type=Path, action="append", default=[], help="folder emptied after each task")
    return made


def prepare() -> None:
    """Make this process unreadable for tasks of the same user, and the parent of what they leave behind."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    process_control(PR_SET_DUMPABLE, 0)
    process_control(PR_SET_CHILD_SUBREAPER, 1)


def run(cell: Cell) -> int:
    """Serve; return the exit status."""
    try:
        cell.home.prepare(cell.home.owner)
        cell.serve()
    except sweep.LeftoverError as error:
        log.error("cell=ending why=%r", str(error))  # noqa: TRY400 - the reason says all
        return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run a cell that starts programs."""
    options = parser(__doc__).parse_args(arguments)
    prepare()
    return run(Cell(options))


if __name__ == "__main__":
    sys.exit(main())
