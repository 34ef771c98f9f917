"""The program named ``flwr-clientapp``: hands a task to the warm process, or starts Flower's own program instead.

Where tasks run in a cell, ``common.cell.stand_in`` has this name instead. It runs once a task and does nothing else, so
it starts in a few milliseconds: ``-I -S``, and only built-in or compiled modules (``_signal`` and ``_socket`` instead
of their wrappers, which would import ``enum`` and ``selectors`` and double its start). Of the project it imports only
``common.cell.asking``.

Until it says "go", the task has not begun: any failure up to there ends in ``exec`` of the next ``flwr-clientapp`` on
PATH, with the same arguments, environment, folder and descriptors, and is noted for the agent in ``fallbacks``. From
"go" on it only stands for the task: it passes signals on, and ends as the task ended.

Talk on the socket (all integers decimal, one message a line unless said otherwise):

    launcher → server   4 bytes length, then fields separated by NUL, with 0, 1, 2 and the lifeline as SCM_RIGHTS
    server → launcher   refused REASON                            start it cold
    task   → launcher   ready PID   with a pidfd as SCM_RIGHTS    everything is taken over
    launcher → task     go
    task   → launcher   leaving STATUS                            about to end by itself
    server → launcher   ended STATUS                              reaped; minus the number of the signal if killed

The lifeline is a pipe whose other end only the launcher holds: the kernel kills the task when the launcher is gone.
"""

# ruff: noqa: PTH118, SIM105, S606 - pathlib, contextlib and subprocess would each cost more than the whole start
from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import sys
import time

from fleven_agent.common.cell import asking
from fleven_agent.common.cell.asking import FORWARDED, request, status_of, through_folder

TYPE_CHECKING = False  # type checkers take it for true; importing `typing` would double the start
if TYPE_CHECKING:
    from typing import NoReturn

NAME = "flwr-clientapp"
SOCKET_NAME = "task.sock"
FALLBACKS_NAME = "fallbacks"
# Longer than warming on a slow board usually takes, shorter than what makes Flower give up on a claimed task (30 s).
READY_SECONDS = 8.0
# After the task is dead its status is due at once; only a stopped or dead server lets this pass.
STATUS_SECONDS = 2.0
STATUS_UNKNOWN = 1


class ColdStartError(Exception):
    """The task cannot be handed over; ``reason`` is a value of ``settings.Fallback``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def main(runtime_directory: str, own_folder: str) -> NoReturn:
    """Run the task of this command line and end as it ends."""
    program = asking.next_program(NAME, own_folder, os.environ.get("PATH", os.defpath))
    try:
        connection, task = hand_over(runtime_directory, program)
    except ColdStartError as error:
        start_cold(program, runtime_directory, error.reason)
    except Exception:  # whatever it is, Flower's own program can still run the task
        start_cold(program, runtime_directory, "error")
    stand_for(connection, task)


def start_cold(program: str, runtime_directory: str, reason: str) -> NoReturn:
    """Note ``reason`` and become Flower's own program."""
    try:
        note = os.open(
            os.path.join(runtime_directory, FALLBACKS_NAME),
            os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
        )
        os.write(note, f"{time.time():.0f} {reason}\n".encode())
        os.close(note)
    except OSError:
        pass  # A full or read-only folder must not cost the task.
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)  # Python ignores both, and exec would pass that on.
    os.execv(program, [program, *sys.argv[1:]])


def hand_over(runtime_directory: str, program: str) -> tuple[_socket.socket, int]:
    """Have the warm process take the task over, and say "go".

    Returns the connection and a pidfd of the task. Raises ``ColdStartError`` when the task has not begun and never
    will.
    """
    message = request(program, asking.token_of(sys.argv[1:]))
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    connection.settimeout(READY_SECONDS)
    deadline = time.monotonic() + READY_SECONDS
    try:
        through_folder(runtime_directory, SOCKET_NAME, connection.connect)
    except TimeoutError:
        raise ColdStartError("timeout") from None
    except OSError:
        raise ColdStartError("absent") from None
    peer = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    if int.from_bytes(peer[4:8], sys.byteorder) not in (0, os.getuid()):
        raise ColdStartError("foreign")
    lifeline, _held_open = os.pipe()  # _held_open stays open, untouched, for as long as this process lives
    try:
        descriptors = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2, lifeline))
        sent = connection.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
        if sent < len(message):  # even an empty send fails once the other side has refused and closed
            connection.sendall(message[sent:])
        os.close(lifeline)
        answer, task = receive_answer(connection, deadline)
    except TimeoutError:
        connection.close()
        raise ColdStartError("timeout") from None
    except OSError:
        connection.close()
        raise ColdStartError("ended") from None
    if task is None:
        connection.close()
        raise ColdStartError(answer.removeprefix("refused ").strip() if answer.startswith("refused ") else "ended")
    begin(connection, task)
    return connection, task


def receive_answer(connection: _socket.socket, deadline: float) -> tuple[str, int | None]:
    """Return the first line of the other side, and the pidfd that came with it."""
    connection.settimeout(max(0.01, deadline - time.monotonic()))
    data, ancillary, _, _ = connection.recvmsg(256, _socket.CMSG_LEN(4))
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return data.decode("ascii", "replace"), int.from_bytes(content[:4], sys.byteorder)
    return data.decode("ascii", "replace"), None


def begin(connection: _socket.socket, task: int) -> None:
    """Say "go". From here on, what happens to this process happens to the task."""

    def forward(number: int, _frame: object) -> None:
        try:
            _signal.pidfd_send_signal(task, number)
        except ProcessLookupError:
            pass  # It just ended; its status is on the way.

    for number in FORWARDED:
        if _signal.getsignal(number) is not _signal.SIG_IGN:
            _signal.signal(number, forward)
    connection.settimeout(None)
    try:
        connection.send(b"go\n")
    except OSError:
        pass  # Both task and server are gone; `stand_for` sees it and says so.


def stand_for(connection: _socket.socket, task: int) -> NoReturn:
    """Wait for the task's end and end the same way."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    poll.register(task, select.POLLIN)
    text = ""
    dead_at: float | None = None
    while True:
        remaining = None if dead_at is None else max(0.0, dead_at + STATUS_SECONDS - time.monotonic())
        ready = dict(poll.poll(None if remaining is None else int(remaining * 1000) + 1))
        if task in ready:
            poll.unregister(task)
            dead_at = time.monotonic()
        if connection.fileno() in ready:
            data = connection.recv(256)
            text += data.decode("ascii", "replace")
            if not data or "ended " in text:
                break
        elif dead_at is not None and time.monotonic() >= dead_at + STATUS_SECONDS:
            break
    end_as(status_of(text))


def end_as(status: int | None) -> NoReturn:
    """End with the exit status, or by the signal that ended the task."""
    if status is None:
        os.write(2, f"{NAME}: the task ended after its warm process; its exit status is unknown\n".encode())
        os._exit(STATUS_UNKNOWN)
    asking.end_as(status)
