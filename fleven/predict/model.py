"""A model from a file, ready for readings in physical units: the server's bundle, or what a car has kept.

Neither file runs anything when it is read. Must not import torch, flwr or pandas.
"""

import json
import os
import stat
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleven.app import car_state
from fleven.app.columns import unit_of
from fleven.app.errors import AppError
from fleven.app.settings import KEYS, Settings, parse
from fleven.app.trips.windows import Scaler
from fleven.data.errors import InputError, Problem
from fleven.predict.network import Network, Shape, named_parameters

PARAMETER = "network."
#: Where a car keeps what its tasks have left: in their cell, and, where they run as the agent, below its state folder.
CAR_FOLDERS = (Path("/var/lib/fleven-models"),)
OF_THE_AGENT = "flwr/fleven-car"
CLOSED_HINT = "run this as root, or as a member of the group fleven-task"
#: Where a car's agent keeps the model that the server sent, and the variable that names another state folder.
AGENT_STATE, STATE_VARIABLE = Path("/var/lib/fleven"), "FLEVEN_STATE_DIR"
DELIVERED = "models/current"
LARGEST_FILE_BYTES, LARGEST_HEADER_BYTES = 64 * 1024 * 1024, 1024 * 1024


class Model:
    """A trained model with all that is needed to use it. Raises InputError for a file that is none.

    parameters: by name, as torch calls them. digest: tells its weights from others', as a car does that makes its own
    model of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                zipped = stream.read(4) == b"PK\x03\x04"
            self.settings, parameters, self.scaler = _kept(path) if zipped else _bundle(path)
            self._network = Network(self.settings.model_type, parameters)
            self.parameters = parameters
            self.digest = car_state.digest_of(_flat(parameters, self.settings))
        except OSError as error:
            raise InputError(Problem(str(path), "", error.strerror or str(error))) from None
        except (AppError, ValueError, KeyError, TypeError, MemoryError, zipfile.BadZipFile, RecursionError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            hint = "give a run's model.safetensors, or a file that a car has kept"
            raise InputError(Problem(str(path), "", f"is not a model: {first[:200]}", hint)) from None

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

    _check_size(path)
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
    settings = _settings(plain)
    _check(parameters, settings)
    return settings, parameters, _scaler(tensors["scaler.mean"], tensors["scaler.std"], settings)


def _check_size(path: Path) -> None:
    """Raise ValueError for a file, or a header of one, that is larger than any model's: before it is read."""
    with path.open("rb") as stream:
        (header,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
    size = path.stat().st_size
    if size > LARGEST_FILE_BYTES or header > LARGEST_HEADER_BYTES:
        raise ValueError(f"it has {size} bytes, {header} of them before its numbers: that is not a model of this app")


def _settings(plain: Mapping[str, Any]) -> Settings:
    """Return the settings of a file; keys that this version does not know are of no use for predicting."""
    return parse({key: value for key, value in plain["settings"].items() if key in KEYS})


def _shape(settings: Settings) -> Shape:
    return Shape(
        settings.model_type,
        len(settings.feature_columns),
        settings.sequence_length,
        settings.prediction_length,
        settings.hidden_size,
        settings.num_layers,
    )


def _flat(parameters: Mapping[str, npt.NDArray[np.float32]], settings: Settings) -> npt.NDArray[np.float32]:
    return np.concatenate([parameters[name].reshape(-1) for name, _ in _shape(settings).parameters()])


def _check(parameters: Mapping[str, npt.NDArray[Any]], settings: Settings) -> None:
    """Raise ValueError where a parameter is not of the kind and shape that the network must have, or not finite."""
    wanted = dict(_shape(settings).parameters())
    if set(parameters) != set(wanted):
        raise ValueError(f"unknown or missing: {', '.join(sorted(set(parameters) ^ set(wanted)))[:100]}")
    for name, shape in wanted.items():
        values = parameters[name]
        if values.dtype != np.float32 or values.shape != shape:
            raise ValueError(f"{name} is {values.dtype} {list(values.shape)}, must be float32 {list(shape)}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds a value that is not finite")


def _scaler(mean: npt.NDArray[Any], std: npt.NDArray[Any], settings: Settings) -> Scaler:
    shape = (len(settings.columns),)
    right = all(part.dtype == np.float64 and part.shape == shape for part in (mean, std))
    if not (right and np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise ValueError("its scaler does not fit its columns")
    return Scaler(mean, std)


def _kept(path: Path) -> Parts:
    with path.open("rb") as stream, car_state.opened(stream) as stored:
        facts = json.loads(str(stored["facts"]))
        settings = _settings(facts)
        parameters = named_parameters(stored["weights"], _shape(settings))
        return settings, parameters, Scaler(stored["mean"], stored["std"])


def own_of(delivered: Path, folders: Iterable[Path]) -> Path | None:
    """Return the car's own model that was made of the one that the server sent; None where there is none."""
    digest = Model(delivered).digest
    found = [file for folder in folders for file in _readable(folder, f"*/*.{digest}.personal.npz")]
    return max(found, key=lambda file: file.stat().st_mtime_ns, default=None)


def _readable(folder: Path, pattern: str) -> list[Path]:
    """Return files that this user may read: who may not look into the tasks' folder uses what the server sent."""
    try:
        return [file for file in folder.glob(pattern) if _is_file(file) and os.access(file, os.R_OK)]
    except OSError:
        return []


def of_this_car() -> Path:
    """Return the model that this car uses.

    The one that the server sent, or the car's own that was made of it; without one, the car's own of its newest run,
    else that run's global one. Raises InputError where it has none.
    """
    state = Path(os.environ.get(STATE_VARIABLE) or AGENT_STATE)
    folders = (car_state.folder(), *CAR_FOLDERS, state / OF_THE_AGENT)
    delivered = state / DELIVERED
    try:
        if delivered.exists():
            return own_of(delivered, folders) or delivered
        found = [file for folder in folders for file in folder.glob("*/*.global.npz") if _is_file(file)]
        newest = max(found, key=lambda file: file.stat().st_mtime_ns, default=None)
        own = newest and newest.with_name(newest.name.replace(".global.", ".personal."))
        if own is not None and _is_file(own):
            return own
    except OSError as error:
        raise InputError(Problem(str(error.filename), "", error.strerror or str(error), CLOSED_HINT)) from None
    if newest is None:
        if closed := [folder for folder in folders if _is_closed(folder)]:
            raise InputError(Problem(str(closed[0]), "", "may not be read by this user", CLOSED_HINT))
        hint = "a car has one after its first run; --model FILE names another, such as a run's model.safetensors"
        raise InputError(Problem(" or ".join(map(str, folders)), "", "no model", hint))
    return newest


def _is_file(path: Path) -> bool:
    """Whether it is a file and no link: the code of a run may have put anything there."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _is_closed(folder: Path) -> bool:
    """Whether it is there, or may be there, and this user cannot look into it."""
    try:
        return folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)
    except PermissionError:
        return True
