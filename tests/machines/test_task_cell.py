"""What honest runs need of the cell: a car's own model between runs, the cold way, and a word where there is none."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from testbed.base import host_architecture
from testbed.bed import Bed
from testbed.fleet import Fleet
from testbed.machine import Machine
from testbed.shell import wait_for

pytestmark = [pytest.mark.machines, pytest.mark.slow, pytest.mark.timeout(900)]

KEPT = "/var/lib/fleven-models/Fleven-Deploy"
DROP_IN = "/etc/fleven/node.toml.d/50-test.toml"
HEADS = (
    "import glob, json, sys; import numpy as np; "
    "print(json.dumps({p: np.load(p)['weights'].tolist() for p in glob.glob(sys.argv[1])}))"
)


@pytest.fixture(scope="module")
def fleet(suite: str, debs: Path) -> Iterator[Fleet]:
    """A server and two cars that are ready, as they are installed."""
    with Bed("flcell", suite, host_architecture()) as bed:
        fleet = Fleet.on(bed, debs, 2)
        fleet.boot()
        fleet.install()
        fleet.start_agents()
        fleet.wait_ready()
        yield fleet


@pytest.fixture(scope="module")
def car(fleet: Fleet) -> Machine:
    """The car that the tests change."""
    return fleet.nodes[0]


def run(fleet: Fleet, *options: str) -> dict[str, Any]:
    """Run with both cars to the end; return what the server knows of it."""
    number = fleet.submit("--min-nodes", "2", *options)
    assert fleet.wait_end(number) == "succeeded", fleet.server.shell(f"fleven-server runs logs {number}")
    return fleet.run_json(number)


def warmth(car: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(car.shell("fleven-agent status --json"))["warm"]
    return found


def kept(car: Machine, pattern: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = json.loads(
        car.run("/usr/lib/fleven/node/bin/python3", "-c", HEADS, f"{KEPT}/{pattern}")
    )
    return found


@contextmanager
def configured(car: Machine, text: str) -> Iterator[None]:
    """With these lines in the car's configuration."""
    car.write(DROP_IN, text)
    car.run("systemctl", "reload", "fleven-agent")
    try:
        yield
    finally:
        car.run("rm", DROP_IN)
        car.run("systemctl", "reload", "fleven-agent")


def test_a_cars_own_model_is_written_and_used_and_stays_between_runs(fleet: Fleet, car: Machine) -> None:
    ended = run(fleet, "--set", "rounds=1", "--set", "personal=fine-tune")
    rows = {row["node_name"]: row for row in ended["clients"] if row.get("personal_kept") is not None}
    # It is kept where it was better than the global one on what was held back.
    for machine in fleet.nodes:
        own = machine.shell(f"ls {KEPT}/*.personal.npz 2>/dev/null | wc -l").strip() == "1"
        assert own is bool(rows[machine.name]["personal_kept"]), rows[machine.name]
    modes = car.shell(f"stat -c '%U:%G %a' {KEPT} {KEPT}/*").split("\n")[:-1]
    assert modes[0] == "fleven-task:fleven-task 750"
    assert set(modes[1:]) == {"fleven-task:fleven-task 640"}
    trip = car.shell("ls /var/lib/fleven/data/client_0/* | head -1").strip()
    for user, command in (("root", ()), ("fleven", ("runuser", "-u", "fleven", "--"))):
        said = car.try_run(*command, "fleven", "predict", trip, "--out", f"/tmp/{user}.csv")
        assert said.exit_code == 0, said.errors
        kind = "personal" if rows[car.name]["personal_kept"] else "global"
        assert f"by {KEPT}/" in said.errors
        assert f".{kind}.npz" in said.errors
    refused = car.try_run("runuser", "-u", "nobody", "--", "fleven", "predict", trip)
    assert (refused.exit_code != 0, "group fleven-task" in refused.errors) == (True, True), refused.errors


def test_a_head_that_stays_in_the_car_is_where_the_next_run_begins_also_after_another_app(
    fleet: Fleet, car: Machine
) -> None:
    run(fleet, "--set", "rounds=2", "--set", "personal=head")
    before = kept(car, "*.head.npz")
    assert len(before) == 1
    # Another app's files in the cell are removed; what the car keeps stays.
    fleet.server.shell(
        "cp -r /usr/share/fleven/app /var/lib/fleven-server/other-app; "
        "sed -i 's/^version = .*/version = \"9.9.9\"/' /var/lib/fleven-server/other-app/pyproject.toml; "
        "chown -R fleven-server: /var/lib/fleven-server/other-app"
    )
    run(
        fleet, "--app", "/var/lib/fleven-server/other-app", "--set", "rounds=1", "--set", "personal=head",
        "--set", "learning-rate=0.000000001",
    )  # fmt: skip
    after = kept(car, "*.head.npz")
    assert after.keys() == before.keys()
    (old,), (new,) = before.values(), after.values()
    # Nearly no step was made: had it begun anew, it would be another one altogether.
    assert max(abs(a - b) for a, b in zip(old, new, strict=True)) < 1e-4
    assert max(abs(value) for value in old) > 0.01


def test_the_cold_way_goes_through_the_cell_too(fleet: Fleet, car: Machine) -> None:
    with configured(car, '[warm]\nmode = "off"\n'):
        wait_for("the agent has read it", lambda: warmth(car)["state"] == "off", 60, 1.0)
        fleet.wait_ready()
        before = warmth(car)["tasks_cold"]
        number = fleet.submit("--min-nodes", "2", "--set", "rounds=2")
        users: set[str] = set()
        while fleet.run_json(number).get("state") not in {"succeeded", "failed"}:
            lines = car.shell("ps -eo user:20,args").splitlines()
            users |= {line.split()[0] for line in lines if "bin/flwr-clientapp" in line and "--token-file" in line}
            time.sleep(0.3)
        assert fleet.run_json(number)["state"] == "succeeded"
        assert warmth(car)["tasks_cold"] >= before + 3
        assert "fleven-task" in users, users
    fleet.wait_ready()


def test_a_car_without_a_cell_says_so_and_trains_only_when_it_is_told_to(fleet: Fleet, car: Machine) -> None:
    units = ("fleven-task.socket", "fleven-task.service")
    car.run("systemctl", "mask", "--now", *units)
    try:
        wait_for("the car is gated", lambda: fleet.agent_state(car) == "gated", 120, 1.0)
        status = car.try_run("fleven-agent", "status").output
        assert "tasks cannot be isolated from this machine" in status, status
        assert '[cell] mode = "off"' in status
        fleet.wait_condition("gated")
        assert "tasks cannot be isolated" in car.journal("-u", "fleven-agent")
        assert car.processes("bin/flower-supernode") == []
        with configured(car, '[cell]\nmode = "off"\n'):
            fleet.wait_ready()
            before = car.shell("ls /var/lib/fleven/flwr/fleven-car 2>/dev/null || true")
            run(fleet, "--set", "rounds=1")
            assert car.shell("ls /var/lib/fleven/flwr/fleven-car") != before  # as the agent's user
    finally:
        car.run("systemctl", "unmask", *units)
        car.run("systemctl", "start", "fleven-task.socket")
    fleet.wait_ready()
    run(fleet, "--set", "rounds=1")


def test_a_run_goes_on_when_the_cell_is_stopped_in_a_round(fleet: Fleet, car: Machine) -> None:
    number = fleet.submit("--set", "rounds=4", "--set", "min-nodes=1", "--min-nodes", "2")
    fleet.wait_round(number, 1)
    stopped = car.show("fleven-task", "MainPID")
    begin = time.monotonic()
    car.run("kill", "-STOP", stopped)
    # As the agent sees it: another one, which takes tasks.
    wait_for("another cell", lambda: str(warmth(car)["process_id"]) not in {stopped, "None"}, 60, 0.2)
    seconds = time.monotonic() - begin
    wait_for("it is warm", lambda: warmth(car)["state"] == "ready", 60, 0.5)
    print(f"a stopped cell took tasks again after {seconds:.1f} s, and was warm after {time.monotonic() - begin:.1f} s")
    assert seconds < 30
    assert fleet.wait_end(number) == "succeeded"
    run(fleet, "--set", "rounds=1")


def test_every_unit_is_tight(fleet: Fleet, car: Machine) -> None:
    found: dict[str, float] = {}
    for machine in (fleet.server, car):
        for unit in machine.shell("systemctl list-unit-files --no-legend 'fleven-*.service' | cut -d' ' -f1").split():
            said = json.loads(machine.run("systemd-analyze", "security", "--no-pager", "--json=short", unit))
            assert said
            line = machine.run("systemd-analyze", "security", "--no-pager", unit).splitlines()[-1]
            found[unit] = float(line.split(":")[1].split()[0])
    print(found)
    assert len(found) >= 6
    assert max(found.values()) <= 2.0, found
