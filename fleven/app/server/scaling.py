"""The fleet's scaler from the cars' statistics, of which one alone may not decide. Must not import flwr or torch.

A scaler that one car has made up breaks the training of all others. So each car's statistics are compared with those of
the middle car, column by column: what is out of all proportion is left out, what is far counts as less far, and no car
counts for many. A scaler need not be exact: it only has to bring readings into a range that a network takes.
"""

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..columns import CANONICAL
from ..trips.windows import Statistics
from .strategy import bounded_weights

#: With fewer cars there is no middle.
FEWEST_TO_COMPARE = 3
#: Standard deviations of the middle car from its mean, and how many times as wide: beyond it is another unit or a lie.
FURTHEST, WIDEST = 6.0, 6.0
#: The same: a car beyond counts as this far and this wide.
FAR, WIDE = 1.0, 1.5
#: Times the rows of the middle car that one car counts for at most.
MOST_ROWS = 1.5
#: Share of a column's plausible range below which a difference means nothing.
NEGLIGIBLE_SHARE = 0.01


@dataclass(frozen=True)
class Pooled:
    """Statistics of all cars together, and why some are not in it, by the key that they were given with."""

    statistics: Statistics
    left_out: Mapping[int, str]


@dataclass(frozen=True)
class _Middle:
    """The middle car: its means, and what a difference is measured in; both float64 [columns]."""

    centre: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    def beyond(self, part: Statistics, far: float, wide: float) -> npt.NDArray[np.bool_]:
        """Return in which columns a car is further away or wider than this."""
        spread = np.sqrt(part.deviation / max(part.count, 1))
        return (np.abs(part.mean - self.centre) > far * self.scale) | (spread > wide * self.scale)

    def nearer(self, part: Statistics) -> Statistics:
        """Return a car's statistics, no further away and no wider than FAR and WIDE."""
        mean = np.clip(part.mean, self.centre - FAR * self.scale, self.centre + FAR * self.scale)
        return Statistics(part.count, mean, np.minimum(part.deviation, part.count * (WIDE * self.scale) ** 2))


def pool(parts: Mapping[int, Statistics], columns: Sequence[str], max_share: float) -> Pooled:
    """Pool the statistics of these cars, in the order given. Raises ValueError without any."""
    middle = _middle(list(parts.values()), columns)
    left_out: dict[int, str] = {}
    kept = dict(parts)
    if middle is not None:
        for key, part in parts.items():
            odd = middle.beyond(part, FURTHEST, WIDEST)
            if odd.any():
                names = [name for name, one in zip(columns, odd, strict=True) if one]
                left_out[key] = f"its {', '.join(names)} are unlike all other cars'"
        if _are_few(left_out, parts):
            kept = {key: part for key, part in parts.items() if key not in left_out}
            if _are_few([key for key, part in parts.items() if middle.beyond(part, FAR, WIDE).any()], parts):
                kept = {key: middle.nearer(part) for key, part in kept.items()}
        else:
            left_out = {}
    most = MOST_ROWS * float(np.median([part.count for part in parts.values()])) if middle is not None else math.inf
    weights = bounded_weights([min(part.count, most) for part in kept.values()], max_share)
    pooled = None
    for part, weight in zip(kept.values(), weights, strict=True):
        shrunk = part if weight == part.count else _shrunk(part, max(int(weight), 1))
        pooled = shrunk if pooled is None else pooled.merge(shrunk)
    if pooled is None:
        raise ValueError("no car's statistics can be used")
    return Pooled(pooled, left_out)


def _shrunk(part: Statistics, count: int) -> Statistics:
    return Statistics(count, part.mean, part.deviation * (count / part.count))


def _are_few(cars: Sized, of: Sized) -> bool:
    """Return whether so few cars are unlike the middle one that it is the others' middle.

    Where half of the cars are, as in a fleet of which one half drives and the other idles, the middle is no car's and
    says nothing; it may even be where one car wants it, and that car would be left alone.
    """
    return 2 * len(cars) < len(of)


def _middle(parts: Sequence[Statistics], columns: Sequence[str]) -> _Middle | None:
    if len(parts) < FEWEST_TO_COMPARE:
        return None
    centre = np.median([part.mean for part in parts], axis=0)
    spread = np.median([np.sqrt(part.deviation / max(part.count, 1)) for part in parts], axis=0)
    floor = np.array([_negligible(name, middle) for name, middle in zip(columns, centre, strict=True)])
    return _Middle(centre, np.maximum(spread, floor))


def _negligible(column: str, middle: float) -> float:
    known = CANONICAL.get(column)
    return NEGLIGIBLE_SHARE * ((known.maximum - known.minimum) if known else max(abs(middle), 1e-9))
