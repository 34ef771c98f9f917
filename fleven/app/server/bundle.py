"""The model bundle: the global model with all that is needed to use it, in one file. Must not import flwr or pandas."""

import platform
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..columns import unit_of
from ..errors import AppError, Code
from ..model import build, load_weights, output_layer, own_values, weights_of
from ..settings import Settings, parse
from ..trips.windows import Scaler
from . import tensor_file

KIND = "fleven-model"
#: Begins the names of the network's own tensors.
PARAMETER = "network."


def save(
    path: Path, weights: npt.NDArray[np.float32], scaler: Scaler, settings: Settings, provenance: dict[str, Any]
) -> None:
    """Write the bundle, whole or not at all. provenance: plain values that say where the model comes from.

    Of cars that keep their output layers, the bundle has none, and says so in `in-each-car`.
    """
    network = build(settings)
    everything = weights_of(network)
    load_weights(network, np.concatenate([weights, everything[everything.size - own_values(network, settings) :]]))
    own = output_layer(network) if settings.heads_stay else []
    tensors: dict[str, npt.NDArray[Any]] = {
        PARAMETER + name: parameter.numpy() for name, parameter in network.state_dict().items() if name not in own
    }
    tensors |= {"scaler.mean": scaler.mean, "scaler.std": scaler.std}
    plain = {
        "columns": list(settings.columns),
        "features": list(settings.feature_columns),
        "target": settings.target_column,
        "unit": unit_of(settings.target_column),
        "units": {name: unit_of(name) for name in settings.columns},
        "settings": settings.as_config(),
        "in-each-car": own,
        "provenance": provenance | {"torch": str(torch.__version__), "python": platform.python_version()},
    }
    tensor_file.write(path, KIND, tensors, plain)


class Predictor:
    """A trained model, ready to predict from rows of features."""

    def __init__(self, path: Path) -> None:
        """Load a bundle. Raises AppError(bundle-invalid) for any other file."""
        content = tensor_file.read(path, KIND, Code.BUNDLE_INVALID)
        try:
            self._take(content)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, AppError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise AppError(Code.BUNDLE_INVALID, f"{path}: lacks what a model has: {first[:200]}") from None

    def _take(self, content: tensor_file.Content) -> None:
        plain, tensors = content.plain, content.tensors
        self.settings = parse(plain["settings"])
        self.features: list[str] = [str(name) for name in plain["features"]]
        self.target: str = str(plain["target"])
        self.unit: str = str(plain["unit"])
        self.provenance: dict[str, Any] = dict(plain["provenance"])
        if (*self.features, self.target) != self.settings.columns:
            raise ValueError("its columns are not those of its settings")
        if plain.get("in-each-car"):
            raise ValueError("its output layer stays in each car (personal=head), and it predicts only there")
        self._network = build(self.settings)
        if "scaler" in plain:  # of 0.1.0
            mean, std = (np.asarray(plain["scaler"][name]) for name in ("mean", "std"))
            load_weights(self._network, tensors["weights"])
        else:
            mean, std = tensors["scaler.mean"], tensors["scaler.std"]
            named = {name.removeprefix(PARAMETER): torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()}
            self._network.load_state_dict({name: named[name] for name in self._network.state_dict()})
        if mean.shape != (len(self.settings.columns),) or std.shape != mean.shape or not (std > 0).all():
            raise ValueError("its scaler does not fit these columns")
        self.scaler = Scaler(mean, std)
        self._network.eval()

    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """All weights as one vector, in the network's own order."""
        return weights_of(self._network)

    def predict(self, readings: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Predict the target from consecutive readings of one trip.

        readings: [rows, features] in the order of `features`, physical units, at least `sequence-length` rows.
        Returns [rows - sequence-length + 1, prediction-length]: for each reading that has a whole window behind it,
        the target at that reading and the ones after it, in the target's unit.
        Raises ValueError for another shape.
        """
        rows = np.asarray(readings, dtype=np.float32)
        length = self.settings.sequence_length
        if rows.ndim != 2 or rows.shape[1] != len(self.features) or len(rows) < length:
            raise ValueError(f"readings must be [at least {length}, {len(self.features)}], not {list(rows.shape)}")
        scaled = ((rows - self.scaler.mean[:-1]) / self.scaler.std[:-1]).astype(np.float32)
        windows = torch.from_numpy(scaled).unfold(0, length, 1).transpose(1, 2)
        with torch.inference_mode():
            predicted = self._network(windows).numpy().astype(np.float64)
        return np.asarray(predicted * self.scaler.std[-1] + self.scaler.mean[-1])
