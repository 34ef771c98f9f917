"""Logs as loggers and their users left them, laid out as in public reports: each was once read wrong without a word."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from fleven.data.errors import InputError


def drive(rows: int, step: float = 1.0, phase: float = 0.0) -> list[tuple[float, float, int]]:
    """Return (seconds, km/h, rpm) of a drive that no two seconds are alike in."""
    return [
        (round(i * step, 3), round(40 + 30 * np.sin(0.05 * i * step + phase), 1), 1500 + round(600 * np.sin(0.09 * i)))
        for i in range(rows)
    ]


def speeds(rows: list[tuple[float, float, int]]) -> list[float]:
    return [speed for _, speed, _ in rows]


def clock(seconds: float, start: int = 10 * 3600, decimals: int = 3) -> str:
    total = start + seconds
    whole = int(total)
    rest = f"{total - whole:.{decimals}f}"[1:] if decimals else ""
    return f"{whole // 3600 % 24:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{rest}"


def read(imported: Any) -> Any:
    """Return rows read, after a look at the account: every row is kept or has one reason."""
    rows = imported.manifest["rows"]
    assert rows["read"] == rows["kept"] + sum(rows["dropped"].values())
    return rows["read"]


# Rows of units, sources, ids; sections


def test_racechrono_has_a_row_of_units_and_one_of_sources(run_import: Any) -> None:
    head = (
        "This file is created using RaceChrono Pro v10 ( http://racechrono.com/ ).\nFormat,3\n"
        'Session title,"Test"\nDriver name,\nCreated,04/08/2026,13:14\nNote,\n\n'
        "timestamp,fragment_id,lap_number,elapsed_time,altitude,speed,device_update_rate,speed,rpm\n"
        "unix time,,,s,m,m/s,Hz,m/s,rpm\n,,,,100: gps,100: gps,calc,calc,300: canbus\n"
    )
    data = drive(80, 0.5)
    body = [f"{1785849363 + t:.3f},0,,{t:.3f},5.4,{v / 3.6:.3f},20.0,{v / 3.6:.3f},{r}\n" for t, v, r in data]
    imported = run_import(head + "".join(body))
    assert read(imported) == 80
    assert imported.only["vehicle_speed"].tolist() == pytest.approx(speeds(data), abs=0.01)
    assert imported.column("vehicle_speed")["source_units"] == ["m/s"]
    assert imported.manifest["files"][0]["lines"] == {"blank": 1, "header": 3, "preamble": 6}


def test_hp_tuners_has_sections_ids_and_units(run_import: Any) -> None:
    head = (
        "HP Tuners CSV Log File\nVersion: 1.0\n\n[Log Information]\nCreation Time: 3/5/2026 10:00:00 AM\nNotes: \n\n"
        "[Channel Information]\n0,12,13,16\nOffset,Engine RPM (SAE),Vehicle Speed (SAE),Mass Airflow (SAE)\n"
        "s,rpm,mph,lb/min\n\n[Channel Data]\n"
    )
    data = drive(100, 0.1)
    body = [f"{t:.3f},{r},{v / 1.609344:.3f},1.6932\n" for t, v, r in data]
    imported = run_import(head + "".join(body))
    assert (read(imported), imported.dropped) == (100, {})
    assert imported.only["vehicle_speed"].tolist() == pytest.approx(speeds(data), abs=0.01)
    assert imported.only["mass_air_flow"][0] == pytest.approx(1.6932 * 453.59237 / 60)
    assert imported.column("vehicle_speed")["source"] == "Vehicle Speed (SAE)"


def test_tunerstudio_has_a_row_of_units_after_the_names_and_marks_among_the_rows(run_import: Any) -> None:
    data = drive(60, 0.1)
    lines = ['"MS3 Format 0435.14P: MS3 1.3.4"', '"Capture Date: Thu Mar 05 10:00:00 GMT 2026"']
    lines += ["Time\tSecL\tRPM\tMAP\tTPS\tVSS1\tVehicle Speed", "s\tsec\tRPM\tkPa\t%\tms-1\tmph"]
    lines += [f"{t:.3f}\t{int(t)}\t{r}\t98.5\t12.0\t{v / 3.6:.4f}\t{v / 1.609344:.3f}" for t, v, r in data]
    lines.insert(30, "MARK 001 - Manual - Thu Mar 05 10:00:03 GMT 2026")
    imported = run_import("\n".join(lines))
    assert imported.only["vehicle_speed"].tolist() == pytest.approx(speeds(data), abs=0.01)
    assert imported.manifest["files"][0]["clock"]["column"] == "Time"
    assert (read(imported), imported.dropped) == (61, {"broken-line": 1})


@pytest.mark.parametrize("units", ["under", "over"])
def test_a_row_of_units_under_or_over_the_names(run_import: Any, units: str) -> None:
    rows = ["Time,Speed,RPM,Coolant", "[ms],[mph],[rpm],[°F]"]
    body = [f"{1000 * i},50,2000,212" for i in range(40)]
    imported = run_import("\n".join([*(rows if units == "under" else rows[::-1]), *body]))
    first = imported.only.iloc[1]
    assert first["vehicle_speed"] == pytest.approx(80.4672)
    assert first["engine_coolant_temp"] == pytest.approx(100.0)
    assert first["time_sec"] == 1.0
    assert read(imported) == 40


def test_vcds_names_its_clocks_in_a_line_of_their_own(run_import: Any) -> None:
    head = (
        "Thursday,05,March,2026,10:00:00\n038 906 019 GQ,R4 1.9L EDC,\n\n"
        ",,Group A:,'003,,,Group B:,'010\n,,Engine Speed,Vehicle Speed,,Air Mass,Throttle Position\n"
        ",TIME,,,TIME,,\nMarker,STAMP, /min, km/h,STAMP, g/s, %\n"
    )
    data = drive(80, 0.5)
    body = [f",{t:.2f},{r},{v},{t + 0.12:.2f},12.5,20\n" for t, v, r in data]
    imported = run_import(head + "".join(body))
    assert imported.only["vehicle_speed"].tolist() == speeds(data)
    assert imported.only["time_sec"].tolist() == [t for t, _, _ in data]
    assert (read(imported), imported.column("mass_air_flow")["source_units"]) == (80, ["g/s"])


def test_vbox_parts_its_cells_by_spaces(run_import: Any) -> None:
    head = (
        "File created on 05/03/2026 at 10:00:00\n\n[header]\nsatellites\ntime\nvelocity kmh\n\n"
        "[comments]\n(c) Racelogic\n\n[column names]\nsats time lat long velocity heading Engine_Speed\n\n[data]\n"
    )
    data = drive(150)
    body = [f"008 {clock(t, decimals=2).replace(':', '')} +03119.1 +00058.5 {v:07.3f} 090.00 {r}\n" for t, v, r in data]
    imported = run_import(head + "".join(body))
    assert imported.only["vehicle_speed"].tolist() == speeds(data)
    assert imported.only["time_sec"].iloc[-1] == 149.0


# Several tables in one file

TORQUE = "GPS Time, Device Time, Longitude, Latitude,Speed (OBD)(km/h),Engine RPM(rpm),Engine Load(%)"


def torque(data: list[tuple[float, float, int]], begin: int, more: str = "") -> list[str]:
    return [f"-,05-Mar-2026 {clock(begin + t)},-,-,{v},{r},50.0{more}" for t, v, r in data]


def test_a_header_again_with_other_columns_holds_from_there_on(run_import: Any) -> None:
    first, second = drive(60), drive(60, phase=1.0)
    other = "GPS Time, Device Time, Longitude, Latitude,Engine Coolant Temperature(°C),Engine RPM(rpm),Speed (OBD)(mph)"
    moved = [f"-,05-Mar-2026 {clock(60 + t)},-,-,90,{r},{v / 1.609344:.4f}" for t, v, r in second]
    imported = run_import("\n".join([TORQUE, *torque(first, 0), other, *moved]))
    frame = imported.only
    assert frame["vehicle_speed"].tolist() == pytest.approx([*speeds(first), *speeds(second)], abs=0.01)
    assert frame["engine_coolant_temp"].isna().tolist() == [True] * 60 + [False] * 60
    assert frame["calculated_load_value"].isna().tolist() == [False] * 60 + [True] * 60
    assert (read(imported), imported.dropped) == (121, {"repeated-header": 1})
    assert "log0.csv: line 62: the header changes; from there on the new one applies" in imported.manifest["notes"]


def test_a_header_again_with_one_more_column_keeps_its_rows(run_import: Any) -> None:
    more = f"{TORQUE},Mass Air Flow Rate(g/s)"
    lines = [TORQUE, *torque(drive(60), 0), more, *torque(drive(140), 60, ",13.9")]
    imported = run_import("\n".join(lines))
    assert (read(imported), imported.manifest["rows"]["kept"]) == (201, 200)
    assert imported.only["mass_air_flow"].notna().sum() == 140


def test_a_header_that_a_restart_wrote_behind_a_cut_line_holds_from_there_on(run_import: Any) -> None:
    first, second = drive(60), drive(60, phase=1.0)
    other = "GPS Time, Device Time, Longitude, Latitude,Engine Load(%),Speed (OBD)(mph),Engine RPM(rpm)"
    moved = [f"-,05-Mar-2026 {clock(60 + t)},-,-,50.0,{v / 1.609344:.4f},{r}" for t, v, r in second]
    cut = f"-,05-Mar-2026 {clock(60)},-,-,4"
    imported = run_import("\n".join([TORQUE, *torque(first, 0), cut + other, *moved]))
    assert imported.only["vehicle_speed"].tolist() == pytest.approx([*speeds(first), *speeds(second)], abs=0.01)
    assert set(imported.only["calculated_load_value"]) == {50.0}
    assert (read(imported), imported.dropped) == (122, {"broken-line": 1, "repeated-header": 1})


def test_a_header_that_its_rows_do_not_fit_is_refused_with_its_line(run_import: Any) -> None:
    lines = [TORQUE, *torque(drive(40), 0), TORQUE.rpartition(",")[0], *torque(drive(40), 60)]
    with pytest.raises(InputError, match="line 42: the header names 6 columns, the rows have 7"):
        run_import("\n".join(lines))


def test_a_table_of_something_else_does_not_become_readings(run_import: Any) -> None:
    data = drive(40)
    lines = ["time,speed,rpm", *[f"{t},{v},{r}" for t, v, r in data], "time,lat,lon"]
    imported = run_import("\n".join([*lines, *[f"{40 + i},52.1,13.2" for i in range(30)]]))
    assert imported.only["vehicle_speed"].tolist() == speeds(data)
    assert imported.dropped == {"no-reading": 30, "repeated-header": 1}
    assert read(imported) == 71


def test_rows_above_the_first_header_are_counted(run_import: Any) -> None:
    rows = [f"{t},{v},{r}" for t, v, r in drive(60)]
    imported = run_import("\n".join([*rows[:20], "time,speed,rpm", *rows[20:]]))
    assert (read(imported), imported.dropped) == (60, {"above-header": 20})


def test_a_better_header_further_down_does_not_hide_the_rows_above_it(run_import: Any) -> None:
    data = drive(80)
    lines = ["time,speed,note", *[f"{t},{v},x" for t, v, _ in data[:20]], "time,speed,rpm"]
    imported = run_import("\n".join([*lines, *[f"{t},{v},{r}" for t, v, r in data[20:]]]))
    assert imported.only["vehicle_speed"].tolist() == speeds(data)
    assert read(imported) == 81


def test_units_that_change_with_the_header_are_followed(run_import: Any) -> None:
    data = drive(80)
    lines = ["time,speed,rpm", "s,km/h,rpm", *[f"{t},{v},{r}" for t, v, r in data[:40]], "time,speed,rpm", "s,m/s,rpm"]
    imported = run_import("\n".join([*lines, *[f"{t},{v / 3.6:.4f},{r}" for t, v, r in data[40:]]]))
    assert imported.only["vehicle_speed"].tolist() == pytest.approx(speeds(data), abs=0.01)
    assert imported.dropped == {"repeated-header": 2}


# Clocks that go back


def test_a_board_without_a_clock_begins_every_drive_at_the_same_hour(run_import: Any) -> None:
    lines = ["timestamp,speed,rpm"]
    for speed in (20, 60, 100):
        lines += [f"2026-03-05 {clock(1 + i, 10 * 3600 + 17 * 60)},{speed},{speed * 50}" for i in range(200)]
    imported = run_import("\n".join(lines))
    assert [(len(trip), set(trip["vehicle_speed"])) for trip in imported.trips] == [
        (200, {20.0}),
        (200, {60.0}),
        (200, {100.0}),
    ]
    assert any("goes back 2 times, by up to 199 s" in note for note in imported.manifest["notes"])


def test_the_end_of_summer_time_is_a_cut(run_import: Any) -> None:
    data = drive(1800)
    local = [clock(t if t < 600 else t - 3600, 3600 + 3000, 0) for t, _, _ in data]
    rows = [f"2026-11-01 {at},{v},{r}" for at, (_, v, r) in zip(local, data, strict=True)]
    imported = run_import("\n".join(["timestamp,speed,rpm", *rows]))
    assert imported.dropped == {}
    assert sorted(len(trip) for trip in imported.trips) == [600, 1200]


@pytest.mark.parametrize("back", [1.0, 3.0, 40.0])
def test_a_clock_that_is_set_back_is_cut_and_not_shuffled(run_import: Any, back: float) -> None:
    data = drive(200, 0.5)
    rows = [f"{1.77e9 + t - (back if t >= 50 else 0):.3f},{v},{r}" for t, v, r in data]
    imported = run_import("\n".join(["timestamp,speed,rpm", *rows]))
    assert imported.dropped == {}
    assert sorted(trip["vehicle_speed"].tolist() for trip in imported.trips) == sorted(
        [speeds(data[:100]), speeds(data[100:])]
    )


@pytest.mark.parametrize("base", [0.0, 1.77e9])
def test_rows_a_little_out_of_order_are_sorted_and_told(run_import: Any, base: float) -> None:
    data = drive(600, 0.1)
    mixed = list(data)
    for i in range(4, 600, 20):
        mixed[i], mixed[i + 1] = mixed[i + 1], mixed[i]
    imported = run_import("\n".join(["time,speed,rpm", *[f"{base + t:.3f},{v},{r}" for t, v, r in mixed]]))
    assert imported.only["vehicle_speed"].tolist() == speeds(data)
    assert any("30 rows come late, by at most 0.1 s: sorted" in note for note in imported.manifest["notes"])


def test_stamps_that_run_backwards_are_refused_with_the_reason(run_import: Any) -> None:
    rows = [f"{-1000.5 - i},{40 + i % 7},1707" for i in range(100)]
    with pytest.raises(InputError, match="Time Stamp runs backwards: 99 of 99 steps go back"):
        run_import("\n".join(["Time Stamp,Speed,RPM", *rows]))


def test_a_log_with_the_newest_row_on_top_is_turned_round(run_import: Any) -> None:
    data = drive(60)
    rows = [f"2026-03-05 {clock(t)},{v},{r}" for t, v, r in data[::-1]]
    imported = run_import("\n".join(["timestamp,speed,rpm", *rows]))
    assert imported.only["vehicle_speed"].tolist() == speeds(data)


def test_one_stray_time_does_not_cut_a_drive(run_import: Any) -> None:
    data = drive(60)
    rows = [f"{1.77e9 + t if i != 30 else 3600:.1f},{v},{r}" for i, (t, v, r) in enumerate(data)]
    imported = run_import("\n".join(["timestamp,speed,rpm", *rows]))
    assert imported.only["vehicle_speed"].tolist() == speeds(data[:30]) + speeds(data[31:])
    assert imported.dropped == {"short-trip": 1}


# What a clock counts


def test_days_since_1899_are_read_as_such(run_import: Any) -> None:
    data = drive(60)
    rows = [f"{day + 0.4 + t / 86400:.9f};{v};{r}".replace(".", ",") for day in (46000, 46001) for t, v, r in data]
    imported = run_import("\n".join(["Time;Vehicle Speed (km/h);Engine RPM (rpm)", *rows]))
    assert [trip["time_sec"].tolist() for trip in imported.trips] == [[t for t, _, _ in data]] * 2
    assert imported.manifest["trips"][0]["start"] == "2025-12-09T09:36:00.000Z"


@pytest.mark.parametrize(
    ("factor", "said"),
    [(1e3, "milliseconds"), (1e6, "microseconds"), (1 / 60, "minutes"), (1 / 86400, "days")],
)
def test_a_count_from_0_is_told_by_the_pace_and_the_speed(run_import: Any, factor: float, said: str) -> None:
    data = drive(400, 0.035)
    rows = [f"{t * factor:.9f},{v},{r}" for t, v, r in data]
    imported = run_import("\n".join(["Time,Speed,RPM", *rows]))
    assert imported.only["time_sec"].tolist() == pytest.approx([t for t, _, _ in data], abs=2e-3)
    assert imported.manifest["files"][0]["clock"]["unit"] == said
    assert any(f"Time counts {said}" in note for note in imported.manifest["notes"])


@pytest.mark.parametrize("step", [0.02, 0.1, 1.0, 6.0, 30.0])
def test_seconds_stay_seconds_at_any_pace(run_import: Any, step: float) -> None:
    data = drive(100, step)
    imported = run_import("\n".join(["Time,Speed,RPM", *[f"{t},{v},{r}" for t, v, r in data]]))
    assert imported.only["time_sec"].tolist() == pytest.approx([t for t, _, _ in data])
    assert imported.manifest["notes"] == []


def test_what_stays_ambiguous_is_refused_with_both_readings(run_import: Any) -> None:
    text = "\n".join(["Time,Throttle", *[f"{30 * i},{20 + i % 3}.5" for i in range(60)]])
    with pytest.raises(InputError) as caught:
        run_import(text)
    said = caught.value.problems[0].line()
    assert "seconds (steps of 30 s) or milliseconds (steps of 0.03 s)" in said
    assert "--unit time_sec=s or --unit time_sec=ms" in said
    assert run_import(text, units=("time_sec=ms",)).only["time_sec"][1] == pytest.approx(0.03)


@pytest.mark.parametrize("factor", [1.0, 1e3, 1e6])
def test_a_count_since_1970_is_told_from_one_since_the_start(run_import: Any, factor: float) -> None:
    data = drive(60)
    rows = [f"{int((1.77e9 + t) * factor)},{v},{r}" for t, v, r in data]
    imported = run_import("\n".join(["Time,Speed,RPM", *rows]))
    assert imported.only["time_sec"].tolist() == [t for t, _, _ in data]
    assert imported.manifest["trips"][0]["start"].startswith("2026-02-02")


def test_microseconds_of_a_board_that_is_up_for_weeks_are_no_date(run_import: Any) -> None:
    data = drive(60)
    rows = [f"{int((1.7e6 + t) * 1e6)},{v},{r}" for t, v, r in data]
    imported = run_import("\n".join(["Time,Speed,RPM", *rows]))
    assert imported.only["time_sec"].tolist() == [t for t, _, _ in data]
    assert imported.manifest["trips"][0]["start"] is None


def test_hhmmss_of_a_gps_receiver_is_a_clock(run_import: Any) -> None:
    data = drive(200)
    rows = [f"{clock(t, 9 * 3600 + 58 * 60, 0).replace(':', '')},{v},{r}" for t, v, r in data]
    imported = run_import("\n".join(["Time,Speed,RPM", *rows]))
    assert imported.only["time_sec"].tolist() == [t for t, _, _ in data]


def test_hours_that_a_spreadsheet_dropped_are_noted(run_import: Any) -> None:
    rows = [f"{i // 60 % 60:02d}:{i % 60:02d}.0,{40 + i % 9},1700" for i in (*range(1800), *range(1860, 3660))]
    imported = run_import("\n".join(["Time,Speed,RPM", *rows]))
    assert len(imported.only) == 3600
    assert any("whole hours apart cannot be told apart" in note for note in imported.manifest["notes"])


@pytest.mark.parametrize(
    ("header", "factor", "unit"), [("Time (msec)", 1.0, "s"), ("Time (us)", 1.0, "s"), ("Time (s)", 1000.0, "ms")]
)
def test_a_unit_that_the_car_contradicts_is_refused_with_both_readings(
    run_import: Any, header: str, factor: float, unit: str
) -> None:
    data = drive(80, 0.5)
    rows = [f"{t * factor:g},{v},{r}" for t, v, r in data]
    with pytest.raises(
        InputError, match=rf"{re.escape(header)} says .* the car's readings say .*--unit time_sec={unit} "
    ):
        run_import("\n".join([f"{header},Speed (km/h),RPM", *rows]))
    imported = run_import("\n".join([f"{header},Speed (km/h),RPM", *rows]), units=(f"time_sec={unit}",))
    assert imported.only["time_sec"].iloc[-1] == 39.5


@pytest.mark.parametrize(
    ("zero", "scale"),
    [(62_135_596_800, 10**7), (11_644_473_600, 10**7)],
    ids=["ticks of .NET", "ticks of Windows' files"],
)
def test_ticks_of_100_ns_are_told_from_nanoseconds(run_import: Any, zero: int, scale: int) -> None:
    data = drive(120)
    rows = [f"{(1_772_704_800 + zero + int(t)) * scale},{v},{r}" for t, v, r in data]
    imported = run_import("\n".join(["Timestamp,Speed (km/h),RPM", *rows]))
    assert imported.only["time_sec"].iloc[-1] == pytest.approx(119.0)
    assert imported.manifest["trips"][0]["start"] == "2026-03-05T10:00:00.000Z"


def test_julian_days_are_read_as_such(run_import: Any) -> None:
    data = drive(120)
    rows = [f"{2_461_104.9166667 + t / 86400:.7f},{v},{r}" for t, v, r in data]
    imported = run_import("\n".join(["Time,Speed (km/h),RPM", *rows]))
    assert imported.only["time_sec"].iloc[-1] == pytest.approx(119.0, abs=0.02)


def test_a_session_time_is_taken_before_a_lap_time_that_begins_anew(run_import: Any) -> None:
    rows = [f"{t % 40:.1f},{t:.1f},{v},{r}" for t, v, r in drive(120)]
    imported = run_import("\n".join(["Lap Time,Session Time (s),Speed (km/h),RPM", *rows]))
    assert imported.only["time_sec"].iloc[-1] == 119.0


def test_a_clock_in_no_unit_of_time_is_named(run_import: Any) -> None:
    rows = [f"{i},{i},900" for i in range(40)]
    with pytest.raises(InputError, match="is in 'laps', which is no unit of time: --unit time_sec=s"):
        run_import("\n".join(["Time (laps),Speed (km/h),RPM", *rows]))


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M:%S+01", "%a %b %d %Y %H:%M:%S GMT+0100 (Central European Time)"])
def test_zones_as_databases_and_browsers_write_them(run_import: Any, form: str) -> None:
    begin = datetime(2026, 3, 5, 11, 0, 0, tzinfo=UTC)
    rows = [f"{(begin + timedelta(seconds=t)).strftime(form)},{v},{r}" for t, v, r in drive(60)]
    imported = run_import("\n".join(["Time,Speed (km/h),RPM", *rows]))
    assert imported.manifest["trips"][0]["start"] == "2026-03-05T10:00:00.000Z"
    assert imported.only["time_sec"].iloc[-1] == 59.0


def test_a_month_in_letters_leaves_no_doubt_about_the_day(run_import: Any) -> None:
    rows = [f"05-MAR-26,{clock(t)},{v},{r}" for t, v, r in drive(60)]
    imported = run_import("\n".join(["DATE,TIME,SPEED_KPH,RPM", *rows]))
    assert imported.manifest["trips"][0]["start"] == "2026-03-05T10:00:00.000Z"
    assert imported.manifest["notes"] == []


# The best candidate


def test_calculated_load_is_taken_before_absolute_load(run_import: Any) -> None:
    rows = [f"20.0,50.0,{1772704800 + t:.1f},{100 + int(t)},{v},{r}" for t, v, r in drive(200, 0.2)]
    imported = run_import("\n".join(["ABSOLUTE_LOAD,ENGINE_LOAD,timestamp,RUN_TIME,SPEED,RPM", *rows]))
    assert set(imported.only["calculated_load_value"]) == {50.0}
    assert imported.ignored() == {
        "ABSOLUTE_LOAD": "calculated_load_value is taken from ENGINE_LOAD",
        "RUN_TIME": "a clock too; timestamp is used",
    }


def test_a_stand_in_serves_where_nothing_better_is_there_and_is_noted(run_import: Any) -> None:
    rows = [f"{t},{v},{v + 1 if i < 10 else ''}" for i, (t, v, _) in enumerate(drive(100))]
    imported = run_import("\n".join(["Time,GPS Speed (km/h),Speed (OBD)(km/h)", *rows]))
    assert imported.only["vehicle_speed"].tolist() == speeds(drive(100))
    assert any("only stands in for it" in note for note in imported.manifest["notes"])


def test_a_row_of_sources_says_which_speed_is_the_cars(run_import: Any) -> None:
    data = drive(80, 0.5)
    head = "timestamp,speed,speed,rpm\nunix time,m/s,m/s,rpm\n,100: gps,200: obd,200: obd\n"
    body = [f"{1785849363 + t:.3f},{v / 4:.3f},{v / 3.6:.4f},{r}\n" for t, v, r in data]
    imported = run_import(head + "".join(body))
    assert imported.only["vehicle_speed"].tolist() == pytest.approx(speeds(data), abs=0.01)


@pytest.mark.parametrize(
    ("other", "own"),
    [
        ("Speed (m/s) *gps", "Speed (km/h) *obd"),
        ("Speed (MPH)", "Vehicle Speed (km/h) *OBD"),
        ("Speed (km/h)", "Vehicle Speed (km/h)"),
        ("SPEED_KPH", "WHEEL_SPEED_KPH"),
        ("SPEED[km/h]", "OBDSPEED[km/h]"),
        ("speed_gps_kmh", "speed_can_kmh"),
    ],
)
def test_the_speed_that_the_car_reports_is_taken_before_that_of_gps(run_import: Any, other: str, own: str) -> None:
    data = drive(60)
    rows = [f"{t},41.4,{0.2 * v:.2f},{v},{r}" for t, v, r in data]
    imported = run_import("\n".join([f"Time (s),Latitude,{other},{own},Engine RPM (rpm)", *rows]))
    assert imported.only["vehicle_speed"].tolist() == speeds(data)


def test_a_speed_of_a_wheel_is_noted(run_import: Any) -> None:
    imported = run_import("\n".join(["time,wheel_speed,rpm", *[f"{t},{v},{r}" for t, v, r in drive(60)]]))
    note = "log0.csv: vehicle_speed is taken from wheel_speed, which may be that of a wheel or of GPS"
    assert imported.manifest["notes"] == [note]


def test_a_speed_that_stays_at_0_is_passed_over_for_one_that_moves(run_import: Any) -> None:
    data = drive(60)
    rows = [f"{t},41.4,{v},0.0,{r}" for t, v, r in data]
    imported = run_import("\n".join(["Time (s),Latitude,Speed (km/h),Vehicle Speed (km/h) *OBD,RPM", *rows]))
    assert imported.only["vehicle_speed"].tolist() == speeds(data)


def test_a_row_of_units_may_name_a_single_one(run_import: Any) -> None:
    data = drive(60)
    rows = [f"{t},3,{v / 1.609344:.4f},{r},x" for t, v, r in data]
    imported = run_import("\n".join(["Time,Gear,Vehicle Speed,Engine RPM,Note", ",,mph,,", *rows]))
    assert imported.only["vehicle_speed"].tolist() == pytest.approx(speeds(data), abs=0.01)
    assert imported.dropped == {}


def test_units_of_python_obd_are_known(run_import: Any) -> None:
    rows = [
        f"{1772704800 + i},{i}.0 kilometer_per_hour,900.0 revolutions_per_minute,3.5 gram / second" for i in range(40)
    ]
    imported = run_import("\n".join(["time,SPEED,RPM,MAF", *rows]))
    assert imported.only["vehicle_speed"].tolist() == [float(i) for i in range(40)]
    assert imported.only["mass_air_flow"].tolist() == [3.5] * 40


def test_a_unit_that_nobody_knows_is_named_where_its_quantity_is_missing(run_import: Any) -> None:
    rows = [f"{i},{i * 10},900" for i in range(40)]
    imported = run_import("\n".join(["time,speed (0.1 km/h),rpm", *rows]))
    assert "vehicle_speed" not in imported.only
    note = "log0.csv: vehicle_speed is not read: '0.1 km/h' of speed (0.1 km/h) is no known unit of it "
    assert (
        f"{note}(if it is one of km/h, mph, m/s, kn, cm/s, ft/s: --unit vehicle_speed=UNIT)"
        in imported.manifest["notes"]
    )


def test_hexadecimal_cells_are_no_zeros(run_import: Any) -> None:
    rows = [f"{i},0x{i:02X},{900 + i}" for i in range(40)]
    imported = run_import("\n".join(["time,speed,rpm", *rows]), units=("vehicle_speed=km/h",))
    assert "vehicle_speed" not in imported.only
    assert "such as '0x00'" in imported.ignored()["speed"]


def test_the_clock_that_tells_most_rows_apart_is_used(run_import: Any) -> None:
    rows = []
    for i, (t, v, r) in enumerate(drive(600, 0.5)):
        gps = "-" if i < 150 else f"Thu Mar 05 {clock(min(t, 100.0) if i < 300 else t, decimals=0)} GMT 2026"
        rows.append(f"{gps},05-Mar-2026 {clock(t)},-,-,{v},{r},50.0")
    imported = run_import("\n".join([TORQUE, *rows]))
    assert len(imported.only) == 600
    assert imported.manifest["files"][0]["clock"]["column"] == "Device Time"


def test_a_date_that_can_not_be_read_is_named(run_import: Any) -> None:
    rows = [f"Thursday,{clock(t)},{v},{r}" for t, v, r in drive(40)]
    imported = run_import("\n".join(["Date,Time,Speed,RPM", *rows]))
    assert any("Date holds no dates that can be read, such as 'Thursday'" in n for n in imported.manifest["notes"])


# Sparse and coarse rows


def test_one_value_a_row_is_held_forward_with_a_stated_limit(run_import: Any) -> None:
    data = drive(400, 0.25)
    rows = []
    for i, (t, v, r) in enumerate(data):
        cells = [str(v), str(r), "13.06", "51.2"]
        rows.append(f"{t:.2f}," + ",".join(cell if number == i % 4 else "" for number, cell in enumerate(cells)))
    header = "Time (sec),Vehicle Speed (km/h),Engine RPM (rpm),MAF (g/s),Engine Load (%)"
    imported = run_import("\n".join([header, *rows]))
    frame = imported.only
    assert frame["vehicle_speed"].tolist() == [data[i - i % 4][1] for i in range(400)]
    assert frame.iloc[3:].notna().all(axis=None)
    assert imported.column("vehicle_speed")["held_forward"] == {"age_limit_seconds": 3.0, "cells": 300}
    assert imported.manifest["trainable"] is True
    assert imported.manifest["training"]["clients"][0]["train_windows"] > 250


def test_a_value_is_not_held_longer_than_its_limit(run_import: Any) -> None:
    rows = [f"{i / 10:.1f},{40 + i % 5},{1500 if i % 10 == 0 and not 200 <= i < 300 else ''}" for i in range(600)]
    frame = run_import("\n".join(["Time,Speed,RPM", *rows])).only
    assert frame["engine_rpm"][:190].notna().all()
    assert frame["engine_rpm"][225:300].isna().all()


def test_rows_of_one_second_are_spread_over_it(run_import: Any) -> None:
    data = drive(400, 0.25)
    rows = [f"{int(t)}.000000, {r}, {v}, 17.6, 50.0," for t, v, r in data]
    header = "ENGINE_RUN_TIME (),ENGINE_RPM (),VEHICLE_SPEED (),THROTTLE (),ENGINE_LOAD ()"
    imported = run_import("\n".join([header, *rows]))
    assert imported.only["time_sec"].tolist() == [t for t, _, _ in data]
    assert imported.only["vehicle_speed"].tolist() == speeds(data)
    assert imported.manifest["files"][0]["rows_spread"] == 300
    assert any("spread evenly over their second" in note for note in imported.manifest["notes"])


# What can be trained on


def test_a_clock_that_stands_until_gps_has_a_fix_is_not_spread_over_its_second(run_import: Any) -> None:
    data = drive(120)
    rows = [f"{'00:00:00' if t < 40 else clock(t, decimals=0)},{v},{r}" for t, v, r in data]
    imported = run_import("\n".join(["UTC,Speed (km/h),RPM", *rows]))
    assert imported.only["vehicle_speed"].tolist() == speeds(data)[40:]
    assert imported.dropped == {"duplicate-time": 39, "short-trip": 1}


def test_hours_minutes_and_seconds_with_letters(run_import: Any) -> None:
    rows = [f"0h {int(t) // 60:02d}m {int(t) % 60:02d}s,{v},{r}" for t, v, r in drive(90)]
    imported = run_import("\n".join(["Time,Speed (km/h),RPM", *rows]))
    assert imported.only["time_sec"].iloc[-1] == 89.0


def test_names_of_the_kit_data_set_are_known_and_what_is_missing_is_said(run_import: Any) -> None:
    header = (
        "Time,Engine Coolant Temperature [°C],Intake Manifold Absolute Pressure [kPa],Engine RPM [RPM],"
        "Vehicle Speed Sensor [km/h],Air Flow Rate from Mass Flow Sensor [g/s],Absolute Throttle Position [%]"
    )
    rows = [f"{clock(t)},85,98,{r},{v},12.8,50.0" for t, v, r in drive(60)]
    imported = run_import("\n".join([header, *rows]))
    assert list(imported.only) == [
        *("time_sec", "vehicle_speed", "engine_rpm", "mass_air_flow", "absolute_throttle_pos"),
        *("intake_manifold_pressure", "engine_coolant_temp"),
    ]
    assert imported.manifest["trainable"] is False
    assert imported.manifest["training"]["missing"] == ["calculated_load_value"]
    assert imported.manifest["training"]["clients"][0]["code"] == "column-missing"
    assert "no car can train on this" in imported.manifest["warnings"][0]
    assert "--set feature-columns=engine_rpm,mass_air_flow" in imported.manifest["warnings"][1]


def test_few_rows_can_not_be_trained_on_and_much_loss_is_told(run_import: Any) -> None:
    rows = [f"{i // 4}.5,50,1500,10,40" for i in range(100)]
    imported = run_import("\n".join(["Time,Speed,RPM,MAF,Load", *rows]))
    assert imported.manifest["training"]["clients"][0]["code"] == "windows-too-few"
    assert any("75 of 100 rows (75%) were merged" in line for line in imported.manifest["warnings"])


# J1939, ends of ranges, messages


def test_j1939_not_available_is_no_reading(run_import: Any) -> None:
    rows = [f"{i},255,8191.875,255" if i % 3 == 0 else f"{i},{v},{r},51.6" for i, (_, v, r) in enumerate(drive(100))]
    imported = run_import("\n".join(["time,speed,rpm,engine load", *rows]))
    assert imported.dropped == {"no-reading": 34}
    assert imported.column("vehicle_speed")["not_available"] == 34
    assert imported.only["vehicle_speed"].max() < 100
    assert sum("not available" in note for note in imported.manifest["notes"]) == 3


@pytest.mark.parametrize(
    ("speed", "rpm", "load"),
    [
        ("255.996", "8191.875", "255"),
        ("255.99609375", "8191.88", "254"),
        ("256.0", "8191.9", "254"),
        ("256", "8192", "255"),
    ],
)
def test_j1939_not_available_is_no_reading_however_it_is_rounded(
    run_import: Any, speed: str, rpm: str, load: str
) -> None:
    header = "Time (s),Wheel-Based Vehicle Speed (km/h),Engine Speed (rpm),Engine Percent Load At Current Speed (%)"
    rows = [
        f"{i},{speed},{rpm},{load}" if i % 3 == 0 else f"{i},{v},{r},51.6" for i, (_, v, r) in enumerate(drive(100))
    ]
    imported = run_import("\n".join([header, *rows]))
    assert imported.dropped == {"no-reading": 34}
    for name in ("vehicle_speed", "engine_rpm", "calculated_load_value"):
        assert imported.column(name)["not_available"] == 34
    assert imported.only["engine_rpm"].max() < 8000


def test_8192_rpm_and_254_percent_are_readings_where_no_other_column_is_without_one(run_import: Any) -> None:
    rows = [f"{t},{v},{8192 if i == 50 else r},{254 if i == 60 else 51.6}" for i, (t, v, r) in enumerate(drive(100))]
    imported = run_import("\n".join(["time,speed,rpm,engine load", *rows]))
    assert imported.only["engine_rpm"].max() == 8192
    assert imported.only["calculated_load_value"].max() == 254


def test_a_unit_that_a_later_header_does_not_repeat_is_not_taken_for_granted(run_import: Any) -> None:
    rows = [f"{t},{v / 1.609344:.3f},{r}" for t, v, r in drive(100)]
    text = "\n".join(["time_sec,Speed (mph),RPM (rpm)", *rows[:50], "time_sec,Speed,RPM", *rows[50:]])
    with pytest.raises(InputError) as caught:
        run_import(text)
    (problem,) = caught.value.problems
    assert problem.line().endswith(
        "Speed: has no unit under one header of the file, and mph under another "
        '(--unit "vehicle_speed=mph" says that it is the same)'
    )
    told = run_import(text, units=("vehicle_speed=mph",))
    assert told.only["vehicle_speed"].tolist() == pytest.approx(speeds(drive(100)), abs=0.01)


def test_a_percentage_that_is_never_above_one_is_noted_and_can_be_read_as_a_share(run_import: Any) -> None:
    rows = [f"{t},{v},{r},{v / 200:.3f},0.2" for t, v, r in drive(100)]
    text = "\n".join(["time,speed,rpm,engine load,throttle", *rows])
    noted = run_import(text)
    assert [note for note in noted.manifest["notes"] if "shares of 1" in note] == [
        "log0.csv: calculated_load_value: no value is above 0.35 %, as if they were shares of 1: "
        "--unit calculated_load_value=share says so"
    ]


def test_a_percentage_can_be_read_as_a_share(run_import: Any) -> None:
    text = "\n".join(["time,speed,rpm,engine load", *[f"{t},{v},{r},{v / 200:.3f}" for t, v, r in drive(100)]])
    told = run_import(text, units=("calculated_load_value=share",))
    assert told.only["calculated_load_value"].tolist() == pytest.approx([v / 2 for _, v, _ in drive(100)], abs=0.06)
    assert not any("shares of 1" in note for note in told.manifest["notes"])


def test_empty_cells_that_are_filled_with_0_are_noted_and_no_evidence_for_minutes(run_import: Any) -> None:
    cells = [(v, r, 20.0, 15.0) for _, v, r in drive(400, 0.25)]
    rows = [
        ",".join([f"{i * 0.25}", *(str(cell) if place == i % 4 else "0" for place, cell in enumerate(row))])
        for i, row in enumerate(cells)
    ]
    imported = run_import("\n".join(["time,speed,rpm,maf,engine load", *rows]))
    assert imported.only["time_sec"].tolist()[:3] == [0.0, 0.25, 0.5]
    assert any("are cells without a reading filled with 0?" in note for note in imported.manifest["notes"])


def test_values_at_the_very_end_of_a_range_are_noted(run_import: Any) -> None:
    rows = [f"{t},{v},{r},-40" for t, v, r in drive(100)]
    imported = run_import("\n".join(["time,speed,rpm,coolant temp", *rows]))
    assert any("100 of 100 values are -40 degC" in note for note in imported.manifest["notes"])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([f"{10 - i % 10},{i % 50},900" for i in range(100)], "runs backwards: 90 of 99"),
        ([f"{i * 400}.5,{i % 50},900" for i in range(50)], "49 times nothing comes for more than 300 s"),
        ([f"{i % 10}.5,{i % 50},900" for i in range(100)], "the clock goes back 9 times"),
    ],
)
def test_no_trip_left_names_what_cut_the_trips(run_import: Any, rows: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        run_import("\n".join(["time_sec,speed,rpm", *rows]), minimum_rows=30)
    assert said in caught.value.problems[0].line()


# Others of the same kinds


def test_one_header_in_two_pieces_keeps_its_units(run_import: Any) -> None:
    names = '"Time","GPS Speed","RPM"'
    head = ['"Format","AiM CSV File"', '"Vehicle","Golf"', "", names, '"s","mph","rpm"', "", names]
    data = drive(60, 0.05)
    imported = run_import("\n".join([*head, *[f'"{t}","{v / 1.609344:.4f}","{r}"' for t, v, r in data]]))
    assert imported.only["vehicle_speed"].tolist() == pytest.approx(speeds(data), abs=0.01)


def test_rows_with_another_delimiter_are_counted(run_import: Any) -> None:
    rows = [f"{t},{v},{r}" for t, v, r in drive(80)]
    text = ["time,speed,rpm", *rows[:40], "time;speed;rpm", *[row.replace(",", ";") for row in rows[40:]]]
    imported = run_import("\n".join(text))
    assert (read(imported), imported.dropped) == (81, {"broken-line": 41})
    assert any("41 of 81 rows (51%) were left out" in line for line in imported.manifest["warnings"])


def test_names_that_an_app_marks_with_their_source_are_known(run_import: Any) -> None:
    header = '"Time","UTC Time","MPH","Engine Speed (RPM) *OBD","Vehicle Speed (km/h) *OBD"'
    rows = [f"{t},{1772704800 + t:.3f},{v / 1.6:.1f},{r},{v}" for t, v, r in drive(60, 0.5)]
    imported = run_import("\n".join(["# RaceRender Data: TrackAddict 4.6.0", header, *rows]))
    assert imported.only["vehicle_speed"].tolist() == speeds(drive(60, 0.5))
    assert imported.ignored()["MPH"] == "vehicle_speed is taken from Vehicle Speed (km/h) *OBD"


@pytest.mark.parametrize("half", ["a. m.", "a.m.", "AM", "am", "a.\u202fm."])
def test_each_spelling_of_the_morning(run_import: Any, half: str) -> None:
    rows = [f"05/03/26;{clock(t, 9 * 3600, 0)} {half};{v};{r}" for t, v, r in drive(60)]
    imported = run_import("\n".join(["Fecha;Hora;Velocidad (km/h);RPM", *rows]))
    assert imported.only["time_sec"].tolist() == [t for t, _, _ in drive(60)]
    month = "05" if half.lower() == "am" else "03"
    assert imported.manifest["trips"][0]["start"] == f"2026-{month}-{'03' if month == '05' else '05'}T09:00:00.000Z"


@pytest.mark.parametrize(
    "form", ["{0}.{1}.{2}", "{0}:{1}:{2}:250", "{0}:{1}:{2},250", "{0}:{1}:{2}.250", "{0}-{1}-{2}"]
)
def test_points_and_colons_in_times(run_import: Any, form: str) -> None:
    rows = [f"{form.format(*clock(t, decimals=0).split(':'))};{v};{r}" for t, v, r in drive(60)]
    imported = run_import("\n".join(["Uhrzeit;Geschwindigkeit (km/h);Drehzahl (U/min)", *rows]))
    assert imported.only["time_sec"].tolist() == [t for t, _, _ in drive(60)]


def test_a_clock_that_starts_in_1970_and_is_then_set_gives_two_trips(run_import: Any) -> None:
    rows = [f"{(12 if t < 40 else 1772704800) + t},{v},{r}" for t, v, r in drive(80)]
    imported = run_import("\n".join(["timestamp,speed,rpm", *rows]))
    assert [len(trip) for trip in imported.trips] == [40, 40]


def test_sections_that_come_again_bring_their_own_ids_and_units(run_import: Any) -> None:
    data = drive(60)
    lines: list[str] = []
    for unit, factor in (("mph", 1.609344), ("km/h", 1.0)):
        lines += ["HP Tuners CSV Log File", "", "[Channel Information]", "0,12,13"]
        lines += ["Offset,Engine RPM (SAE),Vehicle Speed (SAE)", f"s,rpm,{unit}", "", "[Channel Data]"]
        lines += [f"{t},{r},{v / factor:.4f}" for t, v, r in data]
    imported = run_import("\n".join(lines))
    for trip in imported.trips:
        assert trip["vehicle_speed"].tolist() == pytest.approx(speeds(data), abs=0.01)
    assert len(imported.trips) == 2
    assert imported.dropped == {"broken-line": 2, "repeated-header": 4}


def test_a_drive_that_is_in_the_file_twice_is_noted(run_import: Any) -> None:
    rows = [f"2026-03-05 {clock(t)},{v},{r}" for t, v, r in drive(60)]
    imported = run_import("\n".join(["timestamp,speed,rpm", *rows, *rows]))
    assert "1 trips hold the readings of another one: are drives in the files twice?" in imported.manifest["notes"]


def test_a_clock_proves_the_decimal_mark_that_three_decimals_leave_open(run_import: Any) -> None:
    data = drive(60)
    rows = [f"{t:.1f}\t{v + 0.001:.3f}\t{r}" for t, v, r in data]
    imported = run_import("\n".join(["Time\tSpeed\tRPM", *rows]))
    assert imported.only["vehicle_speed"].tolist() == pytest.approx(speeds(data), abs=0.01)
    assert imported.manifest["notes"] == []


def test_a_guessed_decimal_mark_is_the_one_that_a_car_can_have(run_import: Any) -> None:
    rows = [f"{i};{40 + i % 9}.125;900" for i in range(60)]
    imported = run_import("\n".join(["Time;Speed;RPM", *rows]))
    assert imported.only["vehicle_speed"][0] == 40.125


@pytest.mark.parametrize(
    ("head", "row"),
    [
        pytest.param("Time(ms);VSS(KPH);RPM(1/min)", "{ms};{kmh};{rpm}", id="FORScan"),
        pytest.param(
            "Firmware,Fuel_trims,Map\n1,2,3\nF30,B58,X\ntimestamp,rpm,pedal,mph", "{s},{rpm},30,{mph}", id="JB4"
        ),
        pytest.param(
            "#Encoding: UTF-8\n#VIN: WBA\nTime,Boost (Bar),MAF (kg/h),RPM (rpm),Speed (km/h),x.bin",
            "{s},-0.4,40,{rpm},{kmh},",
            id="MHD",
        ),
        pytest.param(
            "Time (msec),Engine Speed (rpm),Vehicle Speed (mph),Engine Load (Calculated) (g/rev)",
            "{ms},{rpm},{mph},0.9",
            id="RomRaider",
        ),
        pytest.param(
            "Time (sec),Calculated Load (g/rev),Engine Speed (RPM),Vehicle Speed (mph),AP Info:[AP3-SUB-004 v1.7]",
            "{s},0.9,{rpm},{mph},",
            id="Accessport",
        ),
        pytest.param("Time (s),Engine Speed (RPM),Vehicle Speed (MPH)", "{s},{rpm},{mph}", id="AEM"),
        pytest.param("TIME;Vehicle speed[km/h];RPM[rpm]", "{s};{kmh};{rpm}", id="ECUMaster"),
        pytest.param(
            "Frame Number,Elapsed Time (s),SAE.VSS Vehicle Speed (km/h),SAE.RPM Engine RPM (rpm)",
            "7,{s},{kmh},{rpm}",
            id="DashCommand",
        ),
        pytest.param('"ScanXL"\n"Time (s)","SAE.VSS (mph)","SAE.RPM (rpm)"', '"{s}","{mph}","{rpm}"', id="ScanXL"),
        pytest.param("Frame,Time,GM.RPM,SAE.VSS\n,ms,rpm,km/h", "7,{ms},{rpm},{kmh}", id="EFILive"),
        pytest.param(
            "timestamps,CAN1.WheelBasedVehicleSpeed,S1_PID_0C_EngineRPM", "{epoch},{kmh},{rpm}", id="asammdf"
        ),
        pytest.param(
            "RaceBox CSV\nDate UTC,2026-03-05\nRecord,Time,Latitude,Speed,RPM", "7,{iso},42.6,{kmh},{rpm}", id="RaceBox"
        ),
        pytest.param("cts,date,Lat [deg],GPS (2D speed) [m/s],RPM", "{ms}.5,{iso},42.6,{ms_1},{rpm}", id="GoPro"),
    ],
)  # fmt: skip
def test_headers_of_loggers(run_import: Any, head: str, row: str) -> None:
    data = drive(80, 0.5)
    lines = [
        row.format(
            s=t, ms=int(1000 * t), epoch=1_772_704_800 + t, iso=f"2026-03-05T{clock(t)}Z", kmh=v, rpm=r,
            mph=f"{v / 1.609344:.5f}", ms_1=f"{v / 3.6:.5f}",
        )
        for t, v, r in data
    ]  # fmt: skip
    imported = run_import("\n".join([head, *lines]))
    frame = imported.only
    assert frame["time_sec"].tolist() == pytest.approx([t for t, _, _ in data])
    assert frame["vehicle_speed"].tolist() == pytest.approx(speeds(data), abs=0.01)
    assert frame["engine_rpm"].tolist() == [r for _, _, r in data]
    assert "calculated_load_value" not in frame
