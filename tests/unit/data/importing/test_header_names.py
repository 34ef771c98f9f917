"""What headers say, as loggers write them: name, unit, and who measured it."""

import pytest

from fleven.data.importing.header_names import HeaderParts, Origin, origin_of, parts
from fleven.data.importing.logger_names import NAMES, folded_key, is_unit, normal_unit


@pytest.mark.parametrize(
    ("header", "target", "unit"),
    [
        ("[ECM] Engine RPM (rpm)", "engine_rpm", "rpm"),
        ("SAE.VSS Vehicle Speed (km/h)", "vehicle_speed", "km/h"),
        ("SAE.LOAD_PCT (%)", "calculated_load_value", "%"),
        ("CAN1.WheelBasedVehicleSpeed", "vehicle_speed", ""),
        ("S1_PID_0C_EngineRPM", "engine_rpm", ""),
        ("010D Vehicle Speed (km/h)", "vehicle_speed", "km/h"),
        ("VehicleSpeedMPH", "vehicle_speed", "mph"),
        ("CalcLoadPct", "calculated_load_value", "%"),
        ("Geschwindigkeit in km/h", "vehicle_speed", "km/h"),
        ("n / rpm", "", ""),
        ("Vehicle speed / mph", "vehicle_speed", "mph"),
        ("Speed:mph", "vehicle_speed", "mph"),
        ("Speed, mph", "vehicle_speed", "mph"),
        ("speed_ms", "vehicle_speed", "m/s"),
        ("Zeit in ms", "time_sec", "ms"),
        ("speed_can_kmh", "vehicle_speed", "km/h"),
        ("rpm_can", "engine_rpm", ""),
        ("velocity kmh", "vehicle_speed", "km/h"),
        ("Vehicle Speed Min", "", ""),
        ("[Cruise] Vehicle Speed (km/h)", "", "km/h"),
        ("target.speed", "", ""),
        ("CAN load (%)", "", "%"),
    ],
)
def test_name_and_unit(header: str, target: str, unit: str) -> None:
    found = parts(header)
    assert (NAMES.get(folded_key(found.name), ""), found.unit) == (target, unit)


@pytest.mark.parametrize(
    ("header", "origin"),
    [
        ("Speed (OBD)(km/h)", Origin.CAR),
        ("Vehicle Speed (km/h) *OBD", Origin.CAR),
        ("Speed (m/s) *gps", Origin.GPS),
        ("Speed (GPS)(km/h)", Origin.GPS),
        ("speed_can", Origin.CAR),
        ("OBDSPEED[km/h]", Origin.CAR),
        ("MPH", Origin.GPS),
        ("Speed (km/h)", Origin.UNKNOWN),
    ],
)
def test_who_measured_it(header: str, origin: Origin) -> None:
    assert parts(header).origin == origin


def test_a_gps_speed_keeps_its_unit() -> None:
    assert parts("Speed_gps_kmh") == HeaderParts("Speed_gps", "km/h", Origin.GPS)


@pytest.mark.parametrize(
    ("cell", "origin"),
    [("200: obd", Origin.CAR), ("300: canbus", Origin.CAR), ("100: gps", Origin.GPS), ("calc", Origin.COMPUTED)],
)
def test_a_cell_of_a_row_of_sources(cell: str, origin: Origin) -> None:
    assert origin_of(cell) == origin
    assert origin_of("0: s") == Origin.UNKNOWN


@pytest.mark.parametrize(
    ("written", "symbol"),
    [
        ("kilometer_per_hour", "km/h"),
        ("mile / hour", "mi/h"),
        ("meters per second", "m/s"),
        ("kilomètres par heure", "km/h"),
        ("quilômetros por hora", "km/h"),
        ("revolutions_per_minute", "rev/min"),
        ("gram / second", "g/s"),
        ("pour cent", "%"),
        ("mi./h", "mi/h"),
        ("ºC", "°C"),
        ("U/min", "U/min"),
    ],
)
def test_units_in_words_become_symbols(written: str, symbol: str) -> None:
    assert normal_unit(written) == symbol
    assert is_unit(written)
