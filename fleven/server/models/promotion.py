"""Whether a run's model takes the champion's place, from what the cars found of both on the same windows. Pure.

Must not import SQLAlchemy, FastAPI or typer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from fleven.server.runs.policy import named
from fleven.server.runs.results import car_label, number
from fleven.server.schedules.spec import ScheduleSpec


class Verdict(StrEnum):
    """Why a model was promoted, or stays a candidate. The values never change."""

    FIRST = "first"
    """Promoted: the experiment had no champion."""
    BETTER = "better"
    """Promoted: the error fell, and few enough cars lose by it."""
    GAIN_TOO_SMALL = "gain-too-small"
    TOO_MANY_LOSERS = "too-many-losers"
    NOT_MEASURED = "not-measured"
    """No car had windows to judge it on."""
    NOT_COMPARED = "not-compared"
    """The champion could not be scored beside it."""
    CHAMPION_CHANGED = "champion-changed"
    """Another model has become the champion since the run began."""

    @property
    def promoted(self) -> bool:
        """Whether the model becomes the champion."""
        return self in (Verdict.FIRST, Verdict.BETTER)


@dataclass(frozen=True, slots=True)
class Pair:
    """What one car found on its held-out windows: how many there are, and the error (RMSE) of both models on them."""

    car: str
    windows: int
    candidate: float
    champion: float


@dataclass(frozen=True, slots=True)
class Promotion:
    """The decision on one model, as the register keeps it.

    Attributes:
        code: why.
        message: the same for people.
        champion: name of the model that it was compared with; "" for none.
        gain: share by which the pooled error fell; negative where it grew.
        losers: cars whose error grew by more than the tolerance.
        cars: how many were compared.
    """

    code: Verdict
    message: str
    champion: str = ""
    gain: float | None = None
    losers: tuple[str, ...] = ()
    cars: int = 0

    def plain(self) -> dict[str, Any]:
        """Return plain values for the register."""
        return asdict(self) | {"code": self.code.value, "promoted": self.code.promoted, "losers": list(self.losers)}


def pairs_of(result: Mapping[str, Any]) -> list[Pair]:
    """Return what the cars found; without those whose updates were suspicious, and those without windows."""
    found = []
    for car in result.get("cars") or []:
        if not isinstance(car, Mapping) or car.get("update_suspicious"):
            continue
        windows, own, other = (number(car.get(key)) for key in ("windows_test", "rmse", "champion_rmse"))
        if windows and own is not None and other is not None:
            found.append(Pair(car_label(car), int(windows), own, other))
    return found


def pooled(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return the error (RMSE) of candidate and champion over the windows of all cars together."""
    windows = sum(pair.windows for pair in pairs)
    candidate = sum(pair.windows * pair.candidate**2 for pair in pairs)
    champion = sum(pair.windows * pair.champion**2 for pair in pairs)
    return math.sqrt(candidate / windows), math.sqrt(champion / windows)


def judge(result: Mapping[str, Any], champion: tuple[str, str] | None, spec: ScheduleSpec) -> Promotion:
    """Decide whether a run's model becomes the champion.

    Args:
        result: the run's result.json.
        champion: name and SHA-256 of the champion there is now; None for none.
        spec: the schedule, with minimum gain, maximum of losers and tolerance.
    """
    if champion is None:
        if number((result.get("global") or {}).get("rmse")) is None:
            return Promotion(Verdict.NOT_MEASURED, "no car had held-out windows to judge it on")
        return Promotion(Verdict.FIRST, "the first model of its experiment that was measured")
    name, sha256 = champion
    compared = result.get("champion")
    if not isinstance(compared, Mapping):
        return Promotion(Verdict.CHAMPION_CHANGED, f"{name} became the champion after the run began", name)
    if compared.get("code"):
        why = str(compared.get("reason"))[:500]
        return Promotion(Verdict.NOT_COMPARED, f"not compared with {name}: {compared['code']}: {why}", name)
    if compared.get("sha256") != sha256:
        return Promotion(Verdict.CHAMPION_CHANGED, f"{name} became the champion after the run began", name)
    pairs = pairs_of(result)
    if not pairs:
        return Promotion(Verdict.NOT_MEASURED, f"no car had held-out windows on which to compare it with {name}", name)
    own, other = pooled(pairs)
    gain = 1 - own / other if other > 0 else 0.0
    losers = tuple(pair.car for pair in pairs if pair.candidate > pair.champion * (1 + spec.loser_tolerance))
    said = f"RMSE {own:.4g} against {other:.4g} of {name} on {len(pairs)} cars, {_change(gain)}"
    if gain < spec.minimum_gain:
        code, message = Verdict.GAIN_TOO_SMALL, f"{said}; must fall by {spec.minimum_gain:.1%} at least"
    elif len(losers) > spec.maximum_losers * len(pairs):
        code = Verdict.TOO_MANY_LOSERS
        message = (
            f"{said}; worse by more than {spec.loser_tolerance:.1%}: {named(losers)}, "
            f"{len(losers)} of {len(pairs)} cars, at most {spec.maximum_losers:.0%} may be"
        )
    else:
        code = Verdict.BETTER
        message = said + (f"; worse by more than {spec.loser_tolerance:.1%}: {named(losers)}" if losers else "")
    return Promotion(code, message, name, gain, losers, len(pairs))


def _change(gain: float) -> str:
    return f"{abs(gain):.1%} {'lower' if gain >= 0 else 'higher'}"
