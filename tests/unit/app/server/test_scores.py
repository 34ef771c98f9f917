"""Pooled errors are those of one evaluation over everything."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven.app.server.scores import Score


def score_of(true: np.ndarray, predicted: np.ndarray) -> Score:  # type: ignore[type-arg]
    error = predicted - true
    mean = float(true.mean()) if len(true) else 0.0
    return Score(
        len(true),
        len(true),
        float((error**2).sum()),
        float(np.abs(error).sum()),
        mean,
        float(((true - mean) ** 2).sum()),
    )


pairs = st.lists(st.tuples(st.floats(0, 200), st.floats(0, 200)), max_size=30)


@given(st.lists(pairs, min_size=1, max_size=5).filter(any))
def test_pooling_cars_equals_evaluating_once(parts: list[list[tuple[float, float]]]) -> None:
    arrays = [np.array(part, dtype=float).reshape(-1, 2) for part in parts]
    pooled = Score()
    for array in arrays:
        pooled = pooled.merge(score_of(array[:, 0], array[:, 1]))
    everything = np.concatenate(arrays)
    whole = score_of(everything[:, 0], everything[:, 1])
    assert (pooled.values, pooled.windows) == (whole.values, whole.windows)
    assert pooled.target_mean == pytest.approx(whole.target_mean)
    assert pooled.rmse == pytest.approx(whole.rmse)
    assert pooled.mae == pytest.approx(whole.mae)
    assert pooled.target_deviation == pytest.approx(whole.target_deviation, rel=1e-6, abs=1e-6)


def test_nothing_is_said_without_values() -> None:
    assert Score().row() == {"rmse": None, "mae": None, "r2": None}


def test_a_truth_that_never_changes_has_no_r2() -> None:
    assert score_of(np.full(5, 3.0), np.full(5, 4.0)).row() == {"rmse": 1.0, "mae": 1.0, "r2": None}


def test_the_sums_of_a_car_are_read_from_its_answer() -> None:
    answer = {
        "values": 40.0,
        "windows-test": 20.0,
        "squared-error": 160.0,
        "absolute-error": 60.0,
        "target-mean": 50.0,
        "target-deviation": 640.0,
        "train-loss": 9.0,
    }
    score = Score.of(answer)
    assert score == Score(40, 20, 160.0, 60.0, 50.0, 640.0)
    assert score.row() == {"rmse": 2.0, "mae": 1.5, "r2": 0.75}
    assert Score().merge(score) == score.merge(Score()) == score


@pytest.mark.parametrize(("squared_error", "deviation", "r2"), [(0.0, 0.5, 1.0), (0.5, 0.5, 0.0), (1.0, 0.5, -1.0)])
def test_r2_is_the_share_of_the_deviation_that_is_explained(squared_error: float, deviation: float, r2: float) -> None:
    """Below zero, the mean alone would have predicted better."""
    assert Score(4, 4, squared_error, 1.0, 0.0, deviation).r2 == r2
