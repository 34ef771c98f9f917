"""The verdict about a node: every state, and what report and Flower's list together make of it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven.server.enrolment.keys import fingerprint
from fleven.server.enrolment.model import Identity, Key, Kind
from fleven.server.flower.answers import FlowerNode
from fleven.server.nodes import health, normalise
from fleven.server.nodes.health import FlowerView, Limits
from fleven.server.nodes.model import Condition, Node, NodeHealth, Severity
from fleven.server.nodes.node_facts import NodeFacts
from fleven.server.runs import policy
from fleven.server.schedules.spec import Conditions
from fleven_agent.protocol.identity import IdentityStatus

Facts = Callable[..., NodeFacts]
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
"""The moment of the fixture `now`, for parameters."""


def listed(now: datetime, *entries: tuple[str, str], age_seconds: float = 5) -> FlowerView:
    nodes = {node_id: FlowerNode(node_id, status) for node_id, status in entries}
    return FlowerView(nodes, now - timedelta(seconds=age_seconds))


def judge(one: NodeFacts, view: FlowerView, now: datetime, limits: Limits) -> Node:
    return health.assess([one], view, now, limits)[0]


def error(code: str) -> Condition:
    return Condition(code, Severity.ERROR, "it is so")


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        ({}, "online", NodeHealth.READY),
        ({"busy": True}, "online", NodeHealth.BUSY),
        ({}, "offline", NodeHealth.STARTING),
        ({}, None, NodeHealth.STARTING),
        ({"flower_node_id": None}, "online", NodeHealth.STARTING),
        ({"state": "starting"}, None, NodeHealth.STARTING),
        ({"state": "gated", "state_reason": "hot"}, "online", NodeHealth.GATED),
        ({"drained": True}, "online", NodeHealth.DRAINED),
        ({"drain_wanted": True}, "online", NodeHealth.DRAINED),
        ({"drain_wanted": False}, "online", NodeHealth.READY),
        ({"conditions": (error("executor-dead"),)}, "online", NodeHealth.ZOMBIE),
        ({"conditions": (error("supernode-frozen"),)}, "online", NodeHealth.ZOMBIE),
        ({"conditions": (error("supernode-crash-loop"),)}, "online", NodeHealth.ZOMBIE),
        ({"conditions": (error("data-stuck"),)}, "online", NodeHealth.ZOMBIE),
        ({"conditions": (error("state-unwritable"),)}, "online", NodeHealth.ZOMBIE),
        ({"conditions": (Condition("state-unwritable", Severity.WARNING, "full"),)}, "online", NodeHealth.READY),
        ({"conditions": (error("data-missing"),)}, "online", NodeHealth.FAILED),
        ({"conditions": (error("data-refused"),)}, "online", NodeHealth.FAILED),
        ({"conditions": (error("data-missing"),), "busy": True}, "online", NodeHealth.BUSY),
        ({"conditions": (error("data-invalid"),)}, "online", NodeHealth.READY),
        (
            {"conditions": (Condition("supernode-crash-loop", Severity.WARNING, "5 times in ten minutes"),)},
            "online",
            NodeHealth.READY,
        ),
        ({"state": "backoff"}, "online", NodeHealth.ZOMBIE),
        ({"state": "backoff"}, "offline", NodeHealth.STARTING),
        ({"state": "failed"}, "offline", NodeHealth.FAILED),
        ({"state": "starting", "conditions": (error("superlink-rejected"),)}, None, NodeHealth.FAILED),
        ({"state": "starting", "conditions": (error("superlink-unreachable"),)}, None, NodeHealth.STARTING),
        ({"goodbye": True, "state": "stopped"}, "online", NodeHealth.ZOMBIE),
        ({"goodbye": True, "state": "stopped"}, "offline", NodeHealth.OFFLINE),
        ({"conditions": (error("disk-low"),)}, "online", NodeHealth.READY),
    ],
)
def test_verdict_of_a_node_that_reports(
    facts: Facts, now: datetime, limits: Limits, changes: dict[str, object], status: str | None, expected: NodeHealth
) -> None:
    view = listed(now, *([("100", status)] if status else []))
    assert judge(facts(**changes), view, now, limits).health is expected


@pytest.mark.parametrize(
    ("silent_seconds", "status", "list_age_seconds", "expected"),
    [
        (30, "online", 5, NodeHealth.READY),
        (60, "online", 5, NodeHealth.STALE),
        (60, "online", 600, NodeHealth.STALE),
        (60, "offline", 5, NodeHealth.OFFLINE),
        (600, "online", 5, NodeHealth.ZOMBIE),
        (600, "offline", 5, NodeHealth.OFFLINE),
        (600, "online", 600, NodeHealth.OFFLINE),
    ],
)
def test_verdict_of_a_silent_node(
    facts: Facts,
    now: datetime,
    limits: Limits,
    silent_seconds: float,
    status: str,
    list_age_seconds: float,
    expected: NodeHealth,
) -> None:
    silent = facts(last_seen_at=now - timedelta(seconds=silent_seconds))
    view = listed(now, ("100", status), age_seconds=list_age_seconds)
    assert judge(silent, view, now, limits).health is expected


@pytest.mark.parametrize(
    ("silent_seconds", "list_age_seconds", "expected"),
    [
        (45, 90, NodeHealth.READY),
        (45.5, 90, NodeHealth.STALE),
        (120, 90, NodeHealth.STALE),
        (120.5, 90, NodeHealth.ZOMBIE),
        (120.5, 90.5, NodeHealth.OFFLINE),
        (45, 90.5, NodeHealth.STARTING),
    ],
)
def test_ages_at_their_limits(
    facts: Facts, now: datetime, limits: Limits, silent_seconds: float, list_age_seconds: float, expected: NodeHealth
) -> None:
    silent = facts(last_seen_at=now - timedelta(seconds=silent_seconds))
    view = listed(now, ("100", "online"), age_seconds=list_age_seconds)
    assert judge(silent, view, now, limits).health is expected
    assert health.is_offline(silent, now, limits) is (silent_seconds > 120)
    assert health.silent_seconds(silent, now) == silent_seconds


def test_a_list_that_was_never_read_makes_nobody_ready(facts: Facts, now: datetime, limits: Limits) -> None:
    node = judge(facts(), FlowerView({"100": FlowerNode("100", "online")}), now, limits)
    assert (node.health, node.reason) == (NodeHealth.STARTING, "waits for Flower's list of nodes")


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({}, "online", ""),
        ({"busy": True}, "online", "works on a task"),
        ({}, "offline", "Flower lists it as offline"),
        ({}, None, "Flower does not list it yet"),
        ({"flower_node_id": None}, None, "SuperNode has not registered yet"),
        ({"state": "starting", "state_reason": "it starts"}, None, "it starts"),
        ({"state": "starting"}, None, "SuperNode: starting"),
        ({"state": "gated", "state_reason": "hot"}, "online", "hot"),
        ({"state": "gated"}, "online", "kept out by a gate of the node"),
        ({"drained": True, "drained_reason": "brakes", "drain_wanted_reason": "tyres"}, "online", "brakes"),
        ({"drain_wanted": True, "drain_wanted_reason": "tyres"}, "online", "tyres"),
        ({"drained": True}, "online", "drained by the operator"),
        ({"state": "backoff", "state_reason": "it left"}, "offline", "it left"),
        ({"state": "backoff"}, "offline", "SuperNode: backoff"),
        ({"conditions": (error("executor-dead"),)}, "offline", "it is so"),
        ({"conditions": (Condition("executor-dead", Severity.ERROR, ""),)}, "offline", "executor-dead"),
        ({"state": "failed", "state_reason": "it left"}, "online", "online for Flower, but it left"),
        ({"goodbye": True}, "offline", "the agent has stopped"),
        ({"goodbye": True}, "online", "online for Flower, but the agent has stopped"),
        ({"last_seen_at": NOW - timedelta(seconds=61)}, "online", "no report for 61 s"),
        ({"last_seen_at": NOW - timedelta(seconds=300)}, "offline", "no report for 5 min"),
    ],
)
def test_the_verdict_says_why(
    facts: Facts, now: datetime, limits: Limits, changes: dict[str, object], status: str | None, reason: str
) -> None:
    view = listed(now, *([("100", status)] if status else []))
    assert judge(facts(**changes), view, now, limits).reason == reason


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        ({"last_seen_at": NOW - timedelta(seconds=60)}, "online", ("node-stale", Severity.WARNING, True)),
        ({"last_seen_at": NOW - timedelta(seconds=600)}, "offline", ("node-offline", Severity.ERROR, True)),
        ({"last_seen_at": NOW - timedelta(seconds=600)}, "online", ("zombie", Severity.ERROR, False)),
        ({"goodbye": True}, "online", ("zombie", Severity.ERROR, False)),
        ({"goodbye": True}, "offline", None),
        ({"clock_offset_seconds": 30.0}, "online", None),
        ({"clock_offset_seconds": 30.5}, "online", ("clock-offset", Severity.WARNING, False)),
        ({"clock_offset_seconds": -30.5}, "online", ("clock-offset", Severity.WARNING, False)),
        ({"clock_offset_seconds": -30.0}, "online", None),
    ],
)
def test_what_only_the_server_can_see(
    facts: Facts,
    now: datetime,
    limits: Limits,
    changes: dict[str, object],
    status: str,
    expected: tuple[str, Severity, bool] | None,
) -> None:
    """A silence began with the last report; the others have no beginning that is known."""
    one = facts(**changes)
    found = [
        (condition.code, condition.severity, condition.since == one.last_seen_at)
        for condition in judge(one, listed(now, ("100", status)), now, limits).conditions
    ]
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize(("offset_seconds", "text"), [(90.0, "behind"), (-90.0, "ahead of")])
def test_a_clock_that_is_wrong_is_behind_or_ahead(
    facts: Facts, now: datetime, limits: Limits, offset_seconds: float, text: str
) -> None:
    """The offset is the server's clock minus the node's."""
    (found,) = judge(facts(clock_offset_seconds=offset_seconds), listed(now, ("100", "online")), now, limits).conditions
    assert found.message == f"its clock is 90 s {text} the server's"


def test_an_old_list_of_flower_makes_nobody_ready(facts: Facts, now: datetime, limits: Limits) -> None:
    view = listed(now, ("100", "online"), age_seconds=91)
    node = judge(facts(), view, now, limits)
    assert node.health is NodeHealth.STARTING
    assert not node.ready


def test_the_longest_holder_keeps_a_partition_and_the_other_is_told(
    facts: Facts, now: datetime, limits: Limits
) -> None:
    first = facts("pi-a", partition_since=now - timedelta(hours=1))
    second = facts("pi-b", flower_node_id="200")
    nodes = health.assess([second, first], listed(now, ("100", "online"), ("200", "online")), now, limits)
    by_name = {node.name: node for node in nodes}
    assert by_name["pi-a"].health is NodeHealth.READY
    assert by_name["pi-b"].health is NodeHealth.GATED
    assert [p.code for p in health.problems_to_tell(first, [first, second], now, limits)] == []
    (problem,) = health.problems_to_tell(second, [first, second], now, limits)
    assert problem.code == "duplicate-partition"
    assert "pi-a" in problem.message
    warned = {c.code: c.severity for c in by_name["pi-a"].conditions}
    assert warned == {"duplicate-partition": Severity.WARNING}


def test_an_enrolled_car_keeps_its_partition_whoever_claimed_it_before(
    facts: Facts, now: datetime, limits: Limits
) -> None:
    stranger = facts("stranger", partition_since=now - timedelta(days=1))
    enrolled = facts("enrolled", standing=IdentityStatus.ACCEPTED, flower_node_id="101")
    assert [one.name for one in health.partition_holders([stranger, enrolled], now, limits)[0]] == [
        "enrolled",
        "stranger",
    ]
    assert health.problems_to_tell(enrolled, [stranger, enrolled], now, limits) == []
    assert [one.code for one in health.problems_to_tell(stranger, [stranger, enrolled], now, limits)] == [
        "duplicate-partition"
    ]


def test_a_partition_is_free_once_its_holder_is_offline(facts: Facts, now: datetime, limits: Limits) -> None:
    gone = facts("pi-a", partition_since=now - timedelta(days=9), last_seen_at=now - timedelta(seconds=121))
    present = facts("pi-b", flower_node_id="200")
    assert health.problems_to_tell(present, [gone, present], now, limits) == []


@pytest.mark.parametrize(
    ("agent", "flwr", "severity"),
    [
        ("0.1.9", "1.34.2", None),
        ("0.2.0", "1.34.0", Severity.WARNING),
        ("0.1.0", "1.31.0", Severity.WARNING),
        ("0.2.0", "1.33.0", Severity.WARNING),
        ("0.1.0", "1.30.0", Severity.ERROR),
        ("0.1.0", "1.35.0", Severity.ERROR),
        ("0.1.0", "2.34.0", Severity.ERROR),
        ("", "", None),
    ],
)
def test_versions_that_differ_are_named_on_both_sides(
    facts: Facts, now: datetime, limits: Limits, agent: str, flwr: str, severity: Severity | None
) -> None:
    one = facts(agent_version=agent, flwr_version=flwr)
    found = health.problems_to_tell(one, [one], now, limits)
    assert [problem.severity for problem in found] == ([severity] if severity else [])
    if not flwr.startswith("1.34") and severity is not None:
        assert flwr in found[0].message
        assert "1.34.0" in found[0].message


def test_a_node_of_another_supported_flower_counts_for_a_run_that_wants_no_errors(
    facts: Facts, now: datetime, limits: Limits
) -> None:
    wanted = Conditions(no_error_condition=True)
    online = listed(now, ("100", "online"))
    other = judge(facts(flwr_version="1.33.0"), online, now, limits)
    assert [condition.code for condition in other.conditions] == ["version-mismatch"]
    assert policy.eligible(wanted, [other]) == [other]
    unknown = judge(facts(flwr_version="1.42.0"), online, now, limits)
    assert policy.eligible(wanted, [unknown]) == []


def test_a_supernode_without_an_agent_is_listed_but_never_counted(facts: Facts, now: datetime, limits: Limits) -> None:
    view = listed(now, ("100", "online"), ("90", "online"), ("555", "online"), ("7", "offline"))
    nodes = health.assess([facts(previous_node_ids=("90",))], view, now, limits)
    assert [(node.name, node.health) for node in nodes] == [
        ("pi-1", NodeHealth.READY),
        ("flower-555", NodeHealth.UNMANAGED),
    ]
    assert not nodes[1].ready


def test_conditions_come_worst_first_and_each_code_once(facts: Facts, now: datetime, limits: Limits) -> None:
    conditions = (
        Condition("disk-low", Severity.WARNING),
        Condition("version-mismatch", Severity.WARNING, "the node's own word"),
        Condition("task-failed", Severity.INFO),
    )
    one = facts(conditions=conditions, flwr_version="1.30.0")
    node = judge(one, listed(now, ("100", "online")), now, limits)
    assert [(c.code, c.severity) for c in node.conditions] == [
        ("version-mismatch", Severity.ERROR),
        ("disk-low", Severity.WARNING),
        ("task-failed", Severity.INFO),
    ]


@pytest.mark.parametrize(
    ("silent_seconds", "status", "expected"),
    [
        (30, "online", "9 of 10 trips are gone"),
        (60, "online", "9 of 10 trips are gone (as last reported)"),
        (600, "online", "9 of 10 trips are gone (as last reported)"),
        (600, "offline", "9 of 10 trips are gone (as last reported)"),
    ],
)
def test_what_a_silent_car_has_said_is_told_apart_from_what_is_known_now(
    facts: Facts, now: datetime, limits: Limits, silent_seconds: float, status: str, expected: str
) -> None:
    own = Condition("data-missing", Severity.ERROR, "9 of 10 trips are gone")
    one = facts(conditions=(own,), last_seen_at=now - timedelta(seconds=silent_seconds))
    found = judge(one, listed(now, ("100", status)), now, limits).conditions
    assert [c.message for c in found if c.code == "data-missing"] == [expected]


@pytest.mark.parametrize(
    ("first", "second"),
    [(Severity.WARNING, Severity.ERROR), (Severity.INFO, Severity.ERROR), (Severity.INFO, Severity.WARNING)],
)
def test_any_two_severities_are_put_in_order(
    facts: Facts, now: datetime, limits: Limits, first: Severity, second: Severity
) -> None:
    one = facts(conditions=(Condition("disk-low", first), Condition("memory-low", second)))
    node = judge(one, listed(now, ("100", "online")), now, limits)
    assert [condition.severity for condition in node.conditions] == [second, first]


def test_of_two_that_are_as_bad_the_server_has_the_word(facts: Facts, now: datetime, limits: Limits) -> None:
    own = Condition("version-mismatch", Severity.WARNING, "the node's own word")
    (found,) = judge(
        facts(conditions=(own,), agent_version="0.2.0"), listed(now, ("100", "online")), now, limits
    ).conditions
    assert found.message == "the node has fleven 0.2.0, the server has 0.1.0"


def test_a_server_clock_set_back_makes_nobody_stale(facts: Facts, now: datetime, limits: Limits) -> None:
    ahead = facts(last_seen_at=now + timedelta(hours=1))
    assert health.silent_seconds(ahead, now) == 0
    assert judge(ahead, listed(now, ("100", "online")), now, limits).health is NodeHealth.READY


moments = st.datetimes(timezones=st.just(UTC))


@given(moments, st.one_of(st.none(), moments), moments)
def test_no_stamp_lies_after_its_arrival(created: datetime, sent: datetime | None, received: datetime) -> None:
    stamp, offset = normalise.corrected_time(created, sent, received)
    assert stamp <= received
    assert (offset is None) == (sent is None)


def test_a_wrong_clock_is_corrected_and_a_right_one_left_alone(now: datetime) -> None:
    hour = timedelta(hours=1)
    assert normalise.corrected_time(now - hour, now, now + timedelta(seconds=2))[0] == now - hour
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    stamp, offset = normalise.corrected_time(epoch, epoch + hour, now)
    assert stamp == now - hour
    assert offset is not None
    assert offset > 1e9


names = st.sampled_from(["pi-a", "pi-b", "pi-c"])


@given(
    st.lists(
        st.tuples(
            names,
            st.integers(0, 2),
            st.sampled_from(["running", "gated", "backoff", "stopped", "something-new"]),
            st.integers(0, 300),
            st.booleans(),
        ),
        unique_by=lambda entry: entry[0],
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(["0", "1", "2"]), st.sampled_from(["online", "offline"])),
)
def test_ready_always_means_that_report_and_list_agree_and_the_partition_is_its_own(
    entries: list[tuple[str, int, str, int, bool]], statuses: dict[str, str]
) -> None:
    now = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    fleet = [
        NodeFacts(
            name=name,
            partition_id=partition,
            partition_since=now - timedelta(seconds=age),
            state=state,
            last_seen_at=now - timedelta(seconds=age),
            flower_node_id=str(index),
            busy=busy,
        )
        for index, (name, partition, state, age, busy) in enumerate(entries)
    ]
    nodes = health.assess(fleet, listed(now, *statuses.items()), now, Limits())
    ready = [node for node in nodes if node.ready]
    partitions = [node.partition_id for node in ready]
    assert len(partitions) == len(set(partitions))
    for node in ready:
        facts = next(facts for facts in fleet if facts.name == node.name)
        assert facts.state == "running"
        assert statuses[facts.flower_node_id or ""] == "online"
        assert (now - facts.last_seen_at).total_seconds() <= 45


@pytest.mark.parametrize(
    ("silent", "announced", "attended", "expected"),
    [
        (44, None, None, NodeHealth.READY),
        (46, None, None, NodeHealth.STALE),
        (121, None, None, NodeHealth.ZOMBIE),
        (449, 180.0, None, NodeHealth.READY),  # it has said that it speaks rarely
        (451, 180.0, None, NodeHealth.STALE),
        (526, 180.0, None, NodeHealth.ZOMBIE),
        (300, 180.0, 80, NodeHealth.READY),  # told to speak often: it may still be on its way
        (300, 180.0, 91, NodeHealth.STALE),
        (300, 180.0, 166, NodeHealth.ZOMBIE),
        (10, 180.0, 400, NodeHealth.READY),  # it speaks
        (46, 15.0, 400, NodeHealth.STALE),
    ],
)
def test_silence_is_measured_by_what_the_car_has_said_and_was_told(
    facts: Facts,
    now: datetime,
    limits: Limits,
    silent: int,
    announced: float | None,
    attended: int | None,
    expected: NodeHealth,
) -> None:
    node = facts(
        last_seen_at=now - timedelta(seconds=silent),
        next_report_seconds=announced,
        attended_since=None if attended is None else now - timedelta(seconds=attended),
    )
    assert judge(node, listed(now, ("100", "online")), now, limits).health is expected


def test_flower_believes_a_rare_heartbeat_for_long_and_is_not_believed_meanwhile(
    facts: Facts, now: datetime, limits: Limits
) -> None:
    node = facts(last_seen_at=now - timedelta(seconds=590), next_report_seconds=180.0, heartbeat_seconds=300.0)
    assert judge(node, listed(now, ("100", "online")), now, limits).health is NodeHealth.OFFLINE
    node = replace(node, last_seen_at=now - timedelta(seconds=610))
    assert judge(node, listed(now, ("100", "online")), now, limits).health is NodeHealth.ZOMBIE


def test_a_heartbeat_is_believed_for_two_of_its_intervals_and_no_longer(
    facts: Facts, now: datetime, limits: Limits
) -> None:
    node = facts(last_seen_at=now - timedelta(seconds=600), heartbeat_seconds=300.0)
    assert judge(node, listed(now, ("100", "online")), now, limits).health is NodeHealth.OFFLINE


# Cars with an identity of their own


def car(status: IdentityStatus, now: datetime, **values: object) -> Identity:
    """An enrolled car that has never reported; its key is node 500 for Flower."""
    given = {
        "name": "car-7", "partition_id": 7, "labels": ("fleet=north",), "created_at": now - timedelta(hours=1),
        "keys": (Key("ecdsa-sha2-nistp384 AAAA", "0" * 64, flower_node_id="500"),), "asked_at": now, "decided_at": now,
        **values,
    }  # fmt: skip
    return Identity("c" * 16, status, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "values", "listed_as", "expected", "reason"),
    [
        (IdentityStatus.ACCEPTED, {}, None, NodeHealth.OFFLINE, "has not reported yet"),
        (IdentityStatus.ACCEPTED, {}, "offline", NodeHealth.OFFLINE, "has not reported yet"),
        (IdentityStatus.ACCEPTED, {}, "online", NodeHealth.UNMANAGED, "online for Flower, but no agent reports it"),
        (IdentityStatus.ACCEPTED, {"kind": Kind.STOCK}, "online", NodeHealth.UNMANAGED, "a plain flower-supernode"),
        (
            IdentityStatus.ACCEPTED,
            {"kind": Kind.STOCK},
            "offline",
            NodeHealth.OFFLINE,
            "a plain flower-supernode; not connected",
        ),
        (IdentityStatus.HELD, {"reason": "two boards"}, "online", NodeHealth.HELD, "two boards"),
    ],
)
def test_an_enrolled_car_that_has_never_reported_is_listed_once(
    now: datetime,
    limits: Limits,
    status: IdentityStatus,
    values: dict[str, object],
    listed_as: str | None,
    expected: NodeHealth,
    reason: str,
) -> None:
    view = listed(now, *([("500", listed_as)] if listed_as else []))
    (found,) = health.assess([], view, now, limits, [car(status, now, **values)])
    assert (found.health, found.reason, found.name, found.partition_id) == (expected, reason, "car-7", 7)
    assert (found.flower_node_id, found.labels, found.enrolled) == ("500", frozenset({"fleet=north"}), True)


def test_an_old_list_of_flower_says_nothing_of_a_car_that_has_never_reported(now: datetime, limits: Limits) -> None:
    view = listed(now, ("500", "online"), age_seconds=91)
    (found,) = health.assess([], view, now, limits, [car(IdentityStatus.ACCEPTED, now)])
    assert found.health is NodeHealth.OFFLINE


def test_cars_that_have_not_reported_stand_among_the_others_by_partition_and_those_that_wait_at_the_end(
    facts: Facts, now: datetime, limits: Limits
) -> None:
    reporting = [facts("b", partition_id=8, flower_node_id="108"), facts("a", partition_id=2, flower_node_id="102")]
    cars = [
        car(IdentityStatus.PENDING, now, name="y"),
        car(IdentityStatus.PENDING, now, name="x"),
        car(IdentityStatus.ACCEPTED, now),
        car(IdentityStatus.ACCEPTED, now, name="a", partition_id=2),  # it has reported
        car(IdentityStatus.REVOKED, now, name="gone"),
        car(IdentityStatus.REJECTED, now, name="sent-away"),
    ]
    view = listed(now, ("900", "online"), ("800", "online"), ("700", "offline"))
    found = health.assess(reporting, view, now, limits, cars)
    assert [node.name for node in found] == ["a", "car-7", "b", "flower-800", "flower-900", "x", "y"]


def test_a_car_that_waits_is_shown_with_its_keys_fingerprint(now: datetime, limits: Limits) -> None:
    waiting = car(IdentityStatus.PENDING, now, asked_from="192.0.2.7", partition_id=None)
    (found,) = health.assess([], listed(now), now, limits, [waiting])
    assert (found.name, found.partition_id, found.health, found.enrolled) == ("car-7", None, NodeHealth.PENDING, False)
    assert found.reason == f"asks to join from 192.0.2.7; key {fingerprint(waiting.current.public_key)}"
    (condition,) = found.conditions
    assert (condition.code, condition.severity, condition.message) == ("identity-pending", Severity.INFO, found.reason)
    assert (condition.hint, condition.since) == ("fleven-server nodes accept car-7, or reject", waiting.created_at)


@pytest.mark.parametrize(
    ("standing", "enrolled"),
    [(None, False), (IdentityStatus.ACCEPTED, True), (IdentityStatus.HELD, True), (IdentityStatus.REVOKED, False)],
)
def test_a_node_is_enrolled_while_its_identity_lasts(
    facts: Facts, now: datetime, limits: Limits, standing: IdentityStatus | None, enrolled: bool
) -> None:
    assert judge(facts(standing=standing), listed(now), now, limits).enrolled is enrolled


@pytest.mark.parametrize(
    ("standing", "said", "expected", "reason"),
    [
        (IdentityStatus.REVOKED, "", NodeHealth.REVOKED, "revoked by the operator"),
        (IdentityStatus.REVOKED, "sold", NodeHealth.REVOKED, "sold"),
        (IdentityStatus.HELD, "", NodeHealth.HELD, "two boards use its identity"),
        (IdentityStatus.HELD, "its key is gone", NodeHealth.HELD, "its key is gone"),
    ],
)
def test_what_an_operator_or_the_server_decided_comes_before_all_reports(
    facts: Facts, now: datetime, limits: Limits, standing: IdentityStatus, said: str, expected: NodeHealth, reason: str
) -> None:
    node = facts(standing=standing, standing_reason=said, drained=True)
    found = judge(node, listed(now, ("100", "online")), now, limits)
    assert (found.health, found.reason) == (expected, reason)
    held = [condition for condition in found.conditions if condition.code == "identity-held"]
    assert bool(held) == (standing is IdentityStatus.HELD)
    assert all("fleven-server nodes revoke pi-1" in condition.hint for condition in held)


@pytest.mark.parametrize(
    ("changes", "drained"),
    [({}, False), ({"drained": True}, True), ({"drain_wanted": True}, True), ({"drain_wanted": False}, False)],
)
def test_a_node_is_drained_from_the_word_on_and_until_it_has_undone_it(
    facts: Facts, now: datetime, limits: Limits, changes: dict[str, object], drained: bool
) -> None:
    assert judge(facts(**changes), listed(now, ("100", "online")), now, limits).drained is drained


def test_a_car_that_can_do_no_task_says_why_or_at_least_its_code(facts: Facts, now: datetime, limits: Limits) -> None:
    def reason(message: str) -> str:
        missing = Condition("data-missing", Severity.ERROR, message)
        return judge(facts(conditions=(missing,)), listed(now, ("100", "online")), now, limits).reason

    assert (reason("no trips"), reason("")) == ("no trips", "data-missing")


@pytest.mark.parametrize(
    ("flwr", "hint"),
    [("1.33.0", "they train together; install"), ("1.42.0", "known to work: Flower 1.31 to 1.34")],
)
def test_the_hint_says_whether_two_versions_of_flower_train_together(
    facts: Facts, now: datetime, limits: Limits, flwr: str, hint: str
) -> None:
    one = facts(flwr_version=flwr)
    (found,) = health.problems_to_tell(one, [one], now, limits)
    assert hint in found.hint


def test_a_car_that_is_heard_and_asks_to_join_is_one_car(facts: Facts, now: datetime, limits: Limits) -> None:
    key = Key("ecdsa-sha2-nistp384 AAAA", "0" * 64)
    stamps = {"created_at": now, "asked_at": now, "decided_at": now}
    asking = Identity("c" * 16, IdentityStatus.PENDING, name="pi-1", partition_id=0, keys=(key,), **stamps)
    heard = facts(name="pi-1")
    silent = replace(heard, last_seen_at=now - timedelta(days=2))
    assert [one.name for one in health.assess([heard], listed(now), now, limits, [asking])] == ["pi-1"]
    found = health.assess([silent], listed(now), now, limits, [asking])
    assert [(one.name, one.health is NodeHealth.PENDING) for one in found] == [("pi-1", False), ("pi-1", True)]
