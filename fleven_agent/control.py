"""The control socket: ``fleven-agent status``, ``drain`` and the like talk to the daemon here.

A Unix socket in the runtime folder; one JSON object each way, one line each. Everybody may ask for the status; only
root and the daemon's own user may change anything. The socket runs on a thread: it hands a command over to the
deciding loop, which carries it out, and waits for the answer.
"""

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from fleven_agent.common.cell.asking import through_folder
from fleven_agent.errors import AgentError, NotAllowedError, NotRunningError, UsageError
from fleven_agent.state import AgentState
from fleven_agent.system.log import LOGGER, event

SOCKET_NAME = "agent.sock"
TIMEOUT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
MAXIMUM_REQUEST_BYTES = 16_384
MAXIMUM_ANSWER_BYTES = 16_000_000
MAXIMUM_OF_A_USER = 4
"""Connections at a time of one user who may only ask; so that none can keep others from asking."""
PAUSE_SECONDS = 1.0
"""After a connection that could not be taken, for want of descriptors or memory: it would fail again at once."""
MAXIMUM_OF_OTHER_USERS = 16
"""Connections at a time with which further users are turned away; root and the daemon's own user never are."""
READ_ONLY = frozenset({"status", "ping"})
Handler = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


class ControlServer:
    """The daemon's end.

    Args:
        directory: the runtime folder.
        handle: carries out a command and returns the answer; called from this server's thread.
    """

    def __init__(self, directory: Path, handle: Handler) -> None:
        self.path = directory / SOCKET_NAME
        self._handle = handle
        self._socket: socket.socket | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: Counter[int] = Counter()
        """Connections under way, by user id."""

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: when the socket cannot be made.
        """
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()  # left by a killed agent: the lock on the state folder shows that none is alive
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        through_folder(str(self.path.parent), self.path.name, listener.bind)
        self.path.chmod(0o666)  # everybody may ask for the status; the kernel says below who may do more
        listener.listen(128)
        self._socket = listener
        threading.Thread(target=self._run, name="control", daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()
        listener, self._socket = self._socket, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _run(self) -> None:
        while (listener := self._socket) is not None:
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if not self._stopping.is_set():
                    LOGGER.warning(event("no connection to the control socket taken", detail=error.strerror))
                self._stopping.wait(PAUSE_SECONDS)
                continue
            user = _peer_user(connection)
            if not self._take_place(user):
                _turn_away(connection)
                continue
            try:
                threading.Thread(target=self._serve, args=(connection, user), name="control", daemon=True).start()
            except RuntimeError:  # no thread can be started: memory or the unit's limit of tasks is used up
                self._give_back_place(user)
                _turn_away(connection)

    def _take_place(self, user: int) -> bool:
        """Count a connection of a user; return False when that user, or all together, have too many."""
        with self._lock:
            privileged = user in (0, os.geteuid())
            if not privileged and (
                self._open[user] >= MAXIMUM_OF_A_USER or self._open.total() >= MAXIMUM_OF_OTHER_USERS
            ):
                return False
            self._open[user] += 1
            return True

    def _give_back_place(self, user: int) -> None:
        with self._lock:
            self._open[user] -= 1

    def _serve(self, connection: socket.socket, user: int) -> None:
        try:
            with connection:
                connection.settimeout(TIMEOUT_SECONDS)
                with contextlib.suppress(OSError):
                    connection.sendall(json.dumps(self._answer(connection)).encode() + b"\n")
        finally:
            self._give_back_place(user)

    def _answer(self, connection: socket.socket) -> Mapping[str, Any]:
        try:
            request = json.loads(_read_line(connection, MAXIMUM_REQUEST_BYTES, TIMEOUT_SECONDS))
        except (OSError, ValueError, RecursionError) as error:
            return _error("bad-request", f"not a request: {error}", "")
        command = request.get("command") if isinstance(request, dict) else None
        if not isinstance(command, str):
            return _error("bad-request", "the request names no command", "")
        user = _peer_user(connection)
        if command not in READ_ONLY and user not in (0, os.geteuid()):
            return _error(NotAllowedError.code, f"user id {user} may not {command}", "use sudo")
        try:
            return {"ok": True, **self._handle(command, request)}
        except AgentError as error:
            return _error(error.code, error.message, error.hint)
        except Exception:  # the caller waits for an answer, and the thread must go on
            LOGGER.exception(event("control command failed", command=command))
            return _error("internal", "the agent could not do it; see its journal", "")


def request(directory: Path, command: str, **arguments: object) -> dict[str, Any]:
    """Ask the running agent.

    Args:
        directory: the runtime folder.
        command: what to do.
        arguments: its arguments, JSON values.

    Raises:
        NotRunningError: no agent answers there.
        NotAllowedError: this user may not.
        AgentError: the agent refuses or fails.
    """
    path = directory / SOCKET_NAME
    hint = "`systemctl start fleven-agent`, or `fleven-agent run` in another terminal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(ANSWER_SECONDS)
        try:
            through_folder(str(directory), SOCKET_NAME, link.connect)
            link.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            answer = json.loads(_read_line(link, MAXIMUM_ANSWER_BYTES, ANSWER_SECONDS))
        except PermissionError:
            raise NotAllowedError(f"{path}: permission denied", hint="use sudo") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunningError(f"no agent answers at {path}", hint=hint) from None
        except (OSError, ValueError) as error:
            raise AgentError(f"the agent at {path} does not answer: {error}", hint="see its journal") from None
    if not isinstance(answer, dict) or answer.get("ok") is not True:
        kind = NotAllowedError if answer.get("code") == NotAllowedError.code else AgentError
        raise kind(str(answer.get("message", "refused")), hint=str(answer.get("hint", "")))
    return answer


def _turn_away(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        connection.setblocking(False)
        connection.sendall(json.dumps(_error("busy", "too many connections", "try again")).encode() + b"\n")


def _error(code: str, message: str, hint: str) -> dict[str, Any]:
    return {"ok": False, "code": code, "message": message, "hint": hint}


def _read_line(connection: socket.socket, limit: int, seconds: float) -> bytes:
    """Read up to the end of a line; the whole of it has ``seconds``, in however small pieces it comes."""
    content, deadline = b"", time.monotonic() + seconds
    while not content.endswith(b"\n"):
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = connection.recv(65_536)
        if not chunk:
            break
        content += chunk
        if len(content) > limit:
            raise ValueError("too long")
    return content


def _peer_user(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


Answer = Mapping[str, Any]
LOOP_ANSWER_SECONDS = 8.0


class Commands:
    """Hands a command from the socket's thread to the loop, and the answer back.

    Args:
        wake: wakes the loop.
        memory: keeps a drain across reboots.
        status: returns what `status` shows.
        restart: restarts SuperNode, after the current task or at once; returns the new state, and whether it restarts.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        agent_state: AgentState,
        status: Callable[[], dict[str, Any]],
        restart: Callable[[bool], tuple[str, bool]],
    ) -> None:
        self._wake, self._agent_state, self._status, self._restart = wake, agent_state, status, restart
        self._queue: SimpleQueue[tuple[str, Answer, SimpleQueue[Answer | AgentError]]] = SimpleQueue()

    def hand_over(self, command: str, arguments: Answer) -> Answer:
        """Ask the loop; called from the socket's thread.

        Raises:
            AgentError: the loop refuses, or does not answer.
        """
        answer: SimpleQueue[Answer | AgentError] = SimpleQueue()
        self._queue.put((command, arguments, answer))
        self._wake()
        try:
            result = answer.get(timeout=LOOP_ANSWER_SECONDS)
        except Empty:
            raise AgentError("the agent's loop does not answer", hint="see its journal") from None
        if isinstance(result, AgentError):
            raise result
        return result

    def work_off(self) -> None:
        """Carry out the commands that have arrived; called from the loop."""
        while True:
            try:
                command, arguments, answer = self._queue.get_nowait()
            except Empty:
                return
            try:
                answer.put(self._carry_out(command, arguments))
            except AgentError as error:
                answer.put(error)

    def _carry_out(self, command: str, arguments: Answer) -> Answer:
        match command:
            case "ping":
                return {}
            case "status":
                return {"status": self._status()}
            case "drain":
                reason = str(arguments.get("reason") or "")[:1_000]
                return self._drain(reason, until_restart=arguments.get("until_restart") is True)
            case "undrain":
                return self._undrain()
            case "restart":
                state, restarting = self._restart(bool(arguments.get("now")))
                return {"state": state, "restarting": restarting}
            case _:
                raise UsageError(f"unknown command {command!r}", hint="the agent may be older than this program")

    def _drain(self, reason: str, *, until_restart: bool) -> Answer:
        known = self._agent_state.known
        # A lasting drain is not shortened, and keeps its reason.
        if not (until_restart and known.drained and not known.drained_until_restart):
            self._agent_state.change(drained=True, drain_reason=reason, drained_until_restart=until_restart)
            self._agent_state.save()
        LOGGER.info(event("drained", reason=reason))
        return {"state_problem": self._agent_state.problem}

    def _undrain(self) -> Answer:
        by_server = self._agent_state.known.drained_by_server
        self._agent_state.change(drained=False, drain_reason="", drained_until_restart=False)
        self._agent_state.save()
        LOGGER.info("undrained")
        return {"drained_by_server": by_server, "state_problem": self._agent_state.problem}
