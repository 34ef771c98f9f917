"""What is wanted of the cars' attention, since when, and the questions that wait for it."""

import asyncio
from datetime import datetime, timedelta

import pytest

from fleven.server.nodes.attention import Attended, AttentionBoard, Wanted, attended_from, pull_floor_seconds
from fleven_agent.protocol.codes import Attention


def test_a_single_car_may_be_watched_and_a_run_is_for_all() -> None:
    wanted = Wanted(watched=frozenset({"pi-1"}))
    assert (wanted.of("pi-1"), wanted.of("pi-2")) == (Attention.WATCHED, Attention.CALM)
    assert Wanted(Attention.RUN, frozenset({"pi-1"})).of("pi-1") is Attention.RUN


@pytest.mark.parametrize(("cars", "seconds"), [(0, 0.05), (3, 0.05), (100, 1.0), (1_000, 10.0), (50_000, 60.0)])
def test_a_large_fleet_asks_no_more_often_than_one_superlink_can_bear(cars: int, seconds: float) -> None:
    assert pull_floor_seconds(cars) == pytest.approx(seconds)


def test_what_is_wanted_on_keeps_its_beginning(now: datetime) -> None:
    later = now + timedelta(seconds=30)
    first = Attended().after(Wanted(Attention.WATCHED, frozenset({"pi-1"})), now)
    second = first.after(Wanted(Attention.RUN, frozenset({"pi-1", "pi-2"})), later)
    assert second == Attended(now, {"pi-1": now, "pi-2": later})
    assert attended_from(second.as_fact()) == second
    third = second.after(Wanted(watched=frozenset({"pi-2"})), later)
    assert (third.of("pi-1"), third.of("pi-2")) == (None, later)


@pytest.mark.parametrize("fact", [None, {}, {"fleet": "soon", "nodes": {}}, {"fleet": None, "nodes": 3}, []])
def test_a_fact_that_is_none_says_nothing(fact: object) -> None:
    assert attended_from(fact) == Attended()


def test_a_question_waits_for_another_answer_than_the_car_knows() -> None:
    async def scenario() -> list[Attention]:
        board = AttentionBoard()
        at_once = await board.wait("pi-1", "run", 30)
        in_time = await board.wait("pi-1", "calm", 0.01)
        question = asyncio.create_task(board.wait("pi-1", "calm", 30))
        await asyncio.sleep(0)
        board.set(Wanted(watched=frozenset({"pi-2"})))  # of no concern to it
        await asyncio.sleep(0)
        assert not question.done()
        await asyncio.to_thread(board.set, Wanted(Attention.RUN))
        told = await asyncio.wait_for(question, 5)
        closing = asyncio.create_task(board.wait("pi-1", "run", 30))
        await asyncio.sleep(0)
        board.close()
        await asyncio.wait_for(closing, 5)
        assert (await board.wait("pi-1", "run", 30)).fleet is Attention.RUN
        return [at_once.fleet, in_time.fleet, told.fleet]

    assert asyncio.run(scenario()) == [Attention.CALM, Attention.CALM, Attention.RUN]
