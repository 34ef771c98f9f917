"""What a program that stands in for one of Flower's says of itself, so that another process can be it.

The stand-ins run once a task and do nothing else, so they start in a few milliseconds: ``-I -S``, and only built-in or
compiled modules (``_signal`` instead of its wrapper, which would import ``enum`` and double the start). This module
must not import anything else of the project.
"""

# ruff: noqa: PTH109, PTH113, PTH118 - pathlib would cost more than the whole start
from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

TYPE_CHECKING = False  # type checkers take it for true; importing `typing` would double the start
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

FORWARDED = (
    _signal.SIGHUP,
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGTERM,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
    _signal.SIGCONT,
)


def next_program(name: str, own_folder: str, path: str) -> str:
    """Return the first program ``name`` on ``path`` that is not ours; ends with 127 when there is none."""
    own = os.path.realpath(own_folder)
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder or ".", name)
        if os.path.realpath(folder or ".") != own and os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    os.write(2, f"{name}: no Flower program of this name on PATH\n".encode())
    os._exit(127)


def request(program: str, arguments: Sequence[str]) -> bytes:
    """Return what the task needs to be what ``exec`` of ``program`` would have been here."""
    ignored = [str(number) for number in FORWARDED if _signal.getsignal(number) is _signal.SIG_IGN]
    blocked = [str(int(number)) for number in _signal.pthread_sigmask(_signal.SIG_BLOCK, ())]
    umask = os.umask(0)
    os.umask(umask)
    facts = [
        program,
        os.getcwd(),
        str(umask),
        " ".join(ignored),
        " ".join(blocked),
        " ".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))),
        str(os.getpriority(os.PRIO_PROCESS, 0)),
        " ".join(str(value) for value in limits()),
        str(len(arguments)),
    ]
    fields = [os.fsencode(fact) for fact in (*facts, *arguments)]
    fields += [name + b"=" + value for name, value in os.environb.items()]
    body = b"\0".join(fields)
    return len(body).to_bytes(4, "big") + body


def limits() -> list[int]:
    """Return soft and hard limit of every resource that Linux counts, in the order of their numbers."""
    import resource

    return [value for number in range(16) for value in resource.getrlimit(number)]


def through_folder(folder: str, name: str, call: Callable[[str], None]) -> None:
    """Call with the path of a socket that fits into the 108 bytes of its address, however deep the folder lies.

    Raises OSError: what the call raises, or the folder cannot be opened.
    """
    path = os.path.join(folder, name)
    if len(os.fsencode(path)) < 100:
        call(path)
        return
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{descriptor}/{name}")
    finally:
        os.close(descriptor)


def status_of(text: str) -> int | None:
    """Return the exit status told in ``text``: the server's word first, else the task's own; None if neither came."""
    told = {}
    for line in text.splitlines():
        word, _, value = line.partition(" ")
        if value.lstrip("-").isdigit():
            told[word] = int(value)
    return told.get("ended", told.get("leaving"))


def end_as(status: int) -> NoReturn:
    """End with the exit status, or by the signal that ended the task."""
    if status < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if -status not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(-status, _signal.SIG_DFL)
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (-status,))
        os.kill(os.getpid(), -status)
        os._exit(128 - status)
    os._exit(status)


def token_of(arguments: list[str]) -> list[str]:
    """Return the arguments with ``--token-file FILE`` replaced by ``--token`` and what the file holds.

    The file is one of this process's own descriptors, which no other process has.
    """
    if "--token-file" not in arguments[:-1]:
        return arguments
    at = arguments.index("--token-file")
    if not arguments[at + 1].startswith("/proc/self/fd/"):
        return arguments
    with open(arguments[at + 1], encoding="ascii") as stream:  # noqa: PTH123
        return [*arguments[:at], "--token", stream.read().strip(), *arguments[at + 2 :]]
