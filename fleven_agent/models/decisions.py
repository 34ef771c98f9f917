"""What is done next about the car's model. Pure: plain values in, one step out. Imports the standard library only."""

from dataclasses import dataclass
from enum import Enum, auto

LARGEST_MODEL_BYTES = 64 * 1024 * 1024
WORSE = 2.0
"""A model with so many times the error of the present one on the newest trip is not taken: one trip is small evidence,
and the server has judged the model by all cars."""
FEWEST_VALUES = 30
"""Fewer predictions than this say nothing about an error."""


class Step(Enum):
    """What to do."""

    NOTHING = auto()
    FETCH = auto()
    TRY = auto()
    """Try the fetched model, and switch to it if it holds."""
    SCORE = auto()
    """Hold the present model against the newest trip."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The champion, as the server names it."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that the next step hangs on.

    Attributes:
        offer: what the server wants the car to have; None when it has it, or the server says nothing.
        current: SHA-256 of the model in use; "" for none.
        fetched: whether all bytes of the offer are here.
        refused: SHA-256 of the model that failed its trial; "" for none.
        refused_on: stamp of the newest trip then.
        held: why nothing may be done now; "" when it may.
        retry_at: no new try before this moment (monotonic).
        newest_trip: stamp of the newest trip; None for no trip.
        scored_trip: stamp of the newest trip on which a model was tried.
    """

    offer: Offer | None = None
    current: str = ""
    fetched: bool = False
    refused: str = ""
    refused_on: float | None = None
    held: str = ""
    retry_at: float = float("-inf")
    newest_trip: float | None = None
    scored_trip: float | None = None


def next_step(seen: Seen, now: float) -> Step:
    """Return what to do at a monotonic moment."""
    if seen.held or now < seen.retry_at:
        return Step.NOTHING
    if seen.offer is not None and _wanted(seen, seen.offer):
        return Step.TRY if seen.fetched else Step.FETCH
    newer = seen.newest_trip is not None and (seen.scored_trip is None or seen.newest_trip > seen.scored_trip)
    return Step.SCORE if seen.current and newer else Step.NOTHING


def _wanted(seen: Seen, offer: Offer) -> bool:
    if offer.sha256 == seen.current or offer.size_bytes > LARGEST_MODEL_BYTES:
        return False
    # What failed on one trip is tried again when there is another.
    return offer.sha256 != seen.refused or seen.newest_trip != seen.refused_on


@dataclass(frozen=True, slots=True)
class Trial:
    """What the process that tries a model said.

    Attributes:
        usable: whether the model could be read, and predicted finite values.
        reason: why not.
        values: how many predictions were compared with the truth.
        rmse: their error in the target's unit; None without a trip that has the truth.
        other_rmse: the error of the model in use on the same readings; None where there is none.
    """

    usable: bool
    reason: str = ""
    values: int = 0
    rmse: float | None = None
    other_rmse: float | None = None


def objection(found: Trial) -> str:
    """Return why a model is not taken into use after its trial; "" when it may."""
    if not found.usable:
        return found.reason or "it cannot be used"
    if found.rmse is None or found.other_rmse is None or found.values < FEWEST_VALUES:
        return ""
    if found.rmse <= WORSE * found.other_rmse:
        return ""
    return f"its error on the newest trip is {found.rmse:.4g}, that of the model in use {found.other_rmse:.4g}"
