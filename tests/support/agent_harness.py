"""A real `fleven-agent run` for tests: folders of its own, its journal in a file, waits on conditions, not on time."""

import gzip
import http.server
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fleven_agent.control import request
from fleven_agent.errors import AgentError
from fleven_agent.protocol.report import ReportBatch
from fleven_agent.system import procfs


class TimedOutError(AssertionError):
    """A condition did not come true in time."""


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 20.0, more: Callable[[], str] = str) -> Any:
    """Wait until a condition is true and return its value."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise TimedOutError(f"not within {seconds:g} s: {what}\n{more()}")


class Agent:
    """One agent in a folder of its own.

    Args:
        folder: for configuration, state, runtime and journal.
        configuration: lines of node.toml.
        path: folders before the interpreter's own on PATH, for fakes.
        environment: further variables.
    """

    def __init__(
        self,
        folder: Path,
        configuration: str,
        *,
        path: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.state, self.runtime = folder / "state", folder / "run"
        self.config, self.journal = folder / "node.toml", folder / "journal"
        if "[cell]" not in configuration:  # outside the packages there is none
            configuration += '\n[cell]\nmode = "off"\n'
        self.config.write_text(configuration, encoding="utf-8")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FLEVEN_")},
            "PATH": os.pathsep.join([*map(str, path), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "FLEVEN_STATE_DIR": str(self.state),
            "FLEVEN_RUNTIME_DIR": str(self.runtime),
            **(environment or {}),
        }
        self.interpreter = [sys.executable]
        """What runs the agent itself, with its options."""
        self.prefix: list[str] = []
        """Put before the agent's command line, to run it as another user."""
        self.process: subprocess.Popen[bytes] | None = None

    def drop_in(self, text: str) -> None:
        """Write a drop-in over the configuration."""
        folder = Path(f"{self.config}.d")
        folder.mkdir(exist_ok=True)
        (folder / "50-test.toml").write_text(text, encoding="utf-8")

    def start(self, *, ready: bool = True) -> "Agent":
        """Start the agent; wait until it answers."""
        with self.journal.open("ab") as journal:
            self.process = subprocess.Popen(
                [*self.prefix, *self.interpreter, "-m", "fleven_agent", "run", "--config", str(self.config)],
                env=self.environment,
                stdout=journal,
                stderr=subprocess.STDOUT,
            )
        if ready:
            self.wait("the agent answers", lambda: self.status() is not None)
        return self

    def run(self, *arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run another command of `fleven-agent` beside it."""
        command = [sys.executable, "-m", "fleven_agent", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)

    def status(self) -> dict[str, Any] | None:
        """Return the status; None when nobody answers."""
        try:
            return dict(request(self.runtime, "status")["status"])
        except AgentError:
            return None

    def log(self) -> str:
        """Return the journal so far."""
        return self.journal.read_text(encoding="utf-8", errors="replace")

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = 20.0) -> Any:
        """Wait on a condition; the journal explains a failure."""
        return wait_for(what, condition, seconds, lambda: self.log()[-6_000:])

    def wait_state(self, *states: str, seconds: float = 20.0) -> dict[str, Any]:
        """Wait for one of the states; return the status."""

        def there() -> dict[str, Any] | None:
            status = self.status()
            return status if status is not None and status["state"] in states else None

        return self.wait(f"state {' or '.join(states)}", there, seconds)

    def wait_condition(self, code: str, seconds: float = 20.0, *, gone: bool = False) -> dict[str, Any]:
        """Wait until a condition shows (or is gone); return the status."""

        def there() -> dict[str, Any] | None:
            status = self.status()
            if status is None:
                return None
            shown = any(one["code"] == code for one in status["conditions"])
            return status if shown != gone else None

        return self.wait(f"condition {code}{' gone' if gone else ''}", there, seconds)

    def supernode(self) -> int:
        """Return the process id of SuperNode."""
        return int(self.wait("a SuperNode", lambda: (self.status() or {}).get("supernode_pid")))

    def children(self, name: str) -> list[int]:
        """Return living descendants of SuperNode whose command line names a program."""
        pid = (self.status() or {}).get("supernode_pid")
        return [
            one
            for one in (procfs.descendants(pid) if pid else [])
            if any(Path(part).name == name for part in procfs.command_line(one)[:3])
        ]

    def marked(self) -> list[procfs.Stat]:
        """Return all processes that descend from SuperNodes of this agent."""
        return procfs.marked(f"FLEVEN_SUPERNODE_OF={self.state}")

    def signal(self, number: int) -> None:
        """Send a signal to the agent."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, seconds: float = 30.0) -> int:
        """Stop the agent in order; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """Kill the agent alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def clean_up(self) -> None:
        """End whatever is left, hard."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for one in self.marked():
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)


class ReportServer:
    """A stand-in for the fleet API that checks every batch against the contract and can misbehave on demand."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.batches: list[list[tuple[str, int]]] = []
        self.answer: dict[str, Any] = {"flwr_version": None, "server_version": "stand-in"}
        self.behave: Callable[[http.server.BaseHTTPRequestHandler], bool] | None = None
        """May answer a request itself; returns True when it did."""
        self.refused: set[int] = set()
        """Sequences of reports for whose sake a whole batch is refused for good."""
        self.invalid: list[str] = []
        self.port = 0
        self._server: socketserver.ThreadingTCPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the same port each time."""
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_arguments: object) -> None:
                return

            def do_GET(self) -> None:
                owner.answer_get(self)

            def do_POST(self) -> None:
                owner._take(self)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.wrap(self._server)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def wrap(self, server: socketserver.ThreadingTCPServer) -> None:
        """Put TLS around the listening socket; plain here."""

    def answer_get(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer a GET; a server of version 0.1.0 knows none of the agent's."""
        send_json(handler, 404, {"code": "not-found", "message": "there is nothing here", "hint": ""})

    def answer_post(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> bool:
        """Answer a POST that is no batch of reports, or a batch that is refused; return whether it was answered."""
        return False

    def identity_of(self, handler: http.server.BaseHTTPRequestHandler) -> dict[str, Any] | None:
        """What is said of the identity with which a batch came."""
        return None

    def states(self) -> list[str]:
        """Return the states of all stored reports in order, repeats left out."""
        found: list[str] = []
        for one in self.reports:
            if not found or found[-1] != one["state"]:
                found.append(one["state"])
        return found

    def _take(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if self.behave is not None and self.behave(handler):
            return
        if self.answer_post(handler, body):
            return
        content = json.loads(gzip.decompress(body))
        if any(one["sequence"] in self.refused for one in content["reports"]):
            handler.send_response(422)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        try:
            ReportBatch.model_validate(content)
        except ValueError as error:
            self.invalid.append(str(error))
        known = {(one["sender_id"], one["sequence"]) for one in self.reports}
        self.batches.append([(one["sender_id"], one["sequence"]) for one in content["reports"]])
        for one in content["reports"]:
            if (one["sender_id"], one["sequence"]) not in known:
                self.reports.append(one)
        senders = {one["sender_id"] for one in content["reports"]}
        acknowledged: dict[str, int] = {}
        for one in self.reports:  # the highest ever stored, as the real server says
            if (sender := one["sender_id"]) in senders:
                acknowledged[sender] = max(one["sequence"], acknowledged.get(sender, 0))
        answer = {"acknowledged": acknowledged, "identity": self.identity_of(handler), **self.answer}
        send_json(handler, 200, answer)


def send_json(handler: http.server.BaseHTTPRequestHandler, status: int, answer: Mapping[str, Any]) -> None:
    """Send an answer."""
    content = json.dumps(answer).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@contextmanager
def report_server() -> Iterator[ReportServer]:
    """A report server that is stopped at the end."""
    server = ReportServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
