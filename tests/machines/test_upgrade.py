"""A fleet that was installed as the release before goes on after `apt install` of this one, and back.

The packages of the release before are built from this repository's history (or named by FLEVEN_PREVIOUS_DEBS); without
either the tests skip and say so.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testbed import previous
from testbed.fleet import Fleet, install, together
from testbed.machine import Machine
from testbed.shell import wait_for

pytestmark = [pytest.mark.machines, pytest.mark.timeout(1200)]

OPEN_FLEET = "/etc/fleven/node.toml.d/00-open-fleet.toml"


@pytest.fixture(scope="module")
def previous_debs(previous_build: previous.Build | None) -> Path:
    """Folder with both packages of the release before."""
    if given := os.environ.get("FLEVEN_PREVIOUS_DEBS"):
        return Path(given).resolve()
    if previous_build is None:
        text = f"this checkout's history does not reach {previous.RELEASE}: fetch it, or set FLEVEN_PREVIOUS_DEBS"
        pytest.skip(text)
    return previous_build.wait()


@pytest.fixture(scope="module")
def old_fleet(previous_debs: Path, debs: Path, suite: str, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A server and two cars with the release before, after one run; a schedule stands, and a car is drained."""
    from testbed.base import host_architecture
    from testbed.bed import Bed

    kept = Path(os.environ.get("FLEVEN_MACHINES_LOGS", "/tmp/fleven-machines-logs"))
    failures = request.session.testsfailed
    with Bed(f"fu{os.getpid() % 10_000}", suite, host_architecture(), kept) as bed:
        server = bed.add("server", bind=[previous_debs, debs])
        nodes = [bed.add(f"n{number}", bind=[previous_debs, debs]) for number in (1, 2)]
        fleet = Fleet(bed, previous_debs, server, nodes)
        fleet.boot()
        fleet.install()
        fleet.start_agents()
        fleet.wait_ready()
        yield fleet
        if request.session.testsfailed > failures:
            bed.collect(kept)
            print(f"journals of all machines: {kept}")


def version_of(machine: Machine, package: str) -> str:
    return machine.run("dpkg-query", "-W", "-f", "${Version}", package)


def seen_by_the_operator(fleet: Fleet) -> dict[str, Any]:
    """What must be the same before and after: schedules, runs with their steps, the nodes' names and identities."""
    schedules = fleet.get("schedules").get("schedules", [])
    runs = [fleet.get(f"runs/{one['id']}") for one in fleet.get("runs").get("runs", [])]
    return {
        "schedules": [(one["name"], one["spec"], one["paused"]) for one in schedules],
        "runs": [(one["id"], one["state"], [step["state"] for step in one["steps"]]) for one in runs],
        # Without those that ask to join: each car of an open fleet does so, beside its work.
        "nodes": sorted(
            (one["name"], one["partition_id"]) for one in fleet.get("nodes")["nodes"] if one["health"] != "pending"
        ),
    }


def remembered(node: Machine) -> dict[str, Any]:
    """The part of the agent's state that an upgrade must not lose."""
    state = json.loads(node.run("cat", "/var/lib/fleven/state.json"))
    return {key: state[key] for key in ("sender_id", "drained", "drain_reason")}


def spooled(node: Machine) -> int:
    """Number of files in the spool."""
    return int(node.shell("find /var/lib/fleven/spool -type f | wc -l"))


def test_an_upgrade_keeps_register_state_spool_and_schedules(old_fleet: Fleet, debs: Path) -> None:
    fleet, (first, second) = old_fleet, old_fleet.nodes
    assert version_of(first, "fleven-node").startswith(previous.RELEASE)
    result = fleet.run_now("--set", "rounds=1", "--min-nodes", "2")
    assert result.exit_code == 0, result.output + result.errors
    add = ("fleven-server", "schedule", "add", "nightly", "--cron", "0 2 * * *", "--timezone", "America/Sao_Paulo")
    fleet.server.run(*add, "--min-nodes", "2", "--set", "rounds=7")
    fleet.server.run("fleven-server", "schedule", "pause", "nightly")
    second.run("fleven-agent", "drain", "--reason", "new tyres")
    before, states = seen_by_the_operator(fleet), [remembered(node) for node in fleet.nodes]
    configuration = [machine.run("cat", file) for machine, file in _conffiles(fleet)]
    # While the server is away the cars' changes wait in their spools, across the upgrade.
    fleet.server.run("systemctl", "stop", "fleven-server")
    first.run("systemctl", "restart", "fleven-agent")
    wait_for("something waits in the spool", lambda: spooled(first) > 0, 60)

    new = Fleet(fleet.bed, debs, fleet.server, fleet.nodes)
    together(*[lambda node=node: install(node, new.package("node")) for node in fleet.nodes])
    assert spooled(first) > 0, "the reports that waited are still there"
    install(fleet.server, new.package("server"))
    assert not version_of(fleet.server, "fleven-server").startswith(previous.RELEASE)
    fleet.wait_ready(first.name)
    wait_for("the spool is empty", lambda: spooled(first) == 0, 60)

    assert seen_by_the_operator(fleet) == before
    assert [remembered(node) for node in fleet.nodes] == states
    assert [machine.run("cat", file) for machine, file in _conffiles(fleet)] == configuration
    events = fleet.ask(fleet.server, "fleven-server", "nodes", "history", first.name)
    assert events, "the history goes on"
    second.run("fleven-agent", "undrain")
    fleet.wait_ready()
    result = fleet.run_now("--set", "rounds=1", "--min-nodes", "2")
    assert result.exit_code == 0, result.output + result.errors


def test_a_downgrade_goes_back_to_work(old_fleet: Fleet) -> None:
    """The cars go back, under a server that stays as it is."""
    fleet = old_fleet
    before = [remembered(node) for node in fleet.nodes]

    def back(node: Machine) -> None:
        node.run(
            "apt-get", "install", "-y", "--allow-downgrades", f"./mnt/{fleet.package('node')}", timeout_seconds=900
        )

    together(*[lambda node=node: back(node) for node in fleet.nodes])
    for node in fleet.nodes:
        # That release does not know them: nothing of them is left at work, or starts at the next boot.
        for unit in ("fleven-task.socket", "fleven-task.service", "fleven-node-firewall.service"):
            assert node.show(unit, "ActiveState") == "inactive", unit
        assert node.shell("find /etc/systemd/system -name 'fleven-*' -xtype l") == ""
        assert node.try_run("nft", "list", "table", "inet", "fleven_node").exit_code != 0
    fleet.wait_ready()
    assert [remembered(node) for node in fleet.nodes] == before
    result = fleet.run_now("--set", "rounds=1", "--min-nodes", "2")
    assert result.exit_code == 0, result.output + result.errors
    assert re.search(r"succeeded", result.output)


def test_the_server_goes_back_and_up_again_and_nothing_is_lost(old_fleet: Fleet, debs: Path) -> None:
    """The older server has the register of before the upgrade; what was recorded since is kept, and can be restored."""
    fleet, server = old_fleet, old_fleet.server
    new = Fleet(fleet.bed, debs, fleet.server, fleet.nodes)
    recorded = seen_by_the_operator(fleet)
    package = f"./mnt/{fleet.package('server')}"
    went = server.try_run("apt-get", "install", "-y", "--allow-downgrades", package, timeout_seconds=900)
    assert went.exit_code == 0, went.output + went.errors
    said = went.output + went.errors
    assert "begins with the register of before the upgrade (" in said, said
    assert version_of(server, "fleven-server").startswith(previous.RELEASE)
    fleet.wait_ready()
    older = seen_by_the_operator(fleet)
    assert older["schedules"] == recorded["schedules"]
    assert older["nodes"] == recorded["nodes"]
    assert 0 < len(older["runs"]) < len(recorded["runs"])
    assert all(run in recorded["runs"] for run in older["runs"])
    result = fleet.run_now("--set", "rounds=1", "--min-nodes", "2")
    assert result.exit_code == 0, result.output + result.errors
    newest = seen_by_the_operator(fleet)

    came = server.try_run("apt-get", "install", "-y", f"./mnt/{new.package('server')}", timeout_seconds=900)
    assert came.exit_code == 0, came.output + came.errors
    fleet.wait_ready()
    assert seen_by_the_operator(fleet) == newest
    found = re.search(r"fleven-server restore (\S+) --force", came.output + came.errors)
    assert found is not None, came.output + came.errors
    server.run("systemctl", "stop", "fleven-server", "fleven-superlink")
    server.run("fleven-server", "restore", found[1], "--force")
    server.run("systemctl", "start", "fleven-superlink", "fleven-server")
    fleet.wait_ready()
    assert seen_by_the_operator(fleet) == recorded
    result = fleet.run_now("--set", "rounds=1", "--min-nodes", "2")
    assert result.exit_code == 0, result.output + result.errors


def test_an_open_fleet_is_moved_over_car_by_car_while_it_runs(old_fleet: Fleet, debs: Path) -> None:
    """The upgrade keeps it open; one car joins by an invitation, the other is accepted; then the doors are shut."""
    new = Fleet(old_fleet.bed, debs, old_fleet.server, old_fleet.nodes)
    first, second = new.nodes
    together(*[lambda node=node: install(node, new.package("node")) for node in new.nodes])
    for node in new.nodes:
        assert "insecure = true" in node.run("cat", OPEN_FLEET)
    assert _standing(first) in {"pending", "None"}

    code = new.ask(new.server, "fleven-server", "nodes", "invite", "n1", "--partition", "0")["invitations"][0]["code"]
    joined = new.ask(first, "fleven-agent", "join", code)
    assert (joined["partition_id"], joined["ready"]) == (0, True)
    wait_for("the second one asks", lambda: _standing(second) == "pending", 60)
    new.server.run("fleven-server", "nodes", "accept", "n2")
    wait_for("it is accepted", lambda: _standing(second) == "accepted", 60)
    assert "--insecure" in first.shell("tr '\\0' ' ' </proc/$(pgrep -of flower-supernode)/cmdline")
    result = new.run_now("--set", "rounds=1", "--min-nodes", "2")
    assert result.exit_code == 0, result.output + result.errors

    new.server.run("fleven-server", "trust", "enforce")
    for node in new.nodes:
        wait_for(f"{node.name} speaks TLS", lambda n=node: _speaks_tls(n), 120)
    result = new.run_now("--set", "rounds=1", "--min-nodes", "2")
    assert result.exit_code == 0, result.output + result.errors


def _standing(node: Machine) -> str:
    result = node.try_run("fleven-agent", "status", "--json")
    return str((json.loads(result.output).get("identity") or {}).get("standing")) if result.exit_code == 0 else ""


def _speaks_tls(node: Machine) -> bool:
    result = node.try_run("fleven-agent", "status", "--json")
    running = result.exit_code == 0 and json.loads(result.output)["state"] == "running"
    line = node.try_run("sh", "-c", "tr '\\0' ' ' </proc/$(pgrep -of flower-supernode)/cmdline")
    return running and "--root-certificates" in line.output


def _conffiles(fleet: Fleet) -> list[tuple[Machine, str]]:
    return [(fleet.server, "/etc/fleven/server.toml"), *((node, "/etc/fleven/node.toml") for node in fleet.nodes)]
