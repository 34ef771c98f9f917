"""The control socket under users that only want to keep others from it."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleven_agent import control
from fleven_agent.control import ControlServer, request


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    one = ControlServer(tmp_path, lambda command, _arguments: {"said": command})
    one.start()
    yield one
    one.stop()


def connect(server: ControlServer) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.connect(str(server.path))
    line.settimeout(10)
    return line


def test_silent_connections_hold_up_nobody(server: ControlServer, tmp_path: Path) -> None:
    lines = [connect(server) for _ in range(20)]
    begin = time.monotonic()
    assert request(tmp_path, "status")["said"] == "status"
    assert time.monotonic() - begin < control.TIMEOUT_SECONDS
    for line in lines:
        line.close()


def test_a_request_that_drips_is_cut_after_its_time(server: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TIMEOUT_SECONDS", 0.3)
    with connect(server) as line:
        begin = time.monotonic()
        with pytest.raises(OSError, match=r"pipe|reset"):  # noqa: PT012  # the first sends go through
            while time.monotonic() - begin < 10:
                line.sendall(b" ")
                time.sleep(0.02)
    assert time.monotonic() - begin < 5


def test_a_user_who_may_only_ask_gets_a_few_places_and_root_always_one(tmp_path: Path) -> None:
    one, stranger = ControlServer(tmp_path, lambda _command, _arguments: {}), os.geteuid() + 12_345
    assert [one._take_place(stranger) for _ in range(5)] == [True] * 4 + [False]
    assert one._take_place(stranger + 1)
    for other in range(2, 20):
        one._take_place(stranger + other)
    assert not one._take_place(stranger + 99)
    assert one._take_place(os.geteuid())
