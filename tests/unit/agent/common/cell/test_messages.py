"""Messages between a cell for one task and the program outside: over a real pair of sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleven_agent.common.cell import messages
from fleven_agent.common.cell.messages import MAXIMUM_BYTES, MessageError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield both ends."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        yield here, there


def test_documents_and_descriptors_arrive_as_they_were_sent(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    here, there = pair
    (tmp_path / "file").write_text("content")
    with (tmp_path / "file").open("rb") as stream:
        messages.send(here, {"file": "a/b"}, [stream.fileno()])
    messages.send(here, {"ended": -9})
    received = messages.receive(there)
    assert received is not None
    message, (descriptor,) = received
    assert message == {"file": "a/b"}
    assert os.read(descriptor, 100) == b"content"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    assert messages.receive(there) == ({"ended": -9}, [])
    here.close()
    assert messages.receive(there) is None


@pytest.mark.parametrize("body", [b"x", b"[1]", b"3", b"[" * 100_000])
def test_what_is_no_message_is_refused_and_its_descriptors_are_closed(
    pair: tuple[socket.socket, socket.socket], body: bytes
) -> None:
    here, there = pair
    reading, writing = os.pipe()
    socket.send_fds(here, [body], [writing])
    os.close(writing)
    with pytest.raises(MessageError):
        messages.receive(there)
    assert os.read(reading, 1) == b""  # nobody holds the other end any more
    os.close(reading)


def test_a_message_that_does_not_fit_is_not_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(MessageError):
        messages.send(pair[0], {"x": "y" * MAXIMUM_BYTES})
