#!/usr/bin/env python3
"""Training on a car against a plain PyTorch DataLoader loop over the same windows, and the arithmetic of the machine.

Each measurement is a process of its own, so that its peak memory is its own; the kinds take turns, and medians count.

plain     all windows built as one tensor, TensorDataset and DataLoader(shuffle=True), Adam, torch's own thread count
plain-1   the same with one thread
fleven    the app's own training: windows are views, a batch is one gather, threads as the app chooses them
fleven-N  the same with N threads, which shows whether that choice is right

The arithmetic limit is the rate of a large float32 matrix product with the same number of threads. The network's own
products are counted: an LSTM step multiplies [batch, features + hidden] by [features + hidden, 4 * hidden], forward
once and backward twice. The trips are SYNTHETIC noise: speed does not depend on what is learnt.

    benchmarks/train_step.py
    benchmarks/train_step.py --rows 20000 --repeats 5 --json train_step.json
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

SETTINGS = (
    {"model-type": "lstm", "hidden-size": 32, "batch-size": 64},
    {"model-type": "lstm", "hidden-size": 64, "batch-size": 256},
    {"model-type": "lstm", "hidden-size": 128, "batch-size": 256},
    {"model-type": "mlp", "hidden-size": 32, "batch-size": 64},
)


def main() -> int:
    """Measure every network in every way and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rows", type=int, default=10_000, help="readings of the car (default: 10000)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(json.loads(options.child), options.rows)))
        return 0
    cores = len(os.sched_getaffinity(0))
    kinds = ["plain", "plain-1", "fleven", *(f"fleven-{threads}" for threads in sorted({1, cores}))]
    table = []
    for settings in SETTINGS:
        runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
        for _ in range(options.repeats):
            for kind in kinds:
                runs[kind].append(measured({"kind": kind} | settings, options.rows))
        table += [summary(settings, kind, runs[kind], runs["plain"]) for kind in kinds]
    print(f"{describe()}\n")
    print("| network | way | threads | windows/s | of plain | of the GEMM rate | memory above start [MB] | of plain |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for row in table:
        print(
            f"| {row['network']} | {row['kind']} | {row['threads']} | {row['windows_per_second']:,.0f} | "
            f"{row['speed_ratio']:.2f} | {row['gemm_share']:.1%} | {row['memory_bytes'] / 1e6:.0f} | "
            f"{row['memory_ratio']:.2f} |"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"machine": describe(), "rows": options.rows, "table": table}, indent=1) + "\n"
        )
    return 0


def measured(job: dict[str, Any], rows: int) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, __file__, "--rows", str(rows), "--child", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"the measurement {job} failed with {done.returncode}; what it said stands above")
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def summary(
    settings: dict[str, Any], kind: str, runs: list[dict[str, Any]], plain: list[dict[str, Any]]
) -> dict[str, Any]:
    def median(of: list[dict[str, Any]], name: str) -> float:
        return statistics.median(run[name] for run in of)

    return {
        "network": f"{settings['model-type']} {settings['hidden-size']}, batch {settings['batch-size']}",
        "kind": kind,
        "threads": runs[0]["threads"],
        "windows_per_second": median(runs, "windows_per_second"),
        "speed_ratio": median(runs, "windows_per_second") / median(plain, "windows_per_second"),
        "gemm_share": median(runs, "flops_per_second") / median(runs, "gemm_flops_per_second"),
        "memory_bytes": median(runs, "memory_bytes"),
        "memory_ratio": median(runs, "memory_bytes") / max(median(plain, "memory_bytes"), 1),
    }


def child(job: dict[str, Any], rows: int) -> dict[str, Any]:
    """Measure one way in this process."""
    import torch

    from fleven.app import model
    from fleven.app.settings import parse
    from fleven.app.trips import windows as trip_windows
    from fleven.app.trips.reader import Trip, Trips

    kind = job.pop("kind")
    settings = parse({**job, "local-epochs": 1, "dropout": 0.0})
    values = np.random.default_rng(1).normal(size=(rows, len(settings.columns))).astype(np.float32)
    prepared = trip_windows.window(
        trip_windows.Rows.of(
            Trips([Trip("synthetic", np.arange(float(rows)), values, rows, 0, 0)]), settings.maximum_gap_factor
        ),
        settings,
    )
    scaler = trip_windows.Scaler.of(prepared.statistics)
    network = model.build(settings)
    if "-" in kind:
        torch.set_num_threads(int(kind.split("-")[1]))
    before = reset_peak()
    if kind.startswith("plain"):
        loader = plain_loader(prepared, scaler, settings)
        run = lambda: plain_epoch(network, loader, settings)  # noqa: E731
    else:
        windows = model.Windows(prepared, scaler, settings)
        if kind == "fleven":
            model.use_threads(settings, network, windows, prepared.train_starts)
        run = lambda: model.train(network, windows, prepared.train_starts, settings, seed=1)  # noqa: E731
    run()
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    memory = peak_bytes() - before
    count = len(prepared.train_starts)
    return {
        "threads": torch.get_num_threads(),
        "windows_per_second": count / min(seconds),
        "flops_per_second": count * flops(settings) / min(seconds),
        "gemm_flops_per_second": gemm_rate(),
        "memory_bytes": memory,
    }


def plain_loader(prepared: Any, scaler: Any, settings: Any) -> Any:
    """Build what tutorials build: every window as a copy, in one tensor."""
    import torch

    scaled = scaler.scale(prepared.values)
    length = settings.sequence_length
    inputs = np.stack([scaled[start : start + length, :-1] for start in prepared.train_starts])
    targets = np.stack([scaled[start + length - 1 : start + length, -1] for start in prepared.train_starts])
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(inputs), torch.from_numpy(targets))
    return torch.utils.data.DataLoader(dataset, settings.batch_size, shuffle=True)


def plain_epoch(network: Any, loader: Any, settings: Any) -> None:
    import torch

    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    network.train()
    total = 0.0
    for inputs, targets in loader:
        optimiser.zero_grad()
        loss = torch.nn.functional.mse_loss(network(inputs), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
        optimiser.step()
        total += loss.item() * len(inputs)


def flops(settings: Any) -> int:
    """Floating point operations of one window's training: 2 a multiply-add, forward once and backward twice."""
    features, hidden, length = len(settings.feature_columns), settings.hidden_size, settings.sequence_length
    if settings.model_type == "lstm":
        forward = 2 * length * 4 * hidden * (features + hidden) + 2 * hidden
    else:
        forward = 2 * (length * features * hidden + hidden)
    return 3 * forward


def gemm_rate(size: int = 768) -> float:
    """Return the best of ten: operations a second of a square float32 product with torch's present thread count."""
    import torch

    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def reset_peak() -> int:
    """Restart the count of peak memory; return the memory in use, bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    """Return the largest resident memory since reset_peak, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
