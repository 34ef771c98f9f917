"""The kernel's own count of what a connection carries, asked of a connection on loopback."""

import os
import socket

from fleven_agent.system import tcp_counters


def test_bytes_on_the_wire_are_counted_with_their_headers_and_by_remote_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0] as other:
            client.sendall(b"x" * 100_000)
            received = 0
            while received < 100_000:
                received += len(other.recv(65_536))
            other.sendall(b"y" * 10)
            assert client.recv(10) == b"y" * 10
            inode = os.fstat(client.fileno()).st_ino
            found = tcp_counters.wire_bytes([os.getpid(), 2**22 + 1], {port})
            assert found is not None
            assert set(found) == {inode}  # the other end has another remote port
            assert 100_010 + 5 * 52 <= found[inode] <= 103_000 + 100 * 52
            assert tcp_counters.wire_bytes([os.getpid()], {port + 1}) == {}
