"""What the agent costs when nothing happens, beside stock SuperNode and Debian's prometheus-node-exporter, in one run.

    benchmarks/agent_footprint.py [--seconds 60] [--repeats 3] [--json]

Each repeat starts a SuperLink, a stock `flower-supernode` and an agent, whose own SuperNode (stock waits, no warm
process) is measured apart; waits until all are quiet, and then measures all of them over the same seconds. The
exporter is asked for its metrics every 15 s, as Prometheus does, and is left out where it is not installed. Memory is
RSS and PSS; CPU time is in percent of one core. Import is the CPU time of `import fleven_agent.daemon` less that of
an empty Python: on a quiet machine it is the time that passes, and on a busy one still what the import needs. Medians.

Budget of the agent: at most 32 MB RSS, 0.3 % of a core, 250 ms of import. Ends with 1 when one is missed.
"""

import argparse
import contextlib
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from agent_harness import Agent, report_server, wait_for
from tiny_federation import Federation, free_port

from fleven_agent.system import procfs

RSS_BUDGET_BYTES, CPU_BUDGET_PERCENT, IMPORT_BUDGET_SECONDS = 32 * 2**20, 0.3, 0.250
SETTLE_SECONDS = 15
EXPORTER = "prometheus-node-exporter"


def pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time of processes so far."""
    return sum(found.cpu_seconds for pid in pids if (found := procfs.stat(pid)) is not None)


@contextlib.contextmanager
def exporter() -> Iterator[tuple[int, str] | None]:
    """Debian's exporter and the address of its metrics; None where it is not installed."""
    if shutil.which(EXPORTER) is None:
        yield None
        return
    port = free_port()
    command = [EXPORTER, f"--web.listen-address=127.0.0.1:{port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process.pid, f"http://127.0.0.1:{port}/metrics"
        finally:
            process.terminate()


def import_seconds(statement: str) -> float:
    """Return the CPU time of a Python that runs one statement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(folder: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Run all side by side once; return {who: {rss, pss, cpu}}."""
    with report_server() as server, exporter() as other:
        federation = Federation(folder / "server").start()
        stock_environment = {**federation.environment, "FLWR_HOME": str(folder / "stock-home")}
        stock = subprocess.Popen(
            [
                *("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{federation.fleet_port}"),
                *("--clientappio-api-address", f"127.0.0.1:{free_port()}", "--node-config", "partition-id=1"),
            ],
            env=stock_environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        agent = Agent(
            folder / "car",
            f'partition-id = 0\nsuperlink = "127.0.0.1:{federation.fleet_port}"\nreport-url = "{server.url}"\n'
            "insecure = true\n"
            f'clientapp-address = "127.0.0.1:{free_port()}"\ndata-path = "{folder}"\n'
            '[warm]\nmode = "off"\nshort-polling = false\n',
        )
        try:
            agent.start()
            agent.wait_state("running", seconds=60)
            assert agent.process is not None
            executor = wait_for("the executor", lambda: agent.children("flower-superexec"), 60)
            stock_executor = wait_for("the stock executor", lambda: procfs.children(stock.pid), 60)
            who = {
                "fleven-agent": [agent.process.pid],
                "its supernode": [agent.supernode(), *executor],
                "stock supernode": [stock.pid, *stock_executor],
            }
            if other is not None:
                who[EXPORTER] = [other[0]]
            time.sleep(SETTLE_SECONDS)
            before, began = {name: cpu_seconds(pids) for name, pids in who.items()}, time.monotonic()
            while (left := began + seconds - time.monotonic()) > 0:
                if other is not None:
                    with urllib.request.urlopen(other[1], timeout=10) as answer:
                        answer.read()
                time.sleep(min(15.0, left))
            span = time.monotonic() - began
            return {
                name: {
                    "rss_bytes": sum(found.rss_bytes for pid in pids if (found := procfs.stat(pid)) is not None),
                    "pss_bytes": sum(map(pss_bytes, pids)),
                    "cpu_percent": 100 * (cpu_seconds(pids) - before[name]) / span,
                }
                for name, pids in who.items()
            }
        finally:
            agent.clean_up()
            stock.kill()
            stock.wait()
            for pid in who["stock supernode"][1:]:
                with contextlib.suppress(ProcessLookupError):
                    subprocess.run(["kill", "-9", str(pid)], check=False, stderr=subprocess.DEVNULL)
            federation.kill()


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement (default 60)")
    parser.add_argument("--repeats", type=int, default=3, help="how often all is done (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    rounds: list[dict[str, dict[str, float]]] = []
    imports: list[float] = []
    for number in range(arguments.repeats):
        print(f"repeat {number + 1} of {arguments.repeats}", file=sys.stderr)
        for _ in range(5):
            imports.append(import_seconds("import fleven_agent.daemon") - import_seconds("pass"))
        with tempfile.TemporaryDirectory(prefix="fleven-footprint-") as folder:
            rounds.append(measure(Path(folder), arguments.seconds))
    table = {
        who: {name: statistics.median(one[who][name] for one in rounds) for name in rounds[0][who]} for who in rounds[0]
    }
    agent, import_median = table["fleven-agent"], statistics.median(imports)
    kept = {
        "rss": agent["rss_bytes"] <= RSS_BUDGET_BYTES,
        "cpu": agent["cpu_percent"] <= CPU_BUDGET_PERCENT,
        "import": import_median <= IMPORT_BUDGET_SECONDS,
    }
    if arguments.json:
        result = {"median": table, "import_seconds": import_median, "budgets_kept": kept, "repeats": rounds}
        print(json.dumps(result, indent=2))
    else:
        print(f"{'':26} {'RSS MB':>8} {'PSS MB':>8} {'CPU %':>8} {'RSS of agent':>13}")
        for who, values in table.items():
            ratio = values["rss_bytes"] / agent["rss_bytes"]
            print(
                f"{who:26} {values['rss_bytes'] / 2**20:8.1f} {values['pss_bytes'] / 2**20:8.1f} "
                f"{values['cpu_percent']:8.2f} {ratio:12.2f}x"
            )
        if EXPORTER not in table:
            print(f"{EXPORTER:26} skipped: not installed")
        print(f"import of the daemon: {1000 * import_median:.0f} ms")
        print(", ".join(f"{name} budget {'kept' if good else 'MISSED'}" for name, good in kept.items()))
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
