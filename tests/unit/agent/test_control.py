"""The control socket under users that only want to keep others from it."""

import errno
import os
import socket
import threading
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


def test_a_connection_that_cannot_be_taken_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PAUSE_SECONDS", 0.01)
    failures = [OSError(errno.EMFILE, "too many open files"), OSError(errno.ECONNABORTED, "aborted")]
    accept = socket.socket.accept

    def failing(listener: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", failing)
    one = ControlServer(tmp_path, lambda command, _arguments: {"said": command})
    one.start()
    try:
        assert request(tmp_path, "status")["said"] == "status"
    finally:
        one.stop()
    assert not failures


def test_a_connection_without_a_thread_is_turned_away_and_leaves_its_place(
    server: ControlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without_threads:
        without_threads.setattr(threading.Thread, "start", start)
        with connect(server) as line:
            assert b"too many connections" in line.recv(1_000)
    assert server._open.total() == 0
    assert request(tmp_path, "status")["said"] == "status"
