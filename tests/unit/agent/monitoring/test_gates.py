"""Gates: what closes each, how long it takes, and that none flaps."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven_agent.config import allowed_hours
from fleven_agent.config.settings import Gates as Settings
from fleven_agent.monitoring.gates import Gates, Inputs, inhibit_files, local_moment, wanted
from fleven_agent.protocol.codes import GateCode
from fleven_agent.protocol.readings import Disk, Readings, Throttling

SETTINGS = Settings(close_after_seconds=20, open_after_seconds=60)
WELL = Inputs(Readings(memory_available_bytes=10**9, disks=(Disk("/", 10**10, 10**9),), temperature_celsius=50.0))


def with_readings(**values: object) -> Inputs:
    return replace(WELL, readings=replace(WELL.readings, **values))  # type: ignore[arg-type]  # fields of Readings


HOT = with_readings(temperature_celsius=82.0)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (WELL, set()),
        (HOT, {GateCode.TEMPERATURE}),
        (with_readings(temperature_celsius=None), set()),
        (with_readings(memory_available_bytes=99_000_000), {GateCode.MEMORY}),
        (with_readings(disks=(Disk("/", 1, 199_000_000),)), {GateCode.DISK}),
        (with_readings(throttling=Throttling(undervoltage=True)), {GateCode.UNDERVOLTAGE}),
        (replace(WELL, inhibitors=("driving",)), {GateCode.INHIBIT}),
        (replace(WELL, drain=""), {GateCode.DRAIN}),
    ],
)
def test_what_closes_a_gate(inputs: Inputs, expected: set[GateCode]) -> None:
    assert set(wanted(SETTINGS, inputs, frozenset())) == expected


MEGABYTE = 1_000_000
CLOSED_BY_READINGS = (GateCode.TEMPERATURE, GateCode.MEMORY, GateCode.DISK)


@pytest.mark.parametrize(
    ("code", "inputs", "ought"),
    [
        (GateCode.TEMPERATURE, with_readings(temperature_celsius=81.9), False),
        (GateCode.TEMPERATURE, with_readings(temperature_celsius=82.0), True),
        (GateCode.MEMORY, with_readings(memory_available_bytes=100 * MEGABYTE), False),
        (GateCode.MEMORY, with_readings(memory_available_bytes=100 * MEGABYTE - 1), True),
        (GateCode.DISK, with_readings(disks=(Disk("/", 1, 200 * MEGABYTE),)), False),
        (GateCode.DISK, with_readings(disks=(Disk("/", 1, 200 * MEGABYTE - 1),)), True),
    ],
)
def test_where_an_open_gate_closes(code: GateCode, inputs: Inputs, ought: bool) -> None:
    assert (code in wanted(SETTINGS, inputs, frozenset())) is ought


@pytest.mark.parametrize(
    ("code", "inputs", "ought"),
    [
        (GateCode.TEMPERATURE, with_readings(temperature_celsius=77.0), True),
        (GateCode.TEMPERATURE, with_readings(temperature_celsius=76.9), False),
        (GateCode.MEMORY, with_readings(memory_available_bytes=120 * MEGABYTE - 1), True),
        (GateCode.MEMORY, with_readings(memory_available_bytes=120 * MEGABYTE), False),
        (GateCode.DISK, with_readings(disks=(Disk("/", 1, 240 * MEGABYTE - 1),)), True),
        (GateCode.DISK, with_readings(disks=(Disk("/", 1, 240 * MEGABYTE),)), False),
    ],
)
def test_where_a_closed_gate_opens(code: GateCode, inputs: Inputs, ought: bool) -> None:
    """The margin is that of the gate itself: another one that is closed gives none."""
    assert (code in wanted(SETTINGS, inputs, frozenset({code}))) is ought
    others = frozenset(CLOSED_BY_READINGS) - {code}
    assert code not in wanted(SETTINGS, inputs, others)


def test_a_full_disk_among_others_is_named() -> None:
    disks = (Disk("/", 1, 10**9), Disk("/data", 1, 150 * MEGABYTE), Disk("/log", 1, 1))
    assert wanted(SETTINGS, with_readings(disks=disks), frozenset()) == {GateCode.DISK: "150 MB free at /data"}


@pytest.mark.parametrize(("hour", "reasons"), [(21, ()), (12, ("12:00 is outside the allowed hours (20:00-06:00)",))])
def test_the_gate_of_the_allowed_hours(hour: int, reasons: tuple[str, ...]) -> None:
    settings = replace(SETTINGS, allowed_hours=("20:00-06:00",))
    inputs = replace(WELL, moment=datetime(2026, 1, 5, hour, tzinfo=ZoneInfo("Europe/Lisbon")))
    gates = Gates()
    assert gates.update(settings, inputs, 0) == reasons
    assert gates.update(settings, replace(inputs, moment=None), 1) == ()


def test_gates_can_be_switched_off() -> None:
    off = Settings(
        temperature_maximum_celsius=None,
        memory_minimum_megabytes=0,
        disk_minimum_megabytes=0,
        undervoltage=False,
        inhibit_files=False,
    )
    everything = replace(
        with_readings(
            temperature_celsius=200.0,
            memory_available_bytes=0,
            disks=(Disk("/", 1, 0),),
            throttling=Throttling(undervoltage=True),
        ),
        inhibitors=("driving",),
    )
    assert wanted(off, everything, frozenset()) == {}


def test_the_reasons_are_sentences() -> None:
    found = wanted(SETTINGS, replace(HOT, drain="brakes", inhibitors=("driving", "towed")), frozenset())
    assert found == {
        GateCode.DRAIN: "drained: brakes",
        GateCode.INHIBIT: "inhibited: driving, towed",
        GateCode.TEMPERATURE: "the processor has 82 °C",
    }


def test_a_reading_closes_late_and_opens_later_and_lower() -> None:
    gates = Gates()
    assert gates.update(SETTINGS, HOT, 0) == ()
    assert gates.update(SETTINGS, HOT, 19) == ()
    assert gates.update(SETTINGS, HOT, 20) == ("the processor has 82 °C",)
    assert gates.update(SETTINGS, with_readings(temperature_celsius=79.0), 100) == ("the processor has 79 °C",)
    assert gates.update(SETTINGS, WELL, 101) != ()
    assert gates.update(SETTINGS, WELL, 160) != ()
    assert gates.update(SETTINGS, WELL, 161) == ()


def test_a_moment_of_heat_closes_nothing() -> None:
    gates = Gates()
    for now in range(0, 100, 10):
        assert gates.update(SETTINGS, HOT if now % 20 else WELL, now) == ()


def test_a_drain_works_at_once_both_ways() -> None:
    gates = Gates()
    assert gates.update(SETTINGS, replace(WELL, drain="x"), 0) == ("drained: x",)
    assert gates.update(SETTINGS, WELL, 1) == ()


def test_a_driving_car_stops_training_at_once_and_starts_it_later() -> None:
    gates = Gates()
    assert gates.update(SETTINGS, replace(WELL, inhibitors=("driving",)), 0) == ("inhibited: driving",)
    assert gates.update(SETTINGS, WELL, 10) != ()
    assert gates.update(SETTINGS, WELL, 70) == ()


def test_inhibit_files_give_their_first_line_or_their_name(tmp_path: Path) -> None:
    assert inhibit_files(tmp_path / "missing") == ()
    (tmp_path / "b").write_text("\n  driving \nmore", encoding="utf-8")
    (tmp_path / "a").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "c").write_bytes(b"\x00\x01\xff" * 400)
    found = inhibit_files(tmp_path)
    assert found[:2] == ("a", "driving")
    assert all(text.isprintable() and text for text in found)


def test_at_most_twenty_inhibit_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in range(21):
        (tmp_path / f"{number:02}").touch()
    assert inhibit_files(tmp_path) == tuple(f"{number:02}" for number in range(20))


def test_a_reason_has_at_most_two_hundred_characters_of_the_first_thousand_bytes(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("x" * 201, encoding="utf-8")
    (tmp_path / "just").write_text("\n" * 999 + "yz", encoding="utf-8")
    (tmp_path / "late").write_text("\n" * 1_000 + "z", encoding="utf-8")
    assert inhibit_files(tmp_path) == ("y", "late", "x" * 200)


def test_an_inhibit_file_that_cannot_be_read_gives_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "driving").write_text("a reason", encoding="utf-8")

    def refuse(_path: Path, _mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert inhibit_files(tmp_path) == ("driving",)


@pytest.mark.parametrize(
    ("spans", "moment", "expected"),
    [
        ((), "2026-01-05 12:00", True),
        (("08:30-17:45",), "2026-01-05 08:29", False),
        (("08:30-17:45",), "2026-01-05 08:30", True),
        (("08:30-17:45",), "2026-01-05 17:44", True),
        (("08:30-17:45",), "2026-01-05 17:45", False),
        (("08:30-17:45", "19:00-20:00"), "2026-01-05 18:30", False),
        (("08:30-17:45", "19:00-20:00"), "2026-01-05 19:30", True),
        (("sun 22:00-06:00",), "2026-01-12 05:59", True),
        (("sun 22:00-06:00",), "2026-01-13 05:59", False),
        (("20:00-06:00",), "2026-01-05 20:00", True),
        (("20:00-06:00",), "2026-01-05 05:59", True),
        (("20:00-06:00",), "2026-01-05 06:00", False),
        (("20:00-06:00",), "2026-01-05 19:59", False),
        (("fri 22:00-06:00",), "2026-01-09 23:00", True),
        (("fri 22:00-06:00",), "2026-01-10 05:00", True),
        (("fri 22:00-06:00",), "2026-01-09 05:00", False),
        (("sat,sun 00:00-24:00",), "2026-01-10 23:59", True),
        (("sat,sun 00:00-24:00",), "2026-01-09 12:00", False),
        (("fri-mon 10:00-11:00",), "2026-01-11 10:30", True),
        (("fri-mon 10:00-11:00",), "2026-01-07 10:30", False),
    ],
)
def test_allowed_hours(spans: tuple[str, ...], moment: str, expected: bool) -> None:
    at = datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo("Europe/Lisbon"))
    assert allowed_hours.allowed(spans, at) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:00-24:00", ({0, 1, 2, 3, 4, 5, 6}, 0, 1440)),
        (" Mon 9:07 - 18:59 ", ({0}, 547, 1139)),
        ("sat,sun 23:59-00:01", ({5, 6}, 1439, 1)),
        ("wed-fri 1:00-2:00", ({2, 3, 4}, 60, 120)),
        ("sat-tue 1:00-2:00", ({5, 6, 0, 1}, 60, 120)),
        ("mon-sun 1:00-2:00", ({0, 1, 2, 3, 4, 5, 6}, 60, 120)),
        ("tue-tue 1:00-2:00", ({1}, 60, 120)),
        ("mon,fri-sun 1:00-2:00", ({0, 4, 5, 6}, 60, 120)),
    ],
)
def test_what_a_span_means(text: str, expected: tuple[set[int], int, int]) -> None:
    assert hours.parse(text) == expected


@pytest.mark.parametrize("zone", ["Nowhere/Land", "America", "../etc/passwd"])
def test_spans_and_zones_that_cannot_be_used_are_named_with_a_hint(zone: str) -> None:
    """A name that is unknown, a folder, a path: Python raises another exception for each."""
    settings = Settings(allowed_hours=("20-6", "1:00-2:00", "x 1:00-2:00"), time_zone=zone)
    found = hours.problems(settings)
    assert [problem for problem, _ in found] == [
        '"20-6" is not a span of hours',
        '"x" is not a weekday (mon to sun)',
        f'time-zone "{zone}" is not known on this machine',
    ]
    assert all(hint.startswith("for example ") for _, hint in found)
    assert hours.problems(Settings(allowed_hours=("1:00-2:00",), time_zone="Europe/Lisbon")) == []


@pytest.mark.parametrize(
    "text",
    [
        "24:01-1:00",
        "23:60-1:00",
        "25:00-1:00",
        "1:00-24:30",
        "",
        "20-6",
        "25:00-26:00",
        "10:00-10:00",
        "xyz 10:00-11:00",
        "10:60-11:00",
        "mon- 1:00-2:00",
    ],
)
def test_spans_that_cannot_be_used(text: str) -> None:
    with pytest.raises(ValueError, match="is"):
        allowed_hours.parse(text)


def test_hours_are_meant_in_the_time_zone() -> None:
    settings = Settings(allowed_hours=("20:00-22:00",), time_zone="America/Sao_Paulo")
    moment = local_moment(settings, datetime(2026, 1, 5, 23, 30, tzinfo=ZoneInfo("UTC")).timestamp())
    assert moment is not None
    assert (moment.hour, allowed_hours.allowed(settings.allowed_hours, moment)) == (20, True)
    assert local_moment(Settings(), 0) is None


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(20, 120)), max_size=60))
def test_no_gate_on_a_reading_changes_faster_than_its_times(readings: list[tuple[float, float]]) -> None:
    gates, now, changed_at, was = Gates(), 0.0, float("-inf"), ()
    for pause, celsius in readings:
        now += pause
        found = tuple(gates.update(SETTINGS, with_readings(temperature_celsius=celsius), now))
        if bool(found) != bool(was):
            assert now - changed_at >= min(SETTINGS.close_after_seconds, SETTINGS.open_after_seconds)
            changed_at = now
        was = found
