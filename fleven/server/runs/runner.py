"""The effects of one run: submit it exactly once, look at it, stop it, find where it can be resumed.

Called on worker threads with deadlines; decides nothing. Each function may be repeated after a crash at any point.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.errors import FlowerError, ServerError
from fleven.server.flower.answers import REFUSED, FlowerRun
from fleven.server.flower.app_bundle import App, AppUnusableError, read_app, remove_staged, stage
from fleven.server.flower.flwr_command import Flower, flower_for
from fleven.server.flower.line import installed_line
from fleven.server.flower.run_app import bundle_of, difference
from fleven.server.flower.run_files import read_end, remove_end
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
from fleven.server.runs.model import Attempt, Progress, Run, RunState
from fleven.server.schedules.editing import CHAMPION, run_config_of
from fleven.server.schedules.spec import Promote, ScheduleSpec

LOCK_TIMEOUT_SECONDS = 90.0
MAXIMUM_STATUS_BYTES = 100_000
CHECKPOINT_SUFFIXES = (".safetensors", ".pt")
"""Of the shipped app's checkpoints, and of those that version 0.1.0 and other apps write."""


def new_token() -> str:
    """Return a mark that no other submission has, not even one from a register that was lost."""
    return secrets.token_hex(8)


def mark(run_id: int, attempt: Attempt) -> str:
    """Return the local version that a submission carries: run number, attempt and token."""
    return f"fleven.{run_id}.{attempt.number}.{attempt.token}"


def run_folder(app: App, values: Mapping[str, Any], base_key: str, state: Path, flower_run_id: str) -> str | None:
    """Return the path of a run's folder under one of the app's base paths, or None for an app that has no such key."""
    config = {**app.config, **values}
    base, experiment = config.get(base_key), config.get("experiment")
    if not isinstance(base, str) or not isinstance(experiment, str) or not base:
        return None
    return str(state / base / experiment / flower_run_id)


def read_progress(folder: str | None) -> Progress | None:
    """Return what a run's status.json says, or None when there is none that can be read."""
    if folder is None:
        return None
    try:
        with (Path(folder) / "status.json").open("rb") as stream:
            content = json.loads(stream.read(MAXIMUM_STATUS_BYTES))
        updated = content.get("updated_at")
        error = content.get("error") or {}
        return Progress(
            state=str(content["state"]),
            round=int(content.get("round") or 0),
            rounds=int(content.get("rounds") or 0),
            message=str(content.get("message") or "")[:500],
            nodes_expected=int(content.get("nodes_expected") or 0),
            nodes_replied=int(content.get("nodes_replied") or 0),
            updated_at=utc(updated),
            error_code=str(error.get("code") or ""),
            error_message=str(error.get("message") or "")[:1000],
            error_hint=str(error.get("hint") or "")[:500],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Another app's file, or one that is being replaced: what the SuperLink says remains.
        return None


def utc(text: object) -> datetime | None:
    """Return an ISO time as a moment in UTC, or None for nothing."""
    if not isinstance(text, str) or not text:
        return None
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def superlink_started_at(paths: Paths) -> datetime | None:
    """Return when the SuperLink that runs now was started by `fleven-server superlink`, or None."""
    try:
        return utc(json.loads(paths.superlink_record.read_text(encoding="utf-8"))["started_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def submission_lock(paths: Paths, timeout_seconds: float) -> Iterator[int]:
    """Hold the lock under which at most one submission is under way on this machine.

    The descriptor is handed to `flwr run`: if this process dies, the lock stays with the call until that ends.

    Raises:
        SubmissionBusyError: somebody else holds it for longer than the time given.
    """
    handle = os.open(paths.submit_lock, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise SubmissionBusyError("an earlier submission is still under way") from None
                time.sleep(0.2)
        yield handle
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Runner:
    """Everything that is done outside the register for a run."""

    flower: Flower
    paths: Paths
    default_app: Path
    cars: Callable[[Run], str] | None = None
    """Whom a run asks, for an app with such a key; None leaves that to the app."""
    champion: Callable[[str], str] | None = None
    """The file of an experiment's champion, "" for none: what a run is compared with that is promoted if better."""
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS
    settle_seconds: float = field(default_factory=lambda: installed_line().settle_seconds)

    def app_path(self, spec: ScheduleSpec) -> Path:
        """Return the app of a schedule."""
        return Path(spec.app) if spec.app else self.default_app

    def staged(self, run: Run, attempt: Attempt) -> Path:
        """Return the folder of an attempt's marked copy."""
        return self.paths.apps / f"run-{run.id}-{attempt.number}"

    def submit(self, run: Run, *, look_first: bool, refusal: ServerError | None = None) -> Accepted:
        """Submit a run's newest attempt, unless the SuperLink has it already.

        Args:
            run: a run whose intent is stored.
            look_first: whether a submission may exist: then the SuperLink's list is read before anything else.
            refusal: how the last try ended; when the list shows no submission, that is the result.

        Raises:
            SubmissionStoppedError: the run is to be stopped, and was not submitted.
            SubmissionRefusedError: the app is missing, is none, or is refused for good.
            SubmissionFailedError: the last try did not succeed.
            SubmissionUnclearError: this try ended with an error; its code says which.
            FlowerError: the list cannot be read.
        """
        attempt = run.attempt
        if attempt is None:
            raise ServerError(f"run {run.id} has no attempt to submit", code="internal")
        with submission_lock(self.paths, self.lock_timeout_seconds) as lock:
            try:
                app = read_app(self.app_path(run.spec))
                values = run_config_of(app, run.spec, attempt.resume_from)
                found = self.find(run, attempt) if look_first else None
                if found is not None:
                    flower_run_id = found.run_id
                elif run.stop_reason is not None:
                    raise SubmissionStoppedError(run.stop_message or run.stop_reason.value)
                elif refusal is not None:
                    kind = SubmissionRefusedError if refusal.code == REFUSED else SubmissionFailedError
                    raise kind(refusal.message, hint=refusal.hint)
                else:
                    values |= self._cars(run, app) | self._champion(run, app, values)
                    flower_run_id = self._run(run, attempt, values, lock)
            except AppUnusableError as error:
                raise SubmissionRefusedError(error.message, hint=error.hint, code=error.code) from error
        app_hash = self._app_hash(run, attempt, flower_run_id)
        metrics, results = (
            run_folder(app, values, key, self.paths.state, flower_run_id)
            for key in ("metrics-base-path", "results-base-path")
        )
        return Accepted(flower_run_id, metrics, results, found is not None, app_hash)

    def _app_hash(self, run: Run, attempt: Attempt, flower_run_id: str) -> str | None:
        """Return the hash of the app that the SuperLink has for a run; None when that cannot be read.

        Raises:
            SubmissionRefusedError: it is not the app that was submitted; the run is stopped.
        """
        bundle, staged = bundle_of(self.paths.superlink_database, flower_run_id), self.staged(run, attempt)
        if bundle is None:
            return None
        if staged.is_dir() and (why := difference(*bundle, staged)):
            with contextlib.suppress(FlowerError):  # what is refused is looked at no more
                self.flower.stop(flower_run_id)
            text = f"the app that the SuperLink has for run {flower_run_id} is not the one that was submitted: {why}"
            raise SubmissionRefusedError(text, hint="see who may write to the server's folders", code="app-differs")
        return bundle[0]

    def _cars(self, run: Run, app: App) -> dict[str, str]:
        """Return whom the run asks, unless the schedule says so itself."""
        if self.cars is None or "cars" not in app.config or "cars" in run.spec.run_config:
            return {}
        cars = self.cars(run)
        return {"cars": cars} if cars else {}

    def _champion(self, run: Run, app: App, values: Mapping[str, Any]) -> dict[str, str]:
        """Return what the run's model is compared with, unless the schedule says so itself."""
        wanted = run.spec.promote is Promote.IF_BETTER and CHAMPION not in run.spec.run_config
        if self.champion is None or not wanted or CHAMPION not in app.config:
            return {}
        path = self.champion(str({**app.config, **values}.get("experiment", "")))
        return {CHAMPION: path} if path else {}

    def _run(self, run: Run, attempt: Attempt, values: Mapping[str, bool | int | float | str], lock: int) -> str:
        """Hand a marked copy of the app to the SuperLink, and return the id under which it was taken."""
        folder = stage(self.app_path(run.spec), self.staged(run, attempt), mark(run.id, attempt))
        with contextlib.suppress(OSError):  # the executor then finds the run a second later
            self.paths.submitted.touch(mode=0o600)
        try:
            return self.flower.run(folder, values, lock)
        except FlowerError as error:
            raise SubmissionUnclearError(error.message, hint=error.hint, code=error.code) from error

    def find(self, run: Run, attempt: Attempt) -> FlowerRun | None:
        """Return the submission of an attempt from the SuperLink's list, or None when it never happened."""
        time.sleep(self.settle_seconds)
        wanted = mark(run.id, attempt)
        for row in self.flower.runs():
            if row.version.endswith(wanted):
                return row
        return None

    def look(self, run: Run) -> Observation:
        """Ask the SuperLink for a run.

        Raises:
            FlowerError: no answer.
        """
        attempt = run.attempt
        if attempt is None or attempt.flower_run_id is None:
            return Observation()
        rows = self.flower.runs(attempt.flower_run_id)
        if rows and rows[0].process_lost and (why := read_end(self.paths.state, attempt.flower_run_id)):
            rows = [replace(rows[0], details=why)]
        progress = read_progress(attempt.metrics_folder)
        listing = Listing.FOUND if rows else Listing.ABSENT
        started, grace = superlink_started_at(self.paths), self.flower.line.restart_grace
        return Observation(listing, rows[0] if rows else None, progress, started, grace)

    def stop(self, run: Run) -> None:
        """Ask the SuperLink to stop a run; harmless when it has ended."""
        if run.attempt is not None and run.attempt.flower_run_id is not None:
            self.flower.stop(run.attempt.flower_run_id)

    def leave(self, run: Run, *, last: bool) -> bool:
        """Remove what an ended attempt leaves, if its ServerApp is gone; return whether that was done.

        Args:
            run: the run, with that attempt.
            last: whether a ServerApp that is still there has had its time: it is stopped then.

        Raises:
            FlowerError: the SuperLink cannot be asked.
        """
        flower_run_id = run.attempt.flower_run_id if run.attempt is not None else None
        if flower_run_id is not None and not last:
            rows = self.flower.runs(flower_run_id)
            if rows and rows[0].status != "finished":
                return False
        try:
            if last:
                self.stop(run)
        finally:
            self.clean_up(run)
        return True

    def clean_up(self, run: Run) -> None:
        """Remove what a finished attempt leaves on this machine besides its results."""
        if run.attempt is not None:
            if run.attempt.flower_run_id is not None:
                remove_end(self.paths.state, run.attempt.flower_run_id)
            remove_staged(self.staged(run, run.attempt), self.paths.flwr_home, mark(run.id, run.attempt))

    def resume_point(self, run: Run, earlier: Sequence[Attempt]) -> str | None:
        """Return the newest checkpoint that an earlier attempt of a run left, or None.

        Args:
            run: the run.
            earlier: its attempts so far, in order.
        """
        if not run.spec.retry.resume:
            return None
        app = read_app(self.app_path(run.spec))
        if "resume-from" not in app.config:
            return None
        values = run_config_of(app, run.spec)
        for attempt in reversed(earlier):
            if attempt.flower_run_id is None:
                continue
            # The app's own config may have changed since the attempt was made.
            folder = attempt.results_folder or run_folder(
                app, values, "results-base-path", self.paths.state, attempt.flower_run_id
            )
            found = newest_checkpoint(Path(folder)) if folder is not None else None
            if found is not None:
                return str(found)
            if attempt.resume_from is not None and Path(attempt.resume_from).exists():
                # It died before its first checkpoint: what it began from still holds.
                return attempt.resume_from
        return None


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint file in a run's results folder or its `checkpoints` folder."""
    files = [
        file
        for suffix in CHECKPOINT_SUFFIXES
        for pattern in (f"checkpoint*{suffix}", f"checkpoints/*{suffix}")
        for file in folder.glob(pattern)
        if not file.name.startswith(".")
    ]
    return max(files, key=lambda file: (file.stat().st_mtime_ns, file.name), default=None)


def retried_spec(
    config: ServerConfig, paths: Paths, run: Run, attempts: Sequence[Attempt], *, fresh: bool
) -> ScheduleSpec:
    """Return a run's settings for another try, with the checkpoint to go on from unless a fresh start is wanted."""
    runner = Runner(flower_for(config, paths), paths, config.app())
    point = None if fresh or run.state is RunState.SUCCEEDED else runner.resume_point(run, attempts)
    kept = {key: value for key, value in run.spec.run_config.items() if key != "resume-from"}
    overrides = {**kept, "resume-from": point} if point is not None else kept
    return run.spec.model_copy(update={"run_config": overrides})
