"""What this car and the server say to each other before a report: whom to trust, the request to join, a new key.

Blocking, with deadlines: runs on the keeper's thread and in `fleven-agent join`. Nothing but the question whose
certificates the server has is sent before the server's authority is known. Answers are checked by hand, since the
pydantic classes of ``protocol.enrolment`` are too large for the daemon; a test feeds both the same answers.
"""

import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleven_agent import __version__
from fleven_agent.common import addresses
from fleven_agent.common.foreign_text import printable
from fleven_agent.identity import authority
from fleven_agent.identity.model import EnrolAnswer, ExchangeError, Standing, Trouble
from fleven_agent.identity.secure_http import (
    SecureConnection,
    TlsProblem,
    Trust,
    context_of,
    context_of_certificate,
    read_all,
    tls_problem,
    tls_sentence,
)
from fleven_agent.protocol.identity import ENROL_PATH, ROTATE_PATH, SERVER_NAME, TRUST_PATH

MAXIMUM_ANSWER_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Authority:
    """A server that was reached, and its authority."""

    address: str
    """HOST:PORT at which it answered."""
    bundle: str
    """Its certificates in PEM, the present one first."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the present one."""
        return authority.fingerprints(self.bundle)[0]


def find_authority(
    server_addresses: Sequence[str], expected: str | None, timeout_seconds: float, own: Trust | None = None
) -> Authority:
    """Return the first of the servers that answers with its authority, proven by a connection that is verified by it.

    Args:
        server_addresses: HOST:PORT each, in the order to try.
        expected: fingerprint that the authority must have (a join code's, or the pinned one); None at a first contact.
        timeout_seconds: for each wait.
        own: the operator's own certificates, which then vouch for the server in place of its authority.

    Raises:
        ExchangeError: none answers, or not with that authority.
    """
    problem: ExchangeError | None = None
    for address in server_addresses:
        try:
            if own is not None:
                answer = _call(address, context_for(own), "GET", TRUST_PATH, timeout_seconds, own)
                return Authority(address, _certificates(answer))
            return _authority_at(address, expected, timeout_seconds)
        except ExchangeError as error:
            # Somebody else's authority at one address of a list is worse news than silence at the others.
            if problem is None or error.trouble is Trouble.OTHER_AUTHORITY:
                problem = error
    if problem is None:
        raise ExchangeError(Trouble.UNREACHABLE, "no address of a server is known")
    raise problem


def _authority_at(address: str, expected: str | None, timeout_seconds: float) -> Authority:
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    bundle = _certificates(_call(address, unverified, "GET", TRUST_PATH, timeout_seconds))
    offered = {authority.fingerprint(one): one for one in authority.split(bundle)}
    if expected is not None and expected not in offered:
        first = authority.shown(next(iter(offered)))
        raise ExchangeError(
            Trouble.OTHER_AUTHORITY,
            f"the server at {address} has a different authority from the one that this car was told: {first}",
            hint="compare with `fleven-server trust status`: it may be another server, or somebody between",
        )
    # What came unverified counts for nothing but the one certificate; the rest is asked for again, verified by it.
    anchor = offered[expected] if expected is not None else authority.split(bundle)[0]
    try:
        verified = context_of_certificate(anchor)
    except OSError:
        raise ExchangeError(Trouble.DAMAGED, f"the authority of the server at {address} is not a certificate") from None
    return Authority(address, _certificates(_call(address, verified, "GET", TRUST_PATH, timeout_seconds)))


def _certificates(answer: Mapping[str, Any]) -> str:
    bundle = answer.get("ca_certificates")
    try:
        return "".join(authority.split(bundle if isinstance(bundle, str) else ""))
    except ValueError as error:
        raise ExchangeError(Trouble.DAMAGED, f"the server's answer cannot be understood: {error}") from None


def enrol(address: str, trust: Trust, request: Mapping[str, Any], timeout_seconds: float) -> EnrolAnswer:
    """Ask to join, or how a request stands.

    Raises:
        ExchangeError: the server refuses, or cannot be asked.
    """
    return read_enrol_answer(_call(address, context_for(trust), "POST", ENROL_PATH, timeout_seconds, trust, request))


def rotate(address: str, trust: Trust, request: Mapping[str, Any], bearer: str, timeout_seconds: float) -> EnrolAnswer:
    """Bring the server a new key and secret, with the proof of the old one.

    Raises:
        ExchangeError: the server refuses, or cannot be asked.
    """
    answer = _call(address, context_for(trust), "POST", ROTATE_PATH, timeout_seconds, trust, request, bearer)
    return read_enrol_answer(answer)


def context_for(trust: Trust) -> ssl.SSLContext:
    """Return the settings of TLS.

    Raises:
        ExchangeError: the file of certificates cannot be used.
    """
    try:
        return context_of(trust)
    except OSError as error:
        message = f"{trust.root_certificates}: {error.strerror or error}"
        raise ExchangeError(Trouble.KEY, message, hint="it must hold certificates in PEM") from None


def _call(
    address: str,
    context: ssl.SSLContext,
    method: str,
    path: str,
    timeout_seconds: float,
    trust: Trust | None = None,
    body: Mapping[str, Any] | None = None,
    bearer: str = "",
) -> dict[str, Any]:
    host, port = addresses.split(address)
    name = trust.server_name if trust is not None else SERVER_NAME
    connection = SecureConnection(host, port, timeout_seconds=timeout_seconds, context=context, server_name=name)
    headers = {"Accept": "application/json", "User-Agent": f"fleven-agent/{__version__}", "Connection": "close"}
    content = None
    if body is not None:
        content, headers["Content-Type"] = json.dumps(body, separators=(",", ":")).encode(), "application/json"
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    try:
        connection.request(method, path, body=content, headers=headers)
        response = connection.getresponse()
        told = read_all(response, timeout_seconds, MAXIMUM_ANSWER_BYTES)
    except ssl.SSLError as error:
        raise _tls_error(address, error) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        text = printable(str(getattr(error, "strerror", None) or error or type(error).__name__))[:200]
        hint = "check the network and the VPN of this car, and that fleven-server runs there"
        raise ExchangeError(Trouble.UNREACHABLE, f"no answer from the server at {address}: {text}", hint=hint) from None
    finally:
        connection.close()
    try:
        answer = json.loads(told)
    except (ValueError, RecursionError):
        answer = None
    if response.status == 200 and isinstance(answer, dict):
        return answer
    raise _refused(address, response, answer if isinstance(answer, dict) else {})


def _tls_error(address: str, error: ssl.SSLError) -> ExchangeError:
    message = f"the server at {address}: {tls_sentence(error)}"
    match tls_problem(error):
        case TlsProblem.OTHER_AUTHORITY:
            hint = "compare `fleven-server trust status` on the server with `fleven-agent status` here"
            return ExchangeError(Trouble.OTHER_AUTHORITY, message, hint=hint)
        case TlsProblem.EXPIRED | TlsProblem.NOT_YET_VALID:
            return ExchangeError(Trouble.CLOCK, message, hint="compare both clocks: `timedatectl`")
        case TlsProblem.OTHER_NAME:
            hint = "for a certificate of your own set reports.root-certificates to its CA in node.toml"
            return ExchangeError(Trouble.OTHER_NAME, message, hint=hint)
        case TlsProblem.NO_TLS:
            hint = "a server of version 0.1.0, or another program: upgrade the server, or check the address"
            return ExchangeError(Trouble.NOT_OFFERED, message, hint=hint)
        case _:
            return ExchangeError(Trouble.UNREACHABLE, message, hint="see the server's journal")


def _refused(address: str, response: http.client.HTTPResponse, answer: Mapping[str, Any]) -> ExchangeError:
    code, message, hint = (_text(answer.get(name)) for name in ("code", "message", "hint"))
    seconds = response.getheader("Retry-After") or ""
    retry = float(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 6 else None
    message = message or f"the server at {address} answered {response.status}"
    if response.status in (404, 405, 501):
        if code != "authority-missing":
            message = f"the server at {address} does not offer joining"
            hint = "the server is older than this package: upgrade fleven-server first"
        return ExchangeError(Trouble.NOT_OFFERED, message, hint=hint)
    if response.status in (429, 503) or response.status >= 500:
        return ExchangeError(Trouble.BUSY, message, hint=hint, code=code, retry_seconds=retry)
    return ExchangeError(Trouble.REFUSED, message, hint=hint, code=code, retry_seconds=retry)


def _text(value: object) -> str:
    return printable(value[:1_000]) if isinstance(value, str) else ""


def _number(value: object, lowest: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and lowest <= value < 2**31 else None


def read_enrol_answer(answer: Mapping[str, Any]) -> EnrolAnswer:
    """Check and read the answer to a request to join or to rotate; unknown fields are ignored.

    Raises:
        ExchangeError: it is none.
    """
    try:
        standing = Standing(answer.get("status"))  # type: ignore[arg-type]  # what is no text is no standing
    except ValueError:
        raise ExchangeError(Trouble.DAMAGED, "the server's answer does not give the status of this car") from None
    car_id, node_id = _text(answer.get("car_id")), answer.get("node_id")
    if standing in (Standing.NEW, Standing.FORGOTTEN) or not car_id.isalnum():
        raise ExchangeError(Trouble.DAMAGED, "the server's answer names no car")
    retry = answer.get("retry_seconds")
    usable = isinstance(retry, int | float) and not isinstance(retry, bool) and 0 <= retry < float("inf")
    certificates = answer.get("ca_certificates")
    found = EnrolAnswer(
        standing=standing,
        car_id=car_id,
        name=_text(answer.get("name")),
        partition_id=_number(answer.get("partition_id"), 0),
        num_partitions=_number(answer.get("num_partitions"), 1),
        node_id=node_id if isinstance(node_id, str) and node_id.isascii() and node_id.isdigit() else None,
        superlink_address=_text(answer.get("superlink_address")),
        superlink_tls=answer.get("superlink_transport") != "plain",
        ca_certificates=_certificates(answer) if certificates else "",
        message=_text(answer.get("message")),
        hint=_text(answer.get("hint")),
        retry_seconds=float(retry) if isinstance(retry, int | float) and usable else None,
    )
    if standing is Standing.ACCEPTED and (found.partition_id is None or not found.name):
        raise ExchangeError(Trouble.DAMAGED, "the server accepted this car, and its answer gives no name or partition")
    return found
