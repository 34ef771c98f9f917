"""What reports without an identity add to the register: bounded in all, and no car is kept from being seen."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest
from hand_clock import HandClock
from sqlalchemy import select

from fleven.server.database import Store
from fleven.server.database.tables import node_events, node_tasks, nodes, samples
from fleven.server.nodes.growth_budget import BYTES_AT_ONCE, BYTES_PER_MINUTE, TOLD_SECONDS, GrowthBudget
from fleven.server.nodes.health import Limits
from fleven.server.nodes.ingest import STRANGERS_LIMITED, Arrival
from fleven.server.nodes.model import NodeHealth
from fleven.server.nodes.receipts import Receipt
from fleven.server.nodes.registry import NodeRegistry
from fleven_agent.protocol.report import Report

Make = Callable[..., Report]


@pytest.fixture
def clock() -> HandClock:
    return HandClock(100.0)


@pytest.fixture
def opened(store: Store, limits: Limits, clock: HandClock) -> NodeRegistry:
    """The register of a server in the open mode."""
    return NodeRegistry(store, limits, maximum_nodes=100_000, strangers=GrowthBudget(clock))


def put(register: NodeRegistry, at: datetime, *reports: Report) -> Receipt:
    return register.store_reports([Arrival(reports, at)])[0]


def everything(register: NodeRegistry, table: Any) -> list[dict[str, Any]]:
    with register.store.read() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def size_bytes(store: Store) -> int:
    """What the register takes, in its file or in the journal before it."""
    with closing(sqlite3.connect(store.path)) as connection:
        (pages,), (page,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages * page)


def test_bytes_flow_in_up_to_a_most_and_are_taken_whole_or_not_at_all(clock: HandClock) -> None:
    budget = GrowthBudget(clock, bytes_per_minute=600, bytes_at_once=100)
    assert [budget.take(60), budget.take(60), budget.take(40), budget.take(1)] == [True, False, True, False]
    clock.now += 5
    assert [budget.take(51), budget.take(50)] == [False, True]
    clock.now += 1_000
    assert [budget.take(101), budget.take(100)] == [False, True]


def test_what_found_no_room_is_told_once_in_a_while(clock: HandClock) -> None:
    budget = GrowthBudget(clock, bytes_per_minute=0, bytes_at_once=10)
    assert budget.news() == 0
    budget.take(20)
    assert [budget.news(), budget.news()] == [20, 0]
    budget.take(30)
    assert budget.news() == 0
    clock.now += TOLD_SECONDS
    assert budget.news() == 30


TASK = {
    "round": 10**9,
    "message_type": "m" * 60,
    "outcome": "o" * 30,
    "cpu_seconds": 1.5,
    "peak_rss_bytes": 10**12,
    "wall_seconds": 2.5,
    "bytes_received": 10**12,
    "bytes_sent": 10**12,
    "maximum_temperature_celsius": 80.5,
    "app_hash": "a" * 64,
}
RESOURCES = {
    "load_1m": 1.25,
    "cpu_percent": 12.5,
    "temperature_celsius": 60.5,
    "memory_total_bytes": 2**33,
    "memory_available_bytes": 2**32,
    "network": {"received_bytes": 10**12, "sent_bytes": 10**12},
}
FLOODS: dict[str, Callable[[Make, int, datetime], list[Report]]] = {
    "fat tasks of one": lambda make, turn, at: [
        make(sequence=turn * 20 + n, finished_tasks=[{"run_id": "1", "log_tail": "x" * 19_000}] * 4) for n in range(20)
    ],
    "many tasks of one": lambda make, turn, at: [
        make(sequence=turn * 20 + n, finished_tasks=[{"run_id": str(10**18 + n), "started_at": at, **TASK}] * 200)
        for n in range(20)
    ],
    "samples of one": lambda make, turn, at: [make(sequence=turn * 1000 + n, resources=RESOURCES) for n in range(1000)],
    "ever new cars": lambda make, turn, at: [
        make(sender=f"{turn}-{n}", sequence=0, node={"name": f"{turn}-{n}", "partition_id": n}) for n in range(100)
    ],
    "ever new senders of one car": lambda make, turn, at: [
        make(sender=f"{turn}-{n}" + "s" * 200, sequence=0) for n in range(100)
    ],
    "conditions that come and go": lambda make, turn, at: [
        make(
            sequence=turn * 100 + n,
            conditions=[
                {"code": f"{n}-{code}", "severity": "error", "since": at, "message": "m" * 3_900} for code in range(20)
            ],
        )
        for n in range(20)
    ],
    "ever larger reports": lambda make, turn, at: [
        make(
            sender=f"s{n}",
            sequence=turn,
            node={"name": f"n{n}", "partition_id": n},
            conditions=[
                {"code": f"c{code}", "severity": "info", "since": at, "hint": "m" * min(10 * turn, 3_900)}
                for code in range(10)
            ],
        )
        for n in range(50)
    ],
}


@pytest.mark.parametrize("kind", FLOODS)
def test_no_flood_of_strangers_makes_the_register_grow_by_more_than_a_megabyte_in_a_minute(
    opened: NodeRegistry, clock: HandClock, report: Make, now: datetime, kind: str
) -> None:
    before = size_bytes(opened.store)
    for turn in range(12):  # a minute
        put(opened, now + timedelta(seconds=5 * turn), *FLOODS[kind](report, turn, now))
        clock.now += 5
    grown = size_bytes(opened.store) - before
    assert 0 < grown < 1_050_000, grown


def test_a_flood_keeps_no_car_from_being_seen(
    opened: NodeRegistry, clock: HandClock, report: Make, now: datetime
) -> None:
    put(opened, now, report(sender="honest", sequence=1, state_reason="warm", node={"name": "honest"}))
    later = now + timedelta(minutes=5)
    flood = [
        report(sender=f"x{n}", sequence=0, state_reason="y" * 3_000, node={"name": f"x{n}", "partition_id": 9})
        for n in range(200)
    ]
    assert STRANGERS_LIMITED in {problem.code for problem in put(opened, later, *flood).problems}
    assert put(opened, later, flood[-1]).acknowledged == {}, "it comes again"
    told = put(
        opened,
        later,
        report(sender="honest", sequence=2, state="gated", state_reason="h" * 3_500, node={"name": "honest"}),
    )
    assert told.acknowledged == {"honest": 2}
    row = opened.record("honest", later).row
    assert row is not None
    assert (row["state"], row["state_reason"], row["last_seen_at"]) == ("gated", "warm", later)
    assert opened.record("honest", later).node.health is not NodeHealth.OFFLINE
    clock.now += 60
    put(opened, later, report(sender="honest", sequence=3, state_reason="h" * 3_500, node={"name": "honest"}))
    assert (opened.record("honest", later).row or {})["state_reason"] == "h" * 3_500


def test_what_a_fleet_reports_in_a_minute_has_room(
    opened: NodeRegistry, clock: HandClock, report: Make, now: datetime
) -> None:
    fleet = [{"name": f"n{n}", "partition_id": n} for n in range(100)]
    put(opened, now, *[report(sender=f"s{n}", sequence=0, node=node) for n, node in enumerate(fleet)])
    for turn in range(1, 5):
        clock.now += 15
        task = {"run_id": "1", "round": turn, "outcome": "failed", "log_tail": "no memory\n" * 50}
        reports = [
            report(sender=f"s{n}", sequence=turn, node=node, finished_tasks=[task]) for n, node in enumerate(fleet)
        ]
        assert not put(opened, now + timedelta(seconds=15 * turn), *reports).problems
    assert len(everything(opened, nodes)) == 100
    assert len(everything(opened, samples)) == 500
    assert len(everything(opened, node_events)) == 100
    assert [row["log_tail"] for row in everything(opened, node_tasks)] == ["no memory\n" * 50] * 400
    assert BYTES_AT_ONCE + BYTES_PER_MINUTE == 1_000_000
