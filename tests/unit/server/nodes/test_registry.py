"""Reports into the register: once each, in whatever order; what the answer says; what is kept."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from fleven.server.cli.node_tables import node_facts
from fleven.server.database.facts import HEARTBEATS_FACT
from fleven.server.database.tables import node_events, node_tasks, nodes, sample_hours, samples
from fleven.server.errors import NotFoundError, UsageError
from fleven.server.flower.answers import FlowerNode
from fleven.server.nodes import history
from fleven.server.nodes.ingest import Arrival
from fleven.server.nodes.model import NodeHealth
from fleven.server.nodes.receipts import Receipt
from fleven.server.nodes.registry import NodeAliveError, NodeRegistry
from fleven.server.schemas.nodes import node_detail_answer
from fleven_agent.protocol.report import Report

Make = Callable[..., Report]


def put(register: NodeRegistry, at: datetime, *reports: Report) -> Receipt:
    return register.store_reports([Arrival(reports, at)])[0]


def count(register: NodeRegistry, table: object) -> int:
    with register.store.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]


def names(register: NodeRegistry, now: datetime) -> list[str]:
    return [node.name for node in register.fleet(now)]


def test_a_replayed_batch_changes_nothing_and_is_acknowledged_again(
    register: NodeRegistry, report: Make, now: datetime
) -> None:
    task = {"run_id": "5", "round": 1, "outcome": "failed", "log_tail": "no memory"}
    batch = [report(sequence=n, finished_tasks=[task]) for n in range(3)]
    first = put(register, now, *batch)
    second = put(register, now + timedelta(seconds=9), *batch)
    assert first.acknowledged == second.acknowledged == {"a": 2}
    assert (count(register, samples), count(register, node_tasks), count(register, nodes)) == (3, 3, 1)
    assert count(register, node_events) == 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=1, max_size=6))
def test_whatever_the_order_each_report_is_stored_once_and_the_youngest_stands(
    register: NodeRegistry, report: Make, now: datetime, batches: list[list[int]]
) -> None:
    for node in register.fleet(now):
        register.forget(node.name, now, force=True)
    youngest = -1
    for batch in batches:
        youngest = max(youngest, *batch)
        sent = [report(sequence=n, state_reason=f"report {n}", finished_tasks=[{"run_id": "1"}]) for n in batch]
        assert put(register, now, *sent).acknowledged == {"a": youngest}
    everything = {n for batch in batches for n in batch}
    assert count(register, samples) == count(register, node_tasks) == len(everything)
    row = register.record("pi-1", now).row
    assert row is not None
    assert row["state_reason"] == f"report {max(everything)}"


def test_a_transaction_stops_when_its_time_is_up_and_says_how_far_it_came(
    register: NodeRegistry, report: Make, now: datetime
) -> None:
    arrivals = [Arrival([report(sequence=n)], now) for n in range(5)]
    done = register.store_reports(arrivals, seconds=0)
    assert [receipt.acknowledged for receipt in done] == [{"a": 0}]
    assert len(register.store_reports(arrivals)) == 5
    assert count(register, samples) == 5


def test_one_bad_report_in_a_batch_costs_the_others_nothing(
    register: NodeRegistry, report: Make, now: datetime
) -> None:
    receipt = put(register, now, report(sequence=1), report(sequence=2**63), report(sequence=3, schema_version=99))
    assert receipt.acknowledged == {"a": 1}
    assert {problem.code for problem in receipt.problems} == {"sequence-invalid", "report-too-new"}


def test_a_car_installed_anew_keeps_its_node(register: NodeRegistry, report: Make, now: datetime) -> None:
    put(register, now, report(sequence=900))
    later = now + timedelta(minutes=5)
    put(register, later, report(sender="b", sequence=0, boot_id="boot-2"))
    assert names(register, later) == ["pi-1"]
    kinds = [event["kind"] for event in history.events(register.store, "pi-1", now, 10)]
    assert "reinstalled" in kinds
    assert count(register, samples) == 2


def test_two_live_cars_of_one_name_stay_two_nodes_and_are_told(
    register: NodeRegistry, report: Make, now: datetime
) -> None:
    put(register, now, report())
    receipt = put(register, now, report(sender="b", boot_id="other", node={"partition_id": 1, "node_id": "200"}))
    assert names(register, now) == ["pi-1", "pi-1-2"]
    assert [problem.code for problem in receipt.problems] == ["duplicate-name"]
    assert "pi-1" in receipt.problems[0].message
    # The second car takes a name of its own, and later the first name becomes free for it again.
    put(register, now, report(sender="b", sequence=1, node={"name": "pi-9", "partition_id": 1}))
    assert names(register, now) == ["pi-1", "pi-9"]


def test_a_namesake_takes_its_name_once_it_is_free(register: NodeRegistry, report: Make, now: datetime) -> None:
    put(register, now, report())
    put(register, now, report(sender="b", boot_id="other", node={"partition_id": 1}))
    register.forget("pi-1", now, force=True)
    put(register, now, report(sender="b", sequence=1, boot_id="other", node={"partition_id": 1}))
    assert names(register, now) == ["pi-1"]


def test_a_duplicate_partition_is_refused_naming_the_other_node(
    register: NodeRegistry, report: Make, now: datetime
) -> None:
    assert put(register, now, report()).problems == []
    receipt = put(register, now, report(sender="b", node={"name": "pi-2", "node_id": "200"}))
    assert [(problem.code, "pi-1" in problem.message) for problem in receipt.problems] == [
        ("duplicate-partition", True)
    ]
    # The first was away for long and comes back: now the one that stayed is in the right.
    later = now + timedelta(minutes=10)
    put(register, later, report(sender="b", sequence=1, node={"name": "pi-2", "node_id": "200"}))
    receipt = put(register, later + timedelta(seconds=5), report(sequence=1))
    assert [("pi-2" in problem.message) for problem in receipt.problems] == [True]


def test_a_full_register_takes_no_new_node_and_keeps_the_old(
    register: NodeRegistry, report: Make, now: datetime
) -> None:
    for number in range(3):
        put(register, now, report(sender=str(number), node={"name": f"pi-{number}", "partition_id": number}))
    receipt = put(register, now, report(sender="x", node={"name": "one-more", "partition_id": 9}))
    assert receipt.acknowledged == {}
    assert [problem.code for problem in receipt.problems] == ["fleet-full"]
    assert put(register, now, report(sender="0", sequence=1, node={"name": "pi-0"})).acknowledged == {"0": 1}


def test_drain_stands_until_it_is_ended_and_undrain_until_the_node_follows(
    register: NodeRegistry, report: Make, now: datetime
) -> None:
    put(register, now, report())
    register.drain("pi-1", "in the workshop", now)
    answer = put(register, now, report(sequence=1)).drain
    assert answer is not None
    assert (answer.active, answer.reason) == (True, "in the workshop")
    assert put(register, now, report(sequence=2, drained={"active": True})).drain == answer
    register.undrain("pi-1", now)
    answer = put(register, now, report(sequence=3, drained={"active": True})).drain
    assert answer is not None
    assert not answer.active
    assert put(register, now, report(sequence=4)).drain is None
    # From here on the node's own word counts again.
    assert put(register, now, report(sequence=5, drained={"active": True})).drain is None


def test_flowers_list_is_replaced_and_joined_by_node_id(register: NodeRegistry, report: Make, now: datetime) -> None:
    put(register, now, report())
    assert [node.health for node in register.fleet(now)] == [NodeHealth.STARTING]
    register.record_flower_nodes([FlowerNode("100", "online"), FlowerNode("7", "online")], now)
    assert {n.name: n.health for n in register.fleet(now)} == {
        "pi-1": NodeHealth.READY,
        "flower-7": NodeHealth.UNMANAGED,
    }
    register.record_flower_nodes([], now)
    assert [node.health for node in register.fleet(now)] == [NodeHealth.STARTING]


def test_a_node_that_runs_again_disputes_the_list_that_calls_it_offline(
    register: NodeRegistry, report: Make, now: datetime
) -> None:
    put(register, now, report())
    assert register.disputed_node_ids() == frozenset(), "no list was read yet"
    register.record_flower_nodes([FlowerNode("100", "offline")], now)
    assert register.disputed_node_ids() == frozenset(), "the list is younger"
    later = now + timedelta(seconds=5)
    put(register, later, report(sequence=2, state="starting"))
    assert register.disputed_node_ids() == frozenset()
    put(register, later, report(sequence=3))
    assert register.disputed_node_ids() == {"100"}
    register.record_flower_nodes([FlowerNode("100", "online")], now)
    assert register.disputed_node_ids() == frozenset()
    register.record_flower_nodes([FlowerNode("7", "online")], now)
    assert register.disputed_node_ids() == {"100"}


def test_a_node_that_flower_calls_offline_is_told_so(register: NodeRegistry, report: Make, now: datetime) -> None:
    assert put(register, now, report()).flower_offline == {}
    since = now - timedelta(seconds=40)
    register.record_flower_nodes([FlowerNode("100", "offline", offline_since=since), FlowerNode("7", "offline")], now)
    assert put(register, now, report(sequence=2)).flower_offline == {"100": 40.0}
    later = now + timedelta(seconds=31)
    assert put(register, later, report(sequence=3)).flower_offline == {}, "it may have come back since"
    register.record_flower_nodes([FlowerNode("100", "online")], now)
    assert put(register, now, report(sequence=4)).flower_offline == {}


def test_a_node_whose_heartbeat_is_overdue_is_told_so(register: NodeRegistry, report: Make, now: datetime) -> None:
    register.store.set_fact(HEARTBEATS_FACT, {"100": 12.0, "7": 99.0}, now)
    assert put(register, now, report()).flower_offline == {"100": 12.0}
    later = now + timedelta(seconds=16)
    assert put(register, later, report(sequence=2)).flower_offline == {}, "its heartbeat may have come since"
    register.store.set_fact(HEARTBEATS_FACT, {}, later)
    assert put(register, later, report(sequence=3)).flower_offline == {}


def test_history_keeps_what_happened(register: NodeRegistry, report: Make, now: datetime) -> None:
    hot = {"code": "temperature-high", "severity": "warning", "since": now.isoformat(), "message": "82 °C"}
    put(
        register,
        now,
        report(),
        report(sequence=1, conditions=[hot]),
        report(sequence=2, state="gated", state_reason="too hot", node={"node_id": None}),
        report(sequence=3, boot_id="boot-2", node={"node_id": "101", "previous_node_ids": ["100"]}),
    )
    seen = [(event["kind"], event["code"]) for event in history.events(register.store, "pi-1", now, 99)]
    assert seen == [
        ("registered", "registered"),
        ("condition-raised", "temperature-high"),
        ("state", "gated"),
        ("condition-cleared", "temperature-high"),
        ("rebooted", "rebooted"),
        ("node-id", "node-id-changed"),
        ("state", "running"),
    ]


def test_network_bytes_are_counted_between_reports_and_over_a_reboot(
    register: NodeRegistry, report: Make, now: datetime
) -> None:
    totals = [(0, "b1", 1000), (1, "b1", 1500), (2, "b2", 40), (3, "b2", 90)]
    for sequence, boot_id, total in totals:
        resources = {"network": {"received_bytes": total, "sent_bytes": 0}}
        put(register, now, report(sequence=sequence, boot_id=boot_id, resources=resources))
    found = history.history(register.store, "pi-1", now - timedelta(hours=1))
    assert [sample["received_bytes"] for sample in found] == [None, 500, 40, 50]


def test_old_samples_become_hours_without_loss(register: NodeRegistry, report: Make, now: datetime) -> None:
    begin = now - timedelta(hours=3)
    reports = [
        report(
            sequence=n,
            created_at=begin + timedelta(minutes=n),
            sent_at=now,
            resources={"load_1m": float(n % 60), "temperature_celsius": None if n % 2 else 50.0},
        )
        for n in range(180)
    ]
    for start in range(0, 180, 90):
        put(register, now, *reports[start : start + 90])
    done = history.age(register.store, now, raw_hours=1, hourly_days=90, event_days=90)
    assert done.samples == 120
    found = history.history(register.store, "pi-1", begin)
    assert sum(sample["samples"] for sample in found) == 180
    assert [sample["load_1m"] for sample in found[:2]] == [pytest.approx(29.5)] * 2
    assert [sample["load_1m_maximum"] for sample in found[:2]] == [59.0, 59.0]
    assert found[0]["temperature_celsius"] == 50.0
    # A second pass finds nothing, and a replay of what was summed up does not come back.
    assert history.age(register.store, now, raw_hours=1, hourly_days=90, event_days=90).samples == 0


def test_a_replay_of_summed_up_samples_does_not_come_back(register: NodeRegistry, report: Make, now: datetime) -> None:
    old = report(sequence=5, created_at=now - timedelta(hours=30), sent_at=now)
    put(register, now, old, report(sequence=6))
    history.age(register.store, now, raw_hours=24, hourly_days=90, event_days=90)
    put(register, now, old)
    assert (count(register, samples), count(register, sample_hours)) == (1, 1)
    history.age(register.store, now, raw_hours=24, hourly_days=90, event_days=90)
    past = history.history(register.store, "pi-1", now - timedelta(days=3))
    assert [sample["samples"] for sample in past] == [1, 1]


def test_what_came_late_joins_the_hour_that_exists(register: NodeRegistry, report: Make, now: datetime) -> None:
    at = now - timedelta(hours=30)
    for sequence, load in ((1, 1.0), (2, 4.0)):
        # The second was spooled while the car was away: a new number with an old time.
        made = report(sequence=sequence, created_at=at, sent_at=now, resources={"load_1m": load})
        put(register, now, made)
        history.age(register.store, now, raw_hours=24, hourly_days=90, event_days=90)
    (hour,) = history.history(register.store, "pi-1", now - timedelta(days=3))
    assert (hour["samples"], hour["load_1m"], hour["load_1m_maximum"]) == (2, 2.5, 4.0)


def test_everything_ends_with_its_retention(register: NodeRegistry, report: Make, now: datetime) -> None:
    put(register, now, report(finished_tasks=[{"run_id": "1"}]))
    later = now + timedelta(days=100)
    history.age(register.store, later, raw_hours=24, hourly_days=90, event_days=90)
    tables = (samples, sample_hours, node_events, node_tasks)
    assert [count(register, table) for table in tables] == [0, 0, 0, 0]
    assert names(register, later) == ["pi-1"]


def test_labels_are_added_removed_and_checked(register: NodeRegistry, report: Make, now: datetime) -> None:
    put(register, now, report())
    assert register.label("pi-1", add=["fleet=north", "diesel"], now=now) == ["diesel", "fleet=north"]
    assert register.label("pi-1", remove=["diesel"], now=now) == ["fleet=north"]
    put(register, now, report(sequence=1))
    assert register.fleet(now)[0].labels == {"fleet=north"}
    with pytest.raises(UsageError, match="not valid"):
        register.label("pi-1", add=["two words"], now=now)


def test_an_unknown_node_is_named_with_its_nearest(register: NodeRegistry, report: Make, now: datetime) -> None:
    with pytest.raises(NotFoundError, match="no node") as none_yet:
        register.drain("pi-1", "", now)
    assert "no node has reported" in none_yet.value.hint
    put(register, now, report())
    with pytest.raises(NotFoundError) as mistyped:
        register.drain("pi1", "", now)
    assert "pi-1" in mistyped.value.hint


def test_only_a_silent_node_is_forgotten_without_force(register: NodeRegistry, report: Make, now: datetime) -> None:
    put(register, now, report(finished_tasks=[{"run_id": "1"}]))
    with pytest.raises(NodeAliveError):
        register.forget("pi-1", now)
    register.forget("pi-1", now + timedelta(hours=1))
    assert [count(register, table) for table in (nodes, samples, node_events, node_tasks)] == [0, 0, 0, 0]


def test_a_text_with_control_characters_keeps_its_end(register: NodeRegistry, report: Make, now: datetime) -> None:
    put(register, now, report(finished_tasks=[{"run_id": "1", "log_tail": "\x1b[91m" + "x" * 7_000 + "\nMemoryError"}]))
    kept = register.record("pi-1", now).report()
    assert kept["finished_tasks"][0]["log_tail"].endswith("\nMemoryError")


def test_a_report_is_kept_without_what_a_terminal_would_obey(
    register: NodeRegistry, report: Make, now: datetime
) -> None:
    # ESC ] 52 writes into the clipboard of whoever prints it; the others are a backspace and a C1 control.
    hostile = "\x1b]52;c;cm0gLXJm\x07Raspberry Pi 5"
    put(register, now, report(board_model=hostile, versions={"agent": "1", "os": "De\bbian", "kernel": "6\x9b2J"}))
    put(register, now, report(sequence=1, board_model=hostile, versions={"agent": "1", "os": "De\bbian"}))
    kept = register.record("pi-1", now).report()
    assert kept["board_model"] == "]52;c;cm0gLXJmRaspberry Pi 5"
    assert kept["versions"]["os"] == "Debian"
    shown = node_facts(node_detail_answer(register.record("pi-1", now)), now, {})
    assert all(character.isprintable() for _, value in shown for character in value)


def test_the_work_of_a_node_names_the_run_that_people_know(register: NodeRegistry, report: Make, now: datetime) -> None:
    task = {"run_id": "3087973553357014292", "round": 13, "message_type": "train", "since": now.isoformat()}
    put(register, now, report(state="running", current_run=task))
    node = node_detail_answer(register.record("pi-1", now))
    assert dict(node_facts(node, now, {"3087973553357014292": 3}))["working on"].endswith(" of run 3")
    assert dict(node_facts(node, now, {}))["working on"].endswith(" of Flower run 3087973553357014292")


def test_one_node_cannot_fill_the_register_with_its_past(
    register: NodeRegistry, report: Make, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, maximum in (("MAXIMUM_EVENTS", 6), ("MAXIMUM_TASKS", 5), ("MAXIMUM_LOG_TAILS", 2)):
        monkeypatch.setattr(history, name, maximum)
    task = {"run_id": "5", "outcome": "failed", "log_tail": "x" * 20_000}
    for number in range(8):
        state = "running" if number % 2 else "backoff"
        noisy = report(sequence=number, state=state, finished_tasks=[{**task, "round": number}])
        quiet = report(
            sequence=number,
            sender="b",
            node={"name": "pi-2", "partition_id": 1},
            finished_tasks=[task] if number == 0 else [],
        )
        put(register, now + timedelta(seconds=number), noisy, quiet)
    history.age(register.store, now, raw_hours=24, hourly_days=90, event_days=90)
    with register.store.read() as connection:
        rows = connection.execute(select(node_tasks).order_by(node_tasks.c.node_id, node_tasks.c.sequence)).all()
        events = connection.execute(select(node_events.c.node_id)).scalars().all()
    first = rows[0].node_id
    assert [row.round for row in rows if row.node_id == first] == [3, 4, 5, 6, 7]
    assert [row.log_tail is not None for row in rows if row.node_id == first] == [False, False, False, True, True]
    assert [row.log_tail is not None for row in rows if row.node_id != first] == [True]
    assert events.count(first) == 6
