"""Tries a model on a car's newest trip, in a process of its own: `python -m fleven.predict.trial MODEL`.

Whoever starts it can give it up. It says on standard output, as one object of JSON, whether the model can be used and
how large its error is there. What it reads is foreign: sizes, kinds and shapes are compared with what the network must
have before anything is computed. Must not import torch, flwr or pandas.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fleven.data.errors import InputError
from fleven.predict.model import Model
from fleven.predict.readings import Follower, rows_of

SUFFIXES = (".csv", ".parquet")
MOST_READINGS = 20_000
"""Of a trip: more say no more, and cost a small board minutes."""
LARGEST_MEMORY_BYTES = 2 * 1024**3
MOST_CPU_SECONDS = 280
OOM_SCORE = 500


def main() -> None:
    """Try, and tell."""
    made = argparse.ArgumentParser(description="Try a model on a car's newest trip.")
    made.add_argument("model", type=Path)
    made.add_argument("--trips", type=Path, help="folder of the car's trips")
    made.add_argument("--other", type=Path, help="model to compare with on the same readings")
    asked = made.parse_args()
    _be_modest()
    json.dump(tried(asked.model, asked.trips, asked.other), sys.stdout)


def _be_modest() -> None:
    """Stand behind all that matters on the car, as far as the sandbox of the agent's unit lets a process say so."""
    with contextlib.suppress(OSError):
        os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
    for limit, most in ((resource.RLIMIT_AS, LARGEST_MEMORY_BYTES), (resource.RLIMIT_CPU, MOST_CPU_SECONDS)):
        _, hard = resource.getrlimit(limit)
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (wanted, hard))


def tried(path: Path, trips: Path | None, other: Path | None) -> dict[str, Any]:
    """Return `usable` and `reason`, and where there is a trip that can tell, `values`, `rmse` and `other_rmse`."""
    try:
        model = Model(path)
        _look(model)
    except InputError as error:
        return {"usable": False, "reason": error.problems[0].problem}
    except (ValueError, FloatingPointError, MemoryError) as error:
        return {"usable": False, "reason": str(error).splitlines()[0][:200] if str(error) else type(error).__name__}
    said: dict[str, Any] = {"usable": True, "reason": "", "values": 0, "rmse": None, "other_rmse": None}
    trip = newest(trips) if trips is not None else None
    if trip is None:
        return said
    try:
        said["values"], said["rmse"] = error_on(model, trip)
    except InputError:  # of the trip: training says what is wrong with it
        return said
    except ValueError as error:
        return {"usable": False, "reason": str(error)[:200]}
    if other is not None and said["rmse"] is not None:
        with contextlib.suppress(InputError, ValueError):
            values, found = error_on(Model(other), trip)
            said["other_rmse"] = found if values == said["values"] else None
    return said


def _look(model: Model) -> None:
    """Have it predict from a window of mean readings. Raises ValueError when that is not finite."""
    settings, scaler = model.settings, model.scaler
    window = np.broadcast_to(scaler.mean[:-1], (1, settings.sequence_length, len(model.features)))
    predicted = model.predict(window)
    if predicted.shape != (1, settings.prediction_length) or not np.isfinite(predicted).all():
        raise ValueError("it predicts a value that is not finite")


def newest(folder: Path) -> Path | None:
    """Return the newest trip of a folder; None where there is none, or it cannot be read."""
    found: list[tuple[int, str, Path]] = []
    try:
        for path in folder.iterdir():
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
                found.append((path.stat().st_mtime_ns, path.name, path))
    except OSError:
        return None
    return max(found)[2] if found else None


def error_on(model: Model, trip: Path) -> tuple[int, float | None]:
    """Return how many predictions a trip allows to check, and their root mean squared error in the target's unit.

    Raises InputError for a trip that cannot be read, ValueError when a prediction is not finite.
    """
    follower = Follower(model)
    squared, values = 0.0, 0
    for row in islice(rows_of(trip), MOST_READINGS):
        answer = follower.answer(row)
        if answer["predicted"] is None:
            continue
        if not all(math.isfinite(value) for value in answer["predicted"]):
            raise ValueError("it predicts a value that is not finite")
        if (truth := follower.truth(row)) is not None:
            squared, values = squared + (answer["predicted"][0] - truth) ** 2, values + 1
    return values, math.sqrt(squared / values) if values else None


if __name__ == "__main__":
    main()
