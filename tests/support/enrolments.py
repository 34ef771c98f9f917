"""Keys, proofs and requests of cars that join, as an agent makes them."""

import base64
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleven_agent.protocol.identity import enrol_proof, rotate_proof, secret_digest

AUTHORITY = "ab" * 32


@dataclass
class Board:
    """One board with a key and a secret of its own."""

    name: str = "car-0"
    secret: str = "s" * 43
    boot_id: str = "boot-1"
    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))

    @cached_property
    def public_key(self) -> str:
        return self.private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

    def sign(self, signed: bytes) -> str:
        return base64.b64encode(self.private.sign(signed, ec.ECDSA(SHA256()))).decode()

    def request(self, *, invitation: tuple[str, str] | None = None, **changes: Any) -> dict[str, Any]:
        """Body of `POST /v1/enrol`."""
        body = {
            "public_key": self.public_key,
            "secret_sha256": secret_digest(self.secret),
            "invitation": None if invitation is None else {"id": invitation[0], "secret": invitation[1]},
            "name": self.name,
            "partition_id": None,
            "ca_fingerprint": AUTHORITY,
            "created_at": datetime.now(UTC).isoformat(),
            "boot_id": self.boot_id,
            "agent_version": "0.2.0",
            **changes,
        }
        return {"proof": self.sign(enrol_proof(body)), **body}

    def rotation(self, car_id: str) -> dict[str, Any]:
        """Body of `POST /v1/rotate` that brings this board's key."""
        body = {
            "car_id": car_id,
            "public_key": self.public_key,
            "secret_sha256": secret_digest(self.secret),
            "created_at": datetime.now(UTC).isoformat(),
        }
        return {"proof": self.sign(rotate_proof(body)), **body}

    def bearer(self, car_id: str) -> dict[str, str]:
        """Headers that sign a request."""
        return {"Authorization": f"Bearer {car_id}.{self.secret}"}
