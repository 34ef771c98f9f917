"""From the first run to a model in three cars, on booted machines as apt installs them: promoted, delivered, used.

A worse candidate is refused, a rollback reaches the cars, one that was off meanwhile catches up, and a car predicts
without the server. The tests build on each other.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from testbed.fleet import Fleet, install, together
from testbed.machine import Machine
from testbed.shell import wait_for

pytestmark = [pytest.mark.machines, pytest.mark.slow, pytest.mark.timeout(1800)]
NAMES = ("n1", "n2", "n3")
EXPERIMENT = "Fleven-Deploy"


def model(node: Machine) -> dict[str, Any]:
    """What a car's agent says of its model; empty while it does not answer."""
    result = node.try_run("fleven-agent", "status", "--json")
    return dict(json.loads(result.output).get("model") or {}) if result.exit_code == 0 else {}


def wait_model(fleet: Fleet, version: int, *nodes: Machine) -> None:
    name = f"{EXPERIMENT}@{version}"

    def there() -> bool:
        return all((model(node).get("current") or {}).get("name") == name for node in nodes)

    fleet.step(f"{name} in {len(nodes)} cars", lambda: wait_for(f"{name} in use", there, 240, 2.0))


def ran(fleet: Fleet, schedule: str) -> dict[str, Any]:
    """Run a schedule to its end; return what the server knows of the run, once its model was taken in."""
    result = fleet.step(f"run of {schedule}", lambda: fleet.run_now(schedule))
    assert result.exit_code == 0, result.output + result.errors
    number = fleet.ask(fleet.server, "fleven-server", "runs", "list")[0]["id"]

    def shown() -> dict[str, Any]:
        return dict(fleet.ask(fleet.server, "fleven-server", "runs", "show", str(number)))

    wait_for("its model is taken in", lambda: shown()["model"] is not None, 90)
    return shown()


def test_the_first_model_is_promoted_and_reaches_three_cars(fleet: Fleet) -> None:
    install(fleet.server, fleet.package("server"))
    together(*[lambda n=node: install(n, fleet.package("node")) for node in fleet.nodes])
    for number, node in enumerate(fleet.nodes):
        fleet.give_trips(node, number)
    answer = fleet.ask(fleet.server, "fleven-server", "nodes", "invite", "n1", "--count", "3")
    for node, one in zip(fleet.nodes, answer["invitations"], strict=True):
        fleet.ask(node, "fleven-agent", "join", one["code"])
    fleet.wait_ready(*NAMES)
    common = ("--manual", "--min-nodes", "3", "--promote", "if-better")
    kinds = {
        "first": ("rounds=1", "local-epochs=1", "learning-rate=0.0005"),
        "worse": ("rounds=1", "learning-rate=0.000001"),
        "better": ("rounds=8",),
    }
    for name, values in kinds.items():
        settings = [part for value in values for part in ("--set", value)]
        fleet.server.run("fleven-server", "schedule", "add", name, *common, *settings)
    run = ran(fleet, "first")
    assert (run["model"]["name"], run["model"]["standing"]) == (f"{EXPERIMENT}@1", "champion")
    wait_model(fleet, 1, *fleet.nodes)
    for node in fleet.nodes:
        assert model(node)["problem"] == ""
        assert node.shell("sha256sum < /var/lib/fleven/models/current").split()[0] == run["model"]["sha256"]
        assert f"{EXPERIMENT}@1" in node.run("fleven-agent", "status")
    assert f"{EXPERIMENT}@1" in fleet.server.run("fleven-server", "nodes", "show", "n2")


def test_a_worse_candidate_is_refused_and_a_better_one_takes_its_place(fleet: Fleet) -> None:
    run = ran(fleet, "worse")
    assert (run["model"]["standing"], run["model"]["promotion"]["code"]) == ("candidate", "gain-too-small")
    assert run["result"]["champion"]["cars"] == 3
    assert all((model(node)["current"] or {})["name"] == f"{EXPERIMENT}@1" for node in fleet.nodes)
    run = ran(fleet, "better")
    assert (run["model"]["standing"], run["model"]["promotion"]["code"]) == ("champion", "better"), run["model"]
    wait_model(fleet, 3, *fleet.nodes)


def test_a_rollback_reaches_the_cars_and_one_that_was_off_catches_up(fleet: Fleet) -> None:
    *there, away = fleet.nodes
    away.power_cut()
    fleet.server.run("fleven-server", "models", "rollback", EXPERIMENT, "--reason", "a try")
    wait_model(fleet, 1, *there)
    assert model(there[0])["previous"]["name"] == f"{EXPERIMENT}@3"
    away.start()
    wait_model(fleet, 1, away)
    fleet.server.run("fleven-server", "models", "rollback", EXPERIMENT)
    wait_model(fleet, 3, *fleet.nodes)


def test_a_car_predicts_without_the_server(fleet: Fleet) -> None:
    node = fleet.nodes[1]
    fleet.server.power_cut()
    trip = node.shell("ls /var/lib/fleven/data/client_*/*.parquet | head -1").strip()
    result = node.try_run("fleven", "predict", trip, "--out", "/tmp/predicted.csv")
    assert result.exit_code == 0, result.errors
    assert "RMSE" in result.errors
    assert "/var/lib/fleven/models/current" in result.errors or ".personal.npz" in result.errors
    assert int(node.shell("wc -l < /tmp/predicted.csv")) > 50
    node.run("systemctl", "restart", "fleven-agent")
    wait_for("it answers", lambda: bool(model(node)), 60)
    assert model(node)["current"]["name"] == f"{EXPERIMENT}@3"
