"""Checkpoints, from which a run goes on as if it had never stopped. Must not import flwr, torch or pandas."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import AppError, Code
from ..settings import Settings, parse
from ..trips.windows import Scaler
from . import tensor_file
from .history import History
from .strategy import ServerState

KIND = "fleven-checkpoint"
#: Settings that the weights, the scaler or the split depend on: a run can only go on with the same ones.
FIXED = (
    "target_column",
    "feature_columns",
    "sequence_length",
    "prediction_length",
    "train_test_split",
    "split_by",
    "model_type",
    "hidden_size",
    "num_layers",
    "heads_stay",
    "strategy",
)


@dataclass(frozen=True)
class Checkpoint:
    """The state after `round`. history: the rows and contributions so far, plain values."""

    round: int
    state: ServerState
    scaler: Scaler
    history: dict[str, Any]


def save(path: Path, checkpoint: Checkpoint, settings: Settings, run_id: int) -> None:
    """Write a checkpoint, whole or not at all."""
    state, scaler = checkpoint.state, checkpoint.scaler
    tensors: dict[str, npt.NDArray[Any]] = {
        "weights": state.weights,
        "momentum": state.momentum,
        "variance": state.variance,
        "scaler_mean": scaler.mean,
        "scaler_std": scaler.std,
    }
    plain = {
        "run_id": str(run_id),
        "round": checkpoint.round,
        "settings": settings.as_config(),
        "history": checkpoint.history,
    }
    tensor_file.write(path, KIND, tensors, plain, mode=0o600)


def load(path: Path, settings: Settings) -> Checkpoint:
    """Read a checkpoint for a run with these settings.

    path: the file, or a folder whose newest checkpoint is meant.
    Raises AppError(resume-invalid) naming what is wrong, every setting that does not fit included.
    """
    if path.is_dir():
        found = sorted(_checkpoints(path), key=lambda file: (file.stem, file.suffix))
        if not found:
            raise _invalid(f"{path}: holds no checkpoint-round-*{tensor_file.SUFFIX}")
        path = found[-1]
    content = tensor_file.read(path, KIND, Code.RESUME_INVALID)
    try:
        written = parse(content.plain["settings"])
        number, history = content.plain["round"], content.plain["history"]
        History.of(history)
        weights, momentum, variance = (content.tensors[name] for name in ("weights", "momentum", "variance"))
        mean, std = content.tensors["scaler_mean"], content.tensors["scaler_std"]
    except (KeyError, TypeError, ValueError, AttributeError, AppError) as error:
        raise _invalid(f"{path}: lacks what a checkpoint has: {error}") from None
    differing = [
        f"{name.replace('_', '-')} was {getattr(written, name)}, is {getattr(settings, name)}"
        for name in FIXED
        if getattr(written, name) != getattr(settings, name)
    ]
    if differing:
        raise _invalid(f"{path}: made with other settings: {'; '.join(differing)}")
    columns = (len(settings.columns),)
    whole = (
        type(number) is int
        and isinstance(history, dict)
        and all(part.dtype == np.float32 and part.shape == (weights.size,) for part in (weights, momentum, variance))
        and all(part.dtype == np.float64 and part.shape == columns for part in (mean, std))
        and all(np.isfinite(part).all() for part in (weights, momentum, variance, mean, std))
    )
    if not whole:
        raise _invalid(f"{path}: its tensors or values are not of the kinds and shapes that a checkpoint has")
    return Checkpoint(number, ServerState(weights, momentum, variance), Scaler(mean, std), history)


def _checkpoints(folder: Path) -> Iterator[Path]:
    for suffix in (tensor_file.SUFFIX, tensor_file.PICKLE_SUFFIX):
        yield from folder.glob(f"checkpoint-round-*{suffix}")


def _invalid(message: str) -> AppError:
    return AppError(
        Code.RESUME_INVALID, message, "resume-from takes a checkpoint of a run with the same data columns and model"
    )
