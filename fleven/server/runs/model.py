"""Plain values about runs: their states, attempts, steps and outcomes.

Frozen, without behaviour that touches the world. Enum values are stored and shown to programs: they never change once
shipped. This module must not import SQLAlchemy, FastAPI, typer or anything that reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from fleven.server.schedules.spec import FailureClass

if TYPE_CHECKING:
    from fleven.server.schedules.spec import ScheduleSpec


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
    NO_DRIFT = "no-drift"
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
    NO_ROUND_TRAINED = "no-round-trained"
    ROUNDS_FAILED = "rounds-failed"
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
    app_hash: str | None = None
    """SHA-256 of the bundle that the SuperLink has for it, found to hold what was submitted; None when unknown."""


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
    """How long it has waited for the nodes that it needs, not for others, up to `waits_since`."""
    waits_since: datetime | None = None
    """Since when that time counts on; None while it stands still."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    state: RunState
    reason: Reason
    message: str
    failure_class: FailureClass | None = None
