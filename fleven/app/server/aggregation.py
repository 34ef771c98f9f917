"""How the cars' weights become one vector, and how unlike the others each car's change is.

`mean` believes every car within the bounds of `strategy`; the other rules hold a minority of any intent back, at a
price for honest cars that differ. Flower's own functions where it has them. Must not import torch or pandas.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum

from ..settings import Aggregation, Settings
from .strategy import average, check_names

Vector = npt.NDArray[np.float32]
#: With fewer cars there are no others whose opinion counts.
FEWEST_TO_SCORE = 3
#: A change at this cosine or below undoes what the others do: those of 19 drivers in five cars never came below -0.17.
AGAINST = -0.3
#: Times the median's length below which a car has not trained at all.
IDLE = 0.01


def combine(weights: Mapping[int, Vector], shares: Sequence[float], base: Vector, settings: Settings) -> Vector:
    """Return the next mean of these cars' weights, by key, each with its share.

    base: the weights that they began with.
    """
    changes = {key: vector - base for key, vector in weights.items()}
    return RULES[settings.aggregation](changes, shares, base, settings.hostile_share)


Changes = Mapping[int, Vector]


def _mean(changes: Changes, shares: Sequence[float], base: Vector, _hostile: float) -> Vector:
    return base + average(list(zip(changes.values(), shares, strict=True)))


def _median(changes: Changes, _shares: Sequence[float], base: Vector, _hostile: float) -> Vector:
    """Yin et al. 2018, "Byzantine-Robust Distributed Learning", option I; every car counts the same."""
    return (base + np.median(np.stack(list(changes.values())), axis=0)).astype(np.float32)


def _trimmed_mean(changes: Changes, _shares: Sequence[float], base: Vector, hostile: float) -> Vector:
    """The same, option II: of each weight the highest and lowest values go; every car counts the same."""
    return (base + trim_mean(np.stack(list(changes.values())), hostile)).astype(np.float32)


def _multi_krum(changes: Changes, shares: Sequence[float], base: Vector, hostile: float) -> Vector:
    """Blanchard et al. 2017: the mean of those that lie nearest to their nearest neighbours."""
    count = len(changes)
    assumed = math.ceil(hostile * count)
    vectors = list(changes.values())
    # Of changes: whole weights lie so near to each other that their distances would drown in rounding.
    records = [RecordDict({"change": ArrayRecord({"change": Array(vector)})}) for vector in vectors]
    places = {id(record): place for place, record in enumerate(records)}
    kept = sorted(places[id(record)] for record in select_multikrum(records, assumed, max(1, count - assumed)))
    return base + average([(vectors[place], shares[place]) for place in kept])


#: Every rule of the settings: (changes by key, shares in their order, base, hostile share) → next mean.
RULES: Mapping[str, Callable[[Changes, Sequence[float], Vector, float], Vector]] = {
    "mean": _mean,
    "median": _median,
    "trimmed-mean": _trimmed_mean,
    "multi-krum": _multi_krum,
}
check_names(get_args(Aggregation), RULES)
#: Rules by which a car with more windows has more of the average.
WEIGHTED = frozenset({"mean", "multi-krum"})


@dataclass(frozen=True)
class Unlike:
    """How a car's change of the weights compares with the others'.

    norm_ratio: its length, in lengths of the median car's. cosine: of its angle to the sum of the others' directions;
    0 where either has none.
    """

    norm_ratio: float
    cosine: float

    @property
    def against(self) -> bool:
        """Whether it undoes what the others do."""
        return self.cosine < AGAINST

    def why(self, max_ratio: float) -> str:
        """Return what is suspicious about it, or nothing."""
        if max_ratio and self.norm_ratio > max_ratio:
            return f"its change of the weights is {self.norm_ratio:.3g} times as long as the median"
        if self.against:
            return f"its change of the weights goes against the others' (cosine {self.cosine:.2f})"
        if self.norm_ratio < IDLE:
            return "it changes the weights by next to nothing"
        return ""


def scores(weights: Mapping[int, Vector], base: Vector) -> dict[int, Unlike]:
    """Return how unlike the others each car's change is, by the keys given; nothing for fewer than three cars.

    Each of the others has one vote, whatever its length.
    """
    if len(weights) < FEWEST_TO_SCORE:
        return {}
    changes = {key: vector.astype(np.float64) - base for key, vector in weights.items()}
    norms = {key: float(np.linalg.norm(change)) for key, change in changes.items()}
    middle = float(np.median(list(norms.values())))
    directions = {key: change / norms[key] if norms[key] else change for key, change in changes.items()}
    everyone = np.sum(list(directions.values()), axis=0)
    found = {}
    for key, direction in directions.items():
        others = everyone - direction
        length = float(np.linalg.norm(others))
        cosine = float(direction @ others) / length if length else 0.0
        found[key] = Unlike(norms[key] / middle if middle else 0.0, cosine)
    return found
