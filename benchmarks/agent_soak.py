"""A long time of faults: two agents under real Flower, a fault drawn every so often, a run always in progress.

    benchmarks/agent_soak.py [--minutes 60] [--every-seconds 20] [--seed 1] [--json]

The faults: SIGKILL of SuperNode, of its executor, of a ClientApp, of an agent (started again at once, as systemd does);
SIGSTOP of SuperNode; the SuperLink killed and started again with its database; the report server away for a while.
Car 0 suffers all of them. Car 1 suffers all but the kill of its agent, so that this one process lives through the whole
soak: its memory, descriptors, threads and the number of stray processes are sampled before each fault.

At the end: both must be healthy (running, no error condition, a round done together) within 30 s of the last fault;
the run must end well; the last quarter of car 1's samples must not exceed the first quarter's by more than 10 % of
memory or by any descriptor, thread or process; every report must have arrived once and in order. Ends with 1 otherwise.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from agent_harness import Agent, ReportServer, TimedOutError, report_server, wait_for
from tiny_federation import Federation, Run, free_port

from fleven_agent.system import procfs

HEALTHY_SECONDS = 30.0
MEMORY_GROWTH = 1.10


class Soak:
    """The federation under test.

    Args:
        folder: for all files.
        server: takes the reports.
        chance: draws faults.
    """

    def __init__(self, folder: Path, server: ReportServer, chance: random.Random) -> None:
        self.server, self.chance = server, chance
        self.federation = Federation(folder / "server").start()
        self.agents = [
            Agent(
                folder / f"car-{partition}",
                f'partition-id = {partition}\nsuperlink = "127.0.0.1:{self.federation.fleet_port}"\n'
                f'clientapp-address = "127.0.0.1:{free_port()}"\nreport-url = "{server.url}"\ninsecure = true\n'
                "[health]\nsuperlink-probe-seconds = 5.0\n"
                "[gates]\nmemory-minimum-megabytes = 0\ndisk-minimum-megabytes = 0\n",
            ).start()
            for partition in range(2)
        ]
        for agent in self.agents:
            agent.wait_state("running", seconds=120)
        self.run = self.new_run()
        self.faults: Counter[str] = Counter()
        self.repairs: dict[str, list[float]] = {}
        self.samples: list[dict[str, int]] = []
        self.server_back_at: float | None = None

    def new_run(self) -> Run:
        """Submit a run and wait for its first round."""
        run = self.federation.run()
        run.wait_rounds(1, 180, [agent.journal for agent in self.agents])
        return run

    def kinds(self) -> dict[str, Callable[[Agent], None]]:
        """Return the faults by name."""
        return {
            "kill-supernode": lambda agent: os.kill(agent.supernode(), signal.SIGKILL),
            "kill-executor": lambda agent: _kill(agent.children("flower-superexec")),
            "kill-clientapp": self._kill_clientapp,
            "kill-agent": self._kill_agent,
            "stop-supernode": lambda agent: os.kill(agent.supernode(), signal.SIGSTOP),
            "restart-superlink": lambda _agent: self._restart_superlink(),
            "report-server-away": lambda _agent: self._server_away(),
        }

    def fault(self) -> str:
        """Bring about one fault; return its name."""
        name = self.chance.choice(sorted(self.kinds()))
        agent = self.agents[0] if name == "kill-agent" else self.chance.choice(self.agents)
        self.faults[name] += 1
        try:
            self.kinds()[name](agent)
        except ProcessLookupError:
            self.faults[f"{name} (was gone already)"] += 1
        return name

    def _kill_clientapp(self, agent: Agent) -> None:
        file = self.run.folder / f"pid-{self.agents.index(agent)}"
        os.kill(int(file.read_text(encoding="ascii")), signal.SIGKILL)

    def _kill_agent(self, agent: Agent) -> None:
        agent.kill()
        agent.start()

    def _restart_superlink(self) -> None:
        self.federation.kill()
        time.sleep(1)
        self.federation.start()
        self.run = self.federation.run()  # the ServerApp of the one before is gone

    def _server_away(self) -> None:
        if self.server_back_at is None:
            self.server.stop()
            self.server_back_at = time.monotonic() + 30

    def tick(self) -> None:
        """Bring the report server back when it is time."""
        if self.server_back_at is not None and time.monotonic() >= self.server_back_at:
            self.server.start()
            self.server_back_at = None

    def sample(self) -> None:
        """Note what the agent that is never killed holds."""
        agent = self.agents[1]
        status = agent.status()
        if status is None:
            return
        use = status["resources"]["agent"]
        self.samples.append(
            {
                "rss_bytes": use["rss_bytes"],
                "file_descriptors": use["file_descriptors"],
                "threads": use["threads"],
                "stray_processes": self._strays(agent, status),
            }
        )

    @staticmethod
    def _strays(agent: Agent, status: dict[str, Any]) -> int:
        """Count processes of the agent's that neither its SuperNode nor its warm process accounts for."""
        roots = [pid for pid in (status["supernode_pid"], (status["warm"] or {}).get("process_id")) if pid]
        known = {*roots, *(pid for root in roots for pid in procfs.descendants(root))}
        # What starts or ends between the two looks is none: a stray is still there a second later.
        strays = {one.pid for one in agent.marked()} - known
        time.sleep(1)
        return len(strays & {one.pid for one in agent.marked()})

    def healthy(self) -> bool:
        """Whether all agents run without an error condition."""
        for agent in self.agents:
            status = agent.status()
            if status is None or status["state"] != "running":
                return False
            if any(
                one["severity"] == "error" and one["code"] != "supernode-crash-loop" for one in status["conditions"]
            ):
                return False
        return True

    def close(self) -> None:
        """End everything."""
        for agent in self.agents:
            agent.clean_up()
        self.federation.kill()


def _kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def soak(folder: Path, minutes: float, every_seconds: float, seed: int) -> dict[str, Any]:
    """Run the soak; return its figures and the names of the demands it missed."""
    with report_server() as server:
        world = Soak(folder, server, random.Random(seed))
        try:
            until = time.monotonic() + minutes * 60
            while time.monotonic() < until:
                world.sample()
                name = world.fault()
                began, back = time.monotonic(), None
                while time.monotonic() < began + every_seconds:
                    time.sleep(0.5)
                    world.tick()
                    if back is None and time.monotonic() - began > 2 and world.healthy():
                        back = time.monotonic() - began
                world.repairs.setdefault(name, []).append(back if back is not None else float("inf"))
                print(f"{name:20} healthy after {back or float('inf'):5.1f} s", file=sys.stderr)
            if world.server_back_at is not None:
                server.start()
            return _judge(world)
        finally:
            world.close()


def _judge(world: Soak) -> dict[str, Any]:
    missed: list[str] = []
    began = time.monotonic()
    try:
        wait_for("health", world.healthy, HEALTHY_SECONDS)
        recovery = time.monotonic() - began
    except TimedOutError:
        recovery = float("inf")
        missed.append("healthy within 30 s")
    try:
        world.run.wait_rounds(1, 120)
        if world.run.end(120) != "finished:completed":
            missed.append("the run ends well")
    except TimedOutError as error:
        missed.append(f"the run ends well ({str(error).splitlines()[0]})")
    time.sleep(15)  # the settled state, after the last repair
    world.sample()
    quarter = max(1, len(world.samples) // 4)
    growth: dict[str, tuple[float, float]] = {}
    for name in world.samples[0]:
        first = statistics.median(one[name] for one in world.samples[:quarter])
        last = statistics.median(one[name] for one in world.samples[-quarter:])
        growth[name] = (first, last)
        if last > first * (MEMORY_GROWTH if name == "rss_bytes" else 1):
            missed.append(f"no growth of {name}")
    for sender in {one["sender_id"] for one in world.server.reports}:
        sequences = [one["sequence"] for one in world.server.reports if one["sender_id"] == sender]
        if sequences != sorted(set(sequences)):
            missed.append("reports once and in order")
    if world.server.invalid:
        missed.append("valid reports")
    return {
        "faults": dict(world.faults),
        "repair_seconds": {name: statistics.median(values) for name, values in sorted(world.repairs.items())},
        "slowest_repair_seconds": {name: max(values) for name, values in sorted(world.repairs.items())},
        "recovery_after_last_seconds": recovery,
        "growth": growth,
        "reports": len(world.server.reports),
        "missed": missed,
    }


def main() -> int:
    """Run, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="of faults (default 60)")
    parser.add_argument("--every-seconds", type=float, default=20, help="between faults (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw (default 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fleven-soak-") as folder:
        result = soak(Path(folder), arguments.minutes, arguments.every_seconds, arguments.seed)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return 1 if result["missed"] else 0
    for name, count in sorted(result["faults"].items()):
        middle, most = result["repair_seconds"].get(name), result["slowest_repair_seconds"].get(name)
        print(
            f"{name:36} {count:4} times" + (f", healthy after {middle:.1f} s (at most {most:.1f} s)" if middle else "")
        )
    for name, (first, last) in result["growth"].items():
        print(f"{name:36} {first:.0f} at first, {last:.0f} at last")
    print(f"healthy {result['recovery_after_last_seconds']:.1f} s after the last fault; {result['reports']} reports")
    print("missed: " + "; ".join(result["missed"]) if result["missed"] else "all demands met")
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
