"""What the cells cost a round: tasks and ServerApps in them, and outside of them, in turn, on one booted machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.base import host_architecture
from testbed.bed import Bed
from testbed.fleet import Fleet, install
from testbed.machine import Machine

pytestmark = [pytest.mark.machines, pytest.mark.slow, pytest.mark.timeout(1800)]

PROJECT = Path(__file__).resolve().parents[2]
PROGRAMS = "PATH=/usr/lib/fleven/node/bin:/usr/lib/fleven/server/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RESULT = "/tmp/overhead.json"


@pytest.fixture(scope="module")
def machine(suite: str, debs: Path) -> Iterator[Machine]:
    """A machine with both packages and neither an agent nor a server at work."""
    with Bed(f"fo{os.getpid() % 10_000}", suite, host_architecture()) as bed:
        fleet = Fleet.on(bed, debs, 0)
        made = fleet.server
        made.bind.append(PROJECT)
        fleet.boot()
        fleet.install()
        install(made, fleet.package("node"))
        made.run("systemctl", "stop", "fleven-server.target")
        yield made


@pytest.mark.parametrize(
    ("option", "name", "kinds"),
    [
        ("--cell=/run/fleven-task/cell.sock", "cell_overhead", {"fleven", "cell"}),
        ("--app-cell=/run/fleven-app/cell.sock", "app_cell_overhead", {"server-app", "server-cell"}),
    ],
    ids=["car", "server"],
)
def test_a_round_in_the_cell_takes_no_more_than_a_twentieth_longer(
    machine: Machine, option: str, name: str, kinds: set[str]
) -> None:
    machine.run("systemctl", "start", "fleven-task.socket", "fleven-app.socket")
    done = machine.try_run(
        *("env", PROGRAMS, "/usr/lib/fleven/node/bin/python3", f"/mnt/{PROJECT.name}/benchmarks/round_overhead.py"),
        *(option, "--nodes", "1", "--trips", f"/var/lib/fleven/data/{name}"),
        *("--rounds", "10", "--repeats", "4", "--json", RESULT),
        timeout_seconds=1700,
    )
    print(done.output)
    found = machine.run("cat", RESULT)
    if kept := os.environ.get("FLEVEN_MACHINES_RESULTS"):
        (Path(kept) / f"{name}.json").write_text(found)
    machine.run("rm", RESULT)
    assert done.exit_code == 0, done.output + done.errors[-3000:]
    assert {row["kind"] for row in json.loads(found)["results"]} == kinds
