"""Cars on booted machines join the server that apt installed: invited, accepted, revoked in a run, rotated, copied.

And what they trust is renewed under them, changed, and let expire.

The tests build on each other, as an operator's days do. They ask by commands only, on the machine that they are about.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from testbed.fleet import Fleet, install, together
from testbed.machine import Machine
from testbed.shell import wait_for

# Slow: tests/flower/test_joining.py goes most of this way in each run, and CI has 45 minutes for everything.
pytestmark = [pytest.mark.machines, pytest.mark.slow, pytest.mark.timeout(900)]
ENDED = {"succeeded", "failed", "timed-out", "cancelled", "skipped"}


def status(node: Machine) -> dict[str, Any]:
    """What a car's agent says; empty while it does not answer."""
    result = node.try_run("fleven-agent", "status", "--json")
    return dict(json.loads(result.output)) if result.exit_code == 0 else {}


def standing(node: Machine) -> str:
    return str((status(node).get("identity") or {}).get("standing"))


def conditions(node: Machine) -> set[str]:
    return {one["code"] for one in status(node).get("conditions", [])}


def wait_running(*nodes: Machine, seconds: float = 120) -> None:
    for node in nodes:
        wait_for(f"{node.name} running", lambda n=node: status(n).get("state") == "running", seconds)


def health(fleet: Fleet) -> dict[str, str]:
    """How the server judges each car."""
    return {one["name"]: one["health"] for one in fleet.ask(fleet.server, "fleven-server", "nodes")["nodes"]}


def wait_ready(fleet: Fleet, *names: str, seconds: float = 180) -> None:
    wait_for(f"{names} ready", lambda: all(health(fleet).get(name) == "ready" for name in names), seconds, 2.0)


def run_of(fleet: Fleet, number: int) -> dict[str, Any]:
    return dict(fleet.ask(fleet.server, "fleven-server", "runs", "show", str(number)))


def test_three_cars_join_with_one_command_each(fleet: Fleet) -> None:
    first, second, third = fleet.nodes
    install(fleet.server, fleet.package("server"))
    together(*[lambda n=node: install(n, fleet.package("node")) for node in fleet.nodes])
    for number, node in enumerate(fleet.nodes):
        fleet.give_trips(node, number)
    answer = fleet.ask(fleet.server, "fleven-server", "nodes", "invite", "n1", "--count", "2")
    codes = [one["code"] for one in answer["invitations"]]
    assert len(codes) == 2
    joined = []
    for node, code in zip((first, second), codes, strict=True):
        joined.append(fleet.step(f"{node.name} joins", lambda n=node, c=code: fleet.ask(n, "fleven-agent", "join", c)))
    assert [(one["name"], one["partition_id"], one["ready"]) for one in joined] == [("n1", 0, True), ("n2", 1, True)]
    text = first.run("cat", "/etc/fleven/node.toml")
    assert "\npartition-id = 0\n" in text
    assert f'\nsuperlink = "{fleet.server.address}:9092"\n' in text
    again = second.try_run("fleven-agent", "join", codes[0], "--replace")
    assert (again.exit_code, "traceback" in again.errors.lower()) == (1, False), again.errors
    owner = first.shell("stat -c '%U %a' /var/lib/fleven/identity /var/lib/fleven/identity/node.key").split("\n")
    assert owner[:2] == ["fleven 700", "fleven 600"]

    # The third one with its two lines: it waits, and is let in.
    fleet.configure(third, 2)
    third.run("systemctl", "start", "fleven-agent")
    wait_for("it waits", lambda: standing(third) == "pending", 60)
    assert status(third)["state"] == "gated"
    fingerprint = status(third)["identity"]["key_fingerprint"]
    assert fingerprint in third.journal("-u", "fleven-agent")
    assert fingerprint in json.dumps(fleet.ask(fleet.server, "fleven-server", "nodes", "pending"))
    fleet.server.run("fleven-server", "nodes", "accept", "n3")
    wait_running(third)


LONG_TASKS = ("--set", "local-epochs=60", "--set", "personal=none")
"""Tasks of several seconds, so that something can happen in the middle of one."""


def in_a_task(node: Machine) -> bool:
    """Return whether a car trains right now."""
    return (status(node).get("current_run") or {}).get("message_type") == "train"


def task_failures(node: Machine) -> int:
    return int(status(node)["counters"]["task_failures"])


def test_the_cars_train_and_one_that_is_revoked_in_a_run_is_gone(fleet: Fleet) -> None:
    first, second, third = fleet.nodes
    wait_ready(fleet, "n1", "n2", "n3")
    result = fleet.run_now("--set", "rounds=1", "--min-nodes", "3")
    assert result.exit_code == 0, result.output + result.errors
    before = [task_failures(node) for node in (first, third)]
    run = fleet.submit("--set", "rounds=6", *LONG_TASKS, "--min-nodes", "2")
    wait_for("all of them train", lambda: all(in_a_task(node) for node in fleet.nodes), 180)
    began = time.monotonic()
    fleet.server.run("fleven-server", "nodes", "revoke", "n2")
    wait_for("n2 knows it", lambda: "enrolment-refused" in conditions(second), 60)
    fleet.seconds["revoked until the car knows"] = round(time.monotonic() - began, 1)
    wait_for("n2 stopped", lambda: not second.processes("flower-supernode"), 60)
    fleet.seconds["revoked until its SuperNode is gone"] = round(time.monotonic() - began, 1)
    fleet.step("the run's end after it", lambda: fleet.wait_end(run, 400))
    assert run_of(fleet, run)["state"] == "succeeded"
    assert [task_failures(node) for node in (first, third)] == before, "a car was hit that nobody had revoked"
    second.run("systemctl", "restart", "fleven-agent")
    wait_for("it stays out", lambda: status(second).get("state") == "gated", 60)
    assert standing(second) == "revoked"


def test_a_new_key_takes_over_between_two_runs(fleet: Fleet) -> None:
    first = fleet.nodes[0]
    before = status(first)["identity"]["key_fingerprint"]
    fleet.server.run("fleven-server", "nodes", "rotate", "n1")
    wait_for("another key", lambda: (status(first).get("identity") or {}).get("key_fingerprint") != before, 90)
    wait_running(first)
    wait_ready(fleet, "n1", "n3")
    result = fleet.run_now("--set", "rounds=1", "--min-nodes", "2")
    assert result.exit_code == 0, result.output + result.errors


def test_the_copy_of_a_card_is_noticed_and_both_are_held(fleet: Fleet) -> None:
    first, second = fleet.nodes[:2]
    second.run("systemctl", "stop", "fleven-agent")
    copy = first.shell("tar -C /var/lib/fleven -c identity state.json | base64 -w0")
    second.shell("rm -rf /var/lib/fleven/identity /var/lib/fleven/state.json")
    second.run("sh", "-c", "base64 -d | tar -C /var/lib/fleven -x", text_input=copy)
    began = time.monotonic()
    second.run("systemctl", "start", "fleven-agent")
    # In their sandbox, both see the boot id of the one kernel under these machines.
    wait_for("noticed", lambda: health(fleet).get("n1") == "held", 120)
    fleet.seconds["the copy's start until it is noticed"] = round(time.monotonic() - began, 1)
    wait_for("both know", lambda: all("identity-held" in conditions(node) for node in (first, second)), 60)
    fleet.seconds["the copy's start until both know"] = round(time.monotonic() - began, 1)
    for node in (first, second):
        wait_for(f"{node.name} stopped", lambda n=node: not n.processes("flower-supernode"), 60)
        assert "identity-held" in node.journal("-u", "fleven-agent")
    shown = next(one for one in fleet.get("nodes")["nodes"] if one["name"] == "n1")
    assert "identity-held" in {one["code"] for one in shown["conditions"]}
    assert "event=car-held node=n1" in fleet.server.journal("-u", "fleven-server")
    # The operator finds the copy, takes it away, and lets the car in again.
    second.run("systemctl", "stop", "fleven-agent")
    second.shell("rm -rf /var/lib/fleven/identity")
    fleet.server.run("fleven-server", "nodes", "accept", "n1")
    wait_running(first)
    wait_ready(fleet, "n1")


def test_a_revoked_board_comes_back_only_by_a_new_invitation(fleet: Fleet) -> None:
    second = fleet.nodes[1]
    answer = fleet.ask(fleet.server, "fleven-server", "nodes", "invite", "n2")
    code = answer["invitations"][0]["code"]
    # As on a fresh card: a file in node.toml.d in place of the command.
    second.write("/etc/fleven/node.toml.d/10-join.toml", f'join = "{code}"\n')
    second.run("systemctl", "start", "fleven-agent")
    wait_running(second)
    assert standing(second) == "accepted"
    wait_ready(fleet, "n1", "n2", "n3")
