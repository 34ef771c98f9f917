"""A SuperLink in memory, and a server whose crashes are in the test's hands. Nothing here starts a process."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.database import Store, open_store
from fleven.server.database.tables import metadata
from fleven.server.errors import FlowerError, SuperLinkUnreachableError
from fleven.server.flower.answers import REFUSED, FlowerNode, FlowerRun
from fleven.server.flower.line import FlowerLine, installed_line
from fleven.server.nodes.health import Limits
from fleven.server.nodes.model import Node, NodeHealth
from fleven.server.nodes.node_facts import NodeFacts
from fleven.server.nodes.registry import NodeRegistry
from fleven.server.runs.runner import Runner
from fleven.server.runs.scheduler import Scheduler
from fleven_agent.protocol.report import Report

START = datetime(2026, 5, 4, 12, tzinfo=UTC)

# Written out, as wherever an app is made: what each app says of itself is its own, and read where it is used.
APP = """
[project]
name = "tiny"
version = "1.0.0"
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "tiny:server"
clientapp = "tiny:client"
[tool.flwr.app.config]
rounds = 2
experiment = "x"
metrics-base-path = "metrics"
results-base-path = "results"
"""


@dataclass
class MemorySuperLink:
    """Stands in for `flwr`: keeps runs, can be away, can take a submission and lose its answer."""

    up: bool = True
    lose_next_answer: bool = False
    refuse: bool = False
    run_fails: bool = False
    list_fails: bool = False
    runs_by_id: dict[str, FlowerRun] = field(default_factory=dict)
    submissions: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    online: tuple[str, ...] = ("1", "2", "3")
    calls: int = 0
    overdue: dict[str, float] = field(default_factory=dict)
    line: FlowerLine = field(default_factory=installed_line)

    def reachable(self) -> bool:
        return self.up

    def missed_heartbeats(self, now: datetime) -> dict[str, float]:
        return dict(self.overdue)

    def open_run_ids(self) -> frozenset[str]:
        return frozenset(run.run_id for run in self.runs_by_id.values() if run.status != "finished")

    def _answer(self) -> None:
        self.calls += 1
        if not self.up:
            raise SuperLinkUnreachableError("away")

    def runs(self, run_id: str | None = None) -> list[FlowerRun]:
        self._answer()
        if self.list_fails:
            raise FlowerError("database is locked")
        rows = self.runs_by_id
        if run_id is not None:
            return [rows[run_id]] if run_id in rows else []
        return list(rows.values())

    def nodes(self, *, pinned: bool = False) -> list[FlowerNode]:
        self._answer()
        if self.list_fails:
            raise FlowerError("database is locked")
        return [FlowerNode(node_id, "online", START) for node_id in self.online]

    def run(self, app: Path, run_config: Mapping[str, Any], lock: int) -> str:
        self._answer()
        match = re.search(r'^version = "([^"]+)"', (app / "pyproject.toml").read_text(), re.MULTILINE)
        assert match is not None
        assert lock > 0
        if self.refuse:
            raise FlowerError("the FAB is too large", code=REFUSED)
        if self.run_fails:
            raise FlowerError("Internal server error.")
        run_id = str(9_000_000_000_000_000_000 + len(self.submissions))
        self.submissions.append(match.group(1))
        self.runs_by_id[run_id] = FlowerRun(run_id, match.group(1), "running")
        if self.lose_next_answer:
            self.lose_next_answer = False
            raise FlowerError("no answer", code="flower-timeout")
        return run_id

    def stop(self, run_id: str) -> None:
        self._answer()
        self.stops.append(run_id)
        if self.runs_by_id[run_id].status != "finished":
            self.end(run_id, "stopped")

    def end(self, run_id: str, sub_status: str, details: str = "") -> None:
        lost = self.line.process_lost(details)
        self.runs_by_id[run_id] = replace(
            self.runs_by_id[run_id], status="finished", sub_status=sub_status, details=details, process_lost=lost
        )

    def unfinished(self) -> list[str]:
        return [run_id for run_id, run in self.runs_by_id.items() if run.status != "finished"]


class HeldWork(Executor):
    """An executor whose jobs run when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs.append(lambda: fn(*args, **kwargs))
        return Future()

    def run_all(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()


@dataclass
class MemoryFleet:
    """Stands in for the register of nodes."""

    nodes: list[Node] = field(
        default_factory=lambda: [
            Node(f"car-{index}", index, NodeHealth.READY, flower_node_id=str(index + 1)) for index in range(3)
        ]
    )
    disputed: set[str] = field(default_factory=set)
    changing: frozenset[str] = frozenset()

    def fleet(self, now: datetime) -> Sequence[Node]:
        return self.nodes

    def record_flower_nodes(self, found: Iterable[FlowerNode], read_at: datetime) -> None:
        assert list(found)

    def reported_node_ids(self) -> frozenset[str]:
        return frozenset(node.flower_node_id for node in self.nodes if node.flower_node_id)

    def disputed_node_ids(self) -> frozenset[str]:
        return frozenset(self.disputed)

    def awaited(self, now: datetime) -> frozenset[str]:
        return frozenset()

    def changing_keys(self) -> frozenset[str]:
        return self.changing


class World:
    """A server, a SuperLink and a clock; `crash` loses all that is not in the register.

    Args:
        folder: an empty folder.
        store: an empty register.
        config: server.toml.
    """

    def __init__(self, folder: Path, store: Store, config: ServerConfig | None = None) -> None:
        self.paths = Paths(folder / "state")
        self.paths.state.mkdir()
        self.app = folder / "tiny-app"
        self.app.mkdir()
        (self.app / "pyproject.toml").write_text(APP)
        self.now = START
        self.config = config or ServerConfig()
        self.superlink = MemorySuperLink()
        self.fleet = MemoryFleet()
        self.store = store
        self.start()

    def start(self) -> None:
        self.work = HeldWork()
        runner = Runner(self.superlink, self.paths, self.app, settle_seconds=0)  # type: ignore[arg-type]
        self.scheduler = Scheduler(self.store, runner, self.config, self.fleet, lambda: self.now, self.work)

    def crash(self) -> None:
        """Lose memory, work that has not begun, and answers that have not been read."""
        self.start()

    def turn(self, seconds: float = 1.0) -> None:
        """Let time pass, take one turn of the loop, and let all work finish."""
        self.now += timedelta(seconds=seconds)
        self.scheduler.tick()
        self.work.run_all()

    def turns(self, count: int, seconds: float = 5.0) -> None:
        for _ in range(count):
            self.turn(seconds)


@pytest.fixture(scope="session")
def one_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Yield a register that all tests of this folder share; opening one costs more than most of them."""
    store = open_store(tmp_path_factory.mktemp("register") / "register.db")
    # No power cut happens here, so nothing has to wait for the disk.
    event.listen(store.engine, "connect", lambda connection, _entry: connection.execute("PRAGMA synchronous = OFF"))
    store.engine.dispose()
    yield store
    store.close()


@pytest.fixture
def new_world(tmp_path_factory: pytest.TempPathFactory, one_store: Store) -> Callable[..., World]:
    """Return a maker of servers with a SuperLink in memory and three ready nodes, each on an empty register."""

    def make(config: ServerConfig | None = None) -> World:
        with one_store.write() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        return World(tmp_path_factory.mktemp("world"), one_store, config)

    return make


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    """Return one server."""
    return new_world()


NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
LIMITS = Limits(server_flwr_version="1.34.0", server_version="0.1.0")


@pytest.fixture
def now() -> datetime:
    """The moment of most tests."""
    return NOW


@pytest.fixture
def limits() -> Limits:
    """Thresholds with known server versions."""
    return LIMITS


@pytest.fixture
def facts() -> Callable[..., NodeFacts]:
    """Return a function that makes a healthy node; keyword arguments change it."""

    def make(name: str = "pi-1", **changes: Any) -> NodeFacts:
        values: dict[str, Any] = {
            "name": name,
            "partition_id": 0,
            "partition_since": NOW,
            "state": "running",
            "last_seen_at": NOW,
            "flower_node_id": "100",
            "agent_version": "0.1.0",
            "flwr_version": "1.34.0",
        }
        return NodeFacts(**{**values, **changes})

    return make


@pytest.fixture
def report() -> Callable[..., Report]:
    """Return a function that makes a report of a running node; keyword arguments change it, `node` its identity."""

    def make(sender: str = "a", sequence: int = 0, **changes: Any) -> Report:
        node = {"name": "pi-1", "partition_id": 0, "node_id": "100", **changes.pop("node", {})}
        values: dict[str, Any] = {
            "sender_id": sender,
            "sequence": sequence,
            "boot_id": "boot-1",
            "created_at": NOW,
            "sent_at": NOW,
            "node": node,
            "versions": {"agent": "0.1.0", "flwr": "1.34.0"},
            "state": "running",
            "resources": {"load_1m": 1.0},
        }
        return Report.model_validate({**values, **changes})

    return make


@pytest.fixture(scope="session")
def empty_register(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated register without rows: made once, copied for each test."""
    file = tmp_path_factory.mktemp("register") / "register.db"
    open_store(file).close()
    return file


@pytest.fixture
def put_register(empty_register: Path) -> Callable[[Path], Path]:
    """Return a function that puts an empty register into a folder; to make the tables anew takes ten times as long."""

    def put(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return shutil.copy(empty_register, folder / "register.db")

    return put


@pytest.fixture
def store(put_register: Callable[[Path], Path], tmp_path: Path) -> Iterator[Store]:
    """An open register of this test alone."""
    opened = open_store(put_register(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def register(store: Store) -> NodeRegistry:
    """The fleet in that register; it takes three nodes at most."""
    return NodeRegistry(store, LIMITS, maximum_nodes=3)
