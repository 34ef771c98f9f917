"""Whether a run may start now, with which nodes, or why not. Pure functions over plain values; `now` is handed in.

The same checks decide, explain (`schedule why`) and predict (`schedule`), so that they always agree. Must not import
the store, Flower or anything that reads a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from fleven.server.nodes import drift, suspicion
from fleven.server.nodes.model import Drift, Fleet, Node, Severity
from fleven.server.nodes.suspicion import is_suspicious
from fleven.server.runs.model import Reason, Run, RunState, Trigger
from fleven.server.schedules.calendar import blackout_until
from fleven.server.schedules.parts import format_duration
from fleven.server.schedules.spec import Conditions, Overlap, ScheduleSpec

NAMED = 6
"""This many nodes are named in one line; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition of a run.

    Attributes:
        code: the reason that a run waits with while the condition is not met.
        met: whether it is met.
        message: one clause for people, naming the nodes.
        nodes: names of the nodes that stand in the way.
    """

    code: Reason
    met: bool
    message: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything outside a run that its start depends on.

    Attributes:
        fleet: the nodes, and whether the SuperLink answers.
        active_runs: runs that occupy the SuperLink.
        maximum_active_runs: how many may.
        earlier_open: numbers of open runs of the same schedule that are older than this one.
        last_success_started: when the newest successful run of the schedule was submitted.
        cars: what `node_checks` said of the same schedule and fleet, when it was asked before.
    """

    fleet: Fleet
    active_runs: int = 0
    maximum_active_runs: int = 1
    earlier_open: tuple[int, ...] = ()
    last_success_started: datetime | None = None
    cars: tuple[Requirement, ...] | None = None


class Action(StrEnum):
    """What to do with a run that has not started."""

    START = "start"
    WAIT = "wait"
    SKIP = "skip"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a run, and the reason to store first."""

    action: Action
    reason: Reason
    message: str
    checks: tuple[Requirement, ...] = ()
    waited_seconds: int = 0
    """The clock of the run's deadline: as `Run.waited_seconds`, `Run.waits_since`."""
    waits_since: datetime | None = None


def named(nodes: Sequence[str]) -> str:
    """Return names in one phrase."""
    more = f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    return ", ".join(nodes[:NAMED]) + more


def why_not(node: Node) -> str:
    """Return a node with what keeps it from counting: `car-2 (offline)`."""
    doubted = node.ready and is_suspicious(node)
    return f"{node.name} ({suspicion.CODE if doubted else node.reason or node.health.value})"


def has_error(node: Node) -> bool:
    """Return whether a node reports a condition of severity error."""
    return any(condition.severity is Severity.ERROR for condition in node.conditions)


def eligible(conditions: Conditions, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that count: ready, with all wanted labels, without error or suspicion where that is wanted."""
    wanted = frozenset(conditions.labels)
    return [
        node
        for node in nodes
        if node.ready
        and wanted <= node.labels
        and not (conditions.no_error_condition and has_error(node))
        and not (conditions.no_suspicious_update and is_suspicious(node))
    ]


def node_checks(conditions: Conditions, fleet: Fleet, last_success_started: datetime | None) -> tuple[Requirement, ...]:
    """Return the checks that look at the cars."""
    nodes = fleet.nodes
    counted = eligible(conditions, nodes)
    # By name: comparing whole nodes with each other would cost the square of the fleet.
    good = {node.name for node in counted}
    wanted = frozenset(conditions.labels)
    others = [node for node in nodes if node.name not in good and wanted <= node.labels]
    checks = [
        Requirement(
            Reason.TOO_FEW_NODES,
            len(counted) >= conditions.min_nodes,
            f"needs {conditions.min_nodes} node{'s' * (conditions.min_nodes != 1)}"
            f"{' with label ' + ', '.join(conditions.labels) if conditions.labels else ''}, {len(counted)} ready"
            + (f"; not: {named([why_not(node) for node in others])}" if others else ""),
            tuple(node.name for node in others),
        )
    ]
    if conditions.nodes:
        by_name = {node.name: node for node in nodes}
        missing = [name for name in conditions.nodes if name not in good]
        texts = [why_not(by_name[name]) if name in by_name else f"{name} (unknown)" for name in missing]
        checks.append(
            Requirement(
                Reason.NODE_MISSING,
                not missing,
                f"needs {named(conditions.nodes)}" + (f"; not ready: {named(texts)}" if texts else ", all ready"),
                tuple(missing),
            )
        )
    if conditions.no_error_condition:
        bad = [node for node in nodes if node.ready and has_error(node)]
        texts = [
            f"{node.name} ({', '.join(c.code for c in node.conditions if c.severity is Severity.ERROR)})"
            for node in bad
        ]
        checks.append(
            Requirement(
                Reason.NODE_CONDITION,
                not bad,
                f"no node may report an error{': ' + named(texts) if bad else ''}",
                tuple(node.name for node in bad),
            )
        )
    if conditions.fresh_data:
        checks.append(fresh_check(conditions, counted, last_success_started))
    if conditions.when_drift:
        checks.append(drift_check(nodes))
    return tuple(checks)


def fresh_check(conditions: Conditions, counted: Sequence[Node], since: datetime | None) -> Requirement:
    """Return the check that enough cars hold trips newer than the last successful run."""
    if since is None:
        return Requirement(Reason.DATA_NOT_FRESH, True, "new trips since the last success: there was none yet")
    fresh = [node for node in counted if node.newest_trip_at is not None and node.newest_trip_at > since]
    names = {node.name for node in fresh}
    stale = [node.name for node in counted if node.name not in names]
    needed = max(1, conditions.min_nodes)
    return Requirement(
        Reason.DATA_NOT_FRESH,
        len(fresh) >= needed,
        f"needs {needed} node{'s' * (needed != 1)} with trips since {since:%Y-%m-%d %H:%M}Z, {len(fresh)} have"
        + (f"; not: {named(stale)}" if stale else ""),
        tuple(stale),
    )


def drift_check(nodes: Sequence[Node]) -> Requirement:
    """Return the check that the champion no longer fits the fleet; met while no car has one: there must be a first."""
    found = drift.of_fleet(nodes)
    if not found.having:
        return Requirement(Reason.NO_DRIFT, True, "drift of the model in use: no car has one yet")
    message = f"needs drift on half of the cars that can tell: {len(found.drifting)} of {found.telling}"
    if found.having > found.telling:
        message += f", {found.having - found.telling} more have too few new trips"
    if found.drifting:
        message += f"; drifting: {named(found.drifting)}"
    steady = tuple(node.name for node in nodes if node.drift is Drift.STEADY)
    return Requirement(Reason.NO_DRIFT, found.drifts, message, steady)


def checks(spec: ScheduleSpec, situation: Situation, now: datetime, *, manual: bool = False) -> tuple[Requirement, ...]:
    """Return every condition of a start, met or not, in the order in which they are reported.

    Args:
        spec: the schedule.
        situation: fleet, queue and history.
        now: the current time.
        manual: whether the operator asked for the run: blackouts do not hold then.
    """
    found: list[Requirement] = []
    if spec.overlap is not Overlap.SKIP or situation.earlier_open:
        text = f"run {', '.join(map(str, situation.earlier_open))} of this schedule is still open"
        found.append(
            Requirement(
                Reason.OVERLAP, not situation.earlier_open, text if situation.earlier_open else "no earlier run is open"
            )
        )
    if spec.blackouts and not manual:
        until = blackout_until(spec.blackouts, now)
        found.append(
            Requirement(
                Reason.BLACKOUT,
                until is None,
                f"blackout until {until:%Y-%m-%d %H:%M}Z" if until else "no blackout now",
            )
        )
    found.append(
        Requirement(
            Reason.SUPERLINK_UNREACHABLE,
            situation.fleet.superlink_reachable,
            "the SuperLink answers" if situation.fleet.superlink_reachable else "the SuperLink does not answer",
        )
    )
    if situation.fleet.list_problem:
        text = f"Flower's list of nodes cannot be read: {situation.fleet.list_problem}"
        found.append(Requirement(Reason.NODE_LIST_UNREADABLE, False, text))
    found += (
        situation.cars
        if situation.cars is not None
        else node_checks(spec.conditions, situation.fleet, situation.last_success_started)
    )
    free = situation.maximum_active_runs - situation.active_runs
    found.append(
        Requirement(
            Reason.CONCURRENCY,
            free > 0,
            f"{situation.active_runs} of {situation.maximum_active_runs} allowed runs under way",
        )
    )
    return tuple(found)


def decide(run: Run, situation: Situation, now: datetime) -> Decision:
    """Return whether a pending or waiting run starts now, waits, or ends without having started.

    Args:
        run: a run in state pending or waiting.
        situation: fleet, queue and history.
        now: the current time.
    """
    if run.stop_reason is not None:
        return Decision(Action.CANCEL, run.stop_reason, run.stop_message)
    # A moment before the pause began: the clock was set back, and the pause would last as much longer.
    if run.retry_at is not None and run.since <= now < run.retry_at:
        return Decision(Action.WAIT, Reason.RETRY_BACKOFF, f"tries again at {run.retry_at:%Y-%m-%d %H:%M:%S}Z")
    results = checks(run.spec, situation, now, manual=run.trigger is Trigger.MANUAL)
    unmet = [check for check in results if not check.met]
    if not unmet:
        return Decision(Action.START, Reason.SUBMITTING, "all conditions are met", results)
    message = "; ".join(check.message for check in unmet)
    waited_seconds, waits_since = deadline_clock(run, unmet, now)
    waited = timedelta(seconds=waited_seconds) + (now - waits_since if waits_since is not None else timedelta(0))
    if waits_since is not None and waited > timedelta(seconds=run.spec.conditions.wait):
        text = f"waited {format_duration(run.spec.conditions.wait)}: {message}"
        return Decision(Action.SKIP, Reason.WAIT_DEADLINE, text, results, waited_seconds, waits_since)
    return Decision(Action.WAIT, unmet[0].code, message, results, waited_seconds, waits_since)


def deadline_clock(run: Run, unmet: Sequence[Requirement], now: datetime) -> tuple[int, datetime | None]:
    """Return how long a run has waited, in seconds, and since when that counts on; None while it stands still.

    A queue or a blackout is not the cars' fault: only the time counts in which nothing else held the run up.
    """
    if not any(check.code in (Reason.CONCURRENCY, Reason.OVERLAP, Reason.BLACKOUT) for check in unmet):
        return run.waited_seconds, min(run.waits_since or now, now)
    if run.waits_since is None:
        return run.waited_seconds, None
    return run.waited_seconds + max(0, round((now - run.waits_since).total_seconds())), None


@dataclass(frozen=True, slots=True)
class Arrival:
    """What happens when a schedule fires: the state its new run begins in, and which open runs it replaces."""

    state: RunState
    reason: Reason
    message: str
    replaced: tuple[int, ...] = ()


def arrive(overlap: Overlap, open_runs: Sequence[int], trigger: Trigger, due: datetime) -> Arrival:
    """Apply the overlap policy to a new run.

    Args:
        overlap: the schedule's policy.
        open_runs: numbers of its runs that are still open.
        trigger: what makes the new run; an operator's request is never skipped, it queues.
        due: when it is due.
    """
    reason = {
        Trigger.SCHEDULED: Reason.FIRED,
        Trigger.MANUAL: Reason.REQUESTED,
        Trigger.DEPENDENCY: Reason.DEPENDENCY_SUCCEEDED,
    }[trigger]
    message = f"due {due:%Y-%m-%d %H:%M:%S}Z"
    if not open_runs or (overlap is Overlap.SKIP and trigger is Trigger.MANUAL):
        return Arrival(RunState.PENDING, reason, message)
    match overlap:
        case Overlap.SKIP:
            text = f"run {', '.join(map(str, open_runs))} was still open"
            return Arrival(RunState.SKIPPED, Reason.OVERLAP, text)
        case Overlap.QUEUE:
            return Arrival(RunState.PENDING, reason, message)
        case Overlap.REPLACE:
            return Arrival(RunState.PENDING, reason, message, tuple(open_runs))
