"""The model without torch: the same numbers as with it, from files and from streams."""

import json
import math
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleven.app import car_state
from fleven.app import model as torch_model
from fleven.app.car_state import Kept
from fleven.app.server import bundle
from fleven.app.server.bundle import Predictor
from fleven.app.settings import parse
from fleven.app.trips.windows import Scaler
from fleven.data.errors import InputError
from fleven.predict.command import _table
from fleven.predict.model import Model, of_this_car
from fleven.predict.readings import Follower, from_lines

SCALER = Scaler(np.array([2000.0, 20.0, 40.0, 50.0]), np.array([800.0, 12.0, 15.0, 25.0]))
SHAPES: list[dict[str, Any]] = [
    {},
    {"num-layers": 2, "prediction-length": 3, "hidden-size": 5},
    {"model-type": "mlp", "num-layers": 1},
    {"model-type": "mlp", "num-layers": 3, "prediction-length": 2, "hidden-size": 7, "sequence-length": 4},
]


def trip(rows: int = 60) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(3)
    return np.column_stack([random.uniform(700, 4000, rows), random.uniform(2, 60, rows), random.uniform(5, 90, rows)])


def bundled(folder: Path, changes: dict[str, Any]) -> Path:
    settings = parse(changes)
    weights = torch_model.weights_of(torch_model.build(settings)) * np.float32(3.0)
    bundle.save(folder / "model.safetensors", weights, SCALER, settings, {})
    return folder / "model.safetensors"


@pytest.mark.parametrize("changes", SHAPES)
def test_predictions_are_torchs(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = bundled(tmp_path, changes)
    predictor, model = Predictor(path), Model(path)
    readings = trip()
    length = model.settings.sequence_length
    windows = np.stack([readings[start : start + length] for start in range(len(readings) - length + 1)])
    assert np.abs(model.predict(windows) - predictor.predict(readings)).max() < 1e-3


@pytest.mark.parametrize("changes", SHAPES)
def test_what_a_car_keeps_predicts_as_the_bundle_does(tmp_path: Path, changes: dict[str, Any]) -> None:
    bundle_path, kept_path = bundled(tmp_path, changes), tmp_path / "a.global.npz"
    settings = parse(changes)
    weights = torch_model.weights_of(torch_model.build(settings)) * np.float32(3.0)
    car_state.save(kept_path, Kept(weights, SCALER, {"settings": settings.as_config()}))
    windows = trip(settings.sequence_length)[np.newaxis]
    assert np.allclose(Model(kept_path).predict(windows), Model(bundle_path).predict(windows), atol=1e-4)


def row(time: float, **changes: Any) -> dict[str, Any]:
    return {"time_sec": time, "engine_rpm": 2000, "mass_air_flow": 20, "calculated_load_value": 40} | changes


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    return Follower(Model(bundled(tmp_path, {"sequence-length": 3, "hidden-size": 4})))


def test_a_stream_is_answered_line_by_line(follower: Follower) -> None:
    lines = [json.dumps(row(second)) for second in range(4)]
    lines[1:1] = ["{", "[1]", "\n", '{"time_sec": 0.5, "engine_rpm": 2000}']
    answers = list(from_lines(lines, follower))
    assert [answer.get("reason") for answer in answers] == [
        "1 of 3 readings without a gap",
        "no object",
        "no object",
        "lacks mass_air_flow, calculated_load_value",
        "2 of 3 readings without a gap",
        None,
        None,
    ]
    assert answers[-1]["time_sec"] == 3
    assert answers[-1]["target"] == "vehicle_speed"
    assert math.isfinite(answers[-1]["predicted"][0])


def test_no_window_crosses_a_gap_or_a_step_back(follower: Follower) -> None:
    times = [*range(10), 9, 30, 31, 32, 5, 6, 7]
    predicted = [follower.answer(row(float(time)))["predicted"] is not None for time in times]
    assert predicted == [False] * 2 + [True] * 8 + [False] + [False, False, True] + [False, False, True]


def test_other_names_and_units_are_understood_and_impossible_readings_are_none(follower: Follower) -> None:
    for second in range(3):
        plain = follower.answer(row(float(second)))
    other = Follower(follower.model)
    for second in range(3):
        named = other.answer(
            {"Timestamp(ms)": 1000 * second, "Engine RPM[RPM]": "2000", "MAF[g/sec]": 20.0, "Absolute Load[%]": 40}
        )
    assert named["predicted"] == plain["predicted"] is not None
    assert other.answer(row(3.0, engine_rpm=99_999))["reason"] == "lacks engine_rpm"
    assert other.answer(row(3.0, engine_rpm="nan"))["reason"] == "lacks engine_rpm"
    assert other.answer(row(3.0, engine_rpm=True))["reason"] == "lacks engine_rpm"


def test_a_car_uses_its_own_model_of_its_newest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(car_state.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr("fleven.predict.model.CAR_FOLDERS", ())
    with pytest.raises(InputError, match="no model"):
        of_this_car()
    (tmp_path / "night").mkdir()
    (tmp_path / "night" / "a.global.npz").touch()
    assert of_this_car().name == "a.global.npz"
    (tmp_path / "night" / "a.personal.npz").touch()
    assert of_this_car().name == "a.personal.npz"
    # A hostile app may have left anything there; root follows no link of it.
    (tmp_path / "night" / "a.personal.npz").unlink()
    (tmp_path / "night" / "a.personal.npz").symlink_to("/etc/shadow")
    (tmp_path / "night" / "z.global.npz").symlink_to("/etc/shadow")
    assert of_this_car().name == "a.global.npz"


def test_a_car_with_another_state_folder_finds_there_what_its_tasks_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEVEN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv(car_state.FOLDER_VARIABLE, str(tmp_path / "elsewhere"))
    monkeypatch.setattr("fleven.predict.model.CAR_FOLDERS", ())
    kept = tmp_path / "state" / "flwr" / "fleven-car" / "night" / "a.global.npz"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert of_this_car() == kept


def test_models_that_this_user_may_not_read_are_told_from_models_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o750)
    monkeypatch.setenv(car_state.FOLDER_VARIABLE, str(kept))
    monkeypatch.setattr("fleven.predict.model.CAR_FOLDERS", ())
    monkeypatch.setattr("os.access", lambda path, _mode: path != kept)  # root may read all
    with pytest.raises(InputError) as caught:
        of_this_car()
    assert "group fleven-task" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nothing", b"\x80\x04pickle", b"\x10\0\0\0\0\0\0\0{}" + b" " * 14])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a model"):
        Model(path)


def test_the_command_writes_a_table_and_loads_neither_torch_nor_pandas(tmp_path: Path) -> None:
    model = bundled(tmp_path, {})
    lines = ["time_sec,engine_rpm,mass_air_flow,calculated_load_value,vehicle_speed"]
    lines += [f"{second},{rpm:.0f},{air:.1f},{load:.1f},50" for second, (rpm, air, load) in enumerate(trip(40))]
    (tmp_path / "trip.csv").write_text("\n".join(lines) + "\n")
    code = (
        "import sys; from fleven.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "print(sorted({'torch', 'pandas', 'flwr', 'pyarrow'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "predict", str(tmp_path / "trip.csv"), "--model", str(model)]
    done = subprocess.run([*command, "--out", str(tmp_path / "out.csv")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
    assert "21 predictions of vehicle_speed from 40 readings" in done.stderr
    assert "km/h" in done.stderr
    written = (tmp_path / "out.csv").read_text().splitlines()
    assert written[0] == "time_sec,vehicle_speed_predicted"
    assert len(written) == 22
    assert written[1].startswith("19.0,")


def test_a_device_or_a_pipe_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    """As `--out /dev/null` of root, whose rename would leave a plain file there, for all programs."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with _table(pipe) as stream:
        stream.write("time_sec\n")
    reader.join(10)
    assert read == ["time_sec\n"]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
