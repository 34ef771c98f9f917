"""What the server asks of a car and what the car answers, as Flower records: the one place that knows their keys.

A car answers in every case: an error is a code and a reason in the reply, so that the server can name the car. Must
not import torch or pandas.
"""

import zlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from .trips.windows import Scaler, Statistics

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Champion:
    """The model in use, to be scored on the same windows as the one that a task brings.

    weights: all of them, in the order of its own network, whose shape may differ from the task's.
    """

    weights: Vector
    scaler: Scaler
    model_type: str
    hidden_size: int
    num_layers: int


@dataclass(frozen=True)
class Task:
    """One instruction: evaluate these weights, then train from them, or either alone.

    pairs: how many predictions to share. personal: whether to make this car's own model of them, and judge it too.
    champion: another model that is to be evaluated beside them.
    """

    round: int
    evaluate: bool
    weights: Vector
    scaler: Scaler
    compression: str = "none"
    pairs: int = 0
    personal: bool = False
    champion: Champion | None = None


@dataclass
class Answer:
    """What one car said.

    numbers: counts, seconds, bytes and error sums by kebab-case name. weights: after training, else None.
    predictions: (true, predicted) samples in physical units, else None. personal_predictions: of the same windows by
    the car's own model, where it has another one.
    """

    partition_id: int | None = None
    node_name: str = ""
    error_code: str = ""
    error_reason: str = ""
    skipped_files: list[str] = field(default_factory=list)
    versions: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    statistics: Statistics | None = None
    weights: Vector | None = None
    predictions: tuple[Vector, Vector] | None = None
    personal_predictions: Vector | None = None
    bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether the car did what it was asked."""
        return not self.error_code


def task_record(task: Task) -> tuple[RecordDict, int]:
    """Return the instruction as Flower records, and the bytes of its arrays."""
    model = pack(task.weights, None, task.compression)
    config = ConfigRecord(
        {
            "round": task.round,
            "evaluate": task.evaluate,
            "pairs": task.pairs,
            "personal": task.personal,
            "compression": task.compression,
            "scaler-mean": task.scaler.mean.tolist(),
            "scaler-std": task.scaler.std.tolist(),
        }
    )
    record = RecordDict({"model": model, "task": config})
    if task.champion is None:
        return record, record_bytes(model)
    other = task.champion
    record["champion-model"] = champion = pack(other.weights, None, task.compression)
    record["champion"] = ConfigRecord(
        {
            "scaler-mean": other.scaler.mean.tolist(),
            "scaler-std": other.scaler.std.tolist(),
            "model-type": other.model_type,
            "hidden-size": other.hidden_size,
            "num-layers": other.num_layers,
        }
    )
    return record, record_bytes(model) + record_bytes(champion)


def read_task(record: RecordDict) -> Task:
    """Return the instruction that `task_record` wrote."""
    config = record.config_records["task"]
    compression = str(config["compression"])
    return Task(
        round=int(config["round"]),  # type: ignore[arg-type]  # a scalar: task_record wrote it
        evaluate=bool(config["evaluate"]),
        weights=unpack(record.array_records["model"], None, compression),
        scaler=Scaler(np.array(config["scaler-mean"]), np.array(config["scaler-std"])),
        compression=compression,
        pairs=int(config["pairs"]),  # type: ignore[arg-type]
        personal=bool(config["personal"]),
        champion=_read_champion(record, compression) if "champion" in record else None,
    )


def _read_champion(record: RecordDict, compression: str) -> Champion:
    config = record.config_records["champion"]
    return Champion(
        weights=unpack(record.array_records["champion-model"], None, compression),
        scaler=Scaler(np.array(config["scaler-mean"]), np.array(config["scaler-std"])),
        model_type=str(config["model-type"]),
        hidden_size=int(config["hidden-size"]),  # type: ignore[arg-type]
        num_layers=int(config["num-layers"]),  # type: ignore[arg-type]
    )


def answer_record(answer: Answer, base: Vector | None = None, compression: str = "none") -> RecordDict:
    """Return the answer as Flower records. base: the weights that the car was sent, for compressed updates."""
    record = RecordDict(
        {
            "car": ConfigRecord(
                {
                    "partition-id": -1 if answer.partition_id is None else answer.partition_id,
                    "node-name": answer.node_name,
                    "error-code": str(answer.error_code),
                    "error-reason": answer.error_reason,
                    "skipped-files": answer.skipped_files,
                    "versions": answer.versions,
                }
            ),
            "numbers": MetricRecord(dict(answer.numbers)),
        }
    )
    if answer.statistics is not None:
        record["statistics"] = MetricRecord(
            {
                "count": answer.statistics.count,
                "mean": answer.statistics.mean.tolist(),
                "deviation": answer.statistics.deviation.tolist(),
            }
        )
    if answer.weights is not None:
        record["model"] = pack(answer.weights, base, compression)
    if answer.predictions is not None:
        true, predicted = answer.predictions
        arrays = {"true": Array(true), "predicted": Array(predicted)}
        if answer.personal_predictions is not None:
            arrays["personal"] = Array(answer.personal_predictions)
        record["predictions"] = ArrayRecord(arrays)
    return record


def record_bytes(record: ArrayRecord) -> int:
    """Return the bytes of a record's serialised arrays, as they cross the network."""
    return sum(len(array.data) for array in record.values())


def pack(weights: Vector, base: Vector | None, compression: str) -> ArrayRecord:
    """Return weights as one array. With `base`, what is compressed is the change from it, which is smaller.

    fp16: half precision. lossless: the four bytes of each float sorted into planes, then deflate; signs and
    exponents of a change are much alike, the low bytes are noise.
    """
    if compression == "none":
        return ArrayRecord({"weights": Array(weights)})
    if compression == "fp16":
        change = weights if base is None else weights - base
        return ArrayRecord({"weights": Array(change.astype(np.float16))})
    # XOR of the bits instead of a difference: it undoes exactly, where float addition would round.
    bits = weights.view(np.uint32) if base is None else weights.view(np.uint32) ^ base.view(np.uint32)
    planes = np.ascontiguousarray(bits.view(np.uint8).reshape(-1, 4).T)
    return ArrayRecord({"weights": Array(np.frombuffer(zlib.compress(planes.tobytes(), 6), dtype=np.uint8))})


def unpack(record: ArrayRecord, base: Vector | None, compression: str) -> Vector:
    """Return the weights that `pack` was given (fp16: to half precision).

    Raises ValueError and zlib.error for what `pack` has not made.
    """
    array = record["weights"].numpy()
    if compression == "none":
        return array.astype(np.float32, copy=False)
    if compression == "fp16":
        change = array.astype(np.float32)
        return change if base is None else base + change
    planes = np.frombuffer(_inflate(array.tobytes(), base), dtype=np.uint8).reshape(4, -1)
    bits = np.ascontiguousarray(planes.T).reshape(-1).view(np.uint32)
    return (bits if base is None else bits ^ base.view(np.uint32)).view(np.float32)


def _inflate(packed: bytes, base: Vector | None) -> bytes:
    """Undo deflate. Raises ValueError before it yields more bytes than there are weights in `base`."""
    if base is None:
        return zlib.decompress(packed)
    limit = 4 * base.size
    inflater = zlib.decompressobj()
    data = inflater.decompress(packed, limit + 1)  # 0 would mean: without a limit
    if len(data) != limit or not inflater.eof or inflater.unused_data:
        raise ValueError(f"compressed weights do not unpack to {limit} bytes")
    return data
