"""A model is tried on a car's newest trip; a foreign file is looked at before anything is computed of it."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from fleven.app import car_state
from fleven.app.model import build, weights_of
from fleven.app.server import bundle
from fleven.app.settings import Settings, parse
from fleven.app.trips.windows import Scaler
from fleven.data.errors import InputError
from fleven.predict import trial
from fleven.predict.model import Model, of_this_car

SETTINGS = parse({"sequence-length": 5, "hidden-size": 4})


def made(path: Path, settings: Settings = SETTINGS) -> Path:
    scaler = Scaler(np.array([2000.0, 20.0, 40.0, 50.0]), np.array([900.0, 9.0, 20.0, 25.0]))
    bundle.save(path, weights_of(build(settings)), scaler, settings, {"experiment": "night"})
    return path


def trip(path: Path, rows: int = 60, **cells: str) -> Path:
    names = ["time_sec", "vehicle_speed", "engine_rpm", "mass_air_flow", "calculated_load_value"]
    lines = [",".join(names)]
    for second in range(rows):
        row = {"time_sec": second, "vehicle_speed": 50 + second % 7, "engine_rpm": 2000, "mass_air_flow": 20}
        lines.append(",".join(str((row | {"calculated_load_value": 40} | cells)[name]) for name in names))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_good_model_is_held_against_the_newest_trip(tmp_path: Path) -> None:
    model, trips = made(tmp_path / "m.safetensors"), tmp_path / "trips"
    old, new = trip(trips / "b.csv", 30), trip(trips / "a.csv", 60)
    os.utime(old, (1, 1))
    (trips / ".new.csv").write_text("being written")
    assert trial.newest(trips) == new
    found = trial.tried(model, trips, None)
    assert (found["usable"], found["values"], found["other_rmse"]) == (True, 56, None)
    assert found["rmse"] == pytest.approx(trial.error_on(Model(model), new)[1])
    both = trial.tried(model, trips, model)
    assert both["other_rmse"] == both["rmse"]


@pytest.mark.parametrize("rows", [0, 3])
def test_a_trip_that_can_tell_nothing_says_nothing_against_a_model(tmp_path: Path, rows: int) -> None:
    trip(tmp_path / "trips" / "a.csv", rows)
    found = trial.tried(made(tmp_path / "m.safetensors"), tmp_path / "trips", None)
    assert (found["usable"], found["values"], found["rmse"]) == (True, 0, None)
    assert trial.tried(tmp_path / "m.safetensors", tmp_path / "none", None)["usable"]
    (tmp_path / "trips" / "b.csv").write_bytes(b"\xff\xfe\x00\xd8")
    assert trial.tried(tmp_path / "m.safetensors", tmp_path / "trips", None)["usable"]


Spoil = Callable[[dict[str, Any], dict[str, Any]], None]


def rewritten(path: Path, spoil: Spoil) -> Path:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as opened:
        plain = json.loads(opened.metadata()["fleven"])
    tensors = dict(load_file(path))
    spoil(tensors, plain)
    path.write_bytes(save(tensors, {"fleven": json.dumps(plain)}))
    return path


def setting(**values: Any) -> Spoil:
    return lambda _tensors, plain: plain["settings"].update({key.replace("_", "-"): v for key, v in values.items()})


def tensor(name: str, change: Callable[[Any], Any]) -> Spoil:
    def spoil(tensors: dict[str, Any], _plain: dict[str, Any]) -> None:
        tensors[name] = change(tensors[name])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (setting(hidden_size=4096), "must be float32 [16384, 3]"),
        (setting(sequence_length=0), "sequence-length"),
        (setting(model_type="mlp"), "unknown or missing: "),
        (tensor("network.head.bias", lambda values: values.astype(np.float64)), "head.bias is float64 [1], must be"),
        (tensor("network.head.bias", lambda values: values * np.nan), "head.bias holds a value that is not finite"),
        (tensor("network.head.weight", lambda values: values.T.copy()), "head.weight is float32 [4, 1], must be"),
        (tensor("scaler.std", lambda values: values * 0), "its scaler does not fit"),
        (tensor("scaler.mean", lambda values: values + np.inf), "its scaler does not fit"),
        (tensor("scaler.std", lambda values: values[:2]), "its scaler does not fit"),
        (lambda tensors, _: tensors.pop("network.head.bias"), "unknown or missing: head.bias"),
        (lambda tensors, _: tensors.update({"network.more": np.zeros(9, np.float32)}), "unknown or missing: more"),
        (lambda _, plain: plain.update(kind="fleven-checkpoint"), "it is a fleven-checkpoint"),
    ],
)
def test_a_foreign_file_is_refused_with_the_reason(tmp_path: Path, spoil: Spoil, said: str) -> None:
    model = rewritten(made(tmp_path / "m.safetensors"), spoil)
    found = trial.tried(model, None, None)
    assert not found["usable"]
    assert said in found["reason"]


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", b"PK\x03\x04 no archive", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2**20 + 1) + b"{"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    assert not trial.tried(path, None, None)["usable"]
    assert not trial.tried(tmp_path / "none", None, None)["usable"]


def test_settings_of_a_newer_server_are_no_obstacle(tmp_path: Path) -> None:
    assert trial.tried(rewritten(made(tmp_path / "m.safetensors"), setting(invented=3)), None, None)["usable"]


# Which model a car predicts with


@pytest.fixture
def car(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A car whose agent and tasks keep what they keep in one folder each."""
    monkeypatch.setenv("FLEVEN_STATE_DIR", str(tmp_path / "agent"))
    monkeypatch.setenv(car_state.FOLDER_VARIABLE, str(tmp_path / "tasks"))
    (tmp_path / "agent" / "models").mkdir(parents=True)
    return tmp_path


def test_a_car_predicts_with_what_the_server_sent_and_with_its_own_that_was_made_of_it(car: Path) -> None:
    kept = car_state.Kept(
        weights_of(build(SETTINGS)), Scaler(np.zeros(4), np.ones(4)), {"settings": SETTINGS.as_config()}
    )
    newest = car_state.place("global", SETTINGS, car / "trips")
    car_state.save(newest, kept)
    assert of_this_car() == newest
    delivered = car / "agent" / "models" / "current"
    made(delivered)
    assert of_this_car() == delivered
    personal = car_state.place("personal", SETTINGS, car / "trips")
    car_state.save(car_state.variant(personal, kept.weights + np.float32(1)), kept)  # of another global model
    assert of_this_car() == delivered
    own = car_state.variant(personal, kept.weights.astype(np.float16).astype(np.float32))  # as fp16 brought it
    car_state.save(own, kept)
    assert of_this_car() == own
    delivered.write_bytes(b"junk")
    with pytest.raises(InputError, match="is not a model"):
        of_this_car()


def test_a_car_keeps_few_of_its_own_models(car: Path) -> None:
    kept = car_state.Kept(weights_of(build(SETTINGS)), Scaler(np.zeros(4), np.ones(4)), {})
    personal = car_state.place("personal", SETTINGS, car / "trips")
    made_of = [car_state.variant(personal, kept.weights + np.float32(step)) for step in range(6)]
    for age, file in enumerate(made_of):
        car_state.save(file, kept)
        os.utime(file, (age + 1, age + 1))
        car_state.forget_old(personal)
    assert [file.exists() for file in made_of] == [False, False, True, True, True, True]
