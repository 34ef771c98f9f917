"""A stand-in for the server's side of joining, over real TLS: it checks every request as the real one does.

Made for what the real server does not do on demand: another authority at the same address, an answer that gets lost, a
car that is held.
"""

from __future__ import annotations

import base64
import http.server
import json
import socketserver
import ssl
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_harness import ReportServer, send_json
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleven_agent.identity import authority
from fleven_agent.protocol.enrolment import EnrolAnswer, EnrolRequest, RotateRequest
from fleven_agent.protocol.identity import ENROL_PATH, ROTATE_PATH, TRUST_PATH, Refusal, secret_digest
from fleven_agent.protocol.join_code import JoinCode, encode


@dataclass
class Car:
    """A key that asked to join."""

    car_id: str
    public_key: str
    digest: str
    name: str
    partition_id: int
    status: str = "pending"
    node_id: str = "4242"
    rotate: bool = False


class JoiningServer(ReportServer):
    """A server that cars can join.

    Args:
        certificates: folder of ``certificates.write_certificates``.
        transport: what the SuperLink is said to speak, ``tls`` or ``plain``.
    """

    def __init__(self, certificates: Path, transport: str = "tls") -> None:
        super().__init__()
        self.certificates, self.transport = certificates, transport
        self.cars: dict[str, Car] = {}
        self.requests: list[dict[str, Any]] = []
        self.invitations: dict[str, tuple[str, int]] = {}
        """Secret and partition by the invitation's id."""
        self.lose_answer: Callable[[], bool] = lambda: False
        """Whether the answer to a request that was carried out gets lost on its way."""
        self.bearers: list[str] = []
        self.authority_headers: list[str] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def bundle(self) -> str:
        return (self.certificates / "ca.crt").read_text(encoding="ascii")

    @property
    def fingerprint(self) -> str:
        return authority.fingerprints(self.bundle)[0]

    def wrap(self, server: socketserver.ThreadingTCPServer) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates / "server.crt", self.certificates / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)

        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # handshakes that fail are part of the tests

    def invite(self, partition_id: int, *, fingerprint: str | None = None) -> str:
        """Return a join code."""
        invitation, secret = uuid.uuid4().hex[:8], uuid.uuid4().hex
        self.invitations[invitation] = (secret, partition_id)
        return encode(JoinCode((f"127.0.0.1:{self.port}",), fingerprint or self.fingerprint, invitation, secret))

    def only_car(self) -> Car:
        """Return the one car that asked to join."""
        [car] = self.cars.values()
        return car

    def answer_get(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        if handler.path != TRUST_PATH:
            super().answer_get(handler)
            return
        send_json(handler, 200, {"ca_certificates": self.bundle, "server_version": "stand-in"})

    def answer_post(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> bool:
        if handler.path == ENROL_PATH:
            self._enrol(handler, EnrolRequest.model_validate_json(body))
            return True
        bearer = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        car_id, _, secret = bearer.partition(".")
        car = next((one for one in self.cars.values() if one.car_id == car_id), None)
        if handler.path == ROTATE_PATH:
            self._rotate(handler, RotateRequest.model_validate_json(body), car, secret)
            return True
        self.bearers.append(bearer)
        self.authority_headers.append(handler.headers.get("Fleven-Authorities", ""))
        refusal = self._refusal(bearer, car, secret)
        if refusal is not None:
            code, status = refusal
            send_json(handler, status, {"code": code.value, "message": code.value, "hint": ""})
        return refusal is not None

    def _refusal(self, bearer: str, car: Car | None, secret: str) -> tuple[Refusal, int] | None:
        if not bearer:
            return Refusal.IDENTITY_REQUIRED, 401
        if car is None:
            return Refusal.IDENTITY_UNKNOWN, 401
        if secret_digest(secret) != car.digest:
            return Refusal.IDENTITY_WRONG, 401
        return None if car.status == "accepted" else (Refusal(f"identity-{car.status}"), 403)

    def _enrol(self, handler: http.server.BaseHTTPRequestHandler, request: EnrolRequest) -> None:
        self.requests.append(json.loads(request.model_dump_json()))
        problem = self._problem(request)
        if problem:
            send_json(handler, 403, {"code": problem.value, "message": problem.value, "hint": "look again"})
            return
        car = self.cars.get(request.public_key)
        if car is None:
            number = request.partition_id if request.partition_id is not None else len(self.cars)
            car = Car(uuid.uuid4().hex[:16], request.public_key, request.secret_sha256, request.name, number)
            self.cars[request.public_key] = car
        if request.invitation is not None and car.status == "pending":
            car.status, car.partition_id = "accepted", self.invitations[request.invitation.id][1]
        self._send(handler, car)

    def _problem(self, request: EnrolRequest) -> Refusal | None:
        if not proven(request.public_key, request.signed_bytes(), request.proof):
            return Refusal.PROOF_INVALID
        if request.ca_fingerprint != self.fingerprint:
            return Refusal.AUTHORITY_MISMATCH
        known = self.cars.get(request.public_key)
        if known is not None and known.digest != request.secret_sha256:
            return Refusal.KEY_REFUSED
        if request.invitation is None:
            return None
        secret, _ = self.invitations.get(request.invitation.id, ("", 0))
        return None if secret == request.invitation.secret else Refusal.INVITATION_UNKNOWN

    def _rotate(
        self, handler: http.server.BaseHTTPRequestHandler, request: RotateRequest, car: Car | None, secret: str
    ) -> None:
        good = car is not None and secret_digest(secret) == car.digest
        if car is None or not good or not proven(request.public_key, request.signed_bytes(), request.proof):
            send_json(handler, 401, {"code": "identity-wrong", "message": "no", "hint": ""})
            return
        del self.cars[car.public_key]
        car.public_key, car.digest, car.rotate = request.public_key, request.secret_sha256, False
        car.node_id = str(int(car.node_id) + 1)
        self.cars[car.public_key] = car
        self._send(handler, car)

    def _send(self, handler: http.server.BaseHTTPRequestHandler, car: Car) -> None:
        if self.lose_answer():
            handler.close_connection = True
            handler.connection.close()
            return
        accepted = car.status == "accepted"
        answer = EnrolAnswer(
            status=car.status,
            car_id=car.car_id,
            name=car.name if accepted else None,
            partition_id=car.partition_id if accepted else None,
            node_id=car.node_id if accepted else None,
            superlink_transport=self.transport,
            ca_certificates=self.bundle,
            retry_seconds=None if accepted else 1.0,
        )
        send_json(handler, 200, json.loads(answer.model_dump_json()))

    def identity_of(self, handler: http.server.BaseHTTPRequestHandler) -> dict[str, Any] | None:
        car_id = handler.headers.get("Authorization", "").removeprefix("Bearer ").partition(".")[0]
        car = next(one for one in self.cars.values() if one.car_id == car_id)
        known = handler.headers.get("Fleven-Authorities", "")
        return {
            "status": car.status,
            "car_id": car.car_id,
            "name": car.name,
            "partition_id": car.partition_id,
            "node_id": car.node_id,
            "superlink_transport": self.transport,
            "rotate": car.rotate,
            "ca_certificates": None if known == ",".join(authority.fingerprints(self.bundle)) else self.bundle,
        }


def proven(public_key: str, signed: bytes, proof: str) -> bool:
    """Return whether a signature is by a key."""
    key = serialization.load_ssh_public_key(public_key.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    try:
        key.verify(base64.b64decode(proof), signed, ec.ECDSA(hashes.SHA256()))
    except Exception:
        return False
    return True
