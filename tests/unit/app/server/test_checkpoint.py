"""Checkpoints continue a run exactly; bundles predict what the run predicted."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fleven.app.errors import AppError, Code
from fleven.app.model import weights_of
from fleven.app.server.bundle import Predictor

pytestmark = pytest.mark.training

Simulate = Callable[..., Any]


@pytest.fixture
def cars(make_car: Callable[..., Path]) -> list[Path]:
    return [make_car(partition) for partition in range(3)]


def weights_after(outcome: Any, number: int) -> dict[str, Any]:
    path = outcome.files.checkpoint_path(number)
    return load_file(path)


@pytest.mark.parametrize(
    ("strategy", "fused"), [("fedadam", True), ("fedadam", False), ("fedavg", True), ("fedyogi", True)]
)
def test_two_and_two_rounds_equal_four(simulate: Simulate, cars: list[Path], strategy: str, fused: bool) -> None:
    same = {"strategy": strategy, "dropout": 0.2, "fraction_train": 0.6, "fit_and_evaluate": fused}
    straight = simulate(cars, rounds=4, **same)
    first = simulate(cars, rounds=2, **same)
    second = simulate(cars, rounds=4, resume_from=str(first.files.checkpoint_path(2)), **same)
    one, two = weights_after(straight, 4), weights_after(second, 4)
    for name in ("weights", "momentum", "variance", "scaler_mean", "scaler_std"):
        assert np.array_equal(one[name], two[name]), name
    figures = [
        [(row["round"], row["rmse"], row["train_loss"], row["nodes"]) for row in outcome.read("rounds.json")]
        for outcome in (straight, second)
    ]
    assert figures[0] == figures[1]
    assert straight.read("result.json")["contributions"] == second.read("result.json")["contributions"]
    assert straight.read("result.json")["global"] == second.read("result.json")["global"]


@pytest.mark.parametrize("fused", [True, False])
def test_a_folder_means_its_newest_checkpoint_and_a_finished_run_is_only_evaluated(
    simulate: Simulate, cars: list[Path], fused: bool
) -> None:
    first = simulate(cars, rounds=2, fit_and_evaluate=fused)
    again = simulate(cars, rounds=2, fit_and_evaluate=fused, resume_from=str(first.files.results))
    assert again.read("result.json")["global"] == first.read("result.json")["global"]
    for name in ("rounds.json", "clients.json"):
        rows = [[(row["round"], row["rmse"]) for row in run.read(name)] for run in (first, again)]
        assert [row for row in rows[1] if row[1] is not None] == [row for row in rows[0] if row[1] is not None]


def test_checkpoints_come_as_often_as_asked_and_at_the_end(simulate: Simulate, cars: list[Path]) -> None:
    names = lambda outcome: sorted(path.name for path in outcome.files.results.glob("checkpoint*"))  # noqa: E731
    assert names(simulate(cars, rounds=5, save_checkpoint_every=2)) == [
        "checkpoint-round-000002.safetensors",
        "checkpoint-round-000004.safetensors",
        "checkpoint-round-000005.safetensors",
    ]
    assert names(simulate(cars, save_checkpoint_every=0)) == []


def test_other_settings_are_refused_by_name(simulate: Simulate, cars: list[Path]) -> None:
    first = simulate(cars)
    with pytest.raises(AppError) as caught:
        simulate(cars, resume_from=str(first.files.results), hidden_size=8, strategy="fedadam", learning_rate=0.1)
    assert caught.value.code is Code.RESUME_INVALID
    assert "hidden-size was 4, is 8; strategy was fedavg, is fedadam" in str(caught.value)
    assert "learning-rate" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"hello", b"round,train_loss,rmse,mae,r2\n0,,18.3,17.3,0.03\n", b"(1\n", None]
)
def test_a_checkpoint_that_is_none_is_refused(
    simulate: Simulate, cars: list[Path], tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "c.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AppError) as caught:
        simulate(cars, resume_from=str(path))
    assert caught.value.code is Code.RESUME_INVALID
    assert str(path) in str(caught.value)


def test_a_cut_checkpoint_a_bundle_and_an_empty_folder_are_refused(
    simulate: Simulate, cars: list[Path], tmp_path: Path
) -> None:
    first = simulate(cars)
    whole = first.files.checkpoint_path(2)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    for path in (cut, first.files.results / "model.safetensors", tmp_path / "client_0"):
        with pytest.raises(AppError) as caught:
            simulate(cars, resume_from=str(path))
        assert caught.value.code is Code.RESUME_INVALID


def test_a_file_that_would_run_code_does_not(simulate: Simulate, cars: list[Path], tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"kind": "fleven-checkpoint", "x": Harmful()}, tmp_path / "bad.pt")
    with pytest.raises(AppError):
        simulate(cars, resume_from=str(tmp_path / "bad.pt"))
    assert not (tmp_path / "ran").exists()


def test_the_bundle_predicts_in_physical_units(
    simulate: Simulate, cars: list[Path], make_trip: Callable[..., pd.DataFrame]
) -> None:
    outcome = simulate(cars, rounds=8, hidden_size=16, local_epochs=4, learning_rate=0.02)
    predictor = Predictor(outcome.files.results / "model.safetensors")
    assert (predictor.target, predictor.unit) == ("vehicle_speed", "km/h")
    assert predictor.provenance["rounds"] == 8
    assert predictor.provenance["cars"] == [0, 1, 2]
    trip = make_trip(60, 7)
    predicted = predictor.predict(trip[predictor.features].to_numpy())
    assert predicted.shape == (56, 1)
    error = predicted[:, 0] - trip["vehicle_speed"].to_numpy()[4:]
    assert np.sqrt((error**2).mean()) < 0.5 * trip["vehicle_speed"].std() + 5
    with pytest.raises(ValueError, match=r"must be \[at least 5, 3\]"):
        predictor.predict(np.zeros((4, 3)))


@pytest.mark.parametrize("content", [b"x", b"hello", b"round,rmse\n0,18.3\n"])
def test_a_bundle_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(AppError) as caught:
        Predictor(tmp_path / "m.pt")
    assert caught.value.code is Code.BUNDLE_INVALID


# Files of 0.1.0


def as_in_0_1_0(outcome: Any, number: int, path: Path) -> Path:
    """Write a checkpoint of this run as version 0.1.0 did."""
    with safe_open(outcome.files.checkpoint_path(number), framework="numpy") as opened:
        plain = json.loads(opened.metadata()["fleven"])
        tensors = {name: torch.from_numpy(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
    plain["history"].pop("warnings")
    plain["history"]["contributions"] = {int(key): ids for key, ids in plain["history"]["contributions"].items()}
    for name in ("max-share", "max-update-ratio", "max-failed-share"):
        del plain["settings"][name]
    torch.save(plain | {"schema_version": 1} | tensors, path)
    path.chmod(0o600)
    return path


def test_a_checkpoint_of_0_1_0_is_gone_on_from_with_a_word(
    simulate: Simulate, cars: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight, first = simulate(cars, rounds=4), simulate(cars, rounds=2)
    old = as_in_0_1_0(first, 2, tmp_path / "checkpoint-round-000002.pt")
    logging.getLogger("fleven.app").propagate = True
    second = simulate(cars, rounds=4, resume_from=str(tmp_path))
    assert f"event=old-format-read path={old}" in caplog.text
    one, two = weights_after(straight, 4), weights_after(second, 4)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_pickle_that_others_can_write_is_not_read(simulate: Simulate, cars: list[Path], tmp_path: Path) -> None:
    old = as_in_0_1_0(simulate(cars, rounds=2), 2, tmp_path / "old.pt")
    old.chmod(0o666)
    with pytest.raises(AppError, match="another user may have written") as caught:
        simulate(cars, rounds=4, resume_from=str(old))
    assert caught.value.code is Code.RESUME_INVALID


def test_a_model_of_0_1_0_predicts_the_same(simulate: Simulate, cars: list[Path], tmp_path: Path) -> None:
    path = simulate(cars).files.results / "model.safetensors"
    new = Predictor(path)
    with safe_open(path, framework="numpy") as opened:
        plain = json.loads(opened.metadata()["fleven"])
        scaler = {name: torch.from_numpy(opened.get_tensor(f"scaler.{name}")) for name in ("mean", "std")}
    weights = torch.from_numpy(weights_of(new._network))
    torch.save(plain | {"schema_version": 1, "weights": weights, "scaler": scaler, "state_dict": {}}, tmp_path / "m.pt")
    (tmp_path / "m.pt").chmod(0o644)
    readings = np.random.default_rng(1).uniform(10, 50, (20, 3))
    np.testing.assert_array_equal(Predictor(tmp_path / "m.pt").predict(readings), new.predict(readings))


# Files of the right format and the wrong content


@pytest.mark.parametrize(
    "spoil",
    [
        {"kind": "fleven-model"},
        {"schema_version": 3},
        {"schema_version": "2"},
        {"settings": {"rounds": 0}},
        {"settings": 7},
        {"history": []},
        {"history": {"contributions": {"one": []}}},
        {"round": "2"},
        {"weights": np.zeros(3, np.float64)},
        {"momentum": np.zeros(3, np.float32)},
        {"scaler_std": np.zeros(9)},
        {"weights": None},
    ],
)
def test_a_checkpoint_of_wrong_kinds_is_refused_with_its_code(
    simulate: Simulate, cars: list[Path], tmp_path: Path, spoil: dict[str, Any]
) -> None:
    with safe_open(simulate(cars).files.checkpoint_path(2), framework="numpy") as opened:
        plain = json.loads(opened.metadata()["fleven"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    for name, value in spoil.items():
        if name in tensors:
            del tensors[name]
            tensors |= {} if value is None else {name: value}
        else:
            plain[name] = value
    save_file(tensors, tmp_path / "c.safetensors", {"fleven": json.dumps(plain)})
    with pytest.raises(AppError) as caught:
        simulate(cars, rounds=4, resume_from=str(tmp_path / "c.safetensors"))
    assert caught.value.code is Code.RESUME_INVALID


@pytest.mark.parametrize(
    "header", ["[" * 100_000, "7", "{}", '{"kind": "fleven-model", "schema_version": 2}', "\u0000"]
)
def test_a_model_of_wrong_kinds_is_refused_with_its_code(tmp_path: Path, header: str) -> None:
    save_file({"a": np.zeros(3)}, tmp_path / "m.safetensors", {"fleven": header})
    with pytest.raises(AppError) as caught:
        Predictor(tmp_path / "m.safetensors")
    assert caught.value.code is Code.BUNDLE_INVALID
