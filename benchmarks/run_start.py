"""How soon a run is at work, and what it costs beside its rounds: phase by phase, on the machine of the demonstration.

    python benchmarks/run_start.py                     # three idle cars, five runs of three rounds
    python benchmarks/run_start.py --runs 2 --cars 1 --json benchmarks/results/run_start.json

The federation is the demonstration's (TLS, enrolled cars, their own agents, pulls stretched while idle, warm tasks), so
its ports must be free. Every run begins when all cars are calm. Nothing is asked of the parts while they work: the
times are those that register, SuperLink, status.json and the cars' logs hold. Starts a federation; compare runs of one
machine that does nothing else.
"""

import argparse
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from machine import describe

from fleven.demo import demo
from fleven.demo.files import Folders, write_server_configuration
from fleven.demo.processes import DemoProcesses, port_is_free

LOOK_SECONDS = 0.01
START_LIMIT_SECONDS = 60.0
TASK_STARTS = "Start `flwr-clientapp` process"
#: Time of each moment of a run, in order; a phase lies between two of them.
MOMENTS = (
    "command", "requested", "submitting", "pending", "accepted", "starting", "running", "app", "asking",
    "first-tasks", "round-1", "final-evaluation", "succeeded", "finished", "ended", "command-ended",
)  # fmt: skip
PHASES = {
    "requested": "`fleven-server schedule run` starts and writes the run down",
    "submitting": "the scheduler has seen it and decided",
    "pending": "`flwr run`: the bundle is with the SuperLink",
    "starting": "the SuperLink's executor has taken the task",
    "running": "the ServerApp's process has Flower loaded",
    "app": "it has the app loaded",
    "asking": "it asks the cars",
    "first-tasks": "a task works on every car",
    "round-1": "every car has answered, the first round begins",
    "final-evaluation": "(the rounds)",
    "succeeded": "the last evaluation and the result",
    "ended": "the scheduler has noticed",
    "command-ended": "the command has printed the result",
}


class Watcher:
    """Notes when each thing is first seen: steps of status.json, and the first task of each car's log."""

    def __init__(self, folders: Folders, cars: int) -> None:
        self.folders = folders
        self.logs = [folders.logs / f"agent-{car}.log" for car in range(cars)]
        self.offsets = [log.stat().st_size for log in self.logs]
        self.known = set(folders.server.glob("metrics/*/*/status.json"))
        self.status: list[tuple[float, dict[str, object]]] = []
        self.tasks: dict[int, float] = {}
        self._file: Path | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        seen = b""
        while not self._stopping.wait(LOOK_SECONDS):
            for car, log in enumerate(self.logs):
                if car in self.tasks:
                    continue
                with log.open("rb") as stream:
                    stream.seek(self.offsets[car])
                    if TASK_STARTS.encode() in stream.read():
                        self.tasks[car] = time.time()
            if self._file is None:
                found = set(self.folders.server.glob("metrics/*/*/status.json")) - self.known
                self._file = next(iter(found), None)
                continue
            content = self._file.read_bytes()
            if content != seen:
                seen = content
                self.status.append((time.time(), json.loads(content)))

    def first(self, message: str = "", state: str = "", round_number: int | None = None) -> float:
        """Return when status.json first said this."""
        for moment, status in self.status:
            fits = message in str(status["message"]) and (not state or status["state"] == state)
            if fits and (round_number is None or status["round"] == round_number):
                return moment
        raise RuntimeError(f"status.json never said {message or state!r}")


def main() -> int:
    """Measure, print, and say whether the bars are met."""
    options = parse_options()
    demo.check_ports(options.cars)
    root = Path(tempfile.mkdtemp(prefix="fleven-run-start-"))
    folders = Folders(root)
    try:
        with DemoProcesses(folders.logs) as processes:
            environment = start(folders, processes, options.cars)
            runs = []
            for number in range(options.runs + 1):
                measured = one_run(folders, environment, options)
                print(f"run {number}: {json.dumps(measured)}", file=sys.stderr)
                if number:  # the first one finds cold caches
                    runs.append(measured)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    result = summary(runs, options)
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cars", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    return parser.parse_args()


def start(folders: Folders, processes: DemoProcesses, cars: int) -> dict[str, str]:
    """Start server and cars, and return the environment of the server's commands."""
    demo.make_data(folders, None, None, cars, as_json=True)
    write_server_configuration(folders)
    environment = {
        "FLEVEN_SERVER_CONFIG": str(folders.server_config),
        "FLEVEN_SERVER_STATE_DIR": str(folders.server),
    }
    processes.start("superlink", ["fleven-server", "superlink"], environment)
    demo.wait_until("the SuperLink listens", lambda: not port_is_free(9092) and not port_is_free(9093), processes)
    processes.start("server", ["fleven-server", "serve"], environment)
    demo.wait_until("the server answers", lambda: demo.answers(f"{demo.PAGE}healthz", folders), processes)
    demo.join_cars(folders, processes, environment, cars)
    for car in range(cars):
        demo.start_agent(folders, processes, car)
    demo.wait_until("all cars are ready", lambda: demo.ready_nodes(environment) >= cars, processes)
    return environment


def wait_until_calm(folders: Folders, cars: int) -> None:
    """Wait until every car asks the SuperLink rarely, and then until it has begun such a pause."""
    end = time.monotonic() + START_LIMIT_SECONDS
    files = [folders.car(car) / "run" / "warm" / "pace.json" for car in range(cars)]
    while not all((json.loads(file.read_text())["pull_seconds"] or 0) > 60 for file in files):
        if time.monotonic() > end:
            raise RuntimeError("the cars do not become calm")
        time.sleep(0.2)
    time.sleep(5.0)


def one_run(folders: Folders, environment: Mapping[str, str], options: argparse.Namespace) -> dict[str, float]:
    """Carry out a run from idle cars, and return its moments [s since the command's start]."""
    wait_until_calm(folders, options.cars)
    watcher = Watcher(folders, options.cars)
    settings = [f"rounds={options.rounds}", f"min-nodes={options.cars}"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    command = demo.own_command(["fleven-server", "schedule", "run", *overrides])
    began = time.time()
    done = subprocess.run(
        command, env=DemoProcesses._environment(dict(environment)), capture_output=True, text=True, check=False
    )
    command_ended = time.time()
    if done.returncode != 0:
        raise RuntimeError(f"the run failed:\n{done.stdout}\n{done.stderr}")
    time.sleep(3.0)  # what is left of the ServerApp ends
    watcher.stop()
    if len(watcher.tasks) < options.cars:
        raise RuntimeError("a car's log tells of no task")
    task = flower_task(folders)
    steps = register_steps(folders)
    moments = {
        "command": began,
        "requested": steps["requested"],
        "submitting": steps["submitting"],
        "pending": task["pending_at"],
        "accepted": steps["accepted"],
        "starting": task["starting_at"],
        "running": task["running_at"],
        "app": watcher.status[0][0],
        "asking": watcher.first("asking every node"),
        "first-tasks": max(watcher.tasks.values()),
        "round-1": watcher.first(round_number=1),
        "final-evaluation": watcher.first("final evaluation"),
        "succeeded": watcher.first(state="succeeded"),
        "finished": task["finished_at"],
        "ended": steps["completed"],
        "command-ended": command_ended,
    }
    return {name: round(moments[name] - began, 3) for name in MOMENTS}


def flower_task(folders: Folders) -> dict[str, float]:
    """Return the times of the newest run's ServerApp task in the SuperLink's database."""
    names = ("pending_at", "starting_at", "running_at", "finished_at")
    newest = "SELECT pending_at, starting_at, running_at, finished_at FROM task ORDER BY pending_at DESC LIMIT 1"
    with sqlite3.connect(f"file:{folders.server / 'superlink.db'}?mode=ro", uri=True) as connection:
        row = connection.execute(newest).fetchone()
    return {name: datetime.fromisoformat(value).timestamp() for name, value in zip(names, row, strict=True)}


def register_steps(folders: Folders) -> dict[str, float]:
    """Return the times of the newest run's steps, by reason."""
    with sqlite3.connect(f"file:{folders.server / 'register.db'}?mode=ro", uri=True) as connection:
        rows = connection.execute(
            "SELECT reason, at FROM run_steps WHERE run_id = (SELECT max(run_id) FROM run_steps) ORDER BY id"
        ).fetchall()
    return {reason: at / 1_000 for reason, at in rows}


def summary(runs: list[dict[str, float]], options: argparse.Namespace) -> dict[str, object]:
    """Return medians: the phases, the start, and the cost beside the rounds."""
    phases, before = {}, "command"
    for name, text in PHASES.items():
        phases[text] = round(statistics.median(run[name] - run[before] for run in runs), 2)
        before = name
    rounds = [run["final-evaluation"] - run["round-1"] for run in runs]
    return {
        "benchmark": "run_start",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "cars": options.cars,
        "rounds": options.rounds,
        "runs": runs,
        "phases": phases,
        "first_task_seconds": round(statistics.median(run["first-tasks"] for run in runs), 2),
        "fixed_seconds": round(
            statistics.median(run["command-ended"] - took for run, took in zip(runs, rounds, strict=True)), 2
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
