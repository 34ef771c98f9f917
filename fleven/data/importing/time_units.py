"""What a clock without a unit counts: told apart by the logger's pace and by what the car would have to do.

A car's speed changes by 0.01 to 10 m/s² on average, its engine's speed by some rpm a second: read in a unit that is
wrong by a factor of thousand, it does not. Pure functions over arrays; must not import torch or flwr.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAY_SECONDS: Final = 86_400.0
#: A logger that reads less often than this shows no driving.
SLOWEST_SECONDS: Final = 60.0
# Two hundred rows a second; with a speed that agrees, more.
_FASTEST_SECONDS: Final = 0.005
_FASTEST_PROVED_SECONDS: Final = 0.0005
# No engine has run for three years; since 1970 as clocks show it: 1980 to 2100.
_LONGEST_SECONDS: Final = 1e8
_SINCE_1970: Final = (3.1e8, 4.2e9)
# Between 1970 and the zero of spreadsheets (end of 1899), of MATLAB, of astronomers, of .NET and of Windows' files.
_SPREADSHEET_DAYS: Final = 25_569.0
_MATLAB_DAYS: Final = 719_529.0
_JULIAN_DAYS: Final = 2_440_587.5
_TICKS_SECONDS: Final = 62_135_596_800.0
_FILE_TIME_SECONDS: Final = 11_644_473_600.0
# A clock that says its unit is believed at this pace; beyond it, the car's own readings are asked.
_BELIEVED_SECONDS: Final = (_FASTEST_SECONDS, 10.0)
_LEAST_CHANGES: Final = 5
_USUAL_SHARE: Final = 0.95
# A reading that changes by more of its range from row to row is no course of anything, such as cells filled with 0.
_ROUGHEST: Final = 0.2


@dataclass(frozen=True, slots=True)
class Evidence:
    """A reading [rows] that changes by `least` to `most` a second on average while the car drives.

    `usual` is what it does in most drives, for units that are nearer to each other. Below a range of `moves` it says
    nothing: the car stood.
    """

    values: NDArray[np.float64]
    least: float
    most: float
    usual: tuple[float, float]
    moves: float


def speed_evidence(speed_km_h: NDArray[np.float64]) -> Evidence:
    """Return what speed says: 0.008 to 15 m/s², most often 0.05 to 3."""
    return Evidence(speed_km_h, 0.008 * 3.6, 15.0 * 3.6, (0.05 * 3.6, 3.0 * 3.6), 3.0)


def engine_evidence(engine_rpm: NDArray[np.float64]) -> Evidence:
    """Return what engine speed says."""
    return Evidence(engine_rpm, 0.5, 2500.0, (3.0, 500.0), 100.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a clock's numbers: seconds = number * `factor` + `offset`; `unit` is as `--unit` takes it."""

    name: str
    unit: str
    factor: float
    offset: float = 0.0
    since_1970: bool = False


SECONDS: Final = Reading("seconds", "s", 1.0)
_COUNTS: Final = (
    SECONDS,
    Reading("milliseconds", "ms", 1e-3),
    Reading("microseconds", "us", 1e-6),
    Reading("nanoseconds", "ns", 1e-9),
)
_DATES: Final = (
    Reading("days since 1899", "", DAY_SECONDS, -_SPREADSHEET_DAYS * DAY_SECONDS, True),
    Reading("days since the year 0", "", DAY_SECONDS, -_MATLAB_DAYS * DAY_SECONDS, True),
    Reading("Julian days", "", DAY_SECONDS, -_JULIAN_DAYS * DAY_SECONDS, True),
    Reading("ticks of 100 ns since the year 1", "", 1e-7, -_TICKS_SECONDS, True),
    Reading("ticks of 100 ns since 1601", "", 1e-7, -_FILE_TIME_SECONDS, True),
)
# Only where nothing else can be: a minute is too near to a second.
_RARE: Final = (
    Reading("minutes", "min", 60.0),
    Reading("hours", "h", 3600.0),
    Reading("days", "", DAY_SECONDS),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The readings that can be, best first, and the usual step [as written] they were judged by.

    One reading: that is it. None: no unit makes a logger's clock of the numbers. More: nothing tells them apart.
    `proved` says that a reading of the car agrees.
    """

    readings: tuple[Reading, ...]
    step: float
    proved: bool = False


def judge(numbers: NDArray[np.float64], same: NDArray[np.bool_], evidence: Sequence[Evidence]) -> Verdict:
    """Judge what a clock's numbers [rows] count. `same[i]`: row i+1 is of the same vehicle as row i."""
    steps = np.diff(numbers)
    rising = steps[same & (steps > 0)]
    finite = numbers[np.isfinite(numbers)]
    if not len(rising) or not len(finite):
        return Verdict((), 0.0)
    step, typical = float(np.median(rising)), float(np.median(finite))
    rates = [rate for each in evidence if (rate := _rate(each, steps, same, step)) is not None]
    smooth = all(
        pace * step <= _ROUGHEST * float(np.nanmax(each.values) - np.nanmin(each.values)) for pace, each in rates
    )
    usual = [sized for each in (*_COUNTS, *_DATES) if (sized := _sized(each, typical)) is not None]
    rare = [sized for each in _RARE if (sized := _sized(each, typical)) is not None]
    if rates:
        for group in (usual, rare if smooth else []):
            proved = [each for each in group if _fastest(usual, step) <= step * each.factor <= SLOWEST_SECONDS]
            for number, (pace, each_evidence) in enumerate(rates):
                bounds = (each_evidence.least, each_evidence.most) if group is usual else each_evidence.usual
                agreeing = [each for each in proved if bounds[0] <= pace / each.factor <= bounds[1]]
                # The first, speed, decides; another reading only chooses among what it leaves.
                proved = agreeing if agreeing or number == 0 else proved
            if proved:
                return Verdict(tuple(proved), step, proved=True)
    for group in (usual, rare):
        paced = [each for each in group if _FASTEST_SECONDS <= step * each.factor <= SLOWEST_SECONDS]
        if paced:
            return Verdict(tuple(paced), step)
    return Verdict((), step)


def contradicted(
    numbers: NDArray[np.float64], factor: float, same: NDArray[np.bool_], evidence: Sequence[Evidence]
) -> Verdict | None:
    """Return what a clock's numbers [rows] count if that cannot be the unit that is said, `factor` seconds; else None.

    Some loggers write seconds under `ms`. The car must contradict the unit, and agree with another.
    """
    rising = np.diff(numbers)[same & (np.diff(numbers) > 0)]
    if not len(rising) or _BELIEVED_SECONDS[0] <= float(np.median(rising)) * factor <= _BELIEVED_SECONDS[1]:
        return None
    verdict = judge(numbers, same, evidence)
    wrong = verdict.proved and all(each.factor != factor for each in verdict.readings)
    return verdict if wrong else None


def _fastest(readings: Sequence[Reading], step: float) -> float:
    """Return the shortest step [s] that a reading of the car may prove.

    Numbers that are a date at a usual pace are no accident: a car that hardly changes its speed makes no fast counter
    of them.
    """
    dated = any(each.since_1970 and _FASTEST_SECONDS <= step * each.factor <= SLOWEST_SECONDS for each in readings)
    return _FASTEST_SECONDS if dated else _FASTEST_PROVED_SECONDS


def _sized(reading: Reading, typical: float) -> Reading | None:
    """Return the reading if a number of this size can be one, as time since 1970 where it is that."""
    seconds = typical * reading.factor + reading.offset
    if _SINCE_1970[0] <= seconds <= _SINCE_1970[1]:
        return Reading(reading.name, reading.unit, reading.factor, reading.offset, since_1970=True)
    return reading if not reading.since_1970 and abs(seconds) < _LONGEST_SECONDS else None


def _rate(
    evidence: Evidence, steps: NDArray[np.float64], same: NDArray[np.bool_], step: float
) -> tuple[float, Evidence] | None:
    """Return how much the reading changes on average by one unit of the clock."""
    values = evidence.values
    given = values[np.isfinite(values)]
    if not len(given) or float(given.max() - given.min()) < evidence.moves:
        return None
    changes = np.abs(np.diff(values))
    # Pauses and restarts are no driving; a clock of whole seconds under several rows a second has steps of zero.
    used = same & np.isfinite(changes) & (steps >= 0) & (steps <= 20.0 * step)
    time = float(steps[used].sum())
    if int(used.sum()) < _LEAST_CHANGES or time <= 0 or not changes[used].any():
        return None
    # Broken readings jump; a few of them must not speak for all.
    usual = np.minimum(changes[used], np.quantile(changes[used], _USUAL_SHARE))
    return float(usual.sum()) / time, evidence


def digits_of_a_clock(numbers: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return seconds since midnight where the numbers are `hhmmss` (GPS receivers write it so), else None.

    A counter of seconds passes numbers that end in 60 to 99 before long; a clock never shows them.
    """
    finite = numbers[np.isfinite(numbers)]
    if len(finite) < 2 or finite.min() < 0 or finite.max() >= 240_000 or finite.max() - finite.min() < 100:
        return None
    hours, rest = np.divmod(numbers, 10_000.0)
    minutes, seconds = np.divmod(rest, 100.0)
    if np.nanmax(minutes) >= 60 or np.nanmax(seconds) >= 60:
        return None
    total = hours * 3600.0 + minutes * 60.0 + seconds
    written, meant = np.diff(finite), np.diff(total[np.isfinite(numbers)])
    rising = written > 0
    jumps = (written > 40) & (written <= 4100)
    if not jumps.any() or float(np.median(written[rising])) > 30.0:
        return None
    # Where the number jumps over 60 to 99, the clock goes on at its pace.
    pace = float(np.median(meant[rising]))
    return total if float(np.median(meant[jumps])) <= 5.0 * max(pace, 1.0) else None
