"""What a car keeps between tasks and runs: its own output layer, and its own model. None of it leaves the car.

Files are NumPy archives without pickles, with JSON for plain values: reading one runs nothing, and a car needs no
further package for it. Whatever is wrong with a file, the car begins again. Must not import flwr, torch or pandas.
"""

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .files import write_atomically
from .settings import Settings
from .trips.windows import Scaler

if TYPE_CHECKING:
    from numpy.lib.npyio import NpzFile

log = logging.getLogger("fleven.app")

#: Names the folder, where the agent has one for it.
FOLDER_VARIABLE = "FLEVEN_CAR_STATE_DIR"
FORMAT = 1
#: Own models that a car keeps, each of another global one: those of the champion, the one before it, and a candidate.
VARIANTS = 4
#: Settings that give a network its shape, or its numbers their meaning.
_SHAPING = ("target_column", "feature_columns", "sequence_length", "prediction_length")
_NETWORK = ("model_type", "hidden_size", "num_layers")
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Kept:
    """Weights that stay in the car, the scaler that they were trained with, and plain values about them."""

    weights: Vector
    scaler: Scaler
    facts: Mapping[str, Any]


def folder() -> Path:
    """Return where a car's state lives: the folder that the agent names, else below FLWR_HOME.

    The user that tasks run as must be able to write to it; nobody else needs to.
    """
    if named := os.environ.get(FOLDER_VARIABLE, ""):
        return Path(named)
    home = os.environ.get("FLWR_HOME", "")
    return (Path(home) if home else Path.home() / ".flwr") / "fleven-car"


def place(kind: str, settings: Settings, data_folder: Path) -> Path:
    """Return the file of one kind ("head", "personal") for an experiment, a shape of network and a car's data.

    data_folder: tells cars apart that share a machine.
    """
    shape = [FORMAT, *(getattr(settings, name) for name in (*_SHAPING, *_NETWORK)), str(data_folder.absolute())]
    digest = hashlib.blake2b(json.dumps(shape).encode(), digest_size=8).hexdigest()
    return folder() / settings.experiment / f"{digest}.{kind}.npz"


def digest_of(weights: Vector) -> str:
    """Return what tells models apart, and not what half precision on the way to a car makes of one."""
    with np.errstate(over="ignore"):
        return hashlib.blake2b(weights.astype(np.float16).tobytes(), digest_size=8).hexdigest()


def variant(personal: Path, weights: Vector) -> Path:
    """Return where a car's own model stays beside the newest one, by the global weights that it was made of.

    Which of the fleet's models is used is decided after a run, and may change again later.
    """
    shape = personal.name.partition(".")[0]
    return personal.with_name(f"{shape}.{digest_of(weights)}.personal.npz")


def forget_old(personal: Path, keep: int = VARIANTS) -> None:
    """Remove all variants of a car's own model but the newest."""
    shape = personal.name.partition(".")[0]
    try:
        found = sorted(personal.parent.glob(f"{shape}.*.personal.npz"), key=lambda file: file.stat().st_mtime_ns)
    except OSError:
        return
    for file in found[:-keep]:
        forget(file)


def save(path: Path, kept: Kept) -> bool:
    """Write a file, whole or not at all, for this user alone; return whether the disk took it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with write_atomically(path, mode=0o600) as stream:
            np.savez(
                stream,
                weights=kept.weights,
                mean=kept.scaler.mean,
                std=kept.scaler.std,
                facts=np.array(json.dumps(dict(kept.facts))),
            )
    except OSError as error:
        log.warning("event=car-state-not-written path=%s reason=%r", path, error.strerror or str(error))
        return False
    return True


def forget(path: Path) -> None:
    """Remove a file, if it is there."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("event=car-state-not-removed path=%s reason=%r", path, error.strerror or str(error))


def opened(stream: BinaryIO) -> "NpzFile":
    """Return the arrays of a file of this kind.

    Raises ValueError or zipfile.BadZipFile for another kind, and for an archive that is more when it is read than on
    the disk: all apps of a car write to its folder.
    """
    with zipfile.ZipFile(stream) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it is compressed")
    stream.seek(0)
    found: NpzFile = np.load(stream, allow_pickle=False)
    return found


def load(path: Path, values: int, columns: int) -> Kept | None:
    """Return what a file holds, or None where there is none that fits.

    values: how many weights there must be. columns: how many columns the scaler must have.
    """
    try:
        with path.open("rb") as stream, opened(stream) as stored:
            kept = Kept(
                stored["weights"], Scaler(stored["mean"], stored["std"]), dict(json.loads(str(stored["facts"])))
            )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, zipfile.BadZipFile) as error:
        log.warning("event=car-state-unusable path=%s reason=%r", path, str(error))
        return None
    scaler = kept.scaler
    whole = (
        kept.weights.dtype == np.float32
        and kept.weights.shape == (values,)
        and np.isfinite(kept.weights).all()
        and all(part.dtype == np.float64 and part.shape == (columns,) for part in (scaler.mean, scaler.std))
        and bool(np.isfinite(scaler.mean).all() and (scaler.std > 0).all())
    )
    if not whole:
        log.warning("event=car-state-unusable path=%s reason='not of the kinds and shapes that it must have'", path)
        return None
    return kept


def rescaled(head: Vector, predictions: int, old: Scaler, new: Scaler) -> Vector:
    """Return an output layer that predicts under the new scaler what it predicted under the old one.

    head: the layer's matrix [predictions, hidden], row by row, then its offsets [predictions]. The target is the
    scalers' last column: the fleet's readings, and with them its scaler, change from run to run.
    """
    matrix, offsets = head[:-predictions].astype(np.float64), head[-predictions:].astype(np.float64)
    ratio = old.std[-1] / new.std[-1]
    shift = (old.mean[-1] - new.mean[-1]) / new.std[-1]
    return np.concatenate([matrix * ratio, offsets * ratio + shift]).astype(np.float32)
