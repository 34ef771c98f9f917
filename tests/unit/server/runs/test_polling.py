"""When the SuperLink is asked again: often around a change, seldom while all goes on, with pauses after failures."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fleven.server.runs import polling
from fleven.server.runs.model import Attempt, Progress, Reason, Run, RunState, Trigger
from fleven.server.runs.polling import PollState
from fleven.server.schedules.spec import ScheduleSpec

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
RUN = Run(
    id=3,
    schedule_name="nightly",
    trigger=Trigger.SCHEDULED,
    due_at=NOW,
    created_at=NOW,
    state=RunState.RUNNING,
    reason=Reason.STARTED,
    message="",
    since=NOW,
    spec=ScheduleSpec(),
    attempt=Attempt(1, "t", NOW, flower_run_id="9", accepted_at=NOW - timedelta(minutes=5)),
    attempts=1,
)


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


@pytest.mark.parametrize(
    ("run", "state", "interval"),
    [
        (replace(RUN, reason=Reason.STOPPING), PollState(), 3),
        (RUN, PollState(progress=Progress("succeeded")), 1.5),
        (RUN, PollState(progress=Progress("running")), 20),
        (replace(RUN, state=RunState.SUBMITTED), PollState(), 4),
        (RUN, PollState(), 10),
    ],
)
def test_the_pause_between_two_questions_follows_what_is_known(run: Run, state: PollState, interval: float) -> None:
    state.looked_at = NOW
    assert not polling.look_is_due(run, state, NOW + seconds(interval) - seconds(0.1))
    assert polling.look_is_due(run, state, NOW + seconds(interval) + seconds(0.5))
    # A clock that was set back must not keep a run unwatched.
    assert polling.look_is_due(run, state, NOW - seconds(1))


def test_nothing_is_asked_while_a_call_is_under_way_or_after_a_failure() -> None:
    assert polling.look_is_due(RUN, PollState(), NOW)
    assert not polling.look_is_due(RUN, PollState(busy=True), NOW)
    failed = PollState()
    assert polling.note_failure(failed, NOW) == "4s"
    assert not polling.look_is_due(RUN, failed, NOW + seconds(3))
    assert polling.look_is_due(RUN, failed, NOW + seconds(4))
    assert polling.note_failure(failed, NOW) == "8s"
    for _ in range(20):
        polling.note_failure(failed, NOW)
    assert not polling.pauses(failed, NOW - timedelta(hours=1))
    polling.note_success(failed)
    assert polling.look_is_due(RUN, failed, NOW)


def test_a_stop_is_said_once_and_again_after_a_while() -> None:
    stopping, state = replace(RUN, reason=Reason.STOPPING), PollState()
    assert not polling.stop_is_due(RUN, state, NOW)
    assert polling.stop_is_due(stopping, state, NOW)
    state.stop_sent_at = NOW
    assert not polling.stop_is_due(stopping, state, NOW + polling.STOP_AGAIN)
    assert polling.stop_is_due(stopping, state, NOW + polling.STOP_AGAIN + seconds(1))
    state.busy = True
    assert not polling.stop_is_due(stopping, state, NOW + timedelta(hours=1))
