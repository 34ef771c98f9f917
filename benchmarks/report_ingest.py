"""What it costs the server to take the reports of a large fleet.

Starts a real `fleven-server serve` with an empty register on a free loopback port and lets SIMULATED nodes report to
it, each from a loopback address of its own, with reports like those of a Raspberry Pi: on a new connection each time
and without proof, as version 0.1.0 did; or, with --enrolled, as a server is installed: each node is enrolled, signs its
reports, and keeps one TLS connection. Measures the CPU time of the server process and, from the client's side, the time
from connecting to the last byte of the answer. Prints the figures beside the budgets of the design.

    python benchmarks/report_ingest.py                       1,000 nodes, every 15 s, for 5 minutes
    python benchmarks/report_ingest.py --minutes 1 --json report_ingest.json
    python benchmarks/report_ingest.py --enrolled
"""

import argparse
import asyncio
import contextlib
import gzip
import json
import os
import random
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from local_processes import free_port
from machine import describe

CPU_BUDGET_PERCENT = 25.0
LATENCY_BUDGET_MILLISECONDS = 50.0
START_LIMIT_SECONDS = 90.0
USUAL_INTERVAL_SECONDS = 15.0
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


def car_id(number: int) -> str:
    return f"{number:016x}"


def secret(number: int) -> str:
    return f"{number:043d}"


def enrol(register: Path, count: int, public_keys: Sequence[str] = ()) -> None:
    """Write enrolled cars into a new register, as if they had joined.

    public_keys: of their SuperNodes, as OpenSSH has them; without any, ones that Flower would not take.
    """
    from fleven.server.database import open_store
    from fleven.server.enrolment import store as enrolment_store
    from fleven.server.enrolment.model import Change, Identity, Key
    from fleven_agent.protocol.identity import IdentityStatus, secret_digest

    now = datetime.now(UTC)
    cars = tuple(
        Identity(
            car_id(number),
            IdentityStatus.ACCEPTED,
            f"simulated-{number:05d}",
            number,
            (
                Key(
                    public_keys[number] if public_keys else f"ecdsa-sha2-nistp384 simulated-{number}",
                    secret_digest(secret(number)),
                ),
            ),
            *(now, now, now),
        )
        for number in range(count)
    )
    store = open_store(register)
    with store.write() as connection:
        enrolment_store.write(connection, Change(identities=cars), now)
    store.close()


@contextlib.contextmanager
def running_server(folder: Path, enrolled: int) -> Iterator[tuple[psutil.Process, int]]:
    """A real server on a free port, with so many enrolled cars or open to everybody; ended by its process id."""
    port = free_port()
    config = folder / "server.toml"
    if enrolled:
        enrol(folder / "state" / "register.db", enrolled)
    config.write_text(
        f"insecure = {'false' if enrolled else 'true'}\n"
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
        while not answers(port, enrolled > 0):
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


def answers(port: int, tls: bool) -> bool:
    scheme, trust = ("https", tls_context()) if tls else ("http", None)
    try:
        with urllib.request.urlopen(f"{scheme}://127.0.0.1:{port}/healthz", timeout=1, context=trust) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return True  # it is well or not: it answers
    except OSError:
        return False


def tls_context() -> ssl.SSLContext:
    """Whom a client believes does not change what the server does: nobody is checked."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def simulated_report(number: int, sequence: int, chance: random.Random, interval_seconds: float) -> bytes:
    """The body of one report of a simulated node: what an idle Raspberry Pi with a warning would send, gzip-packed."""
    now = datetime.now(UTC)
    since = (now - timedelta(hours=3)).isoformat()
    # As version 0.1.0 and a car in a run do, a node that reports every 15 s says nothing of its pace.
    stretched = {"next_report_seconds": interval_seconds} if interval_seconds > USUAL_INTERVAL_SECONDS else {}
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
    } | stretched
    return gzip.compress(json.dumps({"reports": [report]}, separators=(",", ":")).encode(), 6)


def source_of(number: int) -> tuple[str, int]:
    """127.0.0.0/8 is all loopback: each simulated node has its own address, as each car has in the VPN."""
    return f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}", 0


class Kept:
    """The one connection of an enrolled car."""

    def __init__(self, port: int, number: int, trust: ssl.SSLContext) -> None:
        self.port, self.number, self.trust = port, number, trust
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, body: bytes) -> int:
        """Send one body, and return the answer's status."""
        if self.streams is None:
            source = source_of(self.number)
            self.streams = await asyncio.open_connection("127.0.0.1", self.port, local_addr=source, ssl=self.trust)
        reader, writer = self.streams
        head = (
            f"POST /v1/reports HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {car_id(self.number)}.{secret(self.number)}\r\n"
            f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            writer.write(head.encode() + body)
            said = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in said.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            answer = await reader.readexactly(int(length.partition(b":")[2]))
        except BaseException:
            writer.close()
            self.streams = None
            raise
        return int(said.split(b" ", 2)[1]) if b'"acknowledged":{"simulated' in answer else -1


async def exchange(port: int, number: int, body: bytes) -> int:
    """Send one body on a connection of its own, and return the answer's status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=source_of(number))
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


async def simulate(
    port: int,
    number: int,
    begin: float,
    end: float,
    interval_seconds: float,
    tally: Tally,
    trust: ssl.SSLContext | None,
) -> None:
    """One simulated node: reports at its own moments until `end`; enrolled when it has whom to trust."""
    kept = Kept(port, number, trust) if trust is not None else None
    chance = random.Random(number)
    sequence = 0
    due = begin + chance.uniform(0, interval_seconds)
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        body = simulated_report(number, sequence, chance, interval_seconds)
        if time.monotonic() - due > 1:
            tally.late += 1
        started = time.perf_counter()
        try:
            sent = kept.exchange(body) if kept is not None else exchange(port, number, body)
            status = await asyncio.wait_for(sent, 15)
        except (OSError, TimeoutError, ValueError, EOFError) as error:
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
    tally, trust = Tally(), tls_context() if options.enrolled else None
    nodes = [
        asyncio.create_task(simulate(port, number, begin, end, options.interval_seconds, tally, trust))
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
        "enrolled": options.enrolled,
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
    parser.add_argument("--interval-seconds", type=float, default=USUAL_INTERVAL_SECONDS)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--enrolled", action="store_true", help="as installed: enrolled nodes, over TLS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, as JSON")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="fleven-ingest-") as folder,
        running_server(Path(folder), options.nodes if options.enrolled else 0) as (process, port),
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
