"""A car whose updates were suspicious: remembered by its node id, a condition of it, kept out where that is wanted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fleven.server.database import Store
from fleven.server.nodes import suspicion
from fleven.server.nodes.model import Node, NodeHealth, Severity
from fleven.server.runs import policy
from fleven.server.schedules.spec import Conditions

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


def result(*suspicious: bool, contributed: int = 4) -> dict[str, Any]:
    cars = [
        {"node_id": str(10 + index), "rounds_contributed": contributed, "update_suspicious": one}
        for index, one in enumerate(suspicious)
    ]
    rows = [
        {"node_id": "10", "code": "update-cut", "reason": "cut"},
        {"node_id": "10", "code": "update-suspicious", "reason": "its change goes against the others'"},
    ]
    return {"cars": cars, "warnings": rows}


def node(name: str, node_id: str | None) -> Node:
    return Node(name, 1, NodeHealth.READY, flower_node_id=node_id)


def test_a_suspicion_lasts_until_a_run_with_the_car_finds_nothing() -> None:
    first = suspicion.after_run({}, 7, result(True, False), NOW)
    assert first == {"10": {"run": 7, "since": NOW.timestamp(), "reason": "its change goes against the others'"}}
    assert suspicion.after_run(first, 8, result(False, False, contributed=0), NOW) == first
    assert suspicion.after_run(first, 8, {"cars": ["odd", None]}, NOW) == first
    assert suspicion.after_run(first, 8, result(False, True), NOW).keys() == {"11"}


def test_the_car_has_the_condition_and_no_other_car_has() -> None:
    known = suspicion.after_run({}, 7, result(True), NOW)
    first, second, third = suspicion.marked([node("a", "10"), node("b", "11"), node("c", None)], known)
    (condition,) = first.conditions
    assert (condition.code, condition.severity, condition.since) == ("update-suspicious", Severity.WARNING, NOW)
    assert condition.message == "in run 7 its change goes against the others'"
    assert second.conditions == third.conditions == ()
    assert suspicion.is_suspicious(first)
    assert not suspicion.is_suspicious(second)


def test_a_schedule_may_leave_such_cars_out() -> None:
    fleet = suspicion.marked([node("a", "10"), node("b", "11")], suspicion.after_run({}, 7, result(True), NOW))
    assert [one.name for one in policy.eligible(Conditions(), fleet)] == ["a", "b"]
    assert [one.name for one in policy.eligible(Conditions(no_suspicious_update=True), fleet)] == ["b"]
    assert policy.why_not(fleet[0]) == "a (update-suspicious)"


def test_the_register_remembers(store: Store) -> None:
    suspicion.remember(store, 7, result(True), NOW)
    with store.read() as connection:
        assert suspicion.remembered(connection).keys() == {"10"}
    suspicion.remember(store, 8, result(False), NOW)
    with store.read() as connection:
        assert suspicion.remembered(connection) == {}
