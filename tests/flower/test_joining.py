"""Cars join a real server and train under real Flower: invited, accepted, revoked, with a new key, and copied."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from agent_harness import Agent
from joined_fleet import Server, join, settings

from fleven_agent.system import procfs

pytestmark = [pytest.mark.flower, pytest.mark.timeout(300)]


def test_cars_join_work_under_a_new_key_and_leave(server: Server, cars: list[Agent]) -> None:
    server.start()
    invited, waiting = cars
    invited.config.write_text(settings(0), encoding="utf-8")
    first = join(invited, server.invite("car-0", "--partition", "5"), "--no-start")
    assert (first["name"], first["partition_id"]) == ("car-0", 5)
    invited.start()
    status = invited.wait_state("running", seconds=60)
    assert status["node"]["partition_id"] == 5
    checked = invited.run("check", "--config", str(invited.config), "--only", "network", "--json", timeout=60)
    outcomes = {one["id"]: (one["status"], one["message"]) for one in json.loads(checked.stdout)["checks"]}
    address = f"127.0.0.1:{server.fleet}"
    assert outcomes["network.superlink-api"] == ("ok", f"{address} is the Fleet API"), outcomes

    waiting.config.write_text(settings(1, server), encoding="utf-8")
    waiting.start()
    shown = waiting.wait_condition("enrolment-pending", 30)
    shown = waiting.wait("its fingerprint", lambda: s if (s := waiting.status() or {}).get("identity") else None)
    pending = server("nodes", "pending", "--json").stdout
    assert shown["identity"]["key_fingerprint"] in pending
    assert waiting.status()["state"] == "gated"  # type: ignore[index]
    accepted = server("nodes", "accept", "car-1")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    waiting.wait_state("running", seconds=60)

    before = waiting.status()["identity"]["key_fingerprint"]  # type: ignore[index]
    rotated = server("nodes", "rotate", "car-1")
    assert rotated.returncode == 0, rotated.stdout + rotated.stderr
    waiting.wait(
        "a new key", lambda: ((waiting.status() or {}).get("identity") or {}).get("key_fingerprint") != before, 60
    )
    waiting.wait_state("running", seconds=60)
    ends = [line for line in waiting.log().splitlines() if "superlink-rejected" in line]
    assert ends == [], "SuperNode was started before the SuperLink took its key"

    revoked = server("nodes", "revoke", "car-0")
    assert revoked.returncode == 0, revoked.stdout + revoked.stderr
    invited.wait_condition("enrolment-refused", 30)
    invited.wait_state("gated")

    copied_and_held(server, waiting, invited)


def copied_and_held(server: Server, car: Agent, other: Agent) -> None:
    """Let another board work with a copy of a car's card. Both see this machine's one boot id."""
    other.stop()
    shutil.rmtree(other.state)
    shutil.copytree(car.state, other.state, ignore=shutil.ignore_patterns("agent.lock", "*.sock"))
    other.config.write_text(settings(1, server), encoding="utf-8")
    other.start()
    began = time.monotonic()
    for board in (other, car):
        board.wait_condition("identity-held", 30)
        board.wait_state("gated")
    assert time.monotonic() - began < 15, "noticed, and both are told, within a few reports"
    shown = json.loads(server("nodes", "--json").stdout)["nodes"]
    assert [one["health"] for one in shown if one["name"] == "car-1"] == ["held"]
    assert "event=car-held node=car-1" in server.said()


@pytest.mark.slow  # the same way is gone by the packages in tests/machines/test_upgrade.py
def test_an_open_fleet_is_moved_over_while_it_runs(server: Server, cars: list[Agent]) -> None:
    """As after the upgrade of version 0.1.0: an open server, cars with insecure = true; then one by one, then all."""
    server.doors("open")
    server.start()
    first, second = cars
    for number, car in enumerate(cars):
        text = settings(number, server).replace("insecure = false", "insecure = true").replace("https://", "http://")
        car.config.write_text(text, encoding="utf-8")
        car.start()
    for car in cars:
        car.wait_state("running", seconds=60)
        assert "--insecure" in command_line(car)
    answer = join(first, server.invite("car-0", "--partition", "0"))
    assert answer["ready"]
    second.wait("it asks by the way", lambda: standing(second) == "pending", 60)
    accepted = server("nodes", "accept", "car-1")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    second.wait("it is let in", lambda: standing(second) == "accepted", 60)
    for car in cars:
        assert "--insecure" in command_line(car), "the SuperLink is still open"
        car.wait("reports by TLS", lambda c=car: str((c.status() or {})["report_url"]).startswith("https://"))

    server.stop()
    server.doors("shut")
    server.start()
    for car in cars:
        car.wait("TLS", lambda c=car: "--root-certificates" in command_line(c), 90)
        car.wait_state("running", seconds=90)


def standing(agent: Agent) -> str:
    return str(((agent.status() or {}).get("identity") or {}).get("standing"))


def command_line(agent: Agent) -> list[str]:
    pid = (agent.status() or {}).get("supernode_pid")
    return procfs.command_line(pid) if pid else []
