"""A real fleet API on a free port, over a register of its own."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from fleven.server.access.model import Role
from fleven.server.access.store import add_token
from fleven.server.cli import main
from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.database import Store, open_store
from fleven.server.http.connection_guard import GuardedProtocol
from fleven.server.nodes.registry import NodeRegistry
from fleven.server.service.http_app import create_app


@dataclass
class Api:
    """A running fleet API."""

    url: str
    port: int
    store: Store
    paths: Paths
    register: NodeRegistry
    config: ServerConfig
    client: httpx.Client = field(repr=False)
    token: str = field(default="", repr=False)
    """Of a program with the role operator."""

    def post(self, *reports: dict[str, Any], **options: Any) -> httpx.Response:
        """Send a batch."""
        return self.client.post("/v1/reports", json={"reports": list(reports)}, **options)


def running_api(folder: Path, config: ServerConfig) -> Iterator[Api]:
    """Serve until the test ends, on a thread, as the service does."""
    paths = Paths(folder)
    store = open_store(paths.register)
    store.set_fact("service", {"pid": 1, "version": "0.1.0"}, datetime.now(UTC))
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    GuardedProtocol.by_address.clear()
    server = uvicorn.Server(
        uvicorn.Config(create_app(store, config, paths), log_config=None, http=GuardedProtocol, ws="none")
    )
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = f"http://127.0.0.1:{port}"
    with store.write() as connection:
        token = add_token(connection, "tests", Role.OPERATOR, "tests", datetime.now(UTC), None)

    def authorise(request: httpx.Request) -> httpx.Request:
        """Show the token where a program reads; the agents' routes have identities of their own."""
        if request.method == "GET":
            request.headers.setdefault("Authorization", f"Bearer {token}")
        return request

    with httpx.Client(base_url=url, timeout=20, auth=authorise) as client:
        yield Api(url, port, store, paths, NodeRegistry.from_config(store, config), config, client, token)
    server.should_exit = True
    thread.join(10)
    listener.close()
    store.close()
    assert not thread.is_alive()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """A fleet API with the default configuration."""
    yield from running_api(tmp_path, ServerConfig(insecure=True))


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A fleet API for tests that leave its register empty."""
    yield from running_api(tmp_path_factory.mktemp("shared"), ServerConfig(insecure=True))


@pytest.fixture(scope="module")
def secure_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A fleet API that is closed from the beginning, as it is installed; for tests that change nothing."""
    yield from running_api(tmp_path_factory.mktemp("secure"), ServerConfig())


@pytest.fixture(scope="module")
def filled_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A fleet API with one node that tries to put a script into the page; for tests that only read."""
    for api in running_api(tmp_path_factory.mktemp("filled"), ServerConfig(insecure=True)):
        api.post(report_json(state_reason="<script>alert(1)</script>"))
        yield api


@pytest.fixture
def api_with(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Return a function that starts a fleet API with these keys of table `web`, and of the top."""
    started: list[Iterator[Api]] = []

    def start(*, top: dict[str, Any] | None = None, **web: Any) -> Api:
        running = running_api(tmp_path, ServerConfig.model_validate({"insecure": True, **(top or {}), "web": web}))
        started.append(running)
        return next(running)

    yield start
    for running in started:
        assert next(running, None) is None


def report_json(sender: str = "a", sequence: int = 0, **changes: Any) -> dict[str, Any]:
    """The JSON of a report of a running node; keyword arguments change it."""
    now = datetime.now(UTC).isoformat()
    return {
        "sender_id": sender,
        "sequence": sequence,
        "created_at": now,
        "sent_at": now,
        "node": {"name": "pi-1", "partition_id": 0, "node_id": "100"},
        "state": "running",
        "resources": {"load_1m": 0.5, "temperature_celsius": 51.0},
        **changes,
    }


@pytest.fixture
def a_report() -> Callable[..., dict[str, Any]]:
    """Return the function that makes the JSON of a report."""
    return report_json


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs `fleven-server` with arguments and gives (exit code, stdout, stderr)."""
    monkeypatch.setenv("FLEVEN_SERVER_STATE_DIR", str(tmp_path))
    config = tmp_path / "server.toml"
    config.write_text('[web]\naddress = "127.0.0.1:9190"\n')
    monkeypatch.setenv("FLEVEN_SERVER_CONFIG", str(config))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fleven-server", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call
