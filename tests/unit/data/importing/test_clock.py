"""Clocks of every kind to seconds."""

import numpy as np
import pyarrow as pa
import pytest

from fleven.data.importing.clock import Clock, ClockKind, Surroundings, read_clock, unwrap
from fleven.data.importing.column_mapping import Candidate

SECONDS = np.array([0.0, 1.0, 2.5, 4.0])


def read(
    values: list[object], unit: str = "", date: list[str] | None = None, kind: pa.DataType | None = None
) -> Clock | str:
    candidate = Candidate(0, "time", "time_sec", unit, bool(unit), False)
    day = pa.chunked_array([pa.array(date)]) if date else None
    around = Surroundings.plain(len(values), day)
    return read_clock(pa.chunked_array([pa.array(values, type=kind)]), candidate, ".", around)


@pytest.mark.parametrize(
    ("cell", "kind", "first"),
    [
        ("1{}", ClockKind.SECONDS, 140.0),
        ("1{} s", ClockKind.SECONDS, 140.0),
        ("00:03:{}", ClockKind.DURATION, 220.0),
        ("3:{}", ClockKind.DURATION, 220.0),
        ("30:00:{}", ClockKind.DURATION, 108040.0),
        ("16000000{}", ClockKind.EPOCH, 1_600_000_040.0),
        ("2020-09-13T12:26:{}Z", ClockKind.DATE_TIME, 1.6e9),
        ("2020-09-13 12:26:{}", ClockKind.DATE_TIME, 1.6e9),
        ("2020-09-13 14:26:{}+02:00", ClockKind.DATE_TIME, 1.6e9),
        ("2020/09/13 12:26:{}", ClockKind.DATE_TIME, 1.6e9),
        ("13-Sep-2020 12:26:{}", ClockKind.DATE_TIME, 1.6e9),
        ("13.09.2020 12:26:{}", ClockKind.DATE_TIME, 1.6e9),
        ("13/09/2020 12:26:{}", ClockKind.DATE_TIME, 1.6e9),
        ("9/13/2020 12:26:{}", ClockKind.DATE_TIME, 1.6e9),
        ("9/13/2020 12:26:{} PM", ClockKind.DATE_TIME, 1.6e9),
        ("Sun Sep 13 12:26:{} GMT+00:00 2020", ClockKind.DATE_TIME, 1.6e9),
    ],
)
@pytest.mark.parametrize("decimal", [".", ","])
def test_each_kind_of_clock(cell: str, kind: ClockKind, first: float, decimal: str) -> None:
    clock = read([cell.format(second) for second in ("40", "41", f"42{decimal}5", "44")])
    assert isinstance(clock, Clock), clock
    assert clock.kind == kind
    assert clock.seconds == pytest.approx(first + SECONDS, abs=1e-4)
    assert clock.absolute == (kind in (ClockKind.EPOCH, ClockKind.DATE_TIME))


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1e3), ("us", 1e6), ("min", 1 / 60)])
def test_a_unit_scales_the_clock(unit: str, factor: float) -> None:
    clock = read([repr(second * factor) for second in SECONDS.tolist()], unit)
    assert isinstance(clock, Clock)
    assert clock.seconds == pytest.approx(SECONDS)


@pytest.mark.parametrize(("unit", "factor"), [("s", 1e3), ("s", 1e9), ("ms", 1e6)])
def test_time_since_1970_in_another_unit_than_it_says_is_refused_with_a_way_out(unit: str, factor: float) -> None:
    said = read([str(int((1.6e9 + second) * factor)) for second in (0, 1, 2)], unit)
    assert isinstance(said, str)
    assert "s since 1970: --unit time_sec=ms" in said


@pytest.mark.parametrize("broken", [1.6e15, -1.6e15])
def test_one_time_that_can_not_be_is_emptied(broken: float) -> None:
    clock = read([1.6e9, broken, 1.6e9 + 2, 1.6e9 + 3], "s")
    assert isinstance(clock, Clock)
    assert np.isnan(clock.seconds).tolist() == [False, True, False, False]


def test_nanoseconds_of_a_timestamp_are_cut_off() -> None:
    clock = read([1_600_000_000_000_000_123, 1_600_000_001_500_000_999], kind=pa.timestamp("ns"))
    assert isinstance(clock, Clock)
    assert clock.seconds == pytest.approx([1.6e9, 1.6e9 + 1.5], abs=1e-6)


@pytest.mark.parametrize("factor", [1, 1e3, 1e6, 1e9])
def test_time_since_1970_shows_its_unit_by_its_size(factor: float) -> None:
    clock = read([str(int((1.6e9 + second) * factor)) for second in (0, 1, 2)])
    assert isinstance(clock, Clock)
    assert clock.kind == ClockKind.EPOCH
    assert clock.seconds == pytest.approx([1.6e9, 1.6e9 + 1, 1.6e9 + 2], abs=1e-6)


def test_day_and_month_are_told_apart_by_the_shorter_log() -> None:
    clock = read(["01/02/2024 23:59:59", "02/02/2024 00:00:00", "02/02/2024 00:00:01"])
    assert isinstance(clock, Clock)
    assert np.diff(clock.seconds).tolist() == [1.0, 1.0]


def test_a_time_of_day_takes_its_day_from_the_date_beside_it() -> None:
    clock = read(["12:26:40", "12:26:41"], date=["2020-09-13", "2020-09-13"])
    assert isinstance(clock, Clock)
    assert clock.seconds.tolist() == [1.6e9, 1.6e9 + 1]


def test_a_timestamp_of_a_parquet_file() -> None:
    clock = read([1_600_000_000_000_000, 1_600_000_001_500_000], kind=pa.timestamp("us"))
    assert isinstance(clock, Clock)
    assert clock.seconds.tolist() == [1.6e9, 1.6e9 + 1.5]


def test_numbers_of_a_parquet_file() -> None:
    clock = read([0, 900, 1800], unit="ms")
    assert isinstance(clock, Clock)
    assert clock.seconds == pytest.approx([0.0, 0.9, 1.8])


def test_cells_that_can_not_be_read_are_no_time() -> None:
    clock = read(["00:00:01", "", "00:00:03", "1:60E9", "00:00:05", *[f"00:00:{i:02d}" for i in range(6, 20)]])
    assert isinstance(clock, Clock)
    assert np.isnan(clock.seconds[[1, 3]]).all()
    assert np.isfinite(np.delete(clock.seconds, [1, 3])).all()


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (["7"] * 10, "stands still"),
        (["yesterday", "today", "tomorrow"], "no times that can be read, such as 'yesterday'"),
        (["", "", ""], "no times that can be read"),
    ],
)
def test_what_is_no_clock_says_why(cells: list[str], reason: str) -> None:
    assert reason in str(read(cells))


def test_midnight_is_crossed_only_by_the_same_vehicle_and_a_short_step() -> None:
    time = np.array([86_398.0, 1.0, 86_399.0, 2.0, 86_000.0, 50_000.0])
    same = np.array([True, False, True, False, True])
    carried = [86_398.0, 86_401.0, 172_799.0, 172_802.0, 258_800.0, 222_800.0]
    assert unwrap(time, same, 86_400.0, 300.0).tolist() == carried
