"""How a car joins: requests and answers of `/v1/trust`, `/v1/enrol` and `/v1/rotate`.

The server imports it too. Like `report`: optional fields with defaults may be added, none is ever removed or renamed,
and both sides ignore what they do not know. Imports pydantic, `report` and `identity`.
"""

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, Field, StringConstraints, field_validator

from fleven_agent.protocol.identity import ENROLMENT_SCHEMA_VERSION, enrol_proof, rotate_proof
from fleven_agent.protocol.report import Id64, Name, Text, Wire

MAXIMUM_REQUEST_BYTES = 8_192
"""Body of a request to join or to rotate: each of its fields is bounded, and they sum up to less."""

Partition = Annotated[int, Field(ge=0, le=2**31 - 1)]
PartitionCount = Annotated[int, Field(ge=1, le=2**31 - 1)]
PublicKey = Annotated[
    str, StringConstraints(max_length=1_024, pattern=r"^ecdsa-sha2-nistp(256|384|521) [A-Za-z0-9+/]+={0,2}$")
]
"""A public key as OpenSSH writes it, without a comment."""
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal digits."""
CarId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
InvitationId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
Secret = Annotated[str, StringConstraints(min_length=16, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Proof = Annotated[str, StringConstraints(min_length=8, max_length=400, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
"""Signature (DER) in base64."""
WishedName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
Stamp = Annotated[str, StringConstraints(min_length=20, max_length=40)]
"""A moment in ISO 8601 with its offset from UTC; kept as it was written, since it is signed."""
ShortText = Annotated[str, StringConstraints(max_length=128)]
Bundle = Annotated[str, StringConstraints(max_length=32_768)]
"""Certificates in PEM: the authority of today first, then the one that it replaces, if any."""


def _checked_stamp(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("no offset from UTC")
    return text


class TrustAnswer(Wire):
    """What everybody may know: who signs this server's certificate."""

    ca_certificates: Bundle
    server_time: AwareDatetime | None = None
    server_version: Name | None = None


class InvitationClaim(Wire):
    """The part of a join code that proves the invitation."""

    id: InvitationId
    secret: Secret


class EnrolRequest(Wire):
    """A car asks to join; the same request again asks how it stands."""

    schema_version: Annotated[int, Field(ge=1)] = ENROLMENT_SCHEMA_VERSION
    public_key: PublicKey
    secret_sha256: Digest
    """Of the secret with which the car will sign its reports off; the secret itself stays in the car until then."""
    invitation: InvitationClaim | None = None
    name: WishedName
    partition_id: Partition | None = None
    num_partitions: PartitionCount | None = None
    ca_fingerprint: Digest
    """SHA-256 over the DER of the authority that the car trusts."""
    created_at: Stamp
    boot_id: ShortText = ""
    agent_version: ShortText = ""
    flwr_version: ShortText | None = None
    board_model: Name | None = None
    proof: Proof

    check_stamp = field_validator("created_at")(_checked_stamp)

    def signed_bytes(self) -> bytes:
        """Return what `proof` is a signature of."""
        return enrol_proof(self.model_dump(mode="json"))


class RotateRequest(Wire):
    """A car brings a new key and a new secret; sent with the old secret."""

    schema_version: Annotated[int, Field(ge=1)] = ENROLMENT_SCHEMA_VERSION
    car_id: CarId
    public_key: PublicKey
    secret_sha256: Digest
    created_at: Stamp
    proof: Proof
    """By the new key."""

    check_stamp = field_validator("created_at")(_checked_stamp)

    def signed_bytes(self) -> bytes:
        """Return what `proof` is a signature of."""
        return rotate_proof(self.model_dump(mode="json"))


class EnrolAnswer(Wire):
    """How a car stands, and what it needs to work. A refusal is an error answer with a `Refusal` as its code."""

    status: Name
    """One of `IdentityStatus`."""
    car_id: CarId
    name: Name | None = None
    """None while pending: nothing is bound yet."""
    partition_id: Partition | None = None
    num_partitions: PartitionCount | None = None
    node_id: Id64 | None = None
    """Flower's id; None until the SuperLink was reached."""
    superlink_address: Name | None = None
    """HOST:PORT of the Fleet API where the server knows it; else the car's own configuration tells."""
    superlink_transport: Name = "tls"
    """tls or plain"""
    ca_certificates: Bundle = ""
    message: Text = ""
    hint: Text = ""
    retry_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """When to ask again; None: there is nothing to wait for."""
