"""Who joins, who waits, who goes: every decision about invitations and identities, as functions of the book.

Each takes the book and the moment, and returns what changes in it; the store writes that in one transaction, so that a
crash leaves either all of it or nothing, and the same request again finds what the first one did. The rules that hold
whatever the order: a key belongs to one car for ever; a name and a partition belong to one enrolled car at a time; a
revoked car never comes back by itself. Pure: no clock, no randomness, no SQL; random numbers are handed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from fleven.server.enrolment.model import Book, Change, EnrolmentError, Identity, Invitation, Key, KeyRole, Kind
from fleven.server.enrolment.refusals import name_taken, partition_taken, revoked
from fleven_agent.protocol.identity import IdentityStatus, Refusal, digest_fits

MAXIMUM_PENDING = 200
MAXIMUM_PENDING_FROM_ONE_ADDRESS = 20
MAXIMUM_REJECTED = 200
ASKED_EVERY = timedelta(seconds=60)
"""A question of a waiting car is written down this often: it asks every few seconds, and nothing else has changed."""
PENDING_LASTS = timedelta(hours=24)
"""A car that waits asks every few seconds: one that has not asked for so long is gone."""
REJECTED_LASTS = timedelta(days=30)
INVITATION_KEPT = timedelta(days=7)
"""After its end, so that whoever comes late is told that it has expired or was used."""
LARGEST_PARTITION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Wish:
    """A request to join whose proof was found good.

    Attributes:
        public_key: OpenSSH line without a comment.
        secret_sha256: digest of the secret of the car's reports.
        name: cleaned.
        partition_id: that is configured on the car, or None.
        num_partitions: likewise.
        invitation: (id, secret) of a join code, or None.
        asked_from: the car's address.
        boot_id: of the car.
        board_model: cleaned.
        agent_version: cleaned.
    """

    public_key: str
    secret_sha256: str
    name: str
    partition_id: int | None = None
    num_partitions: int | None = None
    invitation: tuple[str, str] | None = None
    asked_from: str = ""
    boot_id: str = ""
    board_model: str = ""
    agent_version: str = ""


# Joining


def join(book: Book, wish: Wish, now: datetime, new_car_id: str) -> tuple[Change, Identity]:
    """Answer a request to join: a new one, a repeated one, or a waiting car's question.

    Args:
        book: what is known.
        wish: what the car says.
        now: the moment.
        new_car_id: for a car that was never seen.

    Returns:
        What changes, and the car as it then is.

    Raises:
        EnrolmentError: it is refused.
    """
    known = book.by_key(wish.public_key)
    if known is None:
        invitation = None if wish.invitation is None else _usable(book, wish.invitation, now)
        made = Identity(
            car_id=new_car_id,
            status=IdentityStatus.PENDING,
            name=wish.name,
            partition_id=wish.partition_id,
            num_partitions=wish.num_partitions,
            keys=(Key(wish.public_key, wish.secret_sha256),),
            created_at=now,
            asked_at=now,
            decided_at=now,
            asked_from=wish.asked_from,
            boot_id=wish.boot_id,
            board_model=wish.board_model,
            agent_version=wish.agent_version,
        )
        return _wait(book, made, now) if invitation is None else _invited(book, made, invitation, now)
    key = next(key for key in known.keys if key.public_key == wish.public_key)
    if key.secret_sha256 != wish.secret_sha256 or key.role is KeyRole.RETIRED:
        hint = "remove the car's identity folder, so that it makes a new key, and let it join again"
        raise EnrolmentError(Refusal.KEY_REFUSED, "this key has asked before, with another secret", hint=hint)
    if known.status is IdentityStatus.REVOKED:
        raise revoked(known.name)
    asked = replace(
        known, asked_at=now, asked_from=wish.asked_from, board_model=wish.board_model, agent_version=wish.agent_version
    )
    if known.status in (IdentityStatus.PENDING, IdentityStatus.REJECTED) and wish.invitation is not None:
        return _invited(book, asked, _usable(book, wish.invitation, now), now)
    if known.status is IdentityStatus.PENDING:
        wished = replace(asked, name=wish.name, partition_id=wish.partition_id, num_partitions=wish.num_partitions)
        _check_free(book, wished)
        same = replace(wished, asked_at=known.asked_at) == known and abs(now - known.asked_at) < ASKED_EVERY
        return (Change() if same else Change(identities=(wished,))), wished
    if known.status is IdentityStatus.REJECTED:
        return Change(identities=(asked,)), asked
    # An accepted car asks again when it never heard the answer, and a held one whether it still is.
    return Change(), known


def _wait(book: Book, made: Identity, now: datetime) -> tuple[Change, Identity]:
    """Let an uninvited car wait for an operator, within the bounds."""
    _check_free(book, made)
    waiting = [one for one in book.identities.values() if one.status is IdentityStatus.PENDING]
    fresh = [one for one in waiting if not _too_old(one, now)]
    from_there = sum(one.asked_from == made.asked_from for one in fresh)
    if len(fresh) >= MAXIMUM_PENDING or from_there >= MAXIMUM_PENDING_FROM_ONE_ADDRESS:
        where = f"{from_there} of them from {made.asked_from}" if from_there else "its maximum"
        hint = "on the server: `fleven-server nodes pending`, then accept or reject; or use `nodes invite`"
        raise EnrolmentError(Refusal.PENDING_FULL, f"{len(fresh)} cars wait to be accepted, {where}", hint=hint)
    event = (made.name, "pending", f"asks to join from {made.asked_from or 'an unknown address'}")
    return Change(identities=(made,), events=(event,)), made


def _usable(book: Book, claim: tuple[str, str], now: datetime) -> Invitation:
    """Return the invitation that a join code proves.

    Raises:
        EnrolmentError: there is none, it was used, or its time is over.
    """
    invitation_id, secret = claim
    invitation = book.invitations.get(invitation_id)
    again = "on the server: `fleven-server nodes invite NAME` prints a new line"
    # The digest is compared even where there is nothing to compare with: both refusals take the same time.
    fits = digest_fits(secret, "" if invitation is None else invitation.secret_sha256)
    if invitation is None or not fits:
        raise EnrolmentError(Refusal.INVITATION_UNKNOWN, "the server does not know this invitation", hint=again)
    if invitation.used_at is not None:
        raise EnrolmentError(Refusal.INVITATION_USED, "this invitation was used already", hint=again)
    if not invitation.created_at - timedelta(days=1) <= now < invitation.expires_at:
        text = f"this invitation was valid until {invitation.expires_at:%Y-%m-%d %H:%M}Z"
        raise EnrolmentError(Refusal.INVITATION_EXPIRED, text, hint=again)
    return invitation


def _invited(book: Book, car: Identity, invitation: Invitation, now: datetime) -> tuple[Change, Identity]:
    """Let an invited car in; whoever bore the name of the invitation before is revoked in the same step."""
    name = invitation.name or car.name
    before = book.named(name)
    if before is not None and invitation.name is None:
        raise name_taken(name)
    ended = () if before is None else (_ended(before, "its name was given to another board by an invitation", now),)
    rest = book.with_(identities=ended)
    partition_id = invitation.partition_id if invitation.partition_id is not None else car.partition_id
    if partition_id is None and before is not None:
        partition_id = before.partition_id
    if partition_id is None:
        partition_id = free_partition(rest, name, keep=invitation.id)
    labels = invitation.labels or (before.labels if before is not None else ())
    accepted = replace(
        car,
        status=IdentityStatus.ACCEPTED,
        name=name,
        partition_id=partition_id,
        labels=labels,
        reason="",
        invitation_id=invitation.id,
        decided_at=now,
    )
    _check_free(rest, accepted)
    used = replace(invitation, used_at=now, used_by=car.car_id)
    text = f"joined by invitation {invitation.id}, partition-id {partition_id}"
    events = [*((one.name, "revoked", one.reason) for one in ended), (name, "enrolled", text)]
    return Change(identities=(*ended, accepted), invitations=(used,), events=tuple(events)), accepted


def _check_free(book: Book, car: Identity) -> None:
    """Refuse a name or a partition that belongs to another enrolled car."""
    namesake = book.named(car.name)
    if namesake is not None and namesake.car_id != car.car_id:
        raise name_taken(car.name)
    holder = None if car.partition_id is None else book.holder(car.partition_id)
    if holder is not None and holder.car_id != car.car_id:
        raise partition_taken(car.partition_id, holder.name)


def free_partition(book: Book, name: str, *, keep: str = "") -> int:
    """Return the partition-id for a car that brings none: that of its reports without identity, else the lowest free.

    Args:
        book: what is known.
        name: the car's name.
        keep: id of the invitation that it comes with; the partitions of others are kept for them.

    Raises:
        EnrolmentError: none is left.
    """
    taken = {one.partition_id for one in book.identities.values() if one.bound}
    promised = {one.partition_id for one in book.invitations.values() if one.used_at is None and one.id != keep}
    own = book.open_partitions.get(name)
    if own is not None and own not in taken:
        return own
    taken |= promised | set(book.open_partitions.values())
    number = 0
    while number in taken:
        number += 1
    if number > LARGEST_PARTITION:
        raise EnrolmentError(Refusal.PARTITION_TAKEN, "no partition-id is free")
    return number


# What an operator decides


def invite(book: Book, made: Invitation) -> Change:
    """Add an invitation.

    Raises:
        EnrolmentError: its partition belongs to another car, or is promised to one.
    """
    if made.partition_id is not None:
        holder = book.holder(made.partition_id)
        if holder is not None and holder.name != made.name:
            raise partition_taken(made.partition_id, holder.name)
        for other in book.invitations.values():
            if (
                other.partition_id == made.partition_id
                and other.used_at is None
                and made.created_at < other.expires_at
                and other.name != made.name
            ):
                raise partition_taken(made.partition_id, f"invitation {other.id} for {other.name or 'any car'}")
    # A newer invitation for a name takes the place of an older one: a lost line cannot be used after it.
    replaced = tuple(
        replace(one, expires_at=made.created_at)
        for one in book.invitations.values()
        if made.name is not None and one.name == made.name and one.used_at is None and made.created_at < one.expires_at
    )
    text = f"invited until {made.expires_at:%Y-%m-%d %H:%M}Z"
    return Change(invitations=(*replaced, made), events=((made.name or made.id, "invited", text),))


def accept(book: Book, car_id: str, now: datetime, *, name: str = "", partition_id: int | None = None) -> Change:
    """Let a waiting or rejected car in, or release a held one.

    Args:
        book: what is known.
        car_id: the car.
        now: the moment.
        name: another name than it wishes.
        partition_id: another partition than it wishes.

    Raises:
        EnrolmentError: it is revoked, or its name or partition is taken.
    """
    car = book.identities[car_id]
    if car.status is IdentityStatus.REVOKED:
        raise revoked(car.name)
    if car.status is IdentityStatus.ACCEPTED:
        return Change()
    if car.status is IdentityStatus.HELD:
        # Two boards had its key, and Flower never takes a key again that it has taken away.
        released = replace(
            car,
            status=IdentityStatus.ACCEPTED,
            reason="",
            decided_at=now,
            rotate_wanted=True,
            earlier_boot_ids=(),
            earlier_processes=(),
        )
        return Change(identities=(released,), events=((car.name, "released", "is let in again, with a new key"),))
    name = name or car.name
    wished = partition_id if partition_id is not None else car.partition_id
    if wished is None:
        wished = free_partition(book, name)
    accepted = replace(car, status=IdentityStatus.ACCEPTED, name=name, partition_id=wished, reason="", decided_at=now)
    _check_free(book, accepted)
    return Change(identities=(accepted,), events=((name, "enrolled", f"accepted, partition-id {wished}"),))


def reject(book: Book, car_id: str, reason: str, now: datetime) -> Change:
    """Refuse a waiting car; it may be accepted later.

    Raises:
        EnrolmentError: it was let in already.
    """
    car = book.identities[car_id]
    if car.status is IdentityStatus.REVOKED:
        raise revoked(car.name)
    if car.bound:
        hint = f"on the server: `fleven-server nodes revoke {car.name}`"
        raise EnrolmentError(Refusal.KEY_REFUSED, f"{car.name} was accepted already", hint=hint)
    rejected = replace(car, status=IdentityStatus.REJECTED, reason=reason, decided_at=now)
    others = sorted(
        (one for one in book.identities.values() if one.status is IdentityStatus.REJECTED and one.car_id != car_id),
        key=lambda one: one.decided_at,
    )
    dropped = tuple(one.car_id for one in others[: max(0, len(others) - MAXIMUM_REJECTED + 1)])
    return Change(identities=(rejected,), dropped=dropped, events=((car.name, "rejected", reason),))


def revoke(book: Book, car_id: str, reason: str, now: datetime) -> Change:
    """End a car's membership for good; its keys are remembered, so that none of them ever joins again."""
    car = book.identities[car_id]
    if car.status is IdentityStatus.REVOKED:
        return Change()
    ended = _ended(car, reason, now)
    return Change(identities=(ended,), events=((car.name, "revoked", reason or "revoked by the operator"),))


def _ended(car: Identity, reason: str, now: datetime) -> Identity:
    return replace(car, status=IdentityStatus.REVOKED, reason=reason, decided_at=now, rotate_wanted=False)


def hold(car: Identity, reason: str, now: datetime) -> Change:
    """Keep an accepted car out until an operator has looked."""
    if car.status is not IdentityStatus.ACCEPTED:
        return Change()
    held = replace(car, status=IdentityStatus.HELD, reason=reason, decided_at=now)
    return Change(identities=(held,), events=((car.name, "held", reason),))


def accept_stock(
    book: Book, car_id: str, public_key: str, name: str, partition_id: int | None, now: datetime
) -> Change:
    """Let a plain flower-supernode in by its key.

    Raises:
        EnrolmentError: the key is known already, or name or partition is taken.
    """
    known = book.by_key(public_key)
    if known is not None:
        if known.status is IdentityStatus.REVOKED:
            raise revoked(known.name)
        raise EnrolmentError(Refusal.KEY_REFUSED, f"this key is that of {known.name} ({known.status})")
    made = Identity(
        car_id=car_id,
        status=IdentityStatus.ACCEPTED,
        name=name,
        partition_id=partition_id if partition_id is not None else free_partition(book, name),
        keys=(Key(public_key, ""),),
        created_at=now,
        asked_at=now,
        decided_at=now,
        kind=Kind.STOCK,
    )
    _check_free(book, made)
    text = f"its key was accepted, partition-id {made.partition_id}"
    return Change(identities=(made,), events=((name, "enrolled", text),))


# Ageing


def _too_old(one: Identity, now: datetime) -> bool:
    limit = {IdentityStatus.PENDING: PENDING_LASTS, IdentityStatus.REJECTED: REJECTED_LASTS}.get(one.status)
    return limit is not None and abs(now - one.asked_at) > limit


def age(book: Book, now: datetime) -> Change:
    """Forget cars that wait no longer, old refusals, and invitations that ended long ago."""
    dropped = tuple(one.car_id for one in book.identities.values() if _too_old(one, now))
    return Change(dropped=dropped)


def ended_invitations(book: Book, now: datetime) -> tuple[str, ...]:
    """Return the ids of invitations that ended so long ago that nobody needs to be told."""
    return tuple(one.id for one in book.invitations.values() if now - one.expires_at > INVITATION_KEPT)
