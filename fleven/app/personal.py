"""A car's own model: the global one trained further on the car's own trips, if that makes it better there.

Whether it does, and how far to go, is judged on training readings that are held back for it; the held-out windows, by
which both models are compared afterwards, have no say. Must not import flwr or pandas.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from . import model
from .settings import Settings
from .trips.windows import MINIMUM_TRAIN_WINDOWS, Scaler

Starts = npt.NDArray[np.int64]
#: Each of so many parts of the training readings is held back in turn: one alone is one stretch of road.
PARTS = 3
#: How far to go from the global weights to the trained ones. Half-way forgets less, and is often the better model:
#: McMahan et al. 2017, figure 1; Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".
SHARES = (0.5, 0.75, 1.0)
#: Of the time that the server waits for a round's answers, the share that this may take.
TIME_SHARE = 0.5


@dataclass(frozen=True)
class Choice:
    """How long to train, and which share of the way to go."""

    epochs: int
    share: float


@dataclass(frozen=True)
class Personal:
    """What came of it. weights: None where the global model is kept; epochs and share: 0 then."""

    weights: model.Vector | None = None
    epochs: int = 0
    share: float = 0.0


def parts(starts: Starts, span: int, count: int = PARTS) -> Iterator[tuple[Starts, Starts]]:
    """Yield (first rows to train on, first rows held back), for each part once; no reading is in both.

    starts: first rows of the windows, rising. span: readings in a window.
    """
    for held in np.array_split(starts, count):
        if len(held):
            yield starts[(starts < held[0] - span + 1) | (starts > held[-1] + span - 1)], held


def best(errors: Mapping[Choice, float], of_the_global: float) -> Choice | None:
    """Return the choice with the least error, the gentlest of equals; None where none beats the global model."""
    found = min(errors, key=lambda choice: (errors[choice], choice.epochs, choice.share), default=None)
    return found if found is not None and errors[found] < of_the_global else None


def affordable(epochs: int, epoch_seconds: float, budget_seconds: float) -> int:
    """Return how many epochs there is time for.

    epoch_seconds: of one over the training windows of one part. Each part trains for all epochs, and the chosen number
    is trained once more over all windows.
    """
    of_one = epoch_seconds * (PARTS + PARTS / (PARTS - 1))
    return epochs if of_one <= 0 else min(epochs, int(budget_seconds / of_one))


def fine_tune(
    network: nn.Module,
    windows: model.Windows,
    starts: Starts,
    scaler: Scaler,
    settings: Settings,
    seed_of: Callable[[int, int], int],
    clock: Callable[[], float] = time.monotonic,
) -> Personal:
    """Make a car's own model of the network's weights; the network's weights are undefined afterwards.

    The network is trained without each part in turn, and once more with all of them for the number of epochs that was
    best; the mean of these weights is the car's model.

    starts: the training windows. seed_of: seed of (part, epoch); part 0 is all of them.
    """
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # over so few steps it is noise, where in a run it is a safeguard
        elif isinstance(module, nn.LSTM):
            module.dropout = 0.0
    begin = model.weights_of(network)
    budget = min(settings.local_seconds, TIME_SHARE * settings.round_deadline_seconds)
    most, of_the_global = settings.personal_epochs, 0.0
    errors: dict[Choice, float] = {}
    trained: dict[int, list[model.Vector]] = {}
    for number, (fit, held) in enumerate(parts(starts, settings.span), start=1):
        if len(fit) < MINIMUM_TRAIN_WINDOWS:
            continue
        model.load_weights(network, begin)
        of_the_global += model.evaluate(network, windows, held, scaler).squared_error
        epoch = 0
        while epoch < most:
            epoch += 1
            started = clock()
            model.train(network, windows, fit, settings, seed_of(number, epoch), epochs=1)
            if not errors:
                most = affordable(most, clock() - started, budget)
            weights = model.weights_of(network)
            trained.setdefault(epoch, []).append(weights)
            for share in SHARES:
                model.load_weights(network, _between(begin, weights, share))
                error = model.evaluate(network, windows, held, scaler).squared_error
                errors[Choice(epoch, share)] = errors.get(Choice(epoch, share), 0.0) + error
            model.load_weights(network, weights)
    chosen = best({choice: error for choice, error in errors.items() if choice.epochs <= most}, of_the_global)
    if chosen is None:
        return Personal()
    model.load_weights(network, begin)
    for epoch in range(1, chosen.epochs + 1):
        model.train(network, windows, starts, settings, seed_of(0, epoch), epochs=1)
    # One training's luck with the order of its batches is worth more than what the car gains: the mean has less of it.
    everything = np.stack([*trained[chosen.epochs], model.weights_of(network)])
    mean: model.Vector = everything.mean(axis=0, dtype=np.float64).astype(np.float32)
    return Personal(_between(begin, mean, chosen.share), chosen.epochs, chosen.share)


def _between(begin: model.Vector, trained: model.Vector, share: float) -> model.Vector:
    return trained if share == 1.0 else begin + np.float32(share) * (trained - begin)
