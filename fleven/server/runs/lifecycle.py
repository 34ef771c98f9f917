"""What happens to a run after the decision to submit it. Pure: (run, what was found out, now) → the next step.

A step says everything that changes with it, and `runs.store.apply` writes it in one transaction. It is stored before
its effect is begun; the effect can be repeated after a crash, since its outcome is looked up first.
Must not import the store, Flower's command line or anything that reads a clock.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import PurePath

from fleven.server.errors import ServerError
from fleven.server.flower.answers import FlowerRun
from fleven.server.flower.line import FlowerLine
from fleven.server.nodes.names import with_names
from fleven.server.runs.model import Attempt, Outcome, Progress, Reason, Run, RunState
from fleven.server.schedules.parts import format_duration
from fleven.server.schedules.spec import FailureClass, Retry, ScheduleSpec


class Listing(StrEnum):
    """What the SuperLink answered when asked for a run."""

    NOT_ASKED = "not-asked"
    FOUND = "found"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one submitted run.

    Attributes:
        listing: whether the SuperLink was asked, and knows the run.
        flower: its row, when found.
        progress: the run folder's status.json, when there is one.
        superlink_started_at: start of the SuperLink that runs now, when known.
        restart_grace: a ServerApp that outlives a restart of the SuperLink is heard from within this time.
    """

    listing: Listing = Listing.NOT_ASKED
    flower: FlowerRun | None = None
    progress: Progress | None = None
    superlink_started_at: datetime | None = None
    restart_grace: timedelta = FlowerLine.restart_grace

    def with_names(self, names: Mapping[str, str]) -> Observation:
        """Return what was seen with cars by their names in all texts; `names`: by Flower's node id."""
        flower, progress = self.flower, self.progress
        return replace(
            self,
            flower=replace(flower, details=with_names(flower.details, names)) if flower is not None else None,
            progress=progress_with_names(progress, names) if progress is not None else None,
        )


def progress_with_names(progress: Progress, names: Mapping[str, str]) -> Progress:
    """Return an app's word with cars by their names in its texts."""
    return replace(
        progress,
        message=with_names(progress.message, names),
        error_message=with_names(progress.error_message, names),
        error_hint=with_names(progress.error_hint, names),
    )


@dataclass(frozen=True, slots=True)
class Accepted:
    """A submission that the SuperLink has.

    Attributes:
        flower_run_id: Flower's id, in decimal.
        metrics_folder: where the run's status.json will be, when the app writes one.
        results_folder: where its models and plots will be, when the app writes some.
        found: whether it was there already (submitted before a crash).
        app_hash: SHA-256 of the bundle that the SuperLink has for it; None when that cannot be read.
    """

    flower_run_id: str
    metrics_folder: str | None = None
    results_folder: str | None = None
    found: bool = False
    app_hash: str | None = None


class SubmissionRefusedError(ServerError):
    """The app is unusable, or the SuperLink or `flwr run` refuses it: trying again changes nothing."""

    code = "submission-refused"


class SubmissionUnclearError(ServerError):
    """`flwr run` ended with an error: only the SuperLink's list says whether it has the run all the same."""

    code = "submission-unclear"


class SubmissionFailedError(ServerError):
    """`flwr run` ended with an error, and the SuperLink does not have the run: another attempt may succeed."""

    code = "submission-failed"


class SubmissionStoppedError(ServerError):
    """The run is to be stopped, and the SuperLink does not have it."""

    code = "submission-stopped"


class SubmissionBusyError(ServerError):
    """A `flwr run` of an earlier server process is still under way."""

    code = "submission-busy"


@dataclass(frozen=True, slots=True)
class Step:
    """The next step of a run, with all that changes in the register with it.

    Attributes:
        state: the run's new state.
        reason: coded reason.
        message: one clause for people.
        begins: the attempt that is intended with it.
        accepted: under which id the SuperLink took the attempt, and where its files will lie.
        stop: the server's own wish that the run be stopped, with its words; a wish that is stored already stays.
        outcome: how the attempt ended; None while it goes on.
        retry_at: when the next attempt may begin; set only when the run goes back to waiting.
    """

    state: RunState
    reason: Reason
    message: str
    begins: Attempt | None = None
    accepted: Accepted | None = None
    stop: tuple[Reason, str] | None = None
    outcome: Outcome | None = None
    retry_at: datetime | None = None


CONFIGURATION_CODES = frozenset({"settings-invalid", "resume-invalid", "bundle-invalid", "run-config-invalid"})
NODE_CODES = frozenset(
    {"too-few-nodes", "quorum-lost", "no-round-trained", "rounds-failed", "node-unavailable", "deadline-passed"}
)
PARTIAL_CODES = {"no-round-trained": Reason.NO_ROUND_TRAINED, "rounds-failed": Reason.ROUNDS_FAILED}
"""Codes of runs that went on to their last round, and yet are no success."""
FINISHED = "finished"
"""The shipped app's last word when there is nothing to add."""
HEARTBEAT_LOST = "No heartbeat received"
UNKNOWN_ERROR = "Task failed with unknown error"
MACHINE_ERROR = re.compile(rf"\[Errno ({errno.EIO}|{errno.ENOMEM}|{errno.ENOSPC}|{errno.EDQUOT})\]")
"""How Python names an error that comes from the server's disk or memory, and not from the app."""
CALL_LOST = re.compile(r"StatusCode\.(?:CANCELLED|UNAVAILABLE)\b")
"""How gRPC names a call whose other end went away: a ServerApp calls nobody but the SuperLink of its own machine."""
STOP_OUTCOMES = {
    Reason.MAX_DURATION: (RunState.TIMED_OUT, FailureClass.TIMEOUT),
    Reason.OPERATOR: (RunState.CANCELLED, None),
    Reason.REPLACED: (RunState.CANCELLED, None),
    Reason.SCHEDULE_REMOVED: (RunState.CANCELLED, None),
    Reason.SUPERLINK_RESTARTED: (RunState.FAILED, FailureClass.INFRASTRUCTURE),
}

STOPS_OF_ATTEMPT = (None, Reason.MAX_DURATION, Reason.SUPERLINK_RESTARTED)
"""Stops that are meant for one attempt; any other is meant for the whole run, which is not tried again."""


def begin(run: Run, token: str, resume_from: str | None, message: str, now: datetime) -> Step:
    """Return the step that states the intent to submit a run: from here on a submission may exist.

    Args:
        run: a run that was decided to start.
        token: a mark that no other submission has.
        resume_from: the checkpoint from which the attempt goes on, or None.
        message: why it starts.
        now: the current time.
    """
    if resume_from is not None:
        message = f"{message}; goes on from {PurePath(resume_from).name}"
    attempt = Attempt(run.attempts + 1, token, now, resume_from=resume_from)
    return Step(RunState.SUBMITTED, Reason.SUBMITTING, message, begins=attempt)


def after(run: Run, found: Accepted | Observation | ServerError | None, now: datetime) -> Step | None:
    """Return the next step of a submitted or running run after a worker's answer, or None when nothing changes.

    Args:
        run: the run.
        found: what became of its submission, what was seen of it, or why there was no answer.
        now: the current time.
    """
    match found:
        case Accepted(flower_run_id):
            message = f"Flower run {flower_run_id}" + (" (found after a restart)" if found.found else "")
            return Step(RunState.SUBMITTED, Reason.ACCEPTED, message, accepted=found)
        case Observation():
            return follow(run, found, now)
        case ServerError():
            outcome = not_submitted(run, found)
            return close(run, run.attempts, outcome, now) if outcome is not None else None
    return None


def not_submitted(run: Run, error: ServerError) -> Outcome | None:
    """Return how an attempt that was not submitted ended, or None while that is open."""
    text = error.lines()[0]
    match error:
        case SubmissionStoppedError() if run.stop_reason is not None:
            return Outcome(RunState.CANCELLED, run.stop_reason, text)
        case SubmissionRefusedError():
            return Outcome(RunState.FAILED, Reason.SUBMISSION_FAILED, text, FailureClass.CONFIGURATION)
        case SubmissionFailedError():
            return Outcome(RunState.FAILED, Reason.SUBMISSION_FAILED, text, FailureClass.INFRASTRUCTURE)
    return None


def failure(progress: Progress | None, flower: FlowerRun | None, restarted: bool) -> Outcome:
    """Return the outcome of an attempt that Flower calls failed.

    Args:
        progress: what the ServerApp itself says.
        flower: Flower's row.
        restarted: whether the SuperLink was started again after it had accepted the run.
    """
    details = flower.details if flower is not None else ""
    if progress is not None and progress.error_code:
        hint = f" ({progress.error_hint})" if progress.error_hint else ""
        text = f"{progress.error_code}: {progress.error_message}{hint}"
        if progress.error_code in CONFIGURATION_CODES:
            return Outcome(RunState.FAILED, Reason.CONFIGURATION, text, FailureClass.CONFIGURATION)
        if progress.error_code in NODE_CODES:
            reason = PARTIAL_CODES.get(progress.error_code, Reason.NODES_LOST)
            return Outcome(RunState.FAILED, reason, text, FailureClass.NODES)
        if restarted and CALL_LOST.search(text):
            text = "the SuperLink was restarted during the run, and the ServerApp lost it"
            return Outcome(RunState.FAILED, Reason.SUPERLINK_RESTARTED, text, FailureClass.INFRASTRUCTURE)
        return Outcome(RunState.FAILED, Reason.APP_FAILED, text, _at_fault(text))
    lost = flower is not None and flower.process_lost
    if lost and restarted:
        text = "the SuperLink was restarted during the run"
        return Outcome(RunState.FAILED, Reason.SUPERLINK_RESTARTED, text, FailureClass.INFRASTRUCTURE)
    if lost:
        text = f"the ServerApp's process died ({details.rstrip('.')})"
        return Outcome(RunState.FAILED, Reason.SERVER_APP_DIED, text, FailureClass.INFRASTRUCTURE)
    return Outcome(RunState.FAILED, Reason.APP_FAILED, details or "the ServerApp failed", _at_fault(details))


def _at_fault(text: str) -> FailureClass:
    outside = MACHINE_ERROR.search(text) or CALL_LOST.search(text)
    return FailureClass.INFRASTRUCTURE if outside else FailureClass.APP


def outcome_of(run: Run, attempt: Attempt, seen: Observation) -> Outcome | None:
    """Return how the attempt ended, or None while it has not."""
    flower, progress = seen.flower, seen.progress
    if seen.listing is Listing.ABSENT:
        text = "the SuperLink does not know the run any more (its database was replaced)"
        return Outcome(RunState.FAILED, Reason.RUN_UNKNOWN, text, FailureClass.INFRASTRUCTURE)
    if flower is None or flower.status != "finished":
        # The app says so when all that counts is written; what its process does after that, nobody waits for.
        succeeded = progress is not None and progress.state == "succeeded"
        return Outcome(RunState.SUCCEEDED, Reason.COMPLETED, success_text(progress)) if succeeded else None
    restarted = restarted_under(attempt, seen.superlink_started_at)
    # What Flower finished is finished, even when a stop was on its way to it. The app says so when all is
    # written: a process that died after that, at its own end, lost nothing.
    if flower.sub_status == "completed" or (progress is not None and progress.state == "succeeded"):
        if progress is not None and progress.state == "failed":
            return failure(progress, flower, restarted)
        return Outcome(RunState.SUCCEEDED, Reason.COMPLETED, success_text(progress))
    if flower.sub_status == "stopped":
        if run.stop_reason in STOP_OUTCOMES:
            state, kind = STOP_OUTCOMES[run.stop_reason]
            return Outcome(state, run.stop_reason, run.stop_message, kind)
        return Outcome(RunState.CANCELLED, Reason.STOPPED_OUTSIDE, "stopped with `flwr stop`, not by this server")
    return failure(progress, flower, restarted)


def success_text(progress: Progress | None) -> str:
    """Return what a successful run did, with what the app had to add to it."""
    if progress is None or not progress.rounds:
        return "done"
    rounds = f"{progress.round} of {progress.rounds} rounds"
    added = progress.message if progress.state == "succeeded" and progress.message != FINISHED else ""
    return f"{rounds}; {added}" if added else rounds


def run_seconds(run: Run, now: datetime) -> float | None:
    """Return how long a run's newest attempt took, or has taken so far, in seconds; None before it was accepted.

    Never negative: the clock may have been set back meanwhile.
    """
    attempt = run.attempt
    if attempt is None or attempt.accepted_at is None:
        return None
    return max(0.0, ((attempt.ended_at or run.ended_at or now) - attempt.accepted_at).total_seconds())


def restarted_under(attempt: Attempt, superlink_started_at: datetime | None) -> bool:
    """Return whether the SuperLink was started again after it had accepted the attempt."""
    accepted = attempt.accepted_at
    return accepted is not None and superlink_started_at is not None and superlink_started_at > accepted


def retry_delay(retry: Retry, attempts: int) -> timedelta:
    """Return the pause before the next attempt: doubled each time, up to the maximum.

    Args:
        retry: the schedule's policy.
        attempts: how many attempts were made.
    """
    seconds = min(retry.maximum_backoff, retry.backoff * 2 ** min(attempts - 1, 32))
    return timedelta(seconds=seconds)


def close(run: Run, attempts: int, outcome: Outcome, now: datetime) -> Step:
    """Return the step that ends an attempt: the run ends with it, or waits to be tried again.

    Args:
        run: the run.
        attempts: how many attempts were made, this one included.
        outcome: how this one ended.
        now: the current time.
    """
    retry = run.spec.retry
    again = outcome.failure_class in retry.on and attempts <= retry.attempts and run.stop_reason in STOPS_OF_ATTEMPT
    if not again:
        return Step(outcome.state, outcome.reason, outcome.message, outcome=outcome)
    retry_at = now + retry_delay(retry, attempts)
    pause = format_duration((retry_at - now).total_seconds())
    message = f"attempt {attempts} failed: {outcome.message}; tries again in {pause}"
    return Step(RunState.WAITING, Reason.RETRY_BACKOFF, message, outcome=outcome, retry_at=retry_at)


def overdue(spec: ScheduleSpec, attempt: Attempt, now: datetime) -> bool:
    """Return whether an attempt has used up the maximum duration."""
    start = attempt.accepted_at
    return spec.max_duration is not None and start is not None and now - start > timedelta(seconds=spec.max_duration)


def silent_since_restart(attempt: Attempt, seen: Observation, now: datetime) -> bool:
    """Return whether the SuperLink restarted under the attempt and the ServerApp has not been heard of since."""
    started = seen.superlink_started_at
    if started is None or not restarted_under(attempt, started) or now - started < seen.restart_grace:
        return False
    updated = seen.progress.updated_at if seen.progress is not None else None
    return updated is None or updated <= started


def follow(run: Run, seen: Observation, now: datetime) -> Step | None:
    """Return the next step of a run that the SuperLink has accepted, or None when nothing changes.

    Args:
        run: a run in state submitted (accepted) or running.
        seen: what the SuperLink and the run folder say.
        now: the current time.
    """
    attempt = run.attempt
    if attempt is None or attempt.flower_run_id is None:
        return None
    stop = wants_stop(run, attempt, seen, now)
    if stop is not None:
        run = replace(run, stop_reason=stop[0], stop_message=stop[1])
    outcome = outcome_of(run, attempt, seen)
    if outcome is not None:
        return replace(close(run, run.attempts, outcome, now), stop=stop)
    if run.stop_reason is not None:
        if run.reason is Reason.STOPPING:
            return None
        return Step(RunState.RUNNING, Reason.STOPPING, run.stop_message or run.stop_reason.value, stop=stop)
    started = (seen.flower is not None and seen.flower.status == "running") or (
        seen.progress is not None and seen.progress.state in ("running", "waiting-for-nodes")
    )
    if started and run.state is RunState.SUBMITTED:
        return Step(RunState.RUNNING, Reason.STARTED, "the ServerApp runs")
    return None


def wants_stop(run: Run, attempt: Attempt, seen: Observation, now: datetime) -> tuple[Reason, str] | None:
    """Return why the server itself wants a run stopped, or None; nothing is wanted twice."""
    if run.stop_reason is not None:
        return None
    if overdue(run.spec, attempt, now):
        limit = format_duration(run.spec.max_duration or 0)
        return Reason.MAX_DURATION, f"ran longer than max-duration {limit}"
    running = seen.flower is not None and seen.flower.status in ("starting", "running")
    if running and silent_since_restart(attempt, seen, now):
        return Reason.SUPERLINK_RESTARTED, "the SuperLink was restarted and the ServerApp is gone"
    return None
