"""One epoch of real training on a folder of trips with the packaged app, and its figures as JSON.

Runs under the environment of a package: `/usr/lib/fleven/node/bin/python3 train_probe.py FOLDER`, also emulated. The
same folder and seed give the same figures on every processor, up to rounding.
"""

import json
import platform
import sys
from pathlib import Path

import torch

from fleven.app import model
from fleven.app.settings import parse
from fleven.app.trips.windows import Scaler, prepare

CONFIG: dict[str, object] = {
    "data-base-path": "/nowhere", "metrics-base-path": "metrics", "results-base-path": "results", "experiment": "probe",
    "target-column": "vehicle_speed", "feature-columns": "engine_rpm,mass_air_flow,calculated_load_value",
    "sequence-length": 20, "prediction-length": 1, "train-test-split": 0.8, "model-type": "lstm", "hidden-size": 16,
    "num-layers": 1, "dropout": 0.0, "local-epochs": 1, "batch-size": 64, "learning-rate": 0.005, "seed": 1,
    "threads": 1, "rounds": 1,
}  # fmt: skip


def main() -> None:
    settings = parse(CONFIG)
    torch.set_num_threads(1)
    prepared = prepare(Path(sys.argv[1]), settings)
    scaler = Scaler.of(prepared.statistics)
    torch.manual_seed(1)
    network = model.build(settings)
    windows = model.Windows(prepared, scaler, settings)
    fit = model.train(network, windows, prepared.train_starts, settings, 1)
    found = model.evaluate(network, windows, prepared.test_starts, scaler)
    print(
        json.dumps(
            {
                "machine": platform.machine(),
                "torch": torch.__version__,
                "steps": fit.steps,
                "train_loss": fit.loss,
                "rmse": (found.squared_error / found.values) ** 0.5,
                "mae": found.absolute_error / found.values,
                "weights_norm": float(sum(float(p.detach().norm()) for p in network.parameters())),
            }
        )
    )


if __name__ == "__main__":
    main()
