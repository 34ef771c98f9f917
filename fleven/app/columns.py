"""The columns of a trip: their names, units, plausible ranges, and the other names that loggers give them.

One table serves the app (which checks a car's files against it) and the import command (which writes such
files), so that the two cannot drift apart. Imports the standard library only: the importer must not load
torch, flwr or pandas to know a column's name.
"""

import re
from dataclasses import dataclass
from typing import Final

TIME_COLUMN: Final = "time_sec"


@dataclass(frozen=True, slots=True)
class Column:
    """One canonical column.

    `minimum` and `maximum` bound what a working sensor can report, in `unit`; a value outside them is a fault
    of the logger, not a fast car.
    """

    name: str
    unit: str
    minimum: float
    maximum: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Match:
    """How a file's column becomes a canonical one: `canonical value = value * factor + offset`."""

    column: Column
    factor: float = 1.0
    offset: float = 0.0


# Ranges of OBD readings are those that SAE J1979 (mode 01) can encode. Load is the exception: absolute load of
# a turbocharged engine, which some loggers give in its place, passes 100 %.
_ALL: Final = (
    Column(TIME_COLUMN, "s", 0.0, 1e10, "time within the trip; any zero point, never falling"),
    Column("vehicle_speed", "km/h", 0.0, 255.0, "speed over ground"),
    Column("engine_rpm", "rpm", 0.0, 16383.75, "engine speed"),
    Column("mass_air_flow", "g/s", 0.0, 655.35, "air that the engine takes in"),
    Column("calculated_load_value", "%", 0.0, 400.0, "engine load, share of the torque available now"),
    Column("absolute_throttle_pos", "%", 0.0, 100.0, "throttle position"),
    Column("fuel_rate", "L/h", 0.0, 3276.75, "fuel that the engine burns"),
    Column("P_kW", "kW", -1000.0, 2000.0, "power at the wheels or at the engine; negative while braking"),
    Column("intake_manifold_pressure", "kPa", 0.0, 400.0, "absolute pressure in the intake manifold"),
    Column("barometric_pressure", "kPa", 0.0, 255.0, "absolute pressure of the air around the car"),
    Column("engine_coolant_temp", "degC", -40.0, 215.0, "temperature of the engine's coolant"),
    Column("intake_air_temp", "degC", -40.0, 215.0, "temperature of the air that the engine takes in"),
    Column("ambient_air_temp", "degC", -40.0, 215.0, "temperature of the air around the car"),
    Column("fuel_level", "%", 0.0, 100.0, "fuel in the tank"),
    Column("timing_advance", "deg", -64.0, 100.0, "ignition before top dead centre"),
)

CANONICAL: Final[dict[str, Column]] = {column.name: column for column in _ALL}

# Other names, written as `key` leaves them: lower case, letters and digits only, no unit. They come from VED and
# eVED (Vehicle Energy Dataset), phone apps' exports and the command names of OBD libraries.
ALIASES: Final[dict[str, str]] = {
    **{re.sub(r"[^a-z0-9]", "", column.name.lower()): column.name for column in _ALL},
    "time": TIME_COLUMN,
    "timestamp": TIME_COLUMN,
    "seconds": TIME_COLUMN,
    "elapsed": TIME_COLUMN,
    "elapsedtime": TIME_COLUMN,
    "timesincestart": TIME_COLUMN,
    "engineruntime": TIME_COLUMN,
    "runtime": TIME_COLUMN,
    "speed": "vehicle_speed",
    "speedobd": "vehicle_speed",
    "rpm": "engine_rpm",
    "enginespeed": "engine_rpm",
    "maf": "mass_air_flow",
    "massairflowrate": "mass_air_flow",
    "mafairflowrate": "mass_air_flow",
    "load": "calculated_load_value",
    "engineload": "calculated_load_value",
    "calculatedload": "calculated_load_value",
    "calculatedengineload": "calculated_load_value",
    "calculatedenginevalue": "calculated_load_value",
    # VED logs absolute load where other loggers log calculated load: the nearest reading that those cars give.
    "absoluteload": "calculated_load_value",
    "throttle": "absolute_throttle_pos",
    "throttlepos": "absolute_throttle_pos",
    "throttleposition": "absolute_throttle_pos",
    "throttlepositionmanifold": "absolute_throttle_pos",
    "absolutethrottleposition": "absolute_throttle_pos",
    "fuelflow": "fuel_rate",
    "fuelrate": "fuel_rate",
    "enginefuelrate": "fuel_rate",
    "fuelconsumptionrate": "fuel_rate",
    "power": "P_kW",
    "enginepower": "P_kW",
    "map": "intake_manifold_pressure",
    "intakepressure": "intake_manifold_pressure",
    "barometer": "barometric_pressure",
    "coolanttemp": "engine_coolant_temp",
    "enginecoolanttemperature": "engine_coolant_temp",
    "airintaketemp": "intake_air_temp",
    "intaketemp": "intake_air_temp",
    "intakeairtemperature": "intake_air_temp",
    "oat": "ambient_air_temp",
    "outsideairtemperature": "ambient_air_temp",
    "ambientairtemperature": "ambient_air_temp",
    "fueltanklevel": "fuel_level",
}

# canonical unit -> {unit as a file may write it, in lower case: (factor, offset)}. Factors of mile, gallon,
# pound, horsepower and psi: NIST SP 811, appendix B.
UNITS: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "s": {
        **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), (1.0, 0.0)),
        **dict.fromkeys(("ms", "msec", "millis", "millisecond", "milliseconds"), (1e-3, 0.0)),
        **dict.fromkeys(("us", "µs", "usec", "microseconds"), (1e-6, 0.0)),
        **dict.fromkeys(("ns", "nanoseconds"), (1e-9, 0.0)),
        **dict.fromkeys(("1/10s", "ds"), (0.1, 0.0)),
        **dict.fromkeys(("1/100s", "cs"), (0.01, 0.0)),
        "1/1000s": (1e-3, 0.0),
        **dict.fromkeys(("min", "minutes"), (60.0, 0.0)),
        **dict.fromkeys(("h", "hr", "hours"), (3600.0, 0.0)),
    },
    "km/h": {
        **dict.fromkeys(("km/h", "kmh", "kph", "km/hr", "kmph", "km/hour", "kilometers/hour"), (1.0, 0.0)),
        **dict.fromkeys(("mph", "mi/h", "mi/hr", "miles/h", "miles/hour"), (1.609344, 0.0)),
        **dict.fromkeys(("m/s", "m/sec", "ms-1", "meters/second", "metres/second"), (3.6, 0.0)),
        **dict.fromkeys(("kn", "kt", "kts", "knot", "knots"), (1.852, 0.0)),
        "cm/s": (0.036, 0.0),
        **dict.fromkeys(("ft/s", "fps"), (1.09728, 0.0)),
    },
    "rpm": {
        **dict.fromkeys(("rpm", "1/min", "/min", "r/min", "rev/min", "u/min", "tr/min", "min-1", "min^-1"), (1.0, 0.0)),
        **dict.fromkeys(("x1000rpm", "rpmx1000", "1000rpm", "krpm", "x1000/min"), (1000.0, 0.0)),
        "rad/s": (60 / 6.283185307179586, 0.0),
    },
    "g/s": {
        **dict.fromkeys(("g/s", "g/sec", "gps", "gram/s", "grams/s", "grams/sec"), (1.0, 0.0)),
        **dict.fromkeys(("kg/h", "kg/hr"), (1 / 3.6, 0.0)),
        **dict.fromkeys(("lb/min", "lbs/min", "lb/m"), (453.59237 / 60, 0.0)),
    },
    "%": {
        **dict.fromkeys(("%", "percent", "pct"), (1.0, 0.0)),
        **dict.fromkeys(("share", "fraction"), (100.0, 0.0)),
    },
    "L/h": {
        **dict.fromkeys(("l/h", "l/hr", "lph"), (1.0, 0.0)),
        **dict.fromkeys(("gal/h", "gal/hr", "gph"), (3.785411784, 0.0)),
        "ml/s": (3.6, 0.0),
        **dict.fromkeys(("cc/min", "ml/min"), (0.06, 0.0)),
    },
    "kW": {"kw": (1.0, 0.0), "w": (1e-3, 0.0), "hp": (0.745699872, 0.0), "ps": (0.73549875, 0.0)},
    "kPa": {
        "kpa": (1.0, 0.0),
        "hpa": (0.1, 0.0),
        "mbar": (0.1, 0.0),
        "bar": (100.0, 0.0),
        **dict.fromkeys(("psi", "psia"), (6.894757, 0.0)),
        "inhg": (3.386389, 0.0),
    },
    "degC": {
        **dict.fromkeys(("degc", "c", "°c", "celsius"), (1.0, 0.0)),
        **dict.fromkeys(("degf", "f", "°f", "fahrenheit"), (5 / 9, -160 / 9)),
    },
    "deg": dict.fromkeys(("deg", "°", "degrees"), (1.0, 0.0)),
}

_UNIT_SUFFIX: Final = re.compile(r"^(?P<name>.*?)\s*[\[(](?P<unit>[^\])]*)[\])]\s*$")


def key(name: str) -> str:
    """Return a column's name as the alias table has it: lower case, letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def split_unit(header: str) -> tuple[str, str]:
    """Split `Vehicle Speed[km/h]` into its name and unit; the unit is empty where the header has none."""
    found = _UNIT_SUFFIX.match(header.strip())
    return (found["name"].strip(), found["unit"].strip()) if found else (header.strip(), "")


def conversion(column: Column, unit: str) -> tuple[float, float] | None:
    """Return (factor, offset) from `unit` to the column's own unit; None for a unit that does not fit it."""
    if not unit:
        return 1.0, 0.0
    return UNITS.get(column.unit, {}).get(unit.strip().lower())


def match(header: str) -> Match | None:
    """Recognise a file's column by its header, unit included; None for a header that is not in the table.

    A header with a known name and a unit that does not fit (`Speed[kg]`) is not recognised either: guessing
    would put wrong numbers into the training.
    """
    name, unit = split_unit(header)
    canonical = ALIASES.get(key(name))
    if canonical is None:
        return None
    column = CANONICAL[canonical]
    scale = conversion(column, unit)
    return Match(column, *scale) if scale is not None else None


def unit_of(name: str) -> str:
    """Return the unit of a canonical column, or an empty string for a column of the operator's own."""
    column = CANONICAL.get(name)
    return column.unit if column else ""
