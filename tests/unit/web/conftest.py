"""Facts, reports and a register to test with."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fleven.server.health import Limits, NodeFacts
from fleven.server.register import Register
from fleven.server.store import Store, open_store
from fleven_agent.report import Report

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
def store(empty_register: Path, tmp_path: Path) -> Iterator[Store]:
    """An open register of this test alone."""
    shutil.copy(empty_register, tmp_path / "register.db")
    opened = open_store(tmp_path / "register.db")
    yield opened
    opened.close()


@pytest.fixture
def register(store: Store) -> Register:
    """The fleet in that register; it takes three nodes at most."""
    return Register(store, LIMITS, maximum_nodes=3)
