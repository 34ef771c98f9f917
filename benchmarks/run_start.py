"""How soon a run is at work, and what it costs beside its rounds: phase by phase, with the packages on booted machines.

    python benchmarks/run_start.py --debs FOLDER                  # three idle cars, five runs of three rounds
    python benchmarks/run_start.py --debs FOLDER --runs 2 --json benchmarks/results/run_start.json
    python benchmarks/run_start.py --debs FOLDER --cooled --json benchmarks/results/run_start_cooled.json

Boots a server and three cars from the packages (`tests/machines/testbed`; root, Debian 12 or newer): TLS, enrolled
cars, cells, warm tasks, all as installed. Every run begins when all cars ask the SuperLink rarely and nothing is left
of the run before; with --cooled when the cars' warm processes have exited as well, as they do after `idle-seconds`
without a task: here half a minute instead of the quarter of an hour that is the default. Nothing is asked of the parts
while they work: the times are those that the register and the journals hold. All machines share the processors of this
one; compare runs of one machine that does nothing else.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/machines"))

from fault_matrix import prepare
from machine import describe
from testbed.base import host_architecture
from testbed.bed import Bed
from testbed.fleet import Fleet
from testbed.machine import Machine
from testbed.shell import wait_for

CALM_PULL_SECONDS = 60.0
CALM_LIMIT_SECONDS = 180.0
REST_SECONDS = 45.0
"""What the server and the cars load in advance for the next run is loaded again by then."""
COOLED_IDLE_SECONDS = 30.0
"""Longer than a run takes to come to its first task, so that nothing exits once it has been started again."""
PACE = "/run/fleven/warm/pace.json"
REGISTER = "/var/lib/fleven-server/register.db"
STEPS = """
import sqlite3, sys
found = sqlite3.connect("file:REGISTER?mode=ro", uri=True).execute(
    "SELECT reason, at FROM run_steps WHERE run_id = (SELECT max(run_id) FROM run_steps) ORDER BY id"
)
for reason, at in found:
    print(reason, at)
"""
PYTHON = "/usr/lib/fleven/server/bin/python3"
#: Time of each moment of a run, in order; a phase lies between two of them.
MOMENTS = (
    "command", "requested", "submitting", "created", "started", "asked", "first-tasks", "round-1",
    "final-evaluation", "ended", "command-ended",
)  # fmt: skip
PHASES = {
    "requested": "`fleven-server schedule run` starts and writes the run down",
    "submitting": "the scheduler has seen it and decided",
    "created": "`flwr run`: the bundle is with the SuperLink",
    "started": "the SuperLink's executor has given the ServerApp its task",
    "asked": "the ServerApp has loaded the app, and the first question has reached every car",
    "first-tasks": "a task works on every car",
    "round-1": "every car has answered, and the first round has reached one",
    "final-evaluation": "(the rounds)",
    "ended": "the last evaluation, the result, and the scheduler's notice",
    "command-ended": "the command has printed the result",
}


def main() -> int:
    """Measure and print."""
    options = parse_options()
    with Bed(f"fs{os.getpid() % 10_000}", options.suite, host_architecture()) as bed:
        fleet = prepare(bed, options.debs.resolve(), options.layers)
        if options.cooled:
            let_cool(fleet)
        runs = []
        for number in range(options.runs + 1):
            measured = one_run(fleet, options.rounds, cooled=options.cooled)
            print(f"run {number}: {json.dumps(measured)}", file=sys.stderr)
            if number:  # the first one finds cold caches
                runs.append(measured)
    result = summary(runs, options.rounds) | {"cooled": options.cooled}
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debs", type=Path, required=True, help="folder with both packages")
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--layers", type=Path, help="folder in which the installed disks are kept for further calls")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cooled", action="store_true", help="the cars' warm processes have exited when a run begins")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    return parser.parse_args()


def let_cool(fleet: Fleet) -> None:
    """Have the warm processes of the cars exit soon after each task."""
    for partition, node in enumerate(fleet.nodes):
        fleet.configure(node, partition, "[warm]", 'mode = "on"', f"idle-seconds = {COOLED_IDLE_SECONDS}")
        node.run("systemctl", "restart", "fleven-agent")
    fleet.wait_ready()


def wait_until_cooled(fleet: Fleet) -> None:
    """Wait until no car has a warm process."""

    def cooled() -> bool:
        states = (fleet.ask(node, "fleven-agent", "status")["warm"]["state"] for node in fleet.nodes)
        return all(state == "absent" for state in states)

    wait_for("the warm processes have exited", cooled, CALM_LIMIT_SECONDS, 2.0)


def wait_until_calm(fleet: Fleet) -> None:
    """Wait until every car asks the SuperLink rarely, and has begun such a pause."""

    def calm() -> bool:
        paces = (json.loads(node.run("cat", PACE))["pull_seconds"] or 0 for node in fleet.nodes)
        return all(pace > CALM_PULL_SECONDS for pace in paces)

    time.sleep(REST_SECONDS)
    wait_for("all cars ask for work rarely", calm, CALM_LIMIT_SECONDS, 1.0)


def one_run(fleet: Fleet, rounds: int, *, cooled: bool = False) -> dict[str, float]:
    """Carry out a run from idle cars, and return its moments [s since the command's start]."""
    wait_until_calm(fleet)
    if cooled:
        wait_until_cooled(fleet)
    began = time.time()
    done = fleet.run_now("--set", f"rounds={rounds}", "--set", f"min-nodes={len(fleet.nodes)}")
    command_ended = time.time()
    if done.exit_code != 0:
        raise RuntimeError(f"the run failed:\n{done.output}\n{done.errors}")
    steps = register_steps(fleet.server)
    server = list(journal(fleet.server, "fleven-superlink", began))
    cars = [list(journal(node, "fleven-agent", began)) for node in fleet.nodes]
    moments = {
        "command": began,
        "requested": steps["requested"],
        "submitting": steps["submitting"],
        "created": first(server, r"Created run "),
        "started": first(server, r"Started task "),
        "asked": max(first(lines, r"Receiving: query message") for lines in cars),
        "first-tasks": max(first(lines, r"Start `flwr-clientapp` process") for lines in cars),
        "round-1": min(first(lines, r"Receiving: train message") for lines in cars),
        "final-evaluation": min(first(lines, r"Receiving: evaluate message") for lines in cars),
        "ended": steps["completed"],
        "command-ended": command_ended,
    }
    return {name: round(moments[name] - began, 3) for name in MOMENTS}


def journal(machine: Machine, unit: str, since: float) -> Iterator[tuple[float, str]]:
    """Yield what a unit has said since a moment: when [s since 1970], and what."""
    for line in machine.journal("-u", unit, "-o", "short-unix", "--since", f"@{since:.0f}").splitlines():
        moment, _, text = line.partition(" ")
        if re.fullmatch(r"\d+\.\d+", moment) and float(moment) >= since:
            yield float(moment), text


def first(lines: list[tuple[float, str]], pattern: str) -> float:
    """Return when a line with this text was said first."""
    for moment, text in lines:
        if re.search(pattern, text):
            return moment
    raise RuntimeError(f"no line of the run says {pattern!r}")


def register_steps(server: Machine) -> dict[str, float]:
    """Return the times of the newest run's steps, by reason."""
    said = server.run(PYTHON, "-c", STEPS.replace("REGISTER", REGISTER))
    return {reason: int(at) / 1_000 for reason, at in (line.split() for line in said.splitlines())}


def summary(runs: list[dict[str, float]], rounds: int) -> dict[str, object]:
    """Return medians: the phases, the start, and the cost beside the rounds."""
    phases, before = {}, "command"
    for name, text in PHASES.items():
        phases[text] = round(statistics.median(run[name] - run[before] for run in runs), 2)
        before = name
    beside = [run["command-ended"] - (run["final-evaluation"] - run["round-1"]) for run in runs]
    return {
        "benchmark": "run_start",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "cars": 3,
        "rounds": rounds,
        "runs": runs,
        "phases": phases,
        "first_task_seconds": round(statistics.median(run["first-tasks"] for run in runs), 2),
        "fixed_seconds": round(statistics.median(beside), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
