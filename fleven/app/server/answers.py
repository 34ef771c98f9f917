"""What a car may answer, as one schema, and the reading of an answer by it.

A car is not trusted: kinds, shapes, bounds and sizes are looked at before anything is unpacked or allocated, and what
is wrong excludes this car's answer, with a code and a reason that says what was wrong, and never the run. Must not
import torch or pandas.
"""

import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error

from ..columns import CANONICAL
from ..errors import CAR_CODES, Code
from ..messages import Answer, Vector, unpack
from ..settings import LARGEST_PARTITION, Settings
from ..trips.windows import Statistics
from .flower_limits import REFUSED
from .text import FILE_CHARACTERS, NAME_CHARACTERS, REASON_CHARACTERS, clean

#: Flower's own error codes (flwr.common.constant.ErrorCode, not a public module), as our codes.
FLOWER_CODES = {
    1: Code.APP_NOT_LOADED,
    2: Code.APP_RAISED,
    3: Code.MESSAGE_UNAVAILABLE,
    4: Code.MESSAGE_UNAVAILABLE,
    5: Code.NODE_UNAVAILABLE,
    7: Code.FAB_INVALID,
    8: Code.APP_CRASHED,
}
MOST_SKIPPED_FILES = 100
#: A car may collect trips while a run goes on: this many times what its query stated, and it is asked again.
MOST_GROWTH = 2
GROWTH_TO_START = 1000
GROWING = ("trips", "rows", "windows-train", "windows-test")
#: A weight beyond this is no result of training on scaled values.
LARGEST_WEIGHT = 1e6
#: Bytes of an answer beside its arrays.
OVERHEAD_BYTES = 1_000_000
LONGEST_HEADER_BYTES = 10_000
#: Bound of what a reading or a mean can be in a column that the table of columns does not know.
ANY_READING = 1e20
#: Rounding that sums of float64 over a car's rows can show.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Number:
    """A finite number with bounds; whole: without a fraction, as an integer."""

    minimum: float
    maximum: float
    whole: bool = False


_COUNT = Number(0, 1_000_000_000, whole=True)
_SECONDS = Number(0, 10_000_000)
_SUM = Number(0, 1e60)

#: Everything that a car says in numbers. Nothing else is taken.
NUMBERS: Mapping[str, Number] = {
    "trips": _COUNT,
    "rows": _COUNT,
    "rows-dropped": _COUNT,
    "gaps": _COUNT,
    "windows-train": _COUNT,
    "windows-test": _COUNT,
    "seconds": _SECONDS,
    "cpu-seconds": _SECONDS,
    "peak-rss-bytes": Number(0, 2**50, whole=True),
    "threads": Number(0, 4096, whole=True),
    "train-loss": _SUM,
    "gradient-norm": _SUM,
    "steps": _COUNT,
    "windows-seen": _COUNT,
    "train-seconds": _SECONDS,
    "values": Number(0, 1_000_000_000_000, whole=True),
    "squared-error": _SUM,
    "absolute-error": _SUM,
    "target-mean": Number(-ANY_READING, ANY_READING),
    "target-deviation": _SUM,
    "evaluate-seconds": _SECONDS,
    "personal-kept": Number(0, 1, whole=True),
    "personal-epochs": Number(0, 100, whole=True),
    "personal-squared-error": _SUM,
    "personal-absolute-error": _SUM,
    "personal-seconds": _SECONDS,
    "champion-squared-error": _SUM,
    "champion-absolute-error": _SUM,
    "champion-seconds": _SECONDS,
}
COUNTS = ("trips", "rows", "rows-dropped", "gaps", "windows-train", "windows-test")
TRAINED = ("train-loss", "gradient-norm", "steps")
EVALUATED = ("values", "squared-error", "absolute-error", "target-mean", "target-deviation")
PERSONAL = ("personal-kept", "personal-epochs", "personal-squared-error", "personal-absolute-error")
CHAMPION = ("champion-squared-error", "champion-absolute-error")
#: What a car states of itself in each answer, and its kind.
STATEMENTS: Mapping[str, type] = {
    "partition-id": int,
    "node-name": str,
    "error-code": str,
    "error-reason": str,
    "skipped-files": list,
    "versions": str,
}
RECORDS: Mapping[str, type] = {
    "car": ConfigRecord,
    "numbers": MetricRecord,
    "statistics": MetricRecord,
    "model": ArrayRecord,
    "predictions": ArrayRecord,
}


class AnswerError(ValueError):
    """What is wrong with an answer."""


@dataclass(frozen=True)
class Question:
    """What a car was asked, by which its answer is measured.

    kind: "query", "train" or "evaluate". base: the weights that it was sent. partition_id and counts: what its query
    stated; None and nothing before it. pairs: how many predictions it may share. personal: whether it was to make its
    own model. champion: whether it was to score the model in use, too.
    """

    kind: str
    settings: Settings
    evaluate: bool = False
    pairs: int = 0
    personal: bool = False
    champion: bool = False
    base: Vector | None = None
    partition_id: int | None = None
    counts: Mapping[str, float] = field(default_factory=dict)


def largest_answer_bytes(weights: int, pairs: int) -> int:
    """Return how many bytes no answer to a network of so many weights needs, compressed or not."""
    return 5 * weights + 12 * pairs + OVERHEAD_BYTES


def read_answer(message: Message, question: Question) -> Answer:
    """Return what a car said. Errors of Flower's and answers that are not as they must be become coded answers."""
    if message.has_error():
        return flower_answer(message.error)
    known = Answer()
    try:
        known = _introduction(message.content, question)
        return _read(known, message.content, question)
    except AnswerError as error:
        reason = str(error)
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError, RecursionError, zlib.error) as error:
        reason = clean(f"{type(error).__name__}: {error}", REASON_CHARACTERS)
    refused = Answer(error_code=Code.REPLY_INVALID, error_reason=reason)
    # Later on a car is known by its query, whatever it says then.
    named = question.kind == "query"
    return replace(refused, partition_id=known.partition_id, node_name=known.node_name) if named else refused


def flower_answer(error: Error) -> Answer:
    """Return Flower's own error as an answer."""
    code = FLOWER_CODES.get(error.code, Code.FLOWER_ERROR)
    reason = clean(error.reason or "no reason given", REASON_CHARACTERS)
    if REFUSED in reason:
        return Answer(error_code=Code.REPLY_INVALID, error_reason=reason[reason.index(REFUSED) :])
    return Answer(error_code=code, error_reason=f"Flower error {error.code}: {reason}")


def _introduction(record: RecordDict, question: Question) -> Answer:
    """Return who answers, and what it has to say of itself in words."""
    _check_records(record)
    size = _check_bytes(record, question)
    return replace(_statements(record.config_records["car"]), bytes=size)


def _read(answer: Answer, record: RecordDict, question: Question) -> Answer:
    answer.numbers = _numbers(record.metric_records["numbers"])
    if question.partition_id is not None and answer.partition_id != question.partition_id:
        raise AnswerError(f"partition-id: is {answer.partition_id}, was {question.partition_id} in the car's query")
    if not answer.ok:
        return answer
    if answer.partition_id is None:
        raise AnswerError("partition-id: a car without one answers with an error")
    _check_counts(answer.numbers, question)
    if question.kind == "query":
        if "statistics" not in record:
            raise AnswerError("statistics: are missing")
        answer.statistics = _statistics(record.metric_records["statistics"], answer.numbers, question.settings)
        return answer
    if question.evaluate:
        _check_evaluation(answer.numbers, question.settings)
    if question.personal:
        _require(answer.numbers, PERSONAL)
        _check_errors(answer.numbers, "personal-")
    if question.champion:
        _require(answer.numbers, CHAMPION)
        _check_errors(answer.numbers, "champion-")
    if question.kind == "train":
        _require(answer.numbers, TRAINED)
        if "model" not in record:
            raise AnswerError("model: the answer holds no weights")
        answer.weights = _weights(record.array_records["model"], question)
    elif "predictions" in record:
        answer.predictions, answer.personal_predictions = _predictions(record.array_records["predictions"], question)
    return answer


def _check_records(record: RecordDict) -> None:
    for name, value in record.items():
        if name not in RECORDS:
            raise AnswerError(f"{clean(str(name), 40)}: is not part of an answer")
        if not isinstance(value, RECORDS[name]):
            raise AnswerError(f"{name}: is a {type(value).__name__}, must be a {RECORDS[name].__name__}")
    for name in ("car", "numbers"):
        if name not in record:
            raise AnswerError(f"{name}: is missing")


def _check_bytes(record: RecordDict, question: Question) -> int:
    """Return the bytes of the arrays. Raises AnswerError for more than such an answer can need."""
    size = sum(len(array.data) for arrays in record.array_records.values() for array in arrays.values())
    limit = largest_answer_bytes(0 if question.base is None else question.base.size, question.pairs)
    if size > limit:
        raise AnswerError(f"the arrays have {size} bytes, at most {limit} are taken")
    return size


def _statements(car: ConfigRecord) -> Answer:
    if set(car) != set(STATEMENTS):
        odd = clean(", ".join(sorted(set(map(str, car)) ^ set(STATEMENTS))), 100)
        raise AnswerError(f"car: unknown or missing: {odd}")
    for name, kind in STATEMENTS.items():
        if type(car[name]) is not kind:
            raise AnswerError(f"{name}: is of kind {type(car[name]).__name__}, must be {kind.__name__}")
    partition, code, files = car["partition-id"], car["error-code"], car["skipped-files"]
    assert isinstance(partition, int)  # noqa: S101  # by the loop above
    assert isinstance(code, str)  # noqa: S101
    assert isinstance(files, list)  # noqa: S101
    if not -1 <= partition <= LARGEST_PARTITION:
        raise AnswerError(f"partition-id: {partition} is out of range")
    if code and code not in CAR_CODES:
        raise AnswerError(f"error-code: {clean(code, 40)!r} is not a code that a car has")
    return Answer(
        partition_id=None if partition < 0 else partition,
        node_name=clean(str(car["node-name"]), NAME_CHARACTERS),
        error_code=code,
        error_reason=clean(str(car["error-reason"]), REASON_CHARACTERS),
        skipped_files=[clean(str(name), FILE_CHARACTERS) for name in files[:MOST_SKIPPED_FILES]],
        versions=clean(str(car["versions"]), NAME_CHARACTERS),
    )


def _numbers(record: MetricRecord) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in record.items():
        bounds = NUMBERS.get(name)
        if bounds is None:
            raise AnswerError(f"{clean(str(name), 40)}: is not a number that a car reports")
        kind = type(value)
        if kind is not int and (bounds.whole or kind is not float):
            raise AnswerError(f"{name}: must be {'a whole' if bounds.whole else 'one'} number")
        if not bounds.minimum <= value <= bounds.maximum:  # type: ignore[operator]  # also false for NaN
            raise AnswerError(f"{name}: {value} is not between {bounds.minimum:g} and {bounds.maximum:g}")
        found[name] = value  # type: ignore[assignment]
    return found


def _require(numbers: Mapping[str, float], names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in numbers]:
        raise AnswerError(f"{', '.join(missing)}: missing")


def _check_counts(numbers: Mapping[str, float], question: Question) -> None:
    _require(numbers, COUNTS)
    if numbers["windows-train"] < 1:
        raise AnswerError("windows-train: a car without training windows answers with an error")
    if numbers["windows-train"] + numbers["windows-test"] > numbers["rows"]:
        raise AnswerError("windows-train, windows-test: more windows than rows")
    for name in GROWING:
        stated = question.counts.get(name)
        if stated is not None and numbers[name] > MOST_GROWTH * stated + GROWTH_TO_START:
            raise AnswerError(f"{name}: is {numbers[name]}, was {stated} in the car's query")


def _check_evaluation(numbers: Mapping[str, float], settings: Settings) -> None:
    """Check sums that hang together: the mean of squares is no less than the square of the mean."""
    _require(numbers, EVALUATED)
    values = numbers["values"]
    if values != numbers["windows-test"] * settings.prediction_length:
        raise AnswerError(f"values: {values} from {numbers['windows-test']} windows of {settings.prediction_length}")
    _check_errors(numbers)
    low, high = _range(settings.target_column)
    if values:
        _check_moments("target", values, numbers["target-mean"], numbers["target-deviation"], low, high)


def _check_errors(numbers: Mapping[str, float], model: str = "") -> None:
    absolute, squared = numbers[f"{model}absolute-error"], numbers[f"{model}squared-error"]
    if absolute**2 > numbers["values"] * squared * (1 + TOLERANCE) + TOLERANCE:
        raise AnswerError(f"{model}absolute-error, {model}squared-error: no set of errors has such sums")


def _range(column: str) -> tuple[float, float]:
    """Return what a reading of this column can be; a column of the operator's own holds any float32 of some sense."""
    known = CANONICAL.get(column)
    return (known.minimum, known.maximum) if known else (-ANY_READING, ANY_READING)


def _check_moments(name: str, count: float, mean: float, deviation: float, low: float, high: float) -> None:
    """Check that `count` readings between low and high can have this mean and sum of squared deviations.

    Bhatia and Davis 2000: the variance is at most (high - mean)(mean - low).
    """
    slack = TOLERANCE * (high - low)
    if not low - slack <= mean <= high + slack:
        raise AnswerError(f"{name}: a mean of {mean:g} is not between {low:g} and {high:g}")
    most = count * (max(high - mean, 0.0) * max(mean - low, 0.0) + slack * (high - low))
    if not 0 <= deviation <= most:
        raise AnswerError(f"{name}: no {count:g} readings with that mean have squared deviations of {deviation:g}")


def _statistics(record: MetricRecord, numbers: Mapping[str, float], settings: Settings) -> Statistics:
    if set(record) != {"count", "mean", "deviation"}:
        raise AnswerError("statistics: must be count, mean and deviation")
    count, mean, deviation = record["count"], record["mean"], record["deviation"]
    if type(count) is not int or not 0 < count <= numbers["rows"]:
        raise AnswerError(f"statistics: a count of {clean(str(count), 40)} from {numbers['rows']} rows")
    columns = settings.columns
    for name, values in (("mean", mean), ("deviation", deviation)):
        if type(values) is not list or len(values) != len(columns):
            raise AnswerError(f"statistics: {name} must have {len(columns)} numbers")
        if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
            raise AnswerError(f"statistics: {name} holds what is not a finite number")
    assert isinstance(mean, list)  # noqa: S101  # by the loop above
    assert isinstance(deviation, list)  # noqa: S101
    for index, column in enumerate(columns):
        _check_moments(column, count, mean[index], deviation[index], *_range(column))
    return Statistics(count, np.array(mean, dtype=np.float64), np.array(deviation, dtype=np.float64))


def _weights(record: ArrayRecord, question: Question) -> Vector:
    base, compression = question.base, question.settings.update_compression
    if base is None or set(record) != {"weights"}:
        raise AnswerError("model: must be one array of weights")
    array = record["weights"]
    if compression == "lossless":
        _check_array("model", array, "uint8", None)
    else:
        _check_array("model", array, "float16" if compression == "fp16" else "float32", base.size)
    with np.errstate(over="ignore", invalid="ignore"):
        weights = unpack(record, base, compression)
    if weights.shape != base.shape:
        raise AnswerError(f"model: {weights.size} weights for a network of {base.size}")
    if not np.isfinite(weights).all():
        raise AnswerError("model: the weights are not finite")
    if float(np.abs(weights).max(initial=0.0)) > LARGEST_WEIGHT:
        raise AnswerError(f"model: a weight beyond {LARGEST_WEIGHT:g}")
    return weights


def _predictions(record: ArrayRecord, question: Question) -> tuple[tuple[Vector, Vector], Vector | None]:
    names = {"true", "predicted", "personal"} if question.personal else {"true", "predicted"}
    if not {"true", "predicted"} <= set(record) <= names:
        raise AnswerError("predictions: must be true and predicted")
    found: dict[str, Vector] = {}
    for name, array in record.items():
        count = _check_array(f"predictions {name}", array, "float32", None)
        if count > question.pairs:
            raise AnswerError(f"predictions: {count} values, at most {question.pairs} were asked for")
        found[name] = array.numpy()
    shapes = {values.shape for values in found.values()}
    if len(shapes) > 1 or not all(np.isfinite(values).all() for values in found.values()):
        raise AnswerError("predictions: must be finite, and as many as there are true values")
    return (found["true"], found["predicted"]), found.get("personal")


def _check_array(name: str, array: Array, dtype: str, size: int | None) -> int:
    """Return the number of values of a one-dimensional array, read from its header before NumPy allocates for it."""
    if array.stype != "numpy.ndarray" or array.dtype != dtype:
        kind = clean(f"{array.stype} of {array.dtype}", 60)
        raise AnswerError(f"{name}: is {kind}, must be numpy.ndarray of {dtype}")
    head = io.BytesIO(array.data[:LONGEST_HEADER_BYTES])
    try:
        version = np.lib.format.read_magic(head)
        shape, column_major, found = np.lib.format.read_array_header_1_0(head, max_header_size=LONGEST_HEADER_BYTES)
    except Exception as error:  # the header is a Python literal: what reading it raises hangs on what it says
        raise AnswerError(f"{name}: is no NumPy array: {clean(str(error), 100)}") from None
    if version != (1, 0) or found != np.dtype(dtype) or column_major:
        raise AnswerError(f"{name}: its data is {clean(str(found), 40)}, must be {dtype}")
    if len(shape) != 1 or tuple(array.shape) != shape:
        raise AnswerError(f"{name}: must have one dimension, the same in both its headers")
    count, data_bytes = int(shape[0]), len(array.data) - head.tell()
    if data_bytes != count * found.itemsize:
        raise AnswerError(f"{name}: claims {count} values and has {data_bytes} bytes")
    if size is not None and count != size:
        raise AnswerError(f"{name}: {count} values, must be {size}")
    return count
