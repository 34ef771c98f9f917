"""Clocks of every kind to seconds."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fleven.data.importing.clock import Clock, ClockContext, ClockKind, read_clock, rows_steps, unwrap
from fleven.data.importing.column_mapping import Candidate

SECONDS = np.array([0.0, 1.0, 2.5, 4.0])


def read(
    values: list[object], unit: str = "", date: list[str] | None = None, kind: pa.DataType | None = None
) -> Clock | str:
    candidate = Candidate(0, "time", "time_sec", unit, bool(unit), False)
    day = pa.chunked_array([pa.array(date)]) if date else None
    around = ClockContext.plain(len(values), day)
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


def clock_of(values: list[object], unit: str = "s", **options: Any) -> Clock:
    found = read(values, unit, **options)
    assert isinstance(found, Clock), found
    return found


@pytest.mark.parametrize(
    ("steps", "standing"),
    [
        # Fractions of a second: at most four steps of five may be zero.
        ([0.5, 0, 0, 0, 0, 0.75, 0, 0, 0, 0], False),
        ([0.5, 0, 0, 0, 0, 0.75, 0, 0, 0, 0, 0], True),
        # Whole seconds that go on: at most fifty rows to each step.
        ([1, *[0] * 49, 1, *[0] * 48], False),
        ([1, *[0] * 49, 1, *[0] * 49], True),
        ([1, *[0] * 20], True),
        # Whole seconds, but not every one of them.
        ([2, *[0] * 20, 2, *[0] * 20], True),
        ([1, *[0] * 20, 2, *[0] * 20, 1], False),
        ([0], True),
        ([], False),
    ],
)
def test_when_a_clock_stands_still(steps: list[float], standing: bool) -> None:
    times = np.cumsum([7.0, *steps])
    found = read(times.tolist(), "s")
    expected = f"stands still: {len(np.unique(times))} different times in {len(times)} rows"
    assert (found == expected) if standing else isinstance(found, Clock)


@pytest.mark.parametrize(
    ("times", "refusal"),
    [
        ([5, 4, 6, 5, 7], ""),
        ([5, 4, 6, 5, 7, 6], "runs backwards: 3 of 5 steps go back"),
        ([5, 4, 4, 4, 6, 5, 5, 7], ""),
        ([9, 8, 7], "runs backwards: 2 of 2 steps go back"),
        ([9, 8, 7, 8, 7, 6], "runs backwards: 4 of 5 steps go back"),
        ([9, 8, 8, 7], "runs backwards: 2 of 2 steps go back"),
        ([1.6e9 + 9, 1.6e9 + 8, 1.6e9 + 7], ""),
    ],
)
def test_a_clock_without_a_date_may_not_run_backwards(times: list[float], refusal: str) -> None:
    found = read([float(time) for time in times], "s")
    assert (found == refusal) if refusal else isinstance(found, Clock)


def test_steps_are_counted_within_each_vehicle_and_over_rows_without_a_time() -> None:
    seconds = np.array([1.0, 50.0, np.nan, 40.0, 2.0, 30.0])
    around = ClockContext(np.array([0, 2, 4, 1, 3, 5]), np.array([True, True, False, True, True]))
    assert rows_steps(seconds, around).tolist() == [1.0, -10.0, -10.0]
    assert rows_steps(np.zeros(0), ClockContext.plain(0)).tolist() == []


@pytest.mark.parametrize(
    ("times", "empty"),
    [
        ([1e11 - 1, 1e11 - 2, 1e11 - 3], []),
        ([1.6e9, 1e11, 1.6e9 + 2, 1.6e9 + 3], [1]),
        ([1.6e9, 2e11, 1.6e9 + 2, 3e11], [1, 3]),
    ],
)
def test_times_beyond_the_year_5138_are_emptied_while_they_are_not_most(times: list[object], empty: list[int]) -> None:
    found = clock_of(times).seconds
    assert np.flatnonzero(np.isnan(found)).tolist() == empty
    kept = [at for at in range(len(times)) if at not in empty]
    assert found[kept].tolist() == [times[at] for at in kept]


def test_of_times_of_which_most_are_beyond_the_first_is_shown() -> None:
    said = str(read([1.6e9, 2e11, 3e11], "s"))
    assert said == "says 2e+11 s since 1970: --unit time_sec=ms (or us, ns) says what it counts"


@pytest.mark.parametrize("cell", ["{}", "00:00:0{}", "2020-09-13 12:26:4{}"])
@pytest.mark.parametrize(
    ("more", "readable"),
    [(["never"] * 2, True), (["never"] * 3, False), (["", "", "never"], True), (["", "", *["never"] * 3], False)],
)
def test_four_of_five_cells_that_hold_something_must_be_readable(cell: str, more: list[str], readable: bool) -> None:
    found = read([*(cell.format(number) for number in range(1, 9)), *more])
    assert isinstance(found, Clock) is readable
    assert readable or str(found) == "holds no times that can be read, such as 'never'"


@pytest.mark.parametrize(
    ("cells", "period", "notes"),
    [
        (["10:00:01", "10:00:02", "23:00:03"], 86_400.0, 0),
        (["01:00:01", "11:59:59", "12:00:03"], 43_200.0, 0),
        (["59:58.5", "59:59.0", "59:59.5"], 3_600.0, 1),
        (["59:58.50", "59:59.00", "59:59.50"], 86_400.0, 0),
    ],
)
def test_when_a_time_of_day_shows_the_same_again(cells: list[str], period: float, notes: int) -> None:
    found = clock_of(cells, "")
    assert (found.period, len(found.notes)) == (period, notes)
    assert all("hours that are dropped" in note or "drop the hours" in note for note in found.notes)


@pytest.mark.parametrize(
    ("dates", "notes"),
    [
        (["", "", ""], ()),
        (
            ["", "today", "today"],
            ("date holds no dates that can be read, such as 'today': the time of day is used alone",),
        ),
    ],
)
def test_a_time_of_day_without_a_date_that_can_be_read_is_used_alone(dates: list[str], notes: tuple[str, ...]) -> None:
    found = clock_of(["12:26:40", "12:26:41", "12:26:42"], "", date=dates)
    assert (found.kind, found.notes) == (ClockKind.DURATION, notes)
    assert found.seconds.tolist() == [44_800.0, 44_801.0, 44_802.0]


def test_a_column_of_numbers_is_no_date_beside_a_time_of_day() -> None:
    around = ClockContext.plain(2, pa.chunked_array([pa.array([1, 2])]))
    cells = pa.chunked_array([pa.array(["12:26:40", "12:26:41"])])
    found = read_clock(cells, Candidate(0, "time", "time_sec", "", False, False), ".", around)
    assert isinstance(found, Clock)
    assert (found.kind, found.notes) == (ClockKind.DURATION, ())


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["", "01/02/2024 10:00:00", "01/02/2024 10:00:01"], "as in '01/02/2024 10:00:00': the day is assumed to"),
        (["1/2/2024 10:00:00 AM", "1/2/2024 10:00:01 AM"], "as in '1/2/2024 10:00:00 AM': the month is assumed to"),
        (["13/02/2024 10:00:00", "13/02/2024 10:00:01"], ""),
    ],
)
def test_what_was_taken_for_granted_of_a_date_is_said(cells: list[str], said: str) -> None:
    notes = clock_of(cells, "").notes
    assert notes == ((f"does not say whether day or month comes first, {said}",) if said else ())


@pytest.mark.parametrize(
    ("number", "kind", "seconds"),
    [
        (1e8 - 1, ClockKind.SECONDS, 1e8 - 1),
        (1e8, ClockKind.EPOCH, 1e8),
        (1e11 - 1, ClockKind.EPOCH, 1e11 - 1),
        (1e11, ClockKind.EPOCH, 1e8),
        (1e14 - 1, ClockKind.EPOCH, (1e14 - 1) / 1e3),
        (1e14, ClockKind.EPOCH, 1e8),
        (1e17 - 64, ClockKind.EPOCH, (1e17 - 64) / 1e6),
        (1e17, ClockKind.EPOCH, 1e8),
    ],
)
def test_what_one_number_counts_is_told_by_its_size(number: float, kind: ClockKind, seconds: float) -> None:
    found = read([number])
    assert isinstance(found, Clock), found
    assert found.kind is kind
    assert found.seconds.tolist() == pytest.approx([seconds], rel=1e-15)


@pytest.mark.parametrize(
    ("numbers", "kind", "seconds", "unit", "notes"),
    [
        ([0.0, 0.1, 0.2, 0.3], ClockKind.SECONDS, [0.0, 0.1, 0.2, 0.3], "", 0),
        ([0.0, 500.0, 1_000.0], ClockKind.SECONDS, [0.0, 0.5, 1.0], "milliseconds", 1),
        ([1.6e12, 1.6e12 + 500], ClockKind.EPOCH, [1.6e9, 1.6e9 + 0.5], "milliseconds", 0),
        ([1.6e9, 1.6e9 + 1], ClockKind.EPOCH, [1.6e9, 1.6e9 + 1], "", 0),
        # Days of a spreadsheet: 13 September 2020, 12:26:40.
        (
            [44_087.518518518518, 44_087.518530092593],
            ClockKind.DATE_TIME,
            [1.6e9, 1.6e9 + 1],
            "days since 1899",
            0,
        ),
        ([95_958.0, 95_959.0, 1e5, 100_001.0], ClockKind.DURATION, [35_998.0, 35_999.0, 36_000.0, 36_001.0], "", 1),
    ],
)
def test_what_numbers_count_is_told_by_their_pace(
    numbers: list[object], kind: ClockKind, seconds: list[float], unit: str, notes: int
) -> None:
    found = read(numbers)
    assert isinstance(found, Clock), found
    assert (found.kind, found.unit, len(found.notes)) == (kind, unit, notes)
    assert found.seconds.tolist() == seconds


def test_a_header_that_promises_seconds_is_believed_while_they_can_be() -> None:
    for first, factor in ((10.0, 1.0), (1.6e12, 1e-3)):
        candidate = Candidate(0, "seconds", "time_sec", "", False, False, in_seconds=True)
        column = pa.chunked_array([pa.array([first, first + 500.0, first + 1000.0])])
        found = read_clock(column, candidate, ".", ClockContext.plain(3))
        assert isinstance(found, Clock), found
        assert found.seconds.tolist() == [first * factor, (first + 500) * factor, (first + 1000) * factor]


def test_numbers_that_may_count_several_things_are_refused_with_the_ways_out() -> None:
    said = str(read([0.0, 50.0, 100.0, 150.0]))
    assert said == (
        "does not say what it counts, and it may be seconds (steps of 50 s) or milliseconds (steps of 0.05 s): "
        "--unit time_sec=s or --unit time_sec=ms says which"
    )


@pytest.mark.parametrize(
    ("times", "period", "longest", "carried"),
    [
        # The longest pause may be longer than a day; a step of nothing, or forward, crosses no midnight all the same.
        ([5.0, 5.0], 86_400.0, 90_000.0, 5.0),
        ([5.0, 5.5], 86_400.0, 90_000.0, 5.5),
        ([5.0, 4.0], 86_400.0, 90_000.0, 86_404.0),
        ([86_399.0, 0.0], 86_400.0, 300.0, 86_400.0),
        # A step of exactly the longest pause, and one that is longer.
        ([86_399.0, 299.0], 86_400.0, 300.0, 86_699.0),
        ([86_399.0, 300.0], 86_400.0, 300.0, 300.0),
        # A period later it would be no step at all.
        ([86_400.0, 0.0], 86_400.0, 300.0, 0.0),
        ([5.0, 5.0], 86_400.0, 300.0, 5.0),
        # A clock that begins again within the day must go on within ten seconds, and no later than a pause may last.
        ([3_599.0, 9.0], 3_600.0, 300.0, 3_609.0),
        ([3_599.0, 9.5], 3_600.0, 300.0, 9.5),
        ([3_599.0, 4.0], 3_600.0, 5.0, 3_604.0),
        ([3_599.0, 4.5], 3_600.0, 5.0, 4.5),
    ],
)
def test_how_far_a_clock_may_step_when_it_begins_anew(
    times: list[float], period: float, longest: float, carried: float
) -> None:
    assert unwrap(np.array(times), np.array([True]), period, longest).tolist() == [times[0], carried]


def test_a_unit_that_stands_in_the_cells_or_the_header_is_believed() -> None:
    assert clock_of(["0 s", "50 s", "100 s", "150 s"], "").seconds.tolist() == [0, 50, 100, 150]
    column = pa.chunked_array([pa.array([0.0, 50.0, 100.0, 150.0])])
    found = read_clock(column, Candidate(0, "time", "time_sec", "s", False, False), ".", ClockContext.plain(4))
    assert isinstance(found, Clock), found
    assert (found.seconds.tolist(), found.notes) == ([0, 50, 100, 150], ())


def test_date_and_time_in_digits_alone() -> None:
    found = clock_of(["20200913122640", "20200913122641", ""], "")
    assert (found.kind, found.seconds[:2].tolist()) == (ClockKind.DATE_TIME, [1.6e9, 1.6e9 + 1])


def test_a_column_without_rows_is_no_clock() -> None:
    assert read([], kind=pa.string()) == "holds no times that can be read, such as 'nothing'"


def test_examples_are_cut_after_forty_characters() -> None:
    long = "x" * 50
    assert str(read(["1:00:00", "2:00:00", *[long] * 3])).endswith(f"such as {long[:40]!r}")
    (note,) = clock_of(["12:26:40", "12:26:41"], "", date=[long, long]).notes
    assert f"such as {long[:40]!r}: " in note
    stamp = "01/02/2024" + " " * 30 + "10:00:00"
    (note,) = clock_of([stamp, stamp[:-1] + "1"], "").notes
    assert f"as in {stamp[:40]!r}: " in note


@pytest.mark.parametrize(
    ("times", "dates", "kind"),
    [
        (["12:26:40"] * 10, [*["2020-09-13"] * 8, "", ""], ClockKind.DATE_TIME),
        (["12:26:40"] * 10, [*["2020-09-13"] * 7, "", "", ""], ClockKind.DURATION),
        ([*["12:26:40"] * 8, "", ""], ["2020-09-13"] * 8 + ["x"] * 2, ClockKind.DATE_TIME),
    ],
)
def test_four_of_five_times_must_have_a_date(times: list[str], dates: list[str], kind: ClockKind) -> None:
    times = [time.replace("40", f"4{at}") for at, time in enumerate(times)]
    assert clock_of(list(times), "", date=dates).kind is kind


def test_days_of_a_spreadsheet_are_exact_to_milliseconds() -> None:
    days = [round((1.6e9 + second) / 86_400 + 25_569, 9) for second in (0.123, 1.123, 2.123)]
    assert clock_of(list(days), "").seconds.tolist() == [1.6e9 + 0.123, 1.6e9 + 1.123, 1.6e9 + 2.123]


def test_seconds_that_are_promised_but_cannot_be_are_read_by_their_size() -> None:
    candidate = Candidate(0, "seconds", "time_sec", "", False, False, in_seconds=True)
    column = pa.chunked_array([pa.array([1e11 - 500, 1e11, 1e11 + 500])])
    found = read_clock(column, candidate, ".", ClockContext.plain(3))
    assert isinstance(found, Clock), found
    assert found.seconds.tolist() == pytest.approx([1e8 - 0.5, 1e8, 1e8 + 0.5])


def test_many_rows_to_a_number_do_not_hide_that_it_says_not_what_it_counts() -> None:
    numbers = [float(step * 50) for step in range(4) for _ in range(20)]
    assert str(read(list(numbers))).startswith("does not say what it counts")
