"""What floods from people without rights cost the server: memory of its processes, and growth of its register.

Starts real servers on loopback ports: version 0.1.0 from this repository's history, this checkout as it is installed,
and this checkout with open doors (`insecure = true`), and sends to each the same floods. Nobody here has a key, a login
or a token, but for the one car of the last flood, which has an identity and tells too much.

    python benchmarks/hostile.py                  all floods, about eight minutes
    python benchmarks/hostile.py --json hostile.json --seconds 10

Each flood meets a server that was just started. Figures are the largest resident memory while the flood lasts less that
before it, and the growth of the register. It asks no other machine for anything.
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.message_pb2 import PushObjectRequest
from local_processes import free_port
from machine import describe

PROJECT = Path(__file__).resolve().parents[1]
PREVIOUS_RELEASE = "0.1.0"
PREVIOUS_COMMIT = "f791b9e~1"
"""The last one of 0.1.0 before work on the next release began."""
START_LIMIT_SECONDS = 90.0
SETTLED_SECONDS = 5.0
MESSAGE_BYTES = 300_000_000
READERS = 8
REPORTS = 100
"""In one batch, the most that the API takes."""
BATCHES = 14
FLEET = 400
"""Nodes that the pages and metrics of an open server tell of."""


@dataclass
class Server:
    """One server at work: SuperLink and service."""

    name: str
    folder: Path
    command: list[str]
    environment: dict[str, str]
    open_doors: bool
    fleet: int = field(default_factory=free_port)
    web: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def register(self) -> Path:
        """The folder of the register's files."""
        return self.folder / "state"

    def start(self) -> None:
        """Start both programs, and wait until both answer and have loaded all that they load by themselves."""
        self.folder.mkdir(parents=True)
        config = self.folder / "server.toml"
        first = "insecure = true\n" if self.open_doors and self.name != PREVIOUS_RELEASE else ""
        cell = 'server-app-cell = "off"\n' if self.name != PREVIOUS_RELEASE else ""
        config.write_text(
            f'{first}[superlink]\n{cell}fleet-address = "127.0.0.1:{self.fleet}"\n'
            f'control-address = "127.0.0.1:{free_port()}"\n'
            f'serverappio-address = "127.0.0.1:{free_port()}"\n[web]\naddress = "127.0.0.1:{self.web}"\n'
        )
        self.environment |= {"FLEVEN_SERVER_STATE_DIR": str(self.register), "FLEVEN_SERVER_CONFIG": str(config)}
        for program in ("superlink", "serve"):
            with (self.folder / f"{program}.log").open("wb") as log:
                self.processes[program] = subprocess.Popen(
                    [*self.command, program],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        deadline = time.monotonic() + START_LIMIT_SECONDS
        while not (self._listens(self.fleet) and self._listens(self.web)):
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                said = "".join(file.read_text()[-2_000:] for file in self.folder.glob("*.log"))
                raise SystemExit(f"{self.name}: {dead or 'it'} did not start:\n{said}")
            time.sleep(0.2)
        # The SuperLink's executor comes after its ports, and takes 100 MB: nobody's flood.
        resident, settled_at = 0, time.monotonic()
        while time.monotonic() < settled_at + SETTLED_SECONDS:
            now = sum(resident_bytes(process.pid) for process in self.processes.values())
            if abs(now - resident) > 1_000_000:
                resident, settled_at = now, time.monotonic()
            time.sleep(0.2)

    def _listens(self, port: int) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    def stop(self) -> None:
        """End both programs with all that they started."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(self, *arguments: str) -> str:
        """Run a command of `fleven-server`; return what it prints."""
        return subprocess.run(
            [*self.command, *arguments], env=self.environment, check=True, capture_output=True, text=True
        ).stdout

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, patience: float = 60
    ) -> tuple[int, bytes]:
        """Ask the web port; return status and content, or 0 when the connection ends."""
        if self.open_doors:
            connection = http.client.HTTPConnection("127.0.0.1", self.web, timeout=patience)
        else:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection("127.0.0.1", self.web, timeout=patience, context=context)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()


def resident_bytes(process_id: int) -> int:
    """Resident memory of a process with its children [bytes]."""
    root, total = psutil.Process(process_id), 0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


@contextlib.contextmanager
def memory_of(process_id: int) -> Iterator[list[float]]:
    """Watch the resident memory of a process with its children; the list holds its growth [MB] in the end."""
    ended, grown = threading.Event(), [0.0]
    before = resident_bytes(process_id)

    def watch() -> None:
        while not ended.wait(0.02):
            grown[0] = max(grown[0], (resident_bytes(process_id) - before) / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield grown
        time.sleep(0.5)
    finally:
        ended.set()
        watcher.join()


def register_megabytes(server: Server) -> float:
    """Size of the register [MB], wherever its pages are at the moment: in its file or in the journal before it."""
    uri = f"{(server.register / 'register.db').as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        (pages,), (page_bytes,) = (
            connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
        )
    return float(pages * page_bytes) / 1e6


# -- the floods


def huge_message(server: Server, _seconds: float) -> dict[str, object]:
    """Send one message of 300 MB to the Fleet API, without a key."""
    options = [("grpc.max_send_message_length", -1)]
    if server.open_doors:
        channel = grpc.insecure_channel(f"127.0.0.1:{server.fleet}", options)
    else:
        credentials = grpc.ssl_channel_credentials((server.register / "trust" / "ca.crt").read_bytes())
        channel = grpc.secure_channel(f"127.0.0.1:{server.fleet}", credentials, options)
    said = "taken"
    with memory_of(server.processes["superlink"].pid) as grown, channel:
        request = PushObjectRequest(object_id="0" * 64, object_content=bytes(MESSAGE_BYTES))
        try:
            FleetStub(channel).PushObject(request, timeout=120)
        except grpc.RpcError as error:
            said = error.code().name
    return {"memory_megabytes": grown[0], "answer": said}


def fat_reports(server: Server, _seconds: float) -> dict[str, object]:
    """Send batches that are small on the wire and large in the register, as a car that nobody knows."""
    return _tell_much(server, {}, "stranger")


def fat_reports_of_a_car(server: Server, _seconds: float) -> dict[str, object]:
    """Send the same as a car with an identity."""
    if server.open_doors:
        return {"answer": "nobody has an identity"}
    code = json.loads(server.run("nodes", "invite", "greedy", "--json"))["invitations"][0]["code"]
    encoded = code.partition(".")[2]
    _, fingerprint, invitation_id, secret = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    own_secret = base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
    status, content = server.request("POST", "/v1/enrol", join_body(own_secret, fingerprint, (invitation_id, secret)))
    if status != 200:
        return {"answer": f"{status} {content[:100]!r}"}
    car_id = json.loads(content)["car_id"]
    return _tell_much(server, {"Authorization": f"Bearer {car_id}.{own_secret}"}, "greedy")


def _tell_much(server: Server, headers: dict[str, str], name: str) -> dict[str, object]:
    before, sent = register_megabytes(server), 0
    statuses: list[int] = []
    with memory_of(server.processes["serve"].pid) as grown:
        for number in range(BATCHES):
            body = gzip.compress(fat_batch(name, number), 9)
            status, _ = server.request("POST", "/v1/reports", body, {**headers, "Content-Encoding": "gzip"})
            statuses.append(status)
            sent += len(body)
    return account(server, grown[0], before, sent, statuses)


def account(
    server: Server, memory_megabytes: float, register_before: float, sent: int, statuses: list[int]
) -> dict[str, object]:
    """Return what a flood of reports has cost.

    memory_megabytes: by which the service grew. register_before: its size before the flood [MB]. sent: bytes.
    """
    return {
        "memory_megabytes": memory_megabytes,
        "register_megabytes": register_megabytes(server) - register_before,
        "sent_megabytes": sent / 1e6,
        "answer": f"{statuses.count(200)} of {len(statuses)} taken",
    }


def many_strangers(server: Server, seconds: float) -> dict[str, object]:
    """Send reports of ever new cars, each as large as a hundred of them may be in one batch."""
    before, sent = register_megabytes(server), 0
    statuses: list[int] = []
    end = time.monotonic() + seconds
    with memory_of(server.processes["serve"].pid) as grown:
        while time.monotonic() < end:
            body = gzip.compress(batch_of_strangers(len(statuses)), 1)
            status, _ = server.request("POST", "/v1/reports", body, {"Content-Encoding": "gzip"})
            statuses.append(status)
            sent += len(body)
    return account(server, grown[0], before, sent, statuses)


def batch_of_strangers(number: int) -> bytes:
    """A report of each of a hundred cars that nobody has seen, 7 MB together."""
    now = datetime.now(UTC).isoformat()
    condition = {"severity": "warning", "since": now, "message": "m" * 3_500}
    reports = [
        {
            "sender_id": f"new-{number}-{position}",
            "sequence": 1,
            "created_at": now,
            "node": {"name": f"new-{number}-{position}", "partition_id": position},
            "state": "running",
            "conditions": [{**condition, "code": f"made-up-{code}"} for code in range(20)],
        }
        for position in range(REPORTS)
    ]
    return json.dumps({"reports": reports}).encode()


def fat_batch(name: str, number: int) -> bytes:
    """Reports with as much text as the schema takes in the 8 MB that a batch may have."""
    now = datetime.now(UTC).isoformat()
    tail = {"run_id": "1", "outcome": "failed", "log_tail": "x" * 19_500}
    reports = [
        {
            "sender_id": name,
            "sequence": number * REPORTS + position,
            "created_at": now,
            "node": {"name": name, "partition_id": 77},
            "state": "running",
            "finished_tasks": [{**tail, "round": task} for task in range(4)],
        }
        for position in range(REPORTS)
    ]
    return json.dumps({"reports": reports}).encode()


def join_body(secret: str, fingerprint: str, invitation: tuple[str, str] | None = None, name: str = "greedy") -> bytes:
    """Body of a request to join, with a new key."""
    from fleven_agent.protocol.identity import enrol_proof

    private = ec.generate_private_key(ec.SECP384R1())
    body = {
        "public_key": private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        "secret_sha256": hashlib.sha256(secret.encode()).hexdigest(),
        "invitation": None if invitation is None else {"id": invitation[0], "secret": invitation[1]},
        "name": name,
        "partition_id": None,
        "ca_fingerprint": fingerprint,
        "created_at": datetime.now(UTC).isoformat(),
        "boot_id": "boot",
        "agent_version": "0.2.0",
    }
    proof = base64.b64encode(private.sign(enrol_proof(body), ec.ECDSA(SHA256()))).decode()
    return json.dumps({**body, "proof": proof}).encode()


def joiners(server: Server, seconds: float) -> dict[str, object]:
    """Ask to join as ever new cars."""
    if server.name == PREVIOUS_RELEASE:
        return {"answer": "there is no joining"}
    status, content = server.request("GET", "/v1/trust")
    if status != 200:
        return {"answer": str(status)}
    der = ssl.PEM_cert_to_DER_cert(
        json.loads(content)["ca_certificates"].split("-----END")[0] + "-----END CERTIFICATE-----\n"
    )
    fingerprint = hashlib.sha256(der).hexdigest()
    before = register_megabytes(server)
    statuses: list[int] = []
    end = time.monotonic() + seconds
    with memory_of(server.processes["serve"].pid) as grown:
        while time.monotonic() < end:
            body = join_body("s" * 43, fingerprint, name=f"joiner-{len(statuses)}")
            statuses.append(server.request("POST", "/v1/enrol", body)[0])
    return {
        "memory_megabytes": grown[0],
        "register_megabytes": register_megabytes(server) - before,
        "answer": f"{statuses.count(200)} of {len(statuses)} wait",
    }


def metrics_readers(server: Server, seconds: float) -> dict[str, object]:
    """Read /metrics eight at a time; open servers have a fleet of simulated nodes to tell of."""
    if server.open_doors:
        for first in range(0, FLEET, REPORTS):
            fleet = [
                {
                    "sender_id": f"simulated-{number}",
                    "sequence": 1,
                    "created_at": datetime.now(UTC).isoformat(),
                    "node": {"name": f"simulated-{number}-{'n' * 200}", "partition_id": number + 1000},
                    "state": "running",
                    "conditions": [
                        {
                            "code": f"made-up-{code}-{'c' * 200}",
                            "severity": "warning",
                            "since": datetime.now(UTC).isoformat(),
                        }
                        for code in range(60)
                    ],
                }
                for number in range(first, first + REPORTS)
            ]
            server.request(
                "POST",
                "/v1/reports",
                gzip.compress(json.dumps({"reports": fleet}).encode()),
                {"Content-Encoding": "gzip"},
            )
    statuses: list[int] = []
    end = time.monotonic() + seconds

    def read() -> None:
        while time.monotonic() < end:
            statuses.append(server.request("GET", "/metrics")[0])

    with memory_of(server.processes["serve"].pid) as grown, concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        list(pool.map(lambda _: read(), range(READERS)))
    seen = ", ".join(f"{statuses.count(one)} x {one}" for one in sorted(set(statuses)))
    return {"memory_megabytes": grown[0], "answer": seen}


FLOODS: dict[str, Callable[[Server, float], dict[str, object]]] = {
    "a message of 300 MB to the Fleet API": huge_message,
    "eight readers of /metrics": metrics_readers,
    "fat reports of a stranger": fat_reports,
    "reports of ever new strangers": many_strangers,
    "cars that ask to join": joiners,
    "fat reports of one car": fat_reports_of_a_car,
}


def previous_release(commit: str, folder: Path) -> Path:
    """Unpack the commit that is measured as version 0.1.0."""
    archive = subprocess.run(["git", "-C", str(PROJECT), "archive", commit], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def servers(before_commit: str, folder: Path) -> list[Server]:
    """The three servers, none of them started."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    program = [str(Path(sys.executable).with_name("fleven-server"))]
    old = previous_release(before_commit, folder / "source")
    call = "import sys; sys.argv[0] = 'fleven-server'; from fleven.server.cli import main; sys.exit(main())"
    before = Server(
        PREVIOUS_RELEASE,
        folder / "before",
        [sys.executable, "-P", "-c", call],
        {**environment, "PYTHONPATH": str(old)},
        True,
    )
    opened = Server("open doors", folder / "open", program, dict(environment), True)
    return [before, opened, Server("as installed", folder / "installed", program, dict(environment), False)]


@contextlib.contextmanager
def fresh(server: Server) -> Iterator[None]:
    """Start a server with nothing of the flood before."""
    server.start()
    try:
        yield
    finally:
        server.stop()
        shutil.rmtree(server.folder)


def main() -> int:
    """Run the floods and print what they cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of a flood that has no end [s]")
    parser.add_argument("--only", action="append", help="name of a server, such as 'as installed'; more than once too")
    parser.add_argument("--before", default=PREVIOUS_COMMIT, help="commit that is measured as 0.1.0")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    arguments = parser.parse_args()
    results: dict[str, dict[str, dict[str, object]]] = {}
    with tempfile.TemporaryDirectory(prefix="fleven-hostile-") as temporary:
        for server in servers(arguments.before, Path(temporary)):
            if arguments.only and server.name not in arguments.only:
                continue
            print(f"\n{server.name}", flush=True)
            for name, flood in FLOODS.items():
                with fresh(server):
                    found = flood(server, arguments.seconds)
                results.setdefault(name, {})[server.name] = found
                memory, register = found.get("memory_megabytes"), found.get("register_megabytes")
                print(
                    f"  {name:<38} memory {'-' if memory is None else f'{memory:+.0f} MB':>9}"
                    f"  register {'-' if register is None else f'{register:+.1f} MB':>10}  {found['answer']}",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": describe(), "floods": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
