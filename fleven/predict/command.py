"""`fleven predict`: a trip file to a table of predictions, or lines of JSON to lines of JSON."""

import csv
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fleven.app import columns
from fleven.data.errors import InputError, OutputError, Problem
from fleven.predict.model import Model, of_this_car
from fleven.predict.readings import Follower, from_lines, rows_of


def follow(model: Path | None) -> None:
    """Answer each line of standard input with one line on standard output, at once."""
    import json

    follower = Follower(Model(model or of_this_car()))
    for answer in from_lines(sys.stdin, follower):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def predict(trip: Path, model: Path | None, out: Path | None) -> None:
    """Write a table with the time of each reading and what is predicted there; say on standard error how good it is."""
    follower = Follower(Model(model or of_this_car()))
    used = follower.model
    names = [
        columns.TIME_COLUMN,
        *(f"{used.target}_predicted{_place(i)}" for i in range(used.settings.prediction_length)),
    ]
    readings, predictions, squared, compared = 0, 0, 0.0, 0
    with _table(out) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        for row in rows_of(trip):
            readings += 1
            answer = follower.answer(row)
            if answer["predicted"] is None:
                continue
            predictions += 1
            writer.writerow([answer[columns.TIME_COLUMN], *answer["predicted"]])
            if (truth := follower.truth(row)) is not None:
                squared, compared = squared + (answer["predicted"][0] - truth) ** 2, compared + 1
    if not predictions:
        hint = f"needs {used.settings.sequence_length} readings without a gap, each with {', '.join(used.features)}"
        raise InputError(Problem(str(trip), "", f"no prediction from {readings} readings", hint))
    error = f", RMSE {math.sqrt(squared / compared):.2f} {used.unit}".rstrip() if compared else ""
    print(f"{predictions} predictions of {used.target} from {readings} readings by {used.path}{error}", file=sys.stderr)


def _place(index: int) -> str:
    return f"_{index}" if index else ""


@contextmanager
def _table(out: Path | None) -> Iterator[TextIO]:
    """Give standard output, or a file that is written whole or not at all; what is no plain file is written into."""
    if out is None:
        yield sys.stdout
        return
    if out.exists() and not out.is_file():  # a device or a pipe: root must not put a file in its place
        try:
            with out.open("w", encoding="utf-8") as stream:
                yield stream
        except OSError as error:
            raise OutputError(Problem(str(out), "", error.strerror or str(error))) from None
        return
    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            yield stream
        part.replace(out)
    except OSError as error:
        raise OutputError(Problem(str(out), "", error.strerror or str(error))) from None
    finally:
        part.unlink(missing_ok=True)
