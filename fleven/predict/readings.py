"""Readings one by one, as a logger gives them, to the windows that a model needs.

The rules are those of training: other names and units of a column are understood, a row that lacks a needed reading or
holds one that no sensor can mean is left out, and no window crosses a gap. Must not import torch, flwr or pandas.
"""

import csv
import json
import math
import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fleven.app import columns
from fleven.app.columns import Match
from fleven.data.errors import InputError, Problem
from fleven.predict.model import Model

#: Steps in time of which the median says what a gap is.
STEPS_REMEMBERED = 101
#: With fewer steps than this nobody knows the logger's rhythm.
FEWEST_STEPS = 5


class Follower:
    """Predicts from readings as they come. One row in, one answer out."""

    def __init__(self, model: Model) -> None:
        self.model = model
        settings = model.settings
        self._length, self._gap_factor = settings.sequence_length, settings.maximum_gap_factor
        self._rows = np.zeros((self._length, len(model.features)))
        self._filled = 0
        self._steps: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._time: float | None = None
        self._headers: dict[str, Match | None] = {}

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the prediction for a reading: `predicted` is a list in the target's unit, or None with a `reason`."""
        values = self._values(row)
        time = values.get(columns.TIME_COLUMN)
        said: dict[str, Any] = {columns.TIME_COLUMN: time, "target": self.model.target, "predicted": None}
        if time is None:
            return said | {"reason": f"lacks {columns.TIME_COLUMN}"}
        if missing := [name for name in self.model.features if values.get(name) is None]:
            return said | {"reason": f"lacks {', '.join(missing)}"}
        if not self._goes_on(time):
            return said | {"reason": "repeats the time of the reading before it"}
        self._rows[:-1] = self._rows[1:]
        self._rows[-1] = [values[name] for name in self.model.features]
        self._filled = min(self._filled + 1, self._length)
        if self._filled < self._length:
            return said | {"reason": f"{self._filled} of {self._length} readings without a gap"}
        (predicted,) = self.model.predict(self._rows[np.newaxis])
        return said | {"predicted": [round(float(value), 4) for value in predicted]}

    def truth(self, row: Mapping[str, Any]) -> float | None:
        """Return what the row itself says of the target."""
        return self._values(row).get(self.model.target)

    def _goes_on(self, time: float) -> bool:
        """Note the time of a reading; begin again after a gap. False for the same time again."""
        if self._time is not None:
            step = time - self._time
            if step == 0:
                return False
            known = len(self._steps) >= FEWEST_STEPS
            if step < 0 or (known and step > self._gap_factor * statistics.median(self._steps)):
                self._filled = 0
            if step > 0:
                self._steps.append(step)
        self._time = time
        return True

    def _values(self, row: Mapping[str, Any]) -> dict[str, float | None]:
        """Return the readings of a row by canonical name, in canonical units; None for what no sensor can mean."""
        found: dict[str, float | None] = {}
        wanted = (columns.TIME_COLUMN, *self.model.settings.columns)
        for header, cell in row.items():
            if header not in self._headers:
                self._headers[header] = columns.match(header) if isinstance(header, str) else None
            match = self._headers[header]
            name = header if header in wanted else match.column.name if match else None
            if name not in wanted or (name in found and header != name):
                continue
            value = _number(cell)
            if value is not None and match is not None and header != name:
                value = value * match.factor + match.offset
            known = columns.CANONICAL.get(name)
            bounded = known is not None and name != columns.TIME_COLUMN
            if value is not None and bounded and known and not known.minimum <= value <= known.maximum:
                value = None
            found[name] = value
        return found


def _number(cell: Any) -> float | None:
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        return None
    try:
        value = float(cell)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def from_lines(lines: Iterable[str], follower: Follower) -> Iterator[dict[str, Any]]:
    """Yield one answer for each line of JSON; what is no object is answered with a reason, and the stream goes on."""
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield follower.answer(row)
        else:
            yield {columns.TIME_COLUMN: None, "target": follower.model.target, "predicted": None, "reason": "no object"}


def rows_of(trip: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a trip, CSV or Parquet. Raises InputError for a file that cannot be read."""
    try:
        if trip.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq  # heavy: only for files that need it

            for batch in pq.ParquetFile(trip).iter_batches(1024):
                yield from batch.to_pylist()
            return
        with trip.open(newline="", encoding="utf-8-sig") as stream:
            yield from csv.DictReader(stream)
    except OSError as error:
        raise InputError(Problem(str(trip), "", error.strerror or str(error))) from None
    except (ValueError, csv.Error) as error:  # what pyarrow raises for a damaged file is a ValueError too
        raise InputError(Problem(str(trip), "", f"cannot be read: {str(error).splitlines()[0][:200]}")) from None
