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
    assert pooled.values == whole.values
    assert pooled.rmse == pytest.approx(whole.rmse)
    assert pooled.mae == pytest.approx(whole.mae)
    assert pooled.target_deviation == pytest.approx(whole.target_deviation, rel=1e-6, abs=1e-6)


def test_nothing_is_said_without_values() -> None:
    assert Score().row() == {"rmse": None, "mae": None, "r2": None}


def test_a_truth_that_never_changes_has_no_r2() -> None:
    assert score_of(np.full(5, 3.0), np.full(5, 4.0)).row() == {"rmse": 1.0, "mae": 1.0, "r2": None}
