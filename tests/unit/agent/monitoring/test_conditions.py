"""Conditions: each has one definition, and the facts that raise it are these."""

from dataclasses import replace
from typing import Any

import pytest

from fleven_agent.config.settings import Settings
from fleven_agent.identity.secure_http import TlsFailure, TlsProblem
from fleven_agent.monitoring.conditions import CATALOGUE, Facts, Finding, _condition, evaluate, order
from fleven_agent.protocol.codes import ConditionCode as Code
from fleven_agent.protocol.codes import Reason, Severity, State
from fleven_agent.protocol.readings import Disk, Readings, Throttling
from fleven_agent.supernode.supervisor import Supervised

EXPIRED = TlsFailure(TlsProblem.EXPIRED, "it has expired")
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
        (replace(WELL, tls_failure=EXPIRED), [Code.SUPERLINK_UNREACHABLE]),
        (replace(WELL, rejected="refused", connection_lost=True), [Code.SUPERLINK_REJECTED]),
        (replace(WELL, rejected="handshake failed", tls_failure=EXPIRED), [Code.SUPERLINK_UNREACHABLE]),
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
        (replace(WELL, own_flower_version=None, server_flower_version="1.31.0"), []),
        (replace(WELL, own_flower_version="1.34.0", server_flower_version=None), []),
        (replace(WELL, own_flower_version="1.34.0", server_flower_version="1.31.0"), [Code.VERSION_MISMATCH]),
    ],
)
def test_each_fact_raises_its_condition(facts: Facts, expected: list[Code]) -> None:
    assert codes(facts) == expected


def reading(**values: object) -> Facts:
    return replace(WELL, readings=replace(WELL.readings, **values))  # type: ignore[arg-type]  # fields of Readings


@pytest.mark.parametrize(
    ("facts", "severity", "message"),
    [
        (replace(WELL, supervised=DOWN), Severity.ERROR, "crashed"),
        (replace(WELL, supervised=replace(DOWN, detail="")), Severity.ERROR, "SuperNode is not running"),
        (replace(WELL, recent_failures=5), Severity.WARNING, "SuperNode ended 5 times in ten minutes"),
        (
            replace(WELL, supervised=replace(WELL.supervised, attempt=5, detail="crashed"), recent_failures=9),
            Severity.ERROR,
            "SuperNode ended 5 times in a row: crashed",
        ),
        (
            replace(WELL, probe_problem="connection refused", connection_lost=True),
            Severity.ERROR,
            "no connection to the SuperLink at 100.64.0.1:9092: connection refused",
        ),
        (
            replace(WELL, connection_lost=True),
            Severity.ERROR,
            "SuperNode cannot reach the SuperLink at 100.64.0.1:9092",
        ),
        (reading(memory_available_bytes=199_000_000), Severity.WARNING, "199 MB of memory available"),
        (
            reading(disks=(Disk("/", 1, 10**10), Disk("/data", 1, 90_000_000), Disk("/log", 1, 1))),
            Severity.WARNING,
            "90 MB free at /data",
        ),
        (reading(temperature_celsius=80.4), Severity.WARNING, "the processor has 80 °C"),
        (reading(clock_synchronised=False), Severity.WARNING, "the clock is not synchronised"),
        (
            reading(clock_synchronised=False, clock_offset_seconds=2.0),
            Severity.WARNING,
            "the clock is not synchronised",
        ),
        (
            reading(clock_synchronised=False, clock_offset_seconds=3.0),
            Severity.WARNING,
            "the clock is not synchronised; it differs from the server's by -3 s",
        ),
        (
            reading(clock_synchronised=False, clock_offset_seconds=-3.0),
            Severity.WARNING,
            "the clock is not synchronised; it differs from the server's by +3 s",
        ),
        (replace(WELL, quarantined=1), Severity.WARNING, "1 unreadable trip is set aside in quarantine/"),
        (replace(WELL, quarantined=2), Severity.WARNING, "2 unreadable trips are set aside in quarantine/"),
        (replace(WELL, quarantined=2, data_unmovable="read-only"), Severity.WARNING, "read-only"),
        (
            replace(WELL, own_flower_version="1.34.0", server_flower_version="1.31.0"),
            Severity.WARNING,
            "this node has Flower 1.34.0, the SuperLink has Flower 1.31.0",
        ),
        (
            replace(WELL, own_flower_version="1.34.0", server_flower_version="1.35.0"),
            Severity.ERROR,
            "this node has Flower 1.34.0, the SuperLink has Flower 1.35.0",
        ),
        (
            replace(WELL, server_problems=(("disk-low", "full", ""), ("new", "one", ""), ("newer", "two", ""))),
            Severity.WARNING,
            "full",
        ),
        (replace(WELL, server_problems=(("new", "one", ""), ("newer", "two", ""))), Severity.WARNING, "new: one"),
        (
            replace(WELL, supervised=replace(WELL.supervised, gates=("hot", "full"))),
            Severity.INFO,
            "hot; full",
        ),
    ],
)
def test_the_words_of_a_condition(facts: Facts, severity: Severity, message: str) -> None:
    found = evaluate(facts, frozenset())[0]
    assert (found.severity, found.message) == (severity, message)


@pytest.mark.parametrize(
    "facts",
    [
        replace(WELL, supervised=replace(WELL.supervised, attempt=4), recent_failures=4),
        replace(WELL, supervised=replace(DOWN, state=State.FAILED, reason=Reason.REJECTED)),
        replace(WELL, rejected="", connection_lost=False, probe_problem=""),
        replace(WELL, own_flower_version="1.34.0"),
        replace(WELL, server_flower_version="1.34.0"),
        reading(clock_synchronised=True, clock_offset_seconds=3.0),
        reading(temperature_celsius=None, memory_available_bytes=None, disks=()),
    ],
)
def test_what_is_not_worth_a_condition(facts: Facts) -> None:
    assert codes(facts) == []


def test_a_condition_has_the_hint_that_fits_best() -> None:
    """The server's, else that of the case, else the catalogue's."""
    own = CATALOGUE[Code.DUPLICATE_PARTITION].hint
    for hint in ("ask car-2", ""):
        told = replace(WELL, server_problems=(("duplicate-partition", "as car-2", hint),))
        assert [found.hint for found in evaluate(told, frozenset())] == [hint or own]
    (found,) = evaluate(replace(WELL, data_unmovable="read-only"), frozenset())
    assert found.hint.startswith("give user fleven the right to read the trips")


def test_the_node_has_the_word_on_what_it_sees_itself() -> None:
    told = replace(WELL, executor_dead="gone", server_problems=(("executor-dead", "so it seems", "wait"),))
    assert [found.message for found in evaluate(told, frozenset())] == ["gone"]


def test_how_long_each_condition_must_hold_and_be_away() -> None:
    times = {
        code: (entry.raise_after_seconds, entry.clear_after_seconds)
        for code, entry in CATALOGUE.items()
        if entry.raise_after_seconds or entry.clear_after_seconds
    }
    assert times == {
        Code.SUPERLINK_UNREACHABLE: (5, 0),
        Code.TASK_FAILED: (0, 60),
        Code.DISK_LOW: (10, 30),
        Code.MEMORY_LOW: (10, 30),
        Code.TEMPERATURE_HIGH: (10, 30),
        Code.UNDERVOLTAGE: (2, 60),
        Code.CLOCK_UNSYNCED: (120, 10),
        Code.REPORT_UNDELIVERED: (60, 0),
    }


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("code", "last_bad", "first_good"),
    [
        (Code.TEMPERATURE_HIGH, {"temperature_celsius": 78.0}, {"temperature_celsius": 77.9}),
        (
            Code.MEMORY_LOW,
            {"memory_available_bytes": 200 * MEGABYTE - 1},
            {"memory_available_bytes": 200 * MEGABYTE},
        ),
        (
            Code.DISK_LOW,
            {"disks": (Disk("/", 1, 1_000 * MEGABYTE - 1),)},
            {"disks": (Disk("/", 1, 1_000 * MEGABYTE),)},
        ),
    ],
)
def test_where_a_condition_begins_to_hold(
    code: Code, last_bad: dict[str, object], first_good: dict[str, object]
) -> None:
    assert codes(reading(**last_bad)) == [code]
    assert codes(reading(**first_good)) == []


@pytest.mark.parametrize(
    ("code", "last_bad", "first_good"),
    [
        (Code.TEMPERATURE_HIGH, {"temperature_celsius": 73.0}, {"temperature_celsius": 72.9}),
        (
            Code.MEMORY_LOW,
            {"memory_available_bytes": 250 * MEGABYTE - 1},
            {"memory_available_bytes": 250 * MEGABYTE},
        ),
        (
            Code.DISK_LOW,
            {"disks": (Disk("/", 1, 1_100 * MEGABYTE - 1),)},
            {"disks": (Disk("/", 1, 1_100 * MEGABYTE),)},
        ),
    ],
)
def test_one_that_is_shown_holds_on_past_its_limit(
    code: Code, last_bad: dict[str, object], first_good: dict[str, object]
) -> None:
    """So a reading near its limit does not flap; what is shown beside it changes nothing."""
    assert codes(reading(**last_bad), code) == [code]
    assert codes(reading(**first_good), code) == []
    others = {Code.TEMPERATURE_HIGH, Code.MEMORY_LOW, Code.DISK_LOW} - {code}
    assert codes(reading(**last_bad), *others) == []


def test_undervoltage_and_clock() -> None:
    readings = replace(WELL.readings, throttling=Throttling(undervoltage=True), clock_synchronised=False)
    assert codes(replace(WELL, readings=readings)) == [Code.UNDERVOLTAGE, Code.CLOCK_UNSYNCED]
    assert codes(replace(WELL, readings=replace(WELL.readings, clock_synchronised=None, throttling=None))) == []


def test_every_code_has_one_definition_with_a_hint() -> None:
    assert list(CATALOGUE) == list(Code)
    assert all(definition.hint for definition in CATALOGUE.values())


def test_a_code_has_one_rule() -> None:
    with pytest.raises(ValueError, match="disk-low has two rules"):
        _condition(Code.DISK_LOW, Severity.INFO)(lambda _facts, _shown: "")
    assert CATALOGUE[Code.DISK_LOW].severity is Severity.WARNING


@pytest.mark.parametrize(
    ("worse", "better"),
    [(Severity.ERROR, Severity.WARNING), (Severity.WARNING, Severity.INFO), (Severity.ERROR, Severity.INFO)],
)
def test_the_worse_comes_first_wherever_the_catalogue_has_it(worse: Severity, better: Severity) -> None:
    assert order(Finding(Code.GATED, "", worse, "")) < order(Finding(Code.SUPERNODE_DOWN, "", better, ""))


def test_errors_come_first_then_warnings_and_each_as_the_catalogue_has_them() -> None:
    facts = replace(
        WELL,
        supervised=replace(WELL.supervised, gates=("hot",)),
        state_problem="full",
        frozen="stopped",
        executor_dead="gone",
        configuration_problem="x",
    )
    assert codes(facts) == [
        Code.EXECUTOR_DEAD,
        Code.CONFIGURATION_INVALID,
        Code.STATE_UNWRITABLE,
        Code.SUPERNODE_FROZEN,
        Code.GATED,
    ]


def test_a_certificate_that_has_expired_is_named_and_not_the_network() -> None:
    (found,) = evaluate(replace(WELL, connection_lost=True, tls_failure=EXPIRED), frozenset())
    assert found.message.endswith(": it has expired")
    assert "trust status" in found.hint
    (found,) = evaluate(replace(WELL, connection_lost=True, tls_failure=TlsFailure(TlsProblem.OTHER, "x")), frozenset())
    assert "check the network" in found.hint
    # A port that takes no connection says nothing of certificates.
    (found,) = evaluate(replace(WELL, probe_problem="connection refused", tls_failure=EXPIRED), frozenset())
    assert "refused" in found.message


@pytest.mark.parametrize("lost", [{"probe_problem": "connection refused"}, {"connection_lost": True}])
def test_the_port_of_another_api_is_named_where_nobody_answers(lost: dict[str, Any]) -> None:
    facts = replace(WELL, settings=Settings(partition_id=0, superlink="[fd7a::1]:9093"), **lost)
    (found,) = evaluate(facts, frozenset())
    assert found.code is Code.SUPERLINK_UNREACHABLE
    assert found.hint == (
        "9093 is by default the port of the Control API, which only administrators use; "
        'for example superlink = "[fd7a::1]:9092"'
    )
    (found,) = evaluate(replace(WELL, **lost), frozenset())
    assert "check the network" in found.hint
