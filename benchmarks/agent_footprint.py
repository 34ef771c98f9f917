"""What the agent costs when nothing happens, beside stock SuperNode and Debian's prometheus-node-exporter, in one run.

    benchmarks/agent_footprint.py [--seconds 60] [--repeats 3] [--before FOLDER] [--json]

Each repeat starts a SuperLink, a stock `flower-supernode` and an agent, whose own SuperNode (stock waits, no warm
process) is measured apart; waits until all are quiet, and then measures all of them over the same seconds. The agent
stands as the packages install it: started again after its car has joined, everything inside TLS, the server's question
open, without the site module that a development folder fills, and with the variables of its unit. Only the unit's
filter of system calls is missing, which spares an installed agent ctypes (0.3 MB). FOLDER is a checkout of an earlier
version, whose agent is measured beside, with its own unit's variables and without what it does not know.

The exporter is asked for its metrics every 15 s, as Prometheus does, and is left out where it is not installed. Memory
is RSS and PSS; CPU time is in percent of one core. Import is the CPU time of `import fleven_agent.daemon` less that of
an empty Python: on a quiet machine it is the time that passes, and on a busy one still what the import needs. Medians.

Budget of the agent: at most 32 MB RSS, 0.3 % of a core, 250 ms of import. Ends with 1 when one is missed.
"""

import argparse
import contextlib
import http.server
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from agent_harness import Agent, send_json, wait_for
from certificates import write_certificates
from joining_server import JoiningServer
from tiny_federation import CONNECTION, Federation, free_port

from fleven_agent.protocol.codes import ATTENTION_PATH, Attention
from fleven_agent.system import procfs

PROJECT = Path(__file__).resolve().parent.parent

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


class PatientServer(JoiningServer):
    """A server that keeps the question for its attention open, as the real one does."""

    def __init__(self, certificates: Path) -> None:
        super().__init__(certificates)
        self.answer["attention"] = Attention.CALM.value
        self.over = threading.Event()

    def answer_get(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        asked = urlsplit(handler.path)
        if asked.path != ATTENTION_PATH:
            super().answer_get(handler)
            return
        self.over.wait(float(parse_qs(asked.query)["seconds"][0]))
        send_json(handler, 200, {"attention": Attention.CALM.value})


def unit_variables(project: Path) -> dict[str, str]:
    """Return the variables that a version's unit sets for the allocator."""
    lines = (project / "systemd/fleven-agent.service").read_text(encoding="utf-8").splitlines()
    words = [word for line in lines for word in line.removeprefix("Environment=").split() if line != word]
    return dict(word.split("=", 1) for word in words if word.startswith("MALLOC_"))


def make_agent(folder: Path, project: Path, configuration: str) -> Agent:
    """Return the agent of a version's folder, not yet started, as its packages would run it."""
    path = os.pathsep.join((str(project), sysconfig.get_path("purelib")))
    agent = Agent(
        folder, configuration, environment={**unit_variables(project), "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    )
    agent.interpreter = [sys.executable, "-S"]
    return agent


def measure(folder: Path, seconds: float, before_folder: Path | None) -> dict[str, dict[str, float]]:
    """Run all side by side once; return {who: {rss, pss, cpu}}."""
    certificates = write_certificates(folder / "certificates")
    server = PatientServer(certificates)
    server.start()
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        stack.callback(server.over.set)
        other = stack.enter_context(exporter())
        # A SuperLink takes either cars that have joined or any others.
        joined = Federation(folder / "server").start(certificates=certificates, node_keys=True)
        stack.callback(joined.kill)
        open_to_all = Federation(folder / "open-server").start(certificates=certificates)
        stack.callback(open_to_all.kill)
        stock = start_stock(folder, open_to_all, certificates)
        stack.callback(stop_tree, stock)
        common = f'report-url = "{server.url}"\ndata-path = "{folder}"\n'
        superlink = f'superlink = "127.0.0.1:{joined.fleet_port}"\n'
        configuration = f'partition-id = 0\n{superlink}{common}clientapp-address = "127.0.0.1:{free_port()}"\n'
        agent = make_agent(folder / "car", PROJECT, configuration + '[warm]\nmode = "off"\nshort-polling = false\n')
        stack.callback(agent.clean_up)
        join_and_start(agent, server, joined)
        executor = wait_for("the executor", lambda: agent.children("flower-superexec"), 60)
        stock_executor = wait_for("the stock executor", lambda: procfs.children(stock.pid), 60)
        who = {
            "fleven-agent": [running_pid(agent)],
            "its supernode": [agent.supernode(), *executor],
            "stock supernode": [stock.pid, *stock_executor],
        }
        if before_folder is not None:
            earlier = make_agent(folder / "earlier", before_folder, "")
            stack.callback(earlier.clean_up)
            trust = f'superlink = "127.0.0.1:{open_to_all.fleet_port}"\nroot-certificates = "{certificates}/ca.crt"\n'
            text = f'partition-id = 2\n{common}{trust}clientapp-address = "127.0.0.1:{free_port()}"\n'
            earlier.config.write_text(text + '[warm]\nmode = "off"\n', encoding="utf-8")
            earlier.start(ready=False)
            wait_for("the earlier agent", lambda: "state state=running" in earlier.log(), 60, earlier.log)
            who["the earlier agent"] = [running_pid(earlier)]
        if other is not None:
            who[EXPORTER] = [other[0]]
        time.sleep(SETTLE_SECONDS)
        began, used = time.monotonic(), {name: cpu_seconds(pids) for name, pids in who.items()}
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
                "cpu_percent": 100 * (cpu_seconds(pids) - used[name]) / span,
            }
            for name, pids in who.items()
        }


def start_stock(folder: Path, federation: Federation, certificates: Path) -> subprocess.Popen[bytes]:
    """Start SuperNode as one would by hand."""
    return subprocess.Popen(
        [
            *("flower-supernode", "--root-certificates", str(certificates / "ca.crt")),
            *("--superlink", f"127.0.0.1:{federation.fleet_port}"),
            *("--clientappio-api-address", f"127.0.0.1:{free_port()}", "--node-config", "partition-id=1"),
        ],
        env={**federation.environment, "FLWR_HOME": str(folder / "stock-home")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def stop_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children."""
    for pid in procfs.children(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()


def join_and_start(agent: Agent, server: JoiningServer, federation: Federation) -> None:
    """Let the car join, and start its agent again as every later start finds it."""
    agent.start()
    agent.wait("the car asks to join", lambda: server.cars)
    car = server.only_car()
    key = agent.folder / "node.pub"
    key.write_text(car.public_key, encoding="ascii")
    car.node_id = str(federation.flwr("supernode", "register", str(key), CONNECTION)["node-id"])
    car.status = "accepted"
    agent.wait_state("running", seconds=60)
    agent.stop()
    agent.start()
    agent.wait_state("running", seconds=60)


def running_pid(agent: Agent) -> int:
    """Return the process id of an agent."""
    assert agent.process is not None
    return agent.process.pid


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement (default 60)")
    parser.add_argument("--repeats", type=int, default=3, help="how often all is done (default 3)")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="measure the agent of that checkout beside")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    rounds: list[dict[str, dict[str, float]]] = []
    imports: list[float] = []
    for number in range(arguments.repeats):
        print(f"repeat {number + 1} of {arguments.repeats}", file=sys.stderr)
        for _ in range(5):
            imports.append(import_seconds("import fleven_agent.daemon") - import_seconds("pass"))
        with tempfile.TemporaryDirectory(prefix="fleven-footprint-") as folder:
            rounds.append(measure(Path(folder), arguments.seconds, arguments.before))
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
