"""What a cell for one task and the program outside say to each other: JSON documents, some with open descriptors.

On a socket that keeps the borders of messages (SOCK_SEQPACKET). From outside: ``look`` (is it apart?), ``prepare``
(environment, modules to import), ``file`` (a file that the task may read), ``run`` (the task, with its three standard
descriptors). From the cell: ``problem``, ``ready`` (with the listening socket of its side), ``refused``, ``file`` (one
that the task has written), ``gone``, ``ended``; ``taken`` answers a file that is written or gone. Standard library
only.
"""

import array
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

MAXIMUM_BYTES = 180_000
"""Of a message; Linux's default for what a socket holds is 212,992."""
MAXIMUM_DESCRIPTORS = 3


class MessageError(OSError):
    """What came is no message, or what is to be sent is too long for one."""


def send(connection: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message; raises ``OSError``."""
    body = json.dumps(message).encode()
    if len(body) > MAXIMUM_BYTES:
        raise MessageError(f"a message of {len(body)} bytes is too long")
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    connection.sendmsg([body], passed)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next message and its descriptors, which are then the caller's; None when the other side has gone.

    Raises:
        BlockingIOError: there is none yet.
        MessageError: what came is none; its descriptors are closed.
        OSError: the connection is broken.
    """
    item = array.array("i")
    space = socket.CMSG_SPACE(MAXIMUM_DESCRIPTORS * item.itemsize)
    body, ancillary, _, _ = connection.recvmsg(MAXIMUM_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            item.frombytes(content[: len(content) - len(content) % item.itemsize])
    descriptors = list(item)
    if not body:
        return None
    try:
        message = dict(json.loads(body))
    except (ValueError, TypeError, RecursionError) as error:
        for descriptor in descriptors:
            os.close(descriptor)
        raise MessageError(f"not a message: {error}") from None
    return message, descriptors
