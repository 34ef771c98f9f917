"""How long one turn of the scheduler's loop takes, with 1,000 schedules and 100,000 past runs. Budget: 50 ms.

Three kinds of turns: nothing is due; one schedule fires; many schedules fire at once while the SuperLink is away, so
that hundreds of runs wait in the end. The budget holds for all three. Times are of this process's CPU as well as of the
wall, since a machine that is busy with other things stretches the wall.

Measured beside the same turn on a small register (10 schedules, 100 past runs) in the same process, so that the ratio
tells what the size costs, whatever this machine is busy with. The register is a real file; no `flwr` is called: the
SuperLink answers from memory, workers are never started.

    benchmarks/scheduler_tick.py --json scheduler_tick.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from machine import describe
from sqlalchemy import insert

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.database import Store, open_store
from fleven.server.database.tables import attempts, run_steps, runs
from fleven.server.flower.answers import FlowerNode
from fleven.server.nodes.model import Node, NodeHealth
from fleven.server.runs.runner import Runner
from fleven.server.runs.scheduler import Scheduler
from fleven.server.schedules import editing
from fleven.server.schedules.spec import Overlap, ScheduleSpec
from fleven.server.schedules.triggers import CronTrigger, EveryTrigger

START = datetime(2026, 5, 4, 12, 0, 30, tzinfo=UTC)
TURNS = 40
REPEATS = 3
BUDGET_MILLISECONDS = 50.0


class Turn(NamedTuple):
    """How long one turn took."""

    wall_milliseconds: float
    cpu_milliseconds: float


class Silent(Executor):
    """Takes work and never does it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Forget the work."""
        return Future()


class MemoryFlower:
    """A SuperLink that is there, or is not."""

    def __init__(self, *, up: bool) -> None:
        self.up = up

    def reachable(self) -> bool:
        """Return whether it is there."""
        return self.up

    def nodes(self) -> list[FlowerNode]:
        """Return no nodes."""
        return []


class MemoryFleet:
    """A hundred ready nodes."""

    def __init__(self) -> None:
        self.nodes = [Node(f"car-{index}", index, NodeHealth.READY) for index in range(100)]

    def fleet(self, now: datetime) -> Sequence[Node]:
        """Return the nodes."""
        return self.nodes

    def reported_node_ids(self) -> frozenset[str]:
        """Return the node ids that agents reported."""
        return frozenset(str(index) for index in range(100))

    def record_flower_nodes(self, found: Iterable[FlowerNode], read_at: datetime) -> None:
        """Take the list."""


def fill(store: Store, schedules: int, past: int) -> None:
    """Write schedules and runs that have ended.

    Half of the schedules fire on the hour's minutes (many at once), half every hour after a start of their own.
    """
    specs = [ScheduleSpec(trigger=CronTrigger(cron=f"{minute} * * * *"), overlap=Overlap.QUEUE) for minute in range(60)]
    step = timedelta(hours=1) / schedules
    rhythms = [
        ScheduleSpec(trigger=EveryTrigger(every=3600, start=START + index * step), overlap=Overlap.QUEUE)
        for index in range(schedules)
    ]
    with store.write() as connection:
        for index in range(schedules):
            spec = rhythms[index] if index % 2 else specs[index // 2 % 60]
            editing.add(connection, f"schedule-{index}", spec, START)
    with store.write() as connection:
        for first in range(0, past, 5000):
            numbers = range(first + 1, min(first + 5000, past) + 1)
            moments = {number: START - timedelta(minutes=past - number + 10) for number in numbers}
            connection.execute(
                insert(runs),
                [
                    {
                        "id": number,
                        "schedule_name": f"schedule-{number % schedules}",
                        "occurrence_key": f"past-{number}",
                        "trigger": "scheduled",
                        "due_at": moments[number],
                        "created_at": moments[number],
                        "state": "succeeded",
                        "reason": "completed",
                        "message": "",
                        "since": moments[number],
                        "spec": specs[number % 60],
                        "attempts": 1,
                        "stop_message": "",
                        "fires": 1,
                        "ended_at": moments[number],
                    }
                    for number in numbers
                ],
            )
            connection.execute(
                insert(attempts),
                [
                    {"run_id": n, "number": 1, "token": f"t{n}", "intended_at": moments[n], "message": ""}
                    for n in numbers
                ],
            )
            steps = ("pending", "submitted", "running", "succeeded")
            connection.execute(
                insert(run_steps),
                [
                    {"run_id": n, "attempt": 1, "at": moments[n], "state": state, "reason": "fired", "message": ""}
                    for n in numbers
                    for state in steps
                ],
            )


def turns(store: Store, folder: Path, seconds: float, *, up: bool) -> list[Turn]:
    """Return how long turns took, with the clock moved on by some seconds before each."""
    now = START

    def clock() -> datetime:
        return now

    runner = Runner(MemoryFlower(up=up), Paths(folder), folder)  # type: ignore[arg-type]
    scheduler = Scheduler(store, runner, ServerConfig(), MemoryFleet(), clock, Silent())
    scheduler.tick()
    found = []
    for _ in range(TURNS):
        now += timedelta(seconds=seconds)
        wall, cpu = time.perf_counter(), time.process_time()
        scheduler.tick()
        found.append(Turn((time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000))
    return found


def measure(schedules: int, past: int, seconds: float, *, up: bool) -> list[Turn]:
    """Return turns on a fresh register of a size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = open_store(folder / "register.db")
        fill(store, schedules, past)
        found = turns(store, folder, seconds, up=up)
        store.close()
    return found


def main() -> int:
    """Measure, print, and compare with the budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, as JSON")
    options = parser.parse_args()
    cases = {
        "nothing due": (0.05, True),
        "a schedule fires": (3.6, True),
        "many fire, hundreds wait": (60.0, False),
    }
    table = []
    print(f"{'turn':26}{'wall ms':>10}{'CPU ms':>10}{'small, CPU ms':>15}{'ratio':>8}")
    for name, (seconds, up) in cases.items():
        large, small = [], []
        for _ in range(REPEATS):
            large.append(measure(1000, 100_000, seconds, up=up))
            small.append(measure(10, 100, seconds, up=up))
        wall = statistics.median(statistics.median(turn.wall_milliseconds for turn in found) for found in large)
        cpu, cpu_small = (
            statistics.median(statistics.median(turn.cpu_milliseconds for turn in found) for found in sizes)
            for sizes in (large, small)
        )
        table.append({"turn": name, "milliseconds": wall, "cpu_milliseconds": cpu, "small_cpu_milliseconds": cpu_small})
        print(f"{name:26}{wall:10.1f}{cpu:10.1f}{cpu_small:15.1f}{cpu / cpu_small:8.1f}", flush=True)
    kept = all(row["milliseconds"] <= BUDGET_MILLISECONDS for row in table)
    print(f"budget {BUDGET_MILLISECONDS:.0f} ms (wall): {'kept' if kept else 'NOT kept'}")
    if options.json:
        content = {"machine": describe(), "budget_milliseconds": BUDGET_MILLISECONDS, "table": table}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
