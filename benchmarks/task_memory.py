#!/usr/bin/env python3
"""How much memory a task takes above an idle car with a warm process, with the packages on booted machines.

    benchmarks/task_memory.py --debs FOLDER [--runs 5] [--json FILE]

Boots a server and cars (`tests/machines/testbed`; root, Debian 12 or newer), of which one works: the programs' files
that another has mapped as well would count in part only. Its first runs read the trips and teach the warm process what
tasks need. Then each run begins when the car is idle again, with the process of a next task gone, and `car_memory.py`
watches what all processes of FLEVEn and Flower take together until the run has ended.
"""

import argparse
import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/machines"))

from car_memory import BUDGET_MEGABYTES
from fault_matrix import prepare
from machine import describe
from testbed.base import host_architecture
from testbed.bed import Bed
from testbed.fleet import Fleet
from testbed.machine import Machine

PROBE = Path(__file__).with_name("car_memory.py")
PLACE = "/root/car_memory.py"
TEACHING_RUNS = 2
REST_SECONDS = 75.0
"""After a run the process of a next task waits for a minute."""
WATCH_SECONDS = 20.0
"""Longer than a run of a few rounds takes."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debs", type=Path, required=True, help="folder with both packages")
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--layers", type=Path, help="folder in which the installed disks are kept for further calls")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    with Bed(f"tm{os.getpid() % 10_000}", options.suite, host_architecture()) as bed:
        fleet = prepare(bed, options.debs.resolve(), options.layers)
        car, *others = fleet.nodes
        for other in others:
            other.run("systemctl", "stop", "fleven-agent")
        car.write(PLACE, PROBE.read_text(encoding="utf-8"))
        runs: list[dict[str, Any]] = []
        for number in range(TEACHING_RUNS + options.runs):
            found = watched(fleet, car, options.rounds)
            print(f"run {number}: {found['more_megabytes']}", file=sys.stderr)
            if number >= TEACHING_RUNS:
                runs.append(found)
            time.sleep(REST_SECONDS)
    content = {
        "machine": describe(),
        "rounds": options.rounds,
        "runs": runs,
        "budget_megabytes": BUDGET_MEGABYTES["task"],
    }
    print(f"a task takes {statistics.median(run['more_megabytes'] for run in runs):.1f} MB above an idle car")
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def watched(fleet: Fleet, car: Machine, rounds: int) -> dict[str, Any]:
    """Carry out a run of the default app on a car; return what it took idle and at most."""

    def watch() -> dict[str, Any]:
        found = json.loads(car.run("python3", PLACE, "--json", "--watch", str(WATCH_SECONDS)))
        return {"idle": found.pop("before"), "idle_megabytes": found.pop("before_megabytes"), **found}

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        time.sleep(1.0)  # the idle sum is taken
        done = fleet.run_now("--set", f"rounds={rounds}", "--set", "min-nodes=1")
        if done.exit_code != 0:
            raise RuntimeError(f"the run failed:\n{done.output}\n{done.errors}")
        return watching.result()


if __name__ == "__main__":
    sys.exit(main())
