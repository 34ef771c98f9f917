"""A cell for one task: a unit of its own for each, which systemd starts when somebody connects, and ends with the task.

All that keeps the task from the machine stands in the unit. Of its two processes, this one, the keeper, starts the
other, which imports what it is told before it is known which task it will be; a task that comes later starts without
that wait. The keeper gives the task its one way out (see ``relay``), hands on the files that it writes, and ends when
the other side goes, upon which systemd kills all that is in the unit. It runs as the same user as the task, so it makes
both unreadable for others of that user and believes nothing that the task could have written.

Standard library only; what is imported for the task is imported in the task's own process.
"""

import argparse
import contextlib
import importlib
import logging
import os
import resource
import runpy
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from fleven_agent.common.cell import messages
from fleven_agent.common.cell.program import DROPPED_PREFIXES, without_parent
from fleven_agent.common.cell.sandbox import PR_SET_DUMPABLE, isolation_problem, process_control
from fleven_agent.common.cell.watchdog import Watchdog
from fleven_agent.common.cell.written_files import WrittenFiles

log = logging.getLogger(__name__)

TICK_SECONDS = 0.3
"""Between two looks at what the task has written."""
LAST_FILES_SECONDS = 120.0
"""How long the files of a task that has ended may take."""
IDLE_TICK_SECONDS = 5.0
SEND_SECONDS = 30.0
MAXIMUM_AT_ONCE = 100
"""So many open files on the way; Linux bounds them for each user."""
KILLED_FIRST = 1000
"""Value of oom_score_adj of a task: when memory ends, the keeper stays and says so."""


class Handover(BaseException):
    """Leaves the keeper's loop in the forked process, which becomes the task.

    Args:
        environment: of the task.
        modules: to import while it waits.
        connection: on which the task comes.
    """

    def __init__(self, environment: dict[str, str], modules: list[str], connection: socket.socket) -> None:
        super().__init__()
        self.environment = environment
        self.modules = modules
        self.connection = connection


class Keeper:
    """The process beside the task.

    Args:
        connection: to the program outside that stands for the task.
        root: the folder that the task may write, whose files are handed on.
        address_option: of the task's program: where it connects to.
        problem: why this process is not isolated from the machine; empty when it is.
    """

    def __init__(self, connection: socket.socket, root: Path, address_option: str, problem: str) -> None:
        self._connection = connection
        self._root = root
        self._address_option = address_option
        self._problem = problem
        self._files = WrittenFiles(root)
        self._task: tuple[int, int, socket.socket] | None = None
        """Process id, pidfd and connection of the task's process."""
        self._began = False
        self._status: int | None = None
        self._untaken = 0
        """How many files the other side has not taken yet."""
        self._ended_at = 0.0

    def serve(self) -> None:
        """Keep one task until it has ended and its files have been taken, or until the other side goes.

        Raises:
            Handover: in the forked process.
            OSError: the other side broke the rules or the connection.
        """
        notify = Watchdog()
        self._connection.setblocking(False)
        while True:
            notify.beat()
            if not self._hear():
                return
            self._look_at_task()
            if self._began and self._untaken == 0 and not self._pass_files_on():
                return
            self._wait()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        if self._task is not None and self._status is None:
            poll.register(self._task[1], select.POLLIN)
        poll.poll((TICK_SECONDS if self._began else IDLE_TICK_SECONDS) * 1000)

    # -- what is asked

    def _hear(self) -> bool:
        """Do what is asked; return False when the other side has gone."""
        while True:
            try:
                received = messages.receive(self._connection)
            except BlockingIOError:
                return True
            except ConnectionError:
                return False
            if received is None:
                return False
            message, descriptors = received
            try:
                self._do(message, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _do(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        match message:
            case {"look": _}:
                self._send({"problem": self._problem})
            case {"taken": _}:
                self._untaken -= 1
            case {"prepare": {"environment": environment, "modules": modules}} if self._task is None:
                self._fork(environment, modules)
            case {"file": str(name)} if len(descriptors) == 1 and not self._began:
                self._keep(name, descriptors[0])
            case {"run": task} if len(descriptors) == 3 and not self._began:
                self._run(task, descriptors)
            case _:
                raise messages.MessageError(f"not to be asked now: {', '.join(message)}")

    def _fork(self, environment: Mapping[str, str], modules: list[str]) -> tuple[int, int, socket.socket]:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process_id = os.fork()
        if process_id == 0:
            here.close()
            self._connection.close()
            raise Handover(self._environment(environment), [str(name) for name in modules], there)
        there.close()
        self._task = process_id, os.pidfd_open(process_id), here
        return self._task

    def _environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return what of an environment a task gets: neither the way to the services nor marks of their processes."""
        kept = {name: value for name, value in environment.items() if not name.startswith(DROPPED_PREFIXES)}
        return {**kept, "HOME": "/tmp", "FLWR_HOME": "/tmp/flwr", "TMPDIR": "/tmp"}  # noqa: S108 - the cell's own

    def _keep(self, name: str, descriptor: int) -> None:
        """Store a file that the task may read."""
        path = self._root / name
        if not path.resolve().is_relative_to(self._root.resolve()):
            raise messages.MessageError(f"{name} is not below {self._root}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(descriptor, "rb", closefd=False) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        self._files.learn(name)

    def _run(self, task: Mapping[str, Any], descriptors: list[int]) -> None:
        try:
            self._must_be_apart()
            waiting = self._task or self._fork(task["environment"], [])
            listener, arguments = self._way_out(list(task["arguments"]))
            with listener:
                asked = {**task, "arguments": arguments, "environment": self._environment(task["environment"])}
                messages.send(waiting[2], asked, descriptors)
                self._send({"ready": waiting[0]}, [listener.fileno()])
            self._began = True
        except (OSError, ValueError, KeyError) as error:
            log.warning("cell=refused error=%r", str(error))
            self._send({"refused": str(error)[:500]})

    def _must_be_apart(self) -> None:
        if self._problem:
            raise OSError(f"it is not isolated from the machine: {self._problem}")

    def _way_out(self, arguments: list[str]) -> tuple[socket.socket, list[str]]:
        """Listen for the task alone; return the socket and the arguments that name it."""
        arguments = without_parent(arguments)
        if self._address_option not in arguments[:-1]:
            raise ValueError(f"the command line has no {self._address_option}")
        at = arguments.index(self._address_option) + 1
        listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        arguments[at] = f"127.0.0.1:{listener.getsockname()[1]}"
        return listener, arguments

    # -- the task

    def _look_at_task(self) -> None:
        if self._task is None or self._status is not None:
            return
        process_id, pidfd, _ = self._task
        reaped, status = os.waitpid(process_id, os.WNOHANG | os.WUNTRACED)
        if reaped == 0:
            return
        if os.WIFSTOPPED(status):  # nobody else may continue it
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            return
        self._status, self._ended_at = os.waitstatus_to_exitcode(status), time.monotonic()
        if not self._began:
            raise OSError(f"the process that waits for a task ended with {self._status}")

    def _pass_files_on(self) -> bool:
        """Offer what the task has written since the last look; return False when it has ended and all is taken."""
        ended = self._status is not None
        changed, gone = self._files.changes()
        late = ended and time.monotonic() - self._ended_at > LAST_FILES_SECONDS
        if ended and (late or not (changed or gone)):
            self._send({"ended": self._status})
            return False
        for name in gone:
            self._send({"gone": name})
            self._untaken += 1
        for name in changed[:MAXIMUM_AT_ONCE]:
            if (descriptor := self._files.open_changed(name)) is not None:
                try:
                    self._send({"file": name}, [descriptor])
                finally:
                    os.close(descriptor)
                self._untaken += 1
        return True

    def _send(self, message: Mapping[str, Any], descriptors: list[int] | None = None) -> None:
        """Send, and wait while the other side has not read what came before; raises ``OSError``."""
        poll = select.poll()
        poll.register(self._connection, select.POLLOUT)
        while True:
            try:
                messages.send(self._connection, message, descriptors or ())
            except BlockingIOError:
                if not poll.poll(SEND_SECONDS * 1000):
                    raise TimeoutError("the other side does not read") from None
            else:
                return


def become_task(handover: Handover) -> NoReturn:
    """Import, wait for the task, and be it; the fork of the keeper does not come back from here."""
    with contextlib.suppress(OSError):
        process_control(PR_SET_DUMPABLE, 1)  # else its own file would not be its own
        Path("/proc/self/oom_score_adj").write_text(str(KILLED_FIRST), encoding="ascii")
    process_control(PR_SET_DUMPABLE, 0)
    os.setsid()
    logging.getLogger().handlers.clear()
    os.environ.clear()
    os.environ.update(handover.environment)
    time.tzset()
    for name in handover.modules:
        # What is missing is for the task to miss, or not.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    received = messages.receive(handover.connection)
    handover.connection.close()
    if received is None:
        os._exit(0)
    task, descriptors = received
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update({str(name): str(value) for name, value in task["environment"].items()})
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    importlib.invalidate_caches()
    sys.argv[:] = [str(task["program"]), *[str(argument) for argument in task["arguments"]]]
    runpy.run_path(str(task["program"]), run_name="__main__")
    sys.exit(0)


def parser() -> argparse.ArgumentParser:
    """Return the options of the keeper; only its unit starts it."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--root", type=Path, required=True, help="folder that a task may write")
    made.add_argument("--address-option", required=True, help="of the task's program: where it connects to")
    made.add_argument("--connection", type=int, default=3, help="descriptor from systemd")
    return made


def main(arguments: list[str] | None = None, problem: str | None = None) -> int:
    """Keep one task; return the exit status.

    Args:
        arguments: of the command line; None for this process's.
        problem: stands for what is wrong with the sandbox; None: look.
    """
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    process_control(PR_SET_DUMPABLE, 0)
    os.chdir(options.root)
    connection = socket.socket(fileno=options.connection)
    try:
        Keeper(
            connection, options.root, options.address_option, isolation_problem() if problem is None else problem
        ).serve()
    except Handover as handover:
        forked = handover
    except OSError as error:
        log.warning("cell=ending error=%r", str(error))
        return 1
    else:
        return 0
    become_task(forked)


if __name__ == "__main__":
    sys.exit(main())
