#!/usr/bin/env python3
"""What one hostile car of five costs the others, by its way of lying and the rule of averaging; and what a rule costs.

Simulated in one process by the app's own ServerApp and ClientApp code (fleven.app.simulation), with the trips of a log
of real drivers. Two measurements:

- five cars, of which the first lies (tests/support/hostile_cars.py has the ways): R² over the held-out windows of the
  four honest ones, for each rule, beside the same with an honest fifth;
- as many honest cars as there are drivers, each its own: R² over all, and the error of the fifth of the cars whose
  changes of the weights were least like the others' under `mean`, with the global model and with their own.

    FLEVEN_OBD_DATA=/path/to/logs benchmarks/hostile_rules.py
    benchmarks/hostile_rules.py --log 19drivers.csv --seeds 1 2 3 --jobs 1 --json benchmarks/results/hostile_rules.json

Ends with 1 when the median of the seeds falls by more than 0.05 with `mean`, or 0.02 with another rule.
"""

import argparse
import concurrent.futures
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from accuracy import import_log, one_thread
from hostile_cars import KINDS, federation, honest_score
from machine import describe

from fleven.app.server.rounds import Federation
from fleven.app.server.scores import Score
from fleven.app.settings import parse

BOUNDS = {"mean": 0.05, "median": 0.02, "trimmed-mean": 0.02, "multi-krum": 0.02}
CARS, DRIVERS = 5, 19
UNLIKE_SHARE = 0.2
Row = dict[str, Any]
Job = tuple[Path, str, str, int]


def main() -> int:
    """Measure every combination and print both tables."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="fleven-hostile-cars-") as scratch:
        folder = Path(scratch)
        os.environ["FLWR_HOME"] = str(folder / "flower-home")
        for clients in (CARS, DRIVERS):
            import_log(options.log, folder / f"data-{clients}", clients)
        content = earlier(options)
        rows, honest = content["rows"], content["honest"]
        known = {(row["kind"], row["rule"], row["seed"]) for row in rows}
        priced = {(row["rule"], row["seed"]) for row in honest}
        with concurrent.futures.ProcessPoolExecutor(options.jobs, initializer=one_thread) as pool:
            for seed in options.seeds:
                lies = [(folder, kind, rule, seed) for rule in BOUNDS for kind in options.kinds]
                for row in told(pool.map(with_a_hostile_car, [job for job in lies if job[1:] not in known])):
                    rows.append(row)
                    keep(content, options)
                prices = [(folder, "honest", rule, seed) for rule in BOUNDS if (rule, seed) not in priced]
                for row in told(pool.map(among_the_honest, prices)):
                    honest.append(row)
                    keep(content, options)
    return show(content)


def earlier(options: argparse.Namespace) -> Row:
    """Return what was measured before, with --go-on, or nothing yet."""
    if options.go_on and options.json is not None and options.json.is_file():
        return dict(json.loads(options.json.read_text()))
    return {"rows": [], "honest": []}


def keep(content: Row, options: argparse.Namespace) -> None:
    """Write all that was measured so far."""
    honest = content["honest"]
    partitions = unlike(honest)
    content["machine"] = describe()
    content["seeds"] = sorted({row["seed"] for row in content["rows"]})
    content["unlike"] = partitions
    content["prices"] = [
        price(rule, honest, partitions) for rule in BOUNDS if any(row["rule"] == rule for row in honest)
    ]
    if options.json is not None:
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    data = os.environ.get("FLEVEN_OBD_DATA")
    parser.add_argument(
        "--log", type=Path, default=Path(data) / "19drivers.csv" if data else None, help="a log of 19 drivers"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--go-on", action="store_true", help="keep what FILE has and measure the rest")
    options = parser.parse_args()
    if options.log is None or not options.log.is_file():
        parser.error("--log FILE, or FLEVEN_OBD_DATA naming the folder of 19drivers.csv, is needed")
    options.kinds = list(dict.fromkeys(["honest", *options.kinds]))
    return options


def told(rows: Iterable[Row]) -> Iterable[Row]:
    for row in rows:
        print(json.dumps(row), file=sys.stderr, flush=True)
        yield row


def carried_out(job: Job, clients: int, **changes: Any) -> Federation:
    """Run one simulated federation to its end."""
    folder, kind, rule, seed = job
    cars = sorted((folder / f"data-{clients}").glob("client_*"), key=lambda path: int(path.name.split("_")[1]))
    with tempfile.TemporaryDirectory(dir=folder) as out:
        settings = parse(
            {
                "seed": seed,
                "aggregation": rule,
                "save-checkpoint-every": 0,
                "share-predictions": 0,
                "metrics-base-path": out,
                "results-base-path": out,
            }
            | changes
        )
        return federation(kind, cars, settings)


def with_a_hostile_car(job: Job) -> Row:
    """Return R² of the honest four of five cars, and in how many rounds which car was called suspicious."""
    run = carried_out(job, CARS, personal="none")
    score, suspicious = honest_score(run), {"hostile": 0, "honest": 0}
    for row in run.history.warnings:
        if row["code"] == "update-suspicious":
            suspicious["hostile" if row["partition_id"] == 0 else "honest"] += len(row["rounds"])
    return {"kind": job[1], "rule": job[2], "seed": job[3], **score.row(), "suspicious_rounds": suspicious}


def among_the_honest(job: Job) -> Row:
    """Return what honest cars have of a rule: R² of all together, and each one's error and likeness to the others."""
    run = carried_out(job, DRIVERS)
    pooled, own = Score(), Score()
    cars: list[Row] = []
    for node_id, answer in run.final.items():
        car, theirs = Score.of(answer.numbers), Score.of(answer.numbers, "personal-")
        pooled, own = pooled.merge(car), own.merge(theirs)
        partition = run.fleet.cars[node_id].answer.partition_id
        cosines = [
            row["update_cosine"]
            for row in run.history.clients
            if row["partition_id"] == partition and row.get("update_cosine") is not None
        ]
        cars.append(
            {
                "partition_id": partition,
                "windows": car.windows,
                "rmse": car.rmse,
                "personal_rmse": theirs.rmse,
                "update_cosine": statistics.fmean(cosines),
            }
        )
    return {"rule": job[2], "seed": job[3], "r2": pooled.r2, "personal_r2": own.r2, "cars": cars}


def unlike(rows: list[Row]) -> list[int]:
    """Return the partitions of the fifth of the cars that were least like the others under `mean`, on all seeds."""
    likeness: dict[int, list[float]] = {}
    for row in rows:
        if row["rule"] == "mean":
            for car in row["cars"]:
                likeness.setdefault(car["partition_id"], []).append(car["update_cosine"])
    ranked = sorted(likeness, key=lambda partition: statistics.fmean(likeness[partition]))
    return ranked[: round(UNLIKE_SHARE * len(ranked))]


def pooled_rmse(row: Row, partitions: list[int], figure: str) -> float:
    """Return the error over the windows of some cars together."""
    cars = [car for car in row["cars"] if car["partition_id"] in partitions and car["windows"]]
    return float((sum(car["windows"] * car[figure] ** 2 for car in cars) / sum(car["windows"] for car in cars)) ** 0.5)


def price(rule: str, honest: list[Row], partitions: list[int]) -> Row:
    """Return what honest cars have under a rule, all and those that are least like the others: medians of the seeds."""
    own = [row for row in honest if row["rule"] == rule]
    figures: Row = {name: statistics.median(row[name] for row in own) for name in ("r2", "personal_r2")}
    for name in ("rmse", "personal_rmse"):
        figures[name] = statistics.median(pooled_rmse(row, partitions, name) for row in own)
    return {"rule": rule, **figures}


def show(content: Row) -> int:
    """Print both tables; return 1 when a bound does not hold."""
    rows = content["rows"]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    broken = []
    print("| one car of five | " + " | ".join(BOUNDS) + " |\n|---|" + "--:|" * len(BOUNDS))
    for kind in kinds:
        cells = []
        for rule, bound in BOUNDS.items():
            r2, alone = (
                statistics.median(row["r2"] for row in rows if (row["kind"], row["rule"]) == (one, rule))
                for one in (kind, "honest")
            )
            cells.append(f"{r2:.3f}")
            if alone - r2 > bound:
                broken.append(f"{kind}, {rule}: {alone:.3f} to {r2:.3f}")
        print(f"| {kind} | {' | '.join(cells)} |")
    print(f"\n{len(content['unlike'])} honest cars of {DRIVERS} are least like the others: {content['unlike']}")
    print("| rule | R², all | own R², all | RMSE of these | own RMSE of these |\n|---|--:|--:|--:|--:|")
    for row in content["prices"]:
        r2 = f"{row['r2']:.3f} | {row['personal_r2']:.3f}"
        print(f"| {row['rule']} | {r2} | {row['rmse']:.2f} | {row['personal_rmse']:.2f} |")
    for line in broken:
        print(f"beyond its bound: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
