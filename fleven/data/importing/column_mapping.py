"""Which column of a log becomes what: vehicle, trip, clock, or one of the canonical columns.

Pure functions over headers; `fleven.app.columns` holds the names and units. Must not import torch, flwr, pandas.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from fleven.app import columns
from fleven.data.errors import InputError, Problem
from fleven.data.importing.header_names import Origin, parts
from fleven.data.importing.logger_names import (
    BARE_SPEED,
    NAMES,
    STAND_INS,
    WHEEL_SPEED,
    clock_unit,
    folded_key,
    normal_unit,
)

VEHICLE: Final = "vehicle"
TRIP: Final = "trip"
DATE: Final = "date"
_ROLES: Final = {
    VEHICLE: "vehicleid vehid vehicle vehicleno carid car vin deviceid veiculo idveiculo vehiculo idvehiculo fahrzeug "
    "fahrzeugid vehicule veicolo voertuig",
    TRIP: "trip tripid tripno tripnumber session sessionid viagem viaje fahrt trajet viaggio",
    DATE: "date day data fecha datum gpsdate utcdate localdate",
}
_ROLE_KEYS: Final = {key: role for role, keys in _ROLES.items() for key in keys.split()}
# Clocks whose names say what they count.
_CLOCK_UNITS: Final = {
    **dict.fromkeys(("timestampms", "timems", "elapsedtimems", "elapsedms", "millis", "itow", "cts"), "ms"),
    **dict.fromkeys(("timestampus", "timeus", "micros"), "us"),
    **dict.fromkeys(("timestampns", "timens"), "ns"),
}
_SECONDS_KEYS: Final = ("timesec", "seconds")
# A file with a position has a receiver of GPS, whose speed is often called just `Speed`.
_POSITION_KEYS: Final = frozenset(("latitude", "lat", "breitengrad", "latitud", "latitudine"))
#: From this doubt on the operator is told.
DOUBTFUL: Final = 2
_OWN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Split(StrEnum):
    """What else than a column can tell the vehicles apart."""

    FILE = "file"
    FOLDER = "folder"
    TRIP = "trip"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator added to the alias table. Keys of `targets` are headers without case and outer blanks."""

    targets: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    by: str | None = None

    def target(self, header: str) -> str | None:
        """Return what the operator mapped this header to: by its whole text or without its unit."""
        whole = _plain(header)
        return (
            self.targets.get(whole)
            or self.targets.get(_plain(columns.split_unit(header)[0]))
            or self.targets.get(_plain(parts(header)[0]))
        )

    def is_by(self, header: str) -> bool:
        """Whether this header is the one that `--by` names."""
        return self.by is not None and _plain(header) == _plain(self.by)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One column of a file for one target; `unit` is as header, row of units or operator give it, empty for none.

    `declared` says that the operator gave the unit, which then holds for every cell. A `stand_in` serves where nothing
    better is there; of the others, and of stand-ins, the one with the lower `doubt` is likelier to be the real one.
    `in_seconds` says that a clock's name promises seconds.
    """

    index: int
    header: str
    target: str
    unit: str
    declared: bool
    explicit: bool
    stand_in: bool = False
    in_seconds: bool = False
    doubt: int = 0


@dataclass(slots=True)
class Assignment:
    """The roles of a file's columns. `signals` and `clocks` hold the best candidate first.

    `unfit` has, by target, the header and the unit of a column that is ignored because nobody knows its unit.
    """

    vehicle: int | None = None
    trip: int | None = None
    date: int | None = None
    clocks: list[Candidate] = field(default_factory=list)
    signals: dict[str, list[Candidate]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    unfit: dict[str, tuple[str, str]] = field(default_factory=dict)


def _plain(text: str) -> str:
    return text.strip().casefold()


def parse_rules(maps: Sequence[str], units: Sequence[str], by: str | None) -> Rules:
    """Read `--map "HEADER=name"` and `--unit "name=unit"`.

    Raises:
        InputError: with every option that is wrong.
    """
    problems: list[Problem] = []
    targets: dict[str, str] = {}
    for text in maps:
        header, equals, target = (part.strip() for part in text.rpartition("="))
        if not equals or not header or not _OWN_NAME.fullmatch(target):
            hint = 'write --map "HEADER=name", name of letters, digits and _'
            problems.append(Problem("--map", text, "is not understood", hint))
            continue
        targets[_plain(header)] = _canonical_case(target)
    chosen: dict[str, str] = {}
    for text in units:
        name, equals, unit = (part.strip() for part in text.partition("="))
        if not equals or not name or not unit:
            problems.append(Problem("--unit", text, "is not understood", 'write --unit "name=unit"'))
            continue
        name = _canonical_case(name)
        column = columns.CANONICAL.get(name)
        if column is not None and columns.conversion(column, unit) is None:
            known = ", ".join(columns.UNITS[column.unit])
            problems.append(Problem("--unit", name, f"{unit} cannot be turned into {column.unit}", f"known: {known}"))
            continue
        chosen[name] = unit
    if problems:
        raise InputError(problems)
    return Rules(targets, chosen, by)


def _canonical_case(name: str) -> str:
    """Return the canonical spelling, so that nobody has to remember that `p_kw` is P_kW."""
    same = {known.casefold(): known for known in (*columns.CANONICAL, VEHICLE, TRIP)}
    return same.get(name.casefold(), name)


def known_header(header: str, rules: Rules) -> bool:
    """Whether the importer has a use for a column of this name."""
    if rules.is_by(header) or rules.target(header) is not None or folded_key(header) in _ROLE_KEYS:
        return True
    name, unit, _ = parts(header)
    target = NAMES.get(folded_key(name))
    column = columns.CANONICAL.get(target or "")
    return column is not None and (
        target == columns.TIME_COLUMN or columns.conversion(column, normal_unit(unit)) is not None
    )


def assign(
    headers: Sequence[str], rules: Rules, units: Sequence[str] = (), origins: Sequence[Origin] = ()
) -> Assignment:
    """Give every column of a file its role.

    `units` and `origins` are those of rows of units and of sources, empty where these name none.
    """
    found = Assignment()
    located = any(folded_key(parts(header).name) in _POSITION_KEYS for header in headers)
    for index, header in enumerate(headers):
        if not header:
            continue
        if rules.is_by(header):
            found.vehicle = index
            continue
        target = rules.target(header)
        if target is None and _take_role(found, index, header, rules):
            continue
        if target in (VEHICLE, TRIP):
            if target == TRIP:
                found.trip = index
            elif rules.by is None:
                found.vehicle = index
            continue
        origin = origins[index] if origins else Origin.UNKNOWN
        candidate = _candidate(index, header, target, rules, units[index] if units else "", origin, located=located)
        if isinstance(candidate, str):
            found.ignored[header] = candidate
        elif isinstance(candidate, _Unfit):
            found.ignored[header] = candidate.reason
            found.unfit.setdefault(candidate.target, (header, candidate.unit))
        elif candidate.target == columns.TIME_COLUMN:
            found.clocks.append(candidate)
        else:
            found.signals.setdefault(candidate.target, []).append(candidate)
    if not found.clocks and found.date is not None:
        found.clocks.append(Candidate(found.date, headers[found.date], columns.TIME_COLUMN, "", False, False))
    for group in (found.clocks, *found.signals.values()):
        group.sort(
            key=lambda each: (not each.explicit, each.stand_in, each.doubt, each.header != each.target, each.index)
        )
    return found


def _take_role(found: Assignment, index: int, header: str, rules: Rules) -> bool:
    role = _ROLE_KEYS.get(folded_key(header))
    if role == VEHICLE and found.vehicle is None and rules.by is None:
        found.vehicle = index
    elif role == TRIP and found.trip is None:
        found.trip = index
    elif role == DATE and found.date is None:
        found.date = index
    else:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Unfit:
    """A column of a known name whose unit nobody knows."""

    target: str
    unit: str
    reason: str


def _candidate(
    index: int, header: str, target: str | None, rules: Rules, row_unit: str, row_origin: Origin, *, located: bool
) -> Candidate | _Unfit | str:
    """Return the column as a candidate, or why it is ignored. `located`: the file has positions too."""
    name, unit, said = parts(header)
    key = folded_key(name)
    explicit = target is not None
    if target is None:
        target = NAMES.get(key)
    if target is None:
        return "not in the alias table"
    origin = row_origin or said
    elsewhere = target == "vehicle_speed" and origin in (Origin.GPS, Origin.COMPUTED)
    stand_in = not explicit and (key in STAND_INS or elsewhere)
    doubt = _doubt(key, origin, located=located) if target == "vehicle_speed" else int(origin != Origin.CAR)
    doubt = 0 if explicit else doubt
    if target in rules.units:
        return Candidate(index, header, target, rules.units[target], True, explicit, stand_in, doubt=doubt)
    unit = unit or row_unit
    if target == columns.TIME_COLUMN:
        unit = clock_unit(unit) or _CLOCK_UNITS.get(key, "")
        return Candidate(index, header, target, unit, False, explicit, stand_in, key in _SECONDS_KEYS)
    column = columns.CANONICAL.get(target)
    if column is not None and columns.conversion(column, normal_unit(unit)) is None and not explicit:
        # A column that the operator named is refused when its cells are read, with a hint.
        return _Unfit(target, unit, f"unit {unit} does not fit {target} [{column.unit}]")
    return Candidate(index, header, target, unit, False, explicit, stand_in, doubt=doubt)


def _doubt(key: str, origin: Origin, *, located: bool) -> int:
    """Return how likely a speed is not the one that the car reports: 0 where its name says so."""
    if origin == Origin.COMPUTED:
        return DOUBTFUL + 2
    if origin == Origin.CAR:
        return 0
    if key in WHEEL_SPEED:
        return DOUBTFUL
    return (DOUBTFUL + 1 if located else 1) if key in BARE_SPEED else 0


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint with the most similar of `names`, or with the first of them."""
    choices = [each for each in names if each]
    same = {each.casefold(): each for each in choices}
    close = difflib.get_close_matches(name.casefold(), list(same), n=1, cutoff=0.5)
    if close:
        return f"did you mean {same[close[0]]}?"
    return f"there are {', '.join(choices[:12])}" if choices else ""
