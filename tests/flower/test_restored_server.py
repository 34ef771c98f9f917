"""A server's machine is lost: its backup on another one, and the cars go on without anybody going to them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_harness import Agent, wait_for
from joined_fleet import Server, join, settings
from tiny_federation import Federation

pytestmark = [pytest.mark.flower, pytest.mark.slow, pytest.mark.timeout(300)]
CARS = 3


@pytest.fixture
def cars(tmp_path: Path) -> Iterator[list[Agent]]:
    made = [Agent(tmp_path / f"car-{number}", "") for number in range(CARS)]
    yield made
    for one in made:
        one.clean_up()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    made = [Server(tmp_path / "lost"), Server(tmp_path / "restored")]
    yield made
    for one in made:
        one.stop()


def done_by(server: Server, *arguments: str) -> str:
    done = server(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr + server.said()
    return done.stdout


def ready(server: Server) -> int:
    nodes = json.loads(server("nodes", "--json").stdout or "{}").get("nodes", [])
    return sum(node["health"] == "ready" for node in nodes)


def test_cars_work_with_a_restored_server_without_a_step_at_the_car(
    servers: list[Server], cars: list[Agent], tmp_path: Path
) -> None:
    lost, restored = servers
    app = Federation(tmp_path / "tiny").app
    lost.start()
    for number, car in enumerate(cars):
        car.config.write_text(f"{settings(number)}[data]\nrequired = false\n", encoding="utf-8")
        join(car, lost.invite(f"car-{number}", "--partition", str(number)), "--no-start")
        car.start()
    done_by(lost, "schedule", "add", "tiny", "--app", str(app), "--manual", "--min-nodes", str(CARS))
    done_by(lost, "users", "add", "ana", "--role", "operator")
    wait_for("three ready cars", lambda: ready(lost) == CARS, 90, lost.said)

    passphrase, file = tmp_path / "passphrase", tmp_path / "fleet.backup"
    passphrase.write_text("correct horse battery\n", encoding="utf-8")
    made = json.loads(done_by(lost, "backup", str(file), "--passphrase-file", str(passphrase), "--json"))
    assert (made["cars"], made["with_keys"]) == (CARS, True)
    refused = lost("restore", str(file), "--passphrase-file", str(passphrase), "--force")
    assert refused.returncode == 75, refused.stdout + refused.stderr
    assert "systemctl stop" in refused.stderr
    lost.stop()
    shutil.rmtree(lost.config.parent)

    shutil.rmtree(f"{restored.config}.d")
    restored.config.unlink()
    restored.fleet, restored.web = lost.fleet, lost.web
    told = json.loads(done_by(restored, "restore", str(file), "--passphrase-file", str(passphrase), "--json"))
    assert told["problems"] == []
    assert not any("will not find this machine" in step for step in told["next_steps"])
    restored.start()
    wait_for("three ready cars", lambda: ready(restored) == CARS, 120, restored.said)

    folder = tmp_path / "run"
    folder.mkdir()
    chosen = [f'folder="{folder}"', "seconds=0.1", f"cars={CARS}"]
    run = done_by(
        restored, "schedule", "run", "tiny", "--no-follow", *(word for one in chosen for word in ("--set", one))
    )
    rounds = folder / "rounds"
    wait_for("a round of all cars", lambda: rounds.exists() and rounds.read_text().count("\n") > 1, 90, restored.said)
    (folder / "end").touch()
    partitions = json.loads(rounds.read_text().splitlines()[0])["good"]
    assert sorted(partitions) == [str(number) for number in range(CARS)], run
    users = json.loads(done_by(restored, "users", "list", "--json"))["users"]
    assert [user["name"] for user in users] == ["ana"]
    log = json.loads(done_by(restored, "users", "log", "--json"))["entries"]
    assert {"backup-restored", "user-added"} <= {entry["action"] for entry in log}
    for car in cars:
        assert "server-changed" not in car.log()
