"""Which personal model a car keeps, and what it keeps it in."""

from pathlib import Path

import numpy as np
import pytest

from fleven.app import car_state
from fleven.app.car_state import Kept
from fleven.app.personal import PARTS, Choice, affordable, best, convinces, parts
from fleven.app.settings import Settings
from fleven.app.trips.windows import Scaler


def test_no_reading_is_both_trained_on_and_held_back() -> None:
    span = 5
    starts = np.concatenate([np.arange(0, 60), np.arange(80, 120)])
    found = list(parts(starts, span))
    assert np.array_equal(np.concatenate([held for _, held in found]), starts)
    for fit, held in found:
        rows_held = {row for start in held for row in range(start, start + span)}
        assert not rows_held & {row for start in fit for row in range(start, start + span)}
        assert len(fit) + len(held) >= len(starts) - 2 * (span - 1)


def test_fewer_windows_than_parts_are_held_back_one_by_one() -> None:
    assert [held.tolist() for _, held in parts(np.array([3, 9]), 2)] == [[3], [9]]


def test_the_best_model_that_convinces_is_kept() -> None:
    before, telling = [10.0, 20.0, 10.0], [True] * 3
    errors = {
        Choice(1, 0.5): [9.0, 18.0, 9.0],
        Choice(1, 1.0): [8.0, 16.0, 8.0],
        Choice(2, 0.5): [8.0, 16.0, 8.0],
        Choice(2, 1.0): [4.0, 10.0, 12.0],
    }
    assert best(errors, before, telling) == Choice(1, 1.0)
    assert best(errors, [8.0, 16.0, 8.0], telling) is None
    assert best({}, before, telling) is None
    assert best({Choice(1, 1.0): [float("nan")] * 3}, before, telling) is None


@pytest.mark.parametrize(
    ("errors", "telling", "kept"),
    [
        ([9.0, 9.0, 9.0], True, True),
        ([10.0, 10.0, 10.0], True, False),
        ([9.0, 10.0, 10.0], True, True),
        # Better by far on two stretches of road, and worse on one: by chance where it is short, and otherwise not.
        ([2.0, 2.0, 10.1], True, False),
        ([2.0, 2.0, 10.1], False, True),
        ([10.0, 10.0, 10.1], False, False),
        ([], True, False),
    ],
)
def test_a_gain_must_not_be_at_the_price_of_another_road(errors: list[float], telling: bool, kept: bool) -> None:
    assert convinces(errors, [10.0] * len(errors), [telling] * len(errors)) is kept


def test_a_slow_car_trains_for_as_many_epochs_as_there_is_time() -> None:
    whole = PARTS + PARTS / (PARTS - 1)
    assert affordable(3, 1.0, 300.0) == 3
    assert affordable(3, 100.0, 2 * 100.0 * whole) == 2
    assert affordable(3, 100.0, 100.0) == 0
    assert affordable(3, 0.0, 100.0) == 3


SCALER = Scaler(np.array([1.0, 2.0]), np.array([3.0, 4.0]))


def test_what_a_car_keeps_comes_back_as_it_was_and_only_for_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "experiment" / "a.head.npz"
    weights = np.arange(5, dtype=np.float32)
    assert car_state.load(path, 5, 2) is None
    assert car_state.save(path, Kept(weights, SCALER, {"round": 3}))
    found = car_state.load(path, 5, 2)
    assert found is not None
    assert np.array_equal(found.weights, weights)
    assert found.facts == {"round": 3}
    assert np.array_equal(found.scaler.std, SCALER.std)
    assert car_state.load(path, 6, 2) is None
    assert car_state.load(path, 5, 3) is None
    car_state.save(path, Kept(weights * np.nan, SCALER, {}))
    assert car_state.load(path, 5, 2) is None
    path.write_bytes(b"no archive")
    assert car_state.load(path, 5, 2) is None
    # Small on the disk, and any size in memory.
    np.savez_compressed(path, weights=weights, mean=SCALER.mean, std=SCALER.std, facts=np.array("{}"))
    assert car_state.load(path, 5, 2) is None
    car_state.forget(path)
    assert not path.exists()


def test_a_disk_that_refuses_costs_the_state_and_not_the_task(tmp_path: Path) -> None:
    (tmp_path / "experiment").touch()
    assert not car_state.save(tmp_path / "experiment" / "a.npz", Kept(np.zeros(1, np.float32), SCALER, {}))


def test_the_agent_says_where_the_state_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    settings = Settings()
    below = car_state.place("head", settings, Path("/data"))
    assert below.parent == tmp_path / "fleven-car" / "Fleven-Deploy"
    monkeypatch.setenv(car_state.FOLDER_VARIABLE, "/var/lib/somewhere")
    assert car_state.place("head", settings, Path("/data")) == Path("/var/lib/somewhere/Fleven-Deploy") / below.name
    others = [
        car_state.place("personal", settings, Path("/data")),
        car_state.place("head", settings, Path("/other")),
        car_state.place("head", settings.model_copy(update={"hidden_size": 8}), Path("/data")),
        car_state.place("head", settings.model_copy(update={"experiment": "b"}), Path("/data")),
    ]
    assert len({below.name, *(str(path) for path in others)}) == 5
    assert car_state.place("head", settings.model_copy(update={"seed": 9}), Path("/data")).name == below.name


def test_an_output_layer_predicts_the_same_speed_under_another_scaler() -> None:
    random = np.random.default_rng(0)
    hidden, predictions = 6, 2
    matrix, offsets = random.normal(size=(predictions, hidden)), random.normal(size=predictions)
    states = random.normal(size=(10, hidden))
    new = Scaler(np.array([9.0, 5.0]), np.array([1.0, 7.0]))
    head = np.concatenate([matrix.ravel(), offsets]).astype(np.float32)
    moved = car_state.rescaled(head, predictions, SCALER, new)
    before = (states @ matrix.T + offsets) * SCALER.std[-1] + SCALER.mean[-1]
    after = (states @ moved[:-predictions].reshape(predictions, hidden).T + moved[-predictions:]) * 7.0 + 5.0
    assert np.allclose(before, after, atol=1e-4)
