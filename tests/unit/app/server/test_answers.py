"""What a car may answer: what is right is read as it was sent, what is wrong in any place becomes a coded answer."""

import copy
import io
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fleven.app.errors import Code
from fleven.app.messages import Answer, answer_record
from fleven.app.server.answers import COUNTS, NUMBERS, STATEMENTS, Question, read_answer
from fleven.app.settings import parse
from fleven.app.trips.windows import Statistics

RANDOM = np.random.default_rng(5)
BASE = RANDOM.normal(size=500).astype(np.float32)
TRAINED = (BASE + RANDOM.normal(0, 0.01, 500)).astype(np.float32)
SETTINGS = parse({"prediction-length": 2})
COUNTED = {"trips": 3, "rows": 1300, "rows-dropped": 4, "gaps": 0, "windows-train": 1000, "windows-test": 100}
SCORED = {
    "values": 200, "squared-error": 900.0, "absolute-error": 300.0, "target-mean": 30.0, "target-deviation": 1e4,
    "evaluate-seconds": 0.1,
}  # fmt: skip
COMPARED = {"champion-squared-error": 800.0, "champion-absolute-error": 250.0, "champion-seconds": 0.1}
TRAINING = {"train-loss": 0.1, "gradient-norm": 0.5, "steps": 16, "train-seconds": 0.3, "threads": 1}
SPENT = {"seconds": 0.5, "cpu-seconds": 0.4, "peak-rss-bytes": 200_000_000}
STATISTICS = Statistics(1000, np.array([2000.0, 20.0, 40.0, 30.0]), np.array([1e8, 1e4, 1e5, 1e5]))
PREDICTIONS = (np.array([1.0, 2.0], dtype=np.float32), np.array([2.0, 3.0], dtype=np.float32))

GOOD = Answer(2, "car-2", skipped_files=["a.csv: data-empty"], versions="fleven=1 python=3", numbers=COUNTED | SPENT)
QUERY = Question("query", SETTINGS)
TRAIN = Question("train", SETTINGS, evaluate=True, base=BASE, partition_id=2, counts=COUNTED)
EVALUATE = Question("evaluate", SETTINGS, evaluate=True, pairs=2, base=BASE, partition_id=2, counts=COUNTED)
ANSWERS: dict[str, tuple[Question, Answer]] = {
    "query": (QUERY, replace(GOOD, statistics=STATISTICS)),
    "train": (TRAIN, replace(GOOD, numbers=COUNTED | SPENT | SCORED | TRAINING, weights=TRAINED)),
    "evaluate": (EVALUATE, replace(GOOD, numbers=COUNTED | SPENT | SCORED, predictions=PREDICTIONS)),
    "compared": (
        replace(EVALUATE, champion=True),
        replace(GOOD, numbers=COUNTED | SPENT | SCORED | COMPARED, predictions=PREDICTIONS),
    ),
    "refusal": (QUERY, replace(GOOD, numbers=SPENT, error_code=Code.DATA_EMPTY, error_reason="no trips")),
}


def replied(record: RecordDict | None = None, error: Error | None = None) -> Message:
    question = Message(RecordDict(), 1, "train")
    return Message(record, reply_to=question) if record is not None else Message(error, reply_to=question)  # type: ignore[arg-type]


def record_of(kind: str) -> RecordDict:
    return answer_record(copy.deepcopy(ANSWERS[kind][1]), BASE)


def read(kind: str, record: RecordDict) -> Answer:
    return read_answer(replied(record), ANSWERS[kind][0])


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_good_answer_is_read_as_it_was_sent(kind: str) -> None:
    sent, found = ANSWERS[kind][1], read(kind, record_of(kind))
    for name in ("partition_id", "node_name", "error_code", "error_reason", "skipped_files", "versions", "numbers"):
        assert getattr(found, name) == getattr(sent, name)
    assert (found.bytes > 0) == (kind in ("train", "evaluate", "compared"))
    if kind == "train":
        np.testing.assert_array_equal(found.weights, TRAINED)
    if kind == "evaluate":
        np.testing.assert_array_equal(found.predictions, PREDICTIONS)
    if kind == "query":
        assert found.statistics is not None
        assert found.statistics.count == 1000
        np.testing.assert_array_equal(found.statistics.mean, STATISTICS.mean)


@pytest.mark.parametrize("compression", ["none", "lossless", "fp16"])
def test_weights_survive_every_compression(compression: str) -> None:
    question = replace(TRAIN, settings=parse({"prediction-length": 2, "update-compression": compression}))
    found = read_answer(replied(answer_record(ANSWERS["train"][1], BASE, compression)), question)
    assert found.ok, found.error_reason
    np.testing.assert_allclose(found.weights, TRAINED, atol=0 if compression != "fp16" else 2e-5)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (1, Code.APP_NOT_LOADED),
        (2, Code.APP_RAISED),
        (5, Code.NODE_UNAVAILABLE),
        (8, Code.APP_CRASHED),
        (99, Code.FLOWER_ERROR),
    ],
)
def test_flowers_errors_become_coded_answers(number: int, code: Code) -> None:
    found = read_answer(replied(error=Error(number, "Node\nUnavailable\x1b[2J")), QUERY)
    assert (found.error_code, found.error_reason) == (code, f"Flower error {number}: Node Unavailable[2J")


# Every single way in which an answer is wrong


def numbers(**changes: Any) -> Callable[[RecordDict], None]:
    def spoil(record: RecordDict) -> None:
        for name, value in changes.items():
            key = name.replace("_", "-")
            if value is None:
                del record.metric_records["numbers"][key]
            else:
                record.metric_records["numbers"][key] = value

    return spoil


def car(**changes: Any) -> Callable[[RecordDict], None]:
    def spoil(record: RecordDict) -> None:
        record["car"] = ConfigRecord(
            dict(record.config_records["car"]) | {name.replace("_", "-"): value for name, value in changes.items()}
        )

    return spoil


def stats(count: Any = 1000, mean: Any = None, deviation: Any = None) -> Callable[[RecordDict], None]:
    def spoil(record: RecordDict) -> None:
        record["statistics"] = MetricRecord(
            {
                "count": count,
                "mean": mean if mean is not None else STATISTICS.mean.tolist(),
                "deviation": deviation if deviation is not None else STATISTICS.deviation.tolist(),
            }
        )

    return spoil


def model(array: Array) -> Callable[[RecordDict], None]:
    def spoil(record: RecordDict) -> None:
        record["model"] = ArrayRecord({"weights": array})

    return spoil


def weights(vector: Any) -> Callable[[RecordDict], None]:
    return model(Array(np.asarray(vector)))


def claiming(shape: tuple[Any, ...], dtype: str = "<f4", data: bytes = b"") -> Callable[[RecordDict], None]:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return model(Array("float32", shape, "numpy.ndarray", stream.getvalue() + data))


def without(name: str) -> Callable[[RecordDict], None]:
    def spoil(record: RecordDict) -> None:
        del record[name]

    return spoil


def added(name: str, value: Any) -> Callable[[RecordDict], None]:
    def spoil(record: RecordDict) -> None:
        record[name] = value

    return spoil


PICKLE = b"cposix\nsystem\n(S'true'\ntR."
WRONG: dict[str, tuple[str, Callable[[RecordDict], None], str]] = {
    "windows-missing": ("train", numbers(windows_train=None), "windows-train: missing"),
    "windows-1e18": ("train", numbers(windows_train=10**18), "windows-train: 1000000000000000000 is not between"),
    "windows-beyond-rows": ("train", numbers(windows_train=1250), "more windows than rows"),
    "windows-nan": ("train", numbers(windows_train=float("nan")), "windows-train: must be a whole number"),
    "windows-of-another-query": ("train", numbers(windows_train=3001, rows=9000), "rows: is 9000, was 1300 in the"),
    "windows-zero": ("train", numbers(windows_train=0), "windows-train: a car without"),
    "windows-negative": ("query", numbers(windows_test=-5), "windows-test: -5 is not between"),
    "values-inf": ("train", numbers(values=float("inf")), "values: must be a whole number"),
    "values-beyond-windows": ("evaluate", numbers(values=10**6), "values: 1000000 from 100 windows of 2"),
    "errors-negative": ("evaluate", numbers(squared_error=-1.0), "squared-error: -1.0 is not between"),
    "errors-nan": ("evaluate", numbers(absolute_error=float("nan")), "absolute-error: nan is not between"),
    "errors-that-cannot-be": ("evaluate", numbers(squared_error=1.0), "no set of errors has such sums"),
    "target-beyond-range": ("evaluate", numbers(target_mean=300.0), "a mean of 300 is not between 0 and 255"),
    "target-spread": ("evaluate", numbers(target_deviation=1e12), "with that mean have squared deviations of 1e"),
    "score-missing": ("train", numbers(squared_error=None), "squared-error: missing"),
    "champion-missing": ("compared", numbers(champion_squared_error=None), "champion-squared-error: missing"),
    "champion-negative": ("compared", numbers(champion_squared_error=-1.0), "champion-squared-error: -1.0 is not"),
    "champion-that-cannot-be": ("compared", numbers(champion_squared_error=1.0), "no set of errors has such sums"),
    "loss-missing": ("train", numbers(train_loss=None), "train-loss: missing"),
    "seconds-text": ("train", numbers(seconds=[1.0, 2.0]), "seconds: must be one number"),
    "seconds-for-ever": ("query", numbers(seconds=1e300), "seconds: 1e+300 is not between"),
    "number-unknown": ("train", numbers(bonus=1.0), "bonus: is not a number that a car reports"),
    "numbers-missing": ("train", without("numbers"), "numbers: is missing"),
    "weights-1e30": ("train", weights(np.full_like(BASE, 1e30)), "model: a weight beyond"),
    "nan-weights": ("train", weights(np.full_like(BASE, np.nan)), "model: the weights are not finite"),
    "shape": ("train", weights(np.zeros(3, np.float32)), "model: 3 values, must be 500"),
    "shape-of-two": ("train", weights(BASE.reshape(5, 100)), "model: must have one dimension"),
    "kind-of-weights": ("train", weights(BASE.astype(np.float64)), "model: is numpy.ndarray of float64"),
    "npy-claim": ("train", claiming((10**13,)), "model: claims 10000000000000 values and has 0 bytes"),
    "npy-negative": ("train", claiming((-1,)), "model: claims -1 values"),
    "npy-object": ("train", claiming((500,), "|O", PICKLE), "model: its data is object"),
    "npy-other-kind": ("train", claiming((500,), "<f8", bytes(4000)), "model: its data is float64"),
    "npy-none": ("train", model(Array("float32", (500,), "numpy.ndarray", b"")), "model: is no NumPy array"),
    "npy-noise": ("train", model(Array("float32", (500,), "numpy.ndarray", bytes(99))), "model: is no NumPy array"),
    "two-shapes": ("train", model(Array("float32", (3,), "numpy.ndarray", Array(BASE).data)), "the same in both"),
    "serialised-by-another": ("train", model(Array("float32", (500,), "pickle", PICKLE)), "model: is pickle of"),
    "model-missing": ("train", without("model"), "model: the answer holds no weights"),
    "model-too-large": ("train", weights(np.zeros(2_000_000, np.float32)), "bytes, at most"),
    "model-of-two": ("train", added("model", ArrayRecord({"a": Array(BASE), "weights": Array(BASE)})), "one array"),
    "predictions-nan": (
        "evaluate",
        added("predictions", ArrayRecord({"true": Array(PREDICTIONS[0] * np.nan), "predicted": Array(PREDICTIONS[1])})),
        "predictions: must be finite",
    ),
    "predictions-too-many": (
        "evaluate",
        added("predictions", ArrayRecord({name: Array(BASE) for name in ("true", "predicted")})),
        "predictions: 500 values, at most 2",
    ),
    "predictions-apart": (
        "evaluate",
        added("predictions", ArrayRecord({"true": Array(PREDICTIONS[0]), "predicted": Array(PREDICTIONS[1][:1])})),
        "as many as there are",
    ),
    "stat-none": ("query", without("statistics"), "statistics: are missing"),
    "stat-count-1e18": ("query", stats(10**18, [0.0, 0.0, 0.0, 1e6], [1e18] * 4), "a count of 1000000000000000000"),
    "stat-count-beyond-rows": ("query", stats(1301), "a count of 1301 from 1300 rows"),
    "stat-count-none": ("query", stats(0), "a count of 0"),
    "stat-shape": ("query", stats(mean=[1.0, 2.0], deviation=[1.0, 2.0]), "mean must have 4 numbers"),
    "stat-nan": ("query", stats(mean=[float("nan")] * 4), "mean holds what is not a finite number"),
    "stat-mean-beyond-range": ("query", stats(mean=[2000.0, 20.0, 40.0, 1e6]), "vehicle_speed: a mean of 1e+06"),
    "stat-deviation-negative": ("query", stats(deviation=[1e8, 1e4, 1e5, -1.0]), "squared deviations of -1"),
    "stat-deviation-beyond-range": ("query", stats(deviation=[1e8, 1e4, 1e5, 1e9]), "squared deviations of 1e+09"),
    "partition-of-another": ("train", car(partition_id=0), "partition-id: is 0, was 2 in the car's query"),
    "partition-negative": ("query", car(partition_id=-7), "partition-id: -7 is out of range"),
    "partition-none": ("query", car(partition_id=-1), "partition-id: a car without one"),
    "partition-text": ("query", car(partition_id="zero"), "partition-id: is of kind str"),
    "partition-true": ("query", car(partition_id=True), "partition-id: is of kind bool"),
    "name-number": ("query", car(node_name=7), "node-name: is of kind int"),
    "code-unknown": ("refusal", car(error_code="all-is-well"), "'all-is-well' is not a code that a car has"),
    "code-of-the-server": ("refusal", car(error_code="node-unavailable"), "is not a code that a car has"),
    "car-missing": ("query", without("car"), "car: is missing"),
    "car-more": ("query", car(admin="yes"), "car: unknown or missing: admin"),
    "record-unknown": ("query", added("notes", ConfigRecord({"a": 1})), "notes: is not part of an answer"),
    "record-kind": ("query", added("numbers", ConfigRecord({"a": 1})), "numbers: is a ConfigRecord, must be"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_becomes_a_coded_one_that_says_what_is_wrong(case: str) -> None:
    kind, spoil, said = WRONG[case]
    record = record_of(kind)
    spoil(record)
    found = read(kind, record)
    assert found.error_code == Code.REPLY_INVALID
    assert said in found.error_reason
    assert (found.weights, found.statistics, found.predictions) == (None, None, None)


def test_who_gave_a_wrong_answer_to_its_query_is_named_and_nobody_by_an_answer_in_a_round() -> None:
    for kind, named in (("query", (2, "car-2")), ("train", (None, ""))):
        record = record_of(kind)
        numbers(rows=-1)(record)
        found = read(kind, record)
        assert (found.error_code, found.partition_id, found.node_name) == (Code.REPLY_INVALID, *named)


@pytest.mark.parametrize("size", [1_000_000, 300_000_000])
def test_compressed_weights_that_unpack_to_something_else_cost_nothing(size: int) -> None:
    record = record_of("train")
    packed = zlib.compress(bytes(size), 9)
    record["model"] = ArrayRecord({"weights": Array(np.frombuffer(packed, dtype=np.uint8))})
    question = replace(TRAIN, settings=parse({"prediction-length": 2, "update-compression": "lossless"}))
    tracemalloc.start()
    found = read_answer(replied(record), question)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.error_code == Code.REPLY_INVALID
    assert "do not unpack to 2000 bytes" in found.error_reason
    assert peak < 2_000_000


def test_a_car_that_collects_trips_meanwhile_is_no_liar() -> None:
    record = record_of("train")
    grown: dict[str, Any] = {"windows-train": 1900, "windows-test": 200, "rows": 2500, "values": 400}
    record["numbers"] = MetricRecord(dict(record.metric_records["numbers"]) | grown | {"squared-error": 1e4})
    assert read("train", record).ok


def test_texts_of_cars_are_cleaned_and_cut() -> None:
    record = record_of("refusal")
    car(
        node_name="\x1b[31mEVIL\x1b[0m \u202eevil\u2066 a\u2028b\u2029c\x00",
        error_reason="x" * 20_000_000,
        skipped_files=["a\nb.csv"] * 5000,
        versions="v\u200b1",
    )(record)
    found = read("refusal", record)
    assert found.node_name == "[31mEVIL[0m evil a b c"
    assert len(found.error_reason) == 500
    assert found.skipped_files == ["a b.csv"] * 100
    assert found.versions == "v1"
    assert found.error_code == Code.DATA_EMPTY


# Answers generated from the schema, and broken

NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=30),
    st.binary(max_size=30),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    st.lists(st.floats(), max_size=6),
    st.lists(st.text(max_size=5), max_size=3),
)
ARRAYS = st.builds(
    Array,
    st.sampled_from(["float32", "float16", "uint8", "float64", "object", "junk"]),
    st.tuples(st.integers(0, 2**62)) | st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.sampled_from(["numpy.ndarray", "pickle", ""]),
    st.binary(max_size=300) | st.sampled_from([Array(BASE).data, Array(BASE).data[:100], Array(BASE[:3]).data]),
)


@st.composite
def broken(draw: st.DrawFn) -> tuple[str, RecordDict]:
    """One good answer in which one to three places hold something else."""
    kind = draw(st.sampled_from(sorted(ANSWERS)))
    record = record_of(kind)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from(["car", "numbers", "statistics", "arrays", "drop", "kind"]))
        if where == "arrays":
            name = draw(st.sampled_from(["model", "predictions"]))
            keys = draw(st.sets(st.sampled_from(["weights", "true", "predicted", "x"]), max_size=2))
            record[name] = ArrayRecord({key: draw(ARRAYS) for key in sorted(keys)})
        elif where == "drop" and len(record) > 1:
            del record[draw(st.sampled_from(sorted(record)))]
        elif where == "kind":
            record[draw(st.sampled_from(["car", "numbers", "statistics", "x"]))] = draw(
                st.sampled_from([ConfigRecord(), MetricRecord(), ArrayRecord()])
            )
        elif where in record and isinstance(record[where], ConfigRecord | MetricRecord):
            names = {"car": list(STATEMENTS), "numbers": list(NUMBERS), "statistics": ["count", "mean", "deviation"]}
            name = draw(st.sampled_from([*names.get(where, []), "other"]))
            try:
                record[where][name] = draw(NASTY)  # type: ignore[index]
            except (TypeError, ValueError):  # Flower's records take no such value
                continue
    return kind, record


@hypothesis_settings(max_examples=200, deadline=None)
@given(broken())
def test_whatever_a_car_answers_is_within_bounds_or_a_coded_refusal(answer: tuple[str, RecordDict]) -> None:
    kind, record = answer
    question = ANSWERS[kind][0]
    found = read(kind, record)
    for text in (found.node_name, found.error_reason, found.versions, *found.skipped_files):
        assert len(text) <= 500
        assert text.isprintable()
    assert all(NUMBERS[name].minimum <= value <= NUMBERS[name].maximum for name, value in found.numbers.items())
    if not found.ok:
        assert found.error_code in set(Code)
        assert (found.weights, found.statistics, found.predictions) == (None, None, None)
        return
    assert found.partition_id is not None
    assert all(name in found.numbers for name in COUNTS)
    if question.kind == "train":
        assert found.weights is not None
        assert found.weights.shape == BASE.shape
        assert np.isfinite(found.weights).all()
    if question.kind == "query":
        assert found.statistics is not None
        assert 0 < found.statistics.count <= found.numbers["rows"]
        assert found.statistics.mean.shape == found.statistics.deviation.shape == (4,)
        assert (found.statistics.deviation >= 0).all()
