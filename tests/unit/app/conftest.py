"""Trips, settings and simulated federations for the tests of the Flower app."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fleven.app import server_app
from fleven.app.server.results import RunFiles
from fleven.app.settings import Settings, parse
from fleven.app.simulation import Fault, SimulatedGrid

Trip = Callable[..., pd.DataFrame]

SMALL = {
    "sequence-length": 5,
    "hidden-size": 4,
    "dropout": 0.0,
    "local-epochs": 1,
    "rounds": 2,
    "threads": 1,
    "personal": "none",
    "wait-for-nodes-seconds": 0.0,
}


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks as small as these only wait for one another on several threads, for longest where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_flower_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the cache of windows inside the test."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower-home"))


@pytest.fixture
def make_trip() -> Trip:
    """Return a function that makes one plausible trip, one row a second."""

    def make(rows: int = 120, seed: int = 0, **columns: Any) -> pd.DataFrame:
        random = np.random.default_rng(seed)
        speed = np.clip(np.cumsum(random.normal(0, 2, rows)) + 50, 0, 140)
        table = pd.DataFrame(
            {
                "time_sec": np.arange(rows, dtype=float),
                "vehicle_speed": speed,
                "engine_rpm": 800 + 30 * speed + random.normal(0, 20, rows),
                "mass_air_flow": 2 + 0.3 * speed + random.normal(0, 0.5, rows).clip(-1, 1),
                "calculated_load_value": 20 + 0.4 * speed,
            }
        )
        for name, values in columns.items():
            table[name] = values
        return table

    return make


@pytest.fixture
def make_car(tmp_path: Path, make_trip: Trip) -> Callable[..., Path]:
    """Return a function that writes the folder of one car with some trips."""

    def make(partition: int = 0, trips: int = 2, rows: int = 120, seed: int | None = None) -> Path:
        folder = tmp_path / f"client_{partition}"
        folder.mkdir()
        for number in range(trips):
            first = 100 * partition + number if seed is None else seed + number
            make_trip(rows, first).to_csv(folder / f"trip_{number}.csv", index=False)
        return folder

    return make


@pytest.fixture
def small() -> Callable[..., Settings]:
    """Return a function that makes settings for a tiny network; keys in kebab-case are given as keyword arguments."""

    def make(**changes: Any) -> Settings:
        return parse(SMALL | {key.replace("_", "-"): value for key, value in changes.items()})

    return make


class Outcome:
    """A simulated run's files, read back."""

    def __init__(self, files: RunFiles) -> None:
        self.files = files

    def read(self, name: str) -> Any:
        return json.loads((self.files.metrics / name).read_text())


@pytest.fixture
def simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Return a function that runs a simulated federation over folders and gives its files.

    draw: whether to draw the plots, which take longer than the rest of such a run.
    """
    runs = iter(range(1, 100))

    def run(
        folders: list[Path],
        fault: Fault | None = None,
        grid: SimulatedGrid | None = None,
        draw: bool = False,
        **changes: Any,
    ) -> Outcome:
        if not draw:
            monkeypatch.setattr(server_app, "_plots", lambda *_: ({}, []))
        config = parse(
            SMALL
            | {"metrics-base-path": str(tmp_path / "metrics"), "results-base-path": str(tmp_path / "results")}
            | {key.replace("_", "-"): value for key, value in changes.items()}
        ).as_config()
        run_id = next(runs)
        grid = grid or SimulatedGrid.of_folders(folders, config, fault)
        return Outcome(server_app.run(grid, run_id, dict(config)))

    return run
