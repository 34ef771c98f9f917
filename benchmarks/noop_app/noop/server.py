"""The server's side, with two loops over the same messages: Flower's own strategy, and FLEVEn's exchange.

Appends one JSON line a round to `times-path`: its number and the time at which it was over.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fleven.app.server.fleet import Exchange
from fleven.app.server.flower_retries import shorten_object_retries

app = ServerApp()
DEADLINE_SECONDS = 300.0


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run `rounds` rounds with `nodes` nodes in the loop that the run config names."""
    config = context.run_config
    rounds, nodes = int(config["rounds"]), int(config["nodes"])
    arrays = ArrayRecord([numpy.zeros(int(config["parameters"]), dtype=numpy.float32)])
    stamp = Stamp(Path(str(config["times-path"])))
    while len(set(grid.get_node_ids())) < nodes:
        time.sleep(0.1)
    stamp(0)
    if config["loop"] == "stock":
        stock(grid, rounds, nodes, arrays, stamp)
    else:
        kinds = ["train"] if config["loop"] == "fleven-shared" else ["train", "evaluate"]
        fleven(grid, rounds, kinds, arrays, stamp)


class Stamp:
    """Appends the end of each round to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, number: int) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"round": number, "at": time.time()}) + "\n")


def stock(grid: Grid, rounds: int, nodes: int, arrays: ArrayRecord, stamp: Stamp) -> None:
    """Flower's FedAvg as its documentation shows it: train, aggregate, evaluate."""

    class Stamped(FedAvg):
        def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
            result = super().aggregate_evaluate(server_round, replies)
            stamp(server_round)
            return result

    strategy = Stamped(fraction_train=1.0, fraction_evaluate=1.0, min_available_nodes=nodes)
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=rounds)


def fleven(grid: Grid, rounds: int, kinds: list[str], arrays: ArrayRecord, stamp: Stamp) -> None:
    """FLEVEn's exchange of messages, with the same averaging."""
    shorten_object_retries()
    exchange = Exchange(grid)
    nodes = sorted(grid.get_node_ids())
    for number in range(1, rounds + 1):
        for kind in kinds:
            content = RecordDict({"arrays": arrays})
            if exchange.send(nodes, content, kind, number, DEADLINE_SECONDS):
                raise RuntimeError("the SuperLink did not take a message")
            replies = [message for _, message in exchange.collect(kind, number, lambda: DEADLINE_SECONDS)]
            if len(replies) != len(nodes) or any(message.has_error() for message in replies):
                raise RuntimeError(f"{len(replies)} of {len(nodes)} replies")
            if kind == "train":
                parts = [reply.content.array_records["arrays"].to_numpy_ndarrays()[0] for reply in replies]
                arrays = ArrayRecord([numpy.mean(parts, axis=0)])
        stamp(number)
