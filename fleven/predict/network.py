"""The networks of the app as NumPy arithmetic, from the names and shapes of their parameters.

It exists because importing torch costs a small board seconds and 200 MB, to multiply some vectors. Tests hold it
against torch's own results. Must not import torch, flwr or pandas.
"""

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
#: Windows that are computed at a time: bounds the memory of a long trip.
BATCH = 1024


class Network:
    """A trained network. Raises ValueError or KeyError for parameters that are none of the app's."""

    def __init__(self, model_type: str, parameters: Mapping[str, Floats]) -> None:
        self._layers = _lstm(parameters) if model_type == "lstm" else []
        self._dense = _dense(parameters, "head" if model_type == "lstm" else "layers")
        self._cells = model_type == "lstm"

    def __call__(self, windows: Floats) -> Floats:
        """Return scaled predictions [batch, predictions] from scaled windows [batch, sequence, features]."""
        parts = [self._batch(windows[start : start + BATCH]) for start in range(0, len(windows), BATCH)]
        return np.concatenate(parts)

    def _batch(self, windows: Floats) -> Floats:
        values = self._last_state(windows) if self._cells else windows.reshape(len(windows), -1)
        for weight, bias in self._dense[:-1]:
            values = np.maximum(values @ weight.T + bias, 0.0)
        weight, bias = self._dense[-1]
        return np.asarray(values @ weight.T + bias, dtype=np.float32)

    def _last_state(self, windows: Floats) -> Floats:
        """Hochreiter and Schmidhuber 1997, with torch's order of the gates: input, forget, cell, output."""
        steps = windows.transpose(1, 0, 2)
        hidden = np.zeros(0, dtype=np.float32)
        for from_input, from_hidden, bias in self._layers:
            size = from_hidden.shape[1]
            hidden = np.zeros((steps.shape[1], size), dtype=np.float32)
            cell = np.zeros_like(hidden)
            given = steps @ from_input.T + bias
            outputs = np.empty((len(steps), steps.shape[1], size), dtype=np.float32)
            for index, inputs in enumerate(given):
                gates = inputs + hidden @ from_hidden.T
                open_, keep, new, out = (gates[:, part * size : (part + 1) * size] for part in range(4))
                cell = _sigmoid(keep) * cell + _sigmoid(open_) * np.tanh(new)
                hidden = _sigmoid(out) * np.tanh(cell)
                outputs[index] = hidden
            steps = outputs
        return hidden


def _sigmoid(values: Floats) -> Floats:
    # By tanh, which cannot overflow.
    return 0.5 * (1.0 + np.tanh(0.5 * values))  # type: ignore[no-any-return]  # float32 stays float32


def _lstm(parameters: Mapping[str, Floats]) -> list[tuple[Floats, Floats, Floats]]:
    count = sum(name.startswith("lstm.weight_ih_l") for name in parameters)
    layers = []
    for number in range(count):
        weights = (parameters[f"lstm.weight_{kind}_l{number}"] for kind in ("ih", "hh"))
        bias = parameters[f"lstm.bias_ih_l{number}"] + parameters[f"lstm.bias_hh_l{number}"]
        layers.append((*weights, bias))
    if not layers:
        raise ValueError("it has no LSTM layers")
    return layers  # type: ignore[return-value]  # two weights and a bias each


def _dense(parameters: Mapping[str, Floats], prefix: str) -> list[tuple[Floats, Floats]]:
    names = [name for name in parameters if re.fullmatch(rf"{prefix}(\.\d+)?\.weight", name)]
    names.sort(key=lambda name: int(re.sub(r"\D", "", name) or 0))
    if not names:
        raise ValueError("it has no output layer")
    return [(parameters[name], parameters[name.removesuffix("weight") + "bias"]) for name in names]


def named_parameters(vector: Floats, settings_shape: "Shape") -> dict[str, Floats]:
    """Return the parameters that a flat vector holds, in torch's order. Raises ValueError for another size."""
    found: dict[str, Floats] = {}
    place = 0
    for name, shape in settings_shape.parameters():
        size = int(np.prod(shape))
        found[name] = vector[place : place + size].reshape(shape)
        place += size
    if place != vector.size:
        raise ValueError(f"{vector.size} weights for a network of {place}")
    return found


class Shape:
    """Names and shapes of a network's parameters, in the order of the flat vector that cars keep."""

    def __init__(
        self, model_type: str, features: int, sequence: int, predictions: int, hidden: int, layers: int
    ) -> None:
        self._cells = model_type == "lstm"
        self._features, self._sequence, self._predictions = features, sequence, predictions
        self._hidden, self._layers = hidden, layers

    def parameters(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return (name, shape) of each."""
        hidden = self._hidden
        found: list[tuple[str, tuple[int, ...]]] = []
        if self._cells:
            width = self._features
            for number in range(self._layers):
                found += [
                    (f"lstm.weight_ih_l{number}", (4 * hidden, width)),
                    (f"lstm.weight_hh_l{number}", (4 * hidden, hidden)),
                    (f"lstm.bias_ih_l{number}", (4 * hidden,)),
                    (f"lstm.bias_hh_l{number}", (4 * hidden,)),
                ]
                width = hidden
            return [*found, ("head.weight", (self._predictions, hidden)), ("head.bias", (self._predictions,))]
        width = self._sequence * self._features
        for number in range(self._layers):
            found += [
                (f"layers.{1 + 3 * number}.weight", (hidden, width)),
                (f"layers.{1 + 3 * number}.bias", (hidden,)),
            ]
            width = hidden
        last = 1 + 3 * self._layers
        return [
            *found,
            (f"layers.{last}.weight", (self._predictions, width)),
            (f"layers.{last}.bias", (self._predictions,)),
        ]
