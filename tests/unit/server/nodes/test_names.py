"""Cars by name in texts and rows of apps and of Flower."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest
from sqlalchemy import update

from fleven.server.database import Store
from fleven.server.database.tables import nodes
from fleven.server.nodes import names
from fleven.server.nodes.ingest import Arrival
from fleven.server.nodes.registry import NodeRegistry
from fleven_agent.protocol.report import Report

KNOWN = {"17462499282309880442": "n3", "5": "five"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("node 17462499282309880442: column-missing", "n3: column-missing"),
        ("Node ID 17462499282309880442 unavailable", "n3 unavailable"),
        ("node_id=17462499282309880442 is gone.", "n3 is gone."),
        ("lost 17462499282309880442, 17462499282309880442", "lost n3, n3"),
        ("1 of 5 nodes have usable data", "1 of 5 nodes have usable data"),
        ("run 17462499282309880443 ended", "run 17462499282309880443 ended"),
        ("17462499282309880442x and 1.17462499282309880442", "17462499282309880442x and 1.17462499282309880442"),
        ("", ""),
    ],
)
def test_only_whole_known_ids_become_names(text: str, named: str) -> None:
    assert names.with_names(text, KNOWN) == named
    assert names.with_names(text, {}) == text


def test_rows_get_the_name_that_the_app_did_not_know() -> None:
    rows = [
        {"node_id": 17462499282309880442, "node_name": None, "reason": "node 17462499282309880442 was silent"},
        {"node_id": "17462499282309880442", "node_name": "own", "rmse": 1.5},
        {"node_id": 99, "node_name": None},
    ]
    assert names.named_rows(rows, KNOWN) == [
        {"node_id": 17462499282309880442, "node_name": "n3", "reason": "n3 was silent"},
        {"node_id": "17462499282309880442", "node_name": "own", "rmse": 1.5},
        {"node_id": 99, "node_name": None},
    ]


def test_the_present_holder_of_an_id_goes_before_an_earlier_one(
    store: Store, register: NodeRegistry, report: Callable[..., Report], now: datetime
) -> None:
    first = report("a", node={"name": "pi-1", "partition_id": 0, "node_id": "1000001"})
    second = report("b", node={"name": "pi-2", "partition_id": 1, "node_id": "1000002"})
    register.store_reports([Arrival([first], now), Arrival([second], now)])
    with store.write() as connection:
        changed = update(nodes).where(nodes.c.name == "pi-1").values(previous_node_ids=["1000002", "1000003"])
        connection.execute(changed)
    with store.read() as connection:
        assert names.car_names(connection) == {"1000001": "pi-1", "1000002": "pi-2", "1000003": "pi-1"}
