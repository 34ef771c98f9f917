"""The wire format: what is sent is what is read, and a reply that is not one becomes a coded answer."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.error import Error

from fleven.app.errors import Code
from fleven.app.messages import (
    Answer,
    Task,
    answer_record,
    pack,
    read_answer,
    read_task,
    record_bytes,
    task_record,
    unpack,
)
from fleven.app.trips.windows import Scaler, Statistics

RANDOM = np.random.default_rng(5)
BASE = RANDOM.normal(size=5000).astype(np.float32)
TRAINED = (BASE + RANDOM.normal(0, 0.01, 5000)).astype(np.float32)


def replied(record: RecordDict | None = None, error: Error | None = None) -> Message:
    question = Message(RecordDict(), 1, "train")
    return Message(record, reply_to=question) if record is not None else Message(error, reply_to=question)  # type: ignore[arg-type]


@pytest.mark.parametrize("compression", ["none", "lossless"])
@pytest.mark.parametrize("base", [None, BASE])
def test_weights_survive_exactly(compression: str, base: Any) -> None:
    np.testing.assert_array_equal(unpack(pack(TRAINED, base, compression), base, compression), TRAINED)


def test_half_precision_of_a_change_is_far_finer_than_of_the_weights() -> None:
    of_change = unpack(pack(TRAINED, BASE, "fp16"), BASE, "fp16")
    of_weights = unpack(pack(TRAINED, None, "fp16"), None, "fp16")
    assert np.abs(of_change - TRAINED).max() < 2e-5
    assert np.abs(of_change - TRAINED).mean() < np.abs(of_weights - TRAINED).mean() / 20


def test_compression_saves_bytes() -> None:
    size = {name: record_bytes(pack(TRAINED, BASE, name)) for name in ("none", "lossless", "fp16")}
    assert size["fp16"] < 0.52 * size["none"]
    assert size["lossless"] < 0.95 * size["none"]


@pytest.mark.parametrize("compression", ["none", "lossless"])
def test_a_task_survives(compression: str) -> None:
    scaler = Scaler(np.array([1.5, 2.5]), np.array([0.1, 0.2]))
    record, size = task_record(Task(7, True, BASE, scaler, compression, 50))
    task = read_task(record)
    np.testing.assert_array_equal(task.weights, BASE)
    np.testing.assert_array_equal(task.scaler.std, scaler.std)
    assert (task.round, task.evaluate, task.pairs, task.compression) == (7, True, 50, compression)
    assert size == sum(record_bytes(arrays) for arrays in record.array_records.values())


def test_an_answer_survives() -> None:
    answer = Answer(
        partition_id=2,
        node_name="car-2",
        skipped_files=["a.csv: data-empty"],
        numbers={"rows": 5, "seconds": 0.5},
        statistics=Statistics(3, np.array([1.0]), np.array([2.0])),
        weights=TRAINED,
        predictions=(np.array([1.0], dtype=np.float32), np.array([2.0], dtype=np.float32)),
    )
    read = read_answer(replied(answer_record(answer, BASE, "lossless")), BASE, "lossless")
    assert read.ok
    assert (read.partition_id, read.node_name, read.skipped_files) == (2, "car-2", ["a.csv: data-empty"])
    assert read.numbers == {"rows": 5, "seconds": 0.5}
    assert read.statistics is not None
    assert read.statistics.count == 3
    assert read.weights is not None
    np.testing.assert_array_equal(read.weights, TRAINED)
    assert read.bytes > 0


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
    read = read_answer(replied(error=Error(number, "Node\nUnavailable")))
    assert (read.error_code, read.error_reason) == (code, f"Flower error {number}: Node Unavailable")


def spoil_nothing(record: RecordDict) -> None:
    del record["car"]


def spoil_numbers(record: RecordDict) -> None:
    del record["numbers"]


def spoil_weights(record: RecordDict) -> None:
    record["model"] = ArrayRecord({"weights": Array(np.array([np.nan], dtype=np.float32))})


def spoil_size(record: RecordDict) -> None:
    record["model"] = ArrayRecord({"weights": Array(np.zeros(3, dtype=np.float32))})


def spoil_partition(record: RecordDict) -> None:
    record["car"] = ConfigRecord({"partition-id": "zero"})


@pytest.mark.parametrize("spoil", [spoil_nothing, spoil_numbers, spoil_weights, spoil_size, spoil_partition])
def test_a_malformed_reply_becomes_a_coded_answer(spoil: Any) -> None:
    record = answer_record(Answer(partition_id=0, weights=TRAINED), BASE)
    spoil(record)
    assert read_answer(replied(record), BASE).error_code == Code.REPLY_INVALID


def test_a_compressed_reply_that_is_noise_becomes_a_coded_answer() -> None:
    record = answer_record(Answer(partition_id=0, weights=TRAINED), BASE)
    record["model"] = ArrayRecord({"weights": Array(np.frombuffer(b"noise", dtype=np.uint8))})
    assert read_answer(replied(record), BASE, "lossless").error_code == Code.REPLY_INVALID
