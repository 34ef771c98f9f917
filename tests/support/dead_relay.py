"""A TCP relay whose connections can be made dead: nothing answers any more, as when the address at the end is gone.

The relay puts a filter that lets no packet in on the sockets of its present connections. So the kernel acknowledges
nothing, and nobody is told; connections that are made afterwards work.
"""

import ctypes
import socket
import struct
import threading
from contextlib import suppress

SO_ATTACH_FILTER = 26


class DeadRelay:
    """Forwards connections to a port of this machine.

    Args:
        target: the port.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def kill_connections(self) -> None:
        """Make all present connections dead."""
        # One instruction of the classic packet filter: BPF_RET with 0, let nothing in.
        program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
        for near, _ in self._open:
            near.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))

    def close(self) -> None:
        """End the relay."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._open:
            for one in pair:
                one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                self._open.append((near, far))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(65_536):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
