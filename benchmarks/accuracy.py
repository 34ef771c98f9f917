#!/usr/bin/env python3
"""How good the federated model and the cars' own are, beside one model on all data, one a car, ridge, boosted trees.

Federated, centralised and local-only training run SIMULATED in one process: the app's own ServerApp and ClientApp code
without Flower's network (fleven.app.simulation), whose figures equal those of real Flower to the last bit. The
centralised model is a federation of one car that has everybody's trips; the local-only models are federations of one
car each; both train as many epochs as the federation. Personal is what the cars made of the same federation's model.
Gradient boosting has the flattened windows of all cars (scikit-learn's HistGradientBoostingRegressor). All are measured
on the same held-out windows, pooled.

    FLEVEN_OBD_DATA=/path/to/logs benchmarks/accuracy.py
    benchmarks/accuracy.py --log 19drivers.csv --clients 3 19 --seeds 1 2 3 --set rounds=20 --json accuracy.json
    benchmarks/accuracy.py --synthetic 10 --seeds 1 2 3        # cars of a synthetic fleet, which differ less

The processor's time that a federated round and the last evaluation, in which each car makes its own model, cost a car
is measured on the way.
"""

import argparse
import concurrent.futures
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from fleven.app.server.results import RunFiles
from fleven.app.server.rounds import Federation
from fleven.app.server.scores import Score
from fleven.app.settings import Settings, parse
from fleven.app.simulation import SimulatedGrid
from fleven.app.trips.windows import prepare

Row = dict[str, Any]


def main() -> int:
    """Measure every combination and print one table."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="fleven-accuracy-") as scratch:
        folder = Path(scratch)
        os.environ["FLWR_HOME"] = str(folder / "flower-home")
        if options.synthetic:
            synthesise(folder, options.synthetic)
        else:
            for clients in {1, *options.clients}:
                import_log(options.log, folder / f"data-{clients}", clients)
        jobs = [
            (folder, kind, clients, seed, options.set)
            for seed in options.seeds
            for kind, clients in [
                ("centralised", 1),
                *((kind, clients) for clients in options.clients for kind in ("federated", "local-only")),
            ]
        ]
        with concurrent.futures.ProcessPoolExecutor(options.jobs, initializer=one_thread) as pool:
            rows = [{"kind": "ridge, current reading", "clients": 1, **ridge(folder / "data-1", options.set)}]
            boosted = [pool.submit(boosting, folder / "data-1", seed, options.set) for seed in options.seeds]
            for found in pool.map(measure, jobs):
                for row in found:
                    rows.append(row)
                    text = f"{row['kind']}, {row['clients']} clients, seed {row['seed']}: R² {row['r2']:.3f}"
                    print(text, file=sys.stderr)
            rows += [{"kind": "gradient boosting", "clients": 1, **future.result()} for future in boosted]
    show(rows, options)
    if options.json:
        content = {
            "machine": describe(),
            "seeds": options.seeds,
            "synthetic_cars": options.synthetic,
            "changed_settings": options.set,
            "rows": rows,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    low = [row for row in rows if row["kind"] == "federated" and row["r2"] < options.bar]
    if low:
        print(f"{len(low)} federated runs are below R² {options.bar}", file=sys.stderr)
    most = max(options.clients)
    own = [row["r2"] for row in rows if (row["kind"], row["clients"]) == ("personal", most)]
    short = bool(own) and statistics.median(own) < options.personal_bar
    if short:
        print(f"the median of personal, {most} clients, is below R² {options.personal_bar}", file=sys.stderr)
    return 1 if low or short else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    data = os.environ.get("FLEVEN_OBD_DATA")
    parser.add_argument(
        "--log", type=Path, default=Path(data) / "19drivers.csv" if data else None, help="a logger's file"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[3, 19])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting that differs")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument("--bar", type=float, default=0.65, help="R² that each federated run must reach (default: 0.65)")
    parser.add_argument(
        "--personal-bar", type=float, default=0.71, help="R² that the median of personal must reach (default: 0.71)"
    )
    parser.add_argument(
        "--synthetic", type=int, metavar="CARS", help="a synthetic fleet instead of a log; no bars then"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.synthetic:
        options.clients, options.bar, options.personal_bar = [options.synthetic], -1.0, -1.0
    elif options.log is None or not options.log.is_file():
        parser.error("--log FILE, or FLEVEN_OBD_DATA naming the folder of 19drivers.csv, is needed")
    options.set = dict(setting(text) for text in options.set)
    return options


def setting(text: str) -> tuple[str, str | int | float | bool]:
    """Read KEY=VALUE as TOML would: a number, true or false, else a string."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def import_log(log: Path, out: Path, clients: int) -> None:
    command = [sys.executable, "-m", "fleven.cli", "data", "import", str(log), "--out", str(out)]
    done = subprocess.run([*command, "--clients", str(clients)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"fleven data import failed: {done.stderr.strip()}")


def synthesise(folder: Path, cars: int) -> None:
    """Make a synthetic fleet, and beside it one car that has all its trips."""
    command = [sys.executable, "-m", "fleven.cli", "data", "synthesise", str(folder / f"data-{cars}")]
    subprocess.run([*command, "--cars", str(cars), "--minutes", "8"], capture_output=True, check=True)
    together = folder / "data-1" / "client_0"
    together.mkdir(parents=True)
    for number, trip in enumerate(sorted((folder / f"data-{cars}").glob("client_*/*.parquet"))):
        (together / f"trip_{number:04d}.parquet").symlink_to(trip)


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    logging.getLogger("fleven.app").setLevel(logging.ERROR)


def measure(job: tuple[Path, str, int, int, dict[str, Any]]) -> list[Row]:
    """Train and score one combination, and what its cars made of it."""
    folder, kind, clients, seed, changes = job
    cars = sorted((folder / f"data-{clients}").glob("client_*"), key=lambda path: int(path.name.split("_")[1]))
    groups = [[car] for car in cars] if kind == "local-only" else [cars]
    if kind != "federated":
        changes = {**changes, "personal": "none"}
    score = personal = Score()
    for group in groups:
        trained = train(folder, group, seed, changes)
        score, personal = score.merge(trained.score), personal.merge(trained.personal)
    row = {"kind": kind, "clients": clients, "seed": seed, **score.row(), "windows": score.windows}
    rows = [row | {"best_r2": trained.best_r2 if len(groups) == 1 else None}]
    if kind == "federated" and personal.values:
        cost = {"round_cpu_seconds": trained.round_cpu_seconds, "last_cpu_seconds": trained.last_cpu_seconds}
        rows.append({**row, "kind": "personal", **personal.row(), "best_r2": None, "kept": trained.kept, **cost})
    return rows


@dataclass(frozen=True)
class Trained:
    """What came of one federation.

    score, personal: pooled, of the last model and of the cars' own. kept: how many cars kept one. best_r2: of the model
    of any round. round_cpu_seconds, last_cpu_seconds: the median of what a round, and the last evaluation with the
    making of own models, cost a car. Cars without held-out windows score nothing.
    """

    score: Score
    personal: Score
    kept: int
    best_r2: float | None
    round_cpu_seconds: float
    last_cpu_seconds: float


def train(folder: Path, cars: list[Path], seed: int, changes: dict[str, Any]) -> Trained:
    """Run one simulated federation."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        settings: Settings = parse(
            changes
            | {
                "seed": seed,
                "min-nodes": min(2, len(cars)),
                "save-checkpoint-every": 0,
                "share-predictions": 0,
                "metrics-base-path": out,
                "results-base-path": out,
            }
        )
        grid = SimulatedGrid.of_folders(cars, settings.as_config())
        federation = Federation(grid, settings, RunFiles(settings, 1), 1)
        federation.run()
    score = personal = Score()
    kept = 0
    for answer in federation.final.values():
        score = score.merge(Score.of(answer.numbers))
        if "personal-kept" in answer.numbers:
            personal = personal.merge(Score.of(answer.numbers, "personal-"))
            kept += int(answer.numbers["personal-kept"])
    best = max((row["r2"] for row in federation.history.rounds if row["r2"] is not None), default=None)
    rows = [row for row in federation.history.clients if row["ok"]]
    rounds = [row["cpu_seconds"] for row in rows if row["phase"] == "train"]
    last = [row["cpu_seconds"] for row in rows if (row["phase"], row["round"]) == ("evaluate", settings.rounds)]
    return Trained(score, personal, kept, best, statistics.median(rounds), statistics.median(last))


def boosting(folder: Path, seed: int, changes: dict[str, Any]) -> Row:
    """Gradient boosting of the target at a window's last reading on all readings of the window."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    settings = parse(changes)
    prepared = prepare(folder / "client_0", settings)
    rows = np.arange(settings.sequence_length)

    def table(starts: Any) -> tuple[Any, Any]:
        windows = prepared.values[starts[:, np.newaxis] + rows]
        return windows[:, :, :-1].reshape(len(starts), -1), windows[:, -1, -1]

    inputs, target = table(prepared.train_starts)
    held_inputs, truth = table(prepared.test_starts)
    # Without `early_stopping` the seed would change nothing: the part held back for it is drawn by lot.
    made = HistGradientBoostingRegressor(random_state=seed, early_stopping=True).fit(inputs, target)
    error = made.predict(held_inputs) - truth
    return {
        "seed": seed,
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
        "r2": float(1 - (error**2).sum() / ((truth - truth.mean()) ** 2).sum()),
        "windows": len(truth),
    }


def ridge(folder: Path, changes: dict[str, Any]) -> Row:
    """Ridge regression (penalty 1 on scaled columns) of the target on the same moment's features, no window."""
    prepared = prepare(folder / "client_0", parse(changes))
    last = parse(changes).sequence_length - 1
    parts = [prepared.values[starts + last] for starts in (prepared.train_starts, prepared.test_starts)]
    mean, std = parts[0].mean(axis=0), parts[0].std(axis=0)
    (inputs, target), (held_inputs, truth) = (((part[:, :-1] - mean[:-1]) / std[:-1], part[:, -1]) for part in parts)
    weights = np.linalg.solve(inputs.T @ inputs + np.eye(inputs.shape[1]), inputs.T @ (target - mean[-1]))
    error = held_inputs @ weights + mean[-1] - truth
    return {
        "seed": None,
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
        "r2": float(1 - (error**2).sum() / ((truth - truth.mean()) ** 2).sum()),
        "windows": len(truth),
    }


def show(rows: list[Row], options: argparse.Namespace) -> None:
    """Print one line for each kind and number of clients."""
    seeds = options.seeds
    each = " | ".join(f"R² seed {seed}" for seed in seeds)
    print(f"| model | clients | {each} | median | best round | RMSE | MAE | windows |")
    print("|---|--:|" + "--:|" * (len(seeds) + 5))
    groups = list(dict.fromkeys((row["kind"], row["clients"]) for row in rows))
    for kind, clients in groups:
        own = [row for row in rows if (row["kind"], row["clients"]) == (kind, clients)]
        r2 = [f"{row['r2']:.3f}" for row in own] * (len(seeds) if len(own) == 1 else 1)
        best = [row["best_r2"] for row in own if row.get("best_r2") is not None]
        rmse, mae = (statistics.median(row[name] for row in own) for name in ("rmse", "mae"))
        shown = f"{statistics.median(best):.3f}" if best else "-"
        middle = f"{statistics.median(row['r2'] for row in own):.3f}"
        figures = f"{' | '.join(r2[: len(seeds)])} | {middle} | {shown} | {rmse:.2f} | {mae:.2f}"
        print(f"| {kind} | {clients} | {figures} | {own[0]['windows']} |")
    print(
        "\nFederated, centralised and local-only: simulated in one process. RMSE and MAE: median of the seeds, in the"
    )
    print("target's unit. Best round: R² of the round that happened to be best on the held-out windows, median of the")
    print(f"seeds; a flattering figure, as nobody can know that round. Changed settings: {options.set or 'none'}.")


if __name__ == "__main__":
    sys.exit(main())
