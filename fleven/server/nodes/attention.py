"""How closely the server follows each car now, and the cars' open questions about it.

An idle car speaks rarely. The scheduler says here when that has to change: before it submits a run, ten minutes before
one is due, while somebody looks at a car or wants something of it. Decisions are pure; the board carries them from the
scheduler's thread to the questions, which wait in the API's. Must not import FastAPI, SQLAlchemy or a clock.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from fleven_agent.protocol.codes import Attention

LOOK_LASTS = timedelta(seconds=45)
"""So long a look at a car counts: a page fetches it again every few seconds."""
PULL_FLOOR_SECONDS, LONGEST_PULL_FLOOR_SECONDS = 0.05, 60.0
PULL_SECONDS_A_CAR = 0.01
"""A question costs the SuperLink 1 to 4 ms: of whatever number of cars, they take less than half of a core."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the server wants of the cars' attention.

    Attributes:
        fleet: of all of them.
        watched: names of those that are watched even if the fleet is not.
        pull_floor_seconds: between two questions of a car to the SuperLink.
        under_way: a run occupies the SuperLink, so that no car is to change its key.
    """

    fleet: Attention = Attention.CALM
    watched: frozenset[str] = frozenset()
    pull_floor_seconds: float = PULL_FLOOR_SECONDS
    under_way: bool = False

    def of(self, name: str) -> Attention:
        """Return what is wanted of one car."""
        if self.fleet is Attention.CALM and name in self.watched:
            return Attention.WATCHED
        return self.fleet


def pull_floor_seconds(cars: int) -> float:
    """Return how long a car is to wait at least between two questions to the SuperLink."""
    return min(LONGEST_PULL_FLOOR_SECONDS, max(PULL_FLOOR_SECONDS, cars * PULL_SECONDS_A_CAR))


@dataclass(frozen=True, slots=True)
class Attended:
    """Since when cars have been followed more closely than calmly: they should have been heard since."""

    fleet_since: datetime | None = None
    since: Mapping[str, datetime] = field(default_factory=dict)

    def of(self, name: str) -> datetime | None:
        """Return it for one car."""
        found = [moment for moment in (self.fleet_since, self.since.get(name)) if moment is not None]
        return min(found, default=None)

    def after(self, wanted: Wanted, now: datetime) -> Attended:
        """Return it after the wish has changed; what is wanted on keeps its beginning."""
        fleet = None if wanted.fleet is Attention.CALM else self.fleet_since or now
        return Attended(fleet, {name: self.since.get(name, now) for name in wanted.watched})

    def as_fact(self) -> dict[str, Any]:
        """Return it as JSON values."""
        fleet = self.fleet_since.isoformat() if self.fleet_since is not None else None
        return {"fleet": fleet, "nodes": {name: moment.isoformat() for name, moment in self.since.items()}}


def attended_from(fact: object) -> Attended:
    """Return what a fact says; nothing when it is none of these."""
    try:
        values: Any = fact
        fleet = datetime.fromisoformat(values["fleet"]) if values["fleet"] else None
        return Attended(fleet, {str(name): datetime.fromisoformat(at) for name, at in values["nodes"].items()})
    except (KeyError, TypeError, ValueError, AttributeError):
        return Attended()


class AttentionBoard:
    """What is wanted now, for any thread; and the questions that wait for a change, in an event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = Wanted()
        self._closed = False
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @property
    def wanted(self) -> Wanted:
        """What is wanted now."""
        return self._wanted

    def set(self, wanted: Wanted) -> None:
        """Change what is wanted, and answer the questions that this concerns."""
        with self._lock:
            if wanted == self._wanted:
                return
            self._wanted = wanted
            self._ring()

    def close(self) -> None:
        """Answer all questions, and from now on at once: the server stops."""
        with self._lock:
            self._closed = True
            self._ring()

    def _ring(self) -> None:
        for event, loop in self._waiting.items():
            loop.call_soon_threadsafe(event.set)

    async def wait(self, name: str, known: str, seconds: float) -> Wanted:
        """Return what is wanted as soon as that is another attention for this car than it knows, or after a time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        event = asyncio.Event()
        with self._lock:
            self._waiting[event] = loop
        try:
            while not self._closed and self._wanted.of(name) == known and (left := until - loop.time()) > 0:
                event.clear()
                if self._closed or self._wanted.of(name) != known:
                    break
                try:
                    await asyncio.wait_for(event.wait(), left)
                except TimeoutError:
                    break
        finally:
            with self._lock:
                self._waiting.pop(event, None)
        return self._wanted
