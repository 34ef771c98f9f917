"""One car of a simulated federation that answers falsely, in the ways that a broken or hostile car may.

For the tests of averaging and of the scaler, and for benchmarks/hostile_rules.py. A hostile car trains as an honest one
does and changes what it answers, so that everything about it that is not the lie is plausible.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, MetricRecord

from fleven.app.columns import CANONICAL
from fleven.app.server.results import RunFiles
from fleven.app.server.rounds import Federation
from fleven.app.server.scores import Score
from fleven.app.settings import Settings
from fleven.app.simulation import SimulatedGrid

Vector = npt.NDArray[np.float32]
HOSTILE = 1000
"""The first car of `SimulatedGrid.of_folders`."""
CLAIMED_ROWS, CLAIMED_WINDOWS = 10**9, 9 * 10**8
"""As much as an answer may state."""
ALMOST = 5.5
"""Standard deviations, and times as wide: a little less than the server takes for another unit."""
ALMOST_TOO_LONG = 2.8
"""Times the car's own honest change, which is about as long as the others'."""
ALMOST_AGAINST = 0.35
"""Of its direction, against its own honest one: about 0.25 against the others', since no two cars learn the same."""


@dataclass(frozen=True)
class Past:
    """What the car has seen: the weights that it was first sent, and those that it first answered."""

    base: Vector
    own: Vector


Lie = Callable[[Vector, Vector, Past], npt.NDArray[Any]]
"""(weights that it was sent, its trained weights, its past) → the weights that it answers."""


def _noise(_base: Vector, own: Vector, _past: Past) -> npt.NDArray[Any]:
    return own + 1e4 * np.random.default_rng(1).normal(size=own.size)


def _almost_too_long(base: Vector, own: Vector, past: Past) -> npt.NDArray[Any]:
    """Noise that is as long as a change may be; another one in each round, as the same one would show by its effect."""
    noise = np.random.default_rng(zlib.crc32(base.tobytes())).normal(size=own.size)
    length = ALMOST_TOO_LONG * float(np.linalg.norm(own - base))
    return base + noise * (length / float(np.linalg.norm(noise)))


def _almost_against(base: Vector, own: Vector, past: Past) -> npt.NDArray[Any]:
    """As far against what the car has learned as noise of the same length hides it."""
    back, noise = base - own, _almost_too_long(base, own, past) - base
    length, hidden = float(np.linalg.norm(noise)), float(np.sqrt(1 - ALMOST_AGAINST**2))
    return base + ALMOST_AGAINST * back * (length / float(np.linalg.norm(back))) + hidden * noise


def _honest(_base: Vector, own: Vector, _past: Past) -> npt.NDArray[Any]:
    return own


def _reversed(base: Vector, own: Vector, _past: Past) -> npt.NDArray[Any]:
    return 2 * base - own


@dataclass(frozen=True)
class Kind:
    """One way to lie.

    weights: in each round. statistics: of the record of a query's answer. claims: whether it states as many rows and
    windows as an answer may.
    """

    weights: Lie = _honest
    statistics: Callable[[MetricRecord, Settings], None] | None = None
    claims: bool = False


def _absurd(said: MetricRecord, settings: Settings) -> None:
    """Every reading near the end of what a sensor can give."""
    ranges = [CANONICAL[column] for column in settings.columns]
    said["mean"] = [one.minimum + 0.98 * (one.maximum - one.minimum) for one in ranges]
    said["deviation"] = [0.0 for _ in ranges]


def _almost(said: MetricRecord, settings: Settings) -> None:
    """As far off and as wide as it can be without being left out."""
    count, means, deviations = said["count"], said["mean"], said["deviation"]
    assert isinstance(count, int)
    assert isinstance(means, list)
    assert isinstance(deviations, list)
    new_means, new_deviations = [], []
    for column, mean, deviation in zip(settings.columns, means, deviations, strict=True):
        one, spread = CANONICAL[column], (deviation / count) ** 0.5
        moved = min(mean + ALMOST * spread, one.minimum + 0.9 * (one.maximum - one.minimum))
        # No readings within a range can be wider (Bhatia and Davis 2000), and the server knows it.
        widest = (one.maximum - moved) * (moved - one.minimum)
        new_means.append(moved)
        new_deviations.append(count * min((ALMOST * spread) ** 2, 0.99 * widest))
    said["mean"], said["deviation"] = new_means, new_deviations


KINDS: dict[str, Kind] = {
    "honest": Kind(),
    "huge values": Kind(_noise),
    "reversed": Kind(_reversed),
    "reversed, ten times as long": Kind(lambda base, own, _past: base - 10 * (own - base)),
    "fifty times as long": Kind(lambda base, own, _past: base + 50 * (own - base)),
    "its first weights again": Kind(lambda _base, _own, past: past.own),
    "the first global weights again": Kind(lambda _base, _own, past: past.base),
    "noise, almost too long": Kind(_almost_too_long),
    "reversed, hidden in noise": Kind(_almost_against),
    "untrained": Kind(lambda base, _own, _past: base),
    "a billion rows that it does not have": Kind(claims=True),
    "absurd statistics": Kind(statistics=_absurd),
    "statistics almost left out": Kind(statistics=_almost),
    "statistics almost left out, and a billion rows": Kind(statistics=_almost, claims=True),
    "untrained, and a billion rows": Kind(lambda base, _own, _past: base, claims=True),
    "reversed, and a billion rows": Kind(_reversed, claims=True),
    "noise, almost too long, and a billion rows": Kind(_almost_too_long, claims=True),
    "reversed, hidden in noise, and a billion rows": Kind(_almost_against, claims=True),
}


def federation(kind: str, folders: list[Path], settings: Settings) -> Federation:
    """Run a simulated federation of these cars, of which the first lies in this way, to its end."""
    run = Federation(grid_with(kind, folders, settings), settings, RunFiles(settings, 1), 1)
    run.run()
    return run


def honest_score(run: Federation) -> Score:
    """Return the score of the last model over the held-out windows of all cars but the first."""
    score = Score()
    for node_id, answer in run.final.items():
        if node_id != HOSTILE:
            score = score.merge(Score.of(answer.numbers))
    return score


def grid_with(kind: str, folders: list[Path], settings: Settings) -> SimulatedGrid:
    """Return a grid of these cars, of which the first lies in this way."""
    lying, past = KINDS[kind], list[Past]()

    def answer(node_id: int, message: Message) -> Message:
        if node_id != HOSTILE or kind == "honest":
            raise LookupError
        reply = grid.of_the_car(message)
        content, numbers = reply.content, reply.content.metric_records["numbers"]
        if lying.claims:
            numbers["rows"], numbers["windows-train"] = CLAIMED_ROWS, CLAIMED_WINDOWS
            if "windows-seen" in numbers:
                numbers["windows-seen"] = CLAIMED_WINDOWS
        if "statistics" in content:
            said = content.metric_records["statistics"]
            if lying.statistics is not None:
                lying.statistics(said, settings)
            if lying.claims:
                _claim(said)
        if message.metadata.message_type == "train":
            base, own = (part.content.array_records["model"]["weights"].numpy() for part in (message, reply))
            past.append(Past(base, own))
            weights = lying.weights(base, own, past[0]).astype(np.float32)
            content["model"] = ArrayRecord({"weights": Array(weights)})
        return reply

    grid = SimulatedGrid.of_folders(folders, settings.as_config(), answer)
    return grid


def _claim(said: MetricRecord) -> None:
    count, deviations = said["count"], said["deviation"]
    assert isinstance(count, int)
    assert isinstance(deviations, list)
    said["count"], said["deviation"] = CLAIMED_ROWS, [value * (CLAIMED_ROWS / count) for value in deviations]
