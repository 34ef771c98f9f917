"""From a run to the model in the cars: promoted, delivered, refused, rolled back, used without the server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agent_harness import Agent
from joined_fleet import Server, join, settings

pytestmark = [pytest.mark.flower, pytest.mark.slow, pytest.mark.timeout(900)]


def write_trip(path: Path, seed: int, rows: int = 200, stretch: float = 1.0) -> None:
    """Write a trip of one row a second. stretch: how far engine speed and speed are from what they were."""
    random = np.random.default_rng(seed)
    speed = np.clip(np.cumsum(random.normal(0, 2, rows)) + 50, 0, 140)
    lines = ["time_sec,vehicle_speed,engine_rpm,mass_air_flow,calculated_load_value"]
    for second, value in enumerate(speed):
        rpm, flow, load = 800 + 30 * value * stretch, 2 + 0.3 * value * stretch, min(95.0, 20 + 0.4 * value * stretch)
        lines.append(f"{second},{value:.2f},{rpm:.1f},{flow:.2f},{load:.2f}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def trips_of(car: Agent) -> Path:
    return car.folder / "trips"


def ask(server: Server, *arguments: str, ends: int | None = 0) -> Any:
    """Return what a command answers. ends: its exit code; None for any."""
    done = server(*arguments, "--json")
    assert ends is None or done.returncode == ends, done.stdout + done.stderr + server.said()
    return json.loads(done.stdout)


def ran(server: Server, schedule: str) -> dict[str, Any]:
    """Run a schedule to its end; return what is known of the run once its model was taken in."""
    done = subprocess.run(
        ["fleven-server", "schedule", "run", schedule],
        env=server.environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + server.said()
    number = ask(server, "runs", "list", "--json")[0]["id"]
    return next(run for _ in iter(int, 1) if (run := ask(server, "runs", "show", str(number)))["model"] is not None)


def waiting(server: Server, schedule: str) -> dict[str, Any] | None:
    """Return the run of a schedule that waits, if there is one."""
    runs = ask(server, "runs", "list")
    return next((run for run in runs if (run["schedule"], run["state"]) == (schedule, "waiting")), None)


def model_of(car: Agent, name: str) -> dict[str, Any]:
    """Wait until a car uses a version; return what its status says of it."""

    def there() -> dict[str, Any] | None:
        model = (car.status() or {}).get("model") or {}
        return model if (model.get("current") or {}).get("name") == name else None

    return dict(car.wait(f"{name} in use", there, 60))


def problem(car: Agent) -> str:
    return str(((car.status() or {}).get("model") or {}).get("problem"))


def predict(car: Agent, *arguments: str) -> subprocess.CompletedProcess[str]:
    trip = sorted(trips_of(car).iterdir())[0]
    environment = car.environment | {"FLEVEN_CAR_STATE_DIR": str(car.state / "flwr" / "fleven-car")}
    command = ["fleven", "predict", str(trip), "--out", str(car.folder / "predicted.csv"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_from_a_run_to_the_model_in_the_cars_and_back(server: Server, cars: list[Agent]) -> None:
    server.start()
    for number, car in enumerate(cars):
        for trip in range(3):
            write_trip(trips_of(car) / f"trip_{trip}.csv", 10 * number + trip)
        data = f'data-path = "{trips_of(car)}"\n'
        watch = "[data]\nsettle-seconds = 0.0\nscan-interval-seconds = 1.0\n"
        text = settings(number).replace('[warm]\nmode = "off"', '[warm]\nmode = "on"')
        car.config.write_text(data + text + "idle-interval-seconds = 2.0\n" + watch, encoding="utf-8")
        join(car, server.invite(f"car-{number}", "--partition", str(number)), "--no-start")
        car.start()
    for car in cars:
        car.wait_state("running", seconds=90)

    common = ["--manual", "--min-nodes", "2", "--set", "threads=1", "--set", "hidden-size=8", "--promote", "if-better"]
    kinds = {
        "plain": ["rounds=2", "local-epochs=2"],
        "worse": ["rounds=1", "local-epochs=1", "learning-rate=0.00001"],
        "good": ["rounds=3", "local-epochs=6"],
    }
    for name, values in kinds.items():
        done = server("schedule", "add", name, *common, *(part for value in values for part in ("--set", value)))
        assert done.returncode == 0, done.stdout + done.stderr
    first = ran(server, "plain")
    assert (first["model"]["name"], first["model"]["standing"]) == ("Fleven-Deploy@1", "champion")
    assert first["model"]["promotion"]["code"] == "first"
    for car in cars:
        model = model_of(car, "Fleven-Deploy@1")
        assert model["problem"] == ""
        assert len(model["errors"]) == 1, "it was tried on the newest trip before it was used"
        kept = (car.state / "models" / "current").resolve()
        assert kept.name == f"{first['model']['sha256']}.safetensors"

    # A worse candidate is refused, and no car hears of it; promoted by hand it is refused by the cars.
    second = ran(server, "worse")
    assert (second["model"]["standing"], second["model"]["promotion"]["code"]) == ("candidate", "gain-too-small")
    assert second["result"]["champion"]["cars"] == 2
    assert "not promoted (gain-too-small): RMSE" in server("models", "show", "Fleven-Deploy@2").stdout
    promoted = server("models", "promote", "Fleven-Deploy@2", "--reason", "a try")
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr
    for car in cars:
        car.wait("it is refused", lambda c=car: "Fleven-Deploy@2 is not used" in problem(c), 60)
        assert model_of(car, "Fleven-Deploy@1")["previous"] is None
    rolled = server("models", "rollback", "Fleven-Deploy")
    assert rolled.returncode == 0, rolled.stdout + rolled.stderr

    # A better one takes its place; a car that was off meanwhile hears of it when it is back.
    third = ran(server, "good")
    assert (third["model"]["name"], third["model"]["promotion"]["code"]) == ("Fleven-Deploy@3", "better")
    away, there = cars
    assert model_of(there, "Fleven-Deploy@3")["previous"]["name"] == "Fleven-Deploy@1"
    model_of(away, "Fleven-Deploy@3")
    away.stop()
    assert server("models", "rollback", "Fleven-Deploy").returncode == 0
    assert model_of(there, "Fleven-Deploy@1")["previous"]["name"] == "Fleven-Deploy@3"
    away.start()
    assert model_of(away, "Fleven-Deploy@1")["previous"]["name"] == "Fleven-Deploy@3"
    assert there.log().count("model fetched model=Fleven-Deploy@1") == 1, "what is on the shelf is not fetched again"
    assert "Fleven-Deploy@1" in server("nodes", "show", "car-1").stdout

    # It is tried on a new trip once.
    write_trip(trips_of(there) / "trip_9.csv", 99)
    there.wait("its error on the new trip", lambda: len((there.status() or {})["model"]["errors"]) == 2, 60)

    # Trips that are unlike all before them: the model no longer fits, and a schedule that waits for that begins a run.
    drift = ["--every", "15s", "--min-nodes", "2", "--set", "threads=1", "--set", "hidden-size=8", "--set", "rounds=1"]
    assert server("models", "rollback", "Fleven-Deploy").returncode == 0
    for car in cars:
        model_of(car, "Fleven-Deploy@3")
    done = server("schedule", "add", "drift", *drift, "--when-drift")
    assert done.returncode == 0, done.stdout + done.stderr
    waits = there.wait("a run that waits for drift", lambda: waiting(server, "drift"), 60)
    assert (waits["reason"], waits["attempts"]) == ("no-drift", 0)
    assert "needs drift on half of the cars that can tell: 0 of 0" in waits["message"]
    for car in cars:
        for trip in range(3):
            write_trip(trips_of(car) / f"trip_a{trip}.csv", 50 + trip, stretch=2.0)
            seen = 2 + trip
            car.wait("its error", lambda c=car, n=seen: len((c.status() or {})["model"]["errors"]) == n, 60)
    there.wait("the condition", lambda: "model-drift" in server("nodes", "show", "car-1").stdout, 60)

    def drifted() -> dict[str, Any] | None:
        run = dict(ask(server, "runs", "show", str(waits["id"])))
        return run if run["model"] is not None else None

    run = there.wait("the run that waited, with its model", drifted, 120)
    assert server("schedule", "pause", "drift").returncode == 0
    states = [step["state"] for step in run["steps"]]
    reasons = [step["reason"] for step in run["steps"]]
    assert run["state"] == "succeeded"
    assert states.index("submitted") > reasons.index("no-drift")
    assert sorted(car["node_name"] for car in run["result"]["cars"]) == ["car-0", "car-1"]

    # Without the server.
    server.stop()
    done = predict(there)
    assert done.returncode == 0, done.stderr
    assert "RMSE" in done.stderr
    personal = {car["node_name"]: car["personal_kept"] for car in third["result"]["cars"]}
    used = ".personal.npz" if personal["car-1"] else "models/current"
    assert used in done.stderr
