"""From readings to trips: where one drive ends and the next begins, and how regular its readings are.

Pure functions over arrays. Must not import torch or flwr.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A logger that loses one reading now and then still shows the drive; one that loses more does not.
GAP_FACTOR: Final = 3.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How regular a trip's readings are: the usual time between two, and which steps are much longer."""

    interval_seconds: float
    gap_limit_seconds: float
    gaps: int
    longest_gap_seconds: float


def sampling(time: NDArray[np.float64]) -> Sampling:
    """Measure the times of one trip's rows [s], which must be rising.

    The interval is the median step. A step longer than `GAP_FACTOR` intervals is a gap: the rule is relative because
    loggers read from ten times a second to once in six seconds.
    """
    steps = np.diff(time)
    if not len(steps):
        return Sampling(0.0, 0.0, 0, 0.0)
    interval = float(np.median(steps))
    limit = GAP_FACTOR * interval
    gaps = steps[steps > limit]
    longest = float(gaps.max()) if len(gaps) else 0.0
    return Sampling(round(interval, 3), round(limit, 3), len(gaps), round(longest, 3))


def boundaries(time: NDArray[np.float64], group: NDArray[np.int64], pause_seconds: float) -> NDArray[np.bool_]:
    """Return which rows begin a new trip.

    A trip ends where `group` (vehicle, or vehicle and trip) changes, where the clock jumps back (it restarted with
    the engine), and where nothing was logged for longer than `pause_seconds`.
    """
    begins = np.ones(len(time), dtype=bool)
    if len(time) > 1:
        steps = np.diff(time)
        begins[1:] = (np.diff(group) != 0) | (steps < 0) | (steps > pause_seconds)
    return begins
