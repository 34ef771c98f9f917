"""Column names and units as loggers write them."""

import pytest

from fleven.app import columns


@pytest.mark.parametrize(
    ("header", "name", "factor", "offset"),
    [
        ("vehicle_speed", "vehicle_speed", 1.0, 0.0),
        ("Vehicle Speed[km/h]", "vehicle_speed", 1.0, 0.0),
        ("SPEED (mph)", "vehicle_speed", 1.609344, 0.0),
        ("MAF[g/sec]", "mass_air_flow", 1.0, 0.0),
        ("Engine RPM[RPM]", "engine_rpm", 1.0, 0.0),
        ("Absolute Load[%]", "calculated_load_value", 1.0, 0.0),
        ("Timestamp(ms)", "time_sec", 1e-3, 0.0),
        ("ENGINE_RUNTIME", "time_sec", 1.0, 0.0),
        ("Fuel Rate[L/hr]", "fuel_rate", 1.0, 0.0),
        ("OAT[DegC]", "ambient_air_temp", 1.0, 0.0),
        ("coolant temp (F)", "engine_coolant_temp", 5 / 9, -160 / 9),
        ("P_kW", "P_kW", 1.0, 0.0),
    ],
)
def test_headers_of_loggers_are_recognised(header: str, name: str, factor: float, offset: float) -> None:
    match = columns.match(header)
    assert match is not None
    assert match.column.name == name
    assert match.factor == pytest.approx(factor)
    assert match.offset == pytest.approx(offset)


@pytest.mark.parametrize("header", ["Trip", "VehId", "", "[km/h]", "Speed[kg]", "Latitude[deg]"])
def test_a_header_that_is_not_known_for_sure_is_not_guessed(header: str) -> None:
    assert columns.match(header) is None


def test_freezing_point_converts() -> None:
    factor, offset = columns.conversion(columns.CANONICAL["ambient_air_temp"], "degF") or (0.0, 0.0)
    assert 32 * factor + offset == pytest.approx(0.0)
    assert 212 * factor + offset == pytest.approx(100.0)


def test_every_alias_leads_to_a_column_and_every_unit_knows_itself() -> None:
    assert set(columns.ALIASES.values()) == set(columns.CANONICAL)
    for alias in columns.ALIASES:
        assert alias == columns.key(alias)
    for column in columns.CANONICAL.values():
        assert columns.conversion(column, column.unit) == (1.0, 0.0)
        assert column.minimum < column.maximum
