"""The steps towards an identity, with all their effects: run by the keeper's thread and by `fleven-agent join`.

Each step reads the identity from its folder, does one thing with the server, and leaves an identity that holds together
behind, whatever happens in between: the same step again carries on. Blocking, with deadlines.
"""

import base64
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from fleven_agent.common.files import write_atomically
from fleven_agent.config.settings import Settings
from fleven_agent.errors import AgentError
from fleven_agent.identity import decisions, exchange, keys
from fleven_agent.identity.files import IdentityFolder, key_fingerprint
from fleven_agent.identity.model import About, EnrolAnswer, ExchangeError, Identity, Standing, Trouble
from fleven_agent.identity.secure_http import Trust
from fleven_agent.protocol.identity import ENROLMENT_SCHEMA_VERSION, SECRET_BYTES, SERVER_NAME, secret_digest
from fleven_agent.protocol.join_code import JoinCode

Sign = Callable[[Path, str, Mapping[str, Any]], dict[str, Any]]
Found = TypeVar("Found")
MAXIMUM_NAME_CHARACTERS = 64
REGISTER_SECONDS = 15.0
REGISTER_PAUSE_SECONDS = 0.4


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step has brought."""

    identity: Identity
    retry_seconds: float | None = None


class Joining:
    """The steps of one car.

    Args:
        folder: of the identity.
        settings: as node.toml has them.
        about: of this car.
        sign: makes and uses the key: ``keys.ask`` in the daemon, ``keys.sign`` where its library may be loaded.
        timeout_seconds: for each wait for the server.
        say: told of each step that was done, one sentence.
    """

    def __init__(
        self,
        folder: IdentityFolder,
        settings: Settings,
        about: About,
        *,
        sign: Sign = keys.ask,
        timeout_seconds: float = 10.0,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._folder, self._settings, self._about = folder, settings, about
        self._sign, self._timeout, self._say = sign, timeout_seconds, say
        own = settings.reports.root_certificates or settings.root_certificates
        self._own = Trust(own, None) if own is not None else None
        self._key = Path(settings.auth_private_key) if settings.auth_private_key is not None else folder.key

    def enrol(self) -> Stepped:
        """Ask the server to let this car in, or how it stands; key and request are made where there are none.

        Raises:
            ExchangeError: it did not succeed.
        """
        with _files(), self._folder.lock():
            before = self._folder.load()
            code = decisions.code_of(self._settings)
            invited = code is not None and (before is None or decisions.invited_anew(self._settings, before))
            address, identity = self._prepared(before, code if invited else None)
            carries = bool(identity.invitation_id)
            trust = decisions.trust_of(self._settings, self._folder.authority)
            reached, answer = self._ask(
                [address] if address else decisions.server_addresses(self._settings, identity),
                lambda one: exchange.enrol(one, trust, identity.request or {}, self._timeout),
                identity,
            )
            if answer.standing is Standing.ACCEPTED and identity.node_id is None and answer.superlink_tls:
                answer = self._registered(reached, trust, identity.request or {}, answer)
            enrolled = decisions.answered(identity, answer, reached=reached, invited=carries, stamp=_stamp())
            self._take_authority(answer.ca_certificates)
            self._folder.save(enrolled)
            return Stepped(enrolled, answer.retry_seconds)

    def replace(self) -> Stepped:
        """Join again by the invitation of node.toml, with another key; the identity of before stays until that is done.

        Raises:
            ExchangeError: it did not succeed; nothing has changed.
        """
        code = decisions.code_of(self._settings)
        if code is None:
            raise ExchangeError(Trouble.KEY, "only an invitation can replace an identity")
        with _files(), self._folder.lock():
            self._folder.drop_next_key()
            try:
                return self._replaced(code)
            except ExchangeError:
                self._folder.drop_next_key()
                raise

    def _replaced(self, code: JoinCode) -> Stepped:
        found = exchange.find_authority(code.server_addresses, code.ca_fingerprint, self._timeout, self._own)
        self._say(f"the server at {found.address} has the authority {found.fingerprint[:16]}…")
        secret, next_authority = _new_secret(), self._folder.next_key.with_name("ca.crt")
        request = self._signed(self._folder.next_key, "enrol", self._fields(secret, code.ca_fingerprint, code))
        write_atomically(next_authority, found.bundle.encode())
        trust = self._own or Trust(str(next_authority), SERVER_NAME)
        answer = exchange.enrol(found.address, trust, request, self._timeout)
        if answer.standing is not Standing.ACCEPTED:
            raise ExchangeError(Trouble.REFUSED, f"the server did not let this car in: {answer.message}")
        if answer.superlink_tls:
            answer = self._registered(found.address, trust, request, answer)
        fresh = Identity(
            key_fingerprint=key_fingerprint(request["public_key"]),
            secret=secret,
            ca_fingerprint=code.ca_fingerprint,
            invitation_id=code.invitation_id,
            request=request,
        )
        enrolled = decisions.answered(fresh, answer, reached=found.address, invited=True, stamp=_stamp())
        self._folder.write_authority(answer.ca_certificates or found.bundle)
        self._folder.take_next_key(enrolled)
        return Stepped(enrolled)

    def rotate(self) -> Stepped:
        """Bring the server a new key and a new secret, and make them this car's.

        Raises:
            ExchangeError: it did not succeed; the old ones stay.
        """
        with _files(), self._folder.lock():
            before = self._folder.load()
            if before is None or before.standing is not Standing.ACCEPTED:
                raise ExchangeError(Trouble.KEY, "only a car that has joined can change its key")
            self._folder.drop_next_key()
            secret = _new_secret()
            fields = {
                "schema_version": ENROLMENT_SCHEMA_VERSION,
                "car_id": before.car_id,
                "secret_sha256": secret_digest(secret),
                "created_at": _stamp(),
            }
            request = self._signed(self._folder.next_key, "rotate", fields)
            trust = decisions.trust_of(self._settings, self._folder.authority)
            reached, answer = self._ask(
                decisions.server_addresses(replace(self._settings, join=None), before),
                lambda one: exchange.rotate(one, trust, request, before.bearer, self._timeout),
                before,
            )
            if answer.standing is not Standing.ACCEPTED:
                self._folder.drop_next_key()
                raise ExchangeError(Trouble.REFUSED, f"the server did not accept the new key: {answer.message}")
            asked = self._signed(self._folder.next_key, "enrol", self._fields(secret, before.ca_fingerprint, None))
            answer = self._registered(reached, trust, asked, answer)
            fingerprint = key_fingerprint(request["public_key"])
            rotated = replace(before, key_fingerprint=fingerprint, secret=secret, node_id=answer.node_id, request=asked)
            self._folder.take_next_key(rotated)
            return Stepped(rotated)

    def look(self) -> None:
        """Ask the server for its authority, and compare it with the pinned one.

        Raises:
            ExchangeError: it is another, or cannot be asked for.
        """
        with _files():
            identity = self._folder.load()
            expected = identity.ca_fingerprint if identity is not None else None
            where = decisions.server_addresses(replace(self._settings, join=None), identity)
            exchange.find_authority(where, expected, self._timeout, self._own)

    def _prepared(self, before: Identity | None, code: JoinCode | None) -> tuple[str, Identity]:
        """Return an identity with a request that can be sent, and the address of the server if it was asked for."""
        address, ca_fingerprint = "", before.ca_fingerprint if before is not None else ""
        if before is None or code is not None or not self._folder.read_authority():
            expected = code.ca_fingerprint if code is not None else ca_fingerprint or None
            where = decisions.server_addresses(self._settings, before)
            found = exchange.find_authority(where, expected, self._timeout, self._own)
            self._say(f"the server at {found.address} has the authority {found.fingerprint[:16]}…")
            self._folder.write_authority(found.bundle)
            address, ca_fingerprint = found.address, expected or found.fingerprint
        if decisions.needs_new_key(before, invited=code is not None):
            self._folder.forget_key()
        elif before is not None and before.request is not None and code is None:
            return address, before
        return address, self._requested(before, code, ca_fingerprint)

    def _requested(self, before: Identity | None, code: JoinCode | None, ca_fingerprint: str) -> Identity:
        kept = before if before is not None and not decisions.needs_new_key(before, invited=code is not None) else None
        secret = kept.secret if kept is not None else _new_secret()
        request = self._signed(self._key, "enrol", self._fields(secret, ca_fingerprint, code))
        fresh = Identity(
            key_fingerprint=key_fingerprint(request["public_key"]),
            secret=secret,
            ca_fingerprint=ca_fingerprint,
            superlink_tls=before.superlink_tls if before is not None else False,
        )
        identity = replace(
            kept or fresh,
            key_fingerprint=fresh.key_fingerprint,
            ca_fingerprint=ca_fingerprint,
            request=request,
            invitation_id=code.invitation_id if code is not None else kept.invitation_id if kept is not None else "",
        )
        self._folder.save(identity)  # before it is sent: a power cut in between must not cost a second key
        self._say(f"this car's key is {identity.key_fingerprint}")
        return identity

    def _fields(self, secret: str, ca_fingerprint: str, code: JoinCode | None) -> dict[str, Any]:
        """Return the fields of a request to join, but for key and proof."""
        name = self._settings.node_name or os.uname().nodename
        return {
            "schema_version": ENROLMENT_SCHEMA_VERSION,
            "secret_sha256": secret_digest(secret),
            "invitation": None if code is None else {"id": code.invitation_id, "secret": code.secret},
            "name": name[:MAXIMUM_NAME_CHARACTERS],
            "partition_id": self._settings.partition_id,
            "num_partitions": self._settings.num_partitions,
            "ca_fingerprint": ca_fingerprint,
            "created_at": _stamp(),
            "boot_id": self._about.boot_id,
            "agent_version": self._about.agent_version,
            "flwr_version": self._about.flwr_version,
            "board_model": self._about.board_model,
        }

    def _registered(self, address: str, trust: Trust, request: Mapping[str, Any], answer: EnrolAnswer) -> EnrolAnswer:
        """Wait until the SuperLink takes the key, which it learns a moment after the server; return the last answer.

        Without the wait SuperNode would be refused a few times and start after ever longer pauses. A SuperLink that is
        away is waited for no longer than this: SuperNode tries it by itself.
        """
        until, pause = time.monotonic() + REGISTER_SECONDS, REGISTER_PAUSE_SECONDS
        while answer.node_id is None and answer.standing is Standing.ACCEPTED and time.monotonic() < until:
            time.sleep(pause)
            pause *= 1.5
            try:
                answer = exchange.enrol(address, trust, request, self._timeout)
            except ExchangeError:
                break
        return answer

    def _signed(self, key: Path, purpose: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._sign(key, purpose, fields)
        except AgentError as error:
            raise ExchangeError(Trouble.KEY, error.message, hint=error.hint) from None

    def _ask(self, addresses: Sequence[str], ask: Callable[[str], Found], identity: Identity) -> tuple[str, Found]:
        """Ask the first address that answers at all; say whose authority it has when that is not the pinned one."""
        problem: ExchangeError | None = None
        for address in addresses:
            try:
                return address, ask(address)
            except ExchangeError as error:
                problem = error
                if error.trouble is not Trouble.UNREACHABLE:
                    break
        if problem is None:
            raise ExchangeError(Trouble.UNREACHABLE, "no address of a server is known")
        if problem.trouble is Trouble.OTHER_AUTHORITY and self._own is None:
            exchange.find_authority([address], identity.ca_fingerprint, self._timeout)
        raise problem

    def _take_authority(self, bundle: str) -> None:
        if bundle and bundle != self._folder.read_authority():
            self._folder.write_authority(bundle)


@contextlib.contextmanager
def _files() -> Iterator[None]:
    """Turn an error of the operating system into one of the exchange."""
    try:
        yield
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        raise ExchangeError(Trouble.KEY, message, hint="check space and owner of the state folder") from None


def _new_secret() -> str:
    return base64.urlsafe_b64encode(os.urandom(SECRET_BYTES)).decode().rstrip("=")


def _stamp() -> str:
    return datetime.now(tz=UTC).isoformat()
