"""What a round costs beside the learning: stock Flower and FLEVEn side by side, in turn, on this machine.

    python benchmarks/round_overhead.py                       # both apps, 3 and 8 nodes, about half an hour
    python benchmarks/round_overhead.py --nodes 3 --apps noop --repeats 1
    python benchmarks/round_overhead.py --json benchmarks/results/round_overhead.json --nodes 8 --apps default
    python3 benchmarks/round_overhead.py --cell /run/fleven-task/cell.sock --trips /var/lib/fleven/data/benchmark
    python3 benchmarks/round_overhead.py --app-cell /run/fleven-app/cell.sock --trips /var/lib/fleven/data/benchmark

The last two are for a machine with both packages and neither agent nor server at work, as root, with the programs of
both on PATH (`tests/machines/test_cell_overhead.py`). With `--cell` one node runs its tasks as the agent's user would,
another one in the package's cell, both with the priority of the agent's unit; with `--app-cell` one SuperLink runs its
ServerApps as the server's user would, another one in cells.

Both federations are up all the time and run in turn, so that whatever else the machine does falls on both. Stock is
Flower as its documentation starts it: `flower-superlink`, `flower-supernode`, FedAvg with train and evaluate. FLEVEn is
the same programs behind the agent's warm launcher, and the app's own loop. Of each run the first round, which starts
from idle, is told apart. Ends with 1 when a bar is missed: overhead at most a tenth of stock's; with the cell, a round
at most a twentieth longer than without it.
"""

import argparse
import contextlib
import itertools
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from federation import ROOT, STATE, Federation, RunConfig, started
from machine import describe

BAR = 0.1
CELL_BAR = 1.05
APPS = ("noop", "default")
KINDS = ("stock", "fleven", "cell", "server-app", "server-cell")
"""With `--cell` and `--app-cell` the pairs `fleven` and `cell`, `server-app` and `server-cell` are compared."""
POLL_SECONDS = 0.1
TIMES = "times.jsonl"
CHECK_SECONDS = 15.0  # rarely: asking Flower costs 2 s of CPU


@dataclass
class Measured:
    """One kind of federation with one app: seconds of each round after the first, over all repeats."""

    app: str
    nodes: int
    kind: str
    round_seconds: list[float] = field(default_factory=list)
    work_seconds: list[float] = field(default_factory=list)
    first_round_seconds: list[float] = field(default_factory=list)
    node_cpu_seconds: list[float] = field(default_factory=list)
    """CPU seconds a round and node, one number a repeat."""
    server_cpu_seconds: list[float] = field(default_factory=list)
    idle_bytes: int = 0
    peak_bytes: int = 0

    @property
    def overhead_seconds(self) -> list[float]:
        """Return each round's seconds without the work of its slowest car."""
        return [seconds - work for seconds, work in zip(self.round_seconds, self.work_seconds, strict=True)]


def main() -> int:
    """Measure, print, and say whether the bar is met."""
    options = parse_options()
    folder = Path(tempfile.mkdtemp(prefix="fleven-benchmark-app-"))
    results: list[Measured] = []
    try:
        for nodes in options.nodes:
            for pair in measure(nodes, options, folder / f"nodes-{nodes}"):
                results += pair
                if options.json:  # after each pair: a long measurement that is interrupted keeps what it has
                    save(options, results)
    finally:
        shutil.rmtree(folder)
    report(results)
    met = all(float(str(row["ratio"])) <= BAR for row in ratios(results))
    return 0 if met and all(share <= CELL_BAR for _, share in cell_shares(results)) else 1


def save(options: argparse.Namespace, results: list[Measured]) -> None:
    """Write everything measured so far, beside what the file holds of other sizes and apps."""
    measured_now = {(measured.app, measured.nodes) for measured in results}
    earlier = [one for one in read_earlier(options.json) if (one.app, one.nodes) not in measured_now]
    results = sorted([*earlier, *results], key=lambda one: (one.nodes, APPS.index(one.app), KINDS.index(one.kind)))
    content = {
        "benchmark": "round_overhead",
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": describe(),
        "results": [asdict(measured) | {"overhead_seconds": measured.overhead_seconds} for measured in results],
        "ratios": ratios(results),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_earlier(path: Path) -> list[Measured]:
    """Return what an earlier call wrote."""
    if not path.is_file():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["results"]
    return [Measured(**{key: value for key, value in row.items() if key != "overhead_seconds"}) for row in rows]


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 8], help="federations of these sizes, one by one")
    parser.add_argument("--apps", nargs="+", choices=APPS, default=list(APPS))
    parser.add_argument("--rounds", type=int, default=6, help="rounds of a run, the first one told apart")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind, in turn")
    parser.add_argument(
        "--json", type=Path, help="write everything measured to this file, beside what it holds of other sizes and apps"
    )
    parser.add_argument("--cell", type=Path, help="socket of the package's cell: compare one node's rounds in it")
    parser.add_argument("--app-cell", type=Path, help="socket of the package's cells for ServerApps: compare with them")
    parser.add_argument("--trips", type=Path, help="new folder for the trips, where the cell sees them")
    options = parser.parse_args()
    if options.cell is not None and options.app_cell is not None:
        parser.error("--cell, --app-cell: one of them")
    if options.cell is not None:
        options.nodes = [1]  # a cell runs one task at a time
    if options.rounds < 2:
        parser.error("--rounds: at least 2, since the first one is told apart")
    return options


def measure(nodes: int, options: argparse.Namespace, folder: Path) -> Iterator[list[Measured]]:
    """Measure all apps with ``nodes`` nodes, and yield all kinds of each."""
    folder.mkdir(parents=True)
    data = options.trips or folder / "trips"
    subprocess.run(
        [shutil.which("fleven") or "fleven", "data", "synthesise", str(data), "--cars", str(nodes)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    configs = [f'partition-id={i} num-partitions={nodes} data-path="{data}/client_{i}"' for i in range(nodes)]
    kinds = KINDS[:2]
    if options.cell is not None:
        kinds = KINDS[1:3]
    elif options.app_cell is not None:
        kinds = KINDS[3:]
    with contextlib.ExitStack() as stack:
        federations = [
            stack.enter_context(
                started(
                    kind,
                    nodes,
                    warm=kind != "stock",
                    node_configs=configs,
                    cell=options.cell if kind == "cell" else None,
                    app_cell=options.app_cell if kind == "server-cell" else None,
                    packaged=kind.startswith("server-"),
                    as_agent=options.cell is not None,
                )
            )
            for kind in kinds
        ]
        for name in options.apps:
            app = assemble(name, folder / name)
            together = [(Measured(name, nodes, kind), federations[number]) for number, kind in enumerate(kinds)]
            for repeat in range(options.repeats):
                for measured, federation in together:
                    progress(f"{nodes} nodes, {name}, {measured.kind}, run {repeat + 1} of {options.repeats}")
                    time_run(measured, federation, app, options.rounds)
            for measured, federation in together:
                progress(f"{nodes} nodes, {name}, {measured.kind}, memory")
                measure_memory(measured, federation, app)
            yield [measured for measured, _ in together]


def assemble(name: str, folder: Path) -> Path:
    """Lay an app's folder out: ours beside a copy of fleven/app."""
    shutil.copytree(ROOT / "benchmarks" / f"{name}_app", folder)
    shutil.copytree(ROOT / "fleven" / "app", folder / "fleven" / "app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "fleven" / "__init__.py", folder / "fleven")
    if name == "default":
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        for old, new in (
            ('serverapp = "fleven.app.server_app:app"', 'serverapp = "timed.server:app"'),
            ("fab-include = [", 'fab-include = ["timed/*.py", '),
        ):
            if old not in text:
                raise RuntimeError(f"pyproject.toml: {old!r} is not there any more; adapt this benchmark")
            text = text.replace(old, new, 1)
        (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def run_config(measured: Measured, rounds: int, federation: Federation, name: str) -> RunConfig:
    """Return the run config of one run, which writes its times into a folder of this name."""
    fleven = measured.kind != "stock"
    # A packaged SuperLink, and a cell, has its state folder for the working folder; a plain one has none.
    folder = name if measured.kind.startswith("server-") else str(federation.folder / STATE / name)
    if measured.app == "noop":
        loop = "fleven-shared" if fleven else "stock"
        return {"rounds": rounds, "nodes": measured.nodes, "loop": loop, "times-path": f"{folder}/{TIMES}"}
    paths = {"metrics-base-path": folder, "results-base-path": f"{folder}/results"}
    return {"rounds": rounds, "min-nodes": measured.nodes, "fit-and-evaluate": fleven, **paths}


def time_run(measured: Measured, federation: Federation, app: Path, rounds: int) -> None:
    """Run once and add its rounds to ``measured``."""
    name = f"run-{time.monotonic_ns()}"
    run_id = federation.submit(app, run_config(measured, rounds, federation, name))
    cpu: dict[int, tuple[float, float]] = {}
    checked = time.monotonic()
    while len(stamps := read_stamps(federation.written(f"{name}/{TIMES}"))) <= rounds:
        if len(stamps) - 1 not in cpu:
            cpu[len(stamps) - 1] = cpu_now(federation)
        if time.monotonic() > checked + CHECK_SECONDS:
            federation.check(run_id)
            checked = time.monotonic()
        time.sleep(POLL_SECONDS)
    cpu[rounds] = cpu_now(federation)
    federation.wait(run_id)
    seconds = [float(b["at"]) - float(a["at"]) for a, b in itertools.pairwise(stamps)]
    measured.first_round_seconds.append(seconds[0])
    measured.round_seconds += seconds[1:]
    measured.work_seconds += [float(stamp.get("work_seconds", 0.0)) for stamp in stamps[2:]]
    first = min(number for number in cpu if number >= 1)
    counted = rounds - first
    measured.node_cpu_seconds.append((cpu[rounds][0] - cpu[first][0]) / counted / measured.nodes)
    measured.server_cpu_seconds.append((cpu[rounds][1] - cpu[first][1]) / counted)


def cpu_now(federation: Federation) -> tuple[float, float]:
    """Return the CPU seconds of all nodes and of the server since they started."""
    return sum(node.cpu_seconds() for node in federation.nodes), federation.server_cpu_seconds()


def read_stamps(path: Path) -> list[Mapping[str, float]]:
    """Return the complete lines of a file of times."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def measure_memory(measured: Measured, federation: Federation, app: Path) -> None:
    """Measure a node idle, and at its peak during a short run that is not timed."""
    time.sleep(3.0)  # the last tasks of the timed runs have ended by now; none is waited for by Flower
    measured.idle_bytes = int(statistics.median(node.pss_bytes() for node in federation.nodes))
    peaks = [0] * len(federation.nodes)
    stopping = threading.Event()

    def sample() -> None:
        while not stopping.wait(0.05):
            for number, node in enumerate(federation.nodes):
                peaks[number] = max(peaks[number], node.pss_bytes())

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        name = f"run-{time.monotonic_ns()}"
        federation.wait(federation.submit(app, run_config(measured, 3, federation, name)), 600)
    finally:
        stopping.set()
        sampling.join()
    measured.peak_bytes = int(statistics.median(peaks))


def by_kind(results: list[Measured], first: str, second: str) -> Iterator[tuple[Measured, Measured]]:
    """Yield what was measured of two kinds, of each app and number of nodes."""
    found = {(one.nodes, one.app, one.kind): one for one in results}
    for (nodes, app, kind), one in found.items():
        if kind == first and (nodes, app, second) in found:
            yield one, found[nodes, app, second]


def cell_shares(results: list[Measured]) -> list[tuple[str, float]]:
    """Return each app, and how long its median round takes in the cell as a share of one without it."""
    pairs = [*by_kind(results, "fleven", "cell"), *by_kind(results, "server-app", "server-cell")]
    return [
        (without.app, statistics.median(cell.round_seconds) / statistics.median(without.round_seconds))
        for without, cell in pairs
    ]


def ratios(results: list[Measured]) -> list[dict[str, object]]:
    """Return FLEVEn's median overhead, CPU and memory as shares of stock's."""
    rows: list[dict[str, object]] = []
    for stock, fleven in by_kind(results, "stock", "fleven"):
        own, theirs = statistics.median(fleven.overhead_seconds), statistics.median(stock.overhead_seconds)
        cpu = statistics.median(fleven.node_cpu_seconds) / statistics.median(stock.node_cpu_seconds)
        rows.append(
            {
                "app": stock.app,
                "nodes": stock.nodes,
                "stock_overhead_seconds": theirs,
                "fleven_overhead_seconds": own,
                "ratio": own / theirs,
                "cpu_ratio": cpu,
                "peak_memory_ratio": fleven.peak_bytes / stock.peak_bytes,
            }
        )
    return rows


def report(results: list[Measured]) -> None:
    """Print a table of medians, and the ratios."""
    print(f"{'app':8} {'nodes':>5} {'kind':11} {'round s':>9} {'spread':>13} {'overhead s':>10}", end="")
    print(f" {'first s':>8} {'CPU s/node':>10} {'idle MiB':>8} {'peak MiB':>8}")
    for one in results:
        low, high = min(one.round_seconds), max(one.round_seconds)
        print(f"{one.app:8} {one.nodes:5d} {one.kind:11} {statistics.median(one.round_seconds):9.2f}", end="")
        print(f" {f'{low:.2f}-{high:.2f}':>13} {statistics.median(one.overhead_seconds):10.2f}", end="")
        print(f" {statistics.median(one.first_round_seconds):8.2f}", end="")
        print(f" {statistics.median(one.node_cpu_seconds):10.2f} {one.idle_bytes >> 20:8d} {one.peak_bytes >> 20:8d}")
    for row in ratios(results):
        print(f"{row['app']}, {row['nodes']} nodes: overhead 1/{1 / float(str(row['ratio'])):.1f} of stock's, ", end="")
        print(f"CPU 1/{1 / float(str(row['cpu_ratio'])):.1f}")
    for app, share in cell_shares(results):
        print(f"{app}: a round in the cell takes {share:.3f} of one without it")


def progress(text: str) -> None:
    """Say what is being measured."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # end what was started, also then
    sys.exit(main())
