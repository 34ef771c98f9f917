"""The networks, their training on a car and their evaluation. Must not import flwr or pandas.

Weights leave and enter a network as one flat float32 vector: Flower moves each array of a message with calls of its
own, and one array costs one set of calls.
"""

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from .errors import AppError, Code
from .settings import Settings
from .trips.windows import Prepared, Scaler

Vector = npt.NDArray[np.float32]
#: What the layers between hold of so many windows stays in the processor's cache, and 20 MB less of a car's memory
#: than with 2,048; it takes no longer.
EVALUATION_BATCH = 512
#: Hidden size times batch size from which more threads are worth a try, and how much faster they must be.
LARGE_STEP = 16_384
WORTHWHILE = 1.2


class SequenceNetwork(nn.Module):
    """LSTM over the window, then a linear layer on the last hidden state."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            len(settings.feature_columns),
            settings.hidden_size,
            settings.num_layers,
            batch_first=True,
            dropout=settings.dropout if settings.num_layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(settings.hidden_size, settings.prediction_length)

    def forward(self, windows: Tensor) -> Tensor:
        """[batch, sequence, features] → [batch, predictions], both scaled."""
        states, _ = self.lstm(windows)
        return cast(Tensor, self.head(self.dropout(states[:, -1])))


class FlatNetwork(nn.Module):
    """Multi-layer perceptron over the flattened window."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = settings.sequence_length * len(settings.feature_columns)
        for _ in range(settings.num_layers):
            layers += [nn.Linear(width, settings.hidden_size), nn.ReLU(), nn.Dropout(settings.dropout)]
            width = settings.hidden_size
        self.layers = nn.Sequential(*layers, nn.Linear(width, settings.prediction_length))

    def forward(self, windows: Tensor) -> Tensor:
        """[batch, sequence, features] → [batch, predictions], both scaled."""
        return cast(Tensor, self.layers(windows))


def build(settings: Settings) -> nn.Module:
    """Return the network that the settings ask for, initialised from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return SequenceNetwork(settings) if settings.model_type == "lstm" else FlatNetwork(settings)


def weights_of(network: nn.Module) -> Vector:
    """Return all parameters as one vector, in the network's own order."""
    with torch.no_grad():
        return nn.utils.parameters_to_vector(network.parameters()).numpy().astype(np.float32, copy=True)


def load_weights(network: nn.Module, weights: Vector) -> None:
    """Set all parameters from one vector. Raises AppError(reply-invalid) when it is not of this network's size."""
    expected = sum(parameter.numel() for parameter in network.parameters())
    if weights.shape != (expected,):
        raise AppError(Code.REPLY_INVALID, f"{weights.size} weights for a network of {expected}")
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), network.parameters())


def output_layer(network: nn.Module) -> list[str]:
    """Return the names of the output layer's parameters: the last ones of both networks, also in the flat vector."""
    return [name for name, _ in network.named_parameters()][-2:]


def own_values(network: nn.Module, settings: Settings) -> int:
    """Return how many values at the end of the flat vector stay in the car: those of the output layer, or none."""
    names = output_layer(network) if settings.heads_stay else []
    return sum(network.get_parameter(name).numel() for name in names)


def shared_weights(network: nn.Module, settings: Settings) -> Vector:
    """Return the part of the flat vector that cars and server send each other."""
    weights = weights_of(network)
    return weights[: weights.size - own_values(network, settings)]


class Windows:
    """A car's scaled rows as tensors; windows are strided views into them, gathered one batch at a time."""

    def __init__(self, prepared: Prepared, scaler: Scaler, settings: Settings) -> None:
        scaled = torch.from_numpy(scaler.scale(prepared.values))
        features = len(settings.feature_columns)
        rows = scaled[:, :features].contiguous()
        length = settings.sequence_length
        count = len(rows) - settings.span + 1
        self._inputs = rows.as_strided((count, length, features), (features, features, 1))
        target = scaled[length - 1 :, features].contiguous()
        self._targets = target.unfold(0, settings.prediction_length, 1)

    def batch(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the windows [batch, sequence, features] and targets [batch, predictions] that start at these rows."""
        return self._inputs[starts], self._targets[starts]


@dataclass(frozen=True)
class Fit:
    """What training did: mean loss of the last epoch (scaled units squared), largest gradient norm, steps.

    windows: different ones that it has seen: all, unless time was up in the first epoch.
    """

    loss: float
    gradient_norm: float
    steps: int
    windows: int


def train(
    network: nn.Module,
    windows: Windows,
    starts: npt.NDArray[np.int64],
    settings: Settings,
    seed: int,
    *,
    epochs: int | None = None,
    proximal_mu: float = 0.0,
    until: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Fit:
    """Train in place with Adam on the mean squared error.

    epochs: `local-epochs` where it is None.
    seed: orders the batches and drives dropout, so that the same round on the same car gives the same weights.
    proximal_mu: the loss has half of this times the squared distance from the shared weights that it began with
    (Li et al. 2020, "Federated Optimization in Heterogeneous Networks", FedProx).
    until: time of `clock` after which no further batch is begun; one is always trained.
    Raises AppError(training-diverged) when the loss is not finite.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    optimiser = Adam(network.parameters(), learning_rate=settings.learning_rate, weight_decay=settings.weight_decay)
    limit = settings.max_grad_norm or math.inf
    first_rows = torch.from_numpy(starts)
    pull = _Pull(network, settings, proximal_mu) if proximal_mu else None
    network.train()
    largest, steps, most_seen = torch.zeros(()), 0, 0
    loss_of_epoch, windows_of_epoch = torch.zeros(()), 1
    for _ in range(settings.local_epochs if epochs is None else epochs):
        total, seen = torch.zeros(()), 0
        for chosen in torch.split(torch.randperm(len(first_rows), generator=generator), settings.batch_size):
            if steps and clock() >= until:
                break
            inputs, targets = windows.batch(first_rows[chosen])
            optimiser.zero_grad()
            loss = nn.functional.mse_loss(network(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            if pull is not None:
                pull.add_to_gradients()
            norm = nn.utils.clip_grad_norm_(network.parameters(), limit)
            optimiser.step()
            largest = torch.maximum(largest, norm)
            total = total + loss.detach() * len(chosen)
            seen += len(chosen)
            steps += 1
        if not seen:  # time was up between two epochs
            break
        loss_of_epoch, windows_of_epoch, most_seen = total, seen, max(most_seen, seen)
    mean = float(loss_of_epoch) / windows_of_epoch
    if not math.isfinite(mean):
        raise AppError(Code.TRAINING_DIVERGED, "the loss is not a finite number", "lower learning-rate")
    return Fit(mean, float(largest), steps, most_seen)


class _Pull:
    """FedProx's term: the gradient of half of mu times the squared distance from where training began."""

    def __init__(self, network: nn.Module, settings: Settings, mu: float) -> None:
        own = output_layer(network) if settings.heads_stay else []
        shared = [parameter for name, parameter in network.named_parameters() if name not in own]
        self._pairs = [(parameter, parameter.detach().clone()) for parameter in shared]
        self._mu = mu

    @torch.no_grad()
    def add_to_gradients(self) -> None:
        """Add the term's gradient to those of the loss."""
        for parameter, start in self._pairs:
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self._mu)


@dataclass(frozen=True)
class Evaluation:
    """Sums over held-out values in physical units, from which errors of one car and of the fleet follow exactly.

    All sums are 0 for a car without held-out windows: it trains, and nothing is said about its errors.
    """

    values: int
    windows: int
    squared_error: float
    absolute_error: float
    target_mean: float
    target_deviation: float
    true: Vector
    predicted: Vector


def evaluate(
    network: nn.Module,
    windows: Windows,
    starts: npt.NDArray[np.int64],
    scaler: Scaler,
    pairs: int = 0,
) -> Evaluation:
    """Compare predictions with the truth on the windows that start at `starts`.

    pairs: how many (true, predicted) values to keep, spread evenly over the windows.
    """
    if not len(starts):
        nothing = np.empty(0, dtype=np.float32)
        return Evaluation(0, 0, 0.0, 0.0, 0.0, 0.0, nothing, nothing)
    network.eval()
    predicted, true = [], []
    with torch.inference_mode():
        for chosen in torch.split(torch.from_numpy(starts), EVALUATION_BATCH):
            inputs, targets = windows.batch(chosen)
            predicted.append(network(inputs))
            true.append(targets)
    scale, shift = float(scaler.std[-1]), float(scaler.mean[-1])
    guesses = torch.cat(predicted).numpy().astype(np.float64) * scale + shift
    truths = torch.cat(true).numpy().astype(np.float64) * scale + shift
    error = guesses - truths
    # Rounding in the mean of equal values would leave a deviation that is not there, and an R² of -1e27 with it.
    constant = truths.min() == truths.max()
    mean = float(truths.flat[0] if constant else truths.mean())
    kept = np.unique(np.linspace(0, len(starts) - 1, min(pairs, len(starts))).round().astype(int))
    return Evaluation(
        values=truths.size,
        windows=len(starts),
        squared_error=float((error**2).sum()),
        absolute_error=float(np.abs(error).sum()),
        target_mean=mean,
        target_deviation=0.0 if constant else float(((truths - mean) ** 2).sum()),
        true=truths[kept, 0].astype(np.float32),
        predicted=guesses[kept, 0].astype(np.float32),
    )


def use_threads(settings: Settings, network: nn.Module, windows: Windows, starts: npt.NDArray[np.int64]) -> int:
    """Set torch's thread count for this task and return it.

    `threads` where it is set. Else 1 for a small network, whose step is shorter than handing it to a second thread
    (benchmarks/train_step.py), and for a large one whichever is faster here and now, tried on one batch: on a board
    that other processes keep busy, waiting for each other's threads can cost many times what they save.
    """
    cores = len(os.sched_getaffinity(0))
    threads = settings.threads or 1
    if not settings.threads and cores > 1 and settings.hidden_size * settings.batch_size >= LARGE_STEP:
        batch = torch.from_numpy(starts[: settings.batch_size])
        alone, together = (_step_seconds(network, windows, batch, count) for count in (1, cores))
        threads = cores if together * WORTHWHILE < alone else 1
    torch.set_num_threads(threads)
    return threads


def _step_seconds(network: nn.Module, windows: Windows, batch: Tensor, threads: int) -> float:
    """Return the shorter of two passes forward and back; the weights stay as they are."""
    torch.set_num_threads(threads)
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        inputs, targets = windows.batch(batch)
        nn.functional.mse_loss(network(inputs), targets).backward()  # type: ignore[no-untyped-call]
        taken.append(time.perf_counter() - started)
    network.zero_grad(set_to_none=True)
    return min(taken)


class Adam:
    """Adam with `torch.optim.Adam`'s defaults: betas 0.9 and 0.999, epsilon 1e-8, weight decay added to gradients.

    By torch's own arithmetic (to the last bit), without the class around it: the first `step` of any
    `torch.optim.Optimizer` imports torch's compiler and, with it, SymPy: 70 MB of memory and seconds of a car's CPU for
    every task, to find out that nothing is compiled.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._learning_rate, self._weight_decay = learning_rate, weight_decay
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = [torch.zeros(()) for _ in self._parameters]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step; parameters without a gradient stay."""
        moved = [index for index, parameter in enumerate(self._parameters) if parameter.grad is not None]

        def of(tensors: list[Tensor]) -> list[Tensor]:
            return [tensors[index] for index in moved]

        adam(
            of([*self._parameters]),
            [gradient for parameter in self._parameters if (gradient := parameter.grad) is not None],
            of(self._means),
            of(self._squares),
            [],
            of(self._steps),
            foreach=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._learning_rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )
