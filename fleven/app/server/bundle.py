"""The model bundle: the global model with all that is needed to use it, in one file. Must not import flwr or pandas."""

import platform
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..columns import unit_of
from ..errors import Code
from ..files import write_atomically
from ..model import build, load_weights
from ..settings import Settings, parse
from ..trips.windows import Scaler
from .checkpoint import SCHEMA_VERSION, read_payload

KIND = "fleven-model"


def save(
    path: Path, weights: npt.NDArray[np.float32], scaler: Scaler, settings: Settings, provenance: dict[str, Any]
) -> None:
    """Write the bundle, whole or not at all. provenance: plain values that say where the model comes from."""
    network = build(settings)
    load_weights(network, weights)
    payload = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "state_dict": network.state_dict(),
        "weights": torch.from_numpy(weights),
        "scaler": {
            "columns": list(settings.columns),
            "mean": torch.from_numpy(scaler.mean),
            "std": torch.from_numpy(scaler.std),
        },
        "features": list(settings.feature_columns),
        "target": settings.target_column,
        "unit": unit_of(settings.target_column),
        "units": {name: unit_of(name) for name in settings.columns},
        "settings": settings.as_config(),
        "provenance": provenance | {"torch": str(torch.__version__), "python": platform.python_version()},
    }
    with write_atomically(path) as stream:
        torch.save(payload, stream)


class Predictor:
    """A trained model, ready to predict from rows of features."""

    def __init__(self, path: Path) -> None:
        """Load a bundle. Raises AppError(bundle-invalid) for any other file."""
        payload = read_payload(path, KIND, Code.BUNDLE_INVALID)
        self.settings = parse(payload["settings"])
        self.features: list[str] = payload["features"]
        self.target: str = payload["target"]
        self.unit: str = payload["unit"]
        self.provenance: dict[str, Any] = payload["provenance"]
        self._scaler = Scaler(payload["scaler"]["mean"].numpy(), payload["scaler"]["std"].numpy())
        self._network = build(self.settings)
        load_weights(self._network, payload["weights"].numpy())
        self._network.eval()

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
        scaled = ((rows - self._scaler.mean[:-1]) / self._scaler.std[:-1]).astype(np.float32)
        windows = torch.from_numpy(scaled).unfold(0, length, 1).transpose(1, 2)
        with torch.inference_mode():
            predicted = self._network(windows).numpy().astype(np.float64)
        return np.asarray(predicted * self._scaler.std[-1] + self._scaler.mean[-1])
