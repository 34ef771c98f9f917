"""Conditions: each has one definition, and the facts that raise it are these."""

from dataclasses import replace

import pytest

from fleven_agent.config.settings import Settings
from fleven_agent.monitoring.conditions import CATALOGUE, Facts, evaluate
from fleven_agent.protocol.codes import ConditionCode as Code
from fleven_agent.protocol.codes import Reason, State
from fleven_agent.protocol.readings import Disk, Readings, Throttling
from fleven_agent.supernode.supervisor import Supervised

WELL = Facts(
    supervised=Supervised(state=State.RUNNING, node_id="7"),
    settings=Settings(partition_id=0, superlink="100.64.0.1:9092"),
    readings=Readings(
        memory_available_bytes=2_000_000_000,
        disks=(Disk("/var", 10**10, 10**10),),
        temperature_celsius=50.0,
        throttling=Throttling(),
        clock_synchronised=True,
    ),
)
DOWN = Supervised(state=State.BACKOFF, reason=Reason.EXITED, detail="crashed", attempt=1)


def codes(facts: Facts, *active: Code) -> list[Code]:
    return [finding.code for finding in evaluate(facts, frozenset(active))]


def test_a_well_node_has_no_condition() -> None:
    assert codes(WELL) == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (replace(WELL, supervised=DOWN), [Code.SUPERNODE_DOWN]),
        (replace(WELL, supervised=replace(DOWN, attempt=5)), [Code.SUPERNODE_DOWN, Code.SUPERNODE_CRASH_LOOP]),
        (replace(WELL, recent_failures=5), [Code.SUPERNODE_CRASH_LOOP]),
        (replace(WELL, frozen="stopped"), [Code.SUPERNODE_FROZEN]),
        (replace(WELL, probe_problem="connection refused"), [Code.SUPERLINK_UNREACHABLE]),
        (replace(WELL, connection_lost=True), [Code.SUPERLINK_UNREACHABLE]),
        (replace(WELL, rejected="refused", connection_lost=True), [Code.SUPERLINK_REJECTED]),
        (replace(WELL, executor_dead="gone"), [Code.EXECUTOR_DEAD]),
        (replace(WELL, task_stuck="stuck"), [Code.TASK_STUCK]),
        (replace(WELL, task_failed="failed"), [Code.TASK_FAILED]),
        (replace(WELL, data_problem="none"), [Code.DATA_MISSING]),
        (replace(WELL, quarantined=1), [Code.DATA_INVALID]),
        (replace(WELL, data_unmovable="x"), [Code.DATA_INVALID]),
        (replace(WELL, data_stuck="no answer"), [Code.DATA_STUCK]),
        (replace(WELL, undelivered="refused"), [Code.REPORT_UNDELIVERED]),
        (replace(WELL, reports_rejected="a token is wanted"), [Code.REPORT_REJECTED]),
        (replace(WELL, configuration_problem="x"), [Code.CONFIGURATION_INVALID]),
        (replace(WELL, state_problem="full"), [Code.STATE_UNWRITABLE]),
        (replace(WELL, server_problems=(("duplicate-partition", "as car-2", "h"),)), [Code.DUPLICATE_PARTITION]),
        (replace(WELL, server_problems=(("from-the-future", "x", ""),)), [Code.SERVER_PROBLEM]),
        (replace(WELL, supervised=replace(WELL.supervised, gates=("hot",))), [Code.GATED]),
        (replace(WELL, own_flower_version="1.34.0", server_flower_version="1.34.2"), []),
        (replace(WELL, own_flower_version="1.34.0", server_flower_version="1.31.0"), [Code.VERSION_MISMATCH]),
    ],
)
def test_each_fact_raises_its_condition(facts: Facts, expected: list[Code]) -> None:
    assert codes(facts) == expected


def test_a_version_mismatch_names_both_versions() -> None:
    finding = evaluate(replace(WELL, own_flower_version="1.34.0", server_flower_version="1.31.0"), frozenset())[0]
    assert "1.34.0" in finding.message
    assert "1.31.0" in finding.message


@pytest.mark.parametrize(
    ("code", "bad", "between"),
    [
        (Code.TEMPERATURE_HIGH, {"temperature_celsius": 78.0}, {"temperature_celsius": 75.0}),
        (Code.MEMORY_LOW, {"memory_available_bytes": 199_000_000}, {"memory_available_bytes": 230_000_000}),
        (Code.DISK_LOW, {"disks": (Disk("/", 1, 999_000_000),)}, {"disks": (Disk("/", 1, 1_050_000_000),)}),
    ],
)
def test_a_reading_near_its_limit_does_not_flap(code: Code, bad: dict[str, object], between: dict[str, object]) -> None:
    worse = replace(WELL, readings=replace(WELL.readings, **bad))  # type: ignore[arg-type]  # field names of Readings
    near = replace(WELL, readings=replace(WELL.readings, **between))  # type: ignore[arg-type]  # as above
    assert codes(worse) == [code]
    assert codes(near) == []
    assert codes(near, code) == [code]
    assert codes(WELL, code) == []


def test_undervoltage_and_clock() -> None:
    readings = replace(WELL.readings, throttling=Throttling(undervoltage=True), clock_synchronised=False)
    assert codes(replace(WELL, readings=readings)) == [Code.UNDERVOLTAGE, Code.CLOCK_UNSYNCED]
    assert codes(replace(WELL, readings=replace(WELL.readings, clock_synchronised=None, throttling=None))) == []


def test_every_code_has_one_definition_with_a_hint() -> None:
    assert list(CATALOGUE) == list(Code)
    assert all(definition.hint for definition in CATALOGUE.values())


def test_errors_come_first() -> None:
    assert codes(replace(WELL, quarantined=1, executor_dead="gone")) == [Code.EXECUTOR_DEAD, Code.DATA_INVALID]
