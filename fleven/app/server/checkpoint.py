"""Checkpoints, from which a run goes on as if it had never stopped. Must not import flwr or pandas.

A checkpoint holds tensors and plain values only, so that it loads with `weights_only=True`: a file from elsewhere
cannot run code here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import AppError, Code
from ..files import write_atomically
from ..settings import Settings, parse
from ..trips.windows import Scaler
from .strategy import ServerState

SCHEMA_VERSION = 1
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
    payload = {
        "kind": "fleven-checkpoint",
        "schema_version": SCHEMA_VERSION,
        "run_id": str(run_id),
        "round": checkpoint.round,
        "settings": settings.as_config(),
        "weights": torch.from_numpy(state.weights),
        "momentum": torch.from_numpy(state.momentum),
        "variance": torch.from_numpy(state.variance),
        "scaler_mean": torch.from_numpy(scaler.mean),
        "scaler_std": torch.from_numpy(scaler.std),
        "history": checkpoint.history,
    }
    with write_atomically(path, mode=0o600) as stream:
        torch.save(payload, stream)


def load(path: Path, settings: Settings) -> Checkpoint:
    """Read a checkpoint for a run with these settings.

    path: the file, or a folder whose newest checkpoint is meant.
    Raises AppError(resume-invalid) naming what is wrong, every setting that does not fit included.
    """
    if path.is_dir():
        found = sorted(path.glob("checkpoint-round-*.pt"))
        if not found:
            raise _invalid(f"{path}: holds no checkpoint-round-*.pt")
        path = found[-1]
    payload = read_payload(path, "fleven-checkpoint", Code.RESUME_INVALID)
    written = parse(payload["settings"])
    differing = [
        f"{name.replace('_', '-')} was {getattr(written, name)}, is {getattr(settings, name)}"
        for name in FIXED
        if getattr(written, name) != getattr(settings, name)
    ]
    if differing:
        raise _invalid(f"{path}: made with other settings: {'; '.join(differing)}")
    return Checkpoint(
        round=int(payload["round"]),
        state=ServerState(*(payload[name].numpy() for name in ("weights", "momentum", "variance"))),
        scaler=Scaler(payload["scaler_mean"].numpy(), payload["scaler_std"].numpy()),
        history=payload["history"],
    )


def read_payload(path: Path, kind: str, code: Code) -> dict[str, Any]:
    """Load a file that `save` or the bundle wrote. Raises AppError(code) for any other file."""
    try:
        payload = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise AppError(code, f"{path}: no such file") from None
    except (
        Exception
    ) as error:  # torch takes any bytes for a pickle: what it raises depends on what the bytes happen to say
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AppError(code, f"{path}: cannot be read: {first[:200]}") from None
    if not isinstance(payload, dict) or payload.get("kind") != kind:
        raise AppError(code, f"{path}: is not a {kind}")
    if payload.get("schema_version") != SCHEMA_VERSION:
        raise AppError(
            code, f"{path}: has version {payload.get('schema_version')}, this program reads {SCHEMA_VERSION}"
        )
    return payload


def _invalid(message: str) -> AppError:
    return AppError(
        Code.RESUME_INVALID, message, "resume-from takes a checkpoint of a run with the same data columns and model"
    )
