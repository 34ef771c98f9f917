"""The import of every kind of dirty log, from text to trips, with an account of each row."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleven.data.errors import ErrorCode, InputError, OutputExistsError
from fleven.data.synthetic.synthesis import synthesise

HEADER = ["time_sec", "vehicle_speed", "engine_rpm"]


def rows(count: int, start: float = 0.0, step: float = 1.0) -> list[list[object]]:
    return [[start + step * i, 30 + i % 7, 1500 + i] for i in range(count)]


def lines(error: pytest.ExceptionInfo[InputError]) -> list[str]:
    return [problem.line() for problem in error.value.problems]


def balanced(imported: Any) -> bool:
    """Every row read is kept or named in one reason, in all and in each file."""
    total = imported.manifest["rows"]
    files = imported.manifest["files"]
    kept = sum(len(trip) for trip in imported.trips)
    return (
        total["read"] == total["kept"] + sum(total["dropped"].values())
        and total["kept"] == kept == sum(entry["rows_kept"] for entry in files)
        and all(entry["rows_read"] == entry["rows_kept"] + sum(entry["rows_dropped"].values()) for entry in files)
    )


# Layout of the text


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("decimal", [",", "."])
def test_each_delimiter_with_each_decimal_mark(run_import: Any, delimiter: str, decimal: str) -> None:
    cells = [[f"{i}{decimal}5", f"{30 + i}{decimal}25", f"{1500 + i}"] for i in range(5)]
    if decimal == delimiter:
        cells = [[f'"{cell}"' for cell in row] for row in cells]
    text = "\n".join(delimiter.join(row) for row in [HEADER, *cells])
    imported = run_import(text)
    assert imported.only["vehicle_speed"].tolist() == [30.25, 31.25, 32.25, 33.25, 34.25]
    assert imported.only["time_sec"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert balanced(imported)


def test_points_that_group_thousands_beside_decimal_commas(run_import: Any) -> None:
    text = "time_sec;MAF;RPM\n0;10,5;1.850\n1;11,5;900\n2;12,5;2.100\n"
    imported = run_import(text)
    assert imported.only["engine_rpm"].tolist() == [1850.0, 900.0, 2100.0]
    assert imported.column("engine_rpm")["decimal"] == ","


def test_commas_that_group_thousands_beside_decimal_points(run_import: Any) -> None:
    imported = run_import('time_sec,MAF,RPM\n0,10.5,"1,850"\n1,11.5,900\n2,12.5,"2,100"\n')
    assert imported.only["engine_rpm"].tolist() == [1850.0, 900.0, 2100.0]


def test_a_column_with_its_own_decimal_mark_is_read_by_it(run_import: Any) -> None:
    imported = run_import("time_sec;MAF;load;fuel_rate\n0;1,5;40,5;46.02\n1;2,5;41,5;45.03\n")
    assert imported.only["fuel_rate"].tolist() == [46.02, 45.03]
    assert imported.only["mass_air_flow"].tolist() == [1.5, 2.5]


def test_a_guessed_decimal_mark_is_noted_and_can_be_overruled(run_import: Any) -> None:
    text = "time_sec;RPM\n0;1,850\n1;2,100\n"
    guessed = run_import(text)
    assert guessed.only["engine_rpm"].tolist() == [1.85, 2.1]
    assert "--decimal" in guessed.manifest["notes"][0]
    told = run_import(text, decimal=".", force=True)
    assert told.only["engine_rpm"].tolist() == [1850.0, 2100.0]
    assert told.manifest["notes"] == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_each_encoding(run_import: Any, encoding: str) -> None:
    text = "time_sec;Coolant Temp;speed\n0;80 °C;1\n1;81 °C;2\n"
    assert run_import(text.encode(encoding)).only["engine_coolant_temp"].tolist() == [80.0, 81.0]


def test_a_gzipped_log(run_import: Any, log: Any, tmp_path: Path) -> None:
    path = tmp_path / "drive.csv.gz"
    path.write_bytes(gzip.compress(log(HEADER, rows(5)).encode()))
    assert len(run_import(path).only) == 5


def test_a_last_line_cut_by_a_power_loss_is_left_out(run_import: Any, log: Any) -> None:
    imported = run_import(log(HEADER, rows(5)) + "5.0,3" + "\0" * 100)
    assert imported.dropped == {"broken-line": 1}
    assert "zero bytes" in imported.manifest["notes"][0]
    assert balanced(imported)


def test_a_header_that_the_logger_wrote_again_is_left_out(run_import: Any, log: Any) -> None:
    text = log(HEADER, rows(5)) + log(HEADER, rows(5, start=5))
    imported = run_import(text)
    assert imported.dropped == {"repeated-header": 1}
    assert len(imported.only) == 10


# Cells


def test_units_inside_cells_and_in_headers(run_import: Any) -> None:
    text = "Time(ms),Speed (OBD)(mph),Engine RPM[RPM],MAF\n0,10,2124RPM,24.77g/s\n1000,20,2125RPM,25 g/sec\n"
    frame = run_import(text).only
    assert frame["vehicle_speed"].tolist() == pytest.approx([16.09344, 32.18688])
    assert frame["engine_rpm"].tolist() == [2124.0, 2125.0]
    assert frame["mass_air_flow"].tolist() == [24.77, 25.0]
    assert frame["time_sec"].tolist() == [0.0, 1.0]


def test_missing_cells_stay_missing_and_the_row_stays(run_import: Any) -> None:
    imported = run_import("time_sec,speed,rpm\n0,10,800\n1,,900\n2,30,\n3,40,NO DATA\n")
    frame = imported.only
    assert np.isnan(frame["vehicle_speed"][1])
    assert frame["engine_rpm"].notna().tolist() == [True, True, False, False]
    assert (imported.column("vehicle_speed")["missing"], imported.column("engine_rpm")["missing"]) == (1, 2)
    assert imported.dropped == {}


def test_a_row_without_any_reading_is_left_out(run_import: Any) -> None:
    imported = run_import("time_sec,speed,rpm\n0,10,800\n1,,\n2,30,900\n")
    assert imported.dropped == {"no-reading": 1}
    assert imported.only["time_sec"].tolist() == [0.0, 2.0]


def test_an_empty_column_is_named(run_import: Any) -> None:
    imported = run_import("time_sec,speed,rpm,fuel_rate,note\n0,10,800,,\n1,20,900,,\n")
    assert imported.ignored() == {"fuel_rate": "empty", "note": "empty"}
    assert "fuel_rate" not in imported.only


@pytest.mark.parametrize(("cell", "name"), [("300", "vehicle_speed"), ("-1", "vehicle_speed"), ("20000", "engine_rpm")])
def test_a_value_that_can_not_be_is_emptied_and_counted(run_import: Any, cell: str, name: str) -> None:
    alias = {"vehicle_speed": "speed", "engine_rpm": "rpm"}[name]
    text = f"time_sec,{alias},MAF\n0,10,1\n1,{cell},2\n2,30,3\n"
    imported = run_import(text)
    assert np.isnan(imported.only[name][1])
    assert (imported.column(name)["out_of_range"], imported.column(name)["values"]) == (1, 2)
    assert imported.dropped == {}


def test_a_column_that_holds_no_numbers_is_left_out(run_import: Any) -> None:
    imported = run_import("time_sec,speed,load\n0,10,low\n1,20,high\n2,30,low\n")
    assert "cells are not numbers, such as 'low'" in imported.ignored()["load"]


def test_a_unit_that_does_not_fit_a_main_column_is_the_operators_to_settle(run_import: Any) -> None:
    text = "time_sec,speed,rpm\n0,10 Mach,800\n1,20 Mach,900\n"
    with pytest.raises(InputError) as caught:
        run_import(text)
    assert lines(caught) == [
        'log0.csv: speed: unit Mach does not fit vehicle_speed [km/h] (--unit "vehicle_speed=km/h" says what it is)'
    ]


def test_a_told_unit_settles_it(run_import: Any) -> None:
    imported = run_import("time_sec,speed\n0,10\n1,20\n", units=("vehicle_speed=m/s",))
    assert imported.only["vehicle_speed"].tolist() == [36.0, 72.0]


# Columns


def test_other_names_are_known_and_new_ones_can_be_told(run_import: Any) -> None:
    text = "Engine run-time,Motor U/min,VEHICLE SPEED,Ölwert\n0,800,10,5\n1,900,20,6\n"
    imported = run_import(text, maps=("Motor U/min=engine_rpm", "Engine run-time=time_sec", "ölwert=oil"))
    assert list(imported.only) == ["time_sec", "vehicle_speed", "engine_rpm", "oil"]
    assert imported.manifest["units"]["oil"] == ""


def test_a_told_column_wins_over_a_known_one(run_import: Any) -> None:
    imported = run_import("time_sec,speed,GPS\n0,10,11\n1,20,21\n", maps=("GPS=vehicle_speed",))
    assert imported.only["vehicle_speed"].tolist() == [11.0, 21.0]
    assert imported.ignored() == {"speed": "vehicle_speed is taken from GPS"}


def test_a_full_column_serves_where_a_better_name_is_empty(run_import: Any) -> None:
    imported = run_import("time_sec,vehicle_speed,speed\n0,,10\n1,,20\n")
    assert imported.only["vehicle_speed"].tolist() == [10.0, 20.0]
    assert imported.ignored() == {"vehicle_speed": "empty"}


def test_a_mapping_that_no_file_has_is_a_typing_error(run_import: Any, log: Any) -> None:
    with pytest.raises(InputError) as caught:
        run_import(log(["time_sec", "speed", "Motor"], rows(3)), maps=("Moter=engine_rpm",))
    assert lines(caught) == ["--map: moter: no file has this column (did you mean motor?)"]


@pytest.mark.parametrize(
    ("maps", "units", "said"),
    [
        (("nonsense",), (), "--map: nonsense: is not understood"),
        (("a=b c",), (), "--map: a=b c: is not understood"),
        ((), ("speed",), "--unit: speed: is not understood"),
        ((), ("vehicle_speed=kg",), "--unit: vehicle_speed: kg cannot be turned into km/h (known: "),
    ],
)
def test_wrong_rules_are_refused(run_import: Any, maps: tuple[str, ...], units: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError) as caught:
        run_import("time_sec,speed\n0,1\n1,2\n", maps=maps, units=units)
    assert lines(caught)[0].startswith(said)


# Vehicles and clients


def test_each_vehicle_becomes_a_client_in_natural_order(run_import: Any, log: Any) -> None:
    data = [[f"s{n}", *row] for n in (11, 2, 1) for row in rows(4)]
    imported = run_import(log(["VEHICLE_ID", *HEADER], data))
    assert [(each["vehicle"], each["client"]) for each in imported.manifest["vehicles"]] == [
        ("s1", 0),
        ("s2", 1),
        ("s11", 2),
    ]
    assert sorted(path.name for path in imported.folder.iterdir()) == [
        "client_0",
        "client_1",
        "client_2",
        "manifest.json",
    ]


def test_vehicles_that_take_turns_keep_their_own_rows(run_import: Any, log: Any) -> None:
    data = [[name, i, speed, 900] for i in range(6) for name, speed in (("a", 10 + i), ("b", 50 + i))]
    imported = run_import(log(["car", *HEADER], data))
    assert [trip["vehicle_speed"].tolist() for trip in imported.trips] == [
        [10.0, 11.0, 12.0, 13.0, 14.0, 15.0],
        [50.0, 51.0, 52.0, 53.0, 54.0, 55.0],
    ]


def test_without_a_vehicle_column_there_is_one_client(run_import: Any, log: Any) -> None:
    assert len(run_import(log(HEADER, rows(4))).manifest["clients"]) == 1


def test_by_names_the_vehicle_column(run_import: Any, log: Any) -> None:
    data = [["x", name, *row] for name in ("d1", "d2") for row in rows(4)]
    imported = run_import(log(["VEHICLE_ID", "Driver", *HEADER], data), by="driver")
    assert [each["vehicle"] for each in imported.manifest["vehicles"]] == ["d1", "d2"]


def test_an_unknown_vehicle_column_names_the_nearest(run_import: Any, log: Any) -> None:
    with pytest.raises(InputError) as caught:
        run_import(log(["VEHICLE_ID", *HEADER], [["a", *row] for row in rows(4)]), by="VEHICEL_ID")
    assert lines(caught) == ["log0.csv: VEHICEL_ID: no such column for --by (did you mean VEHICLE_ID?)"]


def test_rows_without_a_vehicle_are_left_out(run_import: Any, log: Any) -> None:
    data = [["a" if i != 2 else "", *row] for i, row in enumerate(rows(6))]
    imported = run_import(log(["car", *HEADER], data))
    assert imported.dropped == {"no-vehicle": 1}


def test_vehicles_are_dealt_evenly_and_always_alike(run_import: Any, log: Any) -> None:
    sizes = {"a": 9, "b": 8, "c": 5, "d": 4, "e": 3}
    data = [[name, *row] for name, size in sizes.items() for row in rows(size)]
    text = log(["car", *HEADER], data)
    first = run_import(text, clients=3)
    assert [each["vehicles"] for each in first.manifest["clients"]] == [["a"], ["b", "e"], ["c", "d"]]
    assert run_import(text, clients=3, force=True).manifest == first.manifest


def test_more_clients_than_vehicles_are_refused_with_a_way_out(run_import: Any, log: Any) -> None:
    text = log(HEADER, rows(5) + rows(5) + rows(5))
    with pytest.raises(InputError) as caught:
        run_import(text, clients=3)
    assert lines(caught) == ["--clients: 3: the logs hold only 1 vehicles (--by trip splits trips instead of vehicles)"]
    imported = run_import(text, clients=3, by="trip")
    assert [each["vehicles"] for each in imported.manifest["clients"]] == [
        ["vehicle-trip-1"],
        ["vehicle-trip-2"],
        ["vehicle-trip-3"],
    ]


def test_files_and_folders_can_tell_vehicles_apart(run_import: Any, log: Any, tmp_path: Path) -> None:
    for folder in ("red", "blue"):
        (tmp_path / "logs" / folder).mkdir(parents=True)
        for name in ("one", "two"):
            (tmp_path / "logs" / folder / f"{name}.csv").write_text(log(HEADER, rows(4)))
    by_file = run_import(tmp_path / "logs", by="file")
    assert [each["vehicle"] for each in by_file.manifest["vehicles"]] == ["blue/one", "blue/two", "red/one", "red/two"]
    by_folder = run_import(tmp_path / "logs", by="folder", force=True)
    assert [each["vehicle"] for each in by_folder.manifest["vehicles"]] == ["blue", "red"]
    assert [each["trips"] for each in by_folder.manifest["vehicles"]] == [2, 2]


@pytest.mark.parametrize(
    ("files", "by_file", "by_folder"),
    [
        (("car1/trip.csv", "car2/trip.csv"), ["car1/trip", "car2/trip"], ["car1", "car2"]),
        (("car1/logs/a.csv", "car2/logs/a.csv"), ["car1/logs/a", "car2/logs/a"], ["car1/logs", "car2/logs"]),
        (("car1/logs/a.csv", "car2/logs/b.csv"), ["a", "b"], ["car1/logs", "car2/logs"]),
        (("car1/a.csv", "car2/a.txt"), ["a.csv", "a.txt"], ["car1", "car2"]),
        (("car1/a.csv", "car1/a.txt"), ["a.csv", "a.txt"], ["car1"]),
    ],
)
@pytest.mark.parametrize("as_folders", [False, True])
def test_files_and_folders_of_one_name_stay_apart(
    run_import: Any, log: Any, tmp_path: Path, files: tuple[str, ...], by_file: Any, by_folder: Any, as_folders: bool
) -> None:
    for number, name in enumerate(files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(log(HEADER, rows(4 + number)))
    paths = [tmp_path / name for name in files]
    if as_folders:
        paths = list(dict.fromkeys(path.parent for path in paths))
    for by, vehicles in (("file", by_file), ("folder", by_folder)):
        imported = run_import(*paths, by=by, force=True)
        assert [each["vehicle"] for each in imported.manifest["vehicles"]] == vehicles
        assert len({entry["name"] for entry in imported.manifest["files"]}) == len(files)
        assert len({trip["file"] for trip in imported.manifest["trips"]}) == len(files)


def test_a_file_that_is_named_twice_is_read_once(run_import: Any, log: Any, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "a.csv"
    path.write_text(log(HEADER, rows(4)))
    (tmp_path / "logs" / "link.csv").symlink_to(path)
    imported = run_import(path, tmp_path / "logs", tmp_path / "logs" / ".." / "logs" / "a.csv")
    assert [entry["name"] for entry in imported.manifest["files"]] == ["a.csv"]
    assert len(imported.manifest["trips"]) == 1
    path.write_text("nothing,of,use\n1,2,3\n")
    with pytest.raises(InputError):  # it was named, so it must be usable, though a folder holds it too
        run_import(tmp_path / "logs", path, force=True)


def test_vehicles_with_like_names_do_not_overwrite_each_other(run_import: Any, log: Any) -> None:
    data = [[name, *row] for name in ("a b", "a-b", "../a b") for row in rows(4)]
    imported = run_import(log(["car", *HEADER], data), clients=1)
    files = [trip["file"] for trip in imported.manifest["trips"]]
    assert len(set(files)) == 3
    assert all(path.is_relative_to(imported.folder / "client_0") for path in imported.folder.rglob("*.parquet"))


# Trips


def test_a_clock_that_jumps_back_begins_a_trip(run_import: Any) -> None:
    clock = ["00:03:02", "00:03:06", "00:03:10", "00:00:01", "00:00:05", "00:00:09"]
    imported = run_import("ENGINE_RUNTIME,speed\n" + "".join(f"{time},{i}\n" for i, time in enumerate(clock)))
    assert [trip["time_sec"].tolist() for trip in imported.trips] == [[0.0, 4.0, 8.0], [0.0, 4.0, 8.0]]


def test_a_long_silence_begins_a_trip_and_a_short_one_is_a_gap(run_import: Any, log: Any) -> None:
    data = rows(10) + rows(10, start=60) + rows(10, start=1000)
    imported = run_import(log(HEADER, data))
    assert [(trip["rows"], trip["gaps"]) for trip in imported.manifest["trips"]] == [(20, 1), (10, 0)]
    whole = run_import(log(HEADER, data), pause_seconds=5000.0, force=True)
    assert [(trip["rows"], trip["gaps"]) for trip in whole.manifest["trips"]] == [(30, 2)]


@pytest.mark.parametrize(("interval", "gaps"), [(1.0, 1), (4.0, 0), (6.0, 0)])
def test_a_gap_is_judged_by_the_trips_own_interval(run_import: Any, log: Any, interval: float, gaps: int) -> None:
    data = rows(10, step=interval)
    after = [[float(str(row[0])) + 9 * interval + 12.0, *row[1:]] for row in rows(10, step=interval)]
    imported = run_import(log(HEADER, data + after))
    assert imported.manifest["trips"][0]["gaps"] == gaps


def test_rows_of_one_time_become_one_row_with_the_first_value_of_each_column(run_import: Any) -> None:
    imported = run_import("time_sec,speed,rpm\n0,10,\n0,,800\n0,99,99\n1,20,900\n")
    assert imported.only["vehicle_speed"].tolist() == [10.0, 20.0]
    assert imported.only["engine_rpm"].tolist() == [800.0, 900.0]
    assert imported.dropped == {"duplicate-time": 2}
    assert balanced(imported)


def test_short_trips_are_left_out_and_counted(run_import: Any, log: Any) -> None:
    imported = run_import(log(HEADER, rows(40) + rows(29)), minimum_rows=30)
    assert imported.dropped == {"short-trip": 29}
    assert [trip["rows"] for trip in imported.manifest["trips"]] == [40]


def test_a_vehicle_without_a_trip_is_named_and_gets_no_client(run_import: Any, log: Any) -> None:
    data = [["long", *row] for row in rows(40)] + [["short", *row] for row in rows(5)]
    imported = run_import(log(["car", *HEADER], data), minimum_rows=30)
    assert imported.manifest["vehicles_without_trips"] == ["short"]
    assert [each["vehicles"] for each in imported.manifest["clients"]] == [["long"]]


def test_nothing_but_short_trips_is_refused_with_a_hint(run_import: Any, log: Any) -> None:
    with pytest.raises(InputError) as caught:
        run_import(log(HEADER, rows(5)), minimum_rows=30)
    assert "5 rows are in trips of fewer than 30 rows: see --min-rows" in lines(caught)[0]


def test_ved_files_are_cut_by_vehicle_and_trip(run_import: Any) -> None:
    header = (
        "DayNum,VehId,Trip,Timestamp(ms),Latitude[deg],Longitude[deg],Vehicle Speed[km/h],MAF[g/sec],Engine RPM[RPM],"
        "Absolute Load[%],OAT[DegC],Fuel Rate[L/hr],Air Conditioning Power[kW]"
    )
    lines_ = [
        f"1.58,{vehicle},{trip},{i * 900},42.27,-83.69,{20 + i},{5 + i}.5,{900 + i},{30 + i}.2,{2}.5,NaN,NaN"
        for vehicle, trip in ((8, 706), (8, 707), (10, 706))
        for i in range(4)
    ]
    imported = run_import("\n".join([header, *lines_]))
    assert [(trip["vehicle"], trip["rows"]) for trip in imported.manifest["trips"]] == [("8", 4), ("8", 4), ("10", 4)]
    assert imported.trips[0]["time_sec"].tolist() == pytest.approx([0.0, 0.9, 1.8, 2.7])
    assert list(imported.trips[0]) == [
        "time_sec",
        "vehicle_speed",
        "engine_rpm",
        "mass_air_flow",
        "calculated_load_value",
        "ambient_air_temp",
    ]
    entry = imported.manifest["files"][0]
    assert (entry["vehicle_column"], entry["trip_column"], entry["clock"]["column"]) == (
        "VehId",
        "Trip",
        "Timestamp(ms)",
    )


def test_an_absolute_clock_orders_rows_and_dates_the_trip(run_import: Any) -> None:
    data = "".join(f"26-Oct-2015 15:22:0{second}.500,{second}\n" for second in (2, 1, 3))
    imported = run_import("Device Time,Speed (OBD)(km/h)\n" + data)
    assert imported.only["vehicle_speed"].tolist() == [1.0, 2.0, 3.0]
    assert imported.manifest["trips"][0]["start"] == "2015-10-26T15:22:01.500Z"


def test_a_drive_over_midnight_is_one_trip(run_import: Any) -> None:
    times = ["23:59:58", "23:59:59", "00:00:00", "00:00:01"]
    imported = run_import("Time,Speed\n" + "".join(f"{time},{i}\n" for i, time in enumerate(times)))
    assert imported.only["time_sec"].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_date_beside_a_time_of_day_makes_an_absolute_clock(run_import: Any) -> None:
    imported = run_import(
        "Date,Time,Speed\n2024-05-01,10:00:00,1\n2024-05-01,10:00:01,2\n2024-05-02,09:00:00,3\n2024-05-02,09:00:01,4\n"
    )
    assert [trip["start"] for trip in imported.manifest["trips"]] == [
        "2024-05-01T10:00:00.000Z",
        "2024-05-02T09:00:00.000Z",
    ]


def test_a_clock_that_stands_still_is_passed_over(run_import: Any) -> None:
    text = "TIME;ENGINE_RUNTIME;SPEED\n" + "".join(f"1,51336E+12;00:00:{i:02d};{i}\n" for i in range(10, 20))
    imported = run_import(text)
    assert imported.manifest["files"][0]["clock"]["column"] == "ENGINE_RUNTIME"
    assert imported.ignored()["TIME"].startswith("clock stands still")


def test_rows_without_a_clock_are_left_out(run_import: Any) -> None:
    imported = run_import("time_sec,speed\n0,1\n,2\n2,3\nnonsense,4\n4,5\n5,6\n6,7\n7,8\n8,9\n9,9\n10,9\n")
    assert imported.dropped == {"no-clock": 2}
    assert balanced(imported)


def test_a_log_without_a_clock_can_be_counted(run_import: Any) -> None:
    text = "speed,rpm\n1,800\n2,900\n3,950\n"
    with pytest.raises(InputError) as caught:
        run_import(text)
    assert "log0.csv: time_sec: no column is a clock" in lines(caught)[0]
    assert "--interval-seconds" in lines(caught)[0]
    assert run_import(text, interval_seconds=0.5).only["time_sec"].tolist() == [0.0, 0.5, 1.0]


# Wrong inputs


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "log0.csv: is empty"),
        ("time_sec,speed\n", "log0.csv: has a header and no rows"),
        ("Dear diary,\nI drove to work today.\nIt rained, and I was late.\n", "log0.csv: "),
        ("time_sec,shoe size\n0,43\n1,44\n", "log0.csv: has no column to learn from, only time_sec, shoe size"),
    ],
)
def test_a_file_that_can_not_be_used_is_named_with_the_reason(
    run_import: Any, content: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        run_import(content)
    assert lines(caught)[0].startswith(said)
    assert caught.value.code == ErrorCode.BAD_INPUT
    assert not (tmp_path / "out").exists()


def test_all_wrong_files_are_named_at_once(run_import: Any, log: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run_import("", log(HEADER, rows(5)), "time_sec,shoe size\n0,43\n1,44\n")
    assert [line.split(":")[0] for line in lines(caught)] == ["log0.csv", "log2.csv"]


def test_a_wrong_file_in_a_folder_is_left_out_and_named(run_import: Any, log: Any, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "good.csv").write_text(log(HEADER, rows(5)))
    (tmp_path / "logs" / "empty.csv").write_text("")
    (tmp_path / "logs" / "README.txt").write_text("not a log")
    imported = run_import(tmp_path / "logs")
    assert imported.manifest["files_skipped"] == [{"name": "empty.csv", "reason": "empty.csv: is empty"}]
    assert len(imported.trips) == 1


def test_a_path_that_is_not_there_names_the_nearest(run_import: Any, tmp_path: Path) -> None:
    (tmp_path / "drivers.csv").write_text("x")
    with pytest.raises(InputError, match=r"no such file or folder \(did you mean drivers.csv\?\)"):
        run_import(tmp_path / "driver.csv")


def test_the_output_is_checked_before_anything_is_read(run_import: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("precious")
    with pytest.raises(OutputExistsError):
        run_import(tmp_path / "missing.csv", force=True)
    assert (tmp_path / "out" / "thesis.doc").read_text() == "precious"


def test_what_an_import_wrote_can_be_imported_again(run_import: Any, log: Any, tmp_path: Path) -> None:
    first = run_import(log(["car", *HEADER], [[car, *row] for car in "ab" for row in rows(5)]))
    first.folder.rename(tmp_path / "before")
    again = run_import(tmp_path / "before")
    assert [each["vehicle"] for each in again.manifest["vehicles"]] == ["client_0", "client_1"]
    pd.testing.assert_frame_equal(
        again.trips[0], pd.read_parquet(tmp_path / "before" / first.manifest["trips"][0]["file"])
    )


def test_a_link_called_client_is_a_client(run_import: Any, log: Any, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.csv").write_text(log(HEADER, rows(5)))
    (tmp_path / "client_7").symlink_to(tmp_path / "disk")
    assert run_import(tmp_path / "client_7").manifest["vehicles"][0]["vehicle"] == "client_7"


def test_clients_of_two_imports_stay_two_vehicles(run_import: Any, log: Any, tmp_path: Path) -> None:
    for name in ("spring", "autumn"):
        run_import(log(HEADER, rows(5))).folder.rename(tmp_path / name)
    both = run_import(tmp_path / "spring", tmp_path / "autumn")
    assert [each["vehicle"] for each in both.manifest["vehicles"]] == ["autumn/client_0", "spring/client_0"]
    assert len(both.manifest["clients"]) == 2


def test_synthetic_trips_stay_synthetic(run_import: Any, tmp_path: Path) -> None:
    for name in ("parquet", "csv"):
        synthesise(tmp_path / name, cars=2, trips=1, minutes=2, file_format=name)
        imported = run_import(tmp_path / name, force=True)
        assert imported.manifest["synthetic"] is True
        assert len(imported.manifest["clients"]) == 2


def test_several_files_that_became_one_vehicle_are_noted(run_import: Any, log: Any) -> None:
    text = log(HEADER, rows(5))
    assert "all 2 files became one (--by file" in run_import(text, text).manifest["notes"][0]
    assert run_import(text, text, by="file", force=True).manifest["notes"] == []


def test_milliseconds_since_1970_under_a_header_that_says_seconds(run_import: Any) -> None:
    text = "Time [s],speed\n" + "".join(f"{1_600_000_000_000 + 1000 * number},{number}\n" for number in range(40))
    with pytest.raises(InputError) as caught:
        run_import(text)
    assert "Time [s] says 1.6e+12 s since 1970: --unit time_sec=ms" in lines(caught)[0]
    imported = run_import(text, units=("time_sec=ms",))
    assert imported.manifest["trips"][0]["start"] == "2020-09-13T12:26:40.000Z"


def test_a_clock_that_is_likely_in_milliseconds_is_asked_about(run_import: Any, log: Any) -> None:
    text = log(HEADER, rows(5, step=100.0))
    imported = run_import(text)
    assert imported.manifest["notes"] == [
        "log0.csv: time_sec steps by 100 s: is it in milliseconds? --unit time_sec=ms says so"
    ]
    told = run_import(text, units=("time_sec=ms",), force=True)
    assert told.only["time_sec"].tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert told.manifest["notes"] == []
    with pytest.raises(InputError, match="is it in milliseconds"):
        run_import(log(HEADER, rows(5, step=1000.0)), force=True)


def test_vehicle_and_trip_can_be_mapped_too(run_import: Any, log: Any) -> None:
    data = [["a", drive, *row] for drive in (1, 2) for row in rows(4)]
    imported = run_import(log(["Who", "Drive", *HEADER], data), maps=("Who=vehicle", "Drive=trip"))
    assert [(trip["vehicle"], trip["rows"]) for trip in imported.manifest["trips"]] == [("a", 4), ("a", 4)]


# Any log at all


cell = st.one_of(
    st.integers(-5, 300).map(str),
    st.floats(0, 300).map(lambda x: f"{x:.1f}"),
    st.sampled_from(["", "NaN", "48km/h", "x", "1:60E8"]),
)
clocks = st.one_of(st.integers(0, 50).map(str), st.sampled_from(["", "?"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", ""]), clocks, cell, cell), min_size=1, max_size=40))
def test_every_row_of_any_log_is_accounted_for(run_import: Any, data: list[tuple[str, str, str, str]]) -> None:
    text = "\n".join(",".join(row) for row in [("car", "time", "speed", "rpm"), *data])
    try:
        imported = run_import(text, force=True)
    except InputError:
        return
    assert balanced(imported)
    assert imported.manifest["rows"]["read"] == len(data)
    for trip in imported.trips:
        assert (trip["time_sec"].diff().dropna() > 0).all()
        assert trip["time_sec"][0] == 0.0
        assert trip.drop(columns="time_sec").notna().any(axis=1).all()
        speeds = trip.get("vehicle_speed", pd.Series(dtype=float)).dropna()
        assert speeds.between(0, 255).all()
