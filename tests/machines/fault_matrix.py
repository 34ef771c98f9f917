#!/usr/bin/env python3
"""Runs the fault matrix on booted machines and writes docs/reliability.md.

Why it exists: each row is a promise to an operator who is not there. A run is started, something breaks in its first
round, and the row holds when the run succeeds and all nodes are ready again, without a human where no human is named.
Every repetition is written down at once, so that the table can grow over several sessions.

    tests/machines/fault_matrix.py --debs FOLDER [--times 5] [--only TEXT]... [--list]
    several at once on one host, each with rows and a folder of packages of its own (--only), share one table
    tests/machines/fault_matrix.py --render          only write the table from what was measured before
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from testbed.base import host_architecture
from testbed.bed import Bed
from testbed.fault import Fault
from testbed.faults import faults
from testbed.faults_disk import prepare_disks
from testbed.fleet import Fleet, install
from testbed.shell import HostCommandError, run

PROJECT = Path(__file__).resolve().parents[2]
RESULTS = PROJECT / "docs/reliability.json"
TABLE = PROJECT / "docs/reliability.md"
ROUNDS = 12
"""So many that a run goes on for some ten seconds where nothing disturbs it: a fault falls into it."""
READY_LIMIT_SECONDS = 400
RUN_LIMIT_SECONDS = 1500
DISK_MEGABYTES = 4000
HAND_OVER_SECONDS = 2.0
"""After a lock was released: who has waited for it must come first, and who asks again at once would."""
SLOW_SECONDS = 30
"""A recovery that takes longer should have a reason: its journals are kept, to find it."""

INTRODUCTION = """\
# What the fleet survives

Each row was tried on booted systemd machines with the real packages: a server and three nodes, each with its own
address, as in a VPN. A run of the default app was under way when the fault began. A try counts as held when the run
**succeeded** and every node was **ready** again, without human help, unless the row says what a human does.

*Recovery* is the time from the end of the fault (a kill ends at once; a cut link ends when it is back; a fault that
lasts counts from its beginning) until the server had heard from every node again and counted it as ready (a healthy
node reports every 15 s in a run, and while somebody looks at its page, as here). *Run* is the whole time of the run,
from start to end. Both are medians over the newest build that the row was tried with, with the longest in brackets;
*held* counts every try of every build. A register that is restored from its last backup does not know later runs, and
some faults happen while no run is under way: there the next run counts.

The machines share one host's processors and clock, so times are those of a busy computer, not of a Raspberry Pi. A
power cut there ends all processes at once but does not lose what was written and not yet synced.

The table grows over many builds: a try that did not hold stays in it after its defect has been fixed. A try in which
the test bed itself failed (a command on the host, not in a machine) does not count.

The table is written by `tests/machines/fault_matrix.py` from `reliability.json`, which holds every single try.

"""


def record(row: dict[str, Any]) -> None:
    """Add a try to the results and write the table anew; another matrix on this host waits its turn."""
    folder = os.open(RESULTS.parent, os.O_RDONLY)  # its lock, because the file itself is replaced
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        rows.append(row)
        temporary = RESULTS.with_suffix(".new")
        temporary.write_text(json.dumps(rows, indent=1) + "\n")
        temporary.replace(RESULTS)
        TABLE.write_text(render())
    finally:
        os.close(folder)


def next_fault(chosen: list[Fault], times: int, version: str) -> Fault | None:
    """The row with the fewest tries of a version so far, in any session, so that all rows grow evenly.

    None when each has held `times` times; one that has failed as often is given up.
    """
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = [row for row in rows if row["version"] == version]
    held = Counter(row["fault"] for row in rows if row["held"])
    failed = Counter(row["fault"] for row in rows if not row["held"])
    wanted = [fault for fault in chosen if held[fault.name] < times and failed[fault.name] < times]
    return min(wanted, key=lambda fault: held[fault.name] + failed[fault.name], default=None)


def render() -> str:
    """The table: one line a fault, with how many tries held."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    lines = [
        INTRODUCTION,
        "| fault | must hold as well | held | recovery | run | version | a human |",
        "|---" * 7 + "|",
    ]
    for fault in faults():
        tries = [row for row in rows if row["fault"] == fault.name]
        held = [row for row in tries if row["held"]]
        name = fault.name + (f" (simulated: {fault.simulated})" if fault.simulated else "")
        if not tries:
            lines.append(f"| {name} | {fault.holds} | not tried | | | | {fault.by_hand} |")
            continue
        version = tries[-1]["version"]
        newest = [row for row in held if row["version"] == version]
        recovery = [row["recovery_seconds"] for row in newest]
        runs = [row["run_seconds"] for row in newest]
        lines.append(
            f"| {name} | {fault.holds} | {len(held)} of {len(tries)} | "
            f"{f'{statistics.median(recovery):.0f} s ({max(recovery):.0f} s)' if newest else ''} | "
            f"{f'{statistics.median(runs):.0f} s' if newest else ''} | {version.partition('+')[0]} | {fault.by_hand} |"
        )
    failures = [row for row in rows if not row["held"]]
    if failures:
        lines += ["", "Tries that did not hold:", ""]
        lines += [f"- {row['fault']} ({row['at']}, version {row['version']}): {row['problem']}" for row in failures]
    return "\n".join(lines) + "\n"


def attempt(fleet: Fleet, fault: Fault, version: str) -> dict[str, Any]:
    """One repetition, from a fleet that is ready to a fleet that is ready again.

    Raises:
        HostCommandError: the test bed failed, and nothing can be said of what is tested.
    """
    begin = time.monotonic()
    row: dict[str, Any] = {
        "fault": fault.name, "at": datetime.now(UTC).isoformat(timespec="seconds"), "version": version,
        "host": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}, {platform.machine()}",
    }  # fmt: skip
    try:
        if fault.before:
            fault.before(fleet)
        run = None if fault.idle else fleet.submit("--set", f"rounds={ROUNDS}", "--retry", "2")
        if run is not None:
            fleet.wait_round(run, 1)
        began, began_at = time.monotonic(), fleet.now()
        fault.inject(fleet)
        over = began if fault.lasts else time.monotonic()
        fleet.wait_ready(timeout_seconds=READY_LIMIT_SECONDS)
        row["recovery_seconds"] = round(time.monotonic() - over, 1)
        if run is None or fault.forgets_run:
            run = fleet.submit("--set", f"rounds={ROUNDS}", "--retry", "2")
        state = fleet.wait_end(run, RUN_LIMIT_SECONDS)
        answer = fleet.run_json(run)
        if not (fault.idle or fault.forgets_run):
            demand_under_way(answer, began_at)
        row.update(run_seconds=answer.get("seconds"), attempts=answer.get("attempts"), state=state)
        if fault.after:
            fault.after(fleet)
            fleet.wait_ready(timeout_seconds=READY_LIMIT_SECONDS)
        row["held"] = state == "succeeded"
        row["problem"] = "" if row["held"] else f"run ended {state}: {answer.get('reason')}: {answer.get('message')}"
    except HostCommandError:
        raise
    except Exception as error:  # whatever it was, it stands in the table
        row.update(held=False, problem=(str(error).strip() or repr(error)).splitlines()[0][:300])
    row["seconds"] = round(time.monotonic() - begin, 1)
    return row


def demand_under_way(run: dict[str, Any], began_at: datetime) -> None:
    """Count no fault that came after its run.

    Raises:
        HostCommandError: it did.
    """
    if datetime.fromisoformat(run["ended_at"]) < began_at:
        raise HostCommandError(f"run {run['id']} had ended before the fault began")


def build(fleet: Fleet) -> str:
    """What is tried: the version, and a part of a digest of both packages, since one version has many builds."""
    version = fleet.server.run("dpkg-query", "-W", "-f", "${Version}", "fleven-server")
    digest = hashlib.sha256()
    for role in ("node", "server"):
        digest.update((fleet.debs / fleet.package(role).rpartition("/")[2]).read_bytes())
    return f"{version}+{digest.hexdigest()[:8]}"


def prepare(bed: Bed, debs: Path, kept: Path | None) -> Fleet:
    """Install each package once, keep the disks as layers, and boot the fleet on them.

    Args:
        bed: without machines.
        debs: folder with both packages.
        kept: where an earlier session has kept its layers, or this one shall; None: in the bed's own folder.
    """
    layers = {}
    for role in ("server", "node"):
        if kept is not None and (kept / role).exists():
            layers[role] = kept / role
            continue
        machine = bed.add(f"{role}0", bind=[debs])
        bed.start(machine)
        install(machine, f"{debs.name}/{sorted(debs.glob(f'fleven-{role}_*.deb'))[-1].name}")
        machine.power_off()
        layers[role] = bed.snapshot(machine, role)
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
            run("cp", "-a", "--reflink=auto", str(layers[role]), str(kept / f"{role}.new"))
            layers[role] = (kept / f"{role}.new").rename(kept / role)
        machine.remove()
        del bed.machines[machine.name]
    fleet = Fleet.on(bed, debs, layers=layers, disk_megabytes=DISK_MEGABYTES)
    fleet.boot()
    fleet.start_agents()
    fleet.wait_ready()
    return fleet


@contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Hold a lock, if there is one, so that busy tests on this host do not disturb each other."""
    with (lock or Path(os.devnull)).open("a") as file:
        if lock is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    time.sleep(HAND_OVER_SECONDS if lock is not None else 0)


def repetition(bed: Bed, fleet: Fleet, fault: Fault, version: str, logs: Path) -> dict[str, Any]:
    """Try a row once, write it down, and leave a fleet as after a boot where the row or a failure has changed it."""
    if fault.small_disks:
        prepare_disks(fleet)
        fleet.wait_ready()
    try:
        row = attempt(fleet, fault, version)
        record(row)
    except HostCommandError as error:
        row = {"held": False, "problem": f"not counted: {error}", "seconds": 0.0, "at": f"{datetime.now(UTC)}"}
    if not row["held"] or row["recovery_seconds"] > SLOW_SECONDS:
        bed.collect(logs / f"{row['at'][11:19]} {fault.name}".replace("/", " "))
    if not row["held"]:
        for name in bed.machines:
            bed.switch.restore(name)
        if fault.after:
            with contextlib.suppress(Exception):  # what it has to put back may never have been changed
                fault.after(fleet)
    if fault.small_disks or not row["held"]:
        for machine in bed.machines.values():
            if machine.leader() is None:
                machine.start()
            else:
                machine.reboot()
        fleet.wait_ready(timeout_seconds=READY_LIMIT_SECONDS)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debs", type=Path, help="folder with both packages")
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument(
        "--times",
        type=int,
        default=5,
        help="until each row has held this often, all sessions together (default 5)",
    )
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="rows whose name contains this")
    parser.add_argument("--minutes", type=float, help="begin no further repetition after this time")
    parser.add_argument(
        "--lock", type=Path, help="hold this file's lock in each repetition, on a host that others need"
    )
    parser.add_argument(
        "--layers", type=Path, help="folder in which the disks with the installed packages are kept for further calls"
    )
    parser.add_argument("--list", action="store_true", help="list the rows and run none")
    parser.add_argument("--render", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    rows = faults()
    # In the order in which they are named: of as few tries the first is next.
    named = [row for text in arguments.only for row in rows if text in row.name]
    chosen = list({row.name: row for row in named or rows}.values())
    if arguments.list:
        print(*(row.name for row in chosen), sep="\n")
        return 0
    if arguments.render:
        TABLE.write_text(render())
        return 0
    if arguments.debs is None:
        parser.error("--debs is needed (packaging/build-deb.sh --fast --output FOLDER)")
    end = time.monotonic() + arguments.minutes * 60 if arguments.minutes else float("inf")
    logs = Path(os.environ.get("FLEVEN_MACHINES_LOGS", "/tmp/fleven-machines-logs"))
    failed = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # machines outlive a process that is not asked to end
    with Bed(f"fm{os.getpid() % 10_000}", arguments.suite, host_architecture(), logs) as bed:
        try:
            with alone(arguments.lock):
                fleet = prepare(bed, arguments.debs.resolve(), arguments.layers)
        except Exception:
            bed.collect(logs / "prepare")
            raise
        version = build(fleet)
        while time.monotonic() < end and (fault := next_fault(chosen, arguments.times, version)):
            with alone(arguments.lock):
                row = repetition(bed, fleet, fault, version, logs)
            print(f"{fault.name}: {'held' if row['held'] else row['problem']} ({json.dumps(row)})", flush=True)
            failed += not row["held"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
