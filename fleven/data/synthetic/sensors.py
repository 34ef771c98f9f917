"""What an ELM327 logger makes of a drive: turns, noise, steps, jitter and lost readings.

The adapter asks for one value after the other, so the values of one row are not of one moment. Resolutions are those
of SAE J1979. Must not import torch or flwr.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.random import Generator
    from numpy.typing import NDArray

    from fleven.data.synthetic.driving import Drive
    from fleven.data.synthetic.vehicle import Vehicle

from fleven.data.synthetic.vehicle import FUEL_DENSITY

SENSOR_LAG_SECONDS: Final = 0.25  # first-order lag of an air flow meter and its filter


@dataclass(frozen=True, slots=True)
class Logger:
    """The logger's faults. Chances are per row or per cell; `turn_seconds` is the time that one value takes."""

    interval_seconds: float = 1.0
    jitter_seconds: float = 0.05
    slow_chance: float = 0.02
    turn_seconds: float = 0.07
    lost_row_chance: float = 0.01
    lost_cell_chance: float = 0.003
    dropouts_per_hour: float = 4.0
    dropout_seconds: tuple[float, float] = (5.0, 25.0)
    rpm_noise: float = 8.0
    air_flow_noise: float = 0.02
    throttle_noise_percent: float = 0.3

    def parameters(self) -> dict[str, Any]:
        """The logger's numbers for the manifest."""
        return {**asdict(self), "dropout_seconds": list(self.dropout_seconds)}


def row_times(logger: Logger, seconds: float, random: Generator) -> NDArray[np.float64]:
    """Return when rows begin [s], to the millisecond: about one an interval, some late, some lost."""
    count = int(seconds / logger.interval_seconds) + 1
    steps = logger.interval_seconds + random.normal(0.0, logger.jitter_seconds, count)
    steps += np.where(random.random(count) < logger.slow_chance, random.uniform(0.2, 0.9, count), 0.0)
    times = np.concatenate([[0.0], np.cumsum(np.maximum(steps, 0.3 * logger.interval_seconds))])
    keep = random.random(len(times)) >= logger.lost_row_chance
    for _ in range(int(random.poisson(logger.dropouts_per_hour * seconds / 3600.0))):
        begin = float(random.uniform(0.0, seconds))
        end = begin + float(random.uniform(*logger.dropout_seconds))
        keep &= (times < begin) | (times >= end)
    keep[0] = True
    result: NDArray[np.float64] = np.round(times[keep & (times < seconds)], 3)
    return result


def readings(vehicle: Vehicle, trace: Drive, logger: Logger, random: Generator) -> pd.DataFrame:
    """Return the rows that the logger writes, in canonical columns."""
    import pandas as pd

    truth = _true_signals(vehicle, trace, logger, random)
    times = row_times(logger, float(trace.time[-1]), random)
    columns = {"time_sec": times}
    for turn, (name, (values, resolution)) in enumerate(truth.items()):
        asked = times + turn * logger.turn_seconds
        value = np.interp(asked, trace.time, values)
        # Rounding to the resolution leaves digits such as 0.30000000000000004; no sensor reports that.
        value = np.round(np.floor(value / resolution + 0.5) * resolution, 4)
        columns[name] = np.where(random.random(len(times)) < logger.lost_cell_chance, np.nan, value)
    return pd.DataFrame(columns)


def _true_signals(
    vehicle: Vehicle, trace: Drive, logger: Logger, random: Generator
) -> dict[str, tuple[NDArray[np.float64], float]]:
    """Signals at the trace's own pace with sensor noise, each with the resolution it is reported in."""
    steps = len(trace.time)
    fuel = vehicle.fuel_flow(trace.brake_power, trace.rpm)
    air = vehicle.air_flow(fuel)
    measured_air = _lag(air, trace.time) * (1.0 + logger.air_flow_noise * random.standard_normal(steps))
    rpm = trace.rpm + logger.rpm_noise * random.standard_normal(steps)
    load = vehicle.load_percent(measured_air, trace.rpm)
    throttle = vehicle.throttle_percent(air, trace.rpm)
    throttle = throttle + logger.throttle_noise_percent * random.standard_normal(steps)
    return {
        "vehicle_speed": (trace.speed * 3.6 * vehicle.speed_sensor_gain, 1.0),
        "engine_rpm": (np.maximum(rpm, 0.0), 0.25),
        "mass_air_flow": (np.maximum(measured_air * 1000.0, 0.0), 0.01),
        "calculated_load_value": (np.clip(load, 0.0, 100.0), 100.0 / 255.0),
        "absolute_throttle_pos": (np.clip(throttle, 0.0, 100.0), 100.0 / 255.0),
        "fuel_rate": (fuel * 3.6e6 / FUEL_DENSITY, 0.05),
        "P_kW": (trace.wheel_power / 1000.0, 0.01),
    }


def _lag(values: NDArray[np.float64], time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `values` through a first-order lag of `SENSOR_LAG_SECONDS`."""
    share = 1.0 - float(np.exp(-(time[1] - time[0]) / SENSOR_LAG_SECONDS))
    out = np.empty_like(values)
    level = float(values[0])
    for index, value in enumerate(values.tolist()):
        level += share * (value - level)
        out[index] = level
    return out
