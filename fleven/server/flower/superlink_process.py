"""Runs Flower's own `flower-superlink` with bounds that it has no options for: the size and number of what a car sends.

Flower takes messages of up to 2 GB, and reads them before it asks who sends: a stranger's message of 300 MB cost 2.7 GB
of memory. Here a message has a bound that Flower's own parts stay far below; with SuperNode authentication a call
is refused before its message is read unless its key is registered, and one key has few calls at a time. The
refusals are Flower's own, so that a SuperNode understands them. And a SuperNode that has died is let in again at once,
where Flower waits until it misses the heartbeats of the one before; what that one had taken along is lost, and the
ServerApp hears so. An answer is given out when it is there in full. A pull that finds nothing, as nearly all do, costs
one read. Where Flower's insides are not as expected, it runs as it is, and says so. A program: imports of Flower happen
in functions only, after the bounds are set.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import runpy
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleven.server.flower import executor_process
from fleven.server.flower.executor_process import is_python_program
from fleven.server.flower.line import installed_line
from fleven.server.flower.quick_reads import QuickReads, read_first
from fleven.server.flower.session_lock import lock_sessions
from fleven.server.flower.supernode_sessions import Call, Sessions, end_session_before
from fleven.server.flower.whole_answers import hold_back_arriving
from fleven_agent.common.files import write_atomically

if TYPE_CHECKING:
    import grpc

log = logging.getLogger(__name__)
SECRET_FILE = "executor.secret"  # noqa: S105 - its name
"""In the state folder, which is the SuperLink's working folder."""
MAXIMUM_MESSAGE_BYTES = 16 * 1024 * 1024
"""Flower cuts arrays into objects of 5 MiB (FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE); its largest message is an app bundle of
10 MiB (FAB_MAX_SIZE)."""
MAXIMUM_CALLS_PER_KEY = 12
"""SuperNode has at most 2 pushes and 2 pulls of objects under way (FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES and _PULLS),
a pull of messages and a heartbeat."""
KNOWN_SECONDS = 30.0
"""So long a key counts as registered without asking the database. Flower asks again in each call: this saves reading a
message, it lets nobody in."""


class Keys:
    """Which public keys are registered, and how many calls each has under way."""

    def __init__(self, is_registered: Callable[[bytes], bool], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._is_registered = is_registered
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known_until: dict[bytes, float] = {}
        self._calls: dict[bytes, int] = {}

    def knows(self, key: bytes) -> bool:
        """Return whether a key is registered, by an answer that may be `KNOWN_SECONDS` old; a no is always fresh."""
        now = self._monotonic()
        with self._lock:
            if self._known_until.get(key, 0.0) > now:
                return True
        registered = self._is_registered(key)
        with self._lock:
            if registered:
                self._known_until[key] = now + KNOWN_SECONDS
            else:
                self._known_until.pop(key, None)
        return registered

    def begin(self, key: bytes) -> bool:
        """Count a call of a key; return False, and count nothing, when it has too many under way."""
        with self._lock:
            if self._calls.get(key, 0) >= MAXIMUM_CALLS_PER_KEY:
                return False
            self._calls[key] = self._calls.get(key, 0) + 1
            return True

    def end(self, key: bytes) -> None:
        """Count the end of a call that was counted."""
        with self._lock:
            left = self._calls[key] - 1
            if left:
                self._calls[key] = left
            else:
                del self._calls[key]


def bounded_authentication(base: type[Any], unanswered: Callable[[int], frozenset[str] | None]) -> type[Any]:
    """Return Flower's interceptor of the Fleet API (NodeAuthServerInterceptor), with the bounds before it.

    gRPC reads the message of a unary call before its handler runs, but the messages of a stream only when the handler
    asks for them. On the wire both are the same: so every call is taken as a stream of one message, which is read
    when it is clear that it shall be.

    Args:
        base: the interceptor.
        unanswered: the messages that a node has taken and not answered in full; None where that cannot be told.
    """
    import grpc
    from flwr.common.constant import PUBLIC_KEY_HEADER, TIMESTAMP_HEADER
    from flwr.supercore.error import ApiErrorCode, FlowerError, rpc_error_translator
    from flwr.supercore.utils import get_metadata_bytes, get_metadata_str

    def refused(code: grpc.StatusCode, text: str) -> grpc.RpcMethodHandler:
        def refuse(_requests: object, context: grpc.ServicerContext) -> None:
            context.abort(code, text)

        return grpc.stream_unary_rpc_method_handler(refuse)

    # What FleetServicer answers to a key that nobody registered.
    codes = {
        "ActivateNode": ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED,
        "RegisterNode": ApiErrorCode.FLEET_SUPERNODE_REGISTRATION_DISABLED,
    }

    def refused_key(method: str) -> grpc.RpcMethodHandler:
        code = codes.get(method.rpartition("/")[2])
        if code is None:
            return refused(grpc.StatusCode.UNAUTHENTICATED, "Invalid node ID")

        def refuse(_requests: object, context: grpc.ServicerContext) -> None:
            with rpc_error_translator(context, method):
                raise FlowerError(code, "the public key is not registered")

        return grpc.stream_unary_rpc_method_handler(refuse)

    class BoundedAuthentication(base):  # type: ignore[misc]  # Flower's class is found at run time
        """Looks at the key before the message is read; everything else is Flower's."""

        def __init__(self, state_factory: Any) -> None:
            super().__init__(state_factory)
            self._state_factory = state_factory
            self._keys = Keys(lambda key: state_factory.state().get_node_id_by_public_key(key) is not None)
            self._sessions = Sessions()

        def intercept_service(
            self, continuation: Callable[[Any], Any], handler_call_details: grpc.HandlerCallDetails
        ) -> grpc.RpcMethodHandler | None:
            method = handler_call_details.method
            if not method.startswith("/flwr.proto.Fleet/"):
                # As Flower does. A car's check tells this port from the SuperLink's others by what it does not know.
                return continuation(handler_call_details)
            key = get_metadata_bytes(handler_call_details.invocation_metadata, PUBLIC_KEY_HEADER)
            if not key:
                return refused(grpc.StatusCode.UNAUTHENTICATED, "Missing authentication metadata")
            if not self._keys.knows(key):
                return refused_key(method)
            proved: list[datetime] = []

            def go_on(details: Any) -> Any:
                """Flower's interceptor comes here when key, time and signature belong together, and only then."""
                if signed_at := get_metadata_str(details.invocation_metadata, TIMESTAMP_HEADER):
                    proved.append(datetime.fromisoformat(signed_at))
                return continuation(details)

            handler = super().intercept_service(go_on, handler_call_details)
            if handler is None or handler.unary_unary is None:
                return handler
            return self._counted(handler, key, method, proved[0] if proved else None)

        def _counted(
            self, handler: grpc.RpcMethodHandler, key: bytes, method: str, signed_at: datetime | None
        ) -> grpc.RpcMethodHandler:
            """Return the handler of a call; signed_at: None for one that it will refuse."""
            answer = handler.unary_unary

            def counted(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
                if not self._keys.begin(key):
                    text = f"more than {MAXIMUM_CALLS_PER_KEY} calls of one node at a time"
                    # SuperNode tries again after this code.
                    context.abort(grpc.StatusCode.UNAVAILABLE, text)
                try:
                    request = next(requests, None)
                    if request is None:
                        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no message")
                    if signed_at is not None:
                        call = Call(context.peer(), signed_at)
                        if self._sessions.is_over(key, call):
                            context.abort(grpc.StatusCode.UNAVAILABLE, "another SuperNode has this key since")
                        if method.endswith("/ActivateNode"):
                            self._sessions.begin(key, call)
                            end_session_before(self._state_factory.state(), key, unanswered)
                    with rpc_error_translator(context, method):
                        return answer(request, context)
                finally:
                    self._keys.end(key)

            return grpc.stream_unary_rpc_method_handler(
                counted,
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )

    return BoundedAuthentication


def ask_executor_for_a_secret(program: Any, file: Path) -> None:
    """Let only who has a secret of this start ask for tasks: else a ServerApp could take those of other runs.

    Args:
        program: Flower's module of `flower-superlink`.
        file: where the secret is kept, for the executor, which may be started again.

    Raises:
        AttributeError, TypeError: Flower's insides are not as expected; nothing was changed.
        OSError: the file cannot be written.
    """
    inside = installed_line().superlink_insides
    configuration = getattr(program, inside.configuration_name)
    command = getattr(program, inside.executor_command_name)
    secret = secrets.token_hex(32).encode()
    write_atomically(file, secret)

    def with_secret(*arguments: Any, **options: Any) -> Any:
        return dataclasses.replace(configuration(*arguments, **options), superexec_auth_secret=secret)

    def with_file(*arguments: Any, **options: Any) -> list[str]:
        return [*command(*arguments, **options), inside.executor_secret_option, str(file)]

    setattr(program, inside.configuration_name, with_secret)
    setattr(program, inside.executor_command_name, with_file)


def bound(arguments: Sequence[str], secret_file: Path, reads: QuickReads | None = None) -> None:
    """Set the bounds in Flower's modules, before its program is loaded.

    Args:
        arguments: of `flower-superlink`: with SuperNode authentication, keys are looked at first.
        secret_file: as of `ask_executor_for_a_secret`.
        reads: of its database; None when it has none.

    Raises:
        AttributeError, ImportError: Flower's insides are not as expected; nothing was changed.
    """
    inside = installed_line().superlink_insides
    transport = importlib.import_module(inside.transport_module)
    before = getattr(transport, inside.maximum_message_name)
    setattr(transport, inside.maximum_message_name, min(before, MAXIMUM_MESSAGE_BYTES))
    try:
        program = importlib.import_module(inside.program_module)
        base = getattr(program, inside.authentication_name)
        unanswered = reads.unanswered if reads is not None else lambda _node_id: None
        bounded = bounded_authentication(base, unanswered) if inside.authentication_option in arguments else base
    except (AttributeError, ImportError):
        setattr(transport, inside.maximum_message_name, before)
        raise
    setattr(program, inside.authentication_name, bounded)
    ask_executor_for_a_secret(program, secret_file)


def hasten_executor() -> None:
    """Have the SuperLink start its executor as `executor_process`, which looks at once for what was just submitted.

    Raises:
        AttributeError, ImportError: Flower's insides are not as expected; nothing was changed.
    """
    inside = installed_line().superlink_insides
    program = importlib.import_module(inside.program_module)
    original: Callable[..., list[str]] = getattr(program, inside.executor_command_name)

    def command(*arguments: Any, **options: Any) -> list[str]:
        name, *others = original(*arguments, **options)
        found = shutil.which(name)
        if found is None or not is_python_program(found):
            return [name, *others]
        return [sys.executable, "-Iu", "-m", executor_process.__name__, found, *others]

    setattr(program, inside.executor_command_name, command)


def reads_of(arguments: Sequence[str]) -> QuickReads | None:
    """Return the reads of the database that the arguments of `flower-superlink` name; None when they name none."""
    inside = installed_line().superlink_insides
    if inside.database_option not in arguments[:-1]:
        return None
    return QuickReads(Path(arguments[list(arguments).index(inside.database_option) + 1]), inside)


def relieve_database(reads: QuickReads) -> None:
    """Have the SuperLink's threads use its database one at a time, and look first at what a read tells.

    Raises:
        AttributeError, ImportError: Flower's insides are not as expected; nothing was changed.
    """
    inside = installed_line().superlink_insides
    state = getattr(importlib.import_module(inside.state_module), inside.state_class)
    lock_sessions(getattr(importlib.import_module(inside.sessions_module), inside.sessions_class))
    read_first(state, reads)
    hold_back_arriving(state, reads)


def main() -> None:
    """Become the program that the first argument names, with bounds."""
    program, *arguments = sys.argv[1:]
    reads = reads_of(arguments)
    try:
        bound(arguments, Path(SECRET_FILE), reads)
    except (AttributeError, ImportError, TypeError) as error:
        logging.basicConfig(format="%(levelname)s:      %(message)s")
        log.warning("the SuperLink runs without bounds on messages: %s", error)
    try:
        hasten_executor()
    except (AttributeError, ImportError, TypeError) as error:
        log.warning("the SuperLink's executor looks for runs once a second: %s", error)
    try:
        if reads is not None:
            relieve_database(reads)
    except (AttributeError, ImportError) as error:
        log.warning("the SuperLink's threads compete for its database: %s", error)
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
