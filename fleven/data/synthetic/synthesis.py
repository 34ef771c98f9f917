"""`fleven data synthesise`: cars, drivers, roads and loggers from one seed, as a folder to train from.

What it writes is synthetic and says so: in the manifest, in a README beside it, in each file's name and metadata.
Must not import torch or flwr.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fleven.data.errors import InputError, Problem
from fleven.data.layout import Format, Progress, Trip, replacing, write_layout
from fleven.data.synthetic.driving import ROUTES, Driver, draw_driver, draw_route, drive
from fleven.data.synthetic.sensors import Logger, readings
from fleven.data.synthetic.vehicle import Vehicle, draw_vehicle

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_CARS: Final = 3
DEFAULT_TRIPS: Final = 4
DEFAULT_MINUTES: Final = 15.0
DEFAULT_SEED: Final = 1

README_NAME: Final = "README.txt"
_README: Final = """\
Synthetic trips. No car drove them.

`fleven data synthesise` computed these files from a model of cars, drivers and roads, seed {seed}. They are for trying
out FLEVEn and for tests. A model trained on them says nothing about a real car. manifest.json names the parameters of
each car; the project's docs/data.md gives the formulae.
"""


def synthesise(
    target: Path,
    *,
    cars: int = DEFAULT_CARS,
    trips: int = DEFAULT_TRIPS,
    minutes: float = DEFAULT_MINUTES,
    seed: int = DEFAULT_SEED,
    file_format: Format = "parquet",
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `cars` client folders of `trips` synthetic trips each into `target`; returns the manifest.

    `minutes` is about how long one trip lasts. The same arguments give the same bytes, and a car does not depend on how
    many others there are. `progress` is called after each trip.

    Raises:
        InputError: a number is out of range.
        OutputExistsError, OutputError: the folder must not or cannot be written.
    """
    _check(cars, trips, minutes, seed)
    logger = Logger()
    with replacing(target, force=force) as folder:
        clients, parameters = [], []
        for car in range(cars):
            name = f"synthetic-car-{car}"
            vehicle, driver = draw_car(seed, car)
            made = []
            for number in range(trips):
                random = np.random.default_rng([seed, car, number + 1])
                kind = list(ROUTES)[(number + car) % len(ROUTES)]
                seconds = minutes * 60.0 * float(random.uniform(0.85, 1.15))
                trace = drive(vehicle, driver, draw_route(random, kind, seconds), random)
                made.append(Trip(name, readings(vehicle, trace, logger, random), f"synthesise: {kind}"))
                if progress:
                    progress("Computing trips", car * trips + number + 1, cars * trips)
            clients.append(made)
            parameters.append(
                {"name": name, "client": car, "vehicle": vehicle.parameters(), "driver": driver.parameters()}
            )
        about = {
            "made_by": "fleven data synthesise",
            "synthetic": True,
            "note": "Computed by a vehicle model. No car drove these trips.",
            "seed": seed,
            "minutes": minutes,
            "logger": logger.parameters(),
            "cars": parameters,
        }
        texts = {README_NAME: _README.format(seed=seed)}
        return write_layout(folder, clients, about, texts=texts, file_format=file_format)


def draw_car(seed: int, car: int) -> tuple[Vehicle, Driver]:
    """Return the vehicle and the driver that `seed` gives to the car of this number."""
    random = np.random.default_rng([seed, car, 0])
    return draw_vehicle(random), draw_driver(random)


def _check(cars: int, trips: int, minutes: float, seed: int) -> None:
    bounds = (("--cars", cars, 1, 10_000), ("--trips", trips, 1, 10_000), ("--minutes", minutes, 1, 600))
    problems = [
        Problem(option, "", f"{value} is not between {least} and {most}")
        for option, value, least, most in bounds
        if not least <= value <= most
    ]
    if seed < 0:
        problems.append(Problem("--seed", "", f"{seed} is negative", "use 0 or more"))
    if problems:
        raise InputError(problems)
