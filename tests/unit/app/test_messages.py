"""The wire format: what is sent is what is read, and a reply that is not one becomes a coded answer."""

import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from fleven.app.messages import (
    Task,
    pack,
    read_task,
    record_bytes,
    task_record,
    unpack,
)
from fleven.app.trips.windows import Scaler

RANDOM = np.random.default_rng(5)
BASE = RANDOM.normal(size=5000).astype(np.float32)
TRAINED = (BASE + RANDOM.normal(0, 0.01, 5000)).astype(np.float32)


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


@pytest.mark.parametrize("size", [0, 10, 19_999, 20_001, 300_000])
def test_deflated_weights_do_not_unpack_to_another_size(size: int) -> None:
    packed = np.frombuffer(zlib.compress(bytes(size)), dtype=np.uint8)
    with pytest.raises(ValueError, match="do not unpack to 20000 bytes"):
        unpack(ArrayRecord({"weights": Array(packed)}), BASE, "lossless")


def test_a_bomb_is_not_unpacked() -> None:
    packed = np.frombuffer(zlib.compress(bytes(200_000_000), 9), dtype=np.uint8)
    tracemalloc.start()
    with pytest.raises(ValueError, match="do not unpack"):
        unpack(ArrayRecord({"weights": Array(packed)}), BASE, "lossless")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
