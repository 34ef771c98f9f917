"""`fleven data describe`: counts and ranges against hand-made trips, and what the cars could not read."""

from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from fleven.app.errors import DataError
from fleven.app.settings import Settings
from fleven.app.trips import reader
from fleven.data.cli_tables import (
    client_table,
    described_clients_table,
    described_columns_table,
    described_trips_table,
    duration,
    number,
)
from fleven.data.describe import describe
from fleven.data.errors import InputError
from fleven.data.gaps import GAP_FACTOR
from fleven.data.synthetic.synthesis import synthesise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two clients: one trip with a gap and missing cells, two plain ones as CSV with aliases."""
    for name in ("client_0", "client_10"):
        (tmp_path / name).mkdir()
    gap = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0]
    frame = pd.DataFrame({"time_sec": gap, "vehicle_speed": [0, 10, None, 30, 40, 300], "oil": [1.0] * 6})
    frame.to_parquet(tmp_path / "client_0" / "a.parquet")
    for trip in ("b", "c"):
        plain = pd.DataFrame({"Timestamp(ms)": [0, 500, 1000], "Vehicle Speed[km/h]": [10, 20, 30]})
        plain.to_csv(tmp_path / "client_10" / f"{trip}.csv", index=False)
    return tmp_path


def test_clients_are_counted(folder: Path) -> None:
    clients = describe(folder)["clients"]
    assert clients[0] == {
        "client": 0,
        "trips": 1,
        "rows": 6,
        "seconds": 11.0,
        "interval_seconds": 1.0,
        "gaps": 1,
        "longest_gap_seconds": 7.0,
        "missing_cells": 1,
    }
    assert (clients[1]["client"], clients[1]["trips"], clients[1]["seconds"]) == (10, 2, 2.0)
    assert clients[1]["interval_seconds"] == 0.5


def test_columns_are_measured_over_all_and_for_each_client(folder: Path) -> None:
    description = describe(folder)
    speed = description["columns"][0]
    assert (speed["name"], speed["unit"], speed["values"], speed["missing"]) == ("vehicle_speed", "km/h", 11, 1)
    assert (speed["out_of_range"], speed["minimum"], speed["maximum"]) == (1, 0.0, 300.0)
    own = description["columns_of_clients"][1]["columns"]
    assert [(each["name"], each["mean"]) for each in own] == [("vehicle_speed", 20.0)]
    assert description["columns"][1]["name"] == "oil"


def test_a_client_folder_and_a_single_file_can_be_described(folder: Path) -> None:
    assert describe(folder / "client_10")["clients"][0]["trips"] == 2
    assert describe(folder / "client_0" / "a.parquet")["trips"][0]["file"] == "a.parquet"


def test_a_file_that_a_car_could_not_read_is_a_problem_and_the_rest_is_described(folder: Path) -> None:
    (folder / "client_0" / "raw.csv").write_text("SPEED;RPM\n48km/h;900RPM\n")
    (folder / "client_0" / "broken.parquet").write_bytes(b"PAR1 no")
    (folder / "client_0" / "units.csv").write_text("time_sec,speed,rpm\n0,48km/h,800\n1,49km/h,900\n")
    (folder / "client_0" / "back.csv").write_text("time_sec,speed\n5,48\n1,49\n")
    (folder / "client_0" / "none.csv").write_text("time_sec,speed\n")
    problems = "\n".join(describe(folder)["problems"])
    assert "client_0/raw.csv: time_sec: no such column (is it a logger's own file? fleven data import" in problems
    assert "client_0/broken.parquet: cannot be read" in problems
    assert "client_0/units.csv: speed: 2 cells are not numbers, such as '48km/h' in row 2" in problems
    assert "client_0/back.csv: time_sec: does not rise everywhere" in problems
    assert "client_0/none.csv: has no rows" in problems


def test_what_a_car_refuses_is_a_problem_here_too(tmp_path: Path) -> None:
    """Each file is read by the app's own code as well: both must come to one opinion."""
    head = "time_sec,engine_rpm,vehicle_speed\n"
    files = {
        "commas": head + "0,800,50,\n1,810,51,\n",
        "numbered": head + "7,0,800,50\n8,1,810,51\n",
        "metres": head + "".join(f"{second},800,{5000 if second < 3 else 50}\n" for second in range(10)),
        "one-bad": head + "".join(f"{second},800,{5000 if second < 2 else 50}\n" for second in range(10)),
    }
    for name, text in files.items():
        path = tmp_path / f"{name}.csv"
        path.write_text(text)
        try:
            problems = describe(path)["problems"]
        except InputError as error:
            problems = [problem.line() for problem in error.problems]
        try:
            reader.read(path, ("engine_rpm", "vehicle_speed"))
        except DataError:
            assert len(problems) == 1, name
        else:
            assert problems == [], name
    said = describe(tmp_path)["problems"]
    assert (
        "metres.csv: vehicle_speed: 30% of the values are outside 0 to 255 km/h (smallest 50, largest 5000)" in said[0]
    )
    assert "numbered.csv: its rows have more cells than the header has names" in said[1]
    assert describe(tmp_path / "commas.csv")["columns"][0]["maximum"] == 51


def test_pandas_index_is_a_column_if_it_has_a_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"time_sec": [0.0, 1.0, 2.0], "vehicle_speed": [50.0, 51.0, 52.0]})
    frame.set_index("time_sec").to_parquet(tmp_path / "named.parquet")
    frame.iloc[[2, 0, 1]].sort_values("time_sec").set_index(pd.Index([7, 8, 9])).to_parquet(
        tmp_path / "unnamed.parquet"
    )
    description = describe(tmp_path)
    assert description["problems"] == []
    assert [each["name"] for each in description["columns"]] == ["vehicle_speed"]


def test_nothing_to_describe_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no client_<n> folder"):
        describe(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        describe(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"is not a \.parquet or \.csv file"):
        describe(tmp_path / "notes.txt")


def test_synthetic_trips_are_called_so(tmp_path: Path) -> None:
    manifest = synthesise(tmp_path / "out", cars=1, trips=1, minutes=2)
    description = describe(tmp_path / "out")
    assert description["synthetic"] is True
    assert describe(tmp_path / "out" / "client_0")["synthetic"] is True
    assert "ynthetic" in str(client_table(manifest).title)
    assert "ynthetic" in str(described_clients_table(description).title)


def test_every_table_fits_80_columns_without_cutting_numbers(tmp_path: Path) -> None:
    synthesise(tmp_path / "out", cars=2, trips=2, minutes=2)
    description = describe(tmp_path / "out")
    for each in (*description["columns"], *description["clients"]):
        each.update({key: 123_456_789 for key in ("values", "missing", "rows") if key in each})
    for table in (
        described_clients_table(description),
        described_columns_table("Columns", description["columns"]),
        described_trips_table(description["trips"]),
    ):
        console = Console(width=80)
        with console.capture() as captured:
            console.print(table)
        text = captured.get()
        assert max(len(line) for line in text.splitlines()) <= 80
        assert "…" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3600, "1 h 00 min"), (7_259, "2 h 00 min")],
)
def test_durations_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.0, "0"), (1.2345, "1.23"), (1234.5, "1,234"), (-40.0, "-40")]
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_gap_is_the_same_for_the_importer_and_for_the_training() -> None:
    assert Settings().maximum_gap_factor == GAP_FACTOR
