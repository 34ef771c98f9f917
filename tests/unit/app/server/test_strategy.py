"""Aggregation against Flower's own strategies, and who is sampled."""

import importlib
import sys
from typing import Any, Literal

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedYogi
from hypothesis import given
from hypothesis import strategies as st

from fleven.app.server import strategy
from fleven.app.server.strategy import ServerState
from fleven.app.settings import parse

ROUNDS = 5
WEIGHTS = (120, 45, 300)


def reply(vector: np.ndarray[Any, Any], windows: int) -> Message:
    content = RecordDict(
        {"model": ArrayRecord({"weights": Array(vector)}), "metrics": MetricRecord({"num-examples": windows})}
    )
    question = Message(RecordDict(), 1, "train")
    return Message(content, reply_to=question)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("fedavg", FedAvg()),
        ("fedadam", FedAdam(eta=0.05, beta_1=0.8, beta_2=0.95, tau=0.01)),
        ("fedyogi", FedYogi(eta=0.05, beta_1=0.8, beta_2=0.95, tau=0.01)),
        ("fedadagrad", FedAdagrad(eta=0.05, tau=0.01)),
    ],
)
def test_five_rounds_give_what_flowers_strategy_gives(name: str, theirs: Any) -> None:
    random = np.random.default_rng(3)
    settings = parse(
        {
            "strategy": name,
            "server-learning-rate": 0.05,
            "server-beta-1": 0.8,
            "server-beta-2": 0.95,
            "server-tau": 0.01,
        }
    )
    state = ServerState.start(random.normal(size=200).astype(np.float32))
    expected = state.weights
    for number in range(1, ROUNDS + 1):
        local = [(state.weights + random.normal(0, 0.1, 200)).astype(np.float32) for _ in WEIGHTS]
        theirs.current_arrays = {"weights": expected}
        arrays, _ = theirs.aggregate_train(number, [reply(v, w) for v, w in zip(local, WEIGHTS, strict=True)])
        expected = arrays["weights"].numpy()
        mean = strategy.average(list(zip(local, WEIGHTS, strict=True)))
        state = strategy.step(state, mean, settings, number)
        np.testing.assert_allclose(state.weights, expected, rtol=2e-5, atol=1e-6)
        assert state.weights.dtype == np.float32


def test_average_is_weighted() -> None:
    vectors = [(np.array([0.0, 1.0], dtype=np.float32), 1.0), (np.array([4.0, 1.0], dtype=np.float32), 3.0)]
    assert strategy.average(vectors).tolist() == [3.0, 1.0]


def test_the_average_of_one_car_is_its_model() -> None:
    vector = np.array([0.25, -3.0], dtype=np.float32)
    assert strategy.average([(vector, 7.0)]).tolist() == [0.25, -3.0]


def test_yogi_leaves_a_variance_alone_that_is_as_large_as_the_change() -> None:
    """Reddi et al. 2021: v - (1 - beta 2) d^2 sign(v - d^2), and the sign of nothing is nothing."""
    settings = parse({"strategy": "fedyogi", "server-beta-2": 0.5})
    state = ServerState(*(np.array(values, dtype=np.float32) for values in ([1.0] * 3, [0.0] * 3, [1.0, 4.0, 9.0])))
    after = strategy.step(state, np.array([3.0, 3.0, 3.0], dtype=np.float32), settings, 1)
    assert after.variance.tolist() == [3.0, 4.0, 7.0]


@given(
    ready=st.sets(st.integers(0, 500), min_size=1, max_size=60),
    share=st.floats(0.01, 1.0),
    quorum=st.integers(1, 5),
    number=st.integers(1, 50),
)
def test_sampling(ready: set[int], share: float, quorum: int, number: int) -> None:
    settings = parse({"fraction-train": share, "quorum": quorum, "min-nodes": 5})
    chosen = strategy.sample(sorted(ready), settings, number)
    assert set(chosen) <= ready
    assert len(chosen) == len(set(chosen))
    assert len(chosen) >= min(len(ready), max(quorum, share * len(ready)))
    assert len(chosen) <= max(quorum, share * len(ready) + 1)
    assert chosen == strategy.sample(sorted(ready, reverse=True), settings, number)


def test_rounds_choose_different_cars() -> None:
    settings = parse({"fraction-train": 0.2})
    assert len({tuple(strategy.sample(range(50), settings, number)) for number in range(1, 6)}) > 1


@pytest.mark.parametrize(
    ("offered", "known"), [(("fedavg", "forgotten"), ("fedavg",)), (("fedavg",), ("fedavg", "forgotten"))]
)
def test_a_strategy_forgotten_in_one_of_its_two_places_is_an_error(
    offered: tuple[str, ...], known: tuple[str, ...]
) -> None:
    with pytest.raises(LookupError, match="but not in both: forgotten"):
        strategy.check_names(offered, known)


def test_settings_that_offer_more_than_the_table_are_an_error_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fleven.app.settings.Strategy", Literal["fedavg", "fedadam", "fedyogi", "fedadagrad", "forgotten"]
    )
    monkeypatch.delitem(sys.modules, "fleven.app.server.strategy")
    with pytest.raises(LookupError, match="forgotten"):
        importlib.import_module("fleven.app.server.strategy")


BASE = np.zeros(100, dtype=np.float32)


def lengthy(length: float) -> np.ndarray[Any, Any]:
    return np.full(100, length / 10, dtype=np.float32)


def test_changes_as_long_as_all_others_stay_as_they_are_to_the_last_bit() -> None:
    trained = {0: lengthy(1.0), 1: lengthy(2.0), 2: lengthy(2.9)}
    kept, cuts = strategy.shorten(trained, BASE, 3.0)
    assert not cuts
    assert all(kept[key] is trained[key] for key in trained)


@pytest.mark.parametrize("others", [(1.0,), (1.0, 1.2), (0.8, 1.0, 1.2, 1.1)])
@pytest.mark.parametrize("length", [10.0, 1e6])
def test_a_change_out_of_all_proportion_is_cut_and_named(others: tuple[float, ...], length: float) -> None:
    trained = {number: lengthy(other) for number, other in enumerate(others)} | {9: lengthy(-length)}
    kept, cuts = strategy.shorten(trained, BASE, 3.0)
    assert list(cuts) == [9]
    assert cuts[9].limit == 3.0
    middle = length / cuts[9].ratio
    assert 0.8 <= middle <= 1.2
    assert np.linalg.norm(kept[9]) == pytest.approx(3 * middle, rel=1e-5)
    assert (kept[9] < 0).all()
    assert all(kept[number] is trained[number] for number in range(len(others)))


@pytest.mark.parametrize(("max_ratio", "others"), [(0.0, (1.0, 1.0)), (3.0, (0.0, 0.0))])
def test_without_a_bound_or_a_middle_nothing_is_cut(max_ratio: float, others: tuple[float, ...]) -> None:
    trained = {number: lengthy(other) for number, other in enumerate(others)} | {9: lengthy(50.0)}
    kept, cuts = strategy.shorten(trained, BASE, max_ratio, (), dict.fromkeys(trained, 1.0) | {9: 50.0})
    assert not cuts
    assert kept[9] is trained[9]


@pytest.mark.parametrize(
    ("weights", "limit"),
    [
        ((1.0, 1.0, 1.0, 1.0, 1.0), 3.0),  # an equal share: as far as max-update-ratio says
        ((1.0, 1.0, 1.0, 1.0, 2.0), 2.0),  # a third of all: twice as long moves as much as the other two thirds
        ((1.0, 1.0, 1.0, 1.0, 4.0), 1.0),  # half of all: no longer than the others
        ((1.0, 1.0, 1.0, 1.0, 9.0), 1.0),  # never less than the others' length
        ((1.0, 1.0), 3.0),  # of two cars one has most of the average, whatever it does
    ],
)
def test_no_car_moves_the_model_further_than_all_others_together(weights: tuple[float, ...], limit: float) -> None:
    trained = {number: lengthy(1.0) for number in range(len(weights))} | {len(weights) - 1: lengthy(-50.0)}
    kept, cuts = strategy.shorten(trained, BASE, 3.0, (), dict(enumerate(weights)))
    assert cuts == {len(weights) - 1: strategy.Cut(pytest.approx(50.0), limit)}
    assert np.linalg.norm(kept[len(weights) - 1]) == pytest.approx(limit, rel=1e-5)
    assert strategy.shorten(trained, BASE, 0.5, (), dict(enumerate(weights)))[1][0].limit == 0.5


def test_a_car_in_doubt_has_no_more_weight_than_the_middle_one() -> None:
    weights = {4: 10.0, 7: 900.0, 2: 20.0, 9: 800.0}
    assert strategy.without_privilege(weights, {7, 4}) == {4: 10.0, 7: 20.0, 2: 20.0, 9: 800.0}
    assert strategy.without_privilege(weights, set()) == weights
    assert strategy.without_privilege({}, set()) == {}


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_no_weight_has_more_than_its_share(weights: list[float], max_share: float) -> None:
    bounded = strategy.bounded_weights(weights, max_share)
    share = max(max_share, 1.5 / len(weights))
    assert max(bounded) <= min(share, 1.0) * sum(bounded) * (1 + 1e-6)
    assert all(after <= before * (1 + 1e-9) for before, after in zip(weights, bounded, strict=True))
    if max(weights) <= share * sum(weights):
        assert bounded == weights


def test_shares_of_few_cars() -> None:
    assert strategy.bounded_weights([10.0], 0.5) == [10.0]
    assert strategy.bounded_weights([1e9, 100.0], 0.5) == pytest.approx([300.0, 100.0])
    assert strategy.bounded_weights([1e9, 100.0, 100.0], 0.5) == pytest.approx([200.0, 100.0, 100.0])
    assert strategy.bounded_weights([900.0, 800.0, 700.0], 0.5) == [900.0, 800.0, 700.0]
