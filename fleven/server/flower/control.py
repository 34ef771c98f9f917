"""The SuperLink's Control API, spoken in this process: a read costs milliseconds, a `flwr` process a second of CPU.

Flower's own stubs, loaded at the first call (they bring half of Flower). It reads, stops runs, and registers and
removes node keys: apps are submitted by `flwr run`. Whatever it does not expect ends in an error, and the caller falls
back to the command. The only module of the server that imports Flower's code; `line` opens it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleven.server.errors import FlowerError, SuperLinkUnreachableError
from fleven.server.flower.answers import FlowerNode, FlowerRun

if TYPE_CHECKING:
    from collections.abc import Callable

CALL_SECONDS = 10.0
LARGEST_MESSAGE_BYTES = 64_000_000
"""A list of a hundred thousand runs."""


class ControlUnusableError(FlowerError):
    """The Control API cannot be spoken like this; the command may know better."""

    code = "flower-control-unusable"


class GrpcControl:
    """The Control API of Flower 1.31 to 1.34. Safe to use from several threads.

    Args:
        connection: the table of the connection in Flower's config.toml: address, and insecure or root-certificates.
        process_lost: tells by a run's details whether its ServerApp's process went away.
    """

    def __init__(self, connection: Mapping[str, Any], process_lost: Callable[[str], bool]) -> None:
        self._address = str(connection["address"])
        certificates = connection.get("root-certificates")
        self._certificates = None if connection.get("insecure") else Path(str(certificates))
        self._process_lost = process_lost
        self._lock = threading.Lock()
        self._channel: Any = None
        self._channel_for: tuple[int, int] | None = None

    def nodes(self) -> list[FlowerNode]:
        """Return all nodes, removed ones among them, with their public keys.

        Raises:
            FlowerError: no answer that is understood.
        """
        from flwr.proto import control_pb2

        answer = self._call("ListNodes", control_pb2.ListNodesRequest())
        return [
            FlowerNode(
                str(node.node_id),
                node.status,
                _moment(node.last_activated_at),
                _moment(node.last_deactivated_at),
                bytes(node.public_key),
            )
            for node in sorted(answer.nodes_info, key=lambda node: str(node.registered_at))
        ]

    def runs(self, run_id: str | None) -> list[FlowerRun]:
        """Return all runs, the newest first, or one.

        Raises:
            FlowerError: no answer that is understood; also for a run that is not known.
        """
        from flwr.proto import control_pb2

        wanted = {} if run_id is None else {"run_id": int(run_id)}
        answer = self._call("ListRuns", control_pb2.ListRunsRequest(**wanted))
        found = sorted(answer.run_dict.values(), key=lambda run: str(run.pending_at), reverse=True)
        return [self._run(run) for run in found]

    def register(self, public_key: bytes) -> str:
        """Let a key in, and return the id of its node.

        Args:
            public_key: PEM of its SubjectPublicKeyInfo.

        Raises:
            FlowerError: it was refused; a key that was ever removed is refused for good.
        """
        from flwr.proto import control_pb2

        answer = self._call("RegisterNode", control_pb2.RegisterNodeRequest(public_key=public_key))
        if not answer.node_id:
            raise FlowerError("the SuperLink registered the node's key without giving it an id")
        return str(answer.node_id)

    def unregister(self, node_id: str) -> None:
        """Remove a node; its SuperNode is refused from then on.

        Raises:
            FlowerError: it was refused, or the node is not known.
        """
        from flwr.proto import control_pb2

        self._call("UnregisterNode", control_pb2.UnregisterNodeRequest(node_id=int(node_id)))

    def stop(self, run_id: str) -> None:
        """Stop a run.

        Raises:
            FlowerError: it was refused, or the run is not known or has ended.
        """
        from flwr.proto import control_pb2

        if not self._call("StopRun", control_pb2.StopRunRequest(run_id=int(run_id))).success:
            raise ControlUnusableError("StopRun: the run was not stopped")

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()
            self._channel = None

    def _call(self, method: str, request: Any) -> Any:
        import grpc
        from flwr.proto.control_pb2_grpc import ControlStub

        try:
            return getattr(ControlStub(self._open()), method)(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            code, details = error.code(), str(error.details() or "")
            if code is grpc.StatusCode.UNAVAILABLE:
                # The next call makes a new connection at once, and does not wait out a pause of gRPC's.
                self.close()
                hint = "systemctl status fleven-superlink"
                raise SuperLinkUnreachableError("the SuperLink does not answer", hint=hint) from error
            raise ControlUnusableError(f"{method}: {code.name.lower()}: {details[:300]}") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise ControlUnusableError(f"{method}: {error}") from error

    def _open(self) -> Any:
        """Return the channel; a new one when the authority's certificate has changed."""
        # gRPC's handlers for fork() are for programs that go on using it in the child: this one only starts others.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        import grpc

        with self._lock:
            seen = None
            if self._certificates is not None:
                try:
                    state = self._certificates.stat()
                    seen, root = (state.st_mtime_ns, state.st_size), self._certificates.read_bytes()
                except OSError as error:
                    raise ControlUnusableError(f"{self._certificates}: {error.strerror}") from error
            if self._channel is not None and seen == self._channel_for:
                return self._channel
            if self._channel is not None:
                self._channel.close()
            options = [
                ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
                # It stays on this machine: a proxy would take even calls to loopback.
                ("grpc.enable_http_proxy", 0),
            ]
            if self._certificates is None:
                self._channel = grpc.insecure_channel(self._address, options=options)
            else:
                credentials = grpc.ssl_channel_credentials(root)
                self._channel = grpc.secure_channel(self._address, credentials, options=options)
            self._channel_for = seen
            return self._channel

    def _run(self, run: Any) -> FlowerRun:
        return FlowerRun(
            run_id=str(run.run_id),
            version=run.fab_version,
            status=run.status.status,
            sub_status=run.status.sub_status,
            details=run.status.details,
            process_lost=self._process_lost(run.status.details),
            pending_at=_moment(run.pending_at),
            running_at=_moment(run.running_at),
            finished_at=_moment(run.finished_at),
        )


def _moment(text: str) -> datetime | None:
    """Return a time as the Control API writes it (ISO 8601, "" for never)."""
    return datetime.fromisoformat(text).astimezone(UTC) if text else None
