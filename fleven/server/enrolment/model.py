"""Plain values about invitations, keys and identities: what the decisions are made from and what the store keeps.

Frozen, without behaviour that touches the world. Enum values are stored: they never change once shipped. Must not
import SQLAlchemy, FastAPI, typer or anything that reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from fleven.server.errors import ServerError
from fleven_agent.protocol.identity import IdentityStatus, Refusal


class KeyRole(StrEnum):
    """What a key is to its car."""

    CURRENT = "current"
    NEXT = "next"  # brought by a rotation; takes over with its first report
    RETIRED = "retired"  # was one of the two; never again


class Kind(StrEnum):
    """Who looks after the SuperNode behind a key."""

    AGENT = "agent"
    STOCK = "stock"  # a plain flower-supernode: it sends no reports


@dataclass(frozen=True, slots=True)
class Key:
    """One key pair of a car, known by its public half.

    Attributes:
        public_key: OpenSSH line without a comment; no other car ever has the same.
        secret_sha256: digest of the secret that signs the car's reports while this is its key; "" for a stock node.
        role: what it is to its car.
        flower_node_id: Flower's id of it; None until it was registered there.
        spent: it was registered at Flower and taken away again: Flower refuses it for ever.
    """

    public_key: str
    secret_sha256: str
    role: KeyRole = KeyRole.CURRENT
    flower_node_id: str | None = None
    spent: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """One car: what its enrolment binds together.

    Attributes:
        car_id: sixteen hexadecimal digits, for ever its own.
        status: whether it may take part.
        name: its name in the fleet; while pending or rejected, the name that it wishes for.
        partition_id: its partition; while pending or rejected, the one that it wishes for, or None.
        num_partitions: as it was configured on the car, or None.
        labels: that an invitation gave it.
        keys: the newest last; at most one is current and one next.
        kind: who looks after it.
        reason: why it is held, revoked or rejected, for people.
        boot_id: the boot from which its newest report came.
        earlier_boot_ids: those that were superseded, the newest last.
        process: the agent's process that sent its newest report; "" when that does not say.
        process_since: since when that one sends, or None.
        earlier_processes: those that were superseded, the newest last.
        rotate_wanted: it is to bring a new key.
        invitation_id: by which it joined, or None.
        asked_from: address from which it asked to join.
        created_at: when it first asked.
        asked_at: when it last asked.
        decided_at: when its status last changed.
        board_model: what it says it is.
        agent_version: of its fleven-agent.
    """

    car_id: str
    status: IdentityStatus
    name: str
    partition_id: int | None
    keys: tuple[Key, ...]
    created_at: datetime
    asked_at: datetime
    decided_at: datetime
    num_partitions: int | None = None
    labels: tuple[str, ...] = ()
    kind: Kind = Kind.AGENT
    reason: str = ""
    boot_id: str = ""
    earlier_boot_ids: tuple[str, ...] = ()
    process: str = ""
    process_since: datetime | None = None
    earlier_processes: tuple[str, ...] = ()
    rotate_wanted: bool = False
    invitation_id: str | None = None
    asked_from: str = ""
    board_model: str = ""
    agent_version: str = ""

    @property
    def bound(self) -> bool:
        """Whether name and partition are its own, so that nobody else may have them."""
        return self.status in (IdentityStatus.ACCEPTED, IdentityStatus.HELD)

    def key(self, role: KeyRole) -> Key | None:
        """Return its current or next key."""
        return next((key for key in self.keys if key.role is role), None)

    @property
    def current(self) -> Key:
        """Its current key, or the last that it had."""
        return self.key(KeyRole.CURRENT) or self.keys[-1]

    def with_key(self, changed: Key) -> Identity:
        """Return it with one key replaced, or added at the end."""
        if any(key.public_key == changed.public_key for key in self.keys):
            keys = tuple(changed if key.public_key == changed.public_key else key for key in self.keys)
        else:
            keys = (*self.keys, changed)
        return replace(self, keys=keys)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who sends a batch of reports.

    Attributes:
        boot_id: the boot of its board.
        process: the agent's process, by a random word of its own; "" from an agent that has none.
    """

    boot_id: str = ""
    process: str = ""


@dataclass(frozen=True, slots=True)
class Invitation:
    """A one-time permission to join, known by the digest of its secret.

    Attributes:
        id: eight hexadecimal digits.
        secret_sha256: digest of the secret of the join code.
        name: what the car will be called, or None: what it wishes.
        partition_id: its partition, or None: what it wishes, else the next free one.
        labels: that it gets.
        created_at: when it was made.
        expires_at: until when it can be used.
        used_at: when it was used.
        used_by: the car that used it.
    """

    id: str
    secret_sha256: str
    name: str | None
    partition_id: int | None
    labels: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    used_by: str | None = None


class EnrolmentError(ServerError):
    """A request that the enrolment refuses; its code is a `Refusal`, and nothing was changed.

    Args:
        refusal: why.
        message: one line for people.
        hint: what to do.
    """

    def __init__(self, refusal: Refusal, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=refusal.value)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Book:
    """All that is known of invitations and identities, and what else of the fleet stands in the way of a new car.

    Attributes:
        identities: by car id.
        invitations: by id.
        open_partitions: partition-ids by the names of the cars that report without an identity.
    """

    identities: Mapping[str, Identity] = field(default_factory=dict)
    invitations: Mapping[str, Invitation] = field(default_factory=dict)
    open_partitions: Mapping[str, int] = field(default_factory=dict)

    def by_key(self, public_key: str) -> Identity | None:
        """Return the car that has or had a key."""
        return next(
            (one for one in self.identities.values() if any(key.public_key == public_key for key in one.keys)), None
        )

    def named(self, name: str) -> Identity | None:
        """Return the enrolled car of a name."""
        return next((one for one in self.identities.values() if one.bound and one.name == name), None)

    def holder(self, partition_id: int) -> Identity | None:
        """Return the enrolled car of a partition."""
        return next((one for one in self.identities.values() if one.bound and one.partition_id == partition_id), None)

    def with_(self, *, identities: Iterable[Identity] = (), invitations: Iterable[Invitation] = ()) -> Book:
        """Return it with some entries added or replaced."""
        return replace(
            self,
            identities={**self.identities, **{one.car_id: one for one in identities}},
            invitations={**self.invitations, **{one.id: one for one in invitations}},
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What a decision changes in the book.

    Attributes:
        identities: new or replaced ones.
        invitations: new or replaced ones.
        dropped: car ids that are forgotten.
        events: (car's name, code, sentence) for journal and history.
    """

    identities: tuple[Identity, ...] = ()
    invitations: tuple[Invitation, ...] = ()
    dropped: tuple[str, ...] = ()
    events: tuple[tuple[str, str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.identities or self.invitations or self.dropped)

    def applied(self, book: Book) -> Book:
        """Return the book after the change."""
        kept = {car_id: one for car_id, one in book.identities.items() if car_id not in self.dropped}
        return replace(book, identities=kept).with_(identities=self.identities, invitations=self.invitations)
