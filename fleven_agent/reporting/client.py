"""One exchange with the server: POST a batch, read the answer. Blocking, with deadlines; runs on the reporter's thread.

The answer is checked by hand, since the report's pydantic classes are too large for the daemon; a test feeds both the
same answers. Imports spool for compression and ``identity.secure_http`` for the connection.
"""

import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from fleven_agent.common.endpoints import DESCRIPTIONS, classify
from fleven_agent.common.foreign_text import printable
from fleven_agent.identity.model import Told
from fleven_agent.identity.secure_http import TlsProblem, Trust, open_connection, tls_problem, tls_sentence
from fleven_agent.protocol.codes import ATTENTION_PATH, REPORTS_PATH, Attention
from fleven_agent.protocol.identity import AUTHORITIES_HEADER, IdentityStatus, Refusal
from fleven_agent.reporting.session import Exchange, Session
from fleven_agent.reporting.spool import compress

LARGEST_OFFER_BYTES = 2**40
"""Beyond any model: what is larger is no offer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said; the fields of ``report.ReportAnswer``."""

    acknowledged: dict[str, int]
    clock_offset_seconds: float | None
    """Server's clock minus ours, half of the travel time taken off."""
    server_version: str | None
    flwr_version: str | None
    drain: tuple[bool, str] | None
    problems: tuple[tuple[str, str, str], ...]
    """(code, message, hint)"""
    flower_offline: dict[str, float] = field(default_factory=dict)
    """Ids of Flower that its own list calls offline, and for how long [s]."""
    identity: Told | None = None
    """How the identity stands with which the batch was sent; None when it was sent without."""
    attention: Attention | None = None
    """How closely the server wants to follow this car; None from a server that does not say."""
    pull_floor_seconds: float | None = None
    wants_whole_report: bool = False
    model: tuple[str, str, int] | None = None
    """Name, SHA-256 and bytes of the model that the car should have; None when it has it, or none is offered."""


class DeliveryError(Exception):
    """The batch was not taken.

    Args:
        message: one sentence.
        refused: the server understood the batch and will never take it.
        unauthorised: the server wants another report token, so that waiting does not help.
        identity: what the server says of this car's identity, or that it wants one; None when it says nothing of it.
        tls: why TLS failed; None when it did not.
    """

    def __init__(
        self,
        message: str,
        *,
        refused: bool = False,
        unauthorised: bool = False,
        identity: Refusal | None = None,
        tls: TlsProblem | None = None,
    ) -> None:
        super().__init__(message)
        self.refused = refused
        self.unauthorised = unauthorised
        self.identity = identity
        self.tls = tls


@dataclass(frozen=True, slots=True)
class Change:
    """A report by what differs from one that the server has; the fields of ``report.ReportChange``."""

    sender_id: str
    base: int
    patch: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """The server, and who asks it.

    Attributes:
        url: http or https address, without the path of the API.
        timeout_seconds: for connecting, and for each wait for bytes.
        root_certificates: CA file for https; None means the system's.
        user_agent: names the program and its version.
        token: the secret of this car's identity, or the fleet's report token.
        server_name: the name that the certificate must carry; None means the host of ``url``.
        authorities: fingerprints of the certificates that this car trusts (``protocol.identity.authorities_text``).
    """

    url: str
    timeout_seconds: float
    root_certificates: str | None
    user_agent: str
    token: str | None = field(default=None, repr=False)
    server_name: str | None = None
    authorities: str = ""


def deliver(
    target: Target,
    reports: Sequence[Mapping[str, Any]],
    *,
    change: Change | None = None,
    session: Session | None = None,
) -> Answer:
    """Send reports to ``URL/v1/reports``.

    Args:
        target: where they go.
        reports: in the order of their sequence.
        change: what stands for the one report that there would be.
        session: keeps the connection; without one it is closed after the exchange.

    Raises:
        DeliveryError: when it failed, with one sentence that says why.
    """
    batch: dict[str, Any] = {"reports": list(reports)} if change is None else {"change": asdict(change)}
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    if target.authorities and change is None:  # what is changed is a report with which the server has learned them
        headers[AUTHORITIES_HEADER] = target.authorities
    body = compress(json.dumps(batch, separators=(",", ":")).encode())
    response = _exchange(session, target, REPORTS_PATH, headers=headers, body=body)
    return read_answer(response.content, (response.began + response.ended) / 2)


def attend(
    target: Target, sender_id: str, known: Attention, *, wait_seconds: float, session: Session
) -> tuple[Attention, float | None]:
    """Ask ``URL/v1/attention``, and wait for the answer: how closely the server wants to follow this car.

    Args:
        target: who is asked; its timeout is for connecting, and for what the answer takes beyond ``wait_seconds``.
        sender_id: of this car.
        known: the attention that the server is taken to pay; its answer comes when that is another.
        wait_seconds: the answer comes after this time even if it is the same.
        session: keeps the connection.

    Returns:
        The attention, and the shortest time between two questions to the SuperLink [s] where the server says it.

    Raises:
        DeliveryError: when it failed, with one sentence that says why.
    """
    query = f"?sender={sender_id}&known={known.value}&seconds={wait_seconds:.0f}"
    patient = replace(target, timeout_seconds=wait_seconds + target.timeout_seconds)
    response = _exchange(session, patient, ATTENTION_PATH + query, headers={})
    try:
        answer = json.loads(response.content)
        found, floor = _attention(answer["attention"]), _amount(answer.get("pull_floor_seconds"))
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        found, floor = None, None
    if found is None:
        raise DeliveryError("the server's answer does not say how closely it follows this car")
    return found, floor


def fetch(target: Target, path: str, first: int, last: int, *, session: Session) -> bytes:
    """Fetch a part of a file, from byte ``first`` to byte ``last``, both counted from 0 and both included.

    Args:
        target: who has it; its timeout is for connecting, for each wait for bytes and for the part as a whole.
        path: of the file.
        first: the first byte.
        last: the last byte; the part must fit into one answer (``session.MAXIMUM_ANSWER_BYTES``).
        session: keeps the connection.

    Raises:
        DeliveryError: when it failed, with one sentence that says why.
    """
    headers = {"Range": f"bytes={first}-{last}"}
    response = _exchange(session, target, path, headers=headers, good=http.HTTPStatus.PARTIAL_CONTENT)
    if len(response.content) != last - first + 1:
        raise DeliveryError("the server sent a different part of the file from the one that was asked for")
    return response.content


def _exchange(
    session: Session | None,
    target: Target,
    path: str,
    *,
    headers: dict[str, str],
    body: bytes | None = None,
    good: int = 200,
) -> Exchange:
    """Send a request and return its good answer; raises ``DeliveryError`` for any other."""
    parts, trust = urlsplit(target.url), Trust(target.root_certificates, target.server_name)
    headers["User-Agent"] = target.user_agent
    if target.token is not None:
        headers["Authorization"] = f"Bearer {target.token}"
    if session is None:
        headers["Connection"] = "close"
    kept = session or Session()
    try:
        response = kept.exchange(
            (parts.scheme, parts.netloc, trust),
            lambda: open_connection(
                parts.scheme,
                parts.hostname or "",
                parts.port,
                timeout_seconds=min(target.timeout_seconds, 60.0),
                trust=trust,
            ),
            "GET" if body is None else "POST",
            parts.path.rstrip("/") + path,
            body=body,
            headers=headers,
            timeout_seconds=target.timeout_seconds,
        )
    except (OSError, http.client.HTTPException, ValueError) as error:
        problem = tls_problem(error) if isinstance(error, ssl.SSLError) else None
        raise DeliveryError(_sentence(error), tls=problem) from None
    finally:
        if session is None:
            kept.close()
    content = response.content
    refusal = _refusal(content) if response.status in (401, 403) else None
    if refusal is not None:
        raise DeliveryError(_REFUSED[refusal], identity=refusal)
    if response.status == 401:
        which = "a" if target.token is None else "another"
        raise DeliveryError(f"the server asks for {which} report token", unauthorised=True)
    if response.status != good:
        refused = response.status in (400, 413, 422)
        reason, detail = _line(response.reason, 100), _line(content[:400].decode("utf-8", "replace"), 200)
        raise DeliveryError(f"the server answered {response.status} {reason}: {detail}", refused=refused)
    return response


_REFUSED = {
    Refusal.IDENTITY_REQUIRED: "the server accepts no reports from a car that has not joined",
    Refusal.IDENTITY_UNKNOWN: "the server does not know this car's identity",
    Refusal.IDENTITY_WRONG: "the server has another secret for this car",
    Refusal.IDENTITY_PENDING: "the server waits for an operator to accept this car",
    Refusal.IDENTITY_REJECTED: "an operator has rejected this car",
    Refusal.IDENTITY_REVOKED: "an operator has revoked this car",
    Refusal.IDENTITY_HELD: "the server holds this car: its identity is used by two boards",
}
"""What a refused identity means, by the code of the answer."""


def _refusal(content: bytes) -> Refusal | None:
    """Return what an answer of 401 or 403 says of the identity."""
    try:
        code = json.loads(content)["code"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    return next((one for one in _REFUSED if one == code), None)


def _sentence(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return _line(str(error), 300) or "timed out"
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
        # It holds the other's bytes as they came: an HTTP/2 server begins with a frame, a TLS server with an alert.
        found = classify(str(error.args[0]).encode("latin-1", "replace"))
        return f"what answers there does not speak HTTP/1: it is {DESCRIPTIONS[found]}"
    if isinstance(error, ssl.SSLError):
        return tls_sentence(error)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _line(str(text), 300)


def _line(text: str, characters: int) -> str:
    """Return what came from outside as one line that may be shown."""
    return printable(" ".join(text.split()))[:characters]


def read_answer(content: bytes, middle: float) -> Answer:
    """Check and read an answer; unknown fields are ignored.

    Args:
        content: body of the answer.
        middle: our wall clock in the middle of the exchange [s since the epoch].

    Raises:
        DeliveryError: when it is not an answer to a report.
    """
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        raise DeliveryError("the server's answer is not JSON") from None
    acknowledged = answer.get("acknowledged") if isinstance(answer, dict) else None
    if not isinstance(acknowledged, dict):
        raise DeliveryError("the server's answer does not say which reports it has stored")
    try:
        return Answer(
            acknowledged={str(sender): _sequence(value) for sender, value in acknowledged.items()},
            clock_offset_seconds=_offset(answer.get("server_time"), middle),
            server_version=_text(answer.get("server_version")),
            flwr_version=_text(answer.get("flwr_version")),
            drain=_drain(answer.get("drain")),
            problems=_problems(answer.get("problems")),
            flower_offline=_offline(answer.get("flower_offline")),
            identity=_identity(answer.get("identity")),
            attention=_attention(answer.get("attention")),
            pull_floor_seconds=_amount(answer.get("pull_floor_seconds")),
            wants_whole_report=answer.get("wants_whole_report") is True,
            model=_model(answer.get("model")),
        )
    except (ValueError, OverflowError) as error:
        raise DeliveryError(f"the server's answer cannot be understood: {error}") from None


def _attention(value: object) -> Attention | None:
    if not isinstance(value, str):
        return None
    return next((one for one in Attention if one == value), Attention.RUN)


def _amount(value: object) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    return float(value) if good and isinstance(value, int | float) else None


def _sequence(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("acknowledged holds something that is not a sequence number")
    return value


def _text(value: object) -> str | None:
    return printable(value[:4_000]) if isinstance(value, str) else None


def _offset(value: object, middle: float) -> float | None:
    if not isinstance(value, str):
        return None
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("server_time has no offset from UTC")
    return moment.timestamp() - middle


def _drain(value: object) -> tuple[bool, str] | None:
    if not isinstance(value, dict) or not isinstance(value.get("active"), bool):
        return None
    return value["active"], _text(value.get("reason")) or ""


def _problems(value: object) -> tuple[tuple[str, str, str], ...]:
    if not isinstance(value, list):
        return ()
    found = [item for item in value[:20] if isinstance(item, dict) and isinstance(item.get("code"), str)]
    return tuple(
        (_text(item["code"]) or "", _text(item.get("message")) or "", _text(item.get("hint")) or "") for item in found
    )


def _offline(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    numbers = (
        (name, seconds)
        for name, seconds in value.items()
        if isinstance(seconds, int | float) and not isinstance(seconds, bool)
    )
    return {str(name): float(seconds) for name, seconds in numbers if 0 <= seconds < float("inf")}


def _model(value: object) -> tuple[str, str, int] | None:
    """Return the model that is offered; None for what is no offer: it becomes the name of a file."""
    if not isinstance(value, dict):
        return None
    sha256, size = value.get("sha256"), value.get("bytes")
    if not isinstance(sha256, str) or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        return None
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < LARGEST_OFFER_BYTES:
        return None
    return (_text(value.get("name")) or "")[:255], sha256, size


def _identity(value: object) -> Told | None:
    """Return what is said of the identity; None when that cannot be understood: the reports are stored all the same."""
    status = next((one for one in IdentityStatus if isinstance(value, dict) and one == value.get("status")), None)
    if status is None or not isinstance(value, dict):
        return None
    number, count, node_id = value.get("partition_id"), value.get("num_partitions"), value.get("node_id")
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        return None
    certificates = value.get("ca_certificates")
    return Told(
        status=status,
        name=_text(value.get("name")) or "",
        partition_id=number,
        num_partitions=count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None,
        node_id=node_id if isinstance(node_id, str) and node_id.isdecimal() else None,
        superlink_tls=value.get("superlink_transport") != "plain",
        rotate=value.get("rotate") is True,
        report_again=value.get("report_again") is True,
        ca_certificates=certificates if isinstance(certificates, str) and len(certificates) <= 32_768 else None,
    )
