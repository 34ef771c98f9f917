#!/usr/bin/env python3
"""From a car's trip files to windows: the app, cold and from its cache, against the usual way with pandas and a loop.

Each measurement is a process of its own (its imports are not counted, its peak memory is its own); the ways take turns,
and medians count.

plain   pandas reads every file, dropna, a Python loop over the windows, np.stack
cold    the app: read, check columns and ranges, find gaps, split, mark windows; nothing cached
store   the same, and write the cache entry (what the first task on a car does)
cached  the app from its cache (what every further task does)

The trips are SYNTHETIC noise in the canonical layout.

    benchmarks/data_pipeline.py
    benchmarks/data_pipeline.py --trips 200 --rows 3600 --format csv --json data_pipeline.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from train_step import peak_bytes, reset_peak

KINDS = ("plain", "cold", "store", "cached")


def main() -> int:
    """Write trips, measure each way and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--trips", type=int, default=60, help="trips of the car (default: 60)")
    parser.add_argument("--rows", type=int, default=1800, help="readings of a trip (default: 1800, half an hour)")
    parser.add_argument("--format", choices=("csv", "parquet"), nargs="+", default=["csv", "parquet"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child[0], Path(options.child[1]))))
        return 0
    table = []
    for kind_of_file in options.format:
        with tempfile.TemporaryDirectory(prefix="fleven-pipeline-") as scratch:
            write_trips(Path(scratch) / "trips", options.trips, options.rows, kind_of_file)
            runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
            for _ in range(options.repeats):
                for kind in KINDS:
                    runs[kind].append(measured(kind, Path(scratch)))
        for kind in KINDS:
            middle = {name: statistics.median(run[name] for run in runs[kind]) for name in ("seconds", "memory_bytes")}
            plain = statistics.median(run["seconds"] for run in runs["plain"])
            table.append({"format": kind_of_file, "kind": kind, "windows": runs[kind][0]["windows"]} | middle)
            table[-1]["speed_ratio"] = plain / middle["seconds"]
    print(f"{describe()}\n")
    print(f"{options.trips} trips of {options.rows} readings\n")
    print("| files | way | windows | seconds | times as fast as plain | memory above start [MB] |")
    print("|---|---|--:|--:|--:|--:|")
    for row in table:
        print(
            f"| {row['format']} | {row['kind']} | {row['windows']:,} | {row['seconds']:.3f} | "
            f"{row['speed_ratio']:.1f} | {row['memory_bytes'] / 1e6:.0f} |"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": describe(), "table": table}, indent=1) + "\n")
    return 0


def write_trips(folder: Path, trips: int, rows: int, kind: str) -> None:
    import pandas as pd

    folder.mkdir()
    random = np.random.default_rng(1)
    for number in range(trips):
        table = pd.DataFrame(
            {
                "time_sec": np.arange(rows) + random.normal(0, 0.05, rows).round(3),
                "vehicle_speed": random.integers(0, 120, rows),
                "engine_rpm": random.uniform(700, 4000, rows).round(2),
                "mass_air_flow": random.uniform(2, 60, rows).round(2),
                "calculated_load_value": random.uniform(10, 90, rows).round(2),
                "absolute_throttle_pos": random.uniform(10, 90, rows).round(2),
            }
        )
        path = folder / f"trip_{number:04d}.{kind}"
        table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path, index=False)


def measured(kind: str, scratch: Path) -> dict[str, Any]:
    home = scratch / "flower-home"
    if kind == "store":
        for entry in home.rglob("*.npz"):
            entry.unlink()
    command = [sys.executable, __file__, "--child", kind, str(scratch / "trips")]
    environment = os.environ | {"FLWR_HOME": str(home)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"the measurement of {kind} failed with {done.returncode}; what it said stands above")
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def child(kind: str, folder: Path) -> dict[str, Any]:
    """Measure one way in this process."""
    import pandas as pd
    import pyarrow.parquet  # noqa: F401  # loaded before the clock starts, for all ways alike

    from fleven.app.settings import parse
    from fleven.app.trips.cache import prepare_cached

    settings = parse({"cache-windows": kind != "cold"})
    before = reset_peak()
    started = time.perf_counter()
    if kind == "plain":
        windows = plain(pd, folder, settings)
    else:
        prepared = prepare_cached(folder, settings)
        windows = len(prepared.train_starts) + len(prepared.test_starts)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "windows": windows, "memory_bytes": peak_bytes() - before}


def plain(pd: Any, folder: Path, settings: Any) -> int:
    """Do what tutorials do; no check of columns, ranges or gaps. Returns the number of windows."""
    length = settings.sequence_length
    sides: dict[str, list[Any]] = {"train": [], "test": []}
    for path in sorted(folder.iterdir()):
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        values = table[list(settings.columns)].dropna().to_numpy(dtype=np.float32)
        cut = int(len(values) * settings.train_test_split)
        for side, part in (("train", values[:cut]), ("test", values[cut:])):
            sides[side] += [part[i : i + length] for i in range(len(part) - length + 1)]
    return sum(len(np.stack(windows)) for windows in sides.values())


if __name__ == "__main__":
    sys.exit(main())
