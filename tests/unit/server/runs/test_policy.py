"""May this run start now, and if not why not: each condition, and rules that hold for any fleet."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleven.server.nodes.model import Condition, Fleet, Node, NodeHealth, Severity
from fleven.server.runs import policy
from fleven.server.runs.model import Reason, Run, RunState, Trigger
from fleven.server.runs.policy import Action, Situation
from fleven.server.schedules.spec import Blackout, Conditions, Overlap, ScheduleSpec

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
BAD = Condition("disk-low", Severity.ERROR)


def node(name: str, health: NodeHealth = NodeHealth.READY, **values: Any) -> Node:
    return Node(name, int(name.rpartition("-")[2]), health, **values)


def run(spec: ScheduleSpec, **values: Any) -> Run:
    defaults: dict[str, Any] = {
        "id": 7,
        "schedule_name": "nightly",
        "trigger": Trigger.SCHEDULED,
        "due_at": NOW,
        "created_at": NOW,
        "state": RunState.PENDING,
        "reason": Reason.FIRED,
        "message": "",
        "since": NOW,
        "spec": spec,
    }
    return Run(**{**defaults, **values})


def situation(*nodes: Node, **values: Any) -> Situation:
    return Situation(Fleet(tuple(nodes), superlink_reachable=True), **values)


def spec(**conditions: Any) -> ScheduleSpec:
    return ScheduleSpec(conditions=Conditions(**conditions))


def unmet(made: ScheduleSpec, seen: Situation) -> dict[Reason, policy.Requirement]:
    return {check.code: check for check in policy.checks(made, seen, NOW) if not check.met}


def test_too_few_nodes_names_each_that_does_not_count() -> None:
    seen = situation(
        node("car-0"),
        node("car-1", NodeHealth.ZOMBIE, reason="online for Flower, dead by its report"),
        node("car-2", NodeHealth.OFFLINE),
    )
    check = unmet(spec(min_nodes=3), seen)[Reason.TOO_FEW_NODES]
    assert check.nodes == ("car-1", "car-2")
    assert check.message == (
        "needs 3 nodes, 1 ready; not: car-1 (online for Flower, dead by its report), car-2 (offline)"
    )


@pytest.mark.parametrize(
    "health", [health for health in NodeHealth if health not in (NodeHealth.READY, NodeHealth.BUSY)]
)
def test_only_ready_nodes_count(health: NodeHealth) -> None:
    assert Reason.TOO_FEW_NODES in unmet(spec(min_nodes=1), situation(node("car-0", health)))


def test_required_nodes_labels_and_errors() -> None:
    seen = situation(
        node("car-0", labels=frozenset({"bus"})),
        node("car-1", labels=frozenset({"bus"}), conditions=(BAD,)),
        node("car-2"),
    )
    assert not unmet(spec(min_nodes=2, labels=("bus",)), seen)
    assert unmet(spec(min_nodes=3, labels=("bus",)), seen)[Reason.TOO_FEW_NODES].nodes == ()
    found = unmet(spec(min_nodes=1, nodes=("car-1", "car-9"), no_error_condition=True), seen)
    assert found[Reason.NODE_CONDITION].nodes == ("car-1",)
    assert found[Reason.NODE_MISSING].nodes == ("car-1", "car-9")
    assert "car-9 (unknown)" in found[Reason.NODE_MISSING].message
    assert not unmet(spec(min_nodes=3, nodes=("car-1",)), seen)


def test_fresh_data_means_newer_than_the_last_success() -> None:
    last = NOW - timedelta(days=1)
    fresh, stale = node("car-0", newest_trip_at=NOW), node("car-1", newest_trip_at=last - timedelta(hours=1))
    wanted = spec(min_nodes=2, fresh_data=True)
    assert not unmet(wanted, situation(fresh, stale))
    found = unmet(wanted, situation(fresh, stale, last_success_started=last))
    assert found[Reason.DATA_NOT_FRESH].nodes == ("car-1",)


def test_six_nodes_are_named_and_the_rest_is_counted() -> None:
    names = [f"car-{number}" for number in range(8)]
    assert policy.named(names[:6]) == "car-0, car-1, car-2, car-3, car-4, car-5"
    assert policy.named(names) == "car-0, car-1, car-2, car-3, car-4, car-5 and 2 more"


@pytest.mark.parametrize(
    ("min_nodes", "ages_in_seconds", "met"),
    [(0, [], False), (0, [-1], True), (1, [0], False), (1, [-1, 0], True), (2, [-1, 0], False), (2, [-1, -1], True)],
)
def test_as_many_cars_as_a_run_needs_must_have_fresh_data_and_one_at_least(
    min_nodes: int, ages_in_seconds: list[int], met: bool
) -> None:
    """A trip of the moment of the last success was there for it."""
    cars = [
        node(f"car-{index}", newest_trip_at=NOW - timedelta(seconds=age)) for index, age in enumerate(ages_in_seconds)
    ]
    check = policy.fresh_check(Conditions(min_nodes=min_nodes, fresh_data=True), cars, NOW)
    assert check.met is met
    assert check.nodes == tuple(car.name for car, age in zip(cars, ages_in_seconds, strict=True) if age >= 0)


@pytest.mark.parametrize(
    ("overlap", "earlier", "expected"),
    [
        (Overlap.SKIP, (), []),
        (Overlap.SKIP, (3,), [(False, "run 3 of this schedule is still open")]),
        (Overlap.QUEUE, (), [(True, "no earlier run is open")]),
        (Overlap.QUEUE, (3, 4), [(False, "run 3, 4 of this schedule is still open")]),
        (Overlap.REPLACE, (3,), [(False, "run 3 of this schedule is still open")]),
    ],
)
def test_an_earlier_run_of_the_schedule_is_waited_for(
    overlap: Overlap, earlier: tuple[int, ...], expected: list[tuple[bool, str]]
) -> None:
    found = policy.checks(ScheduleSpec(overlap=overlap), situation(earlier_open=earlier), NOW)
    assert [(check.met, check.message) for check in found if check.code is Reason.OVERLAP] == expected


@pytest.mark.parametrize("problem", ["", "database is locked"])
@pytest.mark.parametrize("reachable", [True, False])
def test_the_superlink_must_answer_and_its_list_must_be_readable(reachable: bool, problem: str) -> None:
    fleet = Fleet((node("car-0"),), superlink_reachable=reachable, list_problem=problem)
    found = {check.code: check for check in policy.checks(spec(min_nodes=1), Situation(fleet), NOW)}
    answer = found[Reason.SUPERLINK_UNREACHABLE]
    assert (answer.met, answer.message) == (
        (True, "the SuperLink answers") if reachable else (False, "the SuperLink does not answer")
    )
    unreadable = found.get(Reason.NODE_LIST_UNREADABLE)
    assert (unreadable is not None and not unreadable.met) == bool(problem)
    assert found[Reason.CONCURRENCY].message == "0 of 1 allowed runs under way"


@pytest.mark.parametrize(
    ("hour", "met", "message"), [(10, True, "no blackout now"), (11, False, "blackout until 2026-05-04 13:00Z")]
)
def test_a_blackout_says_how_long_it_lasts(hour: int, met: bool, message: str) -> None:
    made = ScheduleSpec(blackouts=(Blackout.model_validate({"start": "11:00", "end": "13:00"}),))
    found = policy.checks(made, situation(), NOW.replace(hour=hour))
    assert [(check.met, check.message) for check in found if check.code is Reason.BLACKOUT] == [(met, message)]


def test_a_blackout_holds_up_what_is_scheduled_and_not_what_was_asked_for() -> None:
    window = Blackout.model_validate({"start": "11:00", "end": "13:00"})
    made = ScheduleSpec(blackouts=(window,))
    seen = situation(node("car-0"))
    assert policy.decide(run(made), seen, NOW).reason is Reason.BLACKOUT
    assert policy.decide(run(made, trigger=Trigger.MANUAL), seen, NOW).action is Action.START


def waits_on(before: Run, seen: Situation, at: datetime) -> tuple[Run, policy.Decision]:
    """Decide, and return the run as it is stored then."""
    decision = policy.decide(before, seen, at)
    clock = {"waited_seconds": decision.waited_seconds, "waits_since": decision.waits_since}
    return replace(before, state=RunState.WAITING, **clock), decision


def test_the_queue_does_not_use_up_the_time_to_wait() -> None:
    late = NOW + timedelta(hours=14)
    waiting, _ = waits_on(run(spec(min_nodes=1, wait=60)), situation(active_runs=1), NOW)
    waiting, decision = waits_on(waiting, situation(active_runs=1), late)
    assert (decision.action, decision.reason) == (Action.WAIT, Reason.TOO_FEW_NODES)
    # Its place is free: from now on it waits for the car alone.
    waiting, decision = waits_on(waiting, situation(), late)
    assert decision.action is Action.WAIT
    waiting, decision = waits_on(waiting, situation(), late + timedelta(seconds=60))
    assert decision.action is Action.WAIT
    _, decision = waits_on(waiting, situation(), late + timedelta(seconds=61))
    assert (decision.action, decision.reason) == (Action.SKIP, Reason.WAIT_DEADLINE)


def test_a_queue_in_between_stops_the_clock_and_does_not_set_it_back() -> None:
    waiting, _ = waits_on(run(spec(min_nodes=1, wait=60)), situation(), NOW)
    waiting, _ = waits_on(waiting, situation(active_runs=1), NOW + timedelta(seconds=40))
    waiting, _ = waits_on(waiting, situation(), NOW + timedelta(hours=1))
    waiting, decision = waits_on(waiting, situation(), NOW + timedelta(hours=1, seconds=20))
    assert decision.action is Action.WAIT
    _, decision = waits_on(waiting, situation(), NOW + timedelta(hours=1, seconds=21))
    assert decision.reason is Reason.WAIT_DEADLINE


@pytest.mark.parametrize(("seconds", "waited"), [(-5, 10), (0, 10), (7.4, 17)])
def test_the_clock_of_the_deadline_never_runs_backwards(seconds: float, waited: int) -> None:
    """Not even when the machine's clock was set back in the meantime."""
    waiting = run(spec(min_nodes=1), waited_seconds=10, waits_since=NOW)
    decision = policy.decide(waiting, situation(active_runs=1), NOW + timedelta(seconds=seconds))
    assert (decision.action, decision.waited_seconds, decision.waits_since) == (Action.WAIT, waited, None)


def test_a_retry_starts_at_its_moment() -> None:
    seen = situation(node("car-0"))
    waiting = run(spec(min_nodes=1), since=NOW - timedelta(minutes=1), retry_at=NOW)
    assert policy.decide(waiting, seen, NOW - timedelta(minutes=1)).reason is Reason.RETRY_BACKOFF
    assert policy.decide(waiting, seen, NOW - timedelta(microseconds=1)).reason is Reason.RETRY_BACKOFF
    decision = policy.decide(waiting, seen, NOW)
    assert (decision.action, decision.waited_seconds, decision.waits_since) == (Action.START, 0, None)


def test_a_clock_that_is_set_back_lengthens_no_pause_and_no_deadline() -> None:
    waiting = run(spec(min_nodes=1), since=NOW, retry_at=NOW + timedelta(minutes=1))
    an_hour_ago = NOW - timedelta(hours=1)
    assert policy.decide(waiting, situation(node("car-0")), an_hour_ago).action is Action.START
    late = run(spec(min_nodes=1, wait=60), waited_seconds=10, waits_since=NOW)
    late, decision = waits_on(late, situation(), an_hour_ago)
    assert (decision.action, decision.waited_seconds, decision.waits_since) == (Action.WAIT, 10, an_hour_ago)
    assert policy.decide(late, situation(), an_hour_ago + timedelta(seconds=51)).action is Action.SKIP


def test_a_pause_before_a_retry_is_kept_and_does_not_count_as_waiting() -> None:
    made = spec(min_nodes=1, wait=60)
    waiting = run(made, retry_at=NOW + timedelta(hours=1))
    waiting, decision = waits_on(waiting, situation(node("car-0")), NOW)
    assert decision.reason is Reason.RETRY_BACKOFF
    after = NOW + timedelta(hours=1, seconds=30)
    waiting, decision = waits_on(waiting, situation(), after)
    assert decision.action is Action.WAIT
    assert policy.decide(waiting, situation(), after + timedelta(seconds=61)).action is Action.SKIP


def test_a_stop_comes_before_everything() -> None:
    stopped = run(spec(min_nodes=9), stop_reason=Reason.OPERATOR, stop_message="no")
    decision = policy.decide(stopped, situation(), NOW)
    assert (decision.action, decision.reason, decision.message) == (Action.CANCEL, Reason.OPERATOR, "no")


@pytest.mark.parametrize(
    ("overlap", "trigger", "open_runs", "state", "replaced"),
    [
        (Overlap.SKIP, Trigger.SCHEDULED, [], RunState.PENDING, ()),
        (Overlap.SKIP, Trigger.SCHEDULED, [3], RunState.SKIPPED, ()),
        (Overlap.SKIP, Trigger.MANUAL, [3], RunState.PENDING, ()),
        (Overlap.QUEUE, Trigger.SCHEDULED, [3, 4], RunState.PENDING, ()),
        (Overlap.REPLACE, Trigger.SCHEDULED, [3, 4], RunState.PENDING, (3, 4)),
    ],
)
def test_overlap(
    overlap: Overlap, trigger: Trigger, open_runs: list[int], state: RunState, replaced: tuple[int, ...]
) -> None:
    arrival = policy.arrive(overlap, open_runs, trigger, NOW)
    assert (arrival.state, arrival.replaced) == (state, replaced)


nodes = st.lists(
    st.builds(
        lambda index, health, labelled, bad: node(
            f"car-{index}",
            health,
            labels=frozenset({"bus"}) if labelled else frozenset(),
            conditions=(BAD,) if bad else (),
        ),
        st.integers(0, 9),
        st.sampled_from(NodeHealth),
        st.booleans(),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda made: made.name,
)
conditions = st.builds(
    Conditions,
    min_nodes=st.integers(0, 5),
    nodes=st.lists(st.sampled_from(["car-0", "car-1"]), unique=True, max_size=2).map(tuple),
    labels=st.sampled_from([(), ("bus",)]),
    no_error_condition=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(fleet=nodes, wanted=conditions, active=st.integers(0, 2), reachable=st.booleans())
def test_a_run_starts_exactly_when_every_check_is_met(
    fleet: list[Node], wanted: Conditions, active: int, reachable: bool
) -> None:
    seen = Situation(Fleet(tuple(fleet), reachable), active_runs=active, maximum_active_runs=2)
    made = ScheduleSpec(conditions=wanted)
    decision = policy.decide(run(made), seen, NOW)
    counted = policy.eligible(wanted, fleet)
    allowed = (
        reachable
        and active < 2
        and len(counted) >= wanted.min_nodes
        and set(wanted.nodes) <= {each.name for each in counted}
        and not (wanted.no_error_condition and any(each.ready and policy.has_error(each) for each in fleet))
    )
    assert (decision.action is Action.START) == allowed
    assert allowed or (decision.message and decision.reason in {c.code for c in decision.checks if not c.met})


@settings(max_examples=200, deadline=None)
@given(fleet=nodes, wanted=conditions, more=st.integers(10, 20))
def test_one_more_ready_node_never_makes_it_worse(fleet: list[Node], wanted: Conditions, more: int) -> None:
    before = unmet(ScheduleSpec(conditions=wanted), situation(*fleet))
    extra = node(f"car-{more}", labels=frozenset({"bus"}))
    after = unmet(ScheduleSpec(conditions=wanted), situation(*fleet, extra))
    assert set(after) <= set(before)
