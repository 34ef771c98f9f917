"""FedAvg as Flower's documentation starts it; writes down when each round is over, as `timed` does for ours."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run Flower's loop over the arrays of a file."""
    config = context.run_config
    path, nodes = Path(str(config["times-path"])), int(config["min-nodes"])
    with np.load(str(config["weights"])) as stored:
        arrays = ArrayRecord([stored[name] for name in stored.files])

    def stamp(number: int, _arrays: ArrayRecord) -> None:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"round": number, "at": time.time(), "work_seconds": 0.0}) + "\n")

    strategy = FedAvg(min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes)
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(config["rounds"]), evaluate_fn=stamp)
