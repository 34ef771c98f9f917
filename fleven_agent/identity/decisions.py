"""What comes next for a car's identity, and what follows from how it stands. Pure: no clock, no file, no network.

node.toml says what the operator of this car allows, the identity what the server has said. Both together give the
settings that SuperNode and the reports run with, the reason why the car must not train yet, and the next step.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleven_agent.common import addresses
from fleven_agent.common.errors import OperatorError
from fleven_agent.config.settings import DEFAULT_REPORT_PORT, FLEET_PORT, Settings
from fleven_agent.identity import authority
from fleven_agent.identity.model import EnrolAnswer, Identity, Standing, Trouble
from fleven_agent.identity.secure_http import Trust
from fleven_agent.protocol.identity import SERVER_NAME
from fleven_agent.protocol.join_code import JoinCode, decode

PENDING_SECONDS = 15.0
"""Between two questions whether an operator has decided, where the server names no time."""
SLOW_SECONDS = 600.0
"""The same where nothing is expected to change: a server that knows nothing of joining, an operator's no."""
RETRY_INITIAL_SECONDS = 2.0
RETRY_MAXIMUM_SECONDS = 60.0


class Step(StrEnum):
    """What the keeper's thread can be asked to do."""

    ENROL = "enrol"  # make key and request where there are none, and ask the server how this car stands
    ROTATE = "rotate"  # bring the server a new key and a new secret
    LOOK = "look"  # see whose authority the server has now, since reports fail for it


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the last step did not succeed."""

    trouble: Trouble
    message: str
    hint: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the decisions rest on."""

    settings: Settings
    """As node.toml has them."""
    identity: Identity | None = None
    problem: Problem | None = None
    rotate: bool = False
    """The server has asked for a new key."""
    task_active: bool = False
    demanded: bool = False
    """The server takes no report of a car that has not joined."""
    doubtful: bool = False
    """A report failed since the server's certificate is not of the pinned authority."""


def code_of(settings: Settings) -> JoinCode | None:
    """Return the join code of node.toml; None when there is none that can be read (the parser refuses those)."""
    if settings.join is None:
        return None
    try:
        return decode(settings.join)
    except OperatorError:
        return None


def secure(settings: Settings) -> bool:
    """Return whether node.toml allows nothing but TLS."""
    return settings.insecure is False


def wants_to_join(settings: Settings) -> bool:
    """Return whether this car must join, and does not only ask beside its open reports."""
    return secure(settings) or settings.join is not None


def own_roots(settings: Settings) -> bool:
    """Return whether the operator gave certificates of their own for the SuperLink."""
    return settings.root_certificates is not None


def invited_anew(settings: Settings, identity: Identity) -> bool:
    """Return whether node.toml holds a join code that the present request does not carry, and that is of use."""
    code = code_of(settings)
    if code is None or identity.standing in (Standing.ACCEPTED, Standing.HELD):
        return False
    return code.invitation_id != identity.invitation_id


def next_step(facts: Facts) -> Step | None:
    """Return the next step; None while there is nothing to do but to wait for the server's word in a report."""
    identity = facts.identity
    if not (wants_to_join(facts.settings) or facts.settings.reports.enabled):
        return None
    if identity is None:
        return Step.ENROL
    match identity.standing:
        case Standing.ACCEPTED if facts.rotate and not facts.task_active and facts.settings.auth_private_key is None:
            return Step.ROTATE
        case Standing.ACCEPTED:
            return Step.LOOK if facts.doubtful else None
        case Standing.REVOKED if not invited_anew(facts.settings, identity):
            return None
    return Step.ENROL


def needs_new_key(identity: Identity | None, *, invited: bool) -> bool:
    """Return whether a request must come with a new key: Flower never takes one again that it has removed."""
    if identity is None:
        return False
    refused = identity.standing in (Standing.REVOKED, Standing.REJECTED)
    return identity.standing is Standing.FORGOTTEN or (invited and refused)


def answered(identity: Identity, answer: EnrolAnswer, *, reached: str, invited: bool, stamp: str) -> Identity:
    """Return the identity after the server's answer to a request to join.

    Args:
        identity: that made the request.
        answer: of the server.
        reached: HOST:PORT at which it answered.
        invited: the request carried an invitation, which also says where the server is.
        stamp: this moment in ISO 8601.
    """
    accepted = answer.standing is Standing.ACCEPTED
    enrolled = replace(
        identity,
        standing=answer.standing,
        car_id=answer.car_id,
        node_id=answer.node_id or identity.node_id,
        server_address=reached if invited else identity.server_address,
        message=answer.message,
        hint=answer.hint,
    )
    if not accepted:
        return enrolled
    return replace(
        enrolled,
        name=answer.name,
        partition_id=answer.partition_id,
        num_partitions=answer.num_partitions,
        superlink_address=superlink_address(reached, answer.superlink_address),
        superlink_tls=identity.superlink_tls or answer.superlink_tls,
        enrolled_at=identity.enrolled_at or stamp,
    )


def wait_seconds(identity: Identity | None, problem: Problem | None, told: float | None, failures: int) -> float:
    """Return how long to wait before the next step, without jitter.

    Args:
        identity: as it is now.
        problem: of the step that was just tried; None when it succeeded.
        told: what the server asked for, if anything.
        failures: steps in a row that did not succeed.
    """
    if problem is not None:
        if problem.trouble in (Trouble.NOT_OFFERED, Trouble.KEY):
            return SLOW_SECONDS
        if problem.trouble in (Trouble.OTHER_AUTHORITY, Trouble.OTHER_NAME, Trouble.REFUSED):
            return max(told or 0.0, RETRY_MAXIMUM_SECONDS)
        growing = RETRY_INITIAL_SECONDS * 2.0 ** min(max(failures, 1) - 1, 10)
        return max(told or 0.0, min(RETRY_MAXIMUM_SECONDS, growing))
    if identity is not None and identity.standing in (Standing.REJECTED, Standing.REVOKED):
        return max(told or 0.0, SLOW_SECONDS)
    return min(SLOW_SECONDS, max(1.0, told)) if told is not None else PENDING_SECONDS


# -- what follows from how the car stands


def server_addresses(settings: Settings, identity: Identity | None) -> tuple[str, ...]:
    """Return HOST:PORT of the server's web port, in the order to try: the join code's, or where node.toml leads."""
    code = code_of(settings)
    if code is not None:
        return code.server_addresses
    if identity is not None and identity.server_address and _reports_are_computed(settings):
        return (identity.server_address,)
    parts = urlsplit(settings.report_url or "")
    host = parts.hostname or addresses.split(settings.superlink)[0]
    port = parts.port or (443 if parts.scheme == "https" else 80 if parts.scheme else DEFAULT_REPORT_PORT)
    return (addresses.join(host, port),)


def _reports_are_computed(settings: Settings) -> bool:
    host = addresses.split(settings.superlink)[0]
    computed = addresses.join(host, DEFAULT_REPORT_PORT)
    return settings.report_url is None or settings.report_url.partition("://")[2] == computed


def trust_of(settings: Settings, ca_file: Path) -> Trust:
    """Return whom connections to the server's web port trust: the operator's own certificates, or the pinned ones."""
    own = settings.reports.root_certificates or settings.root_certificates
    return Trust(own, None) if own is not None else Trust(str(ca_file), SERVER_NAME)


@dataclass(frozen=True, slots=True)
class ReportAccess:
    """How reports are sent."""

    url: str
    trust: Trust
    bearer: str | None


def report_access(settings: Settings, identity: Identity | None, ca_file: Path) -> ReportAccess | None:
    """Return how reports are sent; None while the server would take none of this car, or not without TLS."""
    url = settings.report_url or ""
    if identity is not None and identity.standing is Standing.ACCEPTED:
        # The secret travels inside TLS only, whatever node.toml says of the address.
        [address, *_] = server_addresses(replace(settings, join=None), identity)
        path = urlsplit(url).path.rstrip("/")
        return ReportAccess(f"https://{address}{path}", trust_of(settings, ca_file), identity.bearer)
    if identity is not None and identity.standing in (Standing.REVOKED, Standing.HELD):
        return None
    if settings.partition_id is None or (secure(settings) and not own_roots(settings)):
        return None
    own = settings.reports.root_certificates or settings.root_certificates
    if secure(settings):
        url = url.replace("http://", "https://", 1)
    return ReportAccess(url, Trust(own, None), settings.report_token)


def effective(settings: Settings, identity: Identity | None, key: Path, ca_file: Path) -> Settings:
    """Return the settings that SuperNode runs with: what the enrolment binds wins over what node.toml wishes.

    Args:
        settings: as node.toml has them.
        identity: of this car, if any.
        key: file of the identity's private key.
        ca_file: file of the pinned certificates.
    """
    if identity is None:
        return settings
    changed: dict[str, Any] = {}
    accepted = identity.standing is Standing.ACCEPTED
    tls = identity.superlink_tls or secure(settings)
    if tls and not own_roots(settings):
        changed |= {"insecure": False, "root_certificates": str(ca_file)}
    if accepted:
        changed |= {"partition_id": identity.partition_id, "node_name": identity.name}
        if identity.num_partitions is not None:
            changed["num_partitions"] = identity.num_partitions
        if (tls or own_roots(settings)) and settings.auth_private_key is None:
            changed["auth_private_key"] = str(key)
        code = code_of(settings)
        if code is not None and identity.superlink_address and settings.superlink == superlink_of(code):
            changed["superlink"] = identity.superlink_address
    return replace(settings, **changed)


def superlink_of(code: JoinCode, port: int = FLEET_PORT) -> str:
    """Return the SuperLink's address by a join code, for a car whose node.toml names none."""
    return addresses.join(addresses.split(code.server_addresses[0])[0], port)


def superlink_address(reached: str, told: str) -> str:
    """Return the SuperLink's address for a car that was invited.

    Args:
        reached: HOST:PORT at which the server's web port was reached.
        told: what the server says of its Fleet API, or "".
    """
    host, port = addresses.split(reached)[0], FLEET_PORT
    try:
        told_host, port = addresses.split(told)
    except ValueError:
        return addresses.join(host, port)
    local = told_host in ("0.0.0.0", "::", "localhost") or told_host.startswith("127.")  # noqa: S104  # compared only
    return addresses.join(host if local else told_host, port)


# -- what people are told


@dataclass(frozen=True, slots=True)
class Standings:
    """Texts of the conditions and of the gate; each empty while there is nothing to say."""

    gate: str = ""
    pending: str = ""
    refused: str = ""
    refused_hint: str = ""
    changed: str = ""
    changed_hint: str = ""
    held: str = ""
    plain: str = ""
    plain_refused: bool = False
    """The SuperLink speaks plain and node.toml does not allow it."""


_BROKEN = (Trouble.REFUSED, Trouble.OTHER_NAME, Trouble.KEY)


def standings(facts: Facts) -> Standings:
    """Return what there is to say of the identity."""
    settings, identity, problem = facts.settings, facts.identity, facts.problem
    standing = identity.standing if identity is not None else Standing.NEW
    shut = (secure(settings) and not own_roots(settings)) or settings.partition_id is None
    required = wants_to_join(settings) or facts.demanded
    said = Standings()
    if problem is not None and problem.trouble is Trouble.OTHER_AUTHORITY:
        said = replace(said, changed=problem.message, changed_hint=problem.hint)
    elif problem is not None and problem.trouble in _BROKEN and required:
        said = replace(said, refused=problem.message, refused_hint=problem.hint)
    match standing:
        case Standing.ACCEPTED:
            plain = not identity.superlink_tls and not own_roots(settings) if identity is not None else False
            if plain and secure(settings):
                text = "the SuperLink does not use TLS, and this car accepts nothing else"
                said = replace(said, plain=text, plain_refused=True, gate=text)
            return said if said.plain else replace(said, plain=_plain(settings, identity))
        case Standing.REVOKED | Standing.REJECTED:
            word = "revoked" if standing is Standing.REVOKED else "rejected"
            text = f"an operator has {word} this car{_by_key(identity)}"
            gate = text if standing is Standing.REVOKED or shut else ""
            return replace(said, refused=text, refused_hint="", gate=gate)
        case Standing.HELD:
            text = f"the server holds this car: another board uses the same identity{_by_key(identity)}"
            return replace(said, held=text, gate=text)
    waiting = _waiting(settings, identity, problem)
    if said.changed or said.refused:
        gate = said.changed or said.refused
        return replace(said, gate=gate if shut else "", plain=_plain(settings, identity))
    if not required and (identity is None or standing is not Standing.PENDING):
        return replace(said, plain=_plain(settings, identity))
    return replace(said, pending=waiting, gate=waiting if shut else "", plain=_plain(settings, identity))


def _waiting(settings: Settings, identity: Identity | None, problem: Problem | None) -> str:
    if identity is not None and identity.standing is Standing.PENDING:
        name = settings.node_name or "this car"
        text = f"{name} waits for an operator to accept it{_by_key(identity)}"
        return f"{text}; the server's authority is {authority.shown(identity.ca_fingerprint)}"
    return "this car has not joined yet" + (f": {problem.message}" if problem is not None else "")


def _by_key(identity: Identity | None) -> str:
    return f" (its key is {identity.key_fingerprint})" if identity is not None else ""


def _plain(settings: Settings, identity: Identity | None) -> str:
    """Return what is open while node.toml allows it; nothing for a SuperLink on this machine."""
    host = addresses.split(settings.superlink)[0]
    tls = own_roots(settings) or (identity is not None and identity.superlink_tls)
    if settings.insecure is not True or tls or addresses.is_loopback(host):
        return ""
    return "no TLS to the SuperLink: models can be read and changed on the way, and anybody can pretend to be this car"
