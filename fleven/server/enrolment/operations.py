"""What an operator does about identities: commands now, the page later. Finds the car that is meant, decides, writes.

Must not import typer or FastAPI, print, or read a clock.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fleven.server.config.paths import Paths
from fleven.server.config.settings import EVERY_ADDRESS, ServerConfig, split_address
from fleven.server.database import Store
from fleven.server.enrolment import decisions, keys, rotation
from fleven.server.enrolment.authority import authority_files
from fleven.server.enrolment.model import Book, Change, Identity, Invitation, Kind
from fleven.server.enrolment.store import decide, read
from fleven.server.errors import NotFoundError, UsageError
from fleven.server.formatting import clean_name, clean_text
from fleven.server.trust.files import authority, trust_files
from fleven.server.trust.names import machine_names
from fleven_agent.common import addresses
from fleven_agent.protocol.identity import IdentityStatus, secret_digest
from fleven_agent.protocol.join_code import MAXIMUM_ADDRESSES, JoinCode, encode

MAXIMUM_INVITATIONS = 1_000
"""Made by one command."""
LONGEST_INVITATION = timedelta(days=90)
INVITATION_SECRET_BYTES = 16
_NUMBERED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True, slots=True)
class Invited:
    """One line to hand to a car.

    Attributes:
        name: what the car will be called.
        partition_id: its partition, or None: what is configured on it, else the next free one.
        expires_at: until when the line can be used.
        code: the join code.
        replaces: whether an enrolled car has the name, whose place the new board takes.
    """

    name: str
    partition_id: int | None
    expires_at: datetime
    code: str
    replaces: bool

    @property
    def command(self) -> str:
        """The line to paste on the car."""
        return f"fleven-agent join {self.code}"


@dataclass(frozen=True, slots=True)
class Operations:
    """The operator's hand.

    Attributes:
        store: the register.
        config: server.toml.
        paths: the server's folders.
    """

    store: Store
    config: ServerConfig
    paths: Paths

    def invite(
        self,
        name: str,
        now: datetime,
        *,
        partition_id: int | None = None,
        labels: Iterable[str] = (),
        lasts: timedelta = timedelta(hours=24),
        count: int = 1,
        reached_at: Sequence[str] = (),
    ) -> list[Invited]:
        """Make invitations, of which only the digests of the secrets are kept.

        Args:
            name: what the car will be called; of several, the first: they count on from its number.
            now: the moment.
            partition_id: of the first; the others follow. None leaves it to the cars, or takes the next free ones.
            labels: that the cars get.
            lasts: how long they can be used.
            count: how many.
            reached_at: HOST or HOST:PORT by which cars reach this server; none: the machine's names and addresses.

        Raises:
            UsageError: a value cannot be used.
            EnrolmentError: a partition belongs to another car.
        """
        if not timedelta(0) < lasts <= LONGEST_INVITATION:
            raise UsageError("an invitation lasts between a second and 90 days", hint="--expires 24h")
        where = self.addresses(reached_at)
        fingerprint = authority(self.config, self.paths, now).fingerprint
        made: list[tuple[Invitation, str]] = []
        for index, each in enumerate(numbered(name, count)):
            secret = secrets.token_urlsafe(INVITATION_SECRET_BYTES)
            own = None if partition_id is None else partition_id + index
            invitation = Invitation(
                secrets.token_hex(4), secret_digest(secret), each, own, tuple(sorted(labels)), now, now + lasts
            )
            made.append((invitation, secret))

        def decision(book: Book) -> tuple[Change, set[str]]:
            changes = Change()
            before = {one.name for one in book.identities.values() if one.bound}
            for invitation, _ in made:
                change = decisions.invite(book, invitation)
                book = change.applied(book)
                changes = Change(
                    invitations=(*changes.invitations, *change.invitations), events=(*changes.events, *change.events)
                )
            return changes, before

        enrolled = decide(self.store, now, decision)
        return [
            Invited(
                invitation.name or "",
                invitation.partition_id,
                invitation.expires_at,
                encode(JoinCode(where, fingerprint, invitation.id, secret)),
                invitation.name in enrolled,
            )
            for invitation, secret in made
        ]

    def addresses(self, reached_at: Sequence[str] = ()) -> tuple[str, ...]:
        """Return HOST:PORT of the web port, in the order in which a car tries them.

        Args:
            reached_at: HOST or HOST:PORT that the operator names.

        Raises:
            UsageError: one of them is none.
        """
        host, port = split_address(self.config.web.address)
        if reached_at:
            return tuple(_with_port(text, port) for text in reached_at)
        if host not in EVERY_ADDRESS:
            return (addresses.join(host, port),)
        hosts = machine_names().reachable(trust_files(self.paths).given_names())
        return tuple(addresses.join(one, port) for one in hosts[:MAXIMUM_ADDRESSES])

    def accept(self, wanted: str, now: datetime, *, name: str = "", partition_id: int | None = None) -> Identity:
        """Let a waiting, rejected or held car in.

        Args:
            wanted: its name, car id or key fingerprint.
            now: the moment.
            name: another name than it wishes.
            partition_id: another partition than it wishes.

        Raises:
            NotFoundError: there is none.
            UsageError: several wait under this name.
            EnrolmentError: name or partition is taken.
        """
        name = "" if not name else checked_name(name)

        def decision(book: Book, car: Identity) -> Change:
            return decisions.accept(book, car.car_id, now, name=name, partition_id=partition_id)

        waits = (IdentityStatus.PENDING, IdentityStatus.HELD, IdentityStatus.REJECTED, IdentityStatus.ACCEPTED)
        return self._act(wanted, waits, decision, now)

    def accept_all(self, now: datetime) -> list[Identity]:
        """Let every waiting car in.

        Raises:
            EnrolmentError: two of them cannot be in together; nothing was changed.
        """

        def decision(book: Book) -> tuple[Change, list[Identity]]:
            done = Change()
            waiting = [one for one in book.identities.values() if one.status is IdentityStatus.PENDING]
            # Those that bring a partition come first: the next free one is for the others.
            for car in sorted(waiting, key=lambda one: (one.partition_id is None, one.created_at)):
                change = decisions.accept(book, car.car_id, now)
                book = change.applied(book)
                done = Change(identities=(*done.identities, *change.identities), events=(*done.events, *change.events))
            return done, list(done.identities)

        return decide(self.store, now, decision)

    def reject(self, wanted: str, reason: str, now: datetime) -> Identity:
        """Refuse a waiting car.

        Raises:
            NotFoundError: there is none.
            UsageError: several wait under this name.
            EnrolmentError: it was accepted already.
        """
        reason = clean_text(reason, 500)
        waits = (IdentityStatus.PENDING, IdentityStatus.REJECTED, IdentityStatus.ACCEPTED, IdentityStatus.HELD)
        return self._act(wanted, waits, lambda book, car: decisions.reject(book, car.car_id, reason, now), now)

    def revoke(self, wanted: str, reason: str, now: datetime) -> Identity:
        """End a car's membership for good.

        Raises:
            NotFoundError: there is none.
        """
        reason = clean_text(reason, 500)
        members = (IdentityStatus.ACCEPTED, IdentityStatus.HELD, IdentityStatus.REVOKED)
        return self._act(wanted, members, lambda book, car: decisions.revoke(book, car.car_id, reason, now), now)

    def rotate(self, wanted: str, now: datetime) -> Identity:
        """Ask a car for a new key.

        Raises:
            NotFoundError: there is none.
            EnrolmentError: it cannot bring one.
        """
        members = (IdentityStatus.ACCEPTED, IdentityStatus.HELD, IdentityStatus.REVOKED)
        return self._act(wanted, members, lambda book, car: rotation.ask_rotation(book, car.car_id), now)

    def accept_key(self, public_key: str, name: str, partition_id: int | None, now: datetime) -> Identity:
        """Let a plain flower-supernode in by its public key.

        Raises:
            UsageError: the name cannot be used.
            EnrolmentError: the key is known, or name or partition is taken.
        """
        new_id = secrets.token_hex(8)
        name = checked_name(name)

        def decision(book: Book) -> tuple[Change, Identity]:
            change = decisions.accept_stock(book, new_id, public_key, name, partition_id, now)
            return change, change.identities[0]

        return decide(self.store, now, decision)

    def waiting(self) -> list[Identity]:
        """Return the cars that an operator has to decide about, the longest waiting first."""
        undecided = (IdentityStatus.PENDING, IdentityStatus.HELD)
        found = [one for one in read(self.store).identities.values() if one.status in undecided]
        return sorted(found, key=lambda one: (one.decided_at, one.name))

    def authority_fingerprints(self) -> tuple[str, ...]:
        """Return the fingerprints of the authorities that cars are told to believe."""
        return authority_files(self.config, self.paths).read().fingerprints

    def _act(
        self,
        wanted: str,
        statuses: Sequence[IdentityStatus],
        decision: Callable[[Book, Identity], Change],
        now: datetime,
    ) -> Identity:
        def decided(book: Book) -> tuple[Change, Identity]:
            car = chosen(book, wanted, statuses)
            change = decision(book, car)
            return change, change.applied(book).identities[car.car_id]

        return decide(self.store, now, decided)


def chosen(book: Book, wanted: str, statuses: Sequence[IdentityStatus]) -> Identity:
    """Return the car that an operator means.

    Args:
        book: what is known.
        wanted: its name, its car id, or its key's fingerprint or the beginning of that.
        statuses: in the order in which a name is looked for.

    Raises:
        NotFoundError: there is none.
        UsageError: there are several.
    """
    exact = book.identities.get(wanted)
    if exact is not None:
        return exact
    if wanted.startswith("SHA256:") and len(wanted) >= len("SHA256:") + 6:
        found = [
            one
            for one in book.identities.values()
            if any(keys.fingerprint(key.public_key).startswith(wanted) for key in one.keys)
        ]
        if len(found) == 1:
            return found[0]
    for status in statuses:
        named = [one for one in book.identities.values() if one.status is status and one.name == wanted]
        if len(named) == 1:
            return named[0]
        if named and status is not IdentityStatus.PENDING:
            # Of those that ended long ago, the newest is meant.
            return max(named, key=lambda one: one.decided_at)
        if named:
            prints = tuple(f"{keys.fingerprint(one.current.public_key)} from {one.asked_from}" for one in named)
            raise UsageError(
                f"{len(named)} cars wait as {wanted}",
                hint="compare with what `fleven-agent status` shows on the car, and give the fingerprint for the name",
                problems=prints,
            )
    names = sorted({one.name for one in book.identities.values() if one.status in statuses})
    hint = f"there are: {', '.join(names[:8])}" if names else "`fleven-server nodes pending` shows who waits"
    raise NotFoundError(f"no car is enrolled or waits as {clean_text(wanted, 64)}", hint=hint, code="node-unknown")


def checked_name(name: str) -> str:
    """Return a name that a car can have.

    Raises:
        UsageError: it would have to be written otherwise.
    """
    if clean_name(name) != name:
        raise UsageError(
            f"{clean_text(name, 64)!r} cannot be a car's name",
            hint="letters, digits and . _ - , at most 64 characters, for example car-3",
        )
    return name


def numbered(name: str, count: int) -> list[str]:
    """Return names that count on from the number at the end of the first; from 0 where it has none.

    Raises:
        UsageError: too many, or a name that cannot be used.
    """
    if not 1 <= count <= MAXIMUM_INVITATIONS:
        raise UsageError(f"between 1 and {MAXIMUM_INVITATIONS} cars can be invited at once")
    if count == 1:
        return [checked_name(name)]
    match = _NUMBERED.fullmatch(name)
    stem, first = (match[1], int(match[2])) if match else (f"{name}-", 0)
    width = len(match[2]) if match and match[2].startswith("0") else 1
    return [checked_name(f"{stem}{first + index:0{width}d}") for index in range(count)]


def _with_port(text: str, port: int) -> str:
    try:
        if text.count(":") > 1 and not text.startswith("["):
            return addresses.join(str(ipaddress.ip_address(text)), port)
        host, _, own = text.rpartition(":")
        found = text if host and own.isdigit() else addresses.join(text.strip("[]"), port)
        addresses.split(found)
    except ValueError as error:
        raise UsageError(f"--address {clean_text(text, 100)}: {error}") from None
    return found


def origin(car: Identity) -> str:
    """Return in a word who looks after a car."""
    return "stock" if car.kind is Kind.STOCK else "enrolled"
