"""The network: names, ports and TLS on the way to the SuperLink and to the report address."""

import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from fleven_agent.checks.context import Context, configured, settings_of
from fleven_agent.common import addresses
from fleven_agent.common.addresses import connect_problem
from fleven_agent.common.checks import Check, Result, error, ok, skipped, warning
from fleven_agent.common.endpoints import DESCRIPTIONS, Protocol, protocol_at
from fleven_agent.config.settings import DEFAULT_REPORT_PORT, FLEET_PORT, Settings
from fleven_agent.identity.secure_http import TlsProblem, tls_problem, tls_sentence
from fleven_agent.monitoring.conditions import CATALOGUE
from fleven_agent.protocol.codes import ConditionCode
from fleven_agent.reporting.client import Answer
from fleven_agent.supernode.flower import Api, line_for
from fleven_agent.system.versions import installed_version


def _report_url(context: Context) -> str:
    """Return where reports go, or will go once this car has joined."""
    access = context.access
    return access.url if access is not None else settings_of(context).report_url or ""


def _report_address(context: Context) -> tuple[str, int]:
    parts = urlsplit(_report_url(context))
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _resolve(host: str) -> Result:
    try:
        found = addresses.resolve(host)
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
    if settings.insecure is not False:
        return skipped("no TLS is used")
    host, port = addresses.split(settings.superlink)
    try:
        with (
            socket.create_connection((host, port), timeout=context.timeout_seconds) as raw,
            _tls(settings).wrap_socket(raw, server_hostname=host) as link,
        ):
            return ok(f"{link.version()} with a certificate of {settings.root_certificates}")
    except ssl.SSLError as caught:
        hint = "root-certificates must be the CA that signed the SuperLink's certificate, which must name its address"
        match tls_problem(caught):
            case TlsProblem.NO_TLS:
                hint = "what answers there does not use TLS: check the port; `fleven-server trust status` on the server"
            case TlsProblem.OTHER_NAME:
                hint = f"add the name on the server: `fleven-server trust add-name {host}`"
            case TlsProblem.EXPIRED | TlsProblem.NOT_YET_VALID:
                hint = "see certificates.superlink and clock.synchronised"
        return error(f"TLS with {settings.superlink} fails: {tls_sentence(caught)}", hint)
    except OSError as caught:
        return error(f"{settings.superlink}: {caught.strerror or caught}", "see network.superlink-tcp")


def _tls(settings: Settings) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=settings.root_certificates)
    tls.set_alpn_protocols(["h2"])
    return tls


def superlink_api(context: Context) -> Result:
    """What answers at the SuperLink's address: its Fleet API, or something else whose port was written."""
    settings = settings_of(context)
    address = settings.superlink
    try:
        found = protocol_at(
            address, context.timeout_seconds, tls=_tls(settings) if settings.insecure is False else None
        )
    except OSError as caught:
        return skipped(f"no connection: {caught.strerror or caught}")
    host = addresses.split(address)[0]
    hint = f'write the SuperLink\'s Fleet API, by default superlink = "{addresses.join(host, FLEET_PORT)}"'
    if found is Protocol.TLS:
        return error(f"{address} is {DESCRIPTIONS[found]}", "set root-certificates to the CA of its certificate")
    if found is not Protocol.HTTP2:
        return error(f"{address} is {DESCRIPTIONS[found]}, and not a SuperLink", hint)
    api = _flower_api(context)
    if api is None:
        return ok(f"{address} is {DESCRIPTIONS[found]}")
    if api is Api.UNKNOWN:
        return warning(f"{address} is {DESCRIPTIONS[found]}, but not one that this Flower knows", hint)
    if api is not Api.FLEET:
        return error(f"{address} is the SuperLink's {api} API, not its Fleet API, which cars connect to", hint)
    return ok(f"{address} is the Fleet API")


def _flower_api(context: Context) -> Api | None:
    """Ask which of Flower's APIs answers; None when that cannot be asked."""
    try:
        import grpc  # comes with Flower, into whose environment the agent is installed
    except ImportError:
        return None
    settings, line = settings_of(context), line_for(installed_version("flwr"))
    options = [("grpc.enable_http_proxy", 0)]
    if settings.insecure is not False:
        channel = grpc.insecure_channel(settings.superlink, options=options)
    else:
        roots = Path(settings.root_certificates or "").read_bytes()
        channel = grpc.secure_channel(settings.superlink, grpc.ssl_channel_credentials(roots), options=options)
    answers: dict[Api, str] = {}
    with channel:
        for api, method in line.api_questions.items():
            try:
                channel.unary_unary(method)(b"", timeout=context.timeout_seconds)
                answers[api] = "OK"
            except grpc.RpcError as caught:
                answers[api] = caught.code().name
    if {"UNAVAILABLE", "DEADLINE_EXCEEDED"} & set(answers.values()):
        return None
    return line.api_of(answers)


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
    host, port = _report_address(context)
    url = _report_url(context)
    scheme = urlsplit(url).scheme
    if port != DEFAULT_REPORT_PORT or urlsplit(url).path.strip("/"):
        usual = f"{scheme}://{addresses.join(host, DEFAULT_REPORT_PORT)}"
        hint = f'check report-url, by default "{usual}", and that fleven-server runs there; training goes on without it'
    if context.answer.unauthorised:
        hint = CATALOGUE[ConditionCode.REPORT_REJECTED].hint
    if context.access is None or context.answer.identity is not None:
        return warning(f"{url}: {context.answer}", "see identity.joined")
    return error(f"{url}: {context.answer}", hint)


CHECKS = (
    Check("network.superlink-dns", "name of the SuperLink", configured(superlink_dns)),
    Check("network.superlink-tcp", "port of the SuperLink", configured(superlink_tcp)),
    Check("network.superlink-tls", "TLS with the SuperLink", configured(superlink_tls)),
    Check("network.superlink-api", "what answers at the SuperLink's address", configured(superlink_api)),
    Check("network.report-dns", "name of the server", configured(report_dns)),
    Check("network.report-tcp", "port of the server", configured(report_tcp)),
    Check("network.report-http", "reports to the server", configured(report_http)),
)
