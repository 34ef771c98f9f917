"""Kill the server at each commit point of a run's life, the SuperLink and ServerApps amid rounds, and count the runs.

Real Flower on this machine: one SuperLink, one `fleven-server serve`, two SuperNodes, a tiny app. Runs of a few
schedules are asked for one after the other, so that several are in flight; meanwhile

- the server is killed (SIGKILL) at the moment when the register shows a wanted step of some run: pending, waiting,
  submitted (intent), submitted (accepted), running, waiting for a retry, succeeded; or somewhere between two steps,
- the SuperLink is killed with all its processes while a run is amid its rounds, as a power cut does it,
- the ServerApp of a run that is amid its rounds is killed.

At the end every run that was asked for must have succeeded, every attempt must have at most one submission in Flower's
own list, every submission must belong to an attempt, and nothing may be left running. Every attempt whose ServerApp
died amid its rounds must be closed as such, and the next must have gone on from the last checkpoint, so that each run
made each of its rounds once. Some retries must have happened.

    benchmarks/server_crash.py --crashes 100 --seed 1 --json benchmarks/results/server_crash.json

Exit code 0 when all of that holds. Needs a .venv with Flower; takes its own ports and a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from crash_federation import EXPERIMENT, Federation
from machine import describe

STEPS = (
    ("pending", "requested"),
    ("submitted", "submitting"),
    ("submitted", "accepted"),
    ("running", "started"),
    ("waiting", "retry-backoff"),
    ("succeeded", "completed"),
)
KINDS = {"server": 62, "server-anywhere": 14, "superlink": 8, "server-app": 16}
"""What is killed how often, in parts of a hundred."""
IN_FLIGHT = 3
ROUNDS = 4
PAUSE_SECONDS = 1.5
"""Between two rounds, so that there is a time in which a run is amid them."""
STEP_TIMEOUT_SECONDS = 90
PATIENCE_SECONDS = 5.0
ROUNDS_TIMEOUT_SECONDS = 120
RUN_TIMEOUT_SECONDS = 900
DIED = ("server-app-died", "superlink-restarted")


@dataclass
class Tally:
    """What was killed.

    Attributes:
        hits: crashes by kind.
        dead: Flower run ids whose ServerApp died amid its rounds, with what killed it.
    """

    hits: Counter[str] = field(default_factory=Counter)
    dead: dict[str, str] = field(default_factory=dict)


def amid_rounds(federation: Federation) -> dict[str, int]:
    """Return the Flower runs that have finished a round and not all of them, with the process ids of their ServerApps.

    A ServerApp that was killed stays as it was: whether it still lives is for the caller to see.
    """
    found = {}
    for file in (federation.state / "metrics" / EXPERIMENT).glob("*/status.json"):
        status = json.loads(file.read_text())
        if status["state"] == "running" and 0 < status["round"] < status["rounds"]:
            found[file.parent.name] = int((file.parent / "pid").read_text())
    return found


def wait_for_rounds(federation: Federation, tally: Tally) -> dict[str, int]:
    """Return the runs that are amid their rounds and alive, as soon as there is one; none when none came in time."""
    deadline = time.monotonic() + ROUNDS_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        alive = {flower_id: pid for flower_id, pid in amid_rounds(federation).items() if flower_id not in tally.dead}
        if alive:
            return alive
        time.sleep(0.1)
    return {}


def kill_server_app(federation: Federation, chance: random.Random, tally: Tally) -> bool:
    """Kill the ServerApp of a run amid its rounds, and return whether it died there."""
    alive = wait_for_rounds(federation, tally)
    if not alive:
        return False
    flower_id = chance.choice(sorted(alive))
    # It may end between the look and the kill. Nobody waits for it, so its entry stays: it is dead all the same.
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(alive[flower_id])
        process.kill()
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    if flower_id not in amid_rounds(federation):
        return False
    tally.dead[flower_id] = "server-app"
    return True


def kill_superlink(federation: Federation, tally: Tally) -> bool:
    """Kill the SuperLink with all its processes while a run is amid its rounds, and start it again."""
    waited = bool(wait_for_rounds(federation, tally))
    federation.kill_all_of("superlink")
    for flower_id in amid_rounds(federation):
        tally.dead.setdefault(flower_id, "superlink")
    federation.start_superlink()
    # A second kill before it listens would only hit a starting process.
    federation.wait_for_superlink(60)
    return waited


def kill_server(federation: Federation, tally: Tally, after: int) -> str:
    """Kill the server at a step that was seldom hit so far, start it again, and return the step's name.

    Only what comes can be hit: the longer it takes, the less seldom the step needs to be.
    """
    began = time.monotonic()
    least = min(tally.hits["/".join(step)] for step in STEPS)
    name = ""
    while not name and (waited := time.monotonic() - began) < STEP_TIMEOUT_SECONDS:
        for number, state, reason in federation.rows("SELECT id, state, reason FROM run_steps WHERE id > ?", after):
            after = int(str(number))
            if (state, reason) in STEPS and tally.hits[f"{state}/{reason}"] <= least + waited / PATIENCE_SECONDS:
                name = f"{state}/{reason}"
                break
        time.sleep(0.01)
    federation.kill("server")
    federation.start_server()
    return name or "server-anywhere"


def crash_once(federation: Federation, chance: random.Random, tally: Tally, after: int) -> str:
    """Do one crash and restart what was killed; return what it was, or "" for none.

    Steps up to number `after` are not waited for.
    """
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    if kind == "server":
        return kill_server(federation, tally, after)
    time.sleep(chance.uniform(0.0, 3.0))
    if kind == "superlink":
        return kind if kill_superlink(federation, tally) else "superlink, idle"
    if kind == "server-app":
        return kind if kill_server_app(federation, chance, tally) else ""
    federation.kill("server")
    federation.start_server()
    return kind


def checkpoint_rounds(federation: Federation, flower_id: object) -> list[int]:
    """Return the rounds of which a Flower run left a checkpoint."""
    files = (federation.state / "results" / EXPERIMENT / str(flower_id)).glob("checkpoint-round-*.pt")
    return sorted(int(file.stem.rsplit("-", 1)[-1]) for file in files)


def submission_problems(federation: Federation, asked: list[int]) -> list[str]:
    """Return which runs and submissions are lost, doubled or left over."""
    found = []
    runs = dict(federation.rows("SELECT id, state FROM runs"))
    if sorted(map(str, runs)) != sorted(map(str, asked)):
        found.append(f"runs in the register: {sorted(map(str, runs))}, asked for: {asked}")
    found += [f"run {run} ended as {state}" for run, state in runs.items() if state != "succeeded"]
    attempts = {
        str(token): (run, number)
        for token, run, number in federation.rows("SELECT token, run_id, number FROM attempts")
    }
    listed = federation.flower_runs()
    tokens = Counter(row["fab-version"].rsplit(".", 1)[-1] for row in listed)
    found += [
        f"attempt {attempts.get(token)} was submitted {count} times" for token, count in tokens.items() if count > 1
    ]
    found += [f"a submission with token {token} belongs to no attempt" for token in tokens if token not in attempts]
    found += [
        f"Flower still has run {row['run-id']} as {row['status']}"
        for row in listed
        if not row["status"].startswith("finished")
    ]
    completed = [row["fab-version"].rsplit(".", 1)[-1] for row in listed if row["status"] == "finished:completed"]
    succeeded = Counter(attempts[token][0] for token in completed if token in attempts)
    return found + [f"run {run} succeeded {count} times in Flower" for run, count in succeeded.items() if count > 1]


def retry_problems(federation: Federation, tally: Tally) -> list[str]:
    """Return which attempts whose ServerApp died were not closed and retried from their last checkpoint."""
    found = []
    rows = federation.rows(
        "SELECT run_id, number, flower_run_id, reason, resume_from FROM attempts ORDER BY run_id, number"
    )
    attempts = {(run, number): (str(flower_id), reason, resume) for run, number, flower_id, reason, resume in rows}
    by_flower_id = {flower_id: key for key, (flower_id, _, _) in attempts.items()}
    for flower_id, cause in tally.dead.items():
        name = f"Flower run {flower_id}, killed by {cause}"
        if flower_id not in by_flower_id:
            found.append(f"{name}: belongs to no attempt")
            continue
        run, number = by_flower_id[flower_id]
        reason = attempts[run, number][1]
        if reason not in DIED:
            found.append(f"{name}: its attempt was closed as {reason}")
        following = attempts.get((run, int(str(number)) + 1))
        # One that died before its first own round leaves none: the next begins where it began.
        own = checkpoint_rounds(federation, flower_id)
        wanted = f"/{flower_id}/checkpoint-round-{own[-1]:06d}.pt" if own else str(attempts[run, number][2])
        if following is None or not str(following[2]).endswith(wanted):
            found.append(f"{name}: the next attempt is {following}, not one from {wanted}")
    for run in {run for run, _ in attempts}:
        made = [
            n
            for key, (flower_id, _, _) in attempts.items()
            if key[0] == run
            for n in checkpoint_rounds(federation, flower_id)
        ]
        if made != list(range(1, ROUNDS + 1)):
            found.append(f"run {run} made the rounds {made}")
    return found


def summary(federation: Federation, tally: Tally, asked: list[int]) -> dict[str, object]:
    """Return what happened, in counts."""
    (attempts, retries, resumed), *_ = federation.rows(
        "SELECT count(*), sum(number > 1), count(resume_from) FROM attempts"
    )
    return {
        "crashes": sum(tally.hits.values()),
        "crashes_by_moment": dict(tally.hits.most_common()),
        "died_amid_rounds": dict(Counter(tally.dead.values())),
        "runs": len(asked),
        "attempts": attempts,
        "attempts_by_reason": dict(federation.rows("SELECT reason, count(*) FROM attempts GROUP BY reason")),
        "retries": retries,
        "retries_from_a_checkpoint": resumed,
    }


def main() -> int:
    """Crash as often as wanted, let everything end, and look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crashes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what happened, as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="fleven-crash-"))
    federation = Federation(folder, concurrent=IN_FLIGHT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked: list[int] = []
    tally = Tally()
    began = time.monotonic()
    try:
        federation.start()
        federation.wait_for_register(60)
        names = [f"crash-{index}" for index in range(IN_FLIGHT)]
        for name in names:
            federation.command(
                *("schedule", "add", name, "--manual", "--min-nodes", "2", "--retry", "50", "--retry-backoff", "1s"),
                *("--overlap", "queue", "--set", f"rounds={ROUNDS}", "--set", f"pause-seconds={PAUSE_SECONDS}"),
            )
        while sum(tally.hits.values()) < options.crashes:
            busy = {str(row[0]) for row in federation.rows("SELECT schedule_name FROM runs WHERE ended_at IS NULL")}
            after = federation.last_step()
            asked += [federation.request(name) for name in names if name not in busy]
            if name := crash_once(federation, chance, tally, after):
                tally.hits[name] += 1
                print(f"{time.monotonic() - began:6.0f} s  crash {sum(tally.hits.values()):3d}: {name}", flush=True)
        ended = federation.wait_until("SELECT 1 FROM runs WHERE ended_at IS NULL", RUN_TIMEOUT_SECONDS)
        problems = ["runs are still open"]
        if ended:
            problems = submission_problems(federation, asked) + retry_problems(federation, tally)
        wanted = options.crashes // 10
        if len(tally.dead) < wanted:
            problems.append(f"only {len(tally.dead)} ServerApps died amid their rounds, at least {wanted} should have")
        found = summary(federation, tally, asked) | {"problems": problems}
    finally:
        federation.stop()
    found |= {"seconds": round(time.monotonic() - began), "machine": describe()}
    print("", *(f"{name}: {value}" for name, value in found.items()), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if problems or options.keep:
        print(f"logs: {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
