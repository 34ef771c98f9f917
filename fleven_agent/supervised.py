"""What is known of the SuperNode under supervision, and what may be done to it: the values that decisions rest on.

Imports the states only.
"""

from dataclasses import dataclass
from enum import StrEnum

from fleven_agent.states import Reason, State


class After(StrEnum):
    """What follows a stop."""

    QUIT = "quit"
    GATE = "gate"
    RESTART = "restart"
    RETRY = "retry"


class Phase(StrEnum):
    """The rung of the stop ladder."""

    WAIT_FOR_TASK = "wait-for-task"
    TERM = "term"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop on its way."""

    after: After
    phase: Phase
    deadline: float
    grace_seconds: float
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Supervised:
    """All that the decisions rest on."""

    state: State = State.STOPPED
    since: float = 0.0
    reason: Reason = Reason.NONE
    detail: str = ""
    spawned_at: float | None = None
    registered_at: float | None = None
    sign_of_life_at: float = 0.0
    node_id: str | None = None
    attempt: int = 0
    retry_at: float | None = None
    stop: Stop | None = None
    task_active: bool = False
    gates: tuple[str, ...] = ()
    failures: int = 0

    @property
    def has_process(self) -> bool:
        """Whether a SuperNode process is expected to exist."""
        return self.state in {State.STARTING, State.RUNNING, State.STOPPING}


class Action(StrEnum):
    """What the daemon is to do."""

    SPAWN = "spawn"
    TERMINATE = "terminate"
    KILL = "kill"
    QUIT = "quit"
