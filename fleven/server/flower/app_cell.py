"""The cell of ServerApps as the server sees it: where it is, whether it is one, and the programs that hand over.

The executor starts `flwr-serverapp` by name; a program of that name earlier on PATH is a way in that needs nothing but
Flower's command line. It is written at each start, since it names the interpreter. Standard library and `common` only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path

from fleven.server.flower.line import installed_line
from fleven_agent.common.cell import messages
from fleven_agent.common.files import write_atomically

SOCKET = Path("/run/fleven-app/cell.sock")
SOCKET_VARIABLE = "FLEVEN_APP_CELL_SOCKET"
LOOK_SECONDS = 20.0


def socket_path() -> Path:
    """Return where systemd listens for the cell (FLEVEN_APP_CELL_SOCKET)."""
    return Path(os.environ.get(SOCKET_VARIABLE) or SOCKET)


def connect(path: Path) -> socket.socket:
    """Return a connection to a cell of its own, which systemd starts; raises ``OSError``."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise OSError(f"{path}: {error.strerror or error}") from error
    return connection


def problem(path: Path, seconds: float = LOOK_SECONDS) -> str:
    """Return why no ServerApp can work apart from the server; empty when it can. Starts a cell to ask it."""
    try:
        with connect(path) as connection:
            connection.settimeout(seconds)
            messages.send(connection, {"look": True})
            received = messages.receive(connection)
    except OSError as error:
        return f"the cell does not answer: {error}"
    if received is None:
        return "the cell ended; see journalctl -u 'fleven-app@*'"
    return str(received[0].get("problem", "it says nothing"))


def write_programs(folder: Path, state: Path, cell_socket: Path) -> Path:
    """Write the programs that stand first on the SuperLink's PATH, and return their folder.

    Raises:
        OSError: the folder cannot be written.
    """
    line = installed_line()
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    for name in line.task_programs:
        call = f"main({name!r}, {str(folder)!r}, {str(cell_socket)!r}, {str(state)!r})"
        text = f"#!{sys.executable} -Iu\nfrom fleven.server.flower.server_app import main\n\n{call}\n"
        target = folder / name
        with contextlib.suppress(OSError):
            if target.read_text(encoding="utf-8") == text and os.access(target, os.X_OK):
                continue
        write_atomically(target, text.encode())
        target.chmod(0o755)
    return folder
