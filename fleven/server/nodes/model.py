"""Plain values about cars: what decisions, tables and answers are made from.

Frozen, without behaviour that touches the world. Enum values are stored and shown to programs: they never change once
shipped. Must not import SQLAlchemy, FastAPI, typer or anything that reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Severity(StrEnum):
    """How much a condition of a node matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class NodeHealth(StrEnum):
    """Whether a node counts for a run, computed from its report and from Flower's own list together."""

    READY = "ready"
    """Reports that it runs, and Flower lists the same node id as online."""
    BUSY = "busy"
    """Ready, and working on a task just now."""
    STARTING = "starting"
    """Reports, but SuperNode has not registered yet, or Flower does not list it yet."""
    GATED = "gated"
    """Keeps itself out: hot, full, driving, outside its hours."""
    DRAINED = "drained"
    """Kept out by the operator."""
    ZOMBIE = "zombie"
    """Online for Flower, dead by its own report or silent."""
    STALE = "stale"
    """Its last report is too old to be trusted; Flower does not say that it is gone."""
    OFFLINE = "offline"
    """Neither reports nor is online."""
    FAILED = "failed"
    """Reports that SuperNode cannot be started, or that no task can succeed: no trips, or the app refuses them."""
    UNMANAGED = "unmanaged"
    """Online for Flower without any report: a SuperNode that no agent looks after."""
    PENDING = "pending"
    """Asks to join, and waits for the operator."""
    HELD = "held"
    """Kept out by the server: two boards use its identity."""
    REVOKED = "revoked"
    """Its membership was ended for good."""


class Drift(StrEnum):
    """What a car's errors on its new trips say of the model that it uses."""

    NO_MODEL = "no-model"
    """It does not have the champion (yet)."""
    UNKNOWN = "unknown"
    """There are too few new trips to tell."""
    STEADY = "steady"
    DRIFTING = "drifting"


@dataclass(frozen=True, slots=True)
class Condition:
    """One coded condition of a node."""

    code: str
    severity: Severity
    message: str = ""
    hint: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One car, as a decision sees it."""

    name: str
    partition_id: int | None
    health: NodeHealth
    labels: frozenset[str] = frozenset()
    flower_node_id: str | None = None
    """Flower's node id, a 64-bit number in decimal; None while unknown."""
    reason: str = ""
    """Why `health` is what it is, one clause for people."""
    conditions: tuple[Condition, ...] = ()
    newest_trip_at: datetime | None = None
    """End of the newest trip that the car holds, as it reports it."""
    last_seen_at: datetime | None = None
    drained: bool = False
    """Whether an operator has taken it out, whatever else its health is."""
    drift: Drift = Drift.NO_MODEL
    enrolled: bool = False
    """Whether it has an identity of its own, which reports and Flower's node are bound to."""

    @property
    def ready(self) -> bool:
        """Whether a run may count on this node."""
        return self.health in (NodeHealth.READY, NodeHealth.BUSY)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The fleet as one decision sees it."""

    nodes: tuple[Node, ...] = ()
    superlink_reachable: bool = False
    list_problem: str = ""
    """Why Flower's list of nodes cannot be read, though the SuperLink answers; "" while it can."""
