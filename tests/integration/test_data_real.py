"""Real logs, as the logger left them: every figure below was counted by other means than the importer's.

`csv` of the standard library reads the file again here, with rules of a few lines for this one file.
"""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fleven.data.importing.column_mapping import parse_rules
from fleven.data.importing.column_selection import Options
from fleven.data.importing.importing import import_logs

pytestmark = pytest.mark.real_data

SOURCES = {
    "vehicle_speed": ("SPEED", "km/h"),
    "engine_rpm": ("ENGINE_RPM", "RPM"),
    "mass_air_flow": ("MAF", "g/s"),
    "calculated_load_value": ("ENGINE_LOAD", "%"),
    "absolute_throttle_pos": ("THROTTLE_POS", "%"),
    "intake_manifold_pressure": ("INTAKE_MANIFOLD_PRESSURE", "kPa"),
    "barometric_pressure": ("BAROMETRIC_PRESSURE", "kPa"),
    "engine_coolant_temp": ("ENGINE_COOLANT_TEMP", "C"),
    "intake_air_temp": ("AIR_INTAKE_TEMP", "C"),
    "ambient_air_temp": ("AMBIENT_AIR_TEMP", "C"),
    "fuel_level": ("FUEL_LEVEL", "%"),
}


@pytest.fixture(scope="module")
def raw(obd_data: Path) -> list[dict[str, str]]:
    with (obd_data / "19drivers.csv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


@pytest.fixture(scope="module")
def imported(obd_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("real") / "trips"
    return folder, import_logs([obd_data / "19drivers.csv"], folder, Options(parse_rules([], [], None)))


def seconds(text: str) -> int | None:
    """`00:03:02` to 182; None for an empty cell or a raw frame of the adapter."""
    if not re.fullmatch(r"\d\d:\d\d:\d\d", text):
        return None
    hours, minutes, rest = map(int, text.split(":"))
    return hours * 3600 + minutes * 60 + rest


def value(text: str, unit: str) -> float | None:
    """`24,77g/s` to 24.77; None for an empty cell or a raw frame of the adapter."""
    number = text.removesuffix(unit).replace(",", ".")
    return float(number) if re.fullmatch(r"-?\d+(\.\d+)?", number) else None


def expected_trips(raw: list[dict[str, str]]) -> dict[str, list[list[dict[str, str]]]]:
    """Rows with a clock, a new trip where it jumps back, the first row of each second, by vehicle."""
    trips: dict[str, list[list[dict[str, str]]]] = {}
    last: dict[str, int] = {}
    for row in raw:
        vehicle, now = row["VEHICLE_ID"], seconds(row["ENGINE_RUNTIME"])
        if now is None:
            continue
        if vehicle not in trips or now < last[vehicle]:
            trips.setdefault(vehicle, []).append([row])
        elif now > last[vehicle]:
            trips[vehicle][-1].append(row)
        last[vehicle] = now
    return trips


def test_every_row_is_accounted_for(imported: tuple[Path, dict[str, Any]], raw: list[dict[str, str]]) -> None:
    _, manifest = imported
    assert manifest["rows"] == {
        "read": 8261,
        "kept": 8217,
        "dropped": {"duplicate-time": 6, "no-clock": 37, "short-trip": 1},
    }
    assert len(raw) == 8261
    assert sum(seconds(row["ENGINE_RUNTIME"]) is None for row in raw) == 37
    trips = [trip for group in expected_trips(raw).values() for trip in group]
    assert sum(len(trip) for trip in trips if len(trip) >= 30) == 8217
    assert [len(trip) for trip in trips if len(trip) < 30] == [1]


def test_each_vehicle_is_a_client_with_its_own_rows(
    imported: tuple[Path, dict[str, Any]], raw: list[dict[str, str]]
) -> None:
    _, manifest = imported
    assert [each["vehicle"] for each in manifest["vehicles"]] == [f"s{number}" for number in range(1, 20)]
    assert [each["client"] for each in manifest["vehicles"]] == list(range(19))
    rows = {each["vehicle"]: each["rows_kept"] for each in manifest["vehicles"]}
    assert rows == {
        vehicle: sum(len(trip) for trip in trips if len(trip) >= 30) for vehicle, trips in expected_trips(raw).items()
    }
    lost = Counter(row["VEHICLE_ID"] for row in raw)
    for each in manifest["vehicles"]:
        assert lost[each["vehicle"]] == each["rows_kept"] + sum(each["rows_dropped"].values())


def test_columns_and_units_are_as_the_folder_says(imported: tuple[Path, dict[str, Any]]) -> None:
    entry = imported[1]["files"][0]
    assert {each["name"]: each["source"] for each in entry["columns"]} == {
        name: source for name, (source, _) in SOURCES.items()
    }
    assert (entry["delimiter"], entry["decimal"], entry["clock"]["column"]) == (";", ",", "ENGINE_RUNTIME")
    ignored = {each["source"]: each["reason"] for each in entry["ignored"]}
    assert ignored["TIME"] == "clock stands still: 14 different times in 8261 rows"
    assert [name for name, reason in ignored.items() if reason == "empty"] == [
        *("Term Fuel Trim Bank 1", "FUEL_ECONOMY", "Long Term Fuel Trim Bank 2", "FUEL_TYPE", "FUEL_PRESSURE"),
        *("Short Term Fuel Trim Bank 2", "TROUBLE_CODES"),
    ]


@pytest.mark.parametrize("name", SOURCES)
def test_cells_are_counted_and_read(
    imported: tuple[Path, dict[str, Any]], raw: list[dict[str, str]], name: str
) -> None:
    folder, manifest = imported
    source, unit = SOURCES[name]
    about = next(each for each in manifest["files"][0]["columns"] if each["name"] == name)
    values = [value(row[source], unit) for row in raw]
    assert about["missing"] == sum(row[source] == "" for row in raw)
    assert about["values"] == sum(each is not None for each in values)
    assert about["unreadable"] == len(raw) - about["missing"] - about["values"]
    assert about["out_of_range"] == 0
    for vehicle, trips in expected_trips(raw).items():
        trip = max(trips, key=len)
        file = next(each["file"] for each in manifest["trips"] if each["vehicle"] == vehicle)
        found = pd.read_parquet(folder / file)
        clock = [seconds(row["ENGINE_RUNTIME"]) or 0 for row in trip]
        assert found["time_sec"].tolist() == [now - clock[0] for now in clock]
        assert_alike(found[name].tolist(), [value(row[source], unit) for row in trip], vehicle)


def assert_alike(found: list[float], wanted: list[float | None], vehicle: str) -> None:
    """Equal where both have a value; a merged duplicate may fill an empty cell from the next row of its second."""
    assert len(found) == len(wanted)
    differing = [(a, b) for a, b in zip(found, wanted, strict=True) if b is not None and a != pytest.approx(b)]
    filled = sum(b is None and a == a for a, b in zip(found, wanted, strict=True))
    assert differing == []
    assert filled <= {"s3": 1, "s13": 5}.get(vehicle, 0)


def test_three_clients_get_about_the_same(obd_data: Path, tmp_path: Path) -> None:
    options = Options(parse_rules([], [], "VEHICLE_ID"))
    manifest = import_logs([obd_data / "19drivers.csv"], tmp_path / "trips", options, clients=3)
    rows = [each["rows"] for each in manifest["clients"]]
    assert sum(rows) == 8217
    assert max(rows) - min(rows) < 200
    vehicles = [vehicle for each in manifest["clients"] for vehicle in each["vehicles"]]
    assert sorted(vehicles) == sorted(f"s{number}" for number in range(1, 20))
