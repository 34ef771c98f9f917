"""What a schedule's next run would do: one answer for commands, page and API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from fleven.server.nodes.model import Fleet, Node, NodeHealth
from fleven.server.runs.plans import Planned, Would, planned_of
from fleven.server.runs.policy import Situation
from fleven.server.schedules.spec import Conditions, Overlap, Schedule, ScheduleSpec
from fleven.server.schedules.triggers import EveryTrigger

NODES = (
    Node("n1", 0, NodeHealth.READY),
    Node("n2", 1, NodeHealth.BUSY),
    Node("n3", 2, NodeHealth.OFFLINE),
    Node("flower-9", None, NodeHealth.UNMANAGED),
)


def planned(now: Any, *, earlier: tuple[int, ...] = (), paused: bool = False, **values: Any) -> Planned:
    spec = ScheduleSpec(**values)
    schedule = Schedule("x", spec, paused, "", now, now, now, None)
    return planned_of(schedule, Situation(Fleet(NODES, True), earlier_open=earlier), now)


@pytest.mark.parametrize(
    ("values", "would", "why"),
    [
        ({}, Would.START, []),
        ({"conditions": Conditions(min_nodes=3)}, Would.WAIT, ["too-few-nodes"]),
        ({"earlier": (5,)}, Would.SKIP, ["overlap"]),
        ({"earlier": (5,), "conditions": Conditions(min_nodes=3)}, Would.SKIP, ["overlap"]),
        ({"earlier": (5,), "overlap": Overlap.QUEUE}, Would.WAIT, ["overlap"]),
        ({"earlier": (5,), "paused": True}, Would.NOTHING, ["overlap"]),
    ],
)
def test_a_run_would_start_wait_or_be_skipped(values: dict[str, Any], would: Would, why: list[str], now: Any) -> None:
    found = planned(now, trigger=EveryTrigger(every=600), **values)
    assert found.would is would
    assert [requirement.code.value for requirement in found.why_not] == why


def test_what_an_operator_asks_for_queues_behind_an_open_run(now: Any) -> None:
    assert planned(now, earlier=(5,)).would is Would.WAIT
    assert planned(now + timedelta(1), earlier=(5,), after="other").would is Would.SKIP
