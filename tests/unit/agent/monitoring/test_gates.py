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
from fleven_agent.system.way import Way

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


def test_hours_are_meant_in_the_time_zone() -> None:
    settings = Settings(allowed_hours=("20:00-22:00",), time_zone="America/Sao_Paulo")
    moment = local_moment(settings, datetime(2026, 1, 5, 23, 30, tzinfo=ZoneInfo("UTC")).timestamp())
    assert moment is not None
    assert (moment.hour, allowed_hours.allowed(settings.allowed_hours, moment)) == (20, True)
    assert local_moment(Settings(), 0) is None


FULL = with_readings(disks=(Disk("/", 1, 0),))


@pytest.mark.parametrize(("seconds", "expected"), [(60.0, 10.0), (10.0, 10.0), (3.0, 3.0)])
def test_the_gate_of_a_disk_opens_soon_after_somebody_has_freed_space(seconds: float, expected: float) -> None:
    gates, settings = Gates(), replace(SETTINGS, open_after_seconds=seconds)
    gates.update(settings, FULL, 0)
    assert gates.update(settings, FULL, 20)
    assert gates.update(settings, WELL, 100)
    assert gates.update(settings, WELL, 100 + expected - 0.1)
    assert gates.update(settings, WELL, 100 + expected) == ()


def test_the_gates_of_heat_and_memory_open_in_their_own_time() -> None:
    for bad in (HOT, with_readings(memory_available_bytes=0)):
        gates = Gates()
        gates.update(SETTINGS, bad, 0)
        gates.update(SETTINGS, bad, 20)
        gates.update(SETTINGS, WELL, 100)
        assert gates.update(SETTINGS, WELL, 159.9)
        assert gates.update(SETTINGS, WELL, 160) == ()


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


# Networks and the month's bytes

NETWORKS = Settings(networks=("wlan0", "Home WiFi"))
HOME = Way(("tailscale0", "wlan1", "Home WiFi"))
MOBILE = Way(("wwan0", "Mobile"))


def closed_by(settings: Settings, inputs: Inputs, *closed: GateCode) -> dict[GateCode, str]:
    return wanted(settings, inputs, frozenset(closed))


@pytest.mark.parametrize("way", [Way(("wlan0",)), HOME, Way(("wlan0", "wwan0"))])
def test_a_way_through_one_of_the_networks_is_open(way: Way) -> None:
    assert closed_by(NETWORKS, replace(WELL, way=way)) == {}
    assert closed_by(NETWORKS, replace(WELL, way=way), GateCode.NETWORK) == {}


def test_any_other_way_is_closed_and_named() -> None:
    assert closed_by(NETWORKS, replace(WELL, way=MOBILE)) == {
        GateCode.NETWORK: "the way to the SuperLink goes through wwan0, Mobile, not through wlan0 or Home WiFi"
    }
    assert closed_by(SETTINGS, replace(WELL, way=MOBILE)) == {}
    assert closed_by(NETWORKS, replace(WELL, way=None)) == {}


def test_without_any_way_the_gate_stays_as_it_is() -> None:
    assert closed_by(NETWORKS, replace(WELL, way=Way())) == {}
    assert closed_by(NETWORKS, replace(WELL, way=Way()), GateCode.NETWORK) == {
        GateCode.NETWORK: "no network leads to the SuperLink"
    }


def test_the_network_gate_closes_at_once_and_opens_after_a_while() -> None:
    gates = Gates()
    assert gates.update(NETWORKS, replace(WELL, way=MOBILE), 0) != ()
    assert gates.update(NETWORKS, replace(WELL, way=HOME), 1) != ()
    assert gates.update(NETWORKS, replace(WELL, way=HOME), 60) != ()
    assert gates.update(NETWORKS, replace(WELL, way=HOME), 61) == ()


def test_the_month_s_limit_closes_and_opens_at_once() -> None:
    limited = Settings(monthly_megabytes=300)
    gates = Gates()
    assert gates.update(limited, replace(WELL, month_bytes=299_999_999), 0) == ()
    assert gates.update(limited, replace(WELL, month_bytes=300_000_000), 1) == (
        "300.0 MB of 300 MB are used this month",
    )
    assert gates.update(SETTINGS, replace(WELL, month_bytes=300_000_000), 2) == ()
    assert gates.update(limited, replace(WELL, month_bytes=300_000_000), 3) != ()
    assert gates.update(limited, replace(WELL, month_bytes=0), 4) == ()
