"""What the cell costs a round: tasks in it, and the same tasks outside it, in turn, on one booted machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from testbed.base import host_architecture
from testbed.bed import Bed
from testbed.fleet import Fleet, install

pytestmark = [pytest.mark.machines, pytest.mark.slow, pytest.mark.timeout(1800)]

PROJECT = Path(__file__).resolve().parents[2]
PROGRAMS = "PATH=/usr/lib/fleven/node/bin:/usr/lib/fleven/server/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RESULT = "/tmp/overhead.json"


def test_a_round_in_the_cell_takes_no_more_than_a_twentieth_longer(suite: str, debs: Path) -> None:
    with Bed("flover", suite, host_architecture()) as bed:
        fleet = Fleet.on(bed, debs, 0)
        machine = fleet.server
        machine.bind.append(PROJECT)
        fleet.boot()
        fleet.install()
        install(machine, fleet.package("node"))
        machine.run("systemctl", "stop", "fleven-server.target")
        done = machine.try_run(
            *("env", PROGRAMS, "/usr/lib/fleven/node/bin/python3", f"/mnt/{PROJECT.name}/benchmarks/round_overhead.py"),
            *("--cell", "/run/fleven-task/cell.sock", "--trips", "/var/lib/fleven/data/benchmark"),
            *("--rounds", "10", "--repeats", "4", "--json", RESULT),
            timeout_seconds=1700,
        )
        print(done.output)
        assert done.exit_code == 0, done.output + done.errors[-3000:]
        found = machine.run("cat", RESULT)
        if kept := os.environ.get("FLEVEN_MACHINES_RESULTS"):
            (Path(kept) / "cell_overhead.json").write_text(found)
        kinds = {row["kind"] for row in json.loads(found)["results"]}
        assert kinds == {"fleven", "cell"}
