"""What the agent builds by hand is what the contract says, and what it reads by hand is what the server may send."""

import json
import time
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from fleven_agent.config.settings import Settings
from fleven_agent.identity.model import Told
from fleven_agent.monitoring.condition_tracker import Condition
from fleven_agent.monitoring.trip_folder import Summary
from fleven_agent.protocol import codes, readings, report
from fleven_agent.protocol.codes import (
    REPORTS_PATH,
    SENTENCES,
    ConditionCode,
    Reason,
    ReportReason,
    Severity,
    State,
    TaskOutcome,
)
from fleven_agent.protocol.identity import IdentityStatus
from fleven_agent.reporting import report_builder
from fleven_agent.reporting.client import Answer, DeliveryError, read_answer
from fleven_agent.state import Remembered
from fleven_agent.supernode.supervisor import Supervised
from fleven_agent.supernode.tasks import Finished, Task
from fleven_agent.system.versions import Versions

BARE = report_builder.Facts(
    settings=Settings(partition_id=0, superlink="100.64.0.1:9092", node_name="car-0"),
    remembered=Remembered(sender_id="ab12"),
    supervised=Supervised(state=State.STARTING, reason=Reason.AGENT_START),
    state_since=1_000.0,
    conditions=(),
    readings=readings.Readings(),
    versions=Versions("0.1.0", None, "3.11.2", "", "6.1"),
    boot_id="b",
    board_model=None,
)
TASK = Task("18446744073709551615", 3, "train", 1_000.0, 5.0, 5.0)
FULL = replace(
    BARE,
    remembered=Remembered(
        sender_id="ab12", node_id="2", previous_node_ids=("1",), restarts=3, drained=True, drain_reason="brakes"
    ),
    supervised=Supervised(state=State.RUNNING, node_id="18446744073709551615"),
    conditions=[Condition(ConditionCode.DISK_LOW, "200 MB free", Severity.WARNING, "free some", since=999.0)],
    readings=readings.Readings(
        cpu_count=4,
        cpu_percent=3.0,
        memory_total_bytes=10**9,
        pressure=readings.Pressure(1.0, None, 0.0),
        disks=(readings.Disk("/", 10, 5),),
        throttling=readings.Throttling(undervoltage=True),
        network=readings.Network(1, 2, 3, 4),
        agent=readings.AgentUse(1, 0.5, 7, 20),
    ),
    board_model="Raspberry Pi 4 Model B Rev 1.4",
    task=TASK,
    data=Summary("/trips", 3, 900, 998.0, 1),
    warm={"enabled": True, "state": "ready", "memory_bytes": None},
    supernode=readings.ProcessTree(3, 10**8, 5.0, 1.5),
    clock_offset_seconds=-0.2,
    finished=[
        Finished("7", 2, "train", TaskOutcome.FAILED, 990.0, 1.5, 10**8, 3.0, 10, 20, 60.0, False, "boom"),
        Finished("7", None, "evaluate", TaskOutcome.SUCCEEDED, 990.0, None, None, 3.0, None, None, None, None, None),
    ],
)


def unknown(value: Any, model: type[BaseModel], path: str = "") -> list[str]:
    """Return fields of a built object that the contract does not know."""
    found = [f"{path}{name}" for name in value if name not in model.model_fields]
    parsed = model.model_validate_json(json.dumps(value))
    for name in model.model_fields:
        inner, given_value = getattr(parsed, name), value.get(name)
        if isinstance(inner, BaseModel):
            found += unknown(given_value, type(inner), f"{path}{name}.")
        elif isinstance(inner, list) and inner and isinstance(inner[0], BaseModel):
            for one in given_value:
                found += unknown(one, type(inner[0]), f"{path}{name}.")
    return found


@pytest.mark.parametrize("facts", [BARE, FULL], ids=["bare", "full"])
def test_every_report_is_one_of_the_contract(facts: report_builder.Facts) -> None:
    built = report_builder.report(facts, sequence=4, reason=ReportReason.CHANGE, wall=1_001.0)
    parsed = report.ReportBatch.model_validate_json(json.dumps({"reports": [built]})).reports[0]
    assert unknown(built, report.Report) == []
    assert parsed.sequence == 4
    assert parsed.node.partition_id == 0
    assert set(built) == set(report.Report.model_fields) - {"sent_at", "sent_by"}


def test_long_reasons_are_cut_to_what_the_contract_takes() -> None:
    facts = replace(
        BARE,
        remembered=replace(BARE.remembered, drained=True, drain_reason="x" * 5_000, drained_by_server=True),
        supervised=Supervised(state=State.BACKOFF, reason=Reason.EXITED, detail="y" * 9_000),
    )
    built = report_builder.report(facts, sequence=4, reason=ReportReason.CHANGE, wall=1_001.0)
    parsed = report.Report.model_validate_json(json.dumps(built))
    assert (len(parsed.state_reason), len(parsed.drained.reason)) == (4_000, 4_000)


def test_a_full_report_arrives_as_it_was_meant() -> None:
    built = report_builder.report(FULL, sequence=4, reason=ReportReason.CHANGE, wall=1_001.0)
    parsed = report.Report.model_validate_json(json.dumps(built))
    assert parsed.node.node_id == "18446744073709551615"
    assert parsed.current_run is not None
    assert (parsed.current_run.run_id, parsed.current_run.round) == ("18446744073709551615", 3)
    assert parsed.finished_tasks[0].log_tail == "boom"
    assert parsed.finished_tasks[1].cpu_seconds is None
    assert parsed.drained == report.Drained(active=True, reason="brakes")
    assert parsed.data is not None
    assert parsed.data.newest_trip_at == datetime.fromtimestamp(998.0, tz=UTC)
    assert parsed.resources.throttling is not None
    assert parsed.resources.throttling.undervoltage


@pytest.mark.parametrize(
    ("mine", "contract"),
    [
        (Finished, report.FinishedTask),
        (Condition, report.Condition),
        (Versions, report.Versions),
    ],
)
def test_the_daemons_classes_have_the_contracts_fields(mine: type, contract: type[BaseModel]) -> None:
    not_sent = {"refusal"} if mine is Finished else set()  # the condition data-refused tells it
    assert {one.name for one in fields(mine)} - not_sent == set(contract.model_fields)


def test_constants_agree() -> None:
    assert codes.SCHEMA_VERSION == report.SCHEMA_VERSION
    assert REPORTS_PATH == report.REPORTS_PATH


def test_the_contract_ignores_what_it_does_not_know() -> None:
    built = {
        **report_builder.report(BARE, sequence=1, reason=ReportReason.START, wall=1.0),
        "of_a_newer_agent": {"x": 1},
    }
    assert report.Report.model_validate(built).sequence == 1


def test_an_answer_is_read_as_the_contract_reads_it() -> None:
    written = report.ReportAnswer(
        acknowledged={"ab12": 9},
        server_time=datetime.fromtimestamp(1_002.5, tz=UTC),
        server_version="0.1.0",
        flwr_version="1.34.0",
        drain=report.Drained(active=True, reason="service"),
        problems=[report.Problem(code="duplicate-partition", message="as car-2", hint="change one")],
        flower_offline={"77": 40.0},
        identity=report.IdentityAnswer(
            status=IdentityStatus.ACCEPTED,
            car_id="0123456789abcdef",
            name="car-2",
            partition_id=2,
            rotate=True,
            report_again=True,
        ),
    )
    assert read_answer(written.model_dump_json().encode(), 1_000.0) == Answer(
        acknowledged={"ab12": 9},
        clock_offset_seconds=2.5,
        server_version="0.1.0",
        flwr_version="1.34.0",
        drain=(True, "service"),
        problems=(("duplicate-partition", "as car-2", "change one"),),
        flower_offline={"77": 40.0},
        identity=Told(IdentityStatus.ACCEPTED, "car-2", 2, None, None, True, True, None, report_again=True),
    )


@pytest.mark.parametrize(
    "told", [{"status": "of-a-newer-server", "partition_id": 1}, {"status": "accepted", "partition_id": -1}, [], "x"]
)
def test_an_identity_that_cannot_be_understood_does_not_keep_reports_from_being_acknowledged(told: object) -> None:
    content = json.dumps({"acknowledged": {"ab12": 9}, "identity": told}).encode()
    answer = read_answer(content, 1_000.0)
    assert (answer.acknowledged, answer.identity) == ({"ab12": 9}, None)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*report.ReportAnswer.model_fields, "x"]), JSON, max_size=7),
    st.dictionaries(st.text(max_size=4), st.one_of(st.integers(-2, 9), JSON), max_size=2),
)
def test_any_answer_is_read_or_refused_in_one_sentence(values: dict[str, Any], acknowledged: dict[str, Any]) -> None:
    content = json.dumps({"acknowledged": acknowledged, **values}).encode()
    try:
        found = read_answer(content, time.time())
    except DeliveryError as error:
        found = None
        text = str(error)
    else:
        text = "read"
    assert text
    if found is None:
        return
    assert all(value >= 0 for value in found.acknowledged.values())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(DeliveryError):
        read_answer(content, 0.0)


def test_an_answer_cut_at_any_byte_is_refused() -> None:
    whole = (
        report.ReportAnswer(acknowledged={"ab12": 9}, server_time=datetime.fromtimestamp(0, tz=UTC))
        .model_dump_json()
        .encode()
    )
    for length in range(len(whole)):
        with pytest.raises(DeliveryError):
            read_answer(whole[:length], 0.0)


def test_the_contract_refuses_an_id_that_is_no_number() -> None:
    with pytest.raises(ValidationError):
        report.Node(name="x", partition_id=0, node_id="abc")


def test_people_read_a_sentence_and_no_code() -> None:
    assert set(SENTENCES) == set(Reason)
    for reason, sentence in SENTENCES.items():
        facts = replace(BARE, supervised=Supervised(state=State.STARTING, reason=reason))
        assert report_builder.body(facts)["state_reason"] == sentence
        assert " " in sentence or reason is Reason.NONE
    exact = replace(BARE, supervised=Supervised(state=State.BACKOFF, reason=Reason.EXITED, detail="it ended with 3"))
    assert report_builder.body(exact)["state_reason"] == "it ended with 3"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (BARE, "starting: partition 0; not registered yet"),
        (
            FULL,
            "running: partition 0; node 18446744073709551615; run 18446744073709551615, round 3, train; "
            "disk-low: 200 MB free",
        ),
        (
            replace(BARE, supervised=Supervised(state=State.GATED, detail="drained: brakes")),
            "gated: partition 0; drained: brakes",
        ),
    ],
)
def test_the_status_line_says_it_in_one(facts: report_builder.Facts, expected: str) -> None:
    assert report_builder.status_line(facts) == expected


@pytest.mark.parametrize(
    ("resources", "problem"),
    [
        ({"cpu_percent": -0.1}, "greater_than_equal"),
        ({"cpu_percent": float("inf")}, "finite_number"),
        ({"network": {"sent_bytes": -1}}, "greater_than_equal"),
        ({"disks": [{"path": "/", "total_bytes": 1, "free_bytes": 1}] * 17}, "too_long"),
        ({"disks": [{"path": "/"}]}, "missing"),
    ],
)
def test_the_server_holds_readings_to_their_bounds(resources: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(readings.Readings).validate_python(resources)
    assert caught.value.errors()[0]["type"] == problem


def test_a_reading_of_a_newer_agent_is_passed_over() -> None:
    found = TypeAdapter(readings.Readings).validate_python({"temperature_celsius": -3.0, "humidity": 1, "disks": []})
    assert found == readings.Readings(temperature_celsius=-3.0)


def test_readings_are_told_to_three_digits_and_all_else_as_it_is() -> None:
    values = {"load": 0.123456, "count": 3, "none": None, "flag": True, "tree": {"cpu_seconds": 12.370000000000001}}
    assert report_builder.rounded(values) == {
        "load": 0.123, "count": 3, "none": None, "flag": True, "tree": {"cpu_seconds": 12.37}
    }  # fmt: skip
