"""The first bytes of an answer tell what speaks at a port."""

import pytest

from fleven_agent.common.endpoints import DESCRIPTIONS, Protocol, classify

# What flower-superlink (flwr 1.34) sends to every new connection: its SETTINGS frame.
GRPC = bytes.fromhex("00001e0400000000000003000003e8000400400000")


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (GRPC, Protocol.HTTP2),
        (b"HTTP/1.1 400 Bad Request\r\n", Protocol.HTTP1),
        (b"\x15\x03\x03\x00\x02\x02F", Protocol.TLS),
        (b"SSH-2.0-OpenSSH_9.2p1", Protocol.OTHER),
        (b"", Protocol.SILENT),
    ],
)
def test_each_kind_of_server_is_told_apart(first: bytes, expected: Protocol) -> None:
    assert classify(first) is expected
    assert DESCRIPTIONS[expected]
