"""The words of a car's identity, and the bytes that prove it: shared by the car, its key process and the server.

The daemon loads this module and not `enrolment`, whose pydantic classes are too large for it. Values travel and are
stored, so they never change once shipped. Imports the standard library only.
"""

import hashlib
import hmac
from collections.abc import Mapping
from enum import StrEnum

ENROLMENT_SCHEMA_VERSION = 1
TRUST_PATH = "/v1/trust"
ENROL_PATH = "/v1/enrol"
ROTATE_PATH = "/v1/rotate"
AUTHORITIES_HEADER = "Fleven-Authorities"
"""Header of a report: what `authorities_text` makes of the certificates in the car's ca.crt."""
SERVER_NAME = "fleven-server"
"""Always among the names of the server's certificate, so that the address by which it is reached does not matter."""
MAXIMUM_SEQUENCE_STEP = 10_000_000
"""A report's number may leap over this many at most: five years of reports. Neither side believes more, so that no
message can move a car's numbers to where nothing can follow."""
SECRET_BYTES = 32
"""Length of a car's secret before base64url."""


class IdentityStatus(StrEnum):
    """What the server thinks of a key that has asked to join."""

    ACCEPTED = "accepted"
    PENDING = "pending"  # an operator decides
    REJECTED = "rejected"  # an operator said no, before it ever was accepted
    REVOKED = "revoked"  # it was accepted, and is no longer; for good
    HELD = "held"  # two boards use it: an operator decides


class Refusal(StrEnum):
    """Why a request to join, to rotate or to report was refused: the `code` of the error answer."""

    INVITATION_UNKNOWN = "invitation-unknown"
    INVITATION_USED = "invitation-used"
    INVITATION_EXPIRED = "invitation-expired"
    PROOF_INVALID = "proof-invalid"
    AUTHORITY_MISMATCH = "authority-mismatch"
    NAME_TAKEN = "name-taken"
    PARTITION_TAKEN = "partition-taken"
    KEY_REFUSED = "key-refused"
    PENDING_FULL = "pending-full"
    RATE_LIMITED = "rate-limited"
    IDENTITY_REQUIRED = "identity-required"
    IDENTITY_UNKNOWN = "identity-unknown"
    IDENTITY_WRONG = "identity-wrong"
    IDENTITY_PENDING = "identity-pending"
    IDENTITY_REJECTED = "identity-rejected"
    IDENTITY_REVOKED = "identity-revoked"
    IDENTITY_HELD = "identity-held"


def secret_digest(secret: str) -> str:
    """Return what is kept of a secret: SHA-256 in hexadecimal digits. The secrets are random, so no salt is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def digest_fits(secret: str, digest: str) -> bool:
    """Return whether a secret belongs to a digest; takes the same time for every wrong one."""
    return hmac.compare_digest(secret_digest(secret).encode(), digest.encode())


def authorities_text(fingerprints: list[str]) -> str:
    """Return the value of `AUTHORITIES_HEADER`.

    Args:
        fingerprints: SHA-256 of each certificate's DER in hexadecimal digits, in the order of the file.
    """
    return ",".join(fingerprints)


def enrol_proof(fields: Mapping[str, object]) -> bytes:
    """Return the bytes that the car's key signs (ECDSA with SHA-256) to join.

    Args:
        fields: the request as it is sent, as JSON values; `proof` is not read.
    """
    invitation = fields.get("invitation")
    invited = invitation["id"] if isinstance(invitation, Mapping) else None
    said = (
        fields["public_key"],
        fields["secret_sha256"],
        invited,
        fields["name"],
        fields.get("partition_id"),
        fields["ca_fingerprint"],
        fields["created_at"],
    )
    return _joined("fleven-enrol-1", said)


def rotate_proof(fields: Mapping[str, object]) -> bytes:
    """Return the bytes that the car's new key signs (ECDSA with SHA-256) to take the place of the old one.

    Args:
        fields: the request as it is sent, as JSON values; `proof` is not read.
    """
    said = (fields["public_key"], fields["secret_sha256"], fields["car_id"], fields["created_at"])
    return _joined("fleven-rotate-1", said)


def _joined(purpose: str, values: tuple[object, ...]) -> bytes:
    return "\n".join([purpose, *("" if value is None else str(value) for value in values)]).encode()
