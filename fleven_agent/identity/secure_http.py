"""HTTP to the server, inside TLS where the address says https: whom a connection trusts, and what its failures mean.

A car trusts the certificates in one file, its ca.crt, and asks for the name that every server of FLEVEn carries in its
certificate: so it does not matter by which address the server is reached. Blocking, with deadlines. Imports the
standard library, ``common`` and ``protocol``; ``ssl`` only when it is needed.
"""

import http.client
import socket
import ssl
import time
from dataclasses import dataclass
from enum import StrEnum

from fleven_agent.common import addresses
from fleven_agent.common.foreign_text import printable


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a connection by https trusts."""

    root_certificates: str | None = None
    """File of certificates in PEM; None means the system's store."""
    server_name: str | None = None
    """The name that the certificate must carry; None means the host of the address."""


class TlsProblem(StrEnum):
    """Why TLS failed, as far as it makes a difference to the operator."""

    OTHER_AUTHORITY = "other-authority"  # signed by somebody whom this car does not trust
    OTHER_NAME = "other-name"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    NO_TLS = "no-tls"  # what answers speaks something else
    OTHER = "other"


# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_VERIFY_CODES = {
    9: TlsProblem.NOT_YET_VALID,
    10: TlsProblem.EXPIRED,
    62: TlsProblem.OTHER_NAME,
    64: TlsProblem.OTHER_NAME,
    **dict.fromkeys((2, 7, 18, 19, 20, 21, 24, 26, 30), TlsProblem.OTHER_AUTHORITY),
}
_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}


def tls_problem(error: OSError) -> TlsProblem:
    """Return what a failure of TLS means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_CODES.get(error.verify_code, TlsProblem.OTHER_AUTHORITY)
    if isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS:
        return TlsProblem.NO_TLS
    return TlsProblem.OTHER


def tls_sentence(error: ssl.SSLError) -> str:
    """Return a failure of TLS as one sentence."""
    match tls_problem(error):
        case TlsProblem.OTHER_AUTHORITY:
            return "its certificate is signed by an authority that this car does not trust"
        case TlsProblem.OTHER_NAME:
            return "its certificate is made for other names"
        case TlsProblem.EXPIRED:
            return "its certificate has expired, or this car's clock is ahead"
        case TlsProblem.NOT_YET_VALID:
            return "its certificate is not valid yet: this car's clock is behind"
        case TlsProblem.NO_TLS:
            return "what answers there does not use TLS"
        case _:
            return f"TLS fails: {printable(str(error.reason or error))[:200]}"


@dataclass(frozen=True, slots=True)
class TlsFailure:
    """Why no connection by TLS can be made.

    Attributes:
        problem: what kind.
        sentence: for people.
    """

    problem: TlsProblem
    sentence: str


def handshake_failure(address: str, root_certificates: str, timeout_seconds: float = 5.0) -> TlsFailure | None:
    """Shake hands with a server of gRPC; return why that fails for the sake of TLS, None when it does not.

    Args:
        address: HOST:PORT; the certificate must hold for its host.
        root_certificates: file of the certificates that are believed.
        timeout_seconds: for connecting, and for each wait for bytes.
    """
    host, port = addresses.split(address)
    try:
        context = ssl.create_default_context(cafile=root_certificates)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, port), timeout=timeout_seconds) as raw,
            context.wrap_socket(raw, server_hostname=host),
        ):
            return None
    except ssl.SSLError as error:
        return TlsFailure(tls_problem(error), tls_sentence(error))
    except OSError:
        return None


def context_of(trust: Trust) -> ssl.SSLContext:
    """Return the settings of TLS for a trust.

    Raises:
        OSError: the file of certificates cannot be used.
    """
    if trust.root_certificates is None:
        return ssl.create_default_context()
    context = _bare_context()
    context.load_verify_locations(cafile=trust.root_certificates)
    return context


def context_of_certificate(certificate: str) -> ssl.SSLContext:
    """Return the settings of TLS that trust one certificate in PEM.

    Raises:
        OSError: it cannot be used.
    """
    context = _bare_context()
    context.load_verify_locations(cadata=certificate)
    return context


def _bare_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class PlainConnection(http.client.HTTPConnection):
    """HTTP in the clear."""

    def connect(self) -> None:
        """Connect."""
        self.sock = _connected(self)


def _connected(connection: http.client.HTTPConnection) -> socket.socket:
    raw = addresses.connect(connection.host, connection.port, connection.timeout)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return raw


class SecureConnection(http.client.HTTPSConnection):
    """HTTPS that asks for a given name instead of the address's.

    Args:
        host: name or address to connect to.
        port: of the server.
        timeout_seconds: for connecting, and for each wait for bytes.
        context: settings of TLS.
        server_name: the name that the certificate must carry; None means ``host``.
    """

    def __init__(
        self, host: str, port: int | None, *, timeout_seconds: float, context: ssl.SSLContext, server_name: str | None
    ) -> None:
        super().__init__(host, port, timeout=timeout_seconds, context=context)
        self._tls, self._server_name = context, server_name

    def connect(self) -> None:
        """Connect and shake hands."""
        raw = _connected(self)
        name = self._server_name or self.host
        try:
            # As bytes where it can be: of a text, ssl makes an international name, with the tables for that.
            self.sock = self._tls.wrap_socket(raw, server_hostname=name.encode("ascii") if name.isascii() else name)
        except BaseException:
            raw.close()
            raise


def open_connection(
    scheme: str, host: str, port: int | None, *, timeout_seconds: float, trust: Trust
) -> http.client.HTTPConnection:
    """Return a connection, not yet made, for the scheme of an address: plain for ``http``.

    Raises:
        OSError: the file of certificates cannot be used.
    """
    if scheme != "https":
        return PlainConnection(host, port, timeout=timeout_seconds)
    context = context_of(trust)
    return SecureConnection(host, port, timeout_seconds=timeout_seconds, context=context, server_name=trust.server_name)


def read_all(response: http.client.HTTPResponse, timeout_seconds: float, maximum_bytes: int) -> bytes:
    """Read an answer against a deadline of its own: a server that trickles bytes would defeat the socket's.

    Raises:
        ValueError: it is too large.
        TimeoutError: it takes too long.
        OSError: the connection is lost.
    """
    deadline, content = time.monotonic() + timeout_seconds, b""
    while chunk := response.read1(65_536):
        content += chunk
        if len(content) > maximum_bytes:
            raise ValueError("the answer is too large")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer takes too long")
    return content
