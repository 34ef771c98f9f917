"""Up to which fleet one PC carries: a thousand idle cars, and rounds of up to a thousand, SIMULATED at the protocol.

    python benchmarks/fleet_scale.py idle                        # 1,000 idle cars for ten minutes
    python benchmarks/fleet_scale.py rounds --nodes 10 100 300   # stock Flower's loop and ours, in turn
    python benchmarks/fleet_scale.py idle --json benchmarks/results/fleet_idle.json

Idle: a server as installed (TLS, enrolled cars, SuperNode authentication); every car has SuperNode's connection with
its stretched pulls and heartbeats, one for its reports and one for its open question. Rounds: a SuperLink as
`fleven-server superlink` starts it, nodes that answer at once with a model of the default size, and in turn a ServerApp
with Flower's FedAvg and the shipped one. Measured are processor and memory of the server's processes, not of the
simulation, which shares the machine with them. Ends with 1 when idle cars take more than a quarter of a core.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import sqlite3
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import report_ingest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.supercore.primitives.asymmetric import generate_key_pairs
from local_processes import end_process, family, free_port
from machine import describe
from simulated_fleet import Fleet, OurAnswers, SimulatedNode, stock_answer

from fleven.app.model import build
from fleven.app.settings import parse
from fleven.server.nodes.attention import pull_floor_seconds
from fleven_agent.protocol.codes import LONGEST_ATTENTION_SECONDS, Attention

ROOT = Path(__file__).resolve().parent.parent
IDLE_BUDGET_PERCENT = 25.0
IDLE_REPORT_SECONDS = 180.0
"""`[reports] idle-interval-seconds` of node.toml."""
BEGIN_A_SECOND = 20
START_LIMIT_SECONDS = 900.0
"""A thousand keys are registered one after the other."""
SAMPLE_SECONDS = 0.25
TIMES = "times.jsonl"


@dataclass
class Server:
    """A SuperLink, perhaps with `fleven-server serve` beside it.

    Attributes:
        folder: its state folder.
        fleet, control, web: ports.
        processes: by name.
    """

    folder: Path
    fleet: int
    control: int
    web: int
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def cpu_seconds(self, name: str) -> float:
        """Return the processor time of one of them, the ServerApps that it started left out."""
        return sum(cpu_seconds(process) for process in family(self.processes[name].pid) if not is_server_app(process))

    def rss_bytes(self, name: str) -> int:
        """Return the memory of one of them without its children."""
        return int(psutil.Process(self.processes[name].pid).memory_info().rss)

    def server_apps(self) -> list[psutil.Process]:
        """Return the ServerApps at work."""
        return [process for process in family(self.processes["superlink"].pid) if is_server_app(process)]


def is_server_app(process: psutil.Process) -> bool:
    """Return whether a process is a ServerApp."""
    with contextlib.suppress(psutil.Error):
        return any(part.endswith("flwr-serverapp") for part in process.cmdline()[:3])
    return False


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process."""
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


@contextlib.contextmanager
def running_server(keys: list[str] | None) -> Iterator[Server]:
    """Start a server and end it afterwards.

    keys: public ones of enrolled cars, on a server as installed; None for a SuperLink alone that is open.
    """
    with tempfile.TemporaryDirectory(prefix="fleven-fleet-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        ports = [free_port() for _ in range(4)]
        config = folder / "server.toml"
        config.write_text(
            f"insecure = {'false' if keys else 'true'}\n"
            f'[web]\naddress = "127.0.0.1:{ports[2]}"\n\n[superlink]\nserver-app-cell = "off"\n'
            f'fleet-address = "127.0.0.1:{ports[0]}"\ncontrol-address = "127.0.0.1:{ports[1]}"\n'
            f'serverappio-address = "127.0.0.1:{ports[3]}"\n'
        )
        state = folder / "state"
        if keys:
            report_ingest.enrol(state / "register.db", len(keys), keys)
        environment = os.environ | {
            "FLEVEN_SERVER_STATE_DIR": str(state),
            "FLEVEN_SERVER_CONFIG": str(config),
            "FLEVEN_BENCHMARK_KIND": "fleven",  # of the app that `our_app` returns
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }
        server = Server(state, *ports[:3], environment)
        for command in ("superlink", "serve") if keys else ("superlink",):
            log = stack.enter_context((folder / f"{command}.log").open("wb"))
            program = [str(Path(sys.executable).with_name("fleven-server")), command]
            server.processes[command] = subprocess.Popen(program, env=environment, stdout=log, stderr=log)
            stack.callback(end_process, server.processes[command])
            if command == "superlink":
                wait_until("the SuperLink listens", lambda: listens(server.fleet) and listens(server.control), server)
        yield server


def listens(port: int) -> bool:
    """Return whether anybody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(what: str, holds: Any, server: Server) -> None:
    """Wait for a condition; raises SystemExit with the logs' ends when it does not come."""
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while not holds():
        if time.monotonic() > deadline or any(process.poll() is not None for process in server.processes.values()):
            tails = [file.read_text(errors="replace")[-3000:] for file in server.folder.parent.glob("*.log")]
            raise SystemExit(f"not seen: {what}\n" + "\n".join(tails))
        time.sleep(0.2)


# A thousand idle cars


async def question(
    port: int, number: int, begin: float, end_at: float, tally: report_ingest.Tally, trust: ssl.SSLContext
) -> None:
    """Keep one car's question open until the end, on a connection of its own."""
    chance = random.Random(number)
    await asyncio.sleep(max(0.0, begin - time.monotonic()))
    while time.monotonic() < end_at:
        try:
            source = report_ingest.source_of(number)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=source, ssl=trust)
            try:
                while time.monotonic() < end_at:
                    # The first one is answered early here: a fleet's questions have lost all step with each other.
                    seconds = LONGEST_ATTENTION_SECONDS * chance.uniform(0.05, 1.0)
                    path = f"/v1/attention?sender=simulated-{number:05d}&known={Attention.CALM}&seconds={seconds:.0f}"
                    head = (
                        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                        f"Authorization: Bearer {report_ingest.car_id(number)}.{report_ingest.secret(number)}\r\n\r\n"
                    )
                    writer.write(head.encode())
                    said = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), max(1.0, end_at - time.monotonic()))
                    lines = said.lower().split(b"\r\n")
                    length = next(line for line in lines if line.startswith(b"content-length:"))
                    await reader.readexactly(int(length.partition(b":")[2]))
                    if said.split(b" ", 2)[1] != b"200":
                        tally.fail(f"question {said.split(b' ', 2)[1].decode()}")
                        await asyncio.sleep(5)
            finally:
                writer.close()
        except TimeoutError:
            return
        except (OSError, EOFError, ValueError) as error:
            tally.fail(f"question {type(error).__name__}")
            await asyncio.sleep(5)


async def speak(port: int, cars: int, begin: float, end_at: float, tally: report_ingest.Tally) -> None:
    """Let all cars report and ask."""
    trust = report_ingest.tls_context()
    spread = cars / BEGIN_A_SECOND
    await asyncio.gather(
        *(
            report_ingest.simulate(port, number, begin, end_at, IDLE_REPORT_SECONDS, tally, trust)
            for number in range(cars)
        ),
        *(question(port, number, begin + spread * number / cars, end_at, tally, trust) for number in range(cars)),
    )


def idle(options: argparse.Namespace) -> dict[str, object]:
    """Measure the server with idle cars."""
    cars = options.nodes[0]
    keys = [generate_key_pairs() for _ in range(cars)]
    public = [key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() for _, key in keys]
    with running_server(public) as server:
        wait_until("the server answers", lambda: report_ingest.answers(server.web, tls=True), server)
        progress(f"{cars} enrolled cars are registered with the SuperLink")
        wait_until("all keys are registered", lambda: registered(server) >= cars, server)
        certificates = (server.folder / "trust" / "ca.crt").read_bytes()
        address = f"127.0.0.1:{server.fleet}"
        nodes = [SimulatedNode(number, address, certificates, keys[number]) for number in range(cars)]
        spread = cars / BEGIN_A_SECOND
        begin = time.monotonic()
        end_at = begin + spread + 30.0 + 60 * options.minutes
        reports = report_ingest.Tally()
        speaking = threading.Thread(target=lambda: asyncio.run(speak(server.web, cars, begin, end_at, reports)))
        speaking.start()
        with Fleet(nodes, calm=True, spread_seconds=spread) as fleet:
            time.sleep(max(0.0, begin + spread + 30.0 - time.monotonic()))
            progress(f"measuring for {options.minutes:g} minutes")
            found = measure_idle(server, fleet, reports, end_at)
        speaking.join()
    return {"cars": cars, **found}


def registered(server: Server) -> int:
    """Return how many keys the SuperLink knows."""
    with contextlib.closing(read_only(server)) as connection:
        return int(connection.execute("SELECT count(*) FROM node").fetchone()[0])


def read_only(server: Server) -> sqlite3.Connection:
    """Return a connection that only reads the SuperLink's database."""
    return sqlite3.connect(f"file:{server.folder / 'superlink.db'}?mode=ro", uri=True)


def measure_idle(server: Server, fleet: Fleet, reports: report_ingest.Tally, end_at: float) -> dict[str, object]:
    """Return what the server's processes use until the end, and what the cars saw meanwhile."""
    began = time.monotonic()
    before = {name: server.cpu_seconds(name) for name in server.processes}
    counted = (fleet.tally.pulls, fleet.tally.heartbeats, len(reports.seconds))
    time.sleep(end_at - began)
    wall = time.monotonic() - began
    percent = {name: 100 * (server.cpu_seconds(name) - before[name]) / wall for name in server.processes}
    with contextlib.closing(read_only(server)) as connection:
        online = connection.execute("SELECT count(*) FROM node WHERE online_until > ?", (time.time(),)).fetchone()[0]
    return {
        "wall_seconds": round(wall, 1),
        "online_for_superlink": online,
        "pulls": fleet.tally.pulls - counted[0],
        "heartbeats": fleet.tally.heartbeats - counted[1],
        "reports": len(reports.seconds) - counted[2],
        "errors": {**fleet.tally.errors, **reports.failures},
        "simulation_late": fleet.tally.late + reports.late,
        "superlink_percent_of_a_core": round(percent["superlink"], 2),
        "server_percent_of_a_core": round(percent["serve"], 2),
        "percent_of_a_core": round(sum(percent.values()), 2),
        "superlink_rss_mib": server.rss_bytes("superlink") >> 20,
        "server_rss_mib": server.rss_bytes("serve") >> 20,
    }


# Rounds


@dataclass
class Rounds:
    """One run of one loop.

    Attributes:
        round_seconds: of each round after the first.
        cpu_milliseconds: a node and round, of each of the server's processes.
        rss_mib: at most.
    """

    loop: str
    nodes: int
    round_seconds: list[float] = field(default_factory=list)
    superlink_cpu_milliseconds: float = 0.0
    server_app_cpu_milliseconds: float = 0.0
    superlink_rss_mib: int = 0
    server_app_rss_mib: int = 0
    simulation_late: int = 0
    errors: dict[str, int] = field(default_factory=dict)


def rounds(options: argparse.Namespace) -> dict[str, object]:
    """Measure rounds of all sizes, both loops in turn."""
    results: list[Rounds] = []
    with tempfile.TemporaryDirectory(prefix="fleven-fleet-app-") as name:
        folder = Path(name)
        subprocess.run(
            [Path(sys.executable).with_name("fleven"), "data", "synthesise", folder / "trips", "--cars", "1"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        apps = {"stock": ROOT / "benchmarks" / "stock_app", "fleven": our_app(folder / "ours")}
        for nodes in options.nodes:
            results += rounds_of(nodes, apps, folder, options)
    return {"rounds": [asdict(one) for one in results]}


def rounds_of(nodes: int, apps: dict[str, Path], folder: Path, options: argparse.Namespace) -> list[Rounds]:
    """Measure rounds of so many nodes."""
    results: list[Rounds] = []
    with running_server(None) as server:
        address = f"127.0.0.1:{server.fleet}"
        fleet = Fleet(
            [SimulatedNode(number, address) for number in range(nodes)],
            calm=False, floor_seconds=pull_floor_seconds(nodes), spread_seconds=nodes / 50,
        )  # fmt: skip
        with fleet:
            wait_until("all nodes are online", lambda: fleet.tally.pulls > 2 * nodes, server)
            for loop in options.loops * options.repeats:
                progress(f"{nodes} nodes, {loop}")
                results.append(one_run(server, fleet, loop, apps[loop], folder, options.rounds))
                print(json.dumps(asdict(results[-1])), file=sys.stderr, flush=True)
    return results


def our_app(folder: Path) -> Path:
    """Return the shipped app with the end of each round written down."""
    from round_overhead import assemble

    return assemble("default", folder)


def one_run(server: Server, fleet: Fleet, loop: str, app: Path, folder: Path, count: int) -> Rounds:
    """Carry out one run with these nodes."""
    nodes = len(fleet.nodes)
    run_folder = folder / f"run-{time.monotonic_ns()}"
    run_folder.mkdir()
    times = run_folder / TIMES
    config: dict[str, Any] = {"rounds": count, "min-nodes": nodes}
    if loop == "stock":
        network = build(parse({}))
        np.savez(run_folder / "weights.npz", *[value.numpy() for value in network.state_dict().values()])
        config |= {"times-path": str(times), "weights": str(run_folder / "weights.npz")}
        fleet.answering = stock_answer
    else:
        config |= {"metrics-base-path": str(run_folder), "results-base-path": str(run_folder / "results")}
        fleet.answering = OurAnswers(folder / "trips" / "client_0", config)
    late, measured = fleet.tally.late, Rounds(loop, nodes)
    run_id = submit(server, app, config)
    cpu: dict[int, tuple[float, float]] = {}
    seen = False
    limit = time.monotonic() + 60.0 + 30.0 * count + 0.5 * nodes * count
    while len(stamps := read_stamps(times)) <= count:
        look(server, measured)
        server_apps = server.server_apps()
        if len(stamps) - 1 not in cpu:
            cpu[len(stamps) - 1] = (server.cpu_seconds("superlink"), sum(map(cpu_seconds, server_apps)))
        seen |= bool(server_apps)
        if time.monotonic() > limit or (seen and not server_apps and len(read_stamps(times)) <= count):
            tails = [file.read_text(errors="replace")[-3000:] for file in server.folder.parent.glob("*.log")]
            raise SystemExit(f"run {run_id} does not come to an end: {stamps}, {fleet.tally}\n" + "\n".join(tails))
        time.sleep(SAMPLE_SECONDS)
    cpu[count] = (server.cpu_seconds("superlink"), sum(map(cpu_seconds, server.server_apps())))
    wait_until("the ServerApp has ended", lambda: not server.server_apps(), server)
    measured.round_seconds = [round(b["at"] - a["at"], 3) for a, b in itertools.pairwise(stamps)][1:]
    first = min(number for number in cpu if number >= 1)
    per = 1000.0 / ((count - first) * nodes)
    measured.superlink_cpu_milliseconds = round((cpu[count][0] - cpu[first][0]) * per, 2)
    measured.server_app_cpu_milliseconds = round((cpu[count][1] - cpu[first][1]) * per, 2)
    measured.simulation_late, measured.errors = fleet.tally.late - late, dict(fleet.tally.errors)
    return measured


def look(server: Server, measured: Rounds) -> None:
    """Note how much memory is used now."""
    measured.superlink_rss_mib = max(measured.superlink_rss_mib, server.rss_bytes("superlink") >> 20)
    for process in server.server_apps():
        with contextlib.suppress(psutil.Error):
            measured.server_app_rss_mib = max(measured.server_app_rss_mib, process.memory_info().rss >> 20)


def submit(server: Server, app: Path, config: dict[str, Any]) -> str:
    """Submit an app by Flower's own command; return the run's id."""
    home = server.folder.parent / "flwr"
    home.mkdir(exist_ok=True)
    lines = ["[superlink]", 'default = "fleet"', "[superlink.fleet]"]
    lines += [f'address = "127.0.0.1:{server.control}"', "insecure = true"]
    (home / "config.toml").write_text("\n".join(lines) + "\n")
    environment = server.environment | {
        "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
    }  # fmt: skip
    words = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
    command = ["flwr", "run", str(app), "fleet", "--format", "json", "--run-config", words]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        return str(json.loads(answer.stdout)["run-id"])
    except (ValueError, KeyError):
        raise SystemExit(f"flwr run said {answer.stdout!r} {answer.stderr!r}") from None


def read_stamps(path: Path) -> list[dict[str, float]]:
    """Return the complete lines of a file of times."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def progress(text: str) -> None:
    """Say what is being measured."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print, and say whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("idle", "rounds"))
    parser.add_argument("--nodes", type=int, nargs="+", help="cars (idle: 1000; rounds: 10, 100, 300, one by one)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the idle cars")
    parser.add_argument("--rounds", type=int, default=4, help="of a run, the first one left out")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each loop, in turn")
    parser.add_argument("--loops", nargs="+", choices=("stock", "fleven"), default=["stock", "fleven"])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    options.nodes = options.nodes or ([1000] if options.what == "idle" else [10, 100, 300])
    found = idle(options) if options.what == "idle" else rounds(options)
    content = {
        "benchmark": f"fleet_{options.what}",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        **found,
    }
    print(json.dumps(found, indent=1))
    if options.what == "rounds":
        for one in content["rounds"]:
            print(f"{one['nodes']:5d} {one['loop']:7} {statistics.median(one['round_seconds']):8.2f} s a round")
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return int(options.what == "idle" and float(str(found["percent_of_a_core"])) > IDLE_BUDGET_PERCENT)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # end what was started, also then
    sys.exit(main())
