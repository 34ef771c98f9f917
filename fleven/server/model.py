"""Plain values that decisions are made from: nodes, schedules, runs and their outcomes.

Frozen, without behaviour that touches the world. Enum values are stored and shown to programs: they never change once
shipped. This module must not import SQLAlchemy, FastAPI, typer or anything that reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleven.server.schedule_spec import ScheduleSpec


class Severity(StrEnum):
    """How much a condition of a node matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class NodeHealth(StrEnum):
    """What a node is worth for a run, computed from its report and from Flower's own list together."""

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
    """Reports that SuperNode does not come up."""
    UNMANAGED = "unmanaged"
    """Online for Flower without any report: a SuperNode that no agent looks after."""


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

    @property
    def ready(self) -> bool:
        """Whether a run may count on this node."""
        return self.health in (NodeHealth.READY, NodeHealth.BUSY)


class RunState(StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    WAITING = "waiting"
    SUBMITTED = "submitted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen to the run."""
        return self in TERMINAL_STATES

    @property
    def active(self) -> bool:
        """Whether the run occupies the SuperLink."""
        return self in (RunState.SUBMITTED, RunState.RUNNING)


TERMINAL_STATES = frozenset(
    {RunState.SUCCEEDED, RunState.FAILED, RunState.TIMED_OUT, RunState.CANCELLED, RunState.SKIPPED}
)
OPEN_STATES = frozenset(set(RunState) - TERMINAL_STATES)


class Trigger(StrEnum):
    """What made a run."""

    SCHEDULED = "scheduled"
    MANUAL = "manual"
    DEPENDENCY = "dependency"


class Reason(StrEnum):
    """Why a run stands where it stands: the code stored with every step."""

    # pending
    FIRED = "fired"
    REQUESTED = "requested"
    DEPENDENCY_SUCCEEDED = "dependency-succeeded"
    # waiting
    TOO_FEW_NODES = "too-few-nodes"
    NODE_MISSING = "node-missing"
    DATA_NOT_FRESH = "data-not-fresh"
    NODE_CONDITION = "node-condition"
    BLACKOUT = "blackout"
    CONCURRENCY = "concurrency"
    OVERLAP = "overlap"
    RETRY_BACKOFF = "retry-backoff"
    SUPERLINK_UNREACHABLE = "superlink-unreachable"
    NODE_LIST_UNREADABLE = "node-list-unreadable"
    # submitted
    SUBMITTING = "submitting"
    ACCEPTED = "accepted"
    # running
    STARTED = "started"
    STOPPING = "stopping"
    # succeeded
    COMPLETED = "completed"
    # failed
    APP_FAILED = "app-failed"
    CONFIGURATION = "configuration"
    NODES_LOST = "nodes-lost"
    SERVER_APP_DIED = "server-app-died"
    SUPERLINK_RESTARTED = "superlink-restarted"
    RUN_UNKNOWN = "run-unknown"
    SUBMISSION_FAILED = "submission-failed"
    # timed-out
    MAX_DURATION = "max-duration"
    WAIT_DEADLINE = "wait-deadline"
    # cancelled
    OPERATOR = "operator"
    REPLACED = "replaced"
    STOPPED_OUTSIDE = "stopped-outside"
    SCHEDULE_REMOVED = "schedule-removed"
    # skipped
    MISSED = "missed"
    TOO_LATE = "too-late"


class FailureClass(StrEnum):
    """Kinds of failure that a schedule may want to retry or not."""

    INFRASTRUCTURE = "infrastructure"
    """SuperLink, ServerApp or this machine died under the run."""
    NODES = "nodes"
    """Too few cars answered."""
    APP = "app"
    """The ServerApp ended with an error of its own."""
    CONFIGURATION = "configuration"
    """The app refused its run config: trying again changes nothing."""
    TIMEOUT = "timeout"
    """The run was stopped at its maximum duration."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run's `status.json` says (written by the ServerApp)."""

    state: str
    round: int = 0
    rounds: int = 0
    message: str = ""
    nodes_expected: int = 0
    nodes_replied: int = 0
    updated_at: datetime | None = None
    error_code: str = ""
    error_message: str = ""
    error_hint: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One submission of a run to the SuperLink, or the intent of one."""

    number: int
    token: str
    """Unique mark inside the submitted bundle's version, by which the submission is found again after a crash."""
    intended_at: datetime
    flower_run_id: str | None = None
    accepted_at: datetime | None = None
    running_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: RunState | None = None
    reason: Reason | None = None
    message: str = ""
    failure_class: FailureClass | None = None
    resume_from: str | None = None
    metrics_folder: str | None = None
    results_folder: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One occurrence of a schedule, from the moment it is due to its result."""

    id: int
    schedule_name: str
    trigger: Trigger
    due_at: datetime
    created_at: datetime
    state: RunState
    reason: Reason
    message: str
    since: datetime
    """When the run came into this state."""
    spec: ScheduleSpec
    """The schedule as it stood when the run was made: a later edit does not change a run that exists."""
    attempt: Attempt | None = None
    """The newest attempt."""
    attempts: int = 0
    retry_at: datetime | None = None
    stop_reason: Reason | None = None
    """Set when somebody or something wants the run stopped; the loop acts on it."""
    stop_message: str = ""
    progress: Progress | None = None
    fires: int = 1
    """How many fires this run stands for: more than one only for a skipped run that sums up missed fires."""
    ended_at: datetime | None = None
    waited_seconds: int = 0
    """How long it has waited for nothing but what it needs itself, up to `waits_since`."""
    waits_since: datetime | None = None
    """Since when that time counts on; None while it stands still."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule with its place in time."""

    name: str
    spec: ScheduleSpec
    paused: bool
    pause_reason: str
    created_at: datetime
    updated_at: datetime
    anchor_at: datetime
    """All fires up to and including this moment have been turned into runs."""
    next_fire_at: datetime | None
    """The first fire after the anchor; None for a manual schedule or one with no fire left."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    state: RunState
    reason: Reason
    message: str
    failure_class: FailureClass | None = None


@dataclass(frozen=True, slots=True)
class FlowerRun:
    """One row of `flwr ls`."""

    run_id: str
    version: str
    status: str
    """`pending`, `starting`, `running` or `finished`."""
    sub_status: str = ""
    """`completed`, `failed` or `stopped` when finished."""
    details: str = ""
    pending_at: datetime | None = None
    running_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class FlowerNode:
    """One row of `flwr supernode list`."""

    node_id: str
    status: str
    """`registered`, `online`, `offline` or `unregistered`."""
    online_since: datetime | None = None
    offline_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """The fleet as one decision sees it."""

    nodes: tuple[Node, ...] = ()
    superlink_reachable: bool = False
    list_problem: str = ""
    """Why Flower's list of nodes cannot be read, though the SuperLink answers; "" while it can."""
