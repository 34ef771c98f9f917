"""Which cars a run asks: labels and names, then what the register knows of them, then lots."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven.server.nodes.model import Condition, Node, NodeHealth, Severity
from fleven.server.runs.selection import RANKS, Effort, asked, run_cars
from fleven.server.schedules.spec import Conditions, Prefer


def node(name: str, health: NodeHealth = NodeHealth.READY, **values: Any) -> Node:
    return Node(name, int(name.rpartition("-")[2]), health, **values)


def names(found: list[Node]) -> list[str]:
    return [node.name for node in found]


DAYS = [datetime(2026, 5, day, tzinfo=UTC) for day in range(1, 5)]
FLEET = [
    node("car-1", newest_trip_at=DAYS[0], labels=frozenset({"petrol", "lisbon"})),
    node("car-2", NodeHealth.BUSY, newest_trip_at=DAYS[3], labels=frozenset({"petrol"})),
    node("car-3", newest_trip_at=DAYS[2], labels=frozenset({"diesel"})),
    node("car-4", newest_trip_at=None, labels=frozenset({"petrol"})),
    node("car-5", NodeHealth.GATED, newest_trip_at=DAYS[3], labels=frozenset({"petrol"})),
]
EFFORTS = {
    "car-1": Effort(9, 41.0),
    "car-2": Effort(2, 63.5),
    "car-3": Effort(0, None),
    "car-4": Effort(2, 39.0),
}


def test_without_conditions_all_ready_cars_are_asked_and_no_other() -> None:
    assert names(asked(Conditions(), FLEET, "1")) == ["car-1", "car-2", "car-3", "car-4"]


def test_labels_and_names_say_who_is_asked() -> None:
    assert names(asked(Conditions(labels=("petrol",)), FLEET, "1")) == ["car-1", "car-2", "car-4"]
    assert names(asked(Conditions(labels=("petrol", "lisbon")), FLEET, "1")) == ["car-1"]
    assert names(asked(Conditions(nodes=("car-3", "car-1")), FLEET, "1")) == ["car-1", "car-3"]
    assert names(asked(Conditions(nodes=("car-3", "car-1"), labels=("petrol",)), FLEET, "1")) == ["car-1"]


def test_a_car_with_an_error_is_not_asked_where_that_counts() -> None:
    ill = node("car-6", conditions=(Condition("disk-low", Severity.ERROR),))
    assert names(asked(Conditions(no_error_condition=True), [*FLEET[:1], ill], "1")) == ["car-1"]
    assert names(asked(Conditions(), [*FLEET[:1], ill], "1")) == ["car-1", "car-6"]


@pytest.mark.parametrize(
    ("prefer", "first", "second"),
    [
        (Prefer.FRESHEST, ["car-2"], ["car-2", "car-3"]),
        (Prefer.COOLEST, ["car-4"], ["car-1", "car-4"]),
        (Prefer.FEWEST_TASKS, ["car-3"], None),
    ],
)
def test_what_the_register_knows_says_who_goes_first(
    prefer: Prefer, first: list[str], second: list[str] | None
) -> None:
    one, two = (asked(Conditions(max_nodes=most, prefer=prefer), FLEET, "1", EFFORTS) for most in (1, 2))
    assert names(one) == first
    assert second is None or names(two) == second


def test_equals_are_told_apart_by_lot_and_the_same_seed_draws_the_same() -> None:
    conditions = Conditions(max_nodes=2, prefer=Prefer.FEWEST_TASKS)
    drawn = {tuple(names(asked(conditions, FLEET, str(seed), EFFORTS))) for seed in range(40)}
    assert drawn == {("car-2", "car-3"), ("car-3", "car-4")}
    assert all(asked(conditions, FLEET, "7", EFFORTS) == asked(conditions, FLEET[::-1], "7", EFFORTS) for _ in "ab")


def test_a_car_of_which_nothing_is_known_has_done_nothing() -> None:
    conditions = Conditions(max_nodes=1, prefer=Prefer.FEWEST_TASKS)
    known = {"car-1": Effort(0, None), "car-2": Effort(5, None), "car-4": Effort(1, None)}
    drawn = {name for seed in range(40) for name in names(asked(conditions, FLEET, str(seed), known))}
    assert drawn == {"car-1", "car-3"}


def test_lots_are_fair() -> None:
    drawn = [name for seed in range(400) for name in names(asked(Conditions(max_nodes=1), FLEET, f"1/{seed}"))]
    assert all(60 < drawn.count(name) < 140 for name in ("car-1", "car-2", "car-3", "car-4"))


@given(st.integers(0, 6), st.sampled_from(list(Prefer)), st.text(max_size=3))
def test_never_more_than_wanted_and_never_one_that_does_not_count(most: int, prefer: Prefer, seed: str) -> None:
    found = names(asked(Conditions(max_nodes=most, prefer=prefer), FLEET, seed, EFFORTS))
    assert len(found) == min(most or 4, 4)
    assert "car-5" not in found
    assert found == sorted(set(found))


def test_every_preference_has_a_rank() -> None:
    assert set(RANKS) == set(Prefer)


def test_a_schedule_cannot_ask_fewer_than_it_needs() -> None:
    with pytest.raises(ValueError, match="max-nodes 2 is less than the 3 nodes that are needed"):
        Conditions(min_nodes=3, max_nodes=2)
    with pytest.raises(ValueError, match="max-nodes 1 is less than the 2 nodes that are needed"):
        Conditions(nodes=("a", "b"), max_nodes=1)


ENROLLED = {f"car-{number}": (str(100 + number), number) for number in range(1, 6)}


def test_a_run_asks_enrolled_cars_with_their_partitions_also_those_that_are_off() -> None:
    fleet = [*FLEET, node("car-9"), node("car-6", NodeHealth.OFFLINE, labels=frozenset({"petrol"}))]
    enrolled = {**ENROLLED, "car-6": ("106", 6)}
    # car-9 is not enrolled.
    assert run_cars(Conditions(), fleet, enrolled, "s") == "101=1,102=2,103=3,104=4,105=5,106=6"
    assert run_cars(Conditions(labels=("petrol",)), fleet, enrolled, "s") == "101=1,102=2,104=4,105=5,106=6"
    assert run_cars(Conditions(nodes=("car-3", "car-9")), fleet, enrolled, "s") == "103=3"
    assert run_cars(Conditions(nodes=("car-9",)), fleet, enrolled, "s") == ""


def test_cars_are_named_in_the_order_of_their_partitions_and_not_of_flowers_ids() -> None:
    enrolled = {"car-1": ("900", 1), "car-2": ("100", 2), "car-3": ("500", 3)}
    assert run_cars(Conditions(), FLEET, enrolled, "s") == "900=1,100=2,500=3"


def test_a_drained_car_is_not_asked_whatever_it_does_itself() -> None:
    fleet = [node("car-1"), node("car-2", drained=True), node("car-3", NodeHealth.OFFLINE, drained=True)]
    assert run_cars(Conditions(), fleet, ENROLLED, "s") == "101=1"


def test_no_more_than_max_nodes_are_asked_of_those_that_are_ready() -> None:
    conditions = Conditions(max_nodes=2, prefer=Prefer.FRESHEST)
    assert run_cars(conditions, FLEET, ENROLLED, "s") == "102=2,103=3"
    without = {name: car for name, car in ENROLLED.items() if name != "car-2"}
    assert run_cars(conditions, FLEET, without, "s") == "101=1,103=3"
