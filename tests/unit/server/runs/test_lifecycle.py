"""What becomes of a submitted run, for everything that Flower and the run folder can say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven.server.errors import FlowerError, ServerError
from fleven.server.flower.answers import FlowerRun
from fleven.server.flower.line import installed_line
from fleven.server.runs import lifecycle
from fleven.server.runs.lifecycle import (
    Accepted,
    Listing,
    Observation,
    SubmissionBusyError,
    SubmissionFailedError,
    SubmissionRefusedError,
    SubmissionStoppedError,
    SubmissionUnclearError,
)
from fleven.server.runs.model import Attempt, Outcome, Progress, Reason, Run, RunState, Trigger
from fleven.server.schedules.spec import FailureClass, Retry, ScheduleSpec

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
ACCEPTED = NOW - timedelta(minutes=10)
RUN = Run(
    id=3,
    schedule_name="nightly",
    trigger=Trigger.SCHEDULED,
    due_at=ACCEPTED,
    created_at=ACCEPTED,
    state=RunState.RUNNING,
    reason=Reason.STARTED,
    message="",
    since=ACCEPTED,
    spec=ScheduleSpec(retry=Retry(attempts=2, backoff=60, maximum_backoff=150)),
    attempt=Attempt(1, "t", ACCEPTED, flower_run_id="9", accepted_at=ACCEPTED),
    attempts=1,
)


def seen(
    status: str = "running",
    sub_status: str = "",
    details: str = "",
    progress: Progress | None = None,
    **values: datetime,
) -> Observation:
    lost = installed_line().process_lost(details)
    flower = FlowerRun("9", "1+fleven.3.1.t", status, sub_status, details, lost)
    return Observation(Listing.FOUND, flower, progress, **values)


@pytest.mark.parametrize(
    ("details", "progress", "reason", "kind"),
    [
        ("No heartbeat received from the task", None, Reason.SERVER_APP_DIED, FailureClass.INFRASTRUCTURE),
        ("Task failed with unknown error.", None, Reason.SERVER_APP_DIED, FailureClass.INFRASTRUCTURE),
        ("ServerApp failed with exception: x", None, Reason.APP_FAILED, FailureClass.APP),
        (
            "ServerApp failed with exception: [Errno 28] No space left on device",
            None,
            Reason.APP_FAILED,
            FailureClass.INFRASTRUCTURE,
        ),
        (
            "",
            Progress("failed", error_code="internal", error_message="OSError: [Errno 28] No space left on device"),
            Reason.APP_FAILED,
            FailureClass.INFRASTRUCTURE,
        ),
        (
            "",
            Progress("failed", error_code="internal", error_message="_InactiveRpcError: status = StatusCode.CANCELLED"),
            Reason.APP_FAILED,
            FailureClass.INFRASTRUCTURE,
        ),
        ("", Progress("failed", error_code="settings-invalid"), Reason.CONFIGURATION, FailureClass.CONFIGURATION),
        ("", Progress("failed", error_code="quorum-lost"), Reason.NODES_LOST, FailureClass.NODES),
        ("", Progress("failed", error_code="no-round-trained"), Reason.NO_ROUND_TRAINED, FailureClass.NODES),
        ("", Progress("failed", error_code="rounds-failed"), Reason.ROUNDS_FAILED, FailureClass.NODES),
        ("", Progress("failed", error_code="model-not-finite"), Reason.APP_FAILED, FailureClass.APP),
        ("", Progress("failed", error_code="internal"), Reason.APP_FAILED, FailureClass.APP),
    ],
)
def test_failures_are_told_apart(details: str, progress: Progress | None, reason: Reason, kind: FailureClass) -> None:
    step = lifecycle.follow(RUN, seen("finished", "failed", details, progress), NOW)
    assert step is not None
    assert step.outcome is not None
    assert (step.outcome.reason, step.outcome.failure_class) == (reason, kind)
    retried = kind in RUN.spec.retry.on
    assert step.state is (RunState.WAITING if retried else RunState.FAILED)
    assert (step.retry_at is not None) == retried


def test_an_app_that_had_said_its_last_word_when_its_process_died_has_succeeded() -> None:
    ended = seen("finished", "failed", "No heartbeat received from the task", progress=Progress("succeeded", 3, 3))
    done = lifecycle.follow(RUN, ended, NOW)
    assert done is not None
    assert (done.state, done.message) == (RunState.SUCCEEDED, "3 of 3 rounds")


def test_success_and_what_the_app_itself_calls_failed() -> None:
    done = lifecycle.follow(RUN, seen("finished", "completed", progress=Progress("succeeded", 3, 3)), NOW)
    assert done is not None
    assert (done.state, done.message) == (RunState.SUCCEEDED, "3 of 3 rounds")
    failed = lifecycle.follow(
        RUN, seen("finished", "completed", progress=Progress("failed", error_code="internal")), NOW
    )
    assert failed is not None
    assert failed.state is RunState.FAILED


@pytest.mark.parametrize(
    ("stop_reason", "state"),
    [
        (None, RunState.CANCELLED),
        (Reason.OPERATOR, RunState.CANCELLED),
        (Reason.REPLACED, RunState.CANCELLED),
        (Reason.MAX_DURATION, RunState.TIMED_OUT),
        (Reason.SUPERLINK_RESTARTED, RunState.WAITING),
    ],
)
def test_who_stopped_it_decides_what_it_is(stop_reason: Reason | None, state: RunState) -> None:
    step = lifecycle.follow(replace(RUN, stop_reason=stop_reason), seen("finished", "stopped"), NOW)
    assert step is not None
    assert step.state is state


def test_a_stop_is_stored_once_and_then_carried_out() -> None:
    wanted = replace(RUN, stop_reason=Reason.OPERATOR, stop_message="no")
    step = lifecycle.follow(wanted, seen(), NOW)
    assert step is not None
    assert (step.state, step.reason) == (RunState.RUNNING, Reason.STOPPING)
    assert lifecycle.follow(replace(wanted, reason=Reason.STOPPING), seen(), NOW) is None


def test_a_run_that_finished_before_the_stop_came_has_succeeded() -> None:
    wanted = replace(RUN, stop_reason=Reason.OPERATOR, reason=Reason.STOPPING)
    step = lifecycle.follow(wanted, seen("finished", "completed"), NOW)
    assert step is not None
    assert step.state is RunState.SUCCEEDED


@pytest.mark.parametrize(
    ("stop_reason", "again"),
    [
        (None, True),
        (Reason.SUPERLINK_RESTARTED, True),
        (Reason.OPERATOR, False),
        (Reason.REPLACED, False),
        (Reason.SCHEDULE_REMOVED, False),
    ],
)
def test_a_run_that_is_to_stop_is_never_retried(stop_reason: Reason | None, again: bool) -> None:
    died = Outcome(RunState.FAILED, Reason.SERVER_APP_DIED, "", FailureClass.INFRASTRUCTURE)
    state = lifecycle.close(replace(RUN, stop_reason=stop_reason), 1, died, NOW).state
    assert state is (RunState.WAITING if again else RunState.FAILED)


@given(attempts=st.integers(1, 80))
def test_pauses_double_up_to_the_maximum(attempts: int) -> None:
    delay = lifecycle.retry_delay(RUN.spec.retry, attempts)
    assert delay == timedelta(seconds=min(150, 60 * 2 ** (attempts - 1)))


@given(attempts=st.integers(1, 10), kind=st.sampled_from(FailureClass))
def test_it_is_tried_as_often_as_wanted_and_not_more(attempts: int, kind: FailureClass) -> None:
    step = lifecycle.close(RUN, attempts, Outcome(RunState.FAILED, Reason.APP_FAILED, "", kind), NOW)
    assert (step.state is RunState.WAITING) == (attempts <= 2 and kind in RUN.spec.retry.on)


def test_a_restart_of_the_superlink_under_a_silent_server_app_ends_the_run() -> None:
    restarted = NOW - timedelta(minutes=2)
    silent = seen(superlink_started_at=restarted)
    step = lifecycle.follow(RUN, silent, NOW)
    assert step is not None
    assert (step.state, step.reason) == (RunState.RUNNING, Reason.STOPPING)
    assert step.stop == (Reason.SUPERLINK_RESTARTED, "the SuperLink was restarted and the ServerApp is gone")
    alive = seen(progress=Progress("running", updated_at=NOW), superlink_started_at=restarted)
    assert lifecycle.follow(RUN, alive, NOW) is None
    too_soon = seen(superlink_started_at=NOW - timedelta(seconds=20))
    assert lifecycle.follow(RUN, too_soon, NOW) is None
    before = seen(superlink_started_at=ACCEPTED - timedelta(minutes=1))
    assert lifecycle.follow(RUN, before, NOW) is None


def test_the_maximum_duration_counts_from_the_acceptance_and_a_wish_that_is_stored_stays() -> None:
    limited = replace(RUN, spec=RUN.spec.model_copy(update={"max_duration": 600}))
    assert lifecycle.follow(limited, seen(), NOW) is None
    late = NOW + timedelta(seconds=1)
    step = lifecycle.follow(limited, seen(), late)
    assert step is not None
    assert (step.reason, step.stop) == (
        Reason.STOPPING,
        (Reason.MAX_DURATION, "ran longer than max-duration 10m"),
    )
    ended = lifecycle.follow(limited, seen("finished", "stopped"), late)
    assert ended is not None
    assert (ended.state, ended.reason) == (RunState.TIMED_OUT, Reason.MAX_DURATION)
    by_hand = lifecycle.follow(replace(limited, stop_reason=Reason.OPERATOR, stop_message="no"), seen(), late)
    assert by_hand is not None
    assert (by_hand.message, by_hand.stop) == ("no", None)


@pytest.mark.parametrize(
    ("error", "stop_reason", "state", "kind"),
    [
        (SubmissionStoppedError("no"), Reason.OPERATOR, RunState.CANCELLED, None),
        (SubmissionRefusedError("no"), None, RunState.FAILED, FailureClass.CONFIGURATION),
        (SubmissionFailedError("no"), None, RunState.WAITING, FailureClass.INFRASTRUCTURE),
    ],
)
def test_a_submission_that_did_not_happen_ends_the_attempt(
    error: ServerError, stop_reason: Reason | None, state: RunState, kind: FailureClass | None
) -> None:
    begun = replace(RUN, state=RunState.SUBMITTED, reason=Reason.SUBMITTING, stop_reason=stop_reason)
    step = lifecycle.after(begun, error, NOW)
    assert step is not None
    assert step.outcome is not None
    assert (step.state, step.outcome.failure_class) == (state, kind)


@pytest.mark.parametrize("error", [SubmissionUnclearError("no"), SubmissionBusyError("no"), FlowerError("no"), None])
def test_a_submission_whose_end_is_open_changes_nothing(error: ServerError | None) -> None:
    assert lifecycle.after(RUN, error, NOW) is None


def test_the_intent_and_the_acceptance_say_all_that_is_stored_with_them() -> None:
    waiting = replace(RUN, state=RunState.WAITING, attempts=1)
    intent = lifecycle.begin(waiting, "token", "/models/checkpoint-3.pt", "all conditions are met", NOW)
    assert (intent.state, intent.reason) == (RunState.SUBMITTED, Reason.SUBMITTING)
    assert intent.message == "all conditions are met; goes on from checkpoint-3.pt"
    assert intent.begins == Attempt(2, "token", NOW, resume_from="/models/checkpoint-3.pt")
    taken = lifecycle.after(RUN, Accepted("77", "/m", "/r", found=True), NOW)
    assert taken is not None
    assert (taken.state, taken.reason) == (RunState.SUBMITTED, Reason.ACCEPTED)
    assert taken.message == "Flower run 77 (found after a restart)"
    assert taken.accepted == Accepted("77", "/m", "/r", found=True)


def test_what_failed_after_a_restart_is_put_down_to_it() -> None:
    ended = seen("finished", "failed", "No heartbeat received from the task", superlink_started_at=NOW)
    step = lifecycle.follow(RUN, ended, NOW)
    assert step is not None
    assert step.outcome is not None
    assert step.outcome.reason is Reason.SUPERLINK_RESTARTED


def test_an_unknown_run_is_closed() -> None:
    step = lifecycle.follow(RUN, Observation(Listing.ABSENT), NOW)
    assert step is not None
    assert step.outcome is not None
    assert step.outcome.reason is Reason.RUN_UNKNOWN


def test_without_an_answer_nothing_changes() -> None:
    assert lifecycle.follow(RUN, Observation(), NOW) is None
    assert lifecycle.follow(RUN, seen(), NOW) is None


def test_progress_alone_tells_that_it_runs() -> None:
    submitted = replace(RUN, state=RunState.SUBMITTED, reason=Reason.ACCEPTED)
    step = lifecycle.follow(submitted, Observation(progress=Progress("running", 1, 3)), NOW)
    assert step is not None
    assert (step.state, step.reason) == (RunState.RUNNING, Reason.STARTED)


@pytest.mark.parametrize(
    ("details", "progress", "message"),
    [
        ("", None, "the ServerApp failed"),
        ("out of range", None, "out of range"),
        ("Task failed with unknown error.", None, "the ServerApp's process died (Task failed with unknown error)"),
        ("", Progress("failed", error_code="internal", error_message="out of range"), "internal: out of range"),
        (
            "",
            Progress("failed", error_code="quorum-lost", error_message="1 of 2", error_hint="wait"),
            "quorum-lost: 1 of 2 (wait)",
        ),
    ],
)
def test_a_failure_says_what_is_known_of_it(details: str, progress: Progress | None, message: str) -> None:
    step = lifecycle.follow(RUN, seen("finished", "failed", details, progress), NOW)
    assert step is not None
    assert step.outcome is not None
    assert step.outcome.message == message


@pytest.mark.parametrize(("progress", "message"), [(None, "done"), (Progress("succeeded", 0, 0), "done")])
def test_a_success_of_an_app_that_counts_no_rounds(progress: Progress | None, message: str) -> None:
    step = lifecycle.follow(RUN, seen("finished", "completed", progress=progress), NOW)
    assert step is not None
    assert (step.state, step.message) == (RunState.SUCCEEDED, message)


@pytest.mark.parametrize(("attempts", "pause", "text"), [(1, 60, "1m"), (2, 120, "2m")])
def test_another_attempt_begins_after_the_pause(attempts: int, pause: int, text: str) -> None:
    died = Outcome(RunState.FAILED, Reason.SERVER_APP_DIED, "it died", FailureClass.INFRASTRUCTURE)
    step = lifecycle.close(RUN, attempts, died, NOW)
    assert (step.state, step.reason, step.retry_at) == (
        RunState.WAITING,
        Reason.RETRY_BACKOFF,
        NOW + timedelta(seconds=pause),
    )
    assert step.message == f"attempt {attempts} failed: it died; tries again in {text}"


@pytest.mark.parametrize(
    ("attempt", "run_ended_at", "seconds"),
    [
        (None, None, None),
        (Attempt(1, "t", ACCEPTED), None, None),
        (RUN.attempt, None, 600),
        (RUN.attempt, NOW - timedelta(seconds=90), 510),
        (replace(RUN.attempt, ended_at=NOW - timedelta(seconds=100)), NOW - timedelta(seconds=90), 500),  # type: ignore[type-var]
    ],
)
def test_a_run_takes_from_its_acceptance_to_its_end_or_until_now(
    attempt: Attempt | None, run_ended_at: datetime | None, seconds: float | None
) -> None:
    assert lifecycle.run_seconds(replace(RUN, attempt=attempt, ended_at=run_ended_at), NOW) == seconds


@pytest.mark.parametrize(
    ("accepted_at", "started_at", "expected"),
    [
        (ACCEPTED, ACCEPTED + timedelta(microseconds=1), True),
        (ACCEPTED, ACCEPTED, False),
        (ACCEPTED, None, False),
        (None, NOW, False),
    ],
)
def test_a_restart_counts_after_the_acceptance_only(
    accepted_at: datetime | None, started_at: datetime | None, expected: bool
) -> None:
    attempt = Attempt(1, "t", ACCEPTED, flower_run_id="9", accepted_at=accepted_at)
    assert lifecycle.restarted_under(attempt, started_at) is expected


@pytest.mark.parametrize(
    ("maximum_seconds", "accepted_at", "expected"),
    [(600, ACCEPTED, False), (599, ACCEPTED, True), (None, ACCEPTED, False), (10, None, False)],
)
def test_an_attempt_is_overdue_after_the_maximum_duration(
    maximum_seconds: int | None, accepted_at: datetime | None, expected: bool
) -> None:
    attempt = Attempt(1, "t", ACCEPTED, accepted_at=accepted_at)
    assert lifecycle.overdue(ScheduleSpec(max_duration=maximum_seconds), attempt, NOW) is expected


@pytest.mark.parametrize(
    ("restarted_seconds_ago", "heard_of_seconds_after_it", "silent"),
    [
        (74.9, None, False),
        (75, None, True),
        (75, -1, True),
        (75, 0, True),
        (75, 0.1, False),
        (601, None, False),
    ],
)
def test_a_server_app_has_seventy_five_seconds_to_be_heard_of_after_a_restart(
    restarted_seconds_ago: float, heard_of_seconds_after_it: float | None, silent: bool
) -> None:
    restarted = NOW - timedelta(seconds=restarted_seconds_ago)
    progress = None
    if heard_of_seconds_after_it is not None:
        progress = Progress("running", updated_at=restarted + timedelta(seconds=heard_of_seconds_after_it))
    observation = seen(progress=progress, superlink_started_at=restarted)
    assert RUN.attempt is not None
    assert lifecycle.silent_since_restart(RUN.attempt, observation, NOW) is silent


@pytest.mark.parametrize(
    ("status", "progress", "starts"),
    [
        ("running", None, True),
        ("starting", None, False),
        ("starting", Progress("waiting-for-nodes"), True),
        ("starting", Progress("starting"), False),
    ],
)
def test_a_run_runs_when_flower_or_the_app_says_so(status: str, progress: Progress | None, starts: bool) -> None:
    submitted = replace(RUN, state=RunState.SUBMITTED, reason=Reason.ACCEPTED)
    step = lifecycle.follow(submitted, seen(status, progress=progress), NOW)
    assert (step is not None and step.reason is Reason.STARTED) is starts
    assert step is None or step.state is RunState.RUNNING


@pytest.mark.parametrize("attempt", [None, Attempt(1, "t", ACCEPTED, accepted_at=ACCEPTED)])
def test_a_run_that_the_superlink_has_not_accepted_is_not_followed(attempt: Attempt | None) -> None:
    """Not even when it has an id in common with one of Flower's."""
    submitted = replace(RUN, state=RunState.SUBMITTED, attempt=attempt, stop_reason=Reason.OPERATOR)
    for observation in (seen(), seen("finished", "completed"), Observation(Listing.ABSENT)):
        assert lifecycle.follow(submitted, observation, NOW) is None


def test_a_stop_without_words_is_stored_with_its_code() -> None:
    for message, expected in (("too hot", "too hot"), ("", "operator")):
        step = lifecycle.follow(replace(RUN, stop_reason=Reason.OPERATOR, stop_message=message), seen(), NOW)
        assert step is not None
        assert step.message == expected


def test_a_submission_that_went_as_usual_is_stored_with_its_number() -> None:
    step = lifecycle.after(RUN, Accepted("77"), NOW)
    assert step is not None
    assert step.message == "Flower run 77"


def test_of_a_submission_that_was_refused_the_first_line_is_kept() -> None:
    error = SubmissionRefusedError("the app is unusable", hint="build it anew", problems=["no client", "no server"])
    step = lifecycle.after(replace(RUN, state=RunState.SUBMITTED), error, NOW)
    assert step is not None
    assert step.message == "the app is unusable (build it anew)"


def test_what_was_stopped_by_the_server_itself_says_why() -> None:
    limited = replace(RUN, spec=RUN.spec.model_copy(update={"max_duration": 599}))
    step = lifecycle.follow(limited, seen("finished", "stopped"), NOW)
    assert step is not None
    assert (step.state, step.message) == (RunState.TIMED_OUT, "ran longer than max-duration 9m59s")


def test_a_success_that_lost_rounds_says_so() -> None:
    assert lifecycle.success_text(None) == "done"
    assert lifecycle.success_text(Progress("succeeded", 3, 3, "finished")) == "3 of 3 rounds"
    assert lifecycle.success_text(Progress("succeeded", 3, 3, "1 round lost")) == "3 of 3 rounds; 1 round lost"
    assert lifecycle.success_text(Progress("running", 3, 3, "evaluating")) == "3 of 3 rounds"


def test_what_was_seen_names_cars() -> None:
    names = {"17462499282309880442": "n3"}
    progress = Progress("failed", error_code="too-few-nodes", error_message="node 17462499282309880442: column-missing")
    observed = seen("finished", "failed", "17462499282309880442 is gone", progress).with_names(names)
    step = lifecycle.follow(RUN, observed, NOW)
    assert step is not None
    assert "n3: column-missing" in step.message
    assert "1746" not in step.message
    assert observed.flower is not None
    assert observed.flower.details == "n3 is gone"


def test_a_run_takes_no_negative_time_when_the_clock_is_set_back() -> None:
    assert lifecycle.run_seconds(RUN, NOW - timedelta(days=9)) == 0.0


def test_a_run_whose_app_says_that_all_is_written_has_succeeded_before_its_process_ends() -> None:
    done = Progress(state="succeeded", round=5, rounds=5, message="finished")
    for observation in (Observation(progress=done), seen("running", progress=done)):
        step = lifecycle.follow(RUN, observation, NOW)
        assert step is not None
        assert step.outcome is not None
        assert (step.state, step.reason, step.message) == (RunState.SUCCEEDED, Reason.COMPLETED, "5 of 5 rounds")


@pytest.mark.parametrize("state", ["starting", "waiting-for-nodes", "running", "failed", "stopped"])
def test_any_other_word_of_the_app_waits_for_flower_s(state: str) -> None:
    step = lifecycle.follow(RUN, Observation(progress=Progress(state=state, round=5, rounds=5)), NOW)
    assert step is None or step.outcome is None
