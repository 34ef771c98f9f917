"""The decisions about SuperNode: (state, event, now) -> (state, actions).

First the words: what is known of the SuperNode, what can happen to it, what may be done to it. Pure: no clock, no
process, no file. ``daemon`` feeds it events and carries out its actions. Times are monotonic seconds. Imports the
codes, the settings and backoff only.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from fleven_agent.common.backoff import delay
from fleven_agent.config.settings import Supervision as Policy
from fleven_agent.protocol.codes import Reason, State


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

    @property
    def awaits_tasks(self) -> bool:
        """Whether tasks may come: to this SuperNode, or within seconds to the next one."""
        if self.state is State.STOPPING:
            return self.stop is not None and self.stop.after in {After.RESTART, After.RETRY}
        return self.state in {State.STARTING, State.RUNNING, State.BACKOFF}


class Action(StrEnum):
    """What the daemon is to do."""

    SPAWN = "spawn"
    TERMINATE = "terminate"
    KILL = "kill"
    QUIT = "quit"


@dataclass(frozen=True, slots=True)
class Begin:
    """The agent starts; ``attempt`` is the persisted backoff index."""

    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Registered:
    """SuperLink accepted the node."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Trying:
    """SuperNode says that it is trying to reach the SuperLink: slow, but alive."""


@dataclass(frozen=True, slots=True)
class Exited:
    """SuperNode is gone, and so is its group."""

    reason: Reason
    detail: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """It could not be started at all."""

    detail: str


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """A task began or ended."""

    active: bool


@dataclass(frozen=True, slots=True)
class GatesChanged:
    """The debounced set of closed gates; each entry is a sentence."""

    closed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """SuperNode lives but cannot do its work, and must be replaced."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Somebody wants a fresh SuperNode."""

    reason: Reason
    detail: str = ""
    wait_for_task: bool = True


@dataclass(frozen=True, slots=True)
class Quit:
    """The agent is to stop."""

    wait_for_task: bool = True


Event = Begin | Tick | Registered | Trying | Exited | SpawnFailed | TaskChanged | GatesChanged | Broken | Restart | Quit
Step = tuple[Supervised, tuple[Action, ...]]


def step(was: Supervised, event: Event, now: float, policy: Policy, chance: Callable[[], float]) -> Step:
    """Decide. ``chance`` returns a number of [0, 1) for the jitter of a delay."""
    match event:
        case Begin():
            return _begin(replace(was, attempt=event.attempt), now)
        case Tick():
            return _tick(was, now, policy)
        case Registered():
            return _registered(was, event, now)
        case Trying():
            return replace(was, sign_of_life_at=now), ()
        case Exited():
            return _exited(was, event, now, policy, chance)
        case SpawnFailed():
            return _failed(was, Reason.SPAWN_FAILED, event.detail, True, now, policy, chance), ()
        case TaskChanged():
            return _task_changed(was, event, now)
        case GatesChanged():
            return _gates_changed(replace(was, gates=event.closed), now, policy)
        case Broken():
            return _broken(was, event, now, policy)
        case Restart():
            return _restart(was, event, now, policy)
        case Quit():
            return _quit(was, event, now, policy)


def next_deadline(was: Supervised, policy: Policy) -> float | None:
    """Return the moment at which a tick will change something, or None."""
    if was.state is State.STOPPING and was.stop is not None:
        return was.stop.deadline
    if was.state in {State.BACKOFF, State.FAILED}:
        return was.retry_at
    if was.state is State.STARTING:
        if was.registered_at is not None:
            return was.registered_at + policy.stable_seconds
        return was.sign_of_life_at + policy.registration_timeout_seconds
    return None


def _enter(was: Supervised, state: State, reason: Reason, now: float, detail: str = "") -> Supervised:
    return replace(was, state=state, since=now, reason=reason, detail=detail, stop=None, retry_at=None)


def _spawn(was: Supervised, reason: Reason, now: float, detail: str = "") -> Step:
    started = replace(
        _enter(was, State.STARTING, reason, now, detail),
        spawned_at=now,
        registered_at=None,
        sign_of_life_at=now,
        node_id=None,
        task_active=False,
    )
    return started, (Action.SPAWN,)


def _gated(was: Supervised, now: float) -> Supervised:
    gone = replace(was, spawned_at=None, registered_at=None, node_id=None, task_active=False)
    return _enter(gone, State.GATED, Reason.GATE_CLOSED, now, "; ".join(was.gates))


def _begin(was: Supervised, now: float) -> Step:
    if was.state is not State.STOPPED:
        return was, ()
    return (_gated(was, now), ()) if was.gates else _spawn(was, Reason.AGENT_START, now)


def _tick(was: Supervised, now: float, policy: Policy) -> Step:
    match was.state:
        case State.STARTING if was.registered_at is not None:
            if now - was.registered_at >= policy.stable_seconds:
                return replace(_enter(was, State.RUNNING, Reason.REGISTERED, now), attempt=0), ()
        case State.STARTING if now - was.sign_of_life_at >= policy.registration_timeout_seconds:
            detail = f"SuperNode did not register within {policy.registration_timeout_seconds:g} s"
            return _broken(was, Broken(Reason.REGISTRATION_TIMEOUT, detail), now, policy)
        case State.BACKOFF | State.FAILED if was.retry_at is not None and now >= was.retry_at:
            return _spawn(was, was.reason, now, was.detail)
        case State.STOPPING if was.stop is not None and now >= was.stop.deadline:
            return _next_rung(was, was.stop, now)
    return was, ()


def _registered(was: Supervised, event: Registered, now: float) -> Step:
    if not was.has_process:
        return was, ()
    return replace(was, node_id=event.node_id, registered_at=now, sign_of_life_at=now), ()


def _task_changed(was: Supervised, event: TaskChanged, now: float) -> Step:
    changed = replace(was, task_active=event.active)
    stop = changed.stop
    if stop is not None and stop.phase is Phase.WAIT_FOR_TASK and not event.active:
        return _next_rung(changed, stop, now)
    return changed, ()


def _gates_changed(was: Supervised, now: float, policy: Policy) -> Step:
    closed = bool(was.gates)
    match was.state:
        case State.GATED if not closed:
            return _spawn(was, Reason.GATE_OPENED, now)
        case State.GATED:
            return replace(was, detail="; ".join(was.gates)), ()
        case State.BACKOFF | State.FAILED if closed:
            return _gated(was, now), ()
        case State.STARTING | State.RUNNING if closed:
            return _begin_stop(
                was, After.GATE, Reason.GATE_CLOSED, "; ".join(was.gates), now, policy.task_deadline_seconds, policy
            )
        case State.STOPPING if not closed and was.stop is not None and was.stop.after is After.GATE:
            if was.stop.phase is Phase.WAIT_FOR_TASK:  # nothing was signalled yet: carry on as if nothing had been
                stable = was.registered_at is not None and now - was.registered_at >= policy.stable_seconds
                state = State.RUNNING if stable else State.STARTING
                return _enter(was, state, Reason.GATE_OPENED, now), ()
    return was, ()


def _broken(was: Supervised, event: Broken, now: float, policy: Policy) -> Step:
    if was.state not in {State.STARTING, State.RUNNING} and not _only_waits(was):
        return was, ()
    stop = Stop(
        After.RETRY,
        Phase.TERM,
        now + policy.repair_grace_seconds,
        policy.repair_grace_seconds,
        event.reason,
        event.detail,
    )
    stopping = replace(_enter(was, State.STOPPING, event.reason, now, event.detail), stop=stop)
    return stopping, (Action.TERMINATE,)


def _restart(was: Supervised, event: Restart, now: float, policy: Policy) -> Step:
    if was.state in {State.BACKOFF, State.FAILED}:
        return _spawn(replace(was, attempt=0), event.reason, now, event.detail)
    if was.state in {State.STARTING, State.RUNNING}:
        wait = policy.task_deadline_seconds if event.wait_for_task else 0.0
        return _begin_stop(was, After.RESTART, event.reason, event.detail, now, wait, policy)
    if was.stop is not None and _only_waits(was):  # should a gate have opened by then, a fresh SuperNode is still due
        stop = replace(was.stop, after=After.RESTART, reason=event.reason, detail=event.detail)
        waiting = replace(was, reason=event.reason, detail=event.detail, stop=stop)
        return (waiting, ()) if event.wait_for_task else _next_rung(waiting, stop, now)
    return was, ()


def _only_waits(was: Supervised) -> bool:
    """Whether a stop for a gate or a restart has signalled nothing yet, so that it may still become another."""
    stop = was.stop
    return stop is not None and stop.phase is Phase.WAIT_FOR_TASK and stop.after in {After.GATE, After.RESTART}


def _quit(was: Supervised, event: Quit, now: float, policy: Policy) -> Step:
    if not was.has_process:
        return _enter(was, State.STOPPED, Reason.AGENT_STOP, now), (Action.QUIT,)
    wait = policy.stop_task_seconds if event.wait_for_task else 0.0
    stop = was.stop
    if stop is None or stop.phase is Phase.WAIT_FOR_TASK:
        return _begin_stop(was, After.QUIT, Reason.AGENT_STOP, "", now, wait, policy)
    # TERM is out already: only what follows changes.
    return replace(was, reason=Reason.AGENT_STOP, stop=replace(stop, after=After.QUIT)), ()


def _begin_stop(
    was: Supervised, after: After, reason: Reason, detail: str, now: float, wait: float, policy: Policy
) -> Step:
    waits = was.task_active and wait > 0
    stop = Stop(after, Phase.WAIT_FOR_TASK, now + (wait if waits else 0), policy.stop_grace_seconds, reason, detail)
    stopping = replace(_enter(was, State.STOPPING, reason, now, detail), stop=stop)
    return (stopping, ()) if waits else _next_rung(stopping, stop, now)


def _next_rung(was: Supervised, stop: Stop, now: float) -> Step:
    if stop.phase is Phase.WAIT_FOR_TASK:
        deadline = now + stop.grace_seconds
        return replace(was, stop=replace(stop, phase=Phase.TERM, deadline=deadline)), (Action.TERMINATE,)
    # KILL cannot fail, except on a process in uninterruptible sleep: then it is repeated.
    return replace(was, stop=replace(stop, phase=Phase.KILL, deadline=now + 1.0)), (Action.KILL,)


def _exited(was: Supervised, event: Exited, now: float, policy: Policy, chance: Callable[[], float]) -> Step:
    stop = was.stop
    if was.state is State.STOPPING and stop is not None:
        match stop.after:
            case After.QUIT:
                gone = replace(was, node_id=None, registered_at=None, task_active=False)
                return _enter(gone, State.STOPPED, Reason.AGENT_STOP, now), (Action.QUIT,)
            case After.GATE | After.RESTART if was.gates:
                return _gated(was, now), ()
            case After.GATE:
                return _spawn(was, Reason.GATE_OPENED, now)
            case After.RESTART:
                return _spawn(was, stop.reason, now, stop.detail)
            case After.RETRY:
                return _failed(was, stop.reason, stop.detail, False, now, policy, chance), ()
    if not was.has_process:
        return was, ()
    return _failed(was, event.reason, event.detail, event.permanent, now, policy, chance), ()


def _failed(
    was: Supervised,
    reason: Reason,
    detail: str,
    permanent: bool,
    now: float,
    policy: Policy,
    chance: Callable[[], float],
) -> Supervised:
    gone = replace(was, spawned_at=None, registered_at=None, node_id=None, task_active=False, failures=was.failures + 1)
    if was.gates:
        return _gated(gone, now)
    attempt = was.attempt + 1
    loops = attempt >= policy.crash_loop_count
    wait = delay(
        attempt,
        initial=policy.backoff_maximum_seconds if permanent else policy.backoff_initial_seconds,
        factor=policy.backoff_factor,
        maximum=policy.backoff_maximum_seconds,
        chance=chance(),
    )
    state = State.FAILED if permanent or loops else State.BACKOFF
    return replace(_enter(gone, state, reason, now, detail), attempt=attempt, retry_at=now + wait)
