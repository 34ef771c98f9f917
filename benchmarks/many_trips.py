#!/usr/bin/env python3
"""What the trips of a car with very many of them cost a task: all new, one new, none new.

Each measurement is a fork of a process that has loaded what a warm process has, as a task is; its processor time
counts from the fork to the windows. Trips are older than a minute when a task begins, as far as the app can tell.
pandas is not among what is loaded, so a task that reads a trip imports it: a warm process keeps it only after two
tasks in a row have needed it. The trips are SYNTHETIC noise.

    benchmarks/many_trips.py
    benchmarks/many_trips.py --trips 20000 --rows 40 --repeats 5 --json benchmarks/results/many_trips.json
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe

from fleven_agent.warm import memory, preload

COLUMNS = ("time_sec", "vehicle_speed", "engine_rpm", "mass_air_flow", "calculated_load_value")
BUDGET_SECONDS = 0.5


def main() -> int:
    """Write trips, measure, print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--trips", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=40, help="readings of a trip (default: 40)")
    parser.add_argument("--repeats", type=int, default=5, help="of the ways but the first, which is measured once")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    preload.warm_up(preload.Preloader(sys.maxsize), [], [], [], lambda: False)
    memory.settle()
    with tempfile.TemporaryDirectory(prefix="fleven-many-trips-") as scratch:
        os.environ["FLWR_HOME"] = str(Path(scratch) / "flower-home")
        folder = Path(scratch) / "trips"
        folder.mkdir()
        random = np.random.default_rng(1)
        for number in range(options.trips):
            write_trip(folder, number, options.rows, random)
        runs: dict[str, list[dict[str, float]]] = {"all new": [task(folder)], "none new": [], "one new": []}
        for repeat in range(options.repeats):
            runs["none new"].append(task(folder))
            write_trip(folder, options.trips + repeat, options.rows, random)
            runs["one new"].append(task(folder))
    table = [
        {"kind": kind, "times": len(found), "windows": found[0]["windows"]}
        | {name: statistics.median(one[name] for one in found) for name in ("seconds", "cpu_seconds")}
        for kind, found in runs.items()
    ]
    print(f"{describe()}\n\n{options.trips:,} trips of {options.rows} readings\n")
    print("| trips | times | seconds | processor [s] |\n|---|--:|--:|--:|")
    for row in table:
        print(f"| {row['kind']} | {row['times']} | {row['seconds']:.2f} | {row['cpu_seconds']:.2f} |")
    if options.json:
        content = {"machine": describe(), "trips": options.trips, "rows": options.rows, "table": table}
        options.json.write_text(json.dumps(content | {"budget_seconds": BUDGET_SECONDS}, indent=1) + "\n")
    return 0


def write_trip(folder: Path, number: int, rows: int, random: np.random.Generator) -> None:
    """Write one trip with a reading each second."""
    readings = np.column_stack([np.arange(rows), random.uniform((0, 700, 2, 10), (120, 4000, 60, 90), (rows, 4))])
    lines = [",".join(COLUMNS), *(",".join(f"{value:.2f}" for value in row) for row in readings)]
    (folder / f"trip_{number:05}.csv").write_text("\n".join(lines) + "\n")


def task(folder: Path) -> dict[str, float]:
    """Prepare the windows in a fork; return its seconds, processor seconds and number of windows."""
    read, write = os.pipe()
    process_id = os.fork()
    if process_id == 0:
        started = time.monotonic()
        try:
            from fleven.app.settings import parse
            from fleven.app.trips import index
            from fleven.app.trips.cache import prepare_cached

            now = time.time
            index.time.time = lambda: now() + 60  # type: ignore[assignment]  # this process is a task, and ends
            prepared = prepare_cached(folder, parse({}))
            found = {
                "seconds": time.monotonic() - started,
                "cpu_seconds": time.process_time(),
                "windows": len(prepared.train_starts) + len(prepared.test_starts),
            }
            os.write(write, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    os.waitpid(process_id, 0)
    if not text:
        sys.exit("the task has failed; what it said stands above")
    return json.loads(text)  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(main())
