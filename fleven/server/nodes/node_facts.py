"""What the register knows of one node, as plain values: what its verdict is made from.

Made from a row of table `nodes`, without a database at hand. Must not import SQLAlchemy or a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fleven.server.nodes.model import Condition, Severity
from fleven_agent.protocol.codes import HINTS
from fleven_agent.protocol.identity import IdentityStatus

HINTS_BY_CODE = {code.value: hint for code, hint in HINTS.items()}


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the register knows of one node: its newest report, and what the operator wants of it."""

    name: str
    partition_id: int
    partition_since: datetime
    """Since when this node has held its partition-id without going offline: the longest holder keeps it."""
    state: str
    last_seen_at: datetime
    """When the server received the newest report, by the server's clock."""
    flower_node_id: str | None = None
    previous_node_ids: tuple[str, ...] = ()
    state_reason: str = ""
    goodbye: bool = False
    """The newest report said that the agent is stopping."""
    conditions: tuple[Condition, ...] = ()
    busy: bool = False
    drained: bool = False
    drained_reason: str = ""
    drain_wanted: bool | None = None
    """The operator's word on the server: True drain, False undrain (until the node follows), None nothing."""
    drain_wanted_reason: str = ""
    name_taken_from: str | None = None
    """The name that the node gave itself, when another live node has it."""
    agent_version: str = ""
    flwr_version: str = ""
    clock_offset_seconds: float | None = None
    """Server's clock minus the node's, from the newest report."""
    labels: frozenset[str] = frozenset()
    newest_trip_at: datetime | None = None
    standing: IdentityStatus | None = None
    """How its identity stands; None for one that reports without."""
    standing_reason: str = ""
    next_report_seconds: float | None = None
    """The interval of its reports as it says itself; None when it does not."""
    heartbeat_seconds: float | None = None
    """The interval of SuperNode's heartbeats; None for Flower's own."""
    attended_since: datetime | None = None
    """Since when the server has wanted to hear it as often as it can; None while it does not."""


def condition_from_row(values: Mapping[str, str]) -> Condition:
    """One condition as `normalise.condition_values` wrote it, with our own hint: what a car says is not our advice."""
    since = values.get("since")
    return Condition(
        code=values["code"],
        severity=Severity(values["severity"]),
        message=values["message"],
        hint=HINTS_BY_CODE.get(values["code"], ""),
        since=datetime.fromisoformat(since) if since else None,
    )


def facts_from_row(
    row: Mapping[str, Any], standing: IdentityStatus | None = None, standing_reason: str = ""
) -> NodeFacts:
    """What the register knows of one node, from its row of `nodes` and from its identity."""
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
        standing=standing,
        standing_reason=standing_reason,
        next_report_seconds=row["next_report_seconds"],
        heartbeat_seconds=row["heartbeat_seconds"],
    )
