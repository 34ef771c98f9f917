"""Brings Flower's nodes to what the enrolment says: an accepted car's keys are let in, all others are removed.

What is to be done, `steps` says, from the book and Flower's own list; it holds after any crash, since nothing is
remembered in between: a key that Flower took before we could write it down is found in its list. Flower never takes a
key again that it has removed: such a key is spent, and its car comes back with a new one only. Must not import FastAPI.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from fleven.server.database import Store
from fleven.server.enrolment import decisions
from fleven.server.enrolment import store as enrolment_store
from fleven.server.enrolment.keys import flower_form
from fleven.server.enrolment.model import Book, Change, EnrolmentError, Identity, Key, KeyRole
from fleven.server.errors import FlowerError, ServerError
from fleven.server.flower.answers import FlowerNode
from fleven_agent.protocol.identity import IdentityStatus

logger = logging.getLogger("fleven.server.enrolment")
UNREGISTERED = "unregistered"
"""Status of a node in Flower's list that was removed."""
WHOLE_EVERY = timedelta(seconds=60)
"""Flower's list is compared with the book this often, for what others did to it."""
AGAIN_AFTER = timedelta(seconds=5)


class FlowerNodes(Protocol):
    """The part of Flower that is needed here."""

    def nodes(self, *, pinned: bool = False) -> Sequence[FlowerNode]:
        """Return all nodes, removed ones among them; `pinned`: also of a SuperLink whose certificate is refused."""

    def register_node(self, public_key: bytes) -> str:
        """Let a key in, and return Flower's id of it."""

    def unregister_node(self, node_id: str) -> None:
        """Remove a node."""


class Act(StrEnum):
    """What is to be done about a key."""

    REGISTER = "register"
    UNREGISTER = "unregister"
    NOTE = "note"  # nothing at Flower: only the book is behind


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, and the key as it is once that is done.

    Attributes:
        act: what.
        car_id: whose key.
        key: as it will be; a registered one gets the id that Flower answers.
    """

    act: Act
    car_id: str
    key: Key


def wanted(car: Identity, key: Key) -> bool:
    """Return whether Flower is to take a key."""
    return car.status is IdentityStatus.ACCEPTED and key.role is not KeyRole.RETIRED


def behind(cars: Iterable[Identity]) -> bool:
    """Return whether the book alone shows that something is to be done."""
    return any(
        (wanted(car, key) and key.flower_node_id is None and not key.spent)
        or (not wanted(car, key) and key.flower_node_id is not None and not key.spent)
        for car in cars
        for key in car.keys
    )


def steps(cars: Iterable[Identity], listed: Sequence[FlowerNode], pem: Callable[[str], bytes]) -> list[Step]:
    """Return what brings Flower's nodes to what the book says; removals first.

    Args:
        cars: all identities.
        listed: Flower's list; without public keys when it comes from the command.
        pem: Flower's form of a public key.
    """
    by_id = {node.node_id: node for node in listed}
    by_key = {node.public_key.strip(): node for node in listed if node.public_key}
    removals: list[Step] = []
    others: list[Step] = []
    for car in cars:
        for key in car.keys:
            if key.spent:
                continue
            found = by_id.get(key.flower_node_id or "")
            if found is None and by_key:
                found = by_key.get(pem(key.public_key).strip())
            step = _step(car, key, found, known_by_key=bool(by_key) or not listed)
            if step is not None:
                (removals if step.act is Act.UNREGISTER else others).append(step)
    return [*removals, *others]


def _step(car: Identity, key: Key, found: FlowerNode | None, *, known_by_key: bool) -> Step | None:
    if found is not None and found.status == UNREGISTERED:
        return Step(Act.NOTE, car.car_id, replace(key, flower_node_id=found.node_id, spent=True))
    if wanted(car, key):
        if found is None and key.flower_node_id is not None and not known_by_key:
            # The command's list does not tell keys: nothing is concluded from what it lacks.
            return None
        if found is None:
            return Step(Act.REGISTER, car.car_id, replace(key, flower_node_id=None))
        if found.node_id != key.flower_node_id:
            return Step(Act.NOTE, car.car_id, replace(key, flower_node_id=found.node_id))
        return None
    if found is not None:
        return Step(Act.UNREGISTER, car.car_id, replace(key, flower_node_id=found.node_id, spent=True))
    if key.flower_node_id is not None and known_by_key:
        # The SuperLink's database is another: it does not know the key, and will not be asked to.
        return Step(Act.NOTE, car.car_id, replace(key, flower_node_id=None))
    return None


def _spent(car: Identity) -> set[str]:
    return {key.public_key for key in car.keys if key.spent and key.role is not KeyRole.RETIRED}


def written(book: Book, done: Mapping[str, Key], now: datetime) -> Change:
    """Return what the book says of keys after steps; an accepted car whose key was removed by others is held.

    Args:
        book: as it is now, which may be younger than the steps.
        done: keys as the steps left them, by public key.
        now: the moment.
    """
    changed: list[Identity] = []
    events: list[tuple[str, str, str]] = []
    for car in book.identities.values():
        new = car
        for key in car.keys:
            after = done.get(key.public_key)
            if after is not None:
                new = new.with_key(replace(key, flower_node_id=after.flower_node_id, spent=after.spent))
        lost = new.status is IdentityStatus.ACCEPTED and not new.rotate_wanted and _spent(new) - _spent(car)
        if lost:
            # We did not remove it. Whoever did had a reason, and may have been ourselves before an old register was
            # restored: then the car was revoked, and must not bring a new key by itself.
            reason = "Flower has removed its key: by hand, or before this register was restored from a backup"
            held = decisions.hold(new, reason, now)
            new = held.identities[0]
            events += held.events
        if new != car:
            changed.append(new)
    return Change(identities=tuple(changed), events=tuple(events))


class FlowerKeys:
    """Does what is to be done, on a worker: when the book has changed, the SuperLink is back, and once a minute.

    Args:
        store: the register.
        flower: the SuperLink.
        executor: runs the work.
        done: called on the worker after something was done.
    """

    def __init__(self, store: Store, flower: FlowerNodes, executor: Executor, done: Callable[[], None]) -> None:
        self._store = store
        self._flower = flower
        self._executor = executor
        self._done = done
        self._busy = False
        self._revision = -1
        self._whole_at: datetime | None = None
        self._again_at: datetime | None = None
        self._failing = False
        self._reachable = False

    def attend(self, now: datetime, *, reachable: bool) -> None:
        """Begin the work when there is any.

        Args:
            now: the moment.
            reachable: whether the SuperLink answers.
        """
        if reachable and not self._reachable:
            # It may have come back with another database: until the keys are in it, it refuses every car.
            self._whole_at = self._again_at = None
        self._reachable = reachable
        if self._busy or not reachable or _before(now, self._again_at, AGAIN_AFTER):
            return
        with self._store.read() as connection:
            revision = enrolment_store.revision(connection)
        if revision == self._revision and _before(now, self._whole_at, WHOLE_EVERY):
            return
        self._busy = True
        self._executor.submit(self._work, revision, now)

    def _work(self, revision: int, now: datetime) -> None:
        try:
            self._age(now)
            book = enrolment_store.read(self._store)
            whole = not _before(now, self._whole_at, WHOLE_EVERY)
            if book.identities and (whole or behind(book.identities.values())):
                self.bring(book, now)
            if whole:
                self._whole_at = now + WHOLE_EVERY
            # Our own writing counts as a change too: the next look finds nothing to do, and is the last.
            self._revision, self._again_at, self._failing = revision, None, False
        except ServerError as error:
            self._again_at = now + AGAIN_AFTER
            if not self._failing:
                logger.warning("event=flower-keys-failed error=%r again_in=%s", str(error), AGAIN_AFTER)
            self._failing = True
        except Exception:
            self._again_at = now + AGAIN_AFTER
            logger.exception("event=flower-keys-failed")
        finally:
            self._busy = False
            self._done()

    def bring(self, book: Book, now: datetime) -> None:
        """Bring Flower's nodes to what a book says, each step written down as soon as it is done.

        Raises:
            ServerError: the SuperLink does not answer, or the register cannot be written.
        """
        failed: FlowerError | None = None
        for step in steps(book.identities.values(), self._flower.nodes(pinned=True), flower_form):
            key = step.key
            try:
                if step.act is Act.UNREGISTER and key.flower_node_id is not None:
                    self._flower.unregister_node(key.flower_node_id)
                elif step.act is Act.REGISTER:
                    key = replace(key, flower_node_id=self._flower.register_node(flower_form(key.public_key)))
            except (FlowerError, EnrolmentError) as error:
                # One key that is refused must not keep the others out.
                logger.warning("event=flower-key-failed car=%s act=%s error=%r", step.car_id, step.act, str(error))
                failed = error if isinstance(error, FlowerError) else failed
                continue
            done = {key.public_key: key}
            self._write(done, now)
            logger.info("event=flower-key act=%s car=%s node_id=%s", step.act, step.car_id, key.flower_node_id)
        if failed is not None:
            raise failed

    def _write(self, done: Mapping[str, Key], now: datetime) -> None:
        enrolment_store.decide_and_tell(
            self._store, now, lambda book: (written(book, done, now), None), enrolment_store.tell
        )

    def _age(self, now: datetime) -> None:
        """Forget who waits no longer, and what ended long ago."""
        book = enrolment_store.read(self._store)
        if decisions.age(book, now):
            enrolment_store.decide(self._store, now, lambda book: (decisions.age(book, now), None))
        enrolment_store.drop_invitations(self._store, decisions.ended_invitations(book, now))


def _before(now: datetime, moment: datetime | None, longest: timedelta) -> bool:
    """Return whether a moment is still to come; not for longer than it can be, should the clock have been set back."""
    return moment is not None and timedelta(0) < moment - now <= longest
