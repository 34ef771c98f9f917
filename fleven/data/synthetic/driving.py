"""A driver on a road: speed, gear and engine speed, one step of time after the other.

The driver follows the Intelligent Driver Model (M. Treiber, A. Hennecke, D. Helbing, Congested traffic states in
empirical observations and microscopic simulations, Phys. Rev. E 62, 2000): free road towards a desired speed, and a
standing obstacle where the next stop is. The engine bounds what the driver gets; while a gear is changed the clutch
is open and the car coasts. Must not import torch, flwr or pandas.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fleven.data.synthetic.vehicle import RPM_PER_RAD_S, Vehicle

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

STEP_SECONDS: Final = 0.2
STANDSTILL_GAP: Final = 2.0  # m, what the driver keeps to the stop line
FREE_EXPONENT: Final = 4.0  # delta of the Intelligent Driver Model
SHIFT_SECONDS: Final = 0.6  # clutch open while the gear is changed
GEAR_DWELL_SECONDS: Final = 2.0  # nobody changes gear twice at once
HARDEST_BRAKING: Final = 6.0  # m/s2

# Limit [km/h], length [m] (least, most), chance of a stop at the end, stop [s] (least, most), by kind of road.
_ROADS: Final[dict[str, tuple[tuple[float, ...], tuple[float, float], float, tuple[float, float]]]] = {
    "city": ((30.0, 50.0, 50.0), (120.0, 700.0), 0.75, (4.0, 50.0)),
    "arterial": ((60.0, 70.0, 80.0), (500.0, 2200.0), 0.45, (5.0, 60.0)),
    "highway": ((100.0, 110.0, 120.0), (3000.0, 8000.0), 0.0, (0.0, 0.0)),
}
# Shares of a trip's time on each kind of road, in order.
ROUTES: Final[dict[str, tuple[tuple[str, float], ...]]] = {
    "city": (("city", 1.0),),
    "suburb": (("city", 0.3), ("arterial", 0.5), ("city", 0.2)),
    "highway": (("city", 0.2), ("arterial", 0.15), ("highway", 0.45), ("arterial", 0.1), ("city", 0.1)),
}


@dataclass(frozen=True, slots=True)
class Driver:
    """One driver's habits. `speed_factor` is the wished speed over the limit."""

    acceleration: float
    braking: float
    jerk: float
    speed_factor: float
    headway_seconds: float
    shift_up_rpm: float
    shift_down_rpm: float

    def parameters(self) -> dict[str, Any]:
        """The driver's numbers for the manifest."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of road: its limit [m/s], length [m], and the stop at its end [s], 0 for none."""

    limit: float
    length: float
    stop_seconds: float


@dataclass(frozen=True, slots=True)
class Drive:
    """What happened, before any sensor: arrays of one length, one entry for each step of `STEP_SECONDS`.

    speed [m/s], acceleration [m/s2], slope (rise over run), gear (0 is first), locked (clutch closed), rpm,
    wheel_power [W] (negative: brakes and engine drag), brake_power [W] at the crankshaft, accessories included.
    `speed` is the mean over the step, so that power times time is the change of energy exactly.
    """

    time: NDArray[np.float64]
    speed: NDArray[np.float64]
    acceleration: NDArray[np.float64]
    slope: NDArray[np.float64]
    gear: NDArray[np.int64]
    locked: NDArray[np.bool_]
    rpm: NDArray[np.float64]
    wheel_power: NDArray[np.float64]
    brake_power: NDArray[np.float64]


def draw_driver(random: Generator) -> Driver:
    """Draw a driver between calm and hurried."""
    hurry = float(random.uniform(0.0, 1.0))
    return Driver(
        acceleration=round(1.3 + 0.9 * hurry, 2),
        braking=round(1.5 + 0.9 * hurry, 2),
        jerk=round(1.2 + 1.0 * hurry, 2),
        speed_factor=round(0.94 + 0.14 * hurry, 3),
        headway_seconds=round(1.6 - 0.6 * hurry, 2),
        shift_up_rpm=round(2050.0 + 700.0 * hurry + float(random.uniform(-100.0, 100.0)), 0),
        shift_down_rpm=round(1150.0 + 250.0 * hurry, 0),
    )


def draw_route(random: Generator, kind: str, seconds: float) -> list[Stretch]:
    """Draw stretches of road that take about `seconds` to drive, the last one ending in a stop."""
    stretches: list[Stretch] = []
    for road, share in ROUTES[kind]:
        limits, (shortest, longest), stop_chance, (least, most) = _ROADS[road]
        left = share * seconds
        while left > 0:
            limit = float(random.choice(limits)) / 3.6
            length = min(float(random.uniform(shortest, longest)), max(left * limit * 0.9, shortest))
            stop = float(random.uniform(least, most)) if random.random() < stop_chance else 0.0
            stretches.append(Stretch(limit, length, stop))
            # A stop costs about 12 s of braking and pulling away beside the wait.
            left -= length / (0.85 * limit) + (stop + 12.0 if stop else 0.0)
    last = stretches[-1]
    stretches[-1] = Stretch(last.limit, last.length, float(random.uniform(5.0, 15.0)))
    return stretches


def wander(random: Generator, steps: int, seconds: float, spread: float) -> NDArray[np.float64]:
    """Return slow noise: an Ornstein-Uhlenbeck process with this time constant [s] and standard deviation."""
    keep = math.exp(-STEP_SECONDS / seconds)
    kicks = random.standard_normal(steps) * spread * math.sqrt(1.0 - keep * keep)
    out = np.empty(steps)
    value = 0.0
    for index, kick in enumerate(kicks.tolist()):
        value = keep * value + kick
        out[index] = value
    return out


def drive(vehicle: Vehicle, driver: Driver, route: list[Stretch], random: Generator) -> Drive:
    """Drive the route from standstill to standstill."""
    most_steps = int((sum(s.length / 3.0 + s.stop_seconds for s in route) + 300.0) / STEP_SECONDS)
    mood = wander(random, most_steps, 25.0, 0.05).tolist()
    slopes = np.clip(wander(random, most_steps, 40.0, 0.012), -0.05, 0.05).tolist()
    shifter = _Shifter(vehicle, driver)
    rows: list[tuple[float, float, float, int, bool, float, float, float]] = []
    speed = pull = position = 0.0
    stretches = iter(route)
    stretch = next(stretches, None)
    waiting = float(random.uniform(5.0, 15.0))
    for step in range(most_steps):
        slope = slopes[step]
        if waiting > 0.0:
            # The first step of a stop takes away the last half metre a second.
            waiting -= STEP_SECONDS
            change, mean = -speed / STEP_SECONDS, 0.5 * speed
            speed = pull = 0.0
            shifter.stand()
        elif stretch is None:
            break
        else:
            wish = _wish(driver, speed, stretch, position, mood[step])
            pull = max(min(wish, pull + driver.jerk * STEP_SECONDS), pull - 3.0 * driver.jerk * STEP_SECONDS)
            pull = max(min(pull, shifter.most_acceleration(speed, slope)), -HARDEST_BRAKING)
            faster = max(0.0, speed + pull * STEP_SECONDS)
            change, mean = (faster - speed) / STEP_SECONDS, 0.5 * (speed + faster)
            speed = faster
            position += mean * STEP_SECONDS
            if _arrived(stretch, position, speed):
                waiting = stretch.stop_seconds
                position = 0.0
                stretch = next(stretches, None)
        rows.append((mean, change, slope, *shifter.step(mean, change, slope)))
    return _as_drive(rows)


def _wish(driver: Driver, speed: float, stretch: Stretch, position: float, mood: float) -> float:
    """Acceleration that the driver wants [m/s2]: the Intelligent Driver Model, obstacle at the stop line or none."""
    wished_speed = max(stretch.limit * driver.speed_factor * (1.0 + mood), 3.0)
    wish = driver.acceleration * (1.0 - math.pow(speed / wished_speed, FREE_EXPONENT))
    wish = max(wish, -driver.braking)
    if stretch.stop_seconds:
        gap = max(stretch.length - position, 0.5)
        wanted = STANDSTILL_GAP + speed * driver.headway_seconds
        wanted += speed * speed / (2.0 * math.sqrt(driver.acceleration * driver.braking))
        wish -= driver.acceleration * (wanted / gap) * (wanted / gap)
    return wish


def _arrived(stretch: Stretch, position: float, speed: float) -> bool:
    left = stretch.length - position
    if stretch.stop_seconds:
        return left < STANDSTILL_GAP + 1.5 and speed < 0.5
    return left <= 0.0


class _Shifter:
    """The gearbox and the clutch: which gear, whether the clutch is closed, and what the engine does then."""

    def __init__(self, vehicle: Vehicle, driver: Driver) -> None:
        self._vehicle = vehicle
        self._driver = driver
        self._gear = 0
        self._open_seconds = 0.0
        self._since_shift = 60.0
        self._rpm = vehicle.idle_rpm

    def stand(self) -> None:
        """First gear, clutch open: the car waits."""
        self._gear = 0
        self._open_seconds = 0.0
        self._since_shift = 60.0

    def most_acceleration(self, speed: float, slope: float) -> float:
        """Bound of the acceleration [m/s2] in the present gear; none but the road's while the clutch is open."""
        vehicle = self._vehicle
        road = vehicle.road_load(max(speed, 0.01), slope)
        force = 0.0
        if self._open_seconds <= 0.0:
            rpm = max(vehicle.geared_rpm(speed, vehicle.gear_ratios[self._gear]), 1.5 * vehicle.idle_rpm)
            torque = max(vehicle.most_power(rpm) - vehicle.accessory_w, 0.0) * RPM_PER_RAD_S / rpm
            ratio = vehicle.gear_ratios[self._gear] * vehicle.final_drive
            # A tenth in hand: the engine must still make the step's own power at its end.
            force = 0.9 * torque * ratio * vehicle.driveline_efficiency / vehicle.tyre_radius_m
        return (force - road) / vehicle.effective_mass(self._gear if force else None)

    def step(self, speed: float, change: float, slope: float) -> tuple[int, bool, float, float, float]:
        """Advance one step; returns (gear, locked, rpm, wheel power [W], brake power [W])."""
        vehicle = self._vehicle
        road = vehicle.road_load(speed, slope) if speed > 0.0 else 0.0
        geared = vehicle.geared_rpm(speed, vehicle.gear_ratios[self._gear])
        shifting = self._open_seconds > 0.0
        slipping = geared < 1.15 * vehicle.idle_rpm
        locked = not shifting and not slipping
        wheel = (vehicle.effective_mass(self._gear if locked else None) * change + road) * speed
        if locked:
            self._rpm = geared
        else:
            self._rpm = self._open_clutch_rpm(geared, shifting=shifting, pulling=wheel > 0.0)
        brake = self._brake_power(wheel, driven=not shifting and (locked or wheel > 0.0))
        row = (self._gear, locked, self._rpm, wheel, brake)
        self._choose_gear(geared, wheel, brake)
        return row

    def _open_clutch_rpm(self, geared: float, *, shifting: bool, pulling: bool) -> float:
        """Engine speed without a closed clutch: towards the new gear's, the pull-away speed, or idle."""
        idle = self._vehicle.idle_rpm
        pulling_away = 1.5 * idle if pulling and not shifting else idle
        aim = max(geared, pulling_away)
        return max(idle, self._rpm + (aim - self._rpm) * min(STEP_SECONDS / 0.35, 1.0))

    def _brake_power(self, wheel: float, *, driven: bool) -> float:
        """Crankshaft power [W]: what the wheels need through the driveline, or the most that the engine drags."""
        vehicle = self._vehicle
        if not driven:
            return vehicle.accessory_w
        if wheel >= 0.0:
            return wheel / vehicle.driveline_efficiency + vehicle.accessory_w
        drag = vehicle.friction_power(self._rpm)
        return max(wheel * vehicle.driveline_efficiency + vehicle.accessory_w, -drag)

    def _choose_gear(self, geared: float, wheel: float, brake: float) -> None:
        """Change gear with hysteresis: up above one engine speed, down below a lower one or at nearly full load."""
        vehicle, driver = self._vehicle, self._driver
        self._open_seconds = max(0.0, self._open_seconds - STEP_SECONDS)
        self._since_shift += STEP_SECONDS
        if self._since_shift < GEAR_DWELL_SECONDS or self._open_seconds > 0.0:
            return
        load = brake / max(vehicle.most_power(max(geared, vehicle.idle_rpm)), 1.0)
        ratios = vehicle.gear_ratios
        # Who pulls hard shifts late.
        up_at = driver.shift_up_rpm * (1.0 + 0.35 * min(max(load, 0.0), 1.0))
        gear = self._gear
        if gear + 1 < len(ratios) and geared > up_at:
            after = geared * ratios[gear + 1] / ratios[gear]
            if after > driver.shift_down_rpm * 1.1:
                gear += 1
        elif gear > 0 and (geared < driver.shift_down_rpm or (load > 0.85 and wheel > 0.0)):
            after = geared * ratios[gear - 1] / ratios[gear]
            if after < up_at * 0.95:
                gear -= 1
        if gear != self._gear:
            self._gear = gear
            self._open_seconds = SHIFT_SECONDS
            self._since_shift = 0.0


def _as_drive(rows: list[tuple[float, float, float, int, bool, float, float, float]]) -> Drive:
    speed, change, slope, gear, locked, rpm, wheel, brake = zip(*rows, strict=True)
    return Drive(
        time=np.arange(len(rows), dtype=np.float64) * STEP_SECONDS,
        speed=np.array(speed),
        acceleration=np.array(change),
        slope=np.array(slope),
        gear=np.array(gear),
        locked=np.array(locked),
        rpm=np.array(rpm),
        wheel_power=np.array(wheel),
        brake_power=np.array(brake),
    )
