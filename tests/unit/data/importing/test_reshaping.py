"""Logs with one reading in each line, or with units in a column of their own."""

from typing import Any

import pytest

from fleven.data.errors import InputError


def long_log(rows: list[tuple[float, str, float | str, str]]) -> str:
    lines = [f'"{time}";"{name}";"{value}";"{unit}";' for time, name, value, unit in rows]
    return "\n".join(['"SECONDS";"PID";"VALUE";"UNITS";', *lines])


def cycle(number: int, period: float = 1.0) -> list[tuple[float, str, float | str, str]]:
    begin = 39367.5 + number * period
    return [
        (begin, "Vehicle speed", 20 + number % 30, "km/h"),
        (begin + 0.1, "Engine RPM", 1500 + 10 * (number % 30), "rpm"),
        (begin + 0.2, "Instant fuel consumption", 7.5, "L/100km"),
        (begin + 0.3, "Calculated engine load value", 40 + number % 20, "%"),
        (begin + 0.4, "MAF air flow rate", 12.5, "g/sec"),
    ]


def test_readings_in_lines_of_their_own_become_rows(run_import: Any) -> None:
    imported = run_import(long_log([reading for number in range(100) for reading in cycle(number)]))
    frame = imported.only
    assert frame["time_sec"].tolist() == [float(number) for number in range(100)]
    assert frame["vehicle_speed"].tolist() == [20.0 + number % 30 for number in range(100)]
    assert frame["calculated_load_value"].tolist() == [40.0 + number % 20 for number in range(100)]
    assert imported.dropped == {"one-reading": 400}
    assert imported.manifest["rows"]["read"] == 500
    assert imported.manifest["trainable"]
    assert imported.manifest["warnings"] == []
    assert imported.ignored()["Instant fuel consumption (L/100km)"] == "not in the alias table"


def test_a_row_ends_at_a_pause_and_holds_no_reading_from_after_it(run_import: Any) -> None:
    readings = [reading for number in range(60) for reading in cycle(number)]
    cut = [each for each in readings[:152] if each[0] < 39367.5 + 30.05]  # the log stops after a cycle's speed
    later = [(time + 7200.0, *rest) for time, *rest in readings[1:]]
    imported = run_import(long_log([*cut, *later]))  # type: ignore[list-item]
    first, second = imported.trips
    assert (len(first), len(second)) == (31, 60)
    assert first["engine_rpm"].isna().tolist() == [False] * 30 + [True]
    assert second["engine_rpm"].iloc[0] == 1500.0


def test_a_slow_reading_is_held_forward(run_import: Any) -> None:
    readings = []
    for number in range(100):
        readings += cycle(number)[:2]
        if number % 3 == 0:
            readings.append((39367.8 + number, "MAF air flow rate", 10.0 + number, "g/sec"))
    imported = run_import(long_log(readings))
    assert imported.only["mass_air_flow"].tolist()[:6] == [10.0, 10.0, 10.0, 13.0, 13.0, 13.0]
    assert imported.column("mass_air_flow")["held_forward"]["cells"] == 66


def test_nothing_known_among_the_readings_is_said(run_import: Any) -> None:
    with pytest.raises(InputError, match="has no column to learn from"):
        run_import(long_log([(number, "Fuel economizer", 1, "") for number in range(40)]))


def test_a_column_of_units_holds_for_the_cells_beside_it(run_import: Any) -> None:
    rows = [f"{i},{'31.0686' if i < 20 else '50'},{'mph' if i < 20 else 'km/h'},2000,rpm" for i in range(40)]
    imported = run_import("\n".join(["Time,Speed,Speed Unit,RPM,RPM Unit", *rows]))
    assert imported.only["vehicle_speed"].tolist() == pytest.approx([50.0] * 40, abs=0.001)


def test_a_quantity_whose_unit_changes_keeps_its_value(run_import: Any) -> None:
    readings: list[tuple[float, str, float | str, str]] = []
    for second in range(60):
        value, unit = (31.0686, "mph") if second < 20 else (50, "km/h")
        readings += [(second, "Vehicle speed", value, unit), (second + 0.2, "Engine RPM", 2000 + second, "rpm")]
    imported = run_import(long_log(readings))
    assert imported.only["vehicle_speed"].tolist() == pytest.approx([50.0] * 60, abs=0.001)


def test_hour_minute_and_second_in_columns_of_their_own_are_one_clock(run_import: Any) -> None:
    rows = [f"26,3,5,10,{i // 60},{i % 60}.5,{i % 50},900" for i in range(150)]
    imported = run_import("\n".join(["Year,Month,Day,Hour,Minute,Seconds,Speed,RPM", *rows]))
    assert imported.only["time_sec"].iloc[-1] == 149.0
    assert imported.manifest["trips"][0]["start"] == "2026-03-05T10:00:00.500Z"
    assert (
        "log0.csv: Date and time is put together from Year, Month, Day, Hour, Minute, Seconds"
        in (imported.manifest["notes"])
    )
