"""How the cars' models become the next global model, and which cars train in a round. Pure: numpy in, numpy out.

The adaptive strategies are those of Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2, with
Flower's bias correction for FedAdam; tests hold them against Flower's own strategies. Must not import flwr or torch.
"""

import math
import random
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import numpy.typing as npt

from ..settings import Settings, Strategy

Vector = npt.NDArray[np.float32]
#: Of two cars one has most of the average, whatever it does.
FEWEST_TO_SHARE = 3


@dataclass(frozen=True)
class ServerState:
    """The global weights and the server optimiser's two moments, all float32 vectors of one length."""

    weights: Vector
    momentum: Vector
    variance: Vector

    @classmethod
    def start(cls, weights: Vector) -> "ServerState":
        """The state before round 1: both moments are zero."""
        return cls(weights, np.zeros_like(weights), np.zeros_like(weights))


def sample(ready: Sequence[int], settings: Settings, number: int) -> list[int]:
    """Choose who trains in round `number` from the ready cars' partition ids.

    `fraction-train` of them, rounded up, and never fewer than the quorum while there are that many. The same seed and
    round choose the same cars.
    """
    wanted = max(math.ceil(settings.fraction_train * len(ready)), settings.quorum_nodes)
    if wanted >= len(ready):
        return sorted(ready)
    return sorted(random.Random(f"{settings.seed}/{number}").sample(sorted(ready), wanted))  # noqa: S311  # not for secrets


@dataclass(frozen=True)
class Cut:
    """How long a car's change was, and to what it was cut; both in lengths of the middle car's."""

    ratio: float
    limit: float


def shorten(
    trained: Mapping[int, Vector],
    base: Vector,
    max_ratio: float,
    against: Collection[int] = (),
    weights: Mapping[int, float] | None = None,
) -> tuple[dict[int, Vector], dict[int, Cut]]:
    """Cut each car's change from `base` that is longer than `max_ratio` times the round's median to that length.

    against: cars whose change undoes the others'; they get no more than the median's length. weights: of the average;
    no car of three or more moves the model further than all others of the median's length together, though every one
    may have that length. None: all count the same.
    Returns all weights, by the keys given, and the cuts. The lower median of two counts, so that one car cannot raise
    its own bound; a `max_ratio` or a median of 0 leaves all as they are. Norms are bounded as in Sun et al. 2019, "Can
    You Really Backdoor Federated Learning?".
    """
    changes = {key: vector.astype(np.float64) - base for key, vector in trained.items()}
    norms = {key: float(np.linalg.norm(change)) for key, change in changes.items()}
    middle = statistics.median_low(norms.values()) if norms else 0.0
    if not max_ratio or not middle:
        return dict(trained), {}
    limits = {key: 1.0 if key in against else min(max_ratio, _fair_length(key, weights)) for key in norms}
    cuts = {key: Cut(norm / middle, limits[key]) for key, norm in norms.items() if norm > limits[key] * middle}
    kept = {key: (base + changes[key] * (cut.limit / cut.ratio)).astype(np.float32) for key, cut in cuts.items()}
    return {key: kept.get(key, vector) for key, vector in trained.items()}, cuts


def _fair_length(key: int, weights: Mapping[int, float] | None) -> float:
    """Return at which length, in the others', a car moves the model as far as all others together; 1 at least."""
    if weights is None or len(weights) < FEWEST_TO_SHARE or not weights[key]:
        return math.inf
    return max(1.0, (sum(weights.values()) - weights[key]) / weights[key])


def bounded_weights(weights: Sequence[float], max_share: float) -> list[float]:
    """Return weights of which none is more than `max_share` of their sum; those that are below stay as they are.

    Of few cars each one has more: 1.5 times an equal share is always allowed.
    """
    bounded = list(weights)
    share = max(max_share, 1.5 / max(len(bounded), 1))
    capped: set[int] = set()
    while over := {i for i, w in enumerate(bounded) if i not in capped and w > share * sum(bounded) * (1 + 1e-12)}:
        capped |= over
        rest = sum(w for i, w in enumerate(bounded) if i not in capped)
        for i in capped:
            bounded[i] = rest * share / (1 - share * len(capped))
    return bounded


def without_privilege(weights: Mapping[int, float], doubted: Collection[int]) -> dict[int, float]:
    """Return the weights, by key, of which none of a car in doubt is above the middle one.

    How many windows a car has is its own word.
    """
    middle = statistics.median_low(weights.values()) if weights else 0.0
    return {key: min(weight, middle) if key in doubted else weight for key, weight in weights.items()}


def average(updates: Sequence[tuple[Vector, float]]) -> Vector:
    """Return the mean of the cars' weights, weighted by their training windows (McMahan et al. 2017, FedAvg).

    Summed in float64 in the order given: give it in the order of partition ids, or the last bits depend on the network.
    """
    total = sum(weight for _, weight in updates)
    mean = np.zeros(updates[0][0].shape, dtype=np.float64)
    for vector, weight in updates:
        mean += vector * (weight / total)
    return mean.astype(np.float32)


def _fedavg(state: ServerState, mean: Vector, _settings: Settings, _number: int) -> ServerState:
    return replace(state, weights=mean)


def _fedadam(state: ServerState, mean: Vector, settings: Settings, number: int) -> ServerState:
    beta_1, beta_2 = settings.server_beta_1, settings.server_beta_2
    variance = beta_2 * state.variance + (1 - beta_2) * (mean - state.weights) ** 2
    correction = math.sqrt(1 - beta_2 ** (number + 1)) / (1 - beta_1 ** (number + 1))
    return _adaptive(state, mean, settings, beta_1, variance, settings.server_learning_rate * correction)


def _fedyogi(state: ServerState, mean: Vector, settings: Settings, _number: int) -> ServerState:
    square = (mean - state.weights) ** 2
    variance = state.variance - (1 - settings.server_beta_2) * square * np.sign(state.variance - square)
    return _adaptive(state, mean, settings, settings.server_beta_1, variance, settings.server_learning_rate)


def _fedadagrad(state: ServerState, mean: Vector, settings: Settings, _number: int) -> ServerState:
    variance = state.variance + (mean - state.weights) ** 2
    return _adaptive(state, mean, settings, 0.0, variance, settings.server_learning_rate)


def _adaptive(
    state: ServerState, mean: Vector, settings: Settings, beta_1: float, variance: Vector, rate: float
) -> ServerState:
    """Return the state after a step along the first moment, divided by the root of the second."""
    momentum = beta_1 * state.momentum + (1 - beta_1) * (mean - state.weights)
    weights = state.weights + rate * momentum / (np.sqrt(variance) + settings.server_tau)
    return ServerState(weights.astype(np.float32), momentum.astype(np.float32), variance.astype(np.float32))


#: Every strategy of the settings: (state, the cars' weighted mean, settings, round) → state after the round.
STRATEGIES: Mapping[str, Callable[[ServerState, Vector, Settings, int], ServerState]] = {
    "fedavg": _fedavg,
    "fedadam": _fedadam,
    "fedyogi": _fedyogi,
    "fedadagrad": _fedadagrad,
}


def check_names(offered: Iterable[str], known: Iterable[str]) -> None:
    """Compare the names that the settings offer with those of the table. Raises LookupError naming what one lacks."""
    if apart := set(offered) ^ set(known):
        raise LookupError(f"in the settings or in STRATEGIES, but not in both: {', '.join(sorted(apart))}")


check_names(get_args(Strategy), STRATEGIES)


def step(state: ServerState, mean: Vector, settings: Settings, number: int) -> ServerState:
    """Return the state after round `number`, given the cars' weighted mean."""
    return STRATEGIES[settings.strategy](state, mean, settings, number)
