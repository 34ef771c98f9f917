"""What the cell's process does between two tasks. All else of it is tried in a real cell, on booted machines."""

import socket
from pathlib import Path
from unittest.mock import Mock

import pytest

from fleven_agent.common.cell.server import Row, Running
from fleven_agent.common.cell.sweep import Space


def listening(port: int = 0) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(("127.0.0.1", port))
        made.listen(1)
    except OSError:
        made.close()
        raise
    return made


def test_the_next_task_has_the_port_while_the_stand_in_of_the_last_still_holds_it(tmp_path: Path) -> None:
    running = Running(Row(0, 1, 0.0), Mock(), Space.of(tmp_path), listener=listening())
    assert running.listener is not None
    port = running.listener.getsockname()[1]
    with running.listener.dup() as stand_in:
        with pytest.raises(OSError, match="in use"):
            listening(port)
        running.stop_listening()
        with listening(port) as following, socket.create_connection(("127.0.0.1", port), 5) as task:
            carried, address = following.accept()
            carried.close()
            assert address == task.getsockname(), "it is the new stand-in that carries it"
            with pytest.raises(OSError, match="Invalid"):
                stand_in.accept()
    running.stop_listening()
