"""The keys of an enrolled car: it is asked for a new one, brings it, uses it, and never uses the old one again.

Decisions as functions of the book, like those of `decisions`, by the same rules. Pure: no clock, no randomness, no SQL.
"""

from __future__ import annotations

from dataclasses import replace

from fleven.server.enrolment.model import Book, Change, EnrolmentError, Identity, Key, KeyRole, Kind
from fleven.server.enrolment.refusals import refused_status
from fleven_agent.protocol.identity import IdentityStatus, Refusal, digest_fits

MAXIMUM_KEYS = 200
"""Of one car, retired ones counted: none is ever forgotten, so that none can come back under another name."""


def ask_rotation(book: Book, car_id: str) -> Change:
    """Note that a car is to bring a new key.

    Raises:
        EnrolmentError: it is not accepted, or no agent looks after it.
    """
    car = book.identities[car_id]
    if car.status is not IdentityStatus.ACCEPTED:
        raise EnrolmentError(Refusal.KEY_REFUSED, f"{car.name} is {car.status}, not accepted")
    if car.kind is Kind.STOCK:
        hint = f"`nodes revoke {car.name}`, then `nodes accept-key` with its new key"
        raise EnrolmentError(Refusal.KEY_REFUSED, f"{car.name} has no agent that could make a new key", hint=hint)
    wanted = replace(car, rotate_wanted=True)
    return Change(identities=(wanted,), events=((car.name, "rotation-asked", "is asked for a new key"),))


def rotate(book: Book, car_id: str, public_key: str, secret_sha256: str) -> tuple[Change, Identity]:
    """Take a car's new key beside its present one; the same request again changes nothing.

    Raises:
        EnrolmentError: the car is not accepted, or the key is known.
    """
    car = book.identities[car_id]
    if car.status is not IdentityStatus.ACCEPTED:
        raise refused_status(car)
    known = book.by_key(public_key)
    if known is not None:
        same = next((key for key in car.keys if key.public_key == public_key), None)
        if same is not None and same.secret_sha256 == secret_sha256 and same.role is not KeyRole.RETIRED:
            return Change(), car
        raise EnrolmentError(Refusal.KEY_REFUSED, "this key was used before; make a new one")
    if len(car.keys) >= MAXIMUM_KEYS:
        hint = f"on the server: `fleven-server nodes revoke {car.name}`, then `nodes invite {car.name}`"
        raise EnrolmentError(Refusal.KEY_REFUSED, f"{car.name} has had {MAXIMUM_KEYS} keys", hint=hint)
    brought = tuple(replace(key, role=KeyRole.RETIRED) if key.role is KeyRole.NEXT else key for key in car.keys)
    changed = replace(car, keys=(*brought, Key(public_key, secret_sha256, KeyRole.NEXT)))
    return Change(identities=(changed,), events=((car.name, "key-brought", "has brought a new key"),)), changed


def changes_key(car: Identity) -> bool:
    """Return whether a car is to bring a new key, or has brought one and does not use it yet."""
    return car.status is IdentityStatus.ACCEPTED and (car.rotate_wanted or car.key(KeyRole.NEXT) is not None)


def asks_for_key(car: Identity, *, run_under_way: bool) -> bool:
    """Return whether a car is to be asked for its new key now.

    A run names its cars by Flower's ids, which hang on their keys: one that changes its key leaves the run. So the wish
    waits for the run's end, unless Flower does not take the present key any more.

    Args:
        car: that is heard.
        run_under_way: a run occupies the SuperLink.
    """
    if not car.rotate_wanted or car.key(KeyRole.NEXT) is not None:
        return False
    return not run_under_way or car.current.spent


def promote(car: Identity) -> Change:
    """Let a car's next key take over, since the car has used its secret; the one before is retired."""
    following = car.key(KeyRole.NEXT)
    if following is None:
        return Change()
    roles = {KeyRole.CURRENT: KeyRole.RETIRED, KeyRole.NEXT: KeyRole.CURRENT}
    keys = tuple(replace(key, role=roles.get(key.role, key.role)) for key in car.keys)
    changed = replace(car, keys=keys, rotate_wanted=False)
    return Change(identities=(changed,), events=((car.name, "key-changed", "its new key has taken over"),))


def key_of(car: Identity, secret: str) -> Key | None:
    """Return the key whose secret was given, of those that may still be used; every one is compared."""
    found = None
    for key in car.keys:
        if digest_fits(secret, key.secret_sha256) and key.role is not KeyRole.RETIRED:
            found = key
    return found
