"""The identity of a car as it lies in its state folder, and what the car and the server say of it. Plain types.

One file holds all that must change together: the car's secret, what the server has bound to it, and which key it is of.
Imports the words of the protocol only: an agent whose car has joined loads neither ``joining`` nor ``exchange``.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from fleven_agent.protocol.identity import IdentityStatus

VERSION = 1


class Standing(StrEnum):
    """How this car stands. The server's words, and two of its own: the values are written to disk and never change."""

    NEW = "new"  # a key was made; the server has not said anything yet
    FORGOTTEN = "forgotten"  # the server no longer knows the identity: a new key has to be made
    ACCEPTED = IdentityStatus.ACCEPTED.value
    PENDING = IdentityStatus.PENDING.value
    REJECTED = IdentityStatus.REJECTED.value
    REVOKED = IdentityStatus.REVOKED.value
    HELD = IdentityStatus.HELD.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Key, secret, and what the server has said of them."""

    key_fingerprint: str
    """Of the public key, as `ssh-keygen -l` shows it."""
    secret: str = field(repr=False)
    ca_fingerprint: str
    """SHA-256 over the DER of the server's authority that was pinned, 64 hexadecimal digits."""
    standing: Standing = Standing.NEW
    car_id: str = ""
    name: str = ""
    partition_id: int | None = None
    num_partitions: int | None = None
    node_id: str | None = None
    """Flower's id of the key."""
    server_address: str = ""
    """HOST:PORT of the server's web port where the car was invited to; empty when node.toml leads there."""
    superlink_address: str = ""
    """HOST:PORT of the Fleet API, for a car whose node.toml does not name it."""
    superlink_tls: bool = False
    """The SuperLink was said to speak TLS. Once it was, the car never speaks to it without."""
    invitation_id: str = ""
    """Of the invitation that the present request carries."""
    enrolled_at: str = ""
    message: str = ""
    hint: str = ""
    request: Mapping[str, Any] | None = field(default=None, repr=False)
    """The signed request to join: sent again as it is, it asks how the car stands."""

    @property
    def bearer(self) -> str:
        """What proves this identity in a report."""
        return f"{self.car_id}.{self.secret}"


@dataclass(frozen=True, slots=True)
class Told:
    """How this car stands, as the server says in its answer to a report; the fields of ``report.IdentityAnswer``."""

    status: IdentityStatus
    name: str
    partition_id: int
    num_partitions: int | None
    node_id: str | None
    superlink_tls: bool
    rotate: bool
    ca_certificates: str | None
    report_again: bool = False


@dataclass(frozen=True, slots=True)
class EnrolAnswer:
    """How this car stands; the fields of ``enrolment.EnrolAnswer``."""

    standing: Standing
    car_id: str
    name: str
    partition_id: int | None
    num_partitions: int | None
    node_id: str | None
    superlink_address: str
    superlink_tls: bool
    ca_certificates: str
    message: str
    hint: str
    retry_seconds: float | None


@dataclass(frozen=True, slots=True)
class About:
    """What a request says of this car beside its wishes."""

    boot_id: str = ""
    agent_version: str = ""
    flwr_version: str | None = None
    board_model: str | None = None


class Trouble(StrEnum):
    """Why an exchange did not succeed, as far as it decides what comes next."""

    UNREACHABLE = "unreachable"  # no connection, no answer in time
    NOT_OFFERED = "not-offered"  # a server that knows nothing of joining: of version 0.1.0, or another program
    OTHER_AUTHORITY = "other-authority"  # not the one that was pinned, or that the join code names
    CLOCK = "clock"  # the certificate is not valid at this car's time
    OTHER_NAME = "other-name"  # a certificate of somebody's own, without the name that every server has
    REFUSED = "refused"  # the server said no, with a code
    BUSY = "busy"  # the server cannot take it now
    DAMAGED = "damaged"  # an answer that cannot be understood
    KEY = "key"  # this car's own key or files cannot be used


class ExchangeError(Exception):
    """An exchange did not succeed.

    Args:
        trouble: what kind of problem.
        message: one sentence.
        hint: what to do.
        code: of a refusal (``protocol.identity.Refusal``), or of any other error that the server named.
        retry_seconds: when the server wants to be asked again.
    """

    def __init__(
        self, trouble: Trouble, message: str, *, hint: str = "", code: str = "", retry_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.trouble, self.message, self.hint, self.code = trouble, message, hint, code
        self.retry_seconds = retry_seconds


def encode(identity: Identity) -> bytes:
    """Return the content of identity.json."""
    return json.dumps({"version": VERSION, **asdict(identity)}, separators=(",", ":")).encode()


_TEXTS = {"key_fingerprint", "secret", "ca_fingerprint", "car_id", "name", "server_address", "superlink_address"}
_TEXTS |= {"invitation_id", "enrolled_at", "message", "hint"}
_NUMBERS = {"partition_id", "num_partitions"}


def _is_right(name: str, value: object) -> bool:
    if name in _TEXTS:
        return isinstance(value, str)
    if name in _NUMBERS:
        return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
    kinds = {"request": (dict, type(None)), "node_id": (str, type(None)), "superlink_tls": (bool,), "standing": (str,)}
    return isinstance(value, kinds[name])


def decode(content: bytes) -> Identity:
    """Read identity.json.

    Raises:
        ValueError: when this version cannot use it.
    """
    values = json.loads(content.decode("utf-8"))
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise ValueError(f"not an identity of version {VERSION}")
    known = {item.name for item in fields(Identity)}
    found = {name: value for name, value in values.items() if name in known}
    wrong = sorted(name for name, value in found.items() if not _is_right(name, value))
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not of the right type")
    missing = {"key_fingerprint", "secret", "ca_fingerprint"} - {name for name, value in found.items() if value}
    if missing:
        raise ValueError(f"no {', '.join(sorted(missing))}")
    found["standing"] = Standing(found.get("standing", Standing.NEW))
    return Identity(**found)
