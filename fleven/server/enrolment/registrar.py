"""Answers to cars that join or rotate: proof checked, limits kept, decided by the book, answered by the protocol.

Must not import FastAPI or a clock.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from datetime import datetime

from fleven.server.config.paths import Paths
from fleven.server.config.settings import EVERY_ADDRESS, ServerConfig, split_address, superlink_in_force
from fleven.server.database import Store
from fleven.server.enrolment import decisions, keys, refusals, rotation
from fleven.server.enrolment.authority import Authorities, AuthorityFiles, authority_files
from fleven.server.enrolment.decisions import Wish
from fleven.server.enrolment.directory import Directory, Signature, standing
from fleven.server.enrolment.model import Book, Change, EnrolmentError, Identity, KeyRole
from fleven.server.enrolment.store import decide_and_tell, tell
from fleven.server.formatting import clean_name, clean_text
from fleven_agent.common import addresses
from fleven_agent.protocol.enrolment import EnrolAnswer, EnrolRequest, RotateRequest
from fleven_agent.protocol.identity import IdentityStatus, Refusal

logger = logging.getLogger("fleven.server.enrolment")
PENDING_RETRY_SECONDS = 10.0
NODE_ID_RETRY_SECONDS = 1.0
"""An accepted car whose key Flower does not know yet asks again this soon: it is registered within a second."""
REJECTED_RETRY_SECONDS = 600.0


def transport(config: ServerConfig, paths: Paths) -> str:
    """Return what the SuperLink speaks."""
    return "plain" if superlink_in_force(config, paths).insecure else "tls"


@dataclass(frozen=True, slots=True)
class Registrar:
    """What the routes of joining need.

    Attributes:
        store: the register.
        directory: the picture by which reports are judged; told when something has changed.
        config: server.toml.
        authorities: who signs this server's certificates.
        transport: what the SuperLink speaks: tls or plain.
    """

    store: Store
    directory: Directory
    config: ServerConfig
    authorities: AuthorityFiles
    transport: str

    @classmethod
    def of(cls, store: Store, directory: Directory, config: ServerConfig, paths: Paths) -> Registrar:
        """Return the registrar of a server."""
        return cls(store, directory, config, authority_files(config, paths), transport(config, paths))

    def enrol(self, request: EnrolRequest, address: str, host: str, now: datetime) -> EnrolAnswer:
        """Answer a request to join.

        Args:
            request: as it came.
            address: from where.
            host: by which name or address the car has reached this server; "" when unknown.
            now: the moment.

        Raises:
            EnrolmentError: it is refused.
            StoreError: the register cannot be written.
        """
        trusted = self.authorities.read()
        self._check_authority(request, trusted)
        self._check_key(request.public_key, request.signed_bytes(), request.proof)
        claim = request.invitation
        wish = Wish(
            public_key=request.public_key,
            secret_sha256=request.secret_sha256,
            name=clean_name(request.name),
            partition_id=request.partition_id,
            num_partitions=request.num_partitions,
            invitation=None if claim is None else (claim.id, claim.secret),
            asked_from=address,
            boot_id=clean_text(request.boot_id, 64),
            board_model=clean_text(request.board_model or "", 255),
            agent_version=clean_text(request.agent_version, 64),
        )
        new_id = secrets.token_hex(8)
        car = decide_and_tell(self.store, now, lambda book: decisions.join(book, wish, now, new_id), tell)
        self.directory.outdated()
        return self.answer(car, request.public_key, trusted, host)

    def rotate(self, signed: Signature, request: RotateRequest, now: datetime) -> EnrolAnswer:
        """Answer a car that brings a new key.

        Args:
            signed: who signed the request, with its present secret.
            request: as it came.
            now: the moment.

        Raises:
            EnrolmentError: it is refused.
            StoreError: the register cannot be written.
        """
        if request.car_id != signed.car_id:
            raise EnrolmentError(Refusal.IDENTITY_WRONG, "the new key is for another car than the one that signed")
        self._check_key(request.public_key, request.signed_bytes(), request.proof)

        def decision(book: Book) -> tuple[Change, Identity]:
            standing(self.directory.now(), signed)
            return rotation.rotate(book, signed.car_id, request.public_key, request.secret_sha256)

        car = decide_and_tell(self.store, now, decision, tell)
        self.directory.outdated()
        return self.answer(car, request.public_key, self.authorities.read())

    def answer(self, car: Identity, public_key: str, trusted: Authorities, host: str = "") -> EnrolAnswer:
        """Return how a car stands, in the wire's form; before it is accepted it learns nothing else."""
        shared = {
            "status": car.status.value,
            "car_id": car.car_id,
            "ca_certificates": trusted.bundle,
            "superlink_transport": self.transport,
        }
        if car.status is not IdentityStatus.ACCEPTED:
            refusal = refusals.refused_status(car)
            # Of a held car too an operator decides, with the car in the workshop.
            waits = car.status in (IdentityStatus.PENDING, IdentityStatus.HELD)
            retry_seconds = PENDING_RETRY_SECONDS if waits else REJECTED_RETRY_SECONDS
            return EnrolAnswer(**shared, message=refusal.message, hint=refusal.hint, retry_seconds=retry_seconds)
        key = next((one for one in car.keys if one.public_key == public_key), car.current)
        node_id = None if key.role is KeyRole.RETIRED or key.spent else key.flower_node_id
        return EnrolAnswer(
            **shared,
            name=car.name,
            partition_id=car.partition_id,
            num_partitions=car.num_partitions,
            node_id=node_id,
            superlink_address=self._superlink_address(host),
            message=f"{car.name} is enrolled, partition-id {car.partition_id}",
            retry_seconds=None if node_id is not None else NODE_ID_RETRY_SECONDS,
        )

    def _superlink_address(self, host: str) -> str | None:
        """Return where the car finds the Fleet API: on the host by which it has found this server."""
        try:
            bound_host, port = split_address(self.config.superlink.fleet_address)
            address = addresses.join(host if bound_host in EVERY_ADDRESS else bound_host, port)
            addresses.split(address)
        except ValueError:
            return None
        return address

    def _check_authority(self, request: EnrolRequest, trusted: Authorities) -> None:
        if trusted.fingerprints and request.ca_fingerprint not in trusted.fingerprints:
            message = "the car trusts an authority that is not this server's: somebody may sit between the two"
            hint = "compare the fingerprint that `fleven-agent status` shows with `fleven-server trust status`"
            raise EnrolmentError(Refusal.AUTHORITY_MISMATCH, message, hint=hint)

    def _check_key(self, public_key: str, signed: bytes, proof: str) -> None:
        if keys.canonical(public_key) != public_key:
            # Two spellings of one key would be two cars for us and one for Flower.
            raise EnrolmentError(
                Refusal.KEY_REFUSED, "the public key is not written in the standard form", hint=keys.HINT
            )
        keys.check_proof(public_key, signed, proof)
