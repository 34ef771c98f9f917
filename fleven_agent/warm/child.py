"""The forked task: becomes the process that ``exec`` of Flower's own program would have made, and runs that program.

Everything that can fail happens before the launcher's "go"; until then the launcher can still start the task cold.
Imports the standard library only; torch and numpy are used when the warm process has loaded them.
"""

import builtins
import contextlib
import ctypes
import fcntl
import importlib
import io
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import NoReturn

from fleven_agent.common.cell.request import Request
from fleven_agent.warm.exit_hook import ending, status_of
from fleven_agent.warm.module_record import ModuleRecord
from fleven_agent.warm.preload import imported_since, shareable_modules
from fleven_agent.warm.settings import Fallback

NAME = "flwr-clientapp"
NEVER_BEGAN = 0  # nobody reads it: the launcher has gone, or starts the task cold


def run_task(
    request: Request,
    connection: socket.socket,
    descriptors: Sequence[int],
    record: ModuleRecord,
    loaded: frozenset[str],
) -> NoReturn:
    """Take over what the launcher passed, wait for its "go", and run the task to its end.

    loaded: names of the modules that the task need not import.
    """
    try:
        code = take_over(request, descriptors)
        task = os.pidfd_open(os.getpid())
        socket.send_fds(connection, [f"ready {os.getpid()}\n".encode()], [task])
        os.close(task)
    except Exception as error:
        print(f"warm=setup-failed error={error!r}", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            connection.send(f"refused {Fallback.SETUP.value}\n".encode())
        os._exit(NEVER_BEGAN)
    connection.settimeout(None)
    if connection.recv(16) != b"go\n":
        os._exit(NEVER_BEGAN)
    ending.before = _leaving(connection, record, loaded)
    run_program(code)


def in_the_cell(request: Request) -> Request:
    """Return a request as it can be fulfilled by a process of another user, with limits of its own unit's."""
    return replace(
        request,
        folder=request.environment["HOME"],
        umask=0o077,
        ignored_signals=(),
        blocked_signals=(),
        limits=(),
        niceness=os.getpriority(os.PRIO_PROCESS, 0),
    )


def take_over(request: Request, descriptors: Sequence[int]) -> CodeType:
    """Make this process what the launcher's was; returns the program to run. Raises ``OSError`` or ``ValueError``."""
    os.setpgid(0, 0)
    standard, lifelines = descriptors[:3], descriptors[3:]
    for target, descriptor in enumerate(standard):
        os.dup2(descriptor, target)
        os.close(descriptor)
    for lifeline in lifelines:
        _hold(lifeline)
    _set_signals(request)
    with open("/proc/self/comm", "w", encoding="ascii") as stream:  # noqa: PTH123 - not a file in a folder
        stream.write(NAME)
    # Only where they differ: a sandbox may forbid the calls.
    if os.getpriority(os.PRIO_PROCESS, 0) != request.niceness:
        os.setpriority(os.PRIO_PROCESS, 0, request.niceness)
    for number, pair in enumerate(request.limits):
        if resource.getrlimit(number) != pair:
            resource.setrlimit(number, pair)
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    os.umask(request.umask)
    os.chdir(request.folder)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=os.isatty(1))
    fresh_random_state()
    importlib.invalidate_caches()
    return _become_main(request)


def _hold(lifeline: int) -> None:
    """Have the kernel kill this process when the launcher, the only writer of the pipe ``lifeline``, is gone."""
    os.set_inheritable(lifeline, False)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _set_signals(request: Request) -> None:
    """Set dispositions and mask as a new Python has them: default, or ignored where the launcher ignored."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN if number in request.ignored_signals else signal.SIG_DFL)
    ignored = signal.SIGINT in request.ignored_signals
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, request.blocked_signals)


def fresh_random_state() -> None:
    """Seed every generator of this process again, as a new process would.

    ``random`` and ``uuid`` see to themselves; so does OpenSSL. The seed of ``hash(str)`` cannot change in a running
    Python, so all tasks of one warm process share it.
    """
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()  # torch.seed() would go on to every kind of accelerator


def _become_main(request: Request) -> CodeType:
    """Set ``sys.argv``, ``sys.path`` and ``__main__`` as for ``request.program``; returns its compiled source."""
    with open(request.program, "rb") as stream:  # noqa: PTH123 - as Python opens its program
        code = compile(stream.read(), request.program, "exec")
    sys.argv[:] = [request.program, *request.arguments]
    if not sys.flags.safe_path:
        sys.path.insert(0, os.path.dirname(os.path.realpath(request.program)))  # noqa: PTH120 - a text, as Python's own
    module = ModuleType("__main__")
    module.__dict__.update(
        __annotations__={},
        __builtins__=builtins,
        __cached__=None,
        __file__=request.program,
        __loader__=SourceFileLoader("__main__", request.program),
    )
    sys.modules["__main__"] = module
    return code


def run_program(code: CodeType) -> NoReturn:
    """Run ``code`` as ``__main__``, and let Python end as it would after a program of its own."""
    sys.excepthook = _without_our_frames(sys.excepthook)
    ending.status = None
    try:
        exec(code, sys.modules["__main__"].__dict__)  # noqa: S102 - it is the program that was asked for
    except SystemExit as error:
        ending.status = status_of(error.code)
        raise
    except KeyboardInterrupt:
        raise  # Python ends by the signal itself, after its own clean-up
    except BaseException:
        ending.status = 1
        raise
    ending.status = 0
    sys.exit(0)


Hook = Callable[[type[BaseException], BaseException, TracebackType | None], object]


def _without_our_frames(hook: Hook) -> Hook:
    """Return ``hook`` for tracebacks that begin with the program, as they do in a process of its own."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        program = sys.modules["__main__"].__dict__.get("__file__")
        start = trace
        while start is not None and start.tb_frame.f_code.co_filename != program:
            start = start.tb_next
        hook(kind, error.with_traceback(start or trace), start or trace)

    return show


def _leaving(connection: socket.socket, record: ModuleRecord, loaded: frozenset[str]) -> Callable[[int], None]:
    """Return what to do at the very end: tell the launcher, and remember what a good task imported."""

    def leave(status: int) -> None:
        ctypes.CDLL(None).fflush(None)
        if status == 0:
            try:
                record.add(shareable_modules(imported_since(loaded)))
            except Exception:
                traceback.print_exc()
        with contextlib.suppress(OSError):
            connection.send(f"leaving {status}\n".encode())

    return leave
