"""The network: names, ports and TLS on the way to the SuperLink and to the report address."""

import socket
import ssl
from urllib.parse import urlsplit

from fleven_agent.checks.context import Context, configured, settings_of
from fleven_agent.common import addresses
from fleven_agent.common.addresses import connect_problem
from fleven_agent.common.checks import Check, Result, error, ok, skipped
from fleven_agent.monitoring.conditions import CATALOGUE
from fleven_agent.protocol.codes import ConditionCode
from fleven_agent.reporting.client import Answer


def _report_address(context: Context) -> tuple[str, int]:
    parts = urlsplit(settings_of(context).report_url or "")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _resolve(host: str) -> Result:
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError as caught:
        return error(f"{host} cannot be resolved: {caught.strerror}", "check DNS, or use the tailnet address itself")
    return ok(f"{host} is {', '.join(found)}")


def superlink_dns(context: Context) -> Result:
    """The SuperLink's name."""
    return _resolve(addresses.split(settings_of(context).superlink)[0])


def _connect(context: Context, address: str, who: str) -> Result:
    problem = connect_problem(address, context.timeout_seconds)
    if problem:
        return error(f"{who} at {address}: {problem}", f"check the VPN, firewalls, and that {who} runs there")
    return ok(f"{address} accepts connections")


def superlink_tcp(context: Context) -> Result:
    """The SuperLink's port."""
    return _connect(context, settings_of(context).superlink, "the SuperLink")


def superlink_tls(context: Context) -> Result:
    """A TLS handshake with the SuperLink, against root-certificates."""
    settings = settings_of(context)
    if settings.insecure:
        return skipped("no TLS is used")
    host, port = addresses.split(settings.superlink)
    tls = ssl.create_default_context(cafile=settings.root_certificates)
    tls.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=context.timeout_seconds) as raw,
            tls.wrap_socket(raw, server_hostname=host) as link,
        ):
            return ok(f"{link.version()} with a certificate of {settings.root_certificates}")
    except ssl.SSLError as caught:
        hint = "root-certificates must be the CA that signed the SuperLink's certificate, which must name its address"
        return error(f"TLS with {settings.superlink} fails: {caught.reason or caught}", hint)
    except OSError as caught:
        return error(f"{settings.superlink}: {caught.strerror or caught}", "see network.superlink-tcp")


def report_dns(context: Context) -> Result:
    """The report address's name."""
    return _resolve(_report_address(context)[0])


def report_tcp(context: Context) -> Result:
    """The report address's port."""
    host, port = _report_address(context)
    return _connect(context, addresses.join(host, port), "fleven-server")


def report_http(context: Context) -> Result:
    """The server accepts reports."""
    if isinstance(context.answer, Answer):
        return ok(f"fleven-server {context.answer.server_version or ''} accepts reports".replace("  ", " "))
    hint = "check report-url, and that fleven-server runs there; training goes on without it"
    if context.answer.unauthorised:
        hint = CATALOGUE[ConditionCode.REPORT_REJECTED].hint
    return error(f"{settings_of(context).report_url}: {context.answer}", hint)


CHECKS = (
    Check("network.superlink-dns", "name of the SuperLink", configured(superlink_dns)),
    Check("network.superlink-tcp", "port of the SuperLink", configured(superlink_tcp)),
    Check("network.superlink-tls", "TLS with the SuperLink", configured(superlink_tls)),
    Check("network.report-dns", "name of the server", configured(report_dns)),
    Check("network.report-tcp", "port of the server", configured(report_tcp)),
    Check("network.report-http", "reports to the server", configured(report_http)),
)
