"""How the cars' models become the next global model, and which cars train in a round. Pure: numpy in, numpy out.

The adaptive strategies are those of Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2, with
Flower's bias correction for FedAdam; tests hold them against Flower's own strategies. Must not import flwr or torch.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..settings import Settings

Vector = npt.NDArray[np.float32]


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
    """Choose who trains in round `number` from the ready cars' partition ids: `fraction-train` of them, rounded up,
    never fewer than the quorum while there are as many. The same seed and round choose the same cars."""
    wanted = max(math.ceil(settings.fraction_train * len(ready)), settings.quorum_nodes)
    if wanted >= len(ready):
        return sorted(ready)
    return sorted(random.Random(f"{settings.seed}/{number}").sample(sorted(ready), wanted))  # noqa: S311  # not for secrets


def average(updates: Sequence[tuple[Vector, float]]) -> Vector:
    """Return the mean of the cars' weights, weighted by their training windows (McMahan et al. 2017, FedAvg).

    Summed in float64 in the order given: give it in the order of partition ids, or the last bits depend on the network.
    """
    total = sum(weight for _, weight in updates)
    mean = np.zeros(updates[0][0].shape, dtype=np.float64)
    for vector, weight in updates:
        mean += vector * (weight / total)
    return mean.astype(np.float32)


def step(state: ServerState, mean: Vector, settings: Settings, number: int) -> ServerState:
    """Return the state after round `number`, given the cars' weighted mean."""
    if settings.strategy == "fedavg":
        return ServerState(mean, state.momentum, state.variance)
    rate, tau = settings.server_learning_rate, settings.server_tau
    beta_1 = 0.0 if settings.strategy == "fedadagrad" else settings.server_beta_1
    beta_2 = settings.server_beta_2
    change = mean - state.weights
    square = change**2
    momentum = beta_1 * state.momentum + (1 - beta_1) * change
    if settings.strategy == "fedadam":
        variance = beta_2 * state.variance + (1 - beta_2) * square
        rate *= math.sqrt(1 - beta_2 ** (number + 1)) / (1 - beta_1 ** (number + 1))
    elif settings.strategy == "fedyogi":
        variance = state.variance - (1 - beta_2) * square * np.sign(state.variance - square)
    else:
        variance = state.variance + square
    weights = state.weights + rate * momentum / (np.sqrt(variance) + tau)
    return ServerState(weights.astype(np.float32), momentum.astype(np.float32), variance.astype(np.float32))
