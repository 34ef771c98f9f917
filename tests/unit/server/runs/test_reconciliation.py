"""Whatever crashes when: each occurrence gets one run, each attempt at most one submission, and nothing stays open."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from fleven.server.database.tables import runs as runs_table
from fleven.server.flower import run_files
from fleven.server.runs import firing, lifecycle
from fleven.server.runs import store as run_store
from fleven.server.runs.model import Outcome, Reason, RunState, Trigger
from fleven.server.runs.results import RunFolders
from fleven.server.runs.scheduler import SUPERLINK_FACT
from fleven.server.schedules import editing
from fleven.server.schedules import store as schedule_store
from fleven.server.schedules.spec import FailureClass, Missed, Overlap, Retry, ScheduleSpec
from fleven.server.schedules.triggers import EveryTrigger

EVERY_SECONDS = 600


def add_schedule(world: Any, name: str = "often", **values: Any) -> None:
    spec = ScheduleSpec(trigger=EveryTrigger(every=EVERY_SECONDS), missed=Missed.ALL, overlap=Overlap.QUEUE, **values)
    with world.store.write() as connection:
        editing.add(connection, name, spec, world.now)


def run_now(world: Any, **values: Any) -> int:
    with world.store.write() as connection:
        return firing.run_now(connection, "by-hand", ScheduleSpec(**values), world.now)


def get(world: Any, run_id: int) -> Any:
    with world.store.read() as connection:
        return run_store.get(connection, run_id)


def all_runs(world: Any) -> list[Any]:
    with world.store.read() as connection:
        return run_store.newest(connection, 10_000)


def marks(world: Any) -> list[str]:
    found = [re.search(r"\+fleven\.(\d+\.\d+)\.", version) for version in world.superlink.submissions]
    return [match.group(1) for match in found if match]


def finish_everything(world: Any) -> None:
    """End all that runs, with the SuperLink up, until no run is open."""
    world.superlink.up, world.superlink.refuse, world.superlink.lose_next_answer = True, False, False
    for _ in range(3000):
        for run_id in world.superlink.unfinished():
            world.superlink.end(run_id, "completed")
        world.turn(20)
        if all(run.state.terminal for run in all_runs(world)):
            return
    raise AssertionError(f"still open: {[run for run in all_runs(world) if not run.state.terminal]}")


def test_a_run_says_why_the_server_has_ended_its_server_app(world: Any) -> None:
    number = run_now(world, retry=Retry(attempts=0))
    for _ in range(4):
        world.turn()
    (flower_id,) = world.superlink.unfinished()
    run_files.write_end(world.paths.state, flower_id, "metrics/x/status.json: the disk of /srv is full")
    world.superlink.end(flower_id, "failed", "No heartbeat received from the task")
    for _ in range(6):
        world.turn(20)
    ended = get(world, number)
    assert (ended.state, ended.reason) == (RunState.FAILED, Reason.SERVER_APP_DIED)
    assert ended.message == "the ServerApp's process died (metrics/x/status.json: the disk of /srv is full)"
    assert not list((world.paths.state / run_files.OTHER_FILES).iterdir())


events = st.lists(
    st.sampled_from(
        [
            "turn",
            "turn",
            "turn",
            "wait",
            "decide-then-crash",
            "work-then-crash",
            "crash",
            "superlink-down",
            "superlink-up",
            "lose-answer",
            "complete",
            "fail-infrastructure",
            "fail-app",
            "stop-outside",
        ]
    ),
    min_size=5,
    max_size=40,
)


def happen(world: Any, event: str) -> None:
    """Let one event happen."""
    unfinished = world.superlink.unfinished()
    match event:
        case "turn":
            world.turn(5)
        case "wait":
            world.turn(EVERY_SECONDS)
        case "decide-then-crash":
            # The intent is stored; the work was never begun.
            world.now += timedelta(seconds=30)
            world.scheduler.tick()
            world.crash()
        case "work-then-crash":
            # The work was done (a submission, a stop); its answer was never read.
            world.now += timedelta(seconds=30)
            world.scheduler.tick()
            world.work.run_all()
            world.crash()
        case "crash":
            world.crash()
        case "superlink-down":
            world.superlink.up = False
        case "superlink-up":
            world.superlink.up = True
        case "lose-answer":
            world.superlink.lose_next_answer = True
        case "complete" if unfinished:
            world.superlink.end(unfinished[0], "completed")
        case "fail-infrastructure" if unfinished:
            world.superlink.end(unfinished[0], "failed", "No heartbeat received from the task")
        case "fail-app" if unfinished:
            world.superlink.end(unfinished[0], "failed", "ServerApp failed with exception: x")
        case "stop-outside" if unfinished:
            world.superlink.end(unfinished[0], "stopped")


def check_no_occurrence_is_lost_or_doubled(world: Any, happenings: list[str], retries: int) -> None:
    """Let things happen, then end everything, and compare what was due with what there is."""
    add_schedule(world, retry=Retry(attempts=retries, backoff=10))
    created = world.now
    for event in happenings:
        happen(world, event)
    with world.store.write() as connection:
        editing.pause(connection, "often", "the test looks", world.now)
    until = world.now
    finish_everything(world)
    with world.store.read() as connection:
        due = list(connection.execute(select(runs_table.c.due_at).order_by(runs_table.c.due_at)).scalars())
    # Paused between a fire and the next turn, the last occurrence may not have been looked at yet.
    expected = [
        created + timedelta(seconds=EVERY_SECONDS * n)
        for n in range(1, int((until - created).total_seconds() // EVERY_SECONDS) + 1)
    ]
    assert due in (expected, expected[:-1])
    # Each attempt was submitted once, and each submission belongs to an attempt that the register knows.
    assert len(marks(world)) == len(set(marks(world)))
    for run in all_runs(world):
        attempts = {number for mark in marks(world) for owner, number in [mark.split(".")] if int(owner) == run.id}
        assert len(attempts) <= retries + 1
        assert run.state is not RunState.SUCCEEDED or attempts
    assert {int(mark.split(".")[0]) for mark in marks(world)} <= {run.id for run in all_runs(world)}


ANY_HAPPENINGS = given(happenings=events, retries=st.integers(0, 2))
NO_LIMIT = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(NO_LIMIT, max_examples=60)
@ANY_HAPPENINGS
def test_no_occurrence_is_lost_or_doubled(new_world: Callable[..., Any], happenings: list[str], retries: int) -> None:
    check_no_occurrence_is_lost_or_doubled(new_world(), happenings, retries)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(NO_LIMIT, max_examples=5000)
@ANY_HAPPENINGS
def test_no_occurrence_is_lost_or_doubled_in_many_tries(
    new_world: Callable[..., Any], happenings: list[str], retries: int
) -> None:
    check_no_occurrence_is_lost_or_doubled(new_world(), happenings, retries)


def test_a_run_goes_from_request_to_success_in_coded_steps(world: Any) -> None:
    run_id = run_now(world)
    world.turns(6)
    assert get(world, run_id).state is RunState.RUNNING
    world.superlink.end(world.superlink.unfinished()[0], "completed")
    world.turns(6)
    with world.store.read() as connection:
        steps = [(step.state, step.reason) for step in run_store.steps(connection, run_id)]
    assert steps == [
        (RunState.PENDING, Reason.REQUESTED),
        (RunState.SUBMITTED, Reason.SUBMITTING),
        (RunState.SUBMITTED, Reason.ACCEPTED),
        (RunState.RUNNING, Reason.STARTED),
        (RunState.SUCCEEDED, Reason.COMPLETED),
    ]
    assert not list(world.paths.apps.iterdir())


def test_results_are_shown_from_where_the_run_config_puts_them(world: Any, tmp_path: Path) -> None:
    run_id = run_now(world, run_config={"results-base-path": str(tmp_path / "elsewhere")})
    world.turns(6)
    run = get(world, run_id)
    folders = RunFolders.of(run, world.paths)
    assert folders.results == tmp_path / "elsewhere" / "x" / run.attempt.flower_run_id
    assert folders.metrics == world.paths.state / "metrics" / "x" / run.attempt.flower_run_id
    before = replace(run, attempt=replace(run.attempt, results_folder=None))
    assert RunFolders.of(before, world.paths).results == world.paths.state / "results" / "x" / run.attempt.flower_run_id


def test_a_submission_whose_answer_was_lost_is_found_and_not_repeated(world: Any) -> None:
    run_id = run_now(world)
    world.superlink.lose_next_answer = True
    world.turns(8)
    assert marks(world) == [f"{run_id}.1"]
    assert get(world, run_id).attempt.flower_run_id == world.superlink.unfinished()[0]


def test_a_refused_app_fails_once_and_for_good(world: Any) -> None:
    world.superlink.refuse = True
    run_id = run_now(world, retry=Retry(attempts=3, backoff=1))
    world.turns(10)
    run = get(world, run_id)
    assert (run.state, run.reason, run.attempts) == (RunState.FAILED, Reason.SUBMISSION_FAILED, 1)
    assert "too large" in run.message


def test_an_error_of_the_superlink_is_tried_again_by_the_schedule_s_own_rule(world: Any) -> None:
    world.superlink.run_fails = True
    run_id = run_now(world, retry=Retry(attempts=2, backoff=60))
    world.turns(6)
    waiting = get(world, run_id)
    assert (waiting.state, waiting.reason) == (RunState.WAITING, Reason.RETRY_BACKOFF)
    assert waiting.attempt.message == "Internal server error."
    world.superlink.run_fails = False
    world.turns(20)
    assert (get(world, run_id).state, get(world, run_id).attempts) == (RunState.RUNNING, 2)
    assert marks(world) == [f"{run_id}.2"]


def test_a_list_that_fails_after_a_lost_answer_is_no_word_on_the_app(world: Any) -> None:
    run_id = run_now(world, retry=Retry(attempts=0))
    world.turn()
    world.superlink.up = False
    world.scheduler.tick()
    world.work.run_all()
    world.superlink.up, world.superlink.list_fails = True, True
    world.turns(6)
    world.superlink.list_fails = False
    world.turns(40)
    assert get(world, run_id).state is RunState.RUNNING
    assert marks(world) == [f"{run_id}.1"]


def test_a_run_that_is_stopped_before_its_submission_happened_is_not_submitted(world: Any) -> None:
    run_id = run_now(world, retry=Retry(attempts=3))
    world.turn()
    # The intent is stored, and nothing is done about it.
    world.scheduler.tick()
    world.crash()
    assert get(world, run_id).reason is Reason.SUBMITTING
    with world.store.write() as connection:
        run_store.request_stop(connection, [run_id], Reason.OPERATOR, "not this one")
    world.turns(6)
    ended = get(world, run_id)
    assert (ended.state, ended.reason, ended.message) == (RunState.CANCELLED, Reason.OPERATOR, "not this one")
    assert not world.superlink.submissions


def test_a_missing_app_fails_with_its_path(world: Any) -> None:
    run_id = run_now(world, app="/nowhere/app")
    world.turns(6)
    run = get(world, run_id)
    assert (run.state, run.reason) == (RunState.FAILED, Reason.SUBMISSION_FAILED)
    assert "/nowhere/app" in run.message


def test_a_dead_server_app_is_retried_after_a_pause_and_an_app_error_is_not(world: Any) -> None:
    first = run_now(world, retry=Retry(attempts=1, backoff=60))
    world.turns(6)
    world.superlink.end(world.superlink.unfinished()[0], "failed", "No heartbeat received from the task")
    world.turns(3)
    waiting = get(world, first)
    assert (waiting.state, waiting.reason) == (RunState.WAITING, Reason.RETRY_BACKOFF)
    assert marks(world) == [f"{first}.1"]
    world.turns(20)
    assert marks(world) == [f"{first}.1", f"{first}.2"]
    world.superlink.end(world.superlink.unfinished()[0], "failed", "ServerApp failed with exception: no")
    world.turns(6)
    ended = get(world, first)
    assert (ended.state, ended.reason, ended.attempts) == (RunState.FAILED, Reason.APP_FAILED, 2)


@pytest.mark.parametrize("crash", [False, True])
def test_a_run_is_stopped_at_its_maximum_duration(world: Any, crash: bool) -> None:
    run_id = run_now(world, max_duration=60)
    world.turns(6)
    assert not world.superlink.stops
    if crash:
        # It dies between storing the step and stopping.
        world.now += timedelta(seconds=60)
        world.scheduler.tick()
        world.crash()
    world.turns(12)
    assert world.superlink.stops == [get(world, run_id).attempt.flower_run_id]
    ended = get(world, run_id)
    assert (ended.state, ended.reason) == (RunState.TIMED_OUT, Reason.MAX_DURATION)


def test_a_run_that_the_superlink_lost_is_closed_and_tried_again(world: Any) -> None:
    run_id = run_now(world, retry=Retry(attempts=1, backoff=10))
    world.turns(6)
    world.superlink.runs_by_id.clear()
    world.turns(12)
    assert marks(world) == [f"{run_id}.1", f"{run_id}.2"]
    with world.store.read() as connection:
        attempts = run_store.all_attempts(connection, run_id)
    assert attempts[0].reason is Reason.RUN_UNKNOWN


def test_the_operator_stops_a_waiting_and_a_running_run(world: Any) -> None:
    world.fleet.nodes = []
    waiting = run_now(world)
    world.turns(3)
    assert (get(world, waiting).state, get(world, waiting).reason) == (RunState.WAITING, Reason.TOO_FEW_NODES)
    with world.store.write() as connection:
        run_store.request_stop(connection, [waiting], Reason.OPERATOR, "no")
    world.turns(1)
    assert (get(world, waiting).state, get(world, waiting).reason) == (RunState.CANCELLED, Reason.OPERATOR)
    running = run_now(world, conditions={"min-nodes": 0}, retry=Retry(attempts=3))
    world.turns(6)
    with world.store.write() as connection:
        run_store.request_stop(connection, [running], Reason.OPERATOR, "no")
    world.turns(6)
    assert (get(world, running).state, get(world, running).attempts) == (RunState.CANCELLED, 1)


def test_a_stop_that_comes_while_a_failure_is_taken_over_is_not_forgotten(world: Any) -> None:
    run_id = run_now(world, retry=Retry(attempts=3, backoff=60))
    world.turns(6)
    read_before = get(world, run_id)
    with world.store.write() as connection:
        run_store.request_stop(connection, [run_id], Reason.OPERATOR, "no")
        died = Outcome(RunState.FAILED, Reason.SERVER_APP_DIED, "", FailureClass.INFRASTRUCTURE)
        again = lifecycle.close(read_before, 1, died, world.now)
        assert again.state is RunState.WAITING
        run_store.apply(connection, read_before, replace(again, stop=(Reason.MAX_DURATION, "too long")), world.now)
    assert (get(world, run_id).stop_reason, get(world, run_id).stop_message) == (Reason.OPERATOR, "no")


def test_replace_stops_the_earlier_run_and_then_starts(world: Any) -> None:
    add_schedule(world, "replaced")
    with world.store.write() as connection:
        schedule = schedule_store.get(connection, "replaced")
        changed = schedule.spec.model_copy(update={"overlap": Overlap.REPLACE})
        editing.change(connection, schedule, changed, world.now)
    world.turn(EVERY_SECONDS)
    world.turns(6)
    world.turn(EVERY_SECONDS)
    world.turns(8)
    newest, oldest = all_runs(world)
    assert (oldest.state, oldest.reason) == (RunState.CANCELLED, Reason.REPLACED)
    assert newest.state is RunState.RUNNING


def test_success_makes_one_run_of_each_schedule_that_follows(world: Any) -> None:
    add_schedule(world, "first")
    with world.store.write() as connection:
        editing.add(connection, "second", ScheduleSpec(after="first"), world.now)
    world.turn(EVERY_SECONDS)
    world.turns(6)
    world.superlink.end(world.superlink.unfinished()[0], "completed")
    world.scheduler.tick()
    world.work.run_all()
    world.crash()
    world.turns(6)
    made = [run for run in all_runs(world) if run.schedule_name == "second"]
    assert [run.trigger for run in made] == [Trigger.DEPENDENCY]
    assert made[0].state is RunState.RUNNING


def test_priority_goes_first_and_the_limit_holds(world: Any) -> None:
    low = run_now(world, priority=-1)
    high = run_now(world, priority=5)
    # By hand both belong to one name; the older must not hold up the newer here.
    with world.store.write() as connection:
        connection.execute(runs_table.update().where(runs_table.c.id == high).values(schedule_name="other"))
    world.turns(6)
    assert get(world, high).state is RunState.RUNNING
    assert (get(world, low).state, get(world, low).reason) == (RunState.WAITING, Reason.CONCURRENCY)
    assert len(world.superlink.unfinished()) == 1


def test_waiting_for_nodes_ends_at_the_deadline(world: Any) -> None:
    world.fleet.nodes = []
    run_id = run_now(world, conditions={"min-nodes": 1, "wait": 60})
    world.turns(20)
    ended = get(world, run_id)
    assert (ended.state, ended.reason) == (RunState.SKIPPED, Reason.WAIT_DEADLINE)
    assert not world.superlink.submissions


def test_a_run_that_queued_for_long_still_waits_for_its_nodes(world: Any) -> None:
    first = run_now(world)
    world.turns(6)
    with world.store.write() as connection:
        second = firing.run_now(connection, "other", ScheduleSpec(conditions={"wait": 60}), world.now)
    world.turns(10, seconds=600)
    world.fleet.nodes = []
    world.superlink.end(world.superlink.unfinished()[0], "completed")
    world.turns(8)
    assert get(world, first).state is RunState.SUCCEEDED
    assert (get(world, second).state, get(world, second).reason) == (RunState.WAITING, Reason.TOO_FEW_NODES)
    world.turns(20)
    assert get(world, second).reason is Reason.WAIT_DEADLINE


def test_an_idle_server_asks_flower_once_a_minute(world: Any) -> None:
    world.turns(6)
    before = world.superlink.calls
    world.turns(60, seconds=10)
    assert world.superlink.calls - before <= 11


def test_a_list_of_nodes_that_cannot_be_read_is_asked_for_with_pauses_and_named(world: Any) -> None:
    world.superlink.list_fails = True
    run_id = run_now(world, conditions={"min-nodes": 1, "wait": 600})
    world.turns(30, seconds=1)
    waiting = get(world, run_id)
    assert (waiting.state, waiting.reason) == (RunState.WAITING, Reason.NODE_LIST_UNREADABLE)
    assert "database is locked" in waiting.message
    assert world.superlink.calls <= 4
    assert world.store.fact(SUPERLINK_FACT)[0]["list_problem"] == "database is locked"
    world.superlink.list_fails = False
    world.turns(90, seconds=1)
    assert get(world, run_id).state is RunState.RUNNING
    assert world.store.fact(SUPERLINK_FACT)[0]["list_problem"] == ""


def test_waiting_for_the_list_of_nodes_ends_at_the_deadline(world: Any) -> None:
    world.superlink.list_fails = True
    run_id = run_now(world, conditions={"min-nodes": 1, "wait": 120})
    world.turns(110, seconds=1)
    assert get(world, run_id).state is RunState.WAITING
    world.turns(50, seconds=1)
    ended = get(world, run_id)
    assert (ended.state, ended.reason) == (RunState.SKIPPED, Reason.WAIT_DEADLINE)


def test_flowers_list_is_read_again_soon_when_a_node_disputes_it(world: Any) -> None:
    read: list[int] = []
    nodes = world.superlink.nodes
    world.superlink.nodes = lambda: (read.append(1), nodes())[1]
    world.turns(4, seconds=1)
    assert len(read) == 1, "once a minute is enough"
    world.fleet.disputed = {"1"}
    world.turns(5, seconds=1)
    assert len(read) == 2
    world.fleet.disputed = set()
    world.turns(5)
    assert len(read) == 2


def say(world: Any, run_id: int, state: str) -> Path:
    """Write the run's status.json as the ServerApp does, and return it."""
    folder = Path(get(world, run_id).attempt.metrics_folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "status.json"
    file.write_text(json.dumps({"state": state, "round": 2, "rounds": 2}))
    return file


def test_a_run_ends_with_its_app_s_word_and_its_copy_goes_with_the_process(world: Any) -> None:
    run_id = run_now(world)
    world.turns(4)
    (flower_id,) = world.superlink.unfinished()
    staged = world.scheduler.runner.staged(get(world, run_id), get(world, run_id).attempt)
    tracker = world.scheduler.tracker
    assert not tracker.stirred()
    say(world, run_id, "running")
    assert tracker.stirred()
    world.turn(1)
    assert not tracker.stirred()

    say(world, run_id, "succeeded")
    assert tracker.stirred()
    world.turn(1)
    assert get(world, run_id).state is RunState.SUCCEEDED
    world.turn(10)
    assert staged.exists()
    assert not world.superlink.stops
    assert tracker.need_superlink() == 1, "another start of the SuperLink would end the ServerApp that draws plots"

    world.superlink.end(flower_id, "completed")
    world.turn(5)
    world.turn(5)
    assert not staged.exists()
    assert not tracker.leaving
    assert tracker.need_superlink() == 0


def test_a_server_app_that_does_not_leave_is_stopped_after_two_minutes(world: Any) -> None:
    run_id = run_now(world)
    world.turns(4)
    (flower_id,) = world.superlink.unfinished()
    staged = world.scheduler.runner.staged(get(world, run_id), get(world, run_id).attempt)
    say(world, run_id, "succeeded")
    world.turn(1)
    world.turn(110)
    assert staged.exists()
    assert not world.superlink.stops
    world.turn(11)
    world.turn(1)
    assert world.superlink.stops == [flower_id]
    assert not staged.exists()
    assert not world.scheduler.tracker.leaving


def test_runs_are_found_by_flowers_ids(world: Any) -> None:
    run_id = run_now(world)
    world.turns(8)
    flower_run_id = get(world, run_id).attempt.flower_run_id
    with world.store.read() as connection:
        assert run_store.run_ids(connection, [flower_run_id, "5"]) == {flower_run_id: run_id}
        assert run_store.run_ids(connection, []) == {}
