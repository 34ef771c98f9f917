"""The process of the next task, forked when the one before it has ended: a round does not wait for the fork.

It waits only while no task is at work, becomes the next one itself, and is gone before a task starts in any other way:
so no task ever has it beside itself. Standard library only.
"""

import contextlib
import os
import signal
import socket
from collections.abc import Sequence

from fleven_agent.common.cell.request import Request, RequestError, body_of, receive

SEND_SECONDS = 2.0


class Waiting:
    """The process, as the one that forked it sees it.

    Args:
        process_id: of a child of this process that nobody else reaps without its number being free.
        connection: to it.
        note: descriptor on which it says that it has begun.
    """

    def __init__(self, process_id: int, connection: socket.socket, note: int) -> None:
        self.process_id = process_id
        self.note = note
        self._connection = connection

    def hand_over(self, request: Request, descriptors: Sequence[int]) -> None:
        """Have it become a task; raises ``OSError`` when it has ended, or has not got all: then it never begins."""
        body = body_of(request)
        message = len(body).to_bytes(4, "big") + body
        with self._connection as connection:
            connection.settimeout(SEND_SECONDS)
            sent = socket.send_fds(connection, [message], list(descriptors))
            if sent < len(message):  # even an empty send fails once the other side has all and has closed
                connection.sendall(message[sent:])

    def end(self) -> None:
        """End it, and wait until it is gone."""
        self._connection.close()
        os.close(self.note)
        with contextlib.suppress(ChildProcessError):  # it has ended before, and was reaped
            if os.waitpid(self.process_id, os.WNOHANG)[0] == 0:
                os.kill(self.process_id, signal.SIGKILL)
                os.waitpid(self.process_id, 0)


def wait(connection: socket.socket, count: int) -> tuple[Request, list[int]] | None:
    """Return, in the forked process, the task that it is to be and its descriptors; None when it is not needed.

    Args:
        connection: to the process that forked this one.
        count: how many descriptors a task has.
    """
    descriptors: list[int] = []
    with connection:
        if not connection.recv(1, socket.MSG_PEEK):
            return None
        try:
            return receive(connection, descriptors, count), descriptors
        except (RequestError, EOFError, OSError):
            return None
