"""Every transition of the supervisor, and what holds whatever happens to it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleven_agent.config.settings import Supervision as Policy
from fleven_agent.protocol.codes import Reason, State
from fleven_agent.supernode.supervisor import (
    Action,
    After,
    Begin,
    Broken,
    Event,
    Exited,
    GatesChanged,
    Phase,
    Quit,
    Registered,
    Restart,
    SpawnFailed,
    Supervised,
    TaskChanged,
    Tick,
    Trying,
    next_deadline,
    step,
)

POLICY = Policy(
    stable_seconds=3,
    registration_timeout_seconds=60,
    stop_grace_seconds=10,
    repair_grace_seconds=2,
    task_deadline_seconds=900,
    stop_task_seconds=60,
    backoff_initial_seconds=1,
    backoff_factor=2,
    backoff_maximum_seconds=100,
    crash_loop_count=3,
)
CRASH = Exited(Reason.EXITED, "crashed")


def go(was: Supervised, event: Event, now: float) -> tuple[Supervised, tuple[Action, ...]]:
    return step(was, event, now, POLICY, lambda: 0.5)


def after(*events: tuple[float, Event]) -> Supervised:
    was = Supervised()
    for now, event in events:
        was, _ = go(was, event, now)
    return was


RUNNING: Sequence[tuple[float, Event]] = ((0, Begin()), (4, Registered("7")), (7, Tick()))


def test_before_anything_happens_there_is_nothing() -> None:
    nothing = Supervised()
    assert (nothing.state, nothing.reason, nothing.detail) == (State.STOPPED, Reason.NONE, "")
    assert (nothing.since, nothing.sign_of_life_at, nothing.attempt, nothing.failures) == (0.0, 0.0, 0, 0)
    assert (nothing.spawned_at, nothing.registered_at, nothing.node_id, nothing.retry_at) == (None,) * 4
    assert (nothing.stop, nothing.task_active, nothing.gates) == (None, False, ())


def test_begin_starts_supernode() -> None:
    was, actions = go(Supervised(), Begin(attempt=2), 0)
    assert (was.state, was.reason, was.attempt, actions) == (State.STARTING, Reason.AGENT_START, 2, (Action.SPAWN,))


def test_begin_with_a_closed_gate_starts_nothing() -> None:
    was, actions = go(after((0, GatesChanged(("hot",)))), Begin(), 0)
    assert (was.state, was.detail, actions) == (State.GATED, "hot", ())


def test_running_is_earned_by_registration_and_time() -> None:
    was = after((0, Begin(attempt=4)), (4, Registered("7")))
    assert was.state is State.STARTING
    assert next_deadline(was, POLICY) == 7
    assert go(was, Tick(), 6.9)[0].state is State.STARTING
    was, _ = go(was, Tick(), 7)
    assert (was.state, was.attempt, was.node_id) == (State.RUNNING, 0, "7")


def test_time_alone_does_not_make_it_running() -> None:
    was = after((5, Begin()))
    assert next_deadline(was, POLICY) == 65
    assert go(was, Tick(), 64)[0].state is State.STARTING


def test_the_backoff_index_stays_until_running() -> None:
    was = after((0, Begin(attempt=1)), (4, Registered("7")), (5, CRASH))
    assert (was.state, was.attempt) == (State.BACKOFF, 2)


def test_no_registration_in_time_replaces_it() -> None:
    was, actions = go(after((0, Begin())), Tick(), 60)
    assert (was.state, was.reason, actions) == (State.STOPPING, Reason.REGISTRATION_TIMEOUT, (Action.TERMINATE,))


def test_a_supernode_that_says_it_tries_is_left_alone() -> None:
    was = after((0, Begin()), (50, Trying()))
    assert go(was, Tick(), 100)[0].state is State.STARTING
    assert go(was, Tick(), 110)[0].state is State.STOPPING


@pytest.mark.parametrize(
    ("failures", "delay", "state"), [(1, 1, State.BACKOFF), (2, 2, State.BACKOFF), (3, 4, State.FAILED)]
)
def test_delays_grow_and_a_crash_loop_shows(failures: int, delay: float, state: State) -> None:
    was, now = after((0, Begin())), 0.0
    for _ in range(failures - 1):
        was, _ = go(was, CRASH, now)
        assert was.retry_at is not None
        now = was.retry_at
        was, actions = go(was, Tick(), now)
        assert actions == (Action.SPAWN,)
    was, _ = go(was, CRASH, now)
    assert (was.state, was.retry_at, next_deadline(was, POLICY)) == (state, now + delay, now + delay)
    assert go(was, Tick(), now + delay - 0.1) == (was, ())


def test_an_unasked_exit_with_zero_is_a_failure_too() -> None:
    was = after(*RUNNING, (9, Exited(Reason.EXITED_UNASKED_ZERO, "left")))
    assert (was.state, was.reason, was.failures, was.node_id) == (State.BACKOFF, Reason.EXITED_UNASKED_ZERO, 1, None)


def test_a_permanent_cause_waits_the_longest() -> None:
    was = after((0, Begin()), (1, Exited(Reason.REJECTED, "versions", permanent=True)))
    assert (was.state, was.retry_at) == (State.FAILED, 101)


def test_a_program_that_cannot_start_is_failed_and_tried_again() -> None:
    was = after((0, Begin()), (0, SpawnFailed("not found")))
    assert (was.state, was.reason, was.retry_at) == (State.FAILED, Reason.SPAWN_FAILED, 100)
    assert go(was, Tick(), 100)[1] == (Action.SPAWN,)


@pytest.mark.parametrize("reason", [Reason.EXECUTOR_DEAD, Reason.TASK_STUCK, Reason.HUNG, Reason.HEARTBEATS_ENDED])
def test_broken_is_replaced_at_once_even_during_a_task(reason: Reason) -> None:
    was, actions = go(after(*RUNNING, (8, TaskChanged(True))), Broken(reason, "why"), 9)
    assert (was.state, was.reason, actions) == (State.STOPPING, reason, (Action.TERMINATE,))
    assert next_deadline(was, POLICY) == 11
    was, actions = go(was, Tick(), 11)
    assert actions == (Action.KILL,)
    was, actions = go(was, Exited(Reason.KILLED_BY_SIGNAL, "9"), 11)
    assert (was.state, was.reason, was.detail, was.retry_at) == (State.BACKOFF, reason, "why", 12)


def test_what_tasks_need_is_kept_while_supernode_is_replaced_and_given_back_while_it_is_not() -> None:
    """Importing it again takes the first task of the next SuperNode longer than all else."""
    seen = [Supervised().awaits_tasks]
    was, awaits = Supervised(), []
    for event in (Begin(), Registered("7"), Broken(Reason.CONNECTION_DEAD, ""), Exited(Reason.EXITED, "")):
        was, _ = step(was, event, 10.0, POLICY, lambda: 0.5)
        awaits.append((was.state, was.awaits_tasks))
    assert seen == [False]
    assert awaits == [(State.STARTING, True), (State.STARTING, True), (State.STOPPING, True), (State.BACKOFF, True)]
    for last in (GatesChanged(("hot",)), Quit(wait_for_task=False)):
        stopping, _ = step(step(Supervised(), Begin(), 0.0, POLICY, lambda: 0.5)[0], last, 1.0, POLICY, lambda: 0.5)
        assert (stopping.state, stopping.awaits_tasks) == (State.STOPPING, False)
    assert not replace(was, state=State.FAILED).awaits_tasks
    assert not replace(was, state=State.GATED).awaits_tasks


def test_a_gate_lets_the_task_finish() -> None:
    was, actions = go(after(*RUNNING, (8, TaskChanged(True))), GatesChanged(("hot",)), 10)
    assert was.stop is not None
    assert (was.state, was.stop.phase, was.stop.deadline, actions) == (State.STOPPING, Phase.WAIT_FOR_TASK, 910, ())
    was, actions = go(was, TaskChanged(False), 20)
    assert actions == (Action.TERMINATE,)
    was, actions = go(was, Exited(Reason.EXITED, ""), 21)
    assert (was.state, was.failures, actions) == (State.GATED, 0, ())


def test_a_gate_waits_for_a_task_only_until_the_deadline() -> None:
    was = after(*RUNNING, (8, TaskChanged(True)), (10, GatesChanged(("hot",))))
    assert go(was, Tick(), 909)[1] == ()
    was, actions = go(was, Tick(), 910)
    assert actions == (Action.TERMINATE,)
    assert go(was, Tick(), 920)[1] == (Action.KILL,)


def test_a_gate_that_opens_during_the_wait_changes_nothing() -> None:
    was = after(*RUNNING, (8, TaskChanged(True)), (10, GatesChanged(("hot",))), (12, GatesChanged(())))
    assert (was.state, was.stop, was.node_id) == (State.RUNNING, None, "7")


@pytest.mark.parametrize(
    ("registered_at", "opened_at", "state"),
    [(None, 12, State.STARTING), (8, 10.9, State.STARTING), (8, 11, State.RUNNING)],
)
def test_a_gate_that_opens_during_the_wait_gives_no_time_away(
    registered_at: float | None, opened_at: float, state: State
) -> None:
    """Whatever SuperNode was before the gate closed: it runs once it was registered for long enough."""
    was = after((0, Begin()), *([(registered_at, Registered("7"))] if registered_at is not None else []))
    for now, event in ((9, TaskChanged(True)), (10, GatesChanged(("hot",))), (opened_at, GatesChanged(()))):
        was, _ = go(was, event, now)
    assert (was.state, was.reason, was.stop) == (state, Reason.GATE_OPENED, None)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([CRASH], State.BACKOFF),
        ([GatesChanged(("hot",)), Exited(Reason.EXITED, "")], State.GATED),
        ([Quit(), Exited(Reason.EXITED, "")], State.STOPPED),
        ([Restart(Reason.RESTART_REQUESTED), Exited(Reason.EXITED, "")], State.STARTING),
    ],
)
def test_a_task_ends_with_its_supernode(events: list[Event], state: State) -> None:
    was = after(*RUNNING, (8, TaskChanged(True)), *((9, event) for event in events))
    assert (was.state, was.task_active, was.node_id, was.registered_at) == (state, False, None, None)


@pytest.mark.parametrize("event", [GatesChanged(("hot",)), Restart(Reason.RESTART_REQUESTED), Quit()])
@pytest.mark.parametrize(("seconds", "actions"), [(0, (Action.TERMINATE,)), (1, ())])
def test_a_task_may_be_given_no_time_at_all(event: Event, seconds: float, actions: tuple[Action, ...]) -> None:
    policy = replace(POLICY, task_deadline_seconds=seconds, stop_task_seconds=seconds)
    was, found = step(after(*RUNNING, (8, TaskChanged(True))), event, 9, policy, lambda: 0.5)
    assert (found, next_deadline(was, policy)) == (actions, 9 + (seconds or POLICY.stop_grace_seconds))


def test_a_gate_that_opens_during_the_stop_starts_anew() -> None:
    was = after(*RUNNING, (10, GatesChanged(("hot",))), (11, GatesChanged(())))
    was, actions = go(was, Exited(Reason.EXITED, ""), 12)
    assert (was.state, was.reason, actions) == (State.STARTING, Reason.GATE_OPENED, (Action.SPAWN,))


def test_an_opened_gate_starts_supernode() -> None:
    was, actions = go(after((0, GatesChanged(("hot",))), (0, Begin())), GatesChanged(()), 5)
    assert (was.state, actions) == (State.STARTING, (Action.SPAWN,))


@pytest.mark.parametrize("permanent", [False, True])
def test_a_gate_ends_backoff_and_failed(permanent: bool) -> None:
    was = after((0, Begin()), (1, replace(CRASH, permanent=permanent)), (1, GatesChanged(("drained",))))
    assert (was.state, was.retry_at) == (State.GATED, None)


def test_a_crash_while_a_gate_is_closed_does_not_start_it() -> None:
    was = after(*RUNNING, (8, TaskChanged(True)), (10, GatesChanged(("hot",))), (11, CRASH))
    assert was.state is State.GATED


def test_restart_waits_for_the_task_and_counts_no_failure() -> None:
    was = after(*RUNNING, (8, TaskChanged(True)), (9, Restart(Reason.RESTART_REQUESTED)))
    assert was.state is State.STOPPING
    was, actions = go(was, TaskChanged(False), 15)
    assert actions == (Action.TERMINATE,)
    was, actions = go(was, Exited(Reason.EXITED, ""), 16)
    assert (was.state, was.failures, was.attempt, actions) == (State.STARTING, 0, 0, (Action.SPAWN,))


def test_restart_now_does_not_wait() -> None:
    was = after(*RUNNING, (8, TaskChanged(True)))
    assert go(was, Restart(Reason.RESTART_REQUESTED, wait_for_task=False), 9)[1] == (Action.TERMINATE,)


def test_restart_ends_a_backoff() -> None:
    was, actions = go(after((0, Begin()), (1, CRASH)), Restart(Reason.RESTART_REQUESTED), 1)
    assert (was.state, was.attempt, actions) == (State.STARTING, 0, (Action.SPAWN,))


WAITS_FOR_A_GATE: Sequence[tuple[float, Event]] = (*RUNNING, (8, TaskChanged(True)), (10, GatesChanged(("hot",))))


def test_a_restart_is_not_forgotten_when_a_gate_opens_before_the_task_ends() -> None:
    was = after(*WAITS_FOR_A_GATE, (11, Restart(Reason.COMMAND_LINE_CHANGED)), (12, GatesChanged(())))
    assert was.stop is not None
    assert (was.state, was.reason, was.stop.phase) == (
        State.STOPPING,
        Reason.COMMAND_LINE_CHANGED,
        Phase.WAIT_FOR_TASK,
    )
    was, actions = go(was, TaskChanged(False), 15)
    assert actions == (Action.TERMINATE,)
    was, actions = go(was, Exited(Reason.EXITED, ""), 16)
    assert (was.state, was.reason, actions) == (State.STARTING, Reason.COMMAND_LINE_CHANGED, (Action.SPAWN,))


def test_a_restart_during_the_wait_for_a_gate_starts_nothing_behind_it() -> None:
    was = after(*WAITS_FOR_A_GATE, (11, Restart(Reason.COMMAND_LINE_CHANGED)), (15, TaskChanged(False)))
    was, actions = go(was, Exited(Reason.EXITED, ""), 16)
    assert (was.state, actions) == (State.GATED, ())


@pytest.mark.parametrize("first", [GatesChanged(("hot",)), Restart(Reason.RESTART_REQUESTED)])
def test_restart_now_ends_a_wait_for_the_task(first: Event) -> None:
    was = after(*RUNNING, (8, TaskChanged(True)), (10, first), (11, Restart(Reason.RESTART_REQUESTED)))
    was, actions = go(was, Restart(Reason.RESTART_REQUESTED, wait_for_task=False), 12)
    assert was.stop is not None
    assert (was.stop.phase, was.stop.deadline, actions) == (Phase.TERM, 22, (Action.TERMINATE,))


@pytest.mark.parametrize("first", [GatesChanged(("hot",)), Restart(Reason.RESTART_REQUESTED)])
def test_what_breaks_during_the_wait_for_the_task_is_replaced_all_the_same(first: Event) -> None:
    was, actions = go(after(*RUNNING, (8, TaskChanged(True)), (10, first)), Broken(Reason.HEARTBEATS_ENDED, "why"), 11)
    assert (was.state, was.reason, actions) == (State.STOPPING, Reason.HEARTBEATS_ENDED, (Action.TERMINATE,))
    assert go(was, Broken(Reason.HUNG, "why"), 12) == (was, ())
    was, _ = go(was, Exited(Reason.EXITED, ""), 12)
    assert was.state is (State.GATED if isinstance(first, GatesChanged) else State.BACKOFF)


def test_a_stop_of_the_agent_is_neither_turned_nor_hurried_by_a_restart() -> None:
    was = after(*RUNNING, (8, TaskChanged(True)), (10, Quit()))
    assert go(was, Restart(Reason.RESTART_REQUESTED, wait_for_task=False), 11) == (was, ())


def test_quit_without_a_process_is_done_at_once() -> None:
    was, actions = go(after((0, Begin()), (1, CRASH)), Quit(), 1)
    assert (was.state, actions) == (State.STOPPED, (Action.QUIT,))


def test_quit_waits_for_the_task_then_term_then_kill_then_quits() -> None:
    was = after(*RUNNING, (8, TaskChanged(True)), (10, Quit()))
    assert was.stop is not None
    assert (was.stop.phase, was.stop.deadline) == (Phase.WAIT_FOR_TASK, 70)
    was, actions = go(was, Tick(), 70)
    assert actions == (Action.TERMINATE,)
    was, actions = go(was, Tick(), 80)
    assert (actions, next_deadline(was, POLICY)) == ((Action.KILL,), 81)
    was, actions = go(was, Tick(), 81)
    assert actions == (Action.KILL,)
    was, actions = go(was, Exited(Reason.KILLED_BY_SIGNAL, ""), 82)
    assert (was.state, was.failures, actions) == (State.STOPPED, 0, (Action.QUIT,))


def test_a_second_quit_does_not_wait() -> None:
    was = after(*RUNNING, (8, TaskChanged(True)), (10, Quit()))
    assert go(was, Quit(wait_for_task=False), 11)[1] == (Action.TERMINATE,)


def test_quit_takes_over_a_stop_that_is_on_its_way() -> None:
    was = after(*RUNNING, (9, Broken(Reason.EXECUTOR_DEAD, "gone")), (10, Quit()))
    assert was.stop is not None
    assert was.stop.after is After.QUIT
    assert go(was, Exited(Reason.EXITED, ""), 11)[1] == (Action.QUIT,)


def test_events_of_a_process_that_is_not_there_mean_nothing() -> None:
    was = after((0, Begin()), (1, CRASH))
    for event in (Registered("7"), CRASH, Broken(Reason.HUNG, "x")):
        assert go(was, event, 1) == (was, ())


EVENTS = st.one_of(
    st.just(Tick()),
    st.just(Trying()),
    st.builds(Registered, st.sampled_from(["1", "2"])),
    st.builds(Exited, st.sampled_from([Reason.EXITED, Reason.REJECTED]), st.just("x"), st.booleans()),
    st.just(SpawnFailed("x")),
    st.builds(TaskChanged, st.booleans()),
    st.builds(GatesChanged, st.sampled_from([(), ("hot",), ("hot", "full")])),
    st.just(Broken(Reason.EXECUTOR_DEAD, "x")),
    st.builds(Restart, st.just(Reason.RESTART_REQUESTED), st.just(""), st.booleans()),
    st.builds(Quit, st.booleans()),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 200), EVENTS), max_size=40))
def test_whatever_happens_there_is_one_process_at_most_and_always_a_way_on(steps: list[tuple[float, Event]]) -> None:
    """Spawns only when no process exists, never behind a closed gate; each state has a next moment or a cause."""
    was, actions = step(Supervised(), Begin(), 0, POLICY, lambda: 0.5)
    lives, now, quitting = True, 0.0, False
    for pause, event in steps:
        if isinstance(event, SpawnFailed | Exited) and not lives:
            continue  # cannot happen to a process that is not there
        now += pause
        lives = lives and not isinstance(event, SpawnFailed | Exited)
        quitting = quitting or isinstance(event, Quit)
        was, actions = step(was, event, now, POLICY, lambda: 0.5)
        if Action.SPAWN in actions:
            assert not lives
            assert not was.gates
            lives = True
        if Action.QUIT in actions:
            assert not lives
            assert quitting
            return
        assert was.has_process == lives
        if was.state in {State.BACKOFF, State.FAILED, State.STOPPING, State.STARTING}:
            assert next_deadline(was, POLICY) is not None
        if was.state is State.GATED:
            assert was.gates
        if was.state is State.RUNNING:
            assert was.node_id is not None
        if was.retry_at is not None:
            assert was.retry_at - now <= POLICY.backoff_maximum_seconds * 1.2
