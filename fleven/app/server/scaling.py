"""The fleet's scaler from the cars' statistics, of which one alone may not decide. Must not import flwr or torch.

A scaler that one car has made up breaks the training of all others. So each car's statistics are held against those of
the middle car, column by column, and no car has more than a bounded share in what is pooled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..columns import CANONICAL
from ..trips.windows import Statistics
from .strategy import bounded_weights

#: With fewer cars there is no middle.
FEWEST_TO_COMPARE = 3
#: Standard deviations of the middle car from its mean, and how many times as wide.
FURTHEST, WIDEST = 6.0, 6.0
#: Share of a column's plausible range below which a difference means nothing.
NEGLIGIBLE_SHARE = 0.01


@dataclass(frozen=True)
class Pooled:
    """Statistics of all cars together, and why some are not in it, by the key that they were given with."""

    statistics: Statistics
    left_out: Mapping[int, str]


def pool(parts: Mapping[int, Statistics], columns: Sequence[str], max_share: float) -> Pooled:
    """Pool the statistics of these cars, in the order given. Raises ValueError without any."""
    left_out = _odd(parts, columns)
    kept = [part for key, part in parts.items() if key not in left_out]
    weights = bounded_weights([float(part.count) for part in kept], max_share)
    pooled = None
    for part, weight in zip(kept, weights, strict=True):
        shrunk = part if weight == part.count else _shrunk(part, max(int(weight), 1))
        pooled = shrunk if pooled is None else pooled.merge(shrunk)
    if pooled is None:
        raise ValueError("no car's statistics can be used")
    return Pooled(pooled, left_out)


def _shrunk(part: Statistics, count: int) -> Statistics:
    return Statistics(count, part.mean, part.deviation * (count / part.count))


def _odd(parts: Mapping[int, Statistics], columns: Sequence[str]) -> dict[int, str]:
    """Return the cars that are far from the middle car in some column, and in which; none if they are not few.

    Where half of the cars are odd, as in a fleet of which one half drives and the other idles, the middle is no car's
    and says nothing; it may even be where one car wants it, and that car would be left alone.
    """
    if len(parts) < FEWEST_TO_COMPARE:
        return {}
    means = np.array([part.mean for part in parts.values()])
    deviations = np.array([np.sqrt(part.deviation / max(part.count, 1)) for part in parts.values()])
    centre, spread = np.median(means, axis=0), np.median(deviations, axis=0)
    floor = np.array([_negligible(name, middle) for name, middle in zip(columns, centre, strict=True)])
    scale = np.maximum(spread, floor)
    far = np.abs(means - centre) / scale
    wide = deviations / scale
    found: dict[int, str] = {}
    for row, key in enumerate(parts):
        names = [name for index, name in enumerate(columns) if far[row, index] > FURTHEST or wide[row, index] > WIDEST]
        if names:
            found[key] = f"its {', '.join(names)} are unlike all other cars'"
    return found if 2 * len(found) < len(parts) else {}


def _negligible(column: str, middle: float) -> float:
    known = CANONICAL.get(column)
    return NEGLIGIBLE_SHARE * ((known.maximum - known.minimum) if known else max(abs(middle), 1e-9))
