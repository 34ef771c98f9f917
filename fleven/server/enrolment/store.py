"""Invitations and identities in the register: read as one book, and changed by one decision in one transaction.

What the decisions are, `decisions` knows. Each change raises a counter by which other processes see that their picture
is old. Must not import FastAPI, typer or a clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from fleven.server.database import Store
from fleven.server.database.tables import facts, identities, identity_keys, invitations, node_events, nodes
from fleven.server.enrolment.model import Book, Change, Identity, Invitation, Key, KeyRole, Kind
from fleven_agent.protocol.identity import IdentityStatus

logger = logging.getLogger("fleven.server.enrolment")
REVISION = "identities-revision"
"""Key of the fact that counts the changes."""
Result = TypeVar("Result")
IDENTITY_FIELDS = tuple(field.name for field in fields(Identity) if field.name != "keys")
LISTS = ("labels", "earlier_boot_ids", "earlier_processes")
WARNING_CODES = frozenset({"revoked", "held", "rejected"})


def revision(connection: Connection) -> int:
    """Return how often the book was changed."""
    found = connection.execute(select(facts.c.value).where(facts.c.key == REVISION)).scalar()
    return int(found or 0)


def load(connection: Connection) -> Book:
    """Return the whole book."""
    keys: dict[str, list[Key]] = {}
    for row in connection.execute(select(identity_keys).order_by(identity_keys.c.id)):
        key = Key(row.public_key, row.secret_sha256, KeyRole(row.role), row.flower_node_id, row.spent)
        keys.setdefault(row.car_id, []).append(key)
    found = {
        row["car_id"]: _identity(dict(row), tuple(keys.get(row["car_id"], ())))
        for row in connection.execute(select(identities)).mappings()
    }
    invited = {row["id"]: _invitation(dict(row)) for row in connection.execute(select(invitations)).mappings()}
    bound = {one.name for one in found.values() if one.bound}
    rows = connection.execute(select(nodes.c.name, nodes.c.partition_id))
    open_partitions = {row.name: row.partition_id for row in rows if row.name not in bound}
    return Book(found, invited, open_partitions)


def write(connection: Connection, change: Change, now: datetime) -> None:
    """Write a change, tell the histories of the cars, and raise the counter."""
    if not change:
        return
    for car_id in change.dropped:
        connection.execute(delete(identities).where(identities.c.car_id == car_id))
    for one in change.identities:
        _write_identity(connection, one)
    for invitation in change.invitations:
        values = {field.name: getattr(invitation, field.name) for field in fields(Invitation)}
        values["labels"] = list(invitation.labels)
        _upsert(connection, invitations, "id", values)
    value = revision(connection) + 1
    _upsert(connection, facts, "key", {"key": REVISION, "value": value, "at": now})
    for name, code, message in change.events:
        key = connection.execute(select(nodes.c.id).where(nodes.c.name == name)).scalar()
        if key is not None:
            severity = "warning" if code in WARNING_CODES else "info"
            event = {"node_id": key, "at": now, "kind": "enrolment", "code": code}
            connection.execute(insert(node_events).values(**event, severity=severity, message=message))


def decide(store: Store, now: datetime, decision: Callable[[Book], tuple[Change, Result]]) -> Result:
    """Let a decision change the book, in one transaction; when this returns, the change is on the disk.

    Raises:
        EnrolmentError: the decision refuses; nothing is changed.
        StoreError: the register cannot be written.
    """
    return decide_and_tell(store, now, decision, lambda _change: None)


def decide_and_tell(
    store: Store, now: datetime, decision: Callable[[Book], tuple[Change, Result]], told: Callable[[Change], None]
) -> Result:
    """Let a decision change the book as `decide` does, and hand on what has changed once it is on the disk."""
    with store.write() as connection:
        change, result = decision(load(connection))
        write(connection, change, now)
    told(change)
    return result


def tell(change: Change) -> None:
    """Write a change's events into the journal."""
    for name, code, message in change.events:
        level = logging.WARNING if code in WARNING_CODES else logging.INFO
        logger.log(level, "event=car-%s node=%s message=%r", code, name, message)


def read(store: Store) -> Book:
    """Return the whole book, read in one view."""
    with store.read() as connection:
        return load(connection)


def drop_invitations(store: Store, ids: tuple[str, ...]) -> None:
    """Forget invitations that ended long ago."""
    if ids:
        with store.write() as connection:
            connection.execute(delete(invitations).where(invitations.c.id.in_(ids)))


def _write_identity(connection: Connection, one: Identity) -> None:
    values: dict[str, Any] = {name: getattr(one, name) for name in IDENTITY_FIELDS}
    values |= {"status": one.status.value, "kind": one.kind.value}
    values |= {name: list(getattr(one, name)) for name in LISTS}
    _upsert(connection, identities, "car_id", values)
    for key in one.keys:
        row = {
            "public_key": key.public_key,
            "car_id": one.car_id,
            "secret_sha256": key.secret_sha256,
            "role": key.role.value,
            "flower_node_id": key.flower_node_id,
            "spent": key.spent,
        }
        _upsert(connection, identity_keys, "public_key", row)


def _upsert(connection: Connection, table: Any, key: str, values: Mapping[str, Any]) -> None:
    statement = sqlite_insert(table).values(**values)
    changed = {name: statement.excluded[name] for name in values if name != key}
    connection.execute(statement.on_conflict_do_update(index_elements=[key], set_=changed))


def _identity(row: Mapping[str, Any], keys: tuple[Key, ...]) -> Identity:
    values = {name: row[name] for name in IDENTITY_FIELDS}
    values |= {"status": IdentityStatus(row["status"]), "kind": Kind(row["kind"])}
    values |= {name: tuple(row[name]) for name in LISTS}
    return Identity(**values, keys=keys)


def _invitation(row: Mapping[str, Any]) -> Invitation:
    values = {field.name: row[field.name] for field in fields(Invitation)}
    return Invitation(**{**values, "labels": tuple(row["labels"])})
