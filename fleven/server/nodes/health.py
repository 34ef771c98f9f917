"""Whether a node counts: the one place that judges reports and Flower's own list together.

Pure functions over plain values and an injected `now`. Must not import SQLAlchemy, FastAPI or a clock: the register
reads the facts, everybody else (scheduler, page, metrics, commands) takes the verdict from here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from fleven.server.enrolment.keys import fingerprint
from fleven.server.enrolment.model import Identity, Kind
from fleven.server.flower.answers import FlowerNode
from fleven.server.nodes.model import Condition, Node, NodeHealth, Severity
from fleven.server.nodes.node_facts import NodeFacts
from fleven_agent.common import flower_versions
from fleven_agent.common.formatting import span
from fleven_agent.protocol.identity import IdentityStatus
from fleven_agent.protocol.report import ConditionCode, State

ONLINE = "online"
"""Status of a node in Flower's list that sends heartbeats."""
REPORTS_MISSED = 2.5
"""After so many of its own intervals a car that speaks rarely counts as silent."""
LARGE_CLOCK_OFFSET_SECONDS = 30.0
"""A car's clock may differ by this much before the page says so: tokens and schedules start to suffer above."""


class FleetCondition(StrEnum):
    """Conditions that only the server can see; values never change. Those of the agent are in its report."""

    NODE_OFFLINE = "node-offline"
    NODE_STALE = "node-stale"
    ZOMBIE = "zombie"
    DUPLICATE_PARTITION = "duplicate-partition"
    DUPLICATE_NAME = "duplicate-name"
    VERSION_MISMATCH = "version-mismatch"
    CLOCK_OFFSET = "clock-offset"
    IDENTITY_HELD = "identity-held"
    PENDING = "identity-pending"


@dataclass(frozen=True, slots=True)
class Limits:
    """Ages and versions that the verdict depends on."""

    stale_after_seconds: float = 45.0
    """Three missed reports."""
    offline_after_seconds: float = 120.0
    flower_list_valid_seconds: float = 90.0
    """Flower's list is trusted this long after it was read."""
    server_flwr_version: str = ""
    server_version: str = ""


@dataclass(frozen=True, slots=True)
class FlowerView:
    """Flower's own list of nodes, as last read."""

    nodes: Mapping[str, FlowerNode] = field(default_factory=dict)
    read_at: datetime | None = None

    def valid(self, now: datetime, limits: Limits) -> bool:
        """Whether the list is recent enough to be believed."""
        if self.read_at is None:
            return False
        return now - self.read_at <= timedelta(seconds=limits.flower_list_valid_seconds)


def silent_seconds(facts: NodeFacts, now: datetime) -> float:
    """Seconds since the newest report, never negative (the server's clock may have been set back)."""
    return max(0.0, (now - facts.last_seen_at).total_seconds())


def overdue_seconds(facts: NodeFacts, now: datetime, limits: Limits) -> float:
    """The silence that counts against the limits [s]: a car that has said that it speaks rarely is given that time.

    Not while the server has told it to speak often: then it should have been heard since.
    """
    silent = silent_seconds(facts, now)
    granted = max(0.0, REPORTS_MISSED * (facts.next_report_seconds or 0.0) - limits.stale_after_seconds)
    overdue = max(0.0, silent - granted)
    if facts.attended_since is None:
        return overdue
    told = (now - facts.attended_since).total_seconds() - limits.stale_after_seconds
    return max(overdue, min(silent, told))


def is_offline(facts: NodeFacts, now: datetime, limits: Limits) -> bool:
    """Whether the node has not reported for so long that its partition-id is free for another."""
    return facts.goodbye or overdue_seconds(facts, now, limits) > limits.offline_after_seconds


def partition_holders(fleet: Iterable[NodeFacts], now: datetime, limits: Limits) -> dict[int, list[NodeFacts]]:
    """Live nodes of each partition-id, the rightful holder (the longest) first."""
    holders: dict[int, list[NodeFacts]] = defaultdict(list)
    for facts in fleet:
        if not is_offline(facts, now, limits) and facts.standing is not IdentityStatus.REVOKED:
            holders[facts.partition_id].append(facts)
    for nodes in holders.values():
        nodes.sort(key=lambda facts: (facts.standing is None, facts.partition_since, facts.name))
    return dict(holders)


def assess(
    fleet: Sequence[NodeFacts],
    flower: FlowerView,
    now: datetime,
    limits: Limits,
    cars: Iterable[Identity] = (),
) -> tuple[Node, ...]:
    """Judge all nodes together.

    Nodes come back in the order of partition-id and name; then SuperNodes that no agent reports, as `unmanaged`; then
    the cars that wait to be accepted.

    Args:
        fleet: what reports have said.
        flower: Flower's own list.
        now: the moment.
        limits: ages and versions.
        cars: all identities: those that have not reported are judged by them alone.
    """
    holders = partition_holders(fleet, now, limits)
    nodes = [
        _judge(facts, holders.get(facts.partition_id, [facts]), flower, now, limits)
        for facts in sorted(fleet, key=lambda facts: (facts.partition_id, facts.name))
    ]
    known = {node_id for facts in fleet for node_id in (facts.flower_node_id, *facts.previous_node_ids)}
    reported = {facts.name for facts in fleet}
    # In the open mode a car that asks to join reports at the same time: it is one car, and not two.
    heard = {facts.name for facts in fleet if not is_offline(facts, now, limits)}
    silent, waiting = [], []
    for car in cars:
        known |= {key.flower_node_id for key in car.keys}
        if car.status is IdentityStatus.PENDING:
            waiting += [] if car.name in heard else [_waiting(car)]
        elif car.bound and car.name not in reported:
            silent.append(_silent(car, flower, now, limits))
    nodes = sorted([*nodes, *silent], key=lambda node: (node.partition_id or 0, node.name)) if silent else nodes
    unmanaged = [
        Node(
            name=f"flower-{node.node_id}",
            partition_id=None,
            health=NodeHealth.UNMANAGED,
            flower_node_id=node.node_id,
            reason="online for Flower, but no agent reports it",
        )
        for node in flower.nodes.values()
        if node.status == ONLINE and node.node_id not in known and flower.valid(now, limits)
    ]
    return (*nodes, *sorted(unmanaged, key=lambda node: node.name), *sorted(waiting, key=lambda node: node.name))


def _waiting(car: Identity) -> Node:
    """Return a car that asks to join."""
    reason = f"asks to join from {car.asked_from}; key {fingerprint(car.current.public_key)}"
    condition = _condition(
        FleetCondition.PENDING,
        Severity.INFO,
        reason,
        f"fleven-server nodes accept {car.name}, or reject",
        car.created_at,
    )
    return Node(car.name, car.partition_id, NodeHealth.PENDING, reason=reason, conditions=(condition,))


def _silent(car: Identity, flower: FlowerView, now: datetime, limits: Limits) -> Node:
    """Return an enrolled car that has never reported: one that was just let in, or a plain flower-supernode."""
    node_id = car.current.flower_node_id
    entry = flower.nodes.get(node_id or "")
    online = flower.valid(now, limits) and entry is not None and entry.status == ONLINE
    if car.status is IdentityStatus.HELD:
        health, reason = NodeHealth.HELD, car.reason
    elif online:
        stock = car.kind is Kind.STOCK
        reason = "a plain flower-supernode" if stock else "online for Flower, but no agent reports it"
        health = NodeHealth.UNMANAGED
    else:
        reason = "a plain flower-supernode; not connected" if car.kind is Kind.STOCK else "has not reported yet"
        health = NodeHealth.OFFLINE
    labels = frozenset(car.labels)
    return Node(car.name, car.partition_id, health, labels, node_id, reason, enrolled=True)


def _judge(facts: NodeFacts, holders: Sequence[NodeFacts], flower: FlowerView, now: datetime, limits: Limits) -> Node:
    health, reason = _health(facts, holders, flower, now, limits)
    own = _as_last_reported(facts.conditions) if _is_silent(facts, now, limits) else facts.conditions
    conditions = (*_server_conditions(facts, holders, health, reason, now, limits), *own)
    return Node(
        name=facts.name,
        partition_id=facts.partition_id,
        health=health,
        labels=facts.labels,
        flower_node_id=facts.flower_node_id,
        reason=reason,
        conditions=_worst_first(conditions),
        newest_trip_at=facts.newest_trip_at,
        last_seen_at=facts.last_seen_at,
        drained=facts.drained or bool(facts.drain_wanted),
        enrolled=facts.standing is not None and facts.standing is not IdentityStatus.REVOKED,
    )


def _is_silent(facts: NodeFacts, now: datetime, limits: Limits) -> bool:
    """Whether a car should have been heard of since its last report."""
    return is_offline(facts, now, limits) or overdue_seconds(facts, now, limits) > limits.stale_after_seconds


def _as_last_reported(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """Return a silent car's conditions, told apart from what is known of it now."""
    return tuple(replace(c, message=f"{c.message} (as last reported)".strip()) for c in conditions)


def _health(
    facts: NodeFacts, holders: Sequence[NodeFacts], flower: FlowerView, now: datetime, limits: Limits
) -> tuple[NodeHealth, str]:
    """The verdict and one clause for people. The order of the questions is the order of trust."""
    entry = flower.nodes.get(facts.flower_node_id or "")
    list_valid = flower.valid(now, limits)
    online = list_valid and entry is not None and entry.status == ONLINE
    age_seconds = silent_seconds(facts, now)
    # For two of its intervals Flower believes a heartbeat: a silent car may have sent it before it died.
    alive = online and (facts.heartbeat_seconds is None or age_seconds > 2 * facts.heartbeat_seconds)

    if facts.standing is IdentityStatus.REVOKED:
        return NodeHealth.REVOKED, facts.standing_reason or "revoked by the operator"
    if facts.standing is IdentityStatus.HELD:
        return NodeHealth.HELD, facts.standing_reason or "two boards use its identity"
    if is_offline(facts, now, limits):
        silence = "the agent has stopped" if facts.goodbye else f"no report for {span(age_seconds)}"
        if alive:
            return NodeHealth.ZOMBIE, f"online for Flower, but {silence}"
        return NodeHealth.OFFLINE, silence
    if overdue_seconds(facts, now, limits) > limits.stale_after_seconds:
        silence = f"no report for {span(age_seconds)}"
        gone = list_valid and not online
        return (NodeHealth.OFFLINE if gone else NodeHealth.STALE), silence
    if facts.drained or facts.drain_wanted:
        return NodeHealth.DRAINED, facts.drained_reason or facts.drain_wanted_reason or "drained by the operator"
    if facts.state == State.GATED:
        return NodeHealth.GATED, facts.state_reason or "kept out by a gate of the node"
    if holders and holders[0].name != facts.name:
        return NodeHealth.GATED, f"partition-id {facts.partition_id} belongs to {holders[0].name}"
    return _running_health(facts, online=online, list_valid=list_valid, status=entry.status if entry else "")


def _running_health(facts: NodeFacts, *, online: bool, list_valid: bool, status: str) -> tuple[NodeHealth, str]:
    dead = next((c for c in facts.conditions if c.code in DEAD_CONDITIONS and not _only_was(c)), None)
    if dead is not None or facts.state in DOWN_STATES:
        reason = (dead.message or dead.code) if dead else (facts.state_reason or f"SuperNode: {facts.state}")
        if online:
            return NodeHealth.ZOMBIE, f"online for Flower, but {reason}"
        hopeless = facts.state == State.FAILED or (dead is not None and dead.code in HOPELESS_CONDITIONS)
        return (NodeHealth.FAILED if hopeless else NodeHealth.STARTING), reason
    if facts.state != State.RUNNING:
        return NodeHealth.STARTING, facts.state_reason or f"SuperNode: {facts.state}"
    if facts.flower_node_id is None:
        return NodeHealth.STARTING, "SuperNode has not registered yet"
    if not list_valid:
        return NodeHealth.STARTING, "waits for Flower's list of nodes"
    if not online:
        return NodeHealth.STARTING, f"Flower lists it as {status}" if status else "Flower does not list it yet"
    if facts.busy:
        return NodeHealth.BUSY, "works on a task"
    unable = next((c for c in facts.conditions if c.code in UNABLE_CONDITIONS), None)
    return (NodeHealth.FAILED, unable.message or unable.code) if unable else (NodeHealth.READY, "")


def _only_was(condition: Condition) -> bool:
    """Whether a condition keeps no task from being done, as its severity tells.

    A warning of a crash loop stands for ten minutes after the last crash; agents before 0.2.0 called it a warning when
    the state folder could not be written.
    """
    unsure = {ConditionCode.SUPERNODE_CRASH_LOOP, ConditionCode.STATE_UNWRITABLE}
    return condition.code in unsure and condition.severity is not Severity.ERROR


DEAD_CONDITIONS = frozenset(
    {
        ConditionCode.EXECUTOR_DEAD,
        ConditionCode.SUPERNODE_DOWN,
        ConditionCode.SUPERNODE_CRASH_LOOP,
        ConditionCode.SUPERNODE_FROZEN,
        ConditionCode.SUPERLINK_REJECTED,
        ConditionCode.TASK_STUCK,
        ConditionCode.DATA_STUCK,
        ConditionCode.STATE_UNWRITABLE,
    }
)
"""Conditions under which a node that Flower lists as online will not answer."""
UNABLE_CONDITIONS = frozenset({ConditionCode.DATA_MISSING, ConditionCode.DATA_REFUSED})
"""Conditions under which SuperNode answers and every task would fail, until somebody changes something on the car."""
HOPELESS_CONDITIONS = frozenset({ConditionCode.SUPERNODE_CRASH_LOOP, ConditionCode.SUPERLINK_REJECTED})
DOWN_STATES = frozenset({State.STOPPED, State.BACKOFF, State.FAILED})


def _server_conditions(
    facts: NodeFacts,
    holders: Sequence[NodeFacts],
    health: NodeHealth,
    reason: str,
    now: datetime,
    limits: Limits,
) -> list[Condition]:
    found: list[Condition] = []
    if health is NodeHealth.HELD:
        hint = f"fleven-server nodes revoke {facts.name}, then invite; or switch the copy off, then accept {facts.name}"
        found.append(_condition(FleetCondition.IDENTITY_HELD, Severity.ERROR, reason, hint))
    if health is NodeHealth.OFFLINE and not facts.goodbye:
        hint = "check that the car has power and a network; it then reports by itself"
        found.append(_condition(FleetCondition.NODE_OFFLINE, Severity.ERROR, reason, hint, facts.last_seen_at))
    if health is NodeHealth.STALE:
        hint = "the network may be slow, or the node is about to go offline"
        found.append(_condition(FleetCondition.NODE_STALE, Severity.WARNING, reason, hint, facts.last_seen_at))
    if health is NodeHealth.ZOMBIE:
        hint = "a run would wait for it in vain: try `fleven-agent restart` on the node"
        found.append(_condition(FleetCondition.ZOMBIE, Severity.ERROR, reason, hint))
    if not is_offline(facts, now, limits):
        found += _refusals(facts, holders, limits)
        others = [other.name for other in holders if other.name != facts.name]
        if others and holders[0].name == facts.name:
            message = f"{', '.join(others)} also reports partition-id {facts.partition_id}"
            hint = f"give {others[0]} its own partition-id in its node.toml"
            found.append(_condition(FleetCondition.DUPLICATE_PARTITION, Severity.WARNING, message, hint))
    offset = facts.clock_offset_seconds
    if offset is not None and abs(offset) > LARGE_CLOCK_OFFSET_SECONDS:
        message = f"its clock is {span(abs(offset))} {'behind' if offset > 0 else 'ahead of'} the server's"
        hint = "start a time service on the node: timedatectl set-ntp true"
        found.append(_condition(FleetCondition.CLOCK_OFFSET, Severity.WARNING, message, hint))
    return found


def _refusals(facts: NodeFacts, holders: Sequence[NodeFacts], limits: Limits) -> list[Condition]:
    """What the node itself must be told, since it cannot see this itself."""
    found: list[Condition] = []
    if holders and holders[0].name != facts.name:
        other = holders[0].name
        message = f"partition-id {facts.partition_id} is already taken by node {other}"
        hint = f"set another partition-id in node.toml here or on {other}"
        found.append(_condition(FleetCondition.DUPLICATE_PARTITION, Severity.ERROR, message, hint))
    if facts.name_taken_from is not None:
        message = f"another live node is named {facts.name_taken_from}; this one is kept as {facts.name}"
        hint = "set node-name in the node.toml of one of the two"
        found.append(_condition(FleetCondition.DUPLICATE_NAME, Severity.WARNING, message, hint))
    if flower_versions.differ(facts.flwr_version, limits.server_flwr_version):
        message = f"the node has Flower {facts.flwr_version}, the server has {limits.server_flwr_version}"
        # Flower lets such a node take part in runs, and so does the server: only an unknown line is an error.
        together = flower_versions.train_together(facts.flwr_version, limits.server_flwr_version)
        severity = Severity.WARNING if together else Severity.ERROR
        hint = "they train together; install the same fleven version on both when you can"
        if not together:
            hint = f"install the same fleven version on both; known to work: Flower {flower_versions.RANGE_TEXT}"
        found.append(_condition(FleetCondition.VERSION_MISMATCH, severity, message, hint))
    elif flower_versions.differ(facts.agent_version, limits.server_version):
        message = f"the node has fleven {facts.agent_version}, the server has {limits.server_version}"
        hint = "upgrade the older of the two"
        found.append(_condition(FleetCondition.VERSION_MISMATCH, Severity.WARNING, message, hint))
    return found


def problems_to_tell(facts: NodeFacts, fleet: Iterable[NodeFacts], now: datetime, limits: Limits) -> list[Condition]:
    """Conditions that the answer to the node's report carries."""
    holders = partition_holders(fleet, now, limits).get(facts.partition_id, [facts])
    return _refusals(facts, holders, limits)


def _condition(
    code: FleetCondition, severity: Severity, message: str, hint: str, since: datetime | None = None
) -> Condition:
    return Condition(code=code.value, severity=severity, message=message, hint=hint, since=since)


SEVERITY_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def _worst_first(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """One condition for each code (the worst; the server's before the agent's), errors first."""
    chosen: dict[str, Condition] = {}
    for condition in conditions:
        present = chosen.get(condition.code)
        if present is None or SEVERITY_ORDER[condition.severity] < SEVERITY_ORDER[present.severity]:
            chosen[condition.code] = condition
    return tuple(sorted(chosen.values(), key=lambda condition: SEVERITY_ORDER[condition.severity]))
