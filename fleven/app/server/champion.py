"""The model in use, beside which a run's own is judged at its end: read once, and only compared where that is fair.

A run whose model cannot be compared is still a run: why not is kept in its result. Must not import flwr's transport or
pandas.
"""

import hashlib
import logging
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AppError
from ..messages import Champion, pack, record_bytes
from ..settings import Settings

log = logging.getLogger("fleven.app")

#: The SuperLink takes messages of 16 MiB; what is not weights in one is small.
LARGEST_BYTES = 15 * 1024 * 1024
#: What the windows hang on: two models that agree on it can be judged on the same ones.
WINDOWS = ("target_column", "feature_columns", "sequence_length", "prediction_length")


class NotCompared(StrEnum):
    """Why the champion is not scored. The values never change."""

    UNREADABLE = "champion-unreadable"
    OTHER_WINDOWS = "champion-of-other-windows"
    TOO_LARGE = "champion-too-large"


@dataclass(frozen=True)
class Opponent:
    """The champion of a run, or why there is none to compare with. sha256: of its file, "" where it cannot be read."""

    path: str
    sha256: str = ""
    champion: Champion | None = None
    code: str = ""
    reason: str = ""

    def plain(self) -> dict[str, Any]:
        """Return what the result says of it."""
        return {"path": self.path, "sha256": self.sha256, "code": self.code, "reason": self.reason}


def opponent(settings: Settings) -> Opponent | None:
    """Return what `champion` names; None where it names nothing."""
    if not settings.champion:
        return None
    found = _read(Path(settings.champion), settings)
    if found.code:
        log.warning("event=champion-not-compared code=%s reason=%r", found.code, found.reason)
    return found


def _read(path: Path, settings: Settings) -> Opponent:
    from .bundle import Predictor  # brings torch, which the cars' first task need not wait for

    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        model = Predictor(path)
    except OSError as error:
        return Opponent(str(path), code=NotCompared.UNREADABLE, reason=f"{path}: {error.strerror or error}")
    except AppError as error:
        return Opponent(str(path), code=NotCompared.UNREADABLE, reason=error.reason)
    if other := [name for name in WINDOWS if getattr(model.settings, name) != getattr(settings, name)]:
        names = ", ".join(name.replace("_", "-") for name in other)
        reason = f"it was made with another {names}: there are no windows on which both can be judged"
        return Opponent(str(path), digest, code=NotCompared.OTHER_WINDOWS, reason=reason)
    if not np.isfinite(model.weights).all():
        return Opponent(str(path), digest, code=NotCompared.UNREADABLE, reason="its weights are not finite")
    champion = Champion(
        model.weights, model.scaler, model.settings.model_type, model.settings.hidden_size, model.settings.num_layers
    )
    size = record_bytes(pack(champion.weights, None, settings.update_compression))
    if size > LARGEST_BYTES:
        reason = f"it has {size} bytes; a message takes {LARGEST_BYTES} at most"
        return Opponent(str(path), digest, code=NotCompared.TOO_LARGE, reason=reason)
    return Opponent(str(path), digest, champion)
