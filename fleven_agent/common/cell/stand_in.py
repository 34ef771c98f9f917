"""The program that stands for a task in a cell: hands it over, carries its connections, and ends as it ends.

It runs under the name of Flower's own program, started by Flower's executor. Where the cell does not take the task, the
task is not run at all: there is no way around it from here. Light imports only, see ``asking``.

Talk on the cell's socket:

    stand-in → cell   4 bytes length, then fields separated by NUL, with 0, 1 and 2 as SCM_RIGHTS
    cell → stand-in   refused REASON
    cell → stand-in   ready PID     with the listening socket of the cell's side as SCM_RIGHTS
    cell → stand-in   ended STATUS  reaped; minus the number of the signal if killed

Where the environment asks for it, 1 and 2 are the ends of a pipe, and what the task prints is marked (see ``output``).

When the stand-in goes, its end of the connection closes, and the cell kills the task.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import sys

from fleven_agent.common.cell.asking import end_as, next_program, request, status_of, token_of
from fleven_agent.common.cell.output import VARIABLE, MarkedOutput
from fleven_agent.common.cell.relay import Relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# Longer than a slow board takes to import what a task needs; Flower gives up on a claimed task after 30 s.
READY_SECONDS = 28.0
REFUSED = 1
APP_VARIABLE = "FLEVEN_APP"
"""Hash of the task's bundle, told by the executor; each run has one of its own."""
IDENTITY_VARIABLE = "FLEVEN_APP_IDENTITY"
"""The same for all bundles of one app; what an app left in the cell is for its own tasks alone."""


def main(name: str, address_option: str, socket_path: str, own_folder: str) -> NoReturn:
    """Run the task of this command line in the cell, and end as it ends."""
    program = next_program(name, own_folder, os.environ.get("PATH", os.defpath))
    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT):
        _signal.signal(number, _signal.SIG_DFL)
    output = MarkedOutput(1) if os.environ.get(VARIABLE) else None
    streams = (0, 1, 2) if output is None else (0, output.write, output.write)
    try:
        arguments = token_of(sys.argv[1:])
        host, port = numeric_address(arguments, address_option)
        connection, listener = hand_over(socket_path, request(program, arguments), streams)
    except (OSError, ValueError) as error:
        os.write(2, f"{name}: the task was not run: its cell at {socket_path}: {error}\n".encode())
        os._exit(REFUSED)
    for number in (0, 1, 2) if output is None else (0, 2, output.write):
        os.close(number)  # the task has its own; a reader of ours must see its end
    status = stand_for(connection, Relay(listener, host, port), output)
    end_as(REFUSED if status is None else status)


def numeric_address(arguments: list[str], option: str) -> tuple[str, int]:
    """Return host and port of the API that the task needs; raises ValueError when the command line has none."""
    if option not in arguments[:-1]:
        raise ValueError(f"the command line has no {option}")
    host, _, port = arguments[arguments.index(option) + 1].rpartition(":")
    host = host.strip("[]")
    if host in ("0.0.0.0", "::", "localhost", ""):  # noqa: S104 - where it listens everywhere, it listens here
        host = "::1" if host == "::" else "127.0.0.1"
    return host, int(port)


def hand_over(socket_path: str, message: bytes, streams: tuple[int, int, int]) -> tuple[_socket.socket, int]:
    """Have the cell take the task; return the connection and the listening socket inside the cell.

    Args:
        socket_path: of the cell.
        message: what the task needs to be.
        streams: its standard input, output and errors.

    Raises:
        OSError: the cell does not answer, or refuses; the text says why.
    """
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    connection.settimeout(READY_SECONDS)
    connection.connect(socket_path)
    peer = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    if int.from_bytes(peer[4:8], sys.byteorder) not in (0, os.getuid()):
        raise OSError("it belongs to another user")
    descriptors = b"".join(number.to_bytes(4, sys.byteorder) for number in streams)
    sent = connection.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
    if sent < len(message):
        connection.sendall(message[sent:])
    data, ancillary, _, _ = connection.recvmsg(256, _socket.CMSG_LEN(4))
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return connection, int.from_bytes(content[:4], sys.byteorder)
    raise OSError(data.decode("ascii", "replace").strip() or "it went away")


def stand_for(connection: _socket.socket, relay: Relay, output: MarkedOutput | None = None) -> int | None:
    """Carry the task's connections, and what it prints, until it has ended.

    Args:
        connection: to the cell.
        relay: of the task's connections.
        output: of what it prints; None where it prints by itself.

    Returns:
        Its exit status, None when the cell went away.
    """
    try:
        return _until_its_end(connection, relay, output)
    finally:
        if output is not None:
            output.end()


def _until_its_end(connection: _socket.socket, relay: Relay, output: MarkedOutput | None) -> int | None:
    own = connection.fileno()
    relay.poll.register(own, select.POLLIN)
    if output is not None:
        relay.poll.register(output.read, select.POLLIN)
    text = ""
    while True:
        for descriptor, events in relay.poll.poll():
            if relay.handle(descriptor, events):
                continue
            if output is not None and descriptor == output.read:
                if not output.pass_on():
                    relay.poll.unregister(output.read)
                continue
            if descriptor != own:
                continue
            data = connection.recv(256)
            text += data.decode("ascii", "replace")
            if not data or "ended " in text:
                return status_of(text)
