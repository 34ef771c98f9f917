"""What the fleet API answers about nodes and about itself, and how register values become that.

Models of the OpenAPI schema; `fleven-server nodes` prints the same with `--json`. Runs and schedules are in
`schemas.runs`. Must not import FastAPI.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, create_model

from fleven.server.database.readings import READINGS
from fleven.server.enrolment.keys import fingerprint
from fleven.server.enrolment.model import Identity
from fleven.server.nodes.model import Condition
from fleven.server.nodes.normalise import sample_values
from fleven.server.nodes.registry import NodeRecord
from fleven_agent.protocol.readings import Readings


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorAnswer(Answer):
    """Every error of the API has this shape; `code` never changes its meaning."""

    code: str
    message: str
    hint: str = ""
    problems: list[str] = []


class ConditionAnswer(Answer):
    """One thing that is wrong with a node."""

    code: str
    severity: str
    message: str
    hint: str
    since: datetime | None


class IdentityAnswer(Answer):
    """The identity that a node has, or waits to have."""

    status: str
    kind: str
    fingerprint: str
    rotate_wanted: bool
    since: datetime
    reason: str


class _NodeAnswer(Answer):
    """A node with its verdict and its newest readings."""

    name: str
    partition_id: int | None
    health: str
    ready: bool
    reason: str
    enrolled: bool
    labels: list[str]
    flower_node_id: str | None
    conditions: list[ConditionAnswer]
    last_seen_at: datetime | None
    next_report_seconds: float | None
    """After its last report the next one may take so long: what is known of the node may be that old."""
    newest_trip_at: datetime | None
    state: str | None
    state_since: datetime | None
    current_run: dict[str, Any] | None
    drained: bool
    drain_wanted: bool | None
    agent_version: str | None
    flwr_version: str | None


if TYPE_CHECKING:

    class NodeAnswer(_NodeAnswer):  # noqa: D101  # for the type checker alone
        def __getattr__(self, reading: str) -> float | None: ...

else:  # with a field for each reading that is kept
    _fields = {reading.name: (float | None, ...) for reading in READINGS}
    NodeAnswer = create_model("NodeAnswer", __base__=_NodeAnswer, __doc__=_NodeAnswer.__doc__, **_fields)


class NodeDetailAnswer(NodeAnswer):
    """A node with its whole newest report."""

    first_seen_at: datetime | None
    report: dict[str, Any]
    identity: IdentityAnswer | None


class NodesAnswer(Answer):
    """The fleet."""

    server_time: datetime
    flower_list_read_at: datetime | None
    nodes: list[NodeAnswer]


class HistoryAnswer(Answer):
    """A node's past: samples (hourly means where they were summed up), events and tasks, oldest first."""

    name: str
    since: datetime
    samples: list[dict[str, Any]]
    events: list[dict[str, Any]]
    tasks: list[dict[str, Any]]


class WhoAnswer(Answer):
    """Who asks: a user, a token, or anyone (`open`, on an insecure server without users)."""

    kind: str
    name: str
    role: str


class HealthAnswer(Answer):
    """Whether the server does its work: `ok`, or what is wrong."""

    ok: bool
    version: str
    problems: list[str]


def condition_answer(condition: Condition) -> ConditionAnswer:
    """The JSON form of a condition."""
    return ConditionAnswer(
        code=condition.code,
        severity=condition.severity.value,
        message=condition.message,
        hint=condition.hint,
        since=condition.since,
    )


@cache
def _readings() -> TypeAdapter[Readings]:
    return TypeAdapter(Readings)  # takes a moment to build


def node_fields(record: NodeRecord, report: dict[str, Any]) -> dict[str, Any]:
    """The fields that list and detail share."""
    node, row = record.node, record.row or {}
    readings = sample_values(_readings().validate_python(report.get("resources") or {}), busy=False)
    return {
        "name": node.name,
        "partition_id": node.partition_id,
        "health": node.health.value,
        "ready": node.ready,
        "reason": node.reason,
        "enrolled": node.enrolled,
        "labels": sorted(node.labels),
        "flower_node_id": node.flower_node_id,
        "conditions": [condition_answer(condition) for condition in node.conditions],
        "last_seen_at": node.last_seen_at,
        "next_report_seconds": row.get("next_report_seconds"),
        "newest_trip_at": node.newest_trip_at,
        "state": row.get("state"),
        "state_since": row.get("state_since"),
        "current_run": row.get("current_run"),
        "drained": bool(row.get("drained")),
        "drain_wanted": row.get("drain_wanted"),
        "agent_version": row.get("agent_version"),
        "flwr_version": row.get("flwr_version"),
        **{name: value for name, value in readings.items() if name != "busy"},
    }


def node_answer(record: NodeRecord) -> NodeAnswer:
    """The JSON form of a node in a list."""
    return NodeAnswer(**node_fields(record, record.report()))


def node_detail_answer(record: NodeRecord) -> NodeDetailAnswer:
    """The JSON form of one node."""
    report = record.report()
    first_seen_at = record.row["first_seen_at"] if record.row is not None else None
    return NodeDetailAnswer(
        **node_fields(record, report),
        first_seen_at=first_seen_at,
        report=without_identity(report),
        identity=None if record.identity is None else identity_answer(record.identity),
    )


def identity_answer(car: Identity) -> IdentityAnswer:
    """The JSON form of an identity, without anything that proves it."""
    return IdentityAnswer(
        status=car.status.value,
        kind=car.kind.value,
        fingerprint=fingerprint(car.current.public_key),
        rotate_wanted=car.rotate_wanted,
        since=car.decided_at,
        reason=car.reason,
    )


PRIVATE = frozenset({"sender_id", "sent_by", "boot_id", "sequence"})
"""Parts of a report by which a car is known to the server: whoever reads them could speak in its name."""


def without_identity(report: dict[str, Any]) -> dict[str, Any]:
    """A report as it may be shown."""
    node = {name: value for name, value in (report.get("node") or {}).items() if name != "previous_node_ids"}
    shown = {name: value for name, value in report.items() if name not in PRIVATE}
    return {**shown, "node": node} if "node" in report else shown
