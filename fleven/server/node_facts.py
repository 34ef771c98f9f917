"""From rows of the register to the plain values that `health` judges. Must not import anything that writes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fleven.server.health import NodeFacts
from fleven.server.model import Condition, Severity


def condition_from_row(values: Mapping[str, str]) -> Condition:
    """One condition as `node_values.condition_values` wrote it."""
    since = values.get("since")
    return Condition(
        code=values["code"],
        severity=Severity(values["severity"]),
        message=values["message"],
        hint=values["hint"],
        since=datetime.fromisoformat(since) if since else None,
    )


def facts_from_row(row: Mapping[str, Any]) -> NodeFacts:
    """What the register knows of one node, from its row of `nodes`."""
    return NodeFacts(
        name=row["name"],
        partition_id=row["partition_id"],
        partition_since=row["partition_since"],
        state=row["state"],
        last_seen_at=row["last_seen_at"],
        flower_node_id=row["flower_node_id"],
        previous_node_ids=tuple(row["previous_node_ids"]),
        state_reason=row["state_reason"],
        goodbye=row["goodbye"],
        conditions=tuple(condition_from_row(values) for values in row["conditions"]),
        busy=row["current_run"] is not None,
        drained=row["drained"],
        drained_reason=row["drained_reason"],
        drain_wanted=row["drain_wanted"],
        drain_wanted_reason=row["drain_wanted_reason"],
        name_taken_from=None if row["own_name"] == row["name"] else row["own_name"],
        agent_version=row["agent_version"],
        flwr_version=row["flwr_version"],
        clock_offset_seconds=row["clock_offset_seconds"],
        labels=frozenset(row["labels"]),
        newest_trip_at=row["newest_trip_at"],
    )
