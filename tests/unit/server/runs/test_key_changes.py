"""A run and a change of a car's key never meet: one waits for the other, and neither for ever."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fleven.server.runs import firing
from fleven.server.runs import store as run_store
from fleven.server.runs.key_changes import LONGEST_WAIT, KeyChanges
from fleven.server.runs.model import RunState
from fleven.server.schedules.spec import ScheduleSpec

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def test_each_wish_is_waited_for_once() -> None:
    changes = KeyChanges()
    assert not changes.hold([], NOW)
    assert changes.hold(["car-0"], NOW)
    assert changes.hold(["car-0"], NOW + LONGEST_WAIT - timedelta(seconds=1))
    assert not changes.hold(["car-0"], NOW + LONGEST_WAIT)
    assert changes.hold(["car-0", "car-1"], NOW + LONGEST_WAIT), "another car is waited for"
    assert not changes.hold(["car-0"], NOW + LONGEST_WAIT)
    assert not changes.hold([], NOW)
    assert changes.hold(["car-0"], NOW + 2 * LONGEST_WAIT), "another wish"


def test_a_clock_that_is_set_back_holds_no_run() -> None:
    changes = KeyChanges()
    assert changes.hold(["car-0"], NOW)
    assert not changes.hold(["car-0"], NOW - timedelta(days=1))


def state(world: Any, run_id: int) -> RunState:
    with world.store.read() as connection:
        return run_store.get(connection, run_id).state


def run_now(world: Any) -> int:
    with world.store.write() as connection:
        return firing.run_now(connection, "by-hand", ScheduleSpec(), world.now)


def test_a_run_begins_when_the_cars_have_their_new_keys(world: Any) -> None:
    world.fleet.changing = frozenset({"car-1", "a car that is off"})
    run_id = run_now(world)
    world.turns(3)
    assert state(world, run_id) is RunState.PENDING
    assert not world.scheduler.attention.wanted.under_way, "else no car is asked for its key"
    world.fleet.changing = frozenset({"a car that is off"})
    world.turns(3)
    assert state(world, run_id).active
    assert world.scheduler.attention.wanted.under_way


def test_a_wish_for_a_key_does_not_stop_a_run_that_is_under_way(world: Any) -> None:
    run_id = run_now(world)
    world.turns(3)
    world.fleet.changing = frozenset({"car-1"})
    world.turns(3)
    assert state(world, run_id).active
    assert world.scheduler.attention.wanted.under_way
