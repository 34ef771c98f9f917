"""A connection is dead when nothing is acknowledged although the SuperLink can be reached, and not before."""

from dataclasses import replace

import pytest

from fleven_agent.supernode.connection_watch import (
    BUSY_SECONDS,
    FRESH_SECONDS,
    GIVEN_UP_SECONDS,
    IDLE_SECONDS,
    LISTED_SECONDS,
    MOVED_SECONDS,
    RARE_SECONDS,
    UNANSWERED_SECONDS,
    ConnectionWatch,
    OfflineList,
    Reach,
    Stall,
    dead,
    listed_offline,
    wants_probe,
)
from fleven_agent.system.tcp_counters import Connection

ONE = Connection(inode=7, local="10.0.0.2", remote="10.0.0.1", received_bytes=9, sent_bytes=100, waiting_bytes=40)
STALL = Stall(since=100.0, local="10.0.0.2", remote="10.0.0.1")
REACHED = Reach(tried_at=102.0, reached_at=102.0, reachable_since=50.0)


def test_a_stall_begins_with_the_first_look_at_which_something_waits_and_ends_with_an_acknowledgement() -> None:
    watch = ConnectionWatch()
    assert watch.look([replace(ONE, waiting_bytes=0)], 1) is None
    assert watch.look([ONE], 5) == Stall(5, "10.0.0.2", "10.0.0.1")
    assert watch.look([replace(ONE, waiting_bytes=90)], 9) == Stall(5, "10.0.0.2", "10.0.0.1")
    assert watch.look([replace(ONE, sent_bytes=101)], 10) == Stall(10, "10.0.0.2", "10.0.0.1")
    assert watch.look([replace(ONE, sent_bytes=141, waiting_bytes=0)], 11) is None
    assert watch.look([replace(ONE, sent_bytes=141)], 12) == Stall(12, "10.0.0.2", "10.0.0.1")


def test_a_question_without_an_answer_is_a_stall_too_although_something_in_between_acknowledges_it() -> None:
    watch, quiet = ConnectionWatch(), replace(ONE, waiting_bytes=0)
    assert watch.look([quiet], 1) is None
    asked = replace(quiet, sent_bytes=quiet.sent_bytes + 1_200)
    assert watch.look([asked], 4) == Stall(4, "10.0.0.2", "10.0.0.1", unanswered=True)
    assert watch.look([replace(asked, sent_bytes=2_500)], 8) == Stall(4, "10.0.0.2", "10.0.0.1", unanswered=True)
    answered = replace(asked, sent_bytes=2_500, received_bytes=400)
    assert watch.look([answered], 9) is None
    # A window update of HTTP/2 is no question.
    assert watch.look([replace(answered, sent_bytes=2_560)], 10) is None
    other = replace(quiet, inode=8)
    assert watch.look([answered, other], 11) is None
    more = replace(answered, sent_bytes=4_000)
    assert watch.look([more, other], 12) is None, "another connection is well"


@pytest.mark.parametrize(("busy", "limit"), [(False, UNANSWERED_SECONDS), (True, BUSY_SECONDS)])
def test_a_superlink_has_this_time_to_answer(busy: bool, limit: float) -> None:
    stall, reach = replace(STALL, unanswered=True), replace(REACHED, tried_at=119.0, reached_at=119.0)
    assert dead(stall, reach, 100 + limit - 0.1, busy=busy) == ""
    assert "nothing was answered" in dead(stall, reach, 100 + limit, busy=busy)
    assert UNANSWERED_SECONDS <= 15  # with the next question and a new start of SuperNode, half a minute
    assert BUSY_SECONDS <= 30


def test_all_connections_must_stall_and_the_youngest_counts() -> None:
    watch, other = ConnectionWatch(), replace(ONE, inode=8, remote="10.0.0.9")
    assert watch.look([ONE, replace(other, waiting_bytes=0)], 1) is None
    assert watch.look([ONE, other], 4) == Stall(4, "10.0.0.2", "10.0.0.9")


def test_without_any_connection_the_time_counts_from_when_the_last_was_seen_to_be_gone() -> None:
    watch = ConnectionWatch()
    assert watch.look([], 5) == Stall(5)
    assert watch.look([], 9) == Stall(5)
    assert watch.look([replace(ONE, waiting_bytes=0)], 10) is None
    assert watch.look([], 12) == Stall(12)
    assert watch.look([ONE], 13) == Stall(13, "10.0.0.2", "10.0.0.1")


@pytest.mark.parametrize(("busy", "limit"), [(False, IDLE_SECONDS), (True, BUSY_SECONDS)])
def test_grpc_has_this_time_to_connect_again(busy: bool, limit: float) -> None:
    reach = replace(REACHED, addresses=frozenset({"10.0.0.1"}), own_addresses=frozenset({"10.0.0.2"}))
    assert dead(Stall(100), reach, 100 + limit - 0.1, busy=busy) == ""
    assert "no connection" in dead(Stall(100), reach, 100 + limit, busy=busy)


def test_a_task_that_the_superlink_has_given_up_is_not_waited_for() -> None:
    reach = Reach(
        tried_at=100 + GIVEN_UP_SECONDS, reached_at=100 + GIVEN_UP_SECONDS, reachable_since=95 + GIVEN_UP_SECONDS
    )
    assert dead(STALL, reach, 103 + GIVEN_UP_SECONDS, busy=True)
    assert dead(replace(STALL, since=110), reach, 103 + GIVEN_UP_SECONDS, busy=True) == ""


@pytest.mark.parametrize(
    ("reach", "busy", "limit"),
    [
        (REACHED, False, IDLE_SECONDS),
        (REACHED, True, BUSY_SECONDS),
        (
            replace(REACHED, addresses=frozenset({"10.0.0.1"}), own_addresses=frozenset({"10.0.0.2"})),
            True,
            BUSY_SECONDS,
        ),
        (replace(REACHED, addresses=frozenset({"10.9.9.9"})), True, MOVED_SECONDS),
        (replace(REACHED, own_addresses=frozenset({"192.168.0.7"})), True, MOVED_SECONDS),
    ],
)
def test_how_long_nothing_may_be_acknowledged(reach: Reach, busy: bool, limit: float) -> None:
    assert dead(STALL, reach, 100 + limit - 0.1, busy=busy) == ""
    assert dead(STALL, reach, 100 + limit, busy=busy)


def test_the_time_counts_from_when_the_superlink_could_be_reached_again() -> None:
    reach = Reach(tried_at=400, reached_at=400, reachable_since=400)
    assert dead(STALL, reach, 400 + IDLE_SECONDS - 0.1, busy=False) == ""
    assert dead(STALL, reach, 400 + IDLE_SECONDS, busy=False)


@pytest.mark.parametrize(
    "reach",
    [
        Reach(),
        Reach(tried_at=99, reached_at=99, reachable_since=50),  # before the stall: it says nothing of now
        Reach(tried_at=105, reached_at=101, reachable_since=float("inf")),  # and away again
    ],
)
def test_a_superlink_that_nobody_reaches_may_come_back(reach: Reach) -> None:
    assert dead(STALL, reach, 10_000, busy=False) == ""
    assert dead(None, REACHED, 10_000, busy=False) == ""


def test_the_reason_names_the_address_that_is_gone() -> None:
    assert "10.0.0.1" in dead(STALL, replace(REACHED, addresses=frozenset({"10.9.9.9"})), 200, busy=False)
    assert "10.0.0.2" in dead(STALL, replace(REACHED, own_addresses=frozenset({"10.9.9.9"})), 200, busy=False)


def test_a_stall_asks_for_a_fresh_probe() -> None:
    assert not wants_probe(None, Reach(), 200)
    assert not wants_probe(STALL, Reach(), 100.5)
    assert wants_probe(STALL, Reach(), 101)
    assert not wants_probe(STALL, Reach(tried_at=101), 101 + FRESH_SECONDS - 0.1)
    assert wants_probe(STALL, Reach(tried_at=101), 101 + FRESH_SECONDS)


def test_the_longer_it_stalls_the_rarer_the_probes() -> None:
    assert not wants_probe(STALL, Reach(tried_at=200), 209.9)
    assert wants_probe(STALL, Reach(tried_at=200), 212)
    assert not wants_probe(STALL, Reach(tried_at=90_000), 90_000 + RARE_SECONDS - 0.1)
    assert wants_probe(STALL, Reach(tried_at=90_000), 90_000 + RARE_SECONDS)


def test_flowers_list_counts_when_the_node_ought_to_be_online() -> None:
    reach = Reach(reachable_since=10.0)

    def told(at: float) -> OfflineList:
        return OfflineList(at, {"55": 5.0})

    assert listed_offline("55", 20, reach, told(20 + LISTED_SECONDS))
    assert listed_offline("55", 20, reach, told(19 + LISTED_SECONDS)) == ""
    assert listed_offline("55", 20, replace(reach, reachable_since=30), told(20 + LISTED_SECONDS)) == ""
    assert listed_offline("55", 20, replace(reach, reachable_since=float("inf")), told(10_000)) == ""
    assert listed_offline("54", 20, reach, told(10_000)) == ""
    assert listed_offline("55", float("inf"), reach, OfflineList()) == ""
