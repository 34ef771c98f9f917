"""Networks, training and evaluation on data whose answer is known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fleven.app import model
from fleven.app.errors import AppError, Code
from fleven.app.server.scores import Score
from fleven.app.settings import Settings
from fleven.app.trips import windows as trip_windows
from fleven.app.trips.reader import Trip, Trips
from fleven.app.trips.windows import Prepared, Scaler

Small = Callable[..., Settings]


def prepared_of(settings: Settings, rows: int = 400, noise: float = 0.0) -> Prepared:
    """Target: the mean of the last three readings of the first feature."""
    random = np.random.default_rng(1)
    features = random.normal(size=(rows, 3)).astype(np.float32)
    target = np.convolve(features[:, 0], [1 / 3] * 3)[:rows] * 10 + 50 + random.normal(0, noise or 1e-9, rows)
    values = np.column_stack([features, target]).astype(np.float32)
    return trip_windows.window(
        trip_windows.Rows.of(
            Trips([Trip("t", np.arange(float(rows)), values, rows, 0, 0)]), settings.maximum_gap_factor
        ),
        settings,
    )


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_a_network_learns_what_can_be_learnt(kind: str, small: Small) -> None:
    settings = small(model_type=kind, local_epochs=15, learning_rate=0.03, hidden_size=16)
    prepared = prepared_of(settings)
    scaler = Scaler.of(prepared.statistics)
    network = model.build(settings)
    windows = model.Windows(prepared, scaler, settings)
    model.train(network, windows, prepared.train_starts, settings, seed=1)
    found = model.evaluate(network, windows, prepared.test_starts, scaler, pairs=10)
    assert 1 - found.squared_error / found.target_deviation > 0.8
    assert found.windows == len(prepared.test_starts)
    assert len(found.true) == len(found.predicted) == 10
    assert 20 < found.target_mean < 80


def test_windows_are_views_with_the_right_readings(small: Small) -> None:
    settings = small(prediction_length=2)
    prepared = prepared_of(settings, rows=60)
    scaler = Scaler(np.zeros(4), np.ones(4))
    windows = model.Windows(prepared, scaler, settings)
    inputs, targets = windows.batch(torch.tensor([0, 7]))
    np.testing.assert_array_equal(inputs[1].numpy(), prepared.values[7:12, :3])
    np.testing.assert_array_equal(targets[1].numpy(), prepared.values[11:13, 3])
    assert windows._inputs.untyped_storage().nbytes() == 60 * 3 * 4


def test_training_is_repeatable_and_hangs_on_the_seed(small: Small) -> None:
    settings = small(dropout=0.5, local_epochs=2)
    prepared = prepared_of(settings)
    scaler = Scaler.of(prepared.statistics)
    weights = []
    for seed in (1, 1, 2):
        network = model.build(settings)
        torch.rand(3)  # another program's use of the global generator must not matter
        model.train(network, model.Windows(prepared, scaler, settings), prepared.train_starts, settings, seed)
        weights.append(model.weights_of(network))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_building_does_not_disturb_the_random_state(small: Small) -> None:
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    model.build(small())
    assert torch.rand(1) == expected


def test_weights_go_round_and_wrong_ones_are_refused(small: Small) -> None:
    first, second = model.build(small(seed=1)), model.build(small(seed=2))
    model.load_weights(second, model.weights_of(first))
    np.testing.assert_array_equal(model.weights_of(first), model.weights_of(second))
    with pytest.raises(AppError, match="3 weights for a network of") as caught:
        model.load_weights(first, np.zeros(3, dtype=np.float32))
    assert caught.value.code is Code.REPLY_INVALID


def test_loaded_weights_do_not_share_memory_with_the_vector(small: Small) -> None:
    network = model.build(small())
    vector = model.weights_of(network)
    model.load_weights(network, vector)
    vector[:] = 0
    assert np.abs(model.weights_of(network)).sum() > 0


def test_a_loss_that_is_not_finite_is_an_error(small: Small) -> None:
    settings = small(learning_rate=1e30, local_epochs=3, max_grad_norm=0.0, model_type="mlp")
    prepared = prepared_of(settings)
    windows = model.Windows(prepared, Scaler.of(prepared.statistics), settings)
    with pytest.raises(AppError) as caught:
        model.train(model.build(settings), windows, prepared.train_starts, settings, seed=1)
    assert caught.value.code is Code.TRAINING_DIVERGED


def test_threads(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    tried: list[int] = []
    seconds = {1: 1.0, 4: 0.5}
    monkeypatch.setattr(model.os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(model, "_step_seconds", lambda *args: tried.append(args[-1]) or seconds[args[-1]])
    prepared = prepared_of(small())
    windows = model.Windows(prepared, Scaler.of(prepared.statistics), small())

    def chosen(**changes: Any) -> int:
        return model.use_threads(small(**changes), model.build(small()), windows, prepared.train_starts)

    try:
        assert chosen(threads=3, hidden_size=4096) == 3
        assert chosen(threads=0) == 1
        assert tried == []
        assert chosen(threads=0, hidden_size=4096) == 4
        assert tried == [1, 4]
        seconds[4] = 0.9
        assert chosen(threads=0, hidden_size=4096) == 1
    finally:
        torch.set_num_threads(before)


def test_trying_threads_leaves_the_network_as_it_was(small: Small) -> None:
    prepared = prepared_of(small())
    network = model.build(small())
    weights = model.weights_of(network)
    windows = model.Windows(prepared, Scaler.of(prepared.statistics), small())
    assert model._step_seconds(network, windows, torch.arange(8), torch.get_num_threads()) > 0
    np.testing.assert_array_equal(model.weights_of(network), weights)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_car_without_held_out_windows_has_no_error_sums(small: Small) -> None:
    settings = small()
    prepared = prepared_of(settings)
    scaler = Scaler.of(prepared.statistics)
    nothing: Any = np.empty(0, dtype=np.int64)
    found = model.evaluate(model.build(settings), model.Windows(prepared, scaler, settings), nothing, scaler, 10)
    assert (found.values, found.windows, len(found.true)) == (0, 0, 0)


@pytest.mark.parametrize("speed", [50.0, 33.3, 0.1])
@pytest.mark.parametrize("rows", [7, 61, 97])
def test_a_target_that_never_changes_has_no_deviation_in_one_car_or_in_two(
    small: Small, speed: float, rows: int
) -> None:
    settings = small()
    prepared = prepared_of(settings)
    scaler = Scaler(prepared.statistics.mean, np.full(4, 7.3))
    scores = []
    for count in (rows, 5 * rows):
        prepared.values[:, 3] = speed
        windows = model.Windows(prepared, scaler, settings)
        found = model.evaluate(model.build(settings), windows, np.arange(count) % 100, scaler)
        scores.append(
            Score(count, count, found.squared_error, found.absolute_error, found.target_mean, found.target_deviation)
        )
    assert [score.target_deviation for score in scores] == [0.0, 0.0]
    assert scores[0].merge(scores[1]).r2 is None
    assert scores[0].target_mean == pytest.approx(speed, abs=1e-4)


def test_training_ends_when_its_time_is_up_and_says_what_it_has_seen(small: Small) -> None:
    settings = small(local_epochs=3, batch_size=16)
    prepared = prepared_of(settings)
    windows = model.Windows(prepared, Scaler.of(prepared.statistics), settings)
    count = len(prepared.train_starts)
    batches = -(-count // 16)

    def fit_of(ticks: float) -> model.Fit:
        passed = iter(range(10_000))
        return model.train(
            model.build(settings), windows, prepared.train_starts, settings, 1, until=ticks,
            clock=lambda: float(next(passed)),
        )  # fmt: skip

    assert (fit_of(-1.0).steps, fit_of(-1.0).windows) == (1, 16)
    some = fit_of(4.0)  # the clock is asked before each batch but the first
    assert (some.steps, some.windows) == (5, 80)
    assert 0 < some.loss < 100
    one_epoch = fit_of(batches - 1.0)
    assert (one_epoch.steps, one_epoch.windows) == (batches, count)
    more = fit_of(batches + 3.0)
    assert (more.steps, more.windows) == (batches + 4, count)
    assert fit_of(1e9).steps == 3 * batches
