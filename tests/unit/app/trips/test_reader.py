"""Trip files, clean and otherwise. Every bad input has its own code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fleven.app.errors import Code, DataError
from fleven.app.trips import reader

NAMES = ("engine_rpm", "vehicle_speed")


def test_the_nodes_own_path_wins_over_the_partition() -> None:
    assert reader.folder_of({"data-path": "/data", "partition-id": 3}, "/base") == Path("/data")
    assert reader.folder_of({"partition-id": 3}, "/base") == Path("/base/client_3")


def test_the_number_that_the_run_gives_names_the_folder_where_the_node_has_none() -> None:
    assert reader.folder_of({"partition-id": 3}, "/base", 4) == Path("/base/client_3")
    assert reader.folder_of({}, "/base", 4) == Path("/base/client_4")


@pytest.mark.parametrize(
    "config", [{}, {"data-path": "/data"}, {"partition-id": "x"}, {"partition-id": -1}, {"partition-id": True}]
)
def test_a_node_without_a_partition_is_told(config: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        reader.folder_of(config, "/base")
    assert caught.value.code is Code.PARTITION_UNKNOWN


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder") as caught:
        reader.find(tmp_path / "nowhere")
    assert caught.value.code is Code.DATA_MISSING


def test_folder_without_trips_points_at_the_folder_inside(tmp_path: Path) -> None:
    (tmp_path / "client_0").mkdir()
    (tmp_path / ".trip.csv.part").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"did you mean the folder .*client_0") as caught:
        reader.find(tmp_path)
    assert caught.value.code is Code.DATA_EMPTY


def test_trips_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("trip_10.csv", "trip_9.csv", "trip_1.parquet", "2024.csv"):
        (tmp_path / name).touch()
    assert [path.name for path in reader.find(tmp_path)] == ["2024.csv", "trip_1.parquet", "trip_9.csv", "trip_10.csv"]


def test_csv_and_parquet_give_the_same(tmp_path: Path, make_trip: Callable[..., pd.DataFrame]) -> None:
    table = make_trip(30)
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_parquet(tmp_path / "b.parquet")
    first, second = reader.read(tmp_path / "a.csv", NAMES), reader.read(tmp_path / "b.parquet", NAMES)
    np.testing.assert_allclose(first.values, second.values, rtol=1e-6)
    assert first.values.shape == (30, 2)
    assert first.values.dtype == np.float32
    np.testing.assert_allclose(first.values[:, 0], table["engine_rpm"], rtol=1e-6)


@pytest.mark.parametrize("index", ["time_sec", "engine_rpm", "calculated_load_value"])
def test_a_column_that_pandas_kept_as_index_is_a_column(
    tmp_path: Path, make_trip: Callable[..., pd.DataFrame], index: str
) -> None:
    make_trip(30).to_parquet(tmp_path / "plain.parquet")
    make_trip(30).set_index(index).to_parquet(tmp_path / "indexed.parquet")
    plain, indexed = (reader.read(tmp_path / f"{name}.parquet", NAMES) for name in ("plain", "indexed"))
    np.testing.assert_array_equal(indexed.time, plain.time)
    np.testing.assert_array_equal(indexed.values, plain.values)


@pytest.mark.parametrize("names", [NAMES, ("engine_rpm",), ("vehicle_speed",)])
def test_a_comma_at_the_end_of_rows_shifts_no_column(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "t.csv").write_text("time_sec,engine_rpm,vehicle_speed\n0,800,50,\n1,810,51,\n")
    trip = reader.read(tmp_path / "t.csv", names)
    assert trip.time.tolist() == [0, 1]
    row = {"engine_rpm": 800, "vehicle_speed": 50}
    assert trip.values[0].tolist() == [row[name] for name in names]


def test_other_names_and_units_are_taken_in(tmp_path: Path) -> None:
    path = tmp_path / "ved.csv"
    path.write_text("Timestamp(ms),Engine RPM[RPM],Vehicle Speed[mph]\n0,800,10\n1000,900,20\n")
    trip = reader.read(path, NAMES)
    np.testing.assert_allclose(trip.time, [0.0, 1.0])
    np.testing.assert_allclose(trip.values, [[800, 16.09344], [900, 32.18688]], rtol=1e-6)


def test_the_exact_name_wins_over_an_alias(tmp_path: Path) -> None:
    path = tmp_path / "both.csv"
    path.write_text("time_sec,engine_rpm,speed,vehicle_speed\n0,800,1,50\n1,800,2,51\n")
    assert reader.read(path, NAMES).values[:, 1].tolist() == [50, 51]


def test_a_column_of_the_operators_own_needs_no_entry_in_the_table(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("time_sec,battery_current\n0,-5\n1,7\n")
    assert reader.read(path, ("battery_current",)).values.tolist() == [[-5], [7]]


def test_rows_with_holes_and_impossible_values_are_dropped_and_counted(
    tmp_path: Path, make_trip: Callable[..., pd.DataFrame]
) -> None:
    table = make_trip(50)
    table.loc[3, "engine_rpm"] = np.nan
    table.loc[7, "vehicle_speed"] = 999
    table.loc[8, "engine_rpm"] = np.inf
    table.loc[9, "time_sec"] = np.nan
    table.to_csv(tmp_path / "a.csv", index=False)
    trip = reader.read(tmp_path / "a.csv", NAMES)
    assert (trip.rows_read, trip.dropped_missing, trip.dropped_implausible) == (50, 2, 2)
    assert trip.time.tolist() == [t for t in range(50) if t not in (3, 7, 8, 9)]


HEAD = "time_sec,engine_rpm,vehicle_speed\n"


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", Code.DATA_EMPTY, "is empty"),
        (HEAD.encode(), Code.DATA_EMPTY, "has no rows"),
        (b"time_sec,engine_rpm\n0,800\n", Code.COLUMN_MISSING, "lacks vehicle_speed; it has time_sec, engine_rpm"),
        (b"engine_rpm,vehicle_speed\n0,800\n", Code.COLUMN_MISSING, "lacks time_sec"),
        (HEAD.encode() + b"0,800,50\n1,fast,50\n", Code.COLUMN_NOT_NUMERIC, "column engine_rpm: row 3 holds no number"),
        (HEAD.encode() + b'0,"1,5",50\n', Code.COLUMN_NOT_NUMERIC, "column engine_rpm: row 2"),
        (HEAD.encode() + b"0,True,50\n1,False,50\n", Code.COLUMN_NOT_NUMERIC, "engine_rpm"),
        (HEAD.encode() + b"0,800,-5\n1,800,500\n", Code.VALUES_OUT_OF_RANGE, "100% of the values are outside 0 to 255"),
        (HEAD.encode() + b"7,0,800,50\n8,1,800,51\n", Code.DATA_UNREADABLE, "more cells than the header has names"),
        (HEAD.encode() + b"0,800,50,5\n1,800,51,5\n", Code.DATA_UNREADABLE, "more cells than the header has names"),
        (HEAD.encode() + b'0,800,"5\n', Code.DATA_UNREADABLE, ""),
        (b"\x00\xff\xfe\x80" * 40, Code.DATA_UNREADABLE, ""),
    ],
)
def test_bad_csv(tmp_path: Path, content: bytes, code: Code, said: str) -> None:
    path = tmp_path / "trip.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        reader.read(path, NAMES)
    assert caught.value.code is code
    assert said in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (HEAD + "0,800,50\n1,4711rpm,50\n", Code.COLUMN_NOT_NUMERIC),
        (HEAD + "0,800,4711\n1,800,-4711\n", Code.VALUES_OUT_OF_RANGE),
        ("0,4711,50.5\n1,4711,51.5\n", Code.COLUMN_MISSING),
        ("0.5s,4711rpm,50\n1.5s,4711rpm,51\n", Code.COLUMN_MISSING),
        ("s1;4711rpm;50\ns1;4711rpm;51\n", Code.COLUMN_MISSING),
    ],
)
def test_no_reading_is_in_a_reason(tmp_path: Path, content: str, code: Code) -> None:
    path = tmp_path / "trip.csv"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        reader.read(path, NAMES)
    assert caught.value.code is code
    assert "4711" not in str(caught.value)


def test_bad_parquet(tmp_path: Path, make_trip: Callable[..., pd.DataFrame]) -> None:
    whole = tmp_path / "whole.parquet"
    make_trip(30).to_parquet(whole)
    for content in (b"", b"PAR1", whole.read_bytes()[:-50]):
        path = tmp_path / "cut.parquet"
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            reader.read(path, NAMES)
        assert caught.value.code is Code.DATA_UNREADABLE


def test_one_broken_file_does_not_cost_the_car_its_other_trips(
    make_car: Callable[..., Path],
) -> None:
    folder = make_car(trips=2)
    (folder / "trip_5.csv").write_text("time_sec\n0\n")
    read = reader.read_all(reader.find(folder), NAMES)
    assert [trip.name for trip in read.trips] == ["trip_0.csv", "trip_1.csv"]
    assert read.skipped["trip_5.csv"].code is Code.COLUMN_MISSING


def test_with_no_usable_file_the_first_reason_is_given(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"trip_{number}.csv").write_text("time_sec\n0\n")
    with pytest.raises(DataError, match="and 2 more files") as caught:
        reader.read_all(reader.find(tmp_path), NAMES)
    assert caught.value.code is Code.COLUMN_MISSING
