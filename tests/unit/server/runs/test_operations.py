"""What happens to a server in the field: it sleeps with schedules due, its SuperLink forgets all, its queue is long."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fleven.server.database.facts import HEARTBEATS_FACT
from fleven.server.flower.answers import FlowerRun
from fleven.server.nodes.model import Node, NodeHealth
from fleven.server.runs import firing
from fleven.server.runs import store as run_store
from fleven.server.runs.model import Reason, RunState
from fleven.server.schedules import editing
from fleven.server.schedules.spec import Conditions, ScheduleSpec
from fleven.server.schedules.triggers import EveryTrigger
from fleven_agent.protocol.codes import Attention


def all_runs(world: Any) -> list[Any]:
    with world.store.read() as connection:
        return run_store.newest(connection, 1000)[::-1]


def add(world: Any, spec: ScheduleSpec) -> None:
    with world.store.write() as connection:
        editing.add(connection, "often", spec, world.now)


def run_now(world: Any, spec: ScheduleSpec) -> int:
    with world.store.write() as connection:
        return firing.run_now(connection, "by-hand", spec, world.now)


def test_a_server_that_slept_makes_one_run_of_the_fires_in_it_and_tells_of_the_others(world: Any) -> None:
    add(world, ScheduleSpec(trigger=EveryTrigger(every=300)))
    world.turn(1)
    world.turn(1210)
    world.turns(5)
    # Due 5, 10, 15 and 20 min after; the newest of them is on time, and stands for all.
    skipped, made = all_runs(world)
    assert (skipped.state, skipped.reason, skipped.fires) == (RunState.SKIPPED, Reason.MISSED, 3)
    assert made.state is RunState.RUNNING
    assert len(world.superlink.submissions) == 1


def test_a_sleep_does_not_use_up_the_time_that_a_run_waits_for_its_cars(world: Any) -> None:
    cars = world.fleet.nodes
    world.fleet.nodes = [Node(car.name, car.partition_id, NodeHealth.OFFLINE) for car in cars]
    run_now(world, ScheduleSpec(conditions=Conditions(min_nodes=3, wait=600)))
    world.turns(12, seconds=5)
    assert [run.state for run in all_runs(world)] == [RunState.WAITING]
    world.turn(1200)
    world.turns(6, seconds=5)
    # Its cars wake up with it, a little later.
    assert [run.state for run in all_runs(world)] == [RunState.WAITING]
    world.fleet.nodes = cars
    world.turns(6, seconds=5)
    assert [run.state for run in all_runs(world)] == [RunState.RUNNING]


def test_the_deadline_still_holds_after_a_sleep(world: Any) -> None:
    world.fleet.nodes = []
    run_now(world, ScheduleSpec(conditions=Conditions(min_nodes=3, wait=600)))
    world.turns(12, seconds=5)
    world.turn(1200)
    world.turns(125, seconds=5)
    (run,) = all_runs(world)
    assert (run.state, run.reason) == (RunState.SKIPPED, Reason.WAIT_DEADLINE)


def test_a_clock_that_is_set_back_gives_no_run_up_and_keeps_none_for_ever(world: Any) -> None:
    world.fleet.nodes = []
    run_now(world, ScheduleSpec(conditions=Conditions(min_nodes=3, wait=600)))
    world.turns(6)
    world.turn(-86_400)
    world.turns(6)
    assert all_runs(world)[0].state is RunState.WAITING
    world.turns(125)
    assert all_runs(world)[0].reason is Reason.WAIT_DEADLINE


def test_a_superlink_whose_database_was_deleted_gets_the_run_again(world: Any) -> None:
    run_now(world, ScheduleSpec())
    world.turns(5)
    world.superlink.runs_by_id.clear()
    for _ in range(40):
        world.turn(5)
        if world.superlink.runs_by_id:
            break
    (run,) = all_runs(world)
    assert (run.attempts, run.state.terminal) == (2, False)
    world.superlink.end(world.superlink.unfinished()[0], "completed")
    world.turns(10)
    assert all_runs(world)[0].state is RunState.SUCCEEDED


def test_fifty_queued_runs_go_one_by_one_in_their_order(world: Any) -> None:
    made = [run_now(world, ScheduleSpec()) for _ in range(50)]
    ended: list[int] = []
    for _ in range(600):
        world.turn(5)
        running = world.superlink.unfinished()
        assert len(running) <= 1
        for flower_run_id in running:
            world.superlink.end(flower_run_id, "completed")
        if len(ended := [run.id for run in all_runs(world) if run.state.terminal]) == len(made):
            break
    assert ended == made
    runs = all_runs(world)
    assert {run.state for run in runs} == {RunState.SUCCEEDED}
    assert [run.attempt.accepted_at for run in runs] == sorted(run.attempt.accepted_at for run in runs)
    assert all(run.attempt.ended_at - run.attempt.accepted_at < timedelta(minutes=2) for run in runs)


def test_missed_heartbeats_are_written_down_while_there_are_any(world: Any) -> None:
    def known() -> Any:
        return world.store.fact(HEARTBEATS_FACT)

    world.turns(2)
    assert known() is None
    world.superlink.overdue = {"2": 12.0}
    world.turn(5)
    assert known() == ({"2": 12.0}, world.now)
    world.superlink.overdue = {"2": 13.0}
    world.turn(1)
    assert known()[0] == {"2": 12.0}, "looked at every five seconds"
    world.superlink.overdue = {}
    world.turn(5)
    world.turn(5)
    assert known()[0] == {}


def test_cars_are_woken_for_a_run_that_was_given_by_hand(world: Any) -> None:
    world.turns(2)
    assert world.scheduler.attention.wanted.fleet is Attention.CALM
    world.superlink.runs_by_id["77"] = FlowerRun("77", "1.0.0", "running")
    world.turn(1)
    wanted = world.scheduler.attention.wanted
    assert (wanted.fleet, wanted.under_way) == (Attention.RUN, True), "no car changes its key meanwhile"
    world.superlink.up = False
    world.turns(2, seconds=5)
    assert world.scheduler.attention.wanted.fleet is Attention.CALM
    world.superlink.up = True
    world.turns(2, seconds=5)
    assert world.scheduler.attention.wanted.fleet is Attention.RUN
    world.superlink.runs_by_id["77"] = FlowerRun("77", "1.0.0", "finished", "completed")
    world.turn(1)
    wanted = world.scheduler.attention.wanted
    assert (wanted.fleet, wanted.under_way) == (Attention.CALM, False)


def test_a_run_of_the_register_is_none_by_hand(world: Any) -> None:
    run_now(world, ScheduleSpec())
    for _ in range(4):
        world.turn(1)
    assert [run.state.active for run in all_runs(world)] == [True]
    assert world.superlink.open_run_ids()
    assert not world.scheduler.by_hand
