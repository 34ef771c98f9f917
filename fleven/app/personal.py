"""A car's own model: the global one trained further on the car's own trips, if that makes it better there.

Whether it does, and how far to go, is judged on training readings that are held back for it; the held-out windows, by
which both models are compared afterwards, have no say. In doubt the global one is kept. Must not import flwr or pandas.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from . import model
from .settings import Settings
from .trips.windows import MINIMUM_TRAIN_WINDOWS, Scaler

Starts = npt.NDArray[np.int64]
#: Each of so many parts of the training readings is held back in turn: one alone is one stretch of road.
PARTS = 5
#: Held-back windows, in lengths of a window, from which a part can tell a loss from noise: neighbouring windows share
#: most of their readings.
TELLING_LENGTHS = 5
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


def convinces(errors: Sequence[float], of_the_global: Sequence[float], tells: Sequence[bool]) -> bool:
    """Whether a model is better than the global one on the whole, and worse on no part that can tell.

    What gains much on some stretches of road and loses on another is better on average there, and worse wherever the
    car drives more of the other.

    errors, of_the_global: squared errors on each part that was held back. tells: whether it has enough windows to.
    """
    parts_of_both = zip(errors, of_the_global, tells, strict=True)
    return sum(errors) < sum(of_the_global) and not any(
        telling and own > other for own, other, telling in parts_of_both
    )


def best(
    errors: Mapping[Choice, Sequence[float]], of_the_global: Sequence[float], tells: Sequence[bool]
) -> Choice | None:
    """Return the choice with the least error of those that convince, the gentlest of equals; None where none does."""
    found = [choice for choice, own in errors.items() if convinces(own, of_the_global, tells)]
    return min(found, key=lambda choice: (sum(errors[choice]), choice.epochs, choice.share), default=None)


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
    most = settings.personal_epochs
    of_the_global: list[float] = []
    tells: list[bool] = []
    errors: dict[Choice, list[float]] = {}
    trained: dict[int, list[model.Vector]] = {}
    for number, (fit, held) in enumerate(parts(starts, settings.span), start=1):
        if len(fit) < MINIMUM_TRAIN_WINDOWS:
            continue
        model.load_weights(network, begin)
        of_the_global.append(model.evaluate(network, windows, held, scaler).squared_error)
        tells.append(len(held) >= TELLING_LENGTHS * settings.span)
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
                errors.setdefault(Choice(epoch, share), []).append(error)
            model.load_weights(network, weights)
    within_time = {choice: own for choice, own in errors.items() if choice.epochs <= most}
    chosen = best(within_time, of_the_global, tells)
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
