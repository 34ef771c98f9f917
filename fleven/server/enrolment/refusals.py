"""What the enrolment says to a car, or an operator, that it refuses: a code, a sentence and what to do."""

from __future__ import annotations

from fleven.server.enrolment.model import EnrolmentError, Identity
from fleven_agent.protocol.identity import IdentityStatus, Refusal


def name_taken(name: str) -> EnrolmentError:
    """Return the refusal of a name that another car has."""
    hint = f"on the server: `fleven-server nodes invite {name}` lets a new board take its place; or set node-name"
    return EnrolmentError(Refusal.NAME_TAKEN, f"another car is enrolled as {name}", hint=hint)


def partition_taken(partition_id: int | None, holder: str) -> EnrolmentError:
    """Return the refusal of a partition that another car has."""
    hint = "set another partition-id in node.toml, or leave it out: the server gives the next free one"
    return EnrolmentError(Refusal.PARTITION_TAKEN, f"partition-id {partition_id} belongs to {holder}", hint=hint)


def revoked(name: str) -> EnrolmentError:
    """Return the refusal of a car that an operator has revoked."""
    hint = f"on the server: `fleven-server nodes invite {name}` lets it in again, with a new key"
    return EnrolmentError(Refusal.IDENTITY_REVOKED, f"{name} was revoked; its key is refused for good", hint=hint)


def refused_status(car: Identity) -> EnrolmentError:
    """Return the refusal for a car that is not accepted."""
    if car.status is IdentityStatus.REVOKED:
        return revoked(car.name)
    texts = {
        IdentityStatus.PENDING: (
            Refusal.IDENTITY_PENDING,
            "waits to be accepted",
            f"on the server: `fleven-server nodes accept {car.name}`",
        ),
        IdentityStatus.REJECTED: (
            Refusal.IDENTITY_REJECTED,
            "was rejected by the operator",
            f"on the server: `fleven-server nodes accept {car.name}`",
        ),
        IdentityStatus.HELD: (
            Refusal.IDENTITY_HELD,
            f"is held: {car.reason or 'two boards use its identity'}",
            "on the server: `fleven-server nodes revoke` and `nodes invite`, or `nodes accept` when the copy is off",
        ),
    }
    refusal, text, hint = texts[car.status]
    return EnrolmentError(refusal, f"{car.name} {text}", hint=hint)
