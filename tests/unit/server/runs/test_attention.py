"""How closely the runs ask for the fleet to be followed."""

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from fleven.server.runs.attention import fleet_attention
from fleven.server.runs.model import Reason, RunState
from fleven_agent.protocol.codes import Attention

MINUTE = timedelta(minutes=1)


def run(state: RunState, reason: Reason = Reason.FIRED, retry_at: datetime | None = None) -> Any:
    return SimpleNamespace(state=state, reason=reason, retry_at=retry_at)


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(None, Attention.CALM), (10.1, Attention.CALM), (9.9, Attention.WATCHED), (-1, Attention.WATCHED)],
)
def test_a_schedule_asks_for_it_ten_minutes_before(now: datetime, minutes: float | None, expected: Attention) -> None:
    assert fleet_attention([], None if minutes is None else now + minutes * MINUTE, now) is expected


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([RunState.PENDING], Attention.RUN),
        ([RunState.SUBMITTED], Attention.RUN),
        ([RunState.RUNNING], Attention.RUN),
        ([RunState.WAITING], Attention.WATCHED),
        ([RunState.WAITING, RunState.RUNNING], Attention.RUN),
    ],
)
def test_an_open_run_asks_for_it(now: datetime, states: list[RunState], expected: Attention) -> None:
    assert fleet_attention([run(state) for state in states], None, now) is expected


def test_a_run_that_cannot_begin_soon_does_not(now: datetime) -> None:
    blackout = run(RunState.WAITING, Reason.BLACKOUT)
    later = run(RunState.WAITING, Reason.RETRY_BACKOFF, now + 11 * MINUTE)
    assert fleet_attention([blackout, later], None, now) is Attention.CALM
    soon = run(RunState.WAITING, Reason.RETRY_BACKOFF, now + 9 * MINUTE)
    assert fleet_attention([blackout, soon], None, now) is Attention.WATCHED


def test_a_promotion_asks_for_it_for_a_minute(now: datetime) -> None:
    def after(seconds: float) -> Attention:
        return fleet_attention([], None, now + timedelta(seconds=seconds), now)

    assert [after(0), after(59), after(60)] == [Attention.WATCHED, Attention.WATCHED, Attention.CALM]
    assert after(-5) is Attention.CALM  # the clock was set back: nobody waits for what it says
