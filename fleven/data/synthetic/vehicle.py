"""A petrol car as numbers: what its road, gearbox and engine do. The formulae of `fleven data synthesise`.

Each formula names its source; docs/data.md explains them in one place. SI units inside (m, s, kg, N, W, rad/s, K),
except where a name says otherwise. Pure functions; the arithmetic works on floats and on numpy arrays alike.

Sources: [Gillespie] T. D. Gillespie, Fundamentals of Vehicle Dynamics, SAE 1992, ch. 2 and 4.
[Heywood] J. B. Heywood, Internal Combustion Engine Fundamentals, McGraw-Hill 1988.
[J1979] SAE J1979 / ISO 15031-5, service 01.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

Number = TypeVar("Number", float, "NDArray[np.float64]")

GRAVITY: Final = 9.81
AIR_DENSITY: Final = 1.184  # kg/m3 at 25 degC and 101.3 kPa, the reference of LOAD_PCT in [J1979]
AIR_FUEL_RATIO: Final = 14.6  # stoichiometric, petrol: [Heywood] app. D
HEATING_VALUE: Final = 44.0e6  # J/kg, lower, petrol: [Heywood] app. D
FUEL_DENSITY: Final = 745.0  # g/L, petrol, middle of the 720 to 775 that EN 228 allows
CLOSED_THROTTLE_AIR: Final = 0.75  # air that a closed throttle lets through, as a share of the air at idle
RPM_PER_RAD_S: Final = 60.0 / (2.0 * math.pi)


@dataclass(frozen=True, slots=True)
class Vehicle:
    """One car. `gear_ratios` are the gearbox's, first gear first; `final_drive` is the axle's."""

    mass_kg: float
    drag_area_m2: float
    rolling_resistance: float
    tyre_radius_m: float
    gear_ratios: tuple[float, ...]
    final_drive: float
    driveline_efficiency: float
    displacement_l: float
    volumetric_efficiency: float
    best_filling_rpm: float
    indicated_efficiency: float
    idle_rpm: float
    accessory_w: float
    closed_throttle_percent: float
    speed_sensor_gain: float

    def road_load(self, speed: float, slope: float) -> float:
        """Force that holds the car back at constant speed [N]: rolling, slope and air. [Gillespie] ch. 4.

        speed [m/s]; slope is rise over run. Nothing rolls back at standstill: the driver holds the brake.
        """
        weight = self.mass_kg * GRAVITY / math.sqrt(1.0 + slope * slope)
        rolling = self.rolling_resistance if speed > 0.0 else 0.0
        return weight * (rolling + slope) + 0.5 * AIR_DENSITY * self.drag_area_m2 * speed * speed

    def effective_mass(self, gear: int | None) -> float:
        """Mass that must be sped up [kg]: wheels, and behind a closed clutch (`gear` given) the engine, included.

        [Gillespie] ch. 2: mass factor 1 + 0.04 + 0.0025 N^2, N the ratio of gearbox and axle together.
        """
        ratio = self.gear_ratios[gear] * self.final_drive if gear is not None else 0.0
        return self.mass_kg * (1.04 + 0.0025 * ratio * ratio)

    def geared_rpm(self, speed: Number, ratio: Number) -> Number:
        """Engine speed with a closed clutch [rpm] at `speed` [m/s] and a gearbox ratio."""
        return speed / self.tyre_radius_m * ratio * self.final_drive * RPM_PER_RAD_S

    def friction_power(self, rpm: Number) -> Number:
        """Power that the engine itself consumes [W].

        [Heywood] ch. 13: friction mean effective pressure = 0.97 + 0.15 n + 0.05 n^2 [bar], n in 1000 rpm.
        """
        thousands = rpm / 1000.0
        pressure = (0.97 + 0.15 * thousands + 0.05 * thousands * thousands) * 1e5
        return pressure * self.displacement_l * 1e-3 * rpm / 120.0

    def most_air(self, rpm: Number) -> Number:
        """Air that the engine takes with the throttle wide open [kg/s]. [Heywood] ch. 2, four strokes.

        The volumetric efficiency falls with the square of the distance to its best speed: a plain form of the curves
        in [Heywood] ch. 6.
        """
        distance = (rpm - self.best_filling_rpm) / self.best_filling_rpm
        filling = self.volumetric_efficiency * (1.0 - 0.25 * distance * distance)
        return filling * AIR_DENSITY * self.displacement_l * 1e-3 * rpm / 120.0

    def most_power(self, rpm: Number) -> Number:
        """Brake power at full load [W]: what all the air can burn, less friction."""
        fuel = self.most_air(rpm) / AIR_FUEL_RATIO
        return fuel * HEATING_VALUE * self.indicated_efficiency - self.friction_power(rpm)

    def fuel_flow(self, brake_power: NDArray[np.float64], rpm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fuel burnt [kg/s] for `brake_power` [W] at the crankshaft: a Willans line through the engine's friction.

        Nothing is injected while the car drives the engine (overrun), as in every car since the 1990s.
        """
        indicated = brake_power + self.friction_power(rpm)
        return np.maximum(indicated, 0.0) / (self.indicated_efficiency * HEATING_VALUE)

    def air_flow(self, fuel: NDArray[np.float64]) -> NDArray[np.float64]:
        """Air taken in [kg/s]: stoichiometric with the fuel, and never less than a closed throttle lets through."""
        idle = np.array([self.idle_rpm])
        at_idle = float(self.fuel_flow(np.array([self.accessory_w]), idle)[0]) * AIR_FUEL_RATIO
        return np.maximum(fuel * AIR_FUEL_RATIO, CLOSED_THROTTLE_AIR * at_idle)

    def load_percent(self, air: NDArray[np.float64], rpm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calculated load [%]: air now over the most air at this engine speed. [J1979] PID 04, LOAD_PCT."""
        return 100.0 * air / self.most_air(rpm)

    def throttle_percent(self, air: NDArray[np.float64], rpm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Throttle position [%] that lets `air` [kg/s] through.

        The flow through an orifice is choked below a pressure ratio of 0.528, [Heywood] app. C; the
        ratio is the load (speed-density). A butterfly opens an area of 1 - cos(angle), so the angle goes with the
        square root of the area for the angles that matter.
        """
        pressure_ratio = np.clip(air / self.most_air(rpm), 0.05, 0.995)
        choked = 0.528
        subsonic = np.sqrt(np.maximum(1.0 - ((pressure_ratio - choked) / (1.0 - choked)) ** 2, 0.0))
        flow = np.where(pressure_ratio > choked, subsonic, 1.0)
        widest = float(self.most_air(np.array([5500.0]))[0])
        area = np.clip(air / (widest * np.maximum(flow, 0.1)), 0.0, 1.0)
        return self.closed_throttle_percent + (90.0 - self.closed_throttle_percent) * np.sqrt(area)

    def parameters(self) -> dict[str, Any]:
        """The car's numbers for the manifest."""
        return {**asdict(self), "gear_ratios": list(self.gear_ratios)}


def draw_vehicle(random: Generator) -> Vehicle:
    """Draw a car between a small hatchback and an estate, with an engine and a gearbox that fit its mass."""
    mass = float(random.uniform(1000.0, 1650.0))
    gears = int(random.choice([5, 6]))
    first, last = float(random.uniform(3.4, 3.8)), float(random.uniform(0.70, 0.82))
    # Steps shrink towards the top, as in real gearboxes: a power below 1 bends the geometric row.
    places = np.linspace(0.0, 1.0, gears) ** 0.85
    ratios = tuple(round(float(first * (last / first) ** place), 3) for place in places)
    return Vehicle(
        mass_kg=round(mass + 75.0, 1),
        drag_area_m2=round(float(random.uniform(0.58, 0.72)), 3),
        rolling_resistance=round(float(random.uniform(0.009, 0.013)), 4),
        tyre_radius_m=round(float(random.uniform(0.285, 0.32)), 3),
        gear_ratios=ratios,
        final_drive=round(float(random.uniform(3.7, 4.2)), 3),
        driveline_efficiency=round(float(random.uniform(0.91, 0.95)), 3),
        displacement_l=round(mass / 1000.0 * float(random.uniform(1.15, 1.4)), 2),
        volumetric_efficiency=round(float(random.uniform(0.86, 0.93)), 3),
        best_filling_rpm=round(float(random.uniform(3600.0, 4400.0)), 0),
        indicated_efficiency=round(float(random.uniform(0.36, 0.40)), 3),
        idle_rpm=round(float(random.uniform(700.0, 860.0)), 0),
        accessory_w=round(float(random.uniform(500.0, 1600.0)), 0),
        closed_throttle_percent=round(float(random.uniform(11.0, 17.0)), 1),
        speed_sensor_gain=round(float(random.uniform(0.99, 1.01)), 4),
    )
