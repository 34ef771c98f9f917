#!/usr/bin/env python3
"""Memory of an idle car: the proportional set size (PSS) of every process of FLEVEn and Flower, summed up.

Run as root on a car with the package, idle for a minute: PSS counts a page that n processes share as 1/n for each, so
the sum is what the car would get back. Standard library only, so that it runs with the system's Python.

    car_memory.py [--json]
    car_memory.py --watch 30        # start a run meanwhile: how much more a task at work takes, and which processes
"""

from __future__ import annotations

import argparse
import json
import pwd
import re
import time
from pathlib import Path

USERS = ("fleven", "fleven-task")
BUDGET_MEGABYTES = {"warm": 310, "off": 160, "task": 60}
WATCH_SECONDS = 0.05


def proportional_megabytes(process: Path) -> float:
    """PSS of a process [MB]; raises OSError when it is gone, or the reader may not know."""
    match = re.search(r"^Pss:\s+(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 / 1e6 if match else 0.0


def user_of(process: Path) -> int:
    """Real user of a process; its folder belongs to root when it lets nobody read its memory."""
    match = re.search(r"^Uid:\s+(\d+)", (process / "status").read_text(), re.MULTILINE)
    return int(match[1]) if match else -1


def name_of(command: list[str]) -> str:
    """What a process is, from its command line."""
    text = " ".join(command)
    for part in ("flower-superexec", "flower-supernode", "fleven_agent.warm cell", "trip_worker", "fleven-agent run"):
        if part in text:
            return part
    return text[:60]


def measure() -> list[dict[str, object]]:
    """Return a row for each process of the services' users."""
    wanted = set()
    for user in USERS:
        try:
            wanted.add(pwd.getpwnam(user).pw_uid)
        except KeyError:
            continue
    rows: list[dict[str, object]] = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            if user_of(process) not in wanted:
                continue
            content = (process / "cmdline").read_bytes().decode(errors="replace")
            command = [part for part in content.split("\0") if part]
            rows.append({"process": name_of(command), "pss_megabytes": round(proportional_megabytes(process), 1)})
        except OSError:
            continue
    return rows


def total(rows: list[dict[str, object]]) -> float:
    """Return what all processes take together [MB]."""
    return round(sum(float(str(row["pss_megabytes"])) for row in rows), 1)


def watch(seconds: float) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Return the processes now, and those of the moment in the next seconds when they take most."""
    before = highest = measure()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(WATCH_SECONDS)
        highest = max(highest, measure(), key=total)
    return before, highest


def show(rows: list[dict[str, object]], what: str) -> None:
    """Print each process, and all together."""
    for row in rows:
        print(f"{row['pss_megabytes']:>8} MB  {row['process']}")
    print(f"{total(rows):>8} MB  {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="how much more it becomes within this time")
    arguments = parser.parse_args()
    if arguments.watch:
        before, highest = watch(arguments.watch)
        more = round(total(highest) - total(before), 1)
        if arguments.json:
            found: dict[str, object] = {"before_megabytes": total(before), "highest_megabytes": total(highest)}
            print(json.dumps({**found, "more_megabytes": more, "before": before, "highest": highest}))
            return
        show(before, "at first")
        show(highest, "at most")
        print(f"{more:>8} MB  more (budget of a task: {BUDGET_MEGABYTES['task']} MB)")
        return
    rows = measure()
    if arguments.json:
        print(json.dumps({"processes": rows, "pss_megabytes": total(rows), "budget_megabytes": BUDGET_MEGABYTES}))
        return
    show(rows, f"together (budget: {BUDGET_MEGABYTES['warm']} MB warm, {BUDGET_MEGABYTES['off']} MB with warm off)")


if __name__ == "__main__":
    main()
