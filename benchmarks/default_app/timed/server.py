"""FLEVEn's ServerApp, as shipped or with the waits of Flower's own `send_and_receive`.

Appends one JSON line a round to times.jsonl under `metrics-base-path`: its number, the time at which it was over, and
how long the slowest car worked in it. Round 0 is the end of the queries before round 1. The loop is named by the
environment, since the cars, which get the same run config, refuse keys that they do not know.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable import inflatable_utils

from fleven.app import server_app
from fleven.app.server import flower_retries, rounds

app = ServerApp()
FLOWER_WAIT_SECONDS = 3.0  # flwr/superlink/grid/grpc_grid.py, GrpcGrid.send_and_receive


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the shipped app in the loop that FLEVEN_BENCHMARK_KIND names."""
    config: dict[str, Any] = dict(context.run_config)
    path = Path(str(config["metrics-base-path"])) / "times.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    stock = os.environ.get("FLEVEN_BENCHMARK_KIND") == "stock"  # a cell lets no such variable in
    if stock:
        as_flower_waits()
    server_app.Federation = timed(path, stock=stock)  # type: ignore[misc]
    server_app.run(grid, context.run_id, config)


def as_flower_waits() -> None:
    """Take back what the app shortens inside Flower's Grid."""
    for name in flower_retries.FUNCTIONS:
        flowers = {argument: value for argument, (value, _) in flower_retries.RETRIES.items()}
        getattr(inflatable_utils, name).__kwdefaults__.update(flowers)


def timed(path: Path, *, stock: bool) -> type[rounds.Federation]:
    """Return the app's Federation, stamping its rounds, and waiting as Flower does if `stock`."""

    class Timed(rounds.Federation):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            if stock:
                options["sleep"] = lambda seconds: time.sleep(FLOWER_WAIT_SECONDS)
            super().__init__(*arguments, **options)

        def _gather(self) -> None:
            super()._gather()
            self._stamp(0)

        def _round(self, number: int, cars: list[Any]) -> bool:
            enough = super()._round(number, cars)
            self._stamp(number)
            return enough

        def _stamp(self, number: int) -> None:
            worked: dict[object, float] = {}
            for row in self.history.clients:
                if row["round"] == number and number > 0:
                    worked[row["node_id"]] = worked.get(row["node_id"], 0.0) + float(row.get("seconds") or 0.0)
            row = {"round": number, "at": time.time(), "work_seconds": max(worked.values(), default=0.0)}
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")

    return Timed
