"""What a cell's connections carry: every byte both ways, the end of one side alone, nothing to a closed port."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from fleven_agent.common.cell.relay import Relay
from fleven_agent.common.cell.stand_in import numeric_address


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen(8)
        yield made


@contextlib.contextmanager
def relaying(port: int) -> Iterator[int]:
    """Run a relay to a port; yields the port inside."""
    with listening() as inside:
        relay = Relay(os.dup(inside.fileno()), "127.0.0.1", port)
        wake, stop = os.pipe()
        relay.poll.register(wake, 1)

        def carry() -> None:
            while True:
                for descriptor, events in relay.poll.poll():
                    if not relay.handle(descriptor, events):
                        return

        thread = threading.Thread(target=carry)
        thread.start()
        try:
            yield inside.getsockname()[1]
        finally:
            os.close(stop)
            thread.join(10)
            os.close(wake)
            relay.close()
        assert not thread.is_alive()


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(1 << 16):
        data += chunk
    return data


def test_all_bytes_arrive_though_one_side_does_not_read_for_a_while() -> None:
    content = os.urandom(5_000_000)
    with listening() as outside, relaying(outside.getsockname()[1]) as port:
        task = socket.create_connection(("127.0.0.1", port), 10)
        served, _ = outside.accept()
        with task, served:
            sender = threading.Thread(target=lambda: (task.sendall(content), task.shutdown(socket.SHUT_WR)))
            sender.start()
            served.sendall(b"first")
            assert task.recv(5) == b"first"  # one way goes on while the other is full
            assert read_all(served) == content
            sender.join(10)
            served.sendall(b"the answer after the end of the question")
            served.shutdown(socket.SHUT_WR)
            assert read_all(task) == b"the answer after the end of the question"


def test_connections_do_not_mix_and_one_that_breaks_ends_its_own_pair() -> None:
    with listening() as outside, relaying(outside.getsockname()[1]) as port:
        first = socket.create_connection(("127.0.0.1", port), 10)
        first_served, _ = outside.accept()
        second = socket.create_connection(("127.0.0.1", port), 10)
        second_served, _ = outside.accept()
        with first, first_served, second, second_served:
            first_served.close()
            assert read_all(first) == b""
            second.sendall(b"still here")
            assert second_served.recv(10) == b"still here"


def test_a_port_that_is_closed_outside_is_closed_inside() -> None:
    with listening() as outside:
        port_of_nobody = outside.getsockname()[1]
    with relaying(port_of_nobody) as port, socket.create_connection(("127.0.0.1", port), 10) as task:
        assert read_all(task) == b""


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:9094", ("127.0.0.1", 9094)),
        ("0.0.0.0:9095", ("127.0.0.1", 9095)),
        ("localhost:1", ("127.0.0.1", 1)),
        ("[::1]:9094", ("::1", 9094)),
        ("100.64.0.2:9094", ("100.64.0.2", 9094)),
    ],
)
def test_the_address_of_the_command_line_is_where_it_connects_outside(address: str, expected: tuple[str, int]) -> None:
    assert numeric_address(["--insecure", "--api", address], "--api") == expected


def test_a_command_line_without_the_address_is_refused() -> None:
    with pytest.raises(ValueError, match="has no --api"):
        numeric_address(["--insecure"], "--api")
