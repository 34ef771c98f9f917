"""Who signs a batch of reports, and whom an unsigned one would touch: the picture by which every report is judged.

A snapshot of the book, made again when its counter has moved; asking it costs no statement of SQL. Must not import
FastAPI, or decide about joining.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection

from fleven.server.database import Store
from fleven.server.enrolment import store as enrolment_store
from fleven.server.enrolment.model import Book, EnrolmentError, Identity, Key, KeyRole
from fleven.server.enrolment.refusals import refused_status
from fleven.server.enrolment.rotation import key_of
from fleven_agent.protocol.identity import IdentityStatus, Refusal

LOOK_EVERY_SECONDS = 1.0
"""A change by a command is seen after this time at the latest; one by this process at once."""
BEARER = re.compile(r"([0-9a-f]{16})\.([A-Za-z0-9_-]{16,64})")
SENDER_PREFIX = "identity:"
"""Reports with an identity are numbered under this and the car id; no unsigned report may use such a sender."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The book as reports need it.

    Attributes:
        book: all of it.
        names: enrolled cars by name.
        partitions: enrolled cars by partition.
        flower_ids: cars by each of Flower's ids that their keys have.
        revoked: the newest revoked cars by the names that nobody has taken over.
    """

    book: Book = field(default_factory=Book)
    names: dict[str, Identity] = field(default_factory=dict)
    partitions: dict[int, Identity] = field(default_factory=dict)
    flower_ids: dict[str, Identity] = field(default_factory=dict)
    revoked: dict[str, Identity] = field(default_factory=dict)


def picture(book: Book) -> Picture:
    """Return the picture of a book."""
    bound = [one for one in book.identities.values() if one.bound]
    names = {one.name: one for one in bound}
    ended = [one for one in book.identities.values() if one.status is IdentityStatus.REVOKED and one.name not in names]
    return Picture(
        book,
        names,
        {one.partition_id: one for one in bound if one.partition_id is not None},
        {key.flower_node_id: one for one in bound for key in one.keys if key.flower_node_id is not None},
        {one.name: one for one in sorted(ended, key=lambda one: one.decided_at)},
    )


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed a batch.

    Attributes:
        car_id: the car.
        public_key: its key by whose secret they were signed; its next one takes over thereby.
    """

    car_id: str
    public_key: str


class Directory:
    """The newest picture. Safe to use from several threads.

    Args:
        store: the register.
        monotonic: seconds; tests give their own.
    """

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._revision = -1
        self._looked_at = float("-inf")
        self._picture = Picture()

    def now(self) -> Picture:
        """Return a picture that is at most `LOOK_EVERY_SECONDS` old.

        Raises:
            StoreError: the register cannot be read.
        """
        with self._lock:
            if self._monotonic() - self._looked_at > LOOK_EVERY_SECONDS:
                with self._store.read() as connection:
                    self._refresh(connection)
            return self._picture

    def within(self, connection: Connection) -> Picture:
        """Return the picture of an open transaction."""
        with self._lock:
            self._refresh(connection)
            return self._picture

    def outdated(self) -> None:
        """Look at the next question, since this process has changed the book."""
        with self._lock:
            self._looked_at = float("-inf")

    def _refresh(self, connection: Connection) -> None:
        revision = enrolment_store.revision(connection)
        if revision != self._revision:
            self._picture, self._revision = picture(enrolment_store.load(connection)), revision
        self._looked_at = self._monotonic()


def signature(found: Picture, authorization: str) -> tuple[Signature, Identity]:
    """Return who signed, by the `Authorization` header of a request.

    Raises:
        EnrolmentError: nobody that is known, with a wrong secret, or one that may not take part.
    """
    scheme, _, given = authorization.partition(" ")
    parts = BEARER.fullmatch(given.strip()) if scheme.lower() == "bearer" else None
    if parts is None:
        hint = (
            "on the server: `fleven-server nodes invite NAME`; or start the car and `fleven-server nodes accept NAME`"
        )
        raise EnrolmentError(
            Refusal.IDENTITY_REQUIRED, "this server accepts reports from enrolled cars only", hint=hint
        )
    car = found.book.identities.get(parts[1])
    if car is None:
        hint = "the server was newly set up, or has forgotten the car: let it join again"
        raise EnrolmentError(Refusal.IDENTITY_UNKNOWN, "the server does not know this car", hint=hint)
    key = key_of(car, parts[2])
    if key is None:
        hint = (
            f"another board has taken its place, or its identity folder is old: `fleven-server nodes invite {car.name}`"
        )
        raise EnrolmentError(Refusal.IDENTITY_WRONG, f"this is not the secret of {car.name}", hint=hint)
    if car.status is not IdentityStatus.ACCEPTED:
        raise refused_status(car)
    return Signature(car.car_id, key.public_key), car


def standing(found: Picture, signed: Signature) -> tuple[Identity, Key]:
    """Return the car of a signature and the key behind it, as they are in a newer picture.

    Raises:
        EnrolmentError: it may not take part any more, or the key was retired.
    """
    car = found.book.identities.get(signed.car_id)
    if car is None:
        raise EnrolmentError(Refusal.IDENTITY_UNKNOWN, "the server does not know this car")
    if car.status is not IdentityStatus.ACCEPTED:
        raise refused_status(car)
    key = next((one for one in car.keys if one.public_key == signed.public_key), None)
    if key is None or key.role is KeyRole.RETIRED:
        raise EnrolmentError(Refusal.IDENTITY_WRONG, f"this is not the secret of {car.name} any more")
    return car, key


def looks_signed(authorization: str) -> bool:
    """Return whether a header claims an identity, and is not a token of the whole fleet."""
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and BEARER.fullmatch(given.strip()) is not None
