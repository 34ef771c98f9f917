"""What it costs the server to take the reports of a large fleet.

Starts a real `fleven-server serve` with an empty register on a free loopback port and lets SIMULATED nodes report to
it, each from a loopback address of its own, on a new connection each time as the agent does, with reports like those of
a Raspberry Pi. Measures the CPU time of the server process and, from the client's side, the time from connecting to the
last byte of the answer. Prints the figures beside the budgets of the design.

    python benchmarks/report_ingest.py                       1,000 nodes, every 15 s, for 5 minutes
    python benchmarks/report_ingest.py --minutes 1 --json report_ingest.json
"""

import argparse
import asyncio
import contextlib
import gzip
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from machine import describe

CPU_BUDGET_PERCENT = 25.0
LATENCY_BUDGET_MILLISECONDS = 50.0
START_LIMIT_SECONDS = 30.0
WARM_UP_SECONDS = 20.0
"""All nodes register in this time; it is not measured: a fleet registers once."""


@dataclass
class Tally:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    late: int = 0
    """Reports that began more than a second after their time: the simulation itself could not keep up."""

    def fail(self, kind: str) -> None:
        self.failures[kind] = self.failures.get(kind, 0) + 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[tuple[psutil.Process, int]]:
    """A real server on a free port; ended by its process id."""
    port = free_port()
    config = folder / "server.toml"
    config.write_text(
        "insecure = true\n"
        f'[web]\naddress = "127.0.0.1:{port}"\n\n[superlink]\ncontrol-address = "127.0.0.1:{free_port()}"\n'
    )
    environment = os.environ | {
        "FLEVEN_SERVER_STATE_DIR": str(folder / "state"),
    }
    program = [str(Path(sys.executable).with_name("fleven-server"))]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([*program, "serve", "--config", str(config)], env=environment, stderr=log)
    try:
        deadline = time.monotonic() + START_LIMIT_SECONDS
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{(folder / 'server.log').read_text()}")
            time.sleep(0.1)
        yield psutil.Process(process.pid), port
        for line in (folder / "server.log").read_text().splitlines()[-20:]:
            if "WARNING" in line or "ERROR" in line:
                print(f"server: {line}", file=sys.stderr)
        if process.poll() is not None:
            raise SystemExit(f"the server ended by itself:\n{(folder / 'server.log').read_text()[-4000:]}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/nodes", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def simulated_report(number: int, sequence: int, chance: random.Random) -> bytes:
    """The body of one report of a simulated node: what an idle Raspberry Pi with a warning would send, gzip-packed."""
    now = datetime.now(UTC)
    since = (now - timedelta(hours=3)).isoformat()
    report = {
        "schema_version": 1,
        "sender_id": f"simulated-{number:05d}",
        "sequence": sequence,
        "boot_id": f"boot-{number}",
        "sent_at": now.isoformat(),
        "created_at": now.isoformat(),
        "reason": "interval",
        "node": {
            "name": f"simulated-{number:05d}",
            "partition_id": number,
            "num_partitions": 1000,
            "node_id": str(10_000_000_000_000_000_000 + number),
            "previous_node_ids": [str(9_000_000_000_000_000_000 + number)],
            "flower_address": "100.64.0.1:9092",
        },
        "versions": {
            "agent": "0.1.0",
            "flwr": "1.34.0",
            "python": "3.11.2",
            "os": "Debian GNU/Linux 12 (bookworm)",
            "kernel": "6.12.25+rpt-rpi-v8",
        },
        "board_model": "Raspberry Pi 4 Model B Rev 1.4",
        "state": "running",
        "state_since": since,
        "state_reason": "the SuperLink has accepted the node",
        "conditions": [
            {
                "code": "temperature-high",
                "severity": "warning",
                "since": since,
                "message": "the processor is at 81.2 °C (limit 80 °C)",
                "hint": "give the case air",
            }
        ]
        if number % 10 == 0
        else [],
        "counters": {"restarts": 1, "tasks": sequence, "task_failures": 0, "reports_lost": 0},
        "resources": {
            "cpu_count": 4,
            "cpu_percent": chance.uniform(1, 60),
            "load_1m": chance.uniform(0, 3),
            "load_5m": chance.uniform(0, 3),
            "load_15m": chance.uniform(0, 3),
            "memory_total_bytes": 3_978_678_272,
            "memory_available_bytes": chance.randrange(1_000_000_000, 3_000_000_000),
            "swap_total_bytes": 104_853_504,
            "swap_used_bytes": 0,
            "pressure": {"cpu_percent": 0.4, "memory_percent": 0.0, "io_percent": 0.1},
            "disks": [
                {"path": "/var/lib/fleven", "total_bytes": 31_000_000_000, "free_bytes": 21_000_000_000},
                {"path": "/srv/trips", "total_bytes": 31_000_000_000, "free_bytes": 21_000_000_000},
            ],
            "temperature_celsius": chance.uniform(45, 82),
            "throttling": {"undervoltage": False, "throttled": False},
            "network": {"received_bytes": 1000 * sequence, "sent_bytes": 3000 * sequence},
            "clock_synchronised": True,
            "clock_offset_seconds": 0.012,
            "uptime_seconds": 86_400.0 + 15 * sequence,
            "supernode": {"processes": 2, "rss_bytes": 283_000_000, "cpu_seconds": 91.2, "cpu_percent": 1.5},
            "agent": {"rss_bytes": 29_000_000, "cpu_seconds": 12.1, "threads": 4, "file_descriptors": 14},
        },
        "data": {"trips": 112, "rows": 402_113, "newest_trip_at": since, "quarantined": 1, "path": "/srv/trips"},
        "drained": {"active": False, "reason": ""},
    }
    return gzip.compress(json.dumps({"reports": [report]}, separators=(",", ":")).encode(), 6)


async def exchange(port: int, number: int, body: bytes) -> int:
    """Send one body on a connection of its own, and return the answer's status."""
    # 127.0.0.0/8 is all loopback: each simulated node has its own address, as each car has in the VPN.
    source = f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        head = (
            f"POST /v1/reports HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.read()
        if b'"acknowledged":{"simulated' not in answer:
            return -1
        return int(answer.split(b" ", 2)[1])
    finally:
        writer.close()


async def simulate(port: int, number: int, begin: float, end: float, interval_seconds: float, tally: Tally) -> None:
    """One simulated node: reports at its own moments until `end`."""
    chance = random.Random(number)
    sequence = 0
    due = begin + chance.uniform(0, interval_seconds)
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        body = simulated_report(number, sequence, chance)
        if time.monotonic() - due > 1:
            tally.late += 1
        started = time.perf_counter()
        try:
            status = await asyncio.wait_for(exchange(port, number, body), 15)
        except (OSError, TimeoutError, ValueError) as error:
            tally.fail(type(error).__name__)
        else:
            if status == 200:
                tally.seconds.append(time.perf_counter() - started)
            else:
                tally.fail(f"status {status}")
        sequence += 1
        # Jittered by a tenth, as the agent's are.
        due += interval_seconds * chance.uniform(0.9, 1.1)


async def measure(port: int, process: psutil.Process, options: argparse.Namespace) -> dict[str, object]:
    """Let the fleet report, and measure after the warm-up."""
    begin = time.monotonic()
    end = begin + WARM_UP_SECONDS + options.minutes * 60
    tally = Tally()
    nodes = [
        asyncio.create_task(simulate(port, number, begin, end, options.interval_seconds, tally))
        for number in range(options.nodes)
    ]
    await asyncio.sleep(WARM_UP_SECONDS)
    warm_up = len(tally.seconds)
    before, started = process.cpu_times(), time.monotonic()
    waiting = asyncio.gather(*nodes)
    while not waiting.done():
        await asyncio.wait([waiting], timeout=30)
        done = len(tally.seconds) - warm_up
        print(f"{time.monotonic() - started:5.0f} s: {done} reports answered", file=sys.stderr)
    wall_seconds = time.monotonic() - started
    after = process.cpu_times()
    seconds = sorted(tally.seconds[warm_up:])
    cpu_seconds = (after.user + after.system) - (before.user + before.system)
    quantiles = statistics.quantiles(seconds, n=1000)
    return {
        "simulated_nodes": options.nodes,
        "interval_seconds": options.interval_seconds,
        "wall_seconds": round(wall_seconds, 1),
        "reports": len(seconds),
        "reports_per_second": round(len(seconds) / wall_seconds, 1),
        "failures": tally.failures,
        "simulation_late": tally.late,
        "cpu_percent_of_one_core": round(100 * cpu_seconds / wall_seconds, 2),
        "cpu_milliseconds_per_report": round(1000 * cpu_seconds / len(seconds), 3),
        "p50_milliseconds": round(1000 * quantiles[499], 2),
        "p99_milliseconds": round(1000 * quantiles[989], 2),
        "maximum_milliseconds": round(1000 * seconds[-1], 2),
        "server_rss_bytes": process.memory_info().rss,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000, help="simulated nodes")
    parser.add_argument("--interval-seconds", type=float, default=15.0)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, as JSON")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="fleven-ingest-") as folder,
        running_server(Path(folder)) as (process, port),
    ):
        found = asyncio.run(measure(port, process, options))
        found["register_bytes"] = (Path(folder) / "state" / "register.db").stat().st_size
    budgets = {"cpu_percent_of_one_core": CPU_BUDGET_PERCENT, "p99_milliseconds": LATENCY_BUDGET_MILLISECONDS}
    for name, value in found.items():
        print(f"{name:28} {value}" + (f" (budget {budgets[name]})" if name in budgets else ""))
    if options.json:
        content = {"machine": describe(), **found, "budgets": budgets}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    within = (
        not found["failures"]
        and float(str(found["cpu_percent_of_one_core"])) <= CPU_BUDGET_PERCENT
        and float(str(found["p99_milliseconds"])) <= LATENCY_BUDGET_MILLISECONDS
    )
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(main())
