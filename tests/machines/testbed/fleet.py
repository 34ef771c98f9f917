"""A FLEVEn fleet on the test bed: a server and vehicles, used as the README tells a person to.

Talks to the packages from outside only: apt, systemctl, and the commands with --json. Imports nothing of fleven.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .bed import Bed
from .machine import Machine, Result
from .shell import run, wait_for

POLL_SECONDS = 1.0
LOOK_SECONDS = 20.0
"""A page that somebody looks at is fetched again well within the time for which a look counts."""
NEWER = "newer-node.deb"
NEWER_SERVER = "newer-server.deb"
AUTHORITY = "/var/lib/fleven-server/trust/ca.crt"
HTTP_ERROR = 22
"""Of curl: the server has answered with a refusal."""
TRIPS = "--cars 3 --trips 2 --minutes 5 --seed 1"  # small, so that a round takes seconds


def together(*jobs: Callable[[], Any]) -> list[Any]:
    """Do all at once; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def newer_version(old: Path, new: Path) -> None:
    """Write a package under a higher version number, otherwise the same."""
    with tempfile.TemporaryDirectory(dir=new.parent) as tree:
        run("dpkg-deb", "-R", str(old), tree)
        control = Path(tree) / "DEBIAN/control"
        control.write_text(re.sub(r"^Version: .*", "Version: 99.0", control.read_text(), flags=re.MULTILINE))
        run("dpkg-deb", "-Zzstd", "-z1", "--root-owner-group", "-b", tree, str(new))


def install(machine: Machine, package: str) -> str:
    """`apt install ./PACKAGE`; returns what it printed."""
    return machine.run("apt-get", "install", "-y", "-o", "Dpkg::Use-Pty=0", f"./mnt/{package}", timeout_seconds=900)


@dataclass(frozen=True)
class NodeState:
    """What the server says of a node.

    Attributes:
        health: "ready" when it counts on the node for a run.
        seen_at: when it heard from it last; None: never.
        task_since: when the task began that it works on; None: on none.
    """

    health: str
    seen_at: datetime | None
    task_since: datetime | None

    @classmethod
    def of(cls, node: dict[str, Any]) -> NodeState:
        """Read a node of the answer to /v1/nodes."""
        task = (node["current_run"] or {}).get("since")
        return cls(
            node["health"],
            datetime.fromisoformat(node["last_seen_at"]) if node["last_seen_at"] else None,
            datetime.fromisoformat(task) if task else None,
        )

    def ready_since(self, moment: datetime) -> bool:
        """Tell whether the node is ready or at work by what was heard, and begun, since a moment."""
        if self.seen_at is None or self.seen_at < moment:
            return False
        at_work = self.health == "busy" and self.task_since is not None and self.task_since >= moment
        return self.health == "ready" or at_work


@dataclass
class Fleet:
    """One server and its vehicles; the packages are in `debs`, which every machine sees as /mnt/<name>."""

    bed: Bed
    debs: Path
    server: Machine
    nodes: list[Machine]
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each step took, in order."""
    _token: str = ""
    _secure: bool = False
    """The server has answered over TLS: it is not asked without again."""

    @classmethod
    def on(
        cls, bed: Bed, debs: Path, count: int = 3, layers: dict[str, Path] | None = None, *, disk_megabytes: int = 0
    ) -> Fleet:
        """Make the machines; they are off. With ``disk_megabytes`` the first node has a disk of its own."""
        layer = layers or {}
        server = bed.add("server", bind=[debs], layers=[layer["server"]] if layer else [])
        nodes = [
            bed.add(
                f"n{number + 1}",
                bind=[debs],
                layers=[layer["node"]] if layer else [],
                disk_megabytes=0 if number else disk_megabytes,
            )
            for number in range(count)
        ]
        return cls(bed, debs, server, nodes)

    def package(self, role: str) -> str:
        """Path of a package below /mnt."""
        found = sorted(self.debs.glob(f"fleven-{role}_*_{self.bed.architecture}.deb"))
        return f"{self.debs.name}/{found[-1].name}"

    def step(self, name: str, job: Callable[[], Any]) -> Any:
        """Do a step of the README and note how long it took."""
        begin = time.monotonic()
        answer = job()
        self.seconds[name] = round(time.monotonic() - begin, 1)
        return answer

    def boot(self) -> None:
        self.step("boot the machines", lambda: self.bed.start(self.server, *self.nodes))

    def install(self) -> None:
        jobs = [lambda: install(self.server, self.package("server"))]
        jobs += [lambda node=node: install(node, self.package("node")) for node in self.nodes]
        self.step("apt install on all", lambda: together(*jobs))

    def configure(self, node: Machine, partition: int, *lines: str, superlink: str = "") -> None:
        """The two lines that a node needs, and more if given."""
        needed = [f"partition-id = {partition}", f'superlink = "{superlink or self.server.address + ":9092"}"']
        node.write("/etc/fleven/node.toml", "\n".join([*needed, *lines]) + "\n")

    def give_trips(self, node: Machine, partition: int) -> None:
        """Put one car's synthetic trips where the README says."""
        node.shell(
            f"fleven data synthesise /tmp/trips {TRIPS} >/dev/null && "
            f"cp -r /tmp/trips/client_{partition} /var/lib/fleven/data/ && rm -r /tmp/trips"
        )

    def start_agents(self) -> None:
        for partition, node in enumerate(self.nodes):
            self.configure(node, partition)

        def start(partition: int, node: Machine) -> None:
            self.give_trips(node, partition)
            node.run("systemctl", "start", "fleven-agent")

        jobs = [lambda p=p, n=n: start(p, n) for p, n in enumerate(self.nodes)]
        self.step("trips, systemctl start fleven-agent", lambda: together(*jobs))
        if self.server.try_run("test", "-e", AUTHORITY).exit_code == 0:
            self.step("accept the nodes", self.accept)

    def accept(self) -> None:
        """Let all nodes in; each asks by itself."""

        def waiting() -> int:
            asked = self.server.try_run("fleven-server", "nodes", "pending", "--json")
            return len(json.loads(asked.output)["pending"]) if asked.exit_code == 0 else 0

        wait_for("all nodes ask to join", lambda: waiting() == len(self.nodes), 120, POLL_SECONDS)
        self.server.run("fleven-server", "nodes", "accept", "--all-pending")

    # ---------------------------------------------------------------- asking

    def ask(self, machine: Machine, *command: str) -> Any:
        """Answer of a command with --json."""
        return json.loads(machine.run(*command, "--json"))

    def fetch(self, path: str, *options: str, timeout_seconds: float = 10) -> Result:
        """Ask the server's web port with curl, as a program with a token does; options are curl's.

        For questions asked again and again: a command costs the server a second of processor time, which the fleet
        then lacks.
        """
        quiet = ("curl", "-fsS", "--max-time", f"{timeout_seconds:g}", *options)
        if not self._secure:
            # A server of 0.1, and one that is open, answers without TLS and to anybody.
            result = self.server.try_run(*quiet, f"http://127.0.0.1:9190{path}")
            if result.exit_code == 0 or self.server.try_run("test", "-e", AUTHORITY).exit_code:
                return result
        for _ in range(2):
            header = f"Authorization: Bearer {self.token()}"
            result = self.server.try_run(
                *quiet, "--cacert", AUTHORITY, "--header", header, f"https://127.0.0.1:9190{path}"
            )
            self._secure = self._secure or result.exit_code == 0
            if result.exit_code != HTTP_ERROR or " 401" not in result.errors:
                break
            self._token = ""  # a register that was put back from its backup does not know it
        return result

    def get(self, path: str) -> dict[str, Any]:
        """What the server's API answers; empty while it does not."""
        result = self.fetch(f"/v1/{path}")
        return dict(json.loads(result.output)) if result.exit_code == 0 else {}

    def token(self) -> str:
        """A token with which these questions are asked; made at the first, and empty while none can be made."""
        if not self._token:
            name = f"testbed-{uuid.uuid4().hex[:8]}"
            made = self.server.try_run("fleven-server", "users", "token", "add", name, "--role", "viewer")
            self._token = made.output.strip() if made.exit_code == 0 else ""
        return self._token

    def now(self) -> datetime:
        """Return the time by the machines' clocks, which are this host's."""
        return datetime.now(UTC)

    def node_states(self) -> dict[str, NodeState]:
        """How the server judges each node, and since when; empty while it does not answer."""
        return {node["name"]: NodeState.of(node) for node in self.get("nodes").get("nodes", [])}

    def look(self, *names: str) -> None:
        """Open the pages of nodes, as a person who wants to know how they are: then they report at once, and often."""
        for name in names:
            self.fetch(f"/nodes/{name}", "-o", "/dev/null")

    def wait_condition(self, code: str, timeout_seconds: float = 120) -> None:
        """Wait until the server says something of any node."""

        def said() -> bool:
            nodes = self.get("nodes").get("nodes", [])
            return any(condition["code"] == code for node in nodes for condition in node["conditions"])

        wait_for(f"the server says {code}", said, timeout_seconds, POLL_SECONDS)

    def wait_ready(self, *names: str, timeout_seconds: float = 180) -> None:
        """Wait until the server counts the nodes (all, or the named ones) as ready.

        Only what it has heard since the call counts: for a while it still believes in a node that has just died. One
        that works on a task counts when it has begun it since the call: an older one may hang.
        """
        wanted = set(names) or {node.name for node in self.nodes}
        called_at = self.now()
        looked_at = float("-inf")

        def ready() -> bool:
            nonlocal looked_at
            if time.monotonic() - looked_at > LOOK_SECONDS:
                looked_at = time.monotonic()
                self.look(*sorted(wanted))
            states = self.node_states()
            return all(name in states and states[name].ready_since(called_at) for name in wanted)

        try:
            wait_for(f"{sorted(wanted)} ready", ready, timeout_seconds, POLL_SECONDS)
        except TimeoutError as error:
            states = [f"{name} {state.health}, heard at {state.seen_at}" for name, state in self.node_states().items()]
            raise TimeoutError(f"{error}; at {called_at} and after: {'; '.join(states)}") from None

    def agent_state(self, node: Machine) -> str:
        """State of a node's agent by its own word, or "" while it does not answer."""
        result = node.try_run("fleven-agent", "status", "--json")
        if result.exit_code:
            return ""
        return str(json.loads(result.output).get("state", ""))

    def run_now(self, *options: str) -> Result:
        """`fleven-server schedule run`, followed to the end."""
        return self.server.try_run("fleven-server", "schedule", "run", *options, timeout_seconds=900)

    def submit(self, *options: str) -> int:
        """Start a run and do not follow it; returns its number."""
        answer = json.loads(self.server.run("fleven-server", "schedule", "run", "--no-follow", "--json", *options))
        return int(answer["id"])

    def run_json(self, run: int) -> dict[str, Any]:
        """What the server knows of a run; empty while the server does not answer."""
        return self.get(f"runs/{run}")

    def wait_round(self, run: int, number: int, timeout_seconds: float = 300) -> None:
        """Wait until a run has begun a round."""

        def begun() -> bool:
            state = self.run_json(run)
            if state.get("state") in {"failed", "timed-out", "cancelled", "skipped"}:
                raise AssertionError(f"run {run} ended before round {number}: {state}")
            return int((state.get("progress") or {}).get("round") or 0) >= number

        wait_for(f"round {number} of run {run}", begun, timeout_seconds, POLL_SECONDS)

    def wait_end(self, run: int, timeout_seconds: float = 900) -> str:
        """Wait until a run has ended; returns its state."""
        ended = {"succeeded", "failed", "timed-out", "cancelled", "skipped"}
        return wait_for(
            f"end of run {run}",
            lambda: state if (state := str(self.run_json(run).get("state"))) in ended else None,
            timeout_seconds,
            POLL_SECONDS,
        )
