"""Carries out what is decided about the car's model, on a thread of its own: fetching and trials take time.

The loop says what is so (``follow``) and asks what is to be told (``told``); it never waits for this thread. Imports
the decisions, the shelf, the trial and the client of reports; neither NumPy nor anything of the app.
"""

import random
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleven_agent.common.backoff import delay
from fleven_agent.models import decisions
from fleven_agent.models.decisions import Offer, Seen, Step
from fleven_agent.models.shelf import CURRENT, MOST_ERRORS, PREVIOUS, Error, Shelf
from fleven_agent.models.trial import Trier, give_up
from fleven_agent.protocol.codes import MODEL_PATH
from fleven_agent.reporting.client import DeliveryError, Target, fetch
from fleven_agent.reporting.report_builder import moment
from fleven_agent.reporting.session import Session
from fleven_agent.system.log import LOGGER, event

PART_BYTES = 512 * 1024
"""Of one request: what is lost when a connection breaks, and well below what an answer may have."""
RETRY_INITIAL_SECONDS = 30.0
RETRY_MAXIMUM_SECONDS = 1_800.0


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the loop knows.

    Attributes:
        target: where the server is, and who this car is; None while it must not be asked.
        offer: what the server wants this car to have.
        held: why neither network nor machine may be used now: a closed gate, a task; "" when they may.
        trips: folder of the trips; None without one.
        newest_trip: stamp of the newest trip [s since the epoch].
    """

    target: Target | None = None
    offer: Offer | None = None
    held: str = ""
    trips: str | None = None
    newest_trip: float | None = None


class ModelKeeper:
    """The car's model and the thread that looks after it.

    Args:
        state_directory: of the agent.
        wake: wakes the loop when there is something new to tell.
        trier: tries models.
    """

    def __init__(self, state_directory: Path, wake: Callable[[], None], trier: Trier | None = None) -> None:
        self._shelf = Shelf(state_directory)
        self._wake, self._trier = wake, trier or Trier()
        self._changed = threading.Condition()
        self._now = Circumstances()
        self._stopping = False
        self._failures, self._retry_at, self._problem = 0, float("-inf"), ""
        self._fetched = ""
        self._trial: subprocess.Popen[bytes] | None = None
        self._session = Session()
        self._told = self._tell()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and a trial that is under way."""
        with self._changed:
            self._stopping = True
            trial = self._trial
            self._changed.notify()
        if trial is not None:
            give_up(trial)
        self._session.abort()
        self._thread.join(2.0)

    def follow(self, now: Circumstances) -> None:
        """Take over what the loop knows."""
        with self._changed:
            if now == self._now:
                return
            other, offered = now.target != self._now.target, now.offer != self._now.offer
            self._now = now
            if other or offered:
                self._failures, self._retry_at = 0, float("-inf")
            if offered:
                self._problem = ""
                self._told = self._tell()
            self._changed.notify()

    def told(self) -> dict[str, Any]:
        """Return what report and status say of the car's model; `report.ModelState` without its experiment."""
        with self._changed:
            return self._told

    # -- on the thread

    def _run(self) -> None:
        try:
            while (step := self._next()) is not None:
                try:
                    self._carry_out(*step)
                except OSError as error:
                    self._failed(f"{error.filename or self._shelf.folder}: {error.strerror or error}")
                with self._changed:
                    self._told = self._tell()
                self._wake()
        finally:
            self._session.close()

    def _next(self) -> tuple[Step, Circumstances] | None:
        """Wait until there is something to do, and return it; None at the end."""
        with self._changed:
            while not self._stopping:
                now, moment_ = self._now, time.monotonic()
                step = decisions.next_step(self._seen(now), moment_)
                if step is Step.FETCH and now.target is None:
                    step = Step.NOTHING
                if step is not Step.NOTHING:
                    return step, now
                wait = self._retry_at - moment_
                self._changed.wait(wait if 0 < wait < threading.TIMEOUT_MAX else None)
            return None

    def _seen(self, now: Circumstances) -> Seen:
        notes, offer = self._shelf.notes, now.offer
        return Seen(
            offer=offer,
            current=self._shelf.linked(CURRENT),
            fetched=offer is not None and self._shelf.file(offer.sha256).is_file(),
            refused=notes.refused,
            refused_on=notes.refused_on,
            held=now.held,
            retry_at=self._retry_at,
            newest_trip=now.newest_trip,
            scored_trip=notes.scored_trip,
        )

    def _carry_out(self, step: Step, now: Circumstances) -> None:
        if step is Step.SCORE:
            self._score(now)
        elif now.offer is not None and step is Step.TRY:
            self._try(now.offer, now)
        elif now.offer is not None and now.target is not None:
            self._fetch(now.offer, now.target)

    def _fetch(self, offer: Offer, target: Target) -> None:
        """Fetch what is still missing, part by part, as long as the gates are open and the server wants it."""
        shelf = self._shelf
        shelf.clean(keep=offer.sha256)
        have = shelf.fetched_bytes(offer.sha256)
        if have > offer.size_bytes:
            shelf.part(offer.sha256).unlink()
            have = 0
        while have < offer.size_bytes:
            last = min(have + PART_BYTES, offer.size_bytes) - 1
            try:
                content = fetch(target, f"{MODEL_PATH}/{offer.sha256}", have, last, session=self._session)
            except DeliveryError as error:
                self._failed(f"{offer.name} cannot be fetched: {error}")
                return
            have = shelf.append(offer.sha256, content)
            with self._changed:
                if self._stopping or self._now.held or self._now.offer != offer:
                    return  # what is here is kept: it goes on there
        if not shelf.complete(offer.sha256):
            self._failed(f"{offer.name} is not what the server promised: its SHA-256 differs")
            return
        self._failures, self._problem = 0, ""
        LOGGER.info(event("model fetched", model=offer.name, bytes=offer.size_bytes, sha256=offer.sha256))

    def _try(self, offer: Offer, now: Circumstances) -> None:
        shelf = self._shelf
        if not shelf.whole(offer.sha256):
            shelf.file(offer.sha256).unlink(missing_ok=True)
            self._failed(f"{offer.name} was damaged on this car's disk")
            return
        # One that was in use here before has proven itself: who goes back to it has reasons that one trip cannot judge.
        compared = "" if offer.sha256 == shelf.linked(PREVIOUS) else shelf.linked(CURRENT)
        found = self._ended_trial(shelf.file(offer.sha256), now.trips, shelf.file(compared) if compared else None)
        if found is None:
            return
        if against := decisions.objection(found):
            shelf.note(refused=offer.sha256, refused_on=now.newest_trip, refused_because=against)
            self._problem = ""
            LOGGER.warning(event("model refused", model=offer.name, detail=against))
            return
        shelf.switch(offer.sha256, offer.name, time.time())
        self._problem = ""
        LOGGER.info(event("model in use", model=offer.name, sha256=offer.sha256, rmse_on_newest_trip=found.rmse))
        self._remember(found, now)

    def _score(self, now: Circumstances) -> None:
        """Hold the present model against the newest trip; go back to the one before when it cannot be used."""
        shelf = self._shelf
        current = shelf.linked(CURRENT)
        whole = shelf.whole(current)
        found = self._ended_trial(shelf.file(current), now.trips, None) if whole else None
        if whole and found is None:
            return
        if found is not None and found.usable:
            self._remember(found, now)
            return
        because = found.reason if found is not None else "its file is damaged"
        name = shelf.notes.names.get(current, ("the model in use", 0.0))[0]
        back = shelf.go_back(because)
        shelf.note(refused_on=now.newest_trip, scored_trip=now.newest_trip)
        to = shelf.notes.names.get(back, ("none", 0.0))[0]
        self._problem = f"{name} cannot be used any more: {because}"
        LOGGER.warning(event("model given up", model=name, back_to=to, detail=because))

    def _remember(self, found: decisions.Trial, now: Circumstances) -> None:
        errors = self._shelf.notes.errors
        if found.rmse is not None and found.values >= decisions.FEWEST_VALUES and now.newest_trip is not None:
            errors = (*errors, Error(now.newest_trip, found.rmse, found.values))[-MOST_ERRORS:]
        self._shelf.note(scored_trip=now.newest_trip, errors=errors)

    def _ended_trial(self, model: Path, trips: str | None, other: Path | None) -> decisions.Trial | None:
        """Return what a trial found; None when the agent stops."""
        process = self._trier.begin(model, trips, other)
        with self._changed:
            self._trial = process
            if self._stopping:
                give_up(process)
        found = self._trier.end(process)
        with self._changed:
            self._trial = None
            return None if self._stopping else found

    def _failed(self, problem: str) -> None:
        with self._changed:
            self._failures += 1
            chance = random.random()  # noqa: S311  # spreads a fleet's tries, protects nothing
            seconds = delay(
                self._failures,
                initial=RETRY_INITIAL_SECONDS,
                factor=2.0,
                maximum=RETRY_MAXIMUM_SECONDS,
                chance=chance,
            )
            self._retry_at = time.monotonic() + seconds
            self._problem = problem
        LOGGER.warning(event("model not fetched", detail=problem), extra={"repeats": True})

    def _tell(self) -> dict[str, Any]:
        notes = self._shelf.notes
        return {
            "current": self._version(CURRENT),
            "previous": self._version(PREVIOUS),
            "problem": self._problem or self._refusal(),
            "errors": [{"at": moment(error.at), "rmse": error.rmse, "values": error.values} for error in notes.errors],
        }

    def _refusal(self) -> str:
        """Return why the model that is offered is not in use; "" where it is not offered, or was not tried yet."""
        notes, offer = self._shelf.notes, self._now.offer
        if offer is None:
            return ""
        if offer.size_bytes > decisions.LARGEST_MODEL_BYTES:
            return f"{offer.name} has {offer.size_bytes} bytes, at most {decisions.LARGEST_MODEL_BYTES} are taken"
        return f"{offer.name} is not used: {notes.refused_because}" if offer.sha256 == notes.refused else ""

    def _version(self, link: str) -> dict[str, Any] | None:
        sha256 = self._shelf.linked(link)
        if not sha256:
            return None
        name, since = self._shelf.notes.names.get(sha256, ("", 0.0))
        return {"name": name, "sha256": sha256, "since": moment(since) if since else None}
