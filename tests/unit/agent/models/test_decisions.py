"""What is done next about the car's model: pure decisions."""

from dataclasses import replace

import pytest

from fleven_agent.models.decisions import Offer, Seen, Step, Trial, next_step
from fleven_agent.models.decisions import objection as against

OFFER = Offer("night@2", "b" * 64, 20_000)
IDLE = Seen(current="a" * 64, newest_trip=5.0, scored_trip=5.0)
OFFERED = replace(IDLE, offer=OFFER)


@pytest.mark.parametrize(
    ("seen", "step"),
    [
        (Seen(), Step.NOTHING),
        (IDLE, Step.NOTHING),
        (Seen(offer=OFFER), Step.FETCH),
        (OFFERED, Step.FETCH),
        (replace(OFFERED, fetched=True), Step.TRY),
        (replace(OFFERED, held="the processor has 90 °C"), Step.NOTHING),
        (replace(OFFERED, fetched=True, held="a task is under way"), Step.NOTHING),
        (replace(OFFERED, retry_at=10.1), Step.NOTHING),
        (replace(OFFERED, retry_at=10.0), Step.FETCH),
        (replace(OFFERED, current=OFFER.sha256), Step.NOTHING),
        (replace(OFFERED, offer=replace(OFFER, size_bytes=67_108_864)), Step.FETCH),
        (replace(OFFERED, offer=replace(OFFER, size_bytes=67_108_865)), Step.NOTHING),
        # Refused on this trip; tried again on another.
        (replace(OFFERED, fetched=True, refused=OFFER.sha256, refused_on=5.0), Step.NOTHING),
        (replace(OFFERED, fetched=True, refused=OFFER.sha256, refused_on=4.0), Step.TRY),
        (replace(OFFERED, fetched=True, refused="c" * 64, refused_on=5.0), Step.TRY),
        # The model in use is tried on each trip once.
        (replace(IDLE, newest_trip=6.0), Step.SCORE),
        (replace(IDLE, scored_trip=None), Step.SCORE),
        (replace(IDLE, newest_trip=6.0, held="drained"), Step.NOTHING),
        (replace(IDLE, newest_trip=6.0, retry_at=11.0), Step.NOTHING),
        (replace(IDLE, newest_trip=4.0), Step.NOTHING),
        (replace(IDLE, newest_trip=None, scored_trip=None), Step.NOTHING),
        (replace(IDLE, newest_trip=6.0, current=""), Step.NOTHING),
        (replace(OFFERED, newest_trip=6.0), Step.FETCH),
    ],
)
def test_the_next_step(seen: Seen, step: Step) -> None:
    assert next_step(seen, 10.0) is step


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        (Trial(True), ""),
        (Trial(True, values=500, rmse=9.0), ""),
        (Trial(True, values=500, rmse=18.0, other_rmse=9.0), ""),
        (Trial(True, values=500, rmse=18.1, other_rmse=9.0), "error on the newest trip is 18.1, that of the model"),
        (Trial(True, values=29, rmse=99.0, other_rmse=9.0), ""),
        (Trial(True, values=30, rmse=99.0, other_rmse=9.0), "error on the newest trip is 99"),
        (Trial(False, "it has no output layer"), "it has no output layer"),
        (Trial(False), "it cannot be used"),
    ],
)
def test_what_speaks_against_a_model(trial: Trial, said: str) -> None:
    assert said in against(trial)
    assert bool(against(trial)) == bool(said)
