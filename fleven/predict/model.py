"""A model from a file, ready for readings in physical units: the server's bundle, or what a car has kept.

Neither file runs anything when it is read. Must not import torch, flwr or pandas.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleven.app import car_state
from fleven.app.columns import unit_of
from fleven.app.errors import AppError
from fleven.app.settings import Settings, parse
from fleven.app.trips.windows import Scaler
from fleven.data.errors import InputError, Problem
from fleven.predict.network import Network, Shape, named_parameters

PARAMETER = "network."
#: Where a car's agent keeps what its tasks have left.
CAR_FOLDERS = (Path("/var/lib/fleven/flwr/fleven-car"),)


class Model:
    """A trained model with all that is needed to use it. Raises InputError for a file that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                zipped = stream.read(4) == b"PK\x03\x04"
            self.settings, parameters, self.scaler = _kept(path) if zipped else _bundle(path)
            self._network = Network(self.settings.model_type, parameters)
        except OSError as error:
            raise InputError(Problem(str(path), "", error.strerror or str(error))) from None
        except (AppError, ValueError, KeyError, TypeError, zipfile.BadZipFile, RecursionError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            hint = "give a run's model.safetensors, or a file that a car has kept"
            raise InputError(Problem(str(path), "", f"is no model: {first[:200]}", hint)) from None

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the readings, in order."""
        return self.settings.feature_columns

    @property
    def target(self) -> str:
        """What is predicted."""
        return self.settings.target_column

    @property
    def unit(self) -> str:
        """Unit of the target; "" where it is not known."""
        return unit_of(self.target)

    def predict(self, windows: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return [batch, prediction-length] in the target's unit, from [batch, sequence-length, features] as read."""
        scaled = ((windows - self.scaler.mean[:-1]) / self.scaler.std[:-1]).astype(np.float32)
        predicted = self._network(scaled).astype(np.float64)
        return np.asarray(predicted * self.scaler.std[-1] + self.scaler.mean[-1])


Parts = tuple[Settings, dict[str, npt.NDArray[np.float32]], Scaler]


def _bundle(path: Path) -> Parts:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            plain: dict[str, Any] = json.loads((opened.metadata() or {})["fleven"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no dictionary
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if plain.get("kind") != "fleven-model":
        raise ValueError(f"it is a {plain.get('kind')}")
    if plain.get("in-each-car"):
        raise ValueError("its output layer stays in each car (personal=head)")
    parameters = {name.removeprefix(PARAMETER): value for name, value in tensors.items() if name.startswith(PARAMETER)}
    return parse(plain["settings"]), parameters, Scaler(tensors["scaler.mean"], tensors["scaler.std"])


def _kept(path: Path) -> Parts:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        facts = json.loads(str(stored["facts"]))
        settings = parse(facts["settings"])
        shape = Shape(
            settings.model_type,
            len(settings.feature_columns),
            settings.sequence_length,
            settings.prediction_length,
            settings.hidden_size,
            settings.num_layers,
        )
        return settings, named_parameters(stored["weights"], shape), Scaler(stored["mean"], stored["std"])


def of_this_car() -> Path:
    """Return the model that this car uses: its own of its newest run, else that run's global one.

    Raises InputError where it has none.
    """
    folders = (car_state.folder(), *CAR_FOLDERS)
    try:
        found = [file for folder in folders for file in folder.glob("*/*.global.npz")]
        newest = max(found, key=lambda file: file.stat().st_mtime_ns, default=None)
        own = newest and newest.with_name(newest.name.replace(".global.", ".personal."))
        if own is not None and own.exists():
            return own
    except OSError as error:
        raise InputError(Problem(str(error.filename), "", error.strerror or str(error))) from None
    if newest is None:
        hint = "a car has one after its first run; --model FILE names another, such as a run's model.safetensors"
        raise InputError(Problem(" or ".join(map(str, folders)), "", "no model", hint))
    return newest
