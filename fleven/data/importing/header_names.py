"""What the text of a header says: the name, the unit, and who measured it.

Loggers write all three in one cell: `Speed (OBD)(km/h)`, `[ECM] Engine RPM (rpm)`, `Speed (m/s) *gps`, `speed_can_kmh`.
Pure; must not import numpy, pandas, torch or flwr.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple

from fleven.app import columns
from fleven.data.importing.logger_names import NAMES, folded_key, normal_unit


class Origin(StrEnum):
    """Who measured a reading, as far as its header tells."""

    UNKNOWN = ""
    CAR = "car"
    GPS = "gps"
    COMPUTED = "computed"


class HeaderParts(NamedTuple):
    """A header taken apart; `unit` is empty where it names none."""

    name: str
    unit: str
    origin: Origin


_QUALIFIER: Final = re.compile(
    r"sae|obd|obd2|obdii|obd-ii|obd ii|ecu|ecm|pcm|can|canbus|can bus|gps|j1979|j1939|eobd|wwh-obd|iso|calc|calculated|"
    r"sensor|actual|raw|manifold|vehicle|engine|bank ?\d|b\d|b\ds\d|s\d|#?\d|mode ?\d+|(?:pid )?(?:0x)?[0-9a-f]{2,4}h?|"
    r"dma|main|primary|generic|standard|std|mod",
    re.IGNORECASE,
)
_BRACKETS: Final = re.compile(r"\s*(?:\((?P<round>[^()]*)\)|\[(?P<square>[^\[\]]*)\])\s*$")
_CAR: Final = re.compile(r"obd|obd2|obdii|obd-ii|obd ii|sae|can|can ?bus|ecu|ecm|pcm|tcm|vehicle", re.IGNORECASE)
# What loggers put before a name: the control unit, the standard, the message or the PID that a reading came from.
_PREFIX: Final = re.compile(
    r"\[(?-i:[A-Z][A-Z0-9 /_-]{1,7})\]\s*|(?:(?:sae|gm|obd2?|obdii|ecu|[ept]cm|can\d*|eec\d|ccvs\d?|lfe\d?|et\d)[.:])+|"
    r"(?:s\d+_)?pid[_ ][0-9a-f]{2}[_ ]|(?:mode )?(?:0x)?0[1-9] ?[0-9a-f]{2}[ _:-]+",
    re.IGNORECASE,
)
# `CAN load` is that of the bus, `ECU power` that of a box.
_NOT_OF_A_BOX: Final = frozenset(("load", "power", "runtime", "elapsedtime"))
_AFFIXES: Final = ("gps", "obd2", "obdii", "obd", "canbus", "can", "ecu", "ecm", "pcm")
# Units written at a name's end without brackets: `speed_kmh`, `time ms`, `coolant_temp_c`.
_UNIT_ENDINGS: Final = {
    **dict.fromkeys(("kmh", "kph", "km/h", "kmph"), "km/h"),
    **dict.fromkeys(("mph",), "mph"),
    **dict.fromkeys(("mps", "m/s"), "m/s"),
    **dict.fromkeys(("ms", "millis", "msec"), "ms"),
    **dict.fromkeys(("us", "micros", "usec"), "us"),
    **dict.fromkeys(("ns", "nanos"), "ns"),
    **dict.fromkeys(("s", "sec", "secs", "seconds"), "s"),
    **dict.fromkeys(("pct", "percent", "%"), "%"),
    **dict.fromkeys(("gs", "g/s", "gps", "gsec"), "g/s"),
    **dict.fromkeys(("degc", "c", "celsius"), "degC"),
    **dict.fromkeys(("degf", "f", "fahrenheit"), "degF"),
    **dict.fromkeys(("kpa",), "kPa"),
    **dict.fromkeys(("psi",), "psi"),
    **dict.fromkeys(("lph", "l/h"), "L/h"),
    **dict.fromkeys(("kw",), "kW"),
    **dict.fromkeys(("rpm",), "rpm"),
}
# What stands between a name and its unit where there are no brackets: `Zeit in s`, `n / rpm`, `Speed, mph`.
_BEFORE_UNIT: Final = re.compile(r"[ _.\-:/]+([^ _.\-:]+)$")
# Endings that are long enough to be no part of a word: `VehicleSpeedMPH`.
_GLUED_ENDINGS: Final = ("kmh", "kph", "mph", "mps", "pct", "percent", "rpm", "kpa", "psi", "msec", "millis")
# Names that say no more than how a speed is measured, as apps with a GPS of their own write them.
_SPEED_UNITS: Final = ("mph", "kph", "kmh", "km/h")


def parts(header: str) -> HeaderParts:
    """Split a header into name, unit and origin.

    Brackets that hold no unit but who measured (`(SAE)`, `(OBD)`, `[PID 0D]`), and prefixes that do (`[ECM]`, `SAE.`,
    `010D`), are taken off, unless the name with them is known. RaceCapture writes `"Speed"|"km/h"|0.0|160.0|10`. A unit
    may also end the name (`speed_kmh`, `Speed, mph`, `Geschwindigkeit in km/h`).
    """
    text = header.strip().strip('"').strip()
    piped = [part.strip(' "') for part in text.split("|")]
    if len(piped) >= 2 and piped[0]:
        return HeaderParts(piped[0], piped[1], _origin_of_name(piped[0]))
    origin = Origin.UNKNOWN
    marked = re.search(r"\s*\*\s*(\w+)$", text)  # TrackAddict, RaceChrono: `Vehicle Speed (km/h) *OBD`
    if marked and marked.start():
        text, origin = text[: marked.start()], origin_of(marked[1])
    if text.lower() in _SPEED_UNITS:
        return HeaderParts("GPS speed", text, Origin.GPS)
    text, unit, said = _without_brackets(text)
    text, before = _without_prefix(text)
    text, ending = _without_ending(text)
    unit = unit or ending
    text, beside = _without_affix(text)
    found = (each for each in (origin, said, beside, before, _origin_of_name(text)) if each)
    return HeaderParts(text, unit, next(found, Origin.UNKNOWN))


def origin_of(text: str) -> Origin:
    """Return whom a mark or a cell of a row of sources names: `obd`, `200: canbus`, `100: gps`, `calc`."""
    words = re.findall(r"[a-z]\w*", text.lower())
    if "gps" in words:
        return Origin.GPS
    if any(map(_CAR.fullmatch, words)):
        return Origin.CAR
    return Origin.COMPUTED if {"calc", "calculated"} & set(words) else Origin.UNKNOWN


def _origin_of_name(name: str) -> Origin:
    lower = name.lower()
    return Origin.GPS if "gps" in lower else Origin.CAR if "obd" in lower else Origin.UNKNOWN


def _without_brackets(text: str) -> tuple[str, str, Origin]:
    unit, origin = "", Origin.UNKNOWN
    while folded_key(text) not in NAMES and (found := _BRACKETS.search(text)):
        inside = (found["round"] if found["round"] is not None else found["square"]).strip()
        if inside and not _QUALIFIER.fullmatch(inside):
            if unit or not _may_be_unit(inside):
                break
            unit = inside
        rest = text[: found.start()].strip()
        if not rest:
            break
        if inside.lower() == "gps" and "gps" not in rest.lower():
            rest = f"GPS {rest}"
        origin = origin or (Origin.CAR if _CAR.fullmatch(inside) else Origin.UNKNOWN)
        text = rest
    return text, unit, origin


def _without_prefix(text: str) -> tuple[str, Origin]:
    """Take off what stands before a name, and a short name in capitals after it, if a known name is left."""
    found = _PREFIX.match(text) if folded_key(text) not in NAMES else None
    if found:
        rest = text[found.end() :].strip()
        for name in (rest, rest.partition(" ")[2]):
            if name and _is_known(name):
                return name, Origin.GPS if "gps" in found[0].lower() else Origin.CAR
    return text, Origin.UNKNOWN


def _is_known(text: str) -> bool:
    """Whether a text is a known name, with or without a unit or a source at its end."""
    name = _without_affix(_without_ending(_without_brackets(text)[0])[0])[0]
    return folded_key(name) in NAMES


def _without_ending(text: str) -> tuple[str, str]:
    """Take a unit off a name's end, if a known name is left that has such a unit."""
    key = folded_key(text)
    found = _BEFORE_UNIT.search(text)
    if key in NAMES:
        return text, ""
    if found:
        name, ending = re.sub(r"(?:\s+in|[\s,:/]+)$", "", text[: found.start()]), found[1].lower()
        target = NAMES.get(folded_key(_without_affix(name)[0]))
        column = columns.CANONICAL.get(target or "")
        if target == "vehicle_speed" and ending == "ms":
            return name, "m/s"
        if column is not None and ending in _UNIT_ENDINGS:
            return name, _UNIT_ENDINGS[ending]
        if column is not None and columns.conversion(column, normal_unit(ending)) is not None:
            return name, ending
    for ending in _GLUED_ENDINGS:
        if key.endswith(ending) and key[: -len(ending)] in NAMES and text.lower().endswith(ending):
            return text[: -len(ending)], _UNIT_ENDINGS[ending]
    return text, ""


def _without_affix(text: str) -> tuple[str, Origin]:
    """Take off a word before or after a name that tells who measured it: `speed_can`, `OBD throttle`."""
    if folded_key(text) in NAMES:
        return text, Origin.UNKNOWN
    words = re.split(r"[ _.\-]+", text)
    for at, rest in ((0, words[1:]), (-1, words[:-1])):
        key = folded_key(" ".join(rest))
        if words[at].lower() in _AFFIXES and key in NAMES and key not in _NOT_OF_A_BOX:
            origin = origin_of(words[at])
            return f"GPS {' '.join(rest)}" if origin == Origin.GPS else " ".join(rest), origin
    return text, Origin.UNKNOWN


def _may_be_unit(text: str) -> bool:
    """Whether brackets hold a unit, be it one that nobody knows: short, and no sentence."""
    return len(text) <= 24 and text.count(" ") <= 2
