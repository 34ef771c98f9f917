"""Hundreds of tasks through one warm process, among them crashes, kills and tasks that run out of memory.

    python benchmarks/warm_endurance.py                  # 500 tasks with torch and Flower loaded, some minutes
    python benchmarks/warm_endurance.py --tasks 2000 --json /tmp/endurance.json

Every task must end as it was meant to, and the warm process must be afterwards what it was before: one thread, the same
open descriptors, no zombie, no file left in its folders or TMPDIR, no growth of memory beyond `GROWTH_BYTES`. Ends with
1 when it is not. The tasks are a stand-in for Flower's program, named like it; Flower's own is in tests/flower.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from machine import describe

from fleven_agent.warm.manager import WarmServer, WarmSettings
from fleven_agent.warm.settings import WarmMode

GROWTH_BYTES = 4 << 20
PROGRAM = """#!{python}
import os, resource, signal, sys, tempfile, time

def work():
    import numpy, torch
    return float((torch.rand(200, 200) @ torch.rand(200, 200)).sum()) + float(numpy.random.rand(50).sum())

kind = sys.argv[1]
if kind == "trains":
    with tempfile.TemporaryDirectory() as folder:
        work()
elif kind == "fails":
    work()
    raise RuntimeError("as asked")
elif kind == "crashes":
    work()
    os.kill(os.getpid(), signal.SIGSEGV)
elif kind == "out-of-memory":
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    bytearray(64 << 30)
elif kind == "leaks":
    kept = [bytearray(1 << 20) for _ in range(64)]
    files = [open(os.devnull) for _ in range(64)]
    sys.exit(9)
elif kind == "waits":
    print("ready", flush=True)
    time.sleep(600)
"""
# What each kind of task ends with; "waits" is ended from outside in one of three ways.
ENDS = {"trains": 0, "fails": 1, "crashes": -signal.SIGSEGV, "out-of-memory": 1, "leaks": 9}
SHARES = {"trains": 60, "fails": 10, "crashes": 8, "out-of-memory": 7, "leaks": 5, "waits": 10}


class Endurance:
    """One warm process and the tasks it is put through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "cold" / "flwr-clientapp"
        program.parent.mkdir()
        program.write_text(PROGRAM.format(python=sys.executable), encoding="utf-8")
        program.chmod(0o755)
        (folder / "temporary").mkdir()
        self.server = WarmServer(
            WarmSettings(mode=WarmMode.ON),
            state_directory=folder,
            runtime_directory=folder,
            total_memory_bytes=psutil.virtual_memory().total,
        )
        base = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "PYTHON"))}
        base |= {"TMPDIR": str(folder / "temporary"), "PATH": f"{program.parent}{os.pathsep}{base['PATH']}"}
        self.environment = self.server.environment(base)
        self.random = random.Random(1)
        self.problems: list[str] = []
        self.seconds: list[float] = []
        self.kinds: Counter[str] = Counter()

    def wait_until(self, state: str) -> None:
        """Wait for a state of the warm process."""
        end = time.monotonic() + 120
        while self.server.status()["state"] != state:
            if time.monotonic() > end:
                raise RuntimeError(f"the warm process is {self.server.status()}")
            self.server.tick(wanted=True)
            time.sleep(0.05)

    def task(self) -> None:
        """Run one task of a random kind and check how it ended."""
        [kind] = self.random.choices(list(SHARES), weights=list(SHARES.values()))
        self.kinds[kind] += 1
        started = time.monotonic()
        process = subprocess.Popen(
            ["flwr-clientapp", kind], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        expected = ENDS.get(kind)
        if expected is None:
            process.stdout.readline()
            expected = -self.end(process)
        status = process.wait(60)
        process.stdout.close()
        if kind == "trains":
            self.seconds.append(time.monotonic() - started)
        if status != expected:
            self.problems.append(f"a task that {kind} ended with {status}, not {expected}")

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """End a waiting task from outside; returns the signal that its launcher must end by."""
        way = self.random.choice(("launcher-terminated", "launcher-killed", "task-killed"))
        if way == "launcher-terminated":
            process.terminate()
            return signal.SIGTERM
        if way == "launcher-killed":
            process.kill()
            return signal.SIGKILL
        limit = time.monotonic() + 10
        while not (running := [task.process_id for task in self.server.tasks() if task.ended_at is None]):
            if time.monotonic() > limit:
                raise RuntimeError("the warm process does not list the task that it has just started")
            time.sleep(0.01)
        os.kill(running[-1], signal.SIGKILL)
        return signal.SIGKILL

    def state(self) -> dict[str, int]:
        """Return what must not grow."""
        [process_id, *_] = self.server.process_ids()
        process = psutil.Process(process_id)
        end = time.monotonic() + 10
        while process.children() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.2)
        return {
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "children": len(process.children()),
            "temporary_files": len(list((self.folder / "temporary").iterdir())),
            "runtime_files": len(list((self.folder / "warm").iterdir())),
            "private_bytes": process.memory_full_info().uss,
        }


def main() -> int:
    """Run the tasks and say what is left behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fleven-endurance-"))
    endurance = Endurance(folder)
    try:
        endurance.wait_until("ready")
        for _ in range(20):  # the first tasks touch what every task touches
            endurance.task()
        before = endurance.state()
        for number in range(options.tasks):
            endurance.task()
            if sys.stderr.isatty() or number % 100 == 99:
                print(f"\r{number + 1} of {options.tasks}", end="", file=sys.stderr, flush=True)
        after = endurance.state()
        status = endurance.server.status()
    finally:
        endurance.server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    problems = endurance.problems
    for key, value in before.items():
        allowed = value + (GROWTH_BYTES if key == "private_bytes" else 0)
        if after[key] > allowed:
            problems.append(f"{key}: {value} before, {after[key]} after")
    if (status["tasks_warm"], status["tasks_cold"], status["crashes"]) != (options.tasks + 20, 0, 0):
        problems.append(f"not every task ran warm: {status}")
    content = {
        "benchmark": "warm_endurance",
        "machine": describe(),
        "tasks": options.tasks,
        "kinds": dict(endurance.kinds),
        "before": before,
        "after": after,
        "median_seconds_of_a_task": statistics.median(endurance.seconds),
        "problems": problems,
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=1))
    return 1 if problems else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # end what was started, also then
    sys.exit(main())
