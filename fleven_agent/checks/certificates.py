"""Certificates: how long they remain valid."""

import socket
import ssl
import time
from urllib.parse import urlsplit

from fleven_agent.checks.context import Context, configured, settings_of
from fleven_agent.common import addresses, tailscale
from fleven_agent.common.checks import Check, Result, error, ok, skipped, warning
from fleven_agent.identity.secure_http import TlsProblem, Trust, context_of, tls_problem, tls_sentence

WARNING_DAYS = 30


def judge(name: str, not_after: str, now: float) -> Result:
    """Judge an end of validity, as OpenSSL writes it ("Jan  5 09:34:43 2028 GMT")."""
    days = (ssl.cert_time_to_seconds(not_after) - now) / 86_400
    if days < 0:
        return error(f"{name} expired {-days:.0f} days ago", "issue a new one")
    if days < WARNING_DAYS:
        return warning(f"{name} expires in {days:.0f} days", "issue a new one in time")
    return ok(f"{name} is valid for {days:.0f} days")


def roots(context: Context) -> Result:
    """The CA certificates that this node trusts."""
    path = settings_of(context).root_certificates
    if path is None:
        return skipped("no root-certificates is set, and this car has pinned no authority")
    try:
        store = ssl.create_default_context(cafile=path)
    except PermissionError as caught:
        return skipped(f"{path}: {caught.strerror}; run the check as root")
    except (ssl.SSLError, OSError) as caught:
        return error(f"{path}: {caught}", "it must hold CA certificates in PEM form")
    ends = [str(one["notAfter"]) for one in store.get_ca_certs() if "notAfter" in one]
    if not ends:
        return error(f"{path} holds no CA certificate", "it must hold CA certificates in PEM form")
    # In an overlap of two authorities the older one's end is nobody's concern.
    return judge(path, max(ends, key=ssl.cert_time_to_seconds), time.time())


def superlink(context: Context) -> Result:
    """The SuperLink's own certificate."""
    settings = settings_of(context)
    if settings.insecure is not False:
        return skipped("no TLS is used")
    host, port = addresses.split(settings.superlink)
    return _presented(context, host, port, Trust(settings.root_certificates, None), "the SuperLink's certificate")


def server(context: Context) -> Result:
    """The certificate of the server's web port."""
    access = context.access
    parts = urlsplit(access.url if access is not None else "")
    if access is None or parts.scheme != "https":
        return skipped("no TLS is used")
    return _presented(context, parts.hostname or "", parts.port or 443, access.trust, "the server's certificate")


def _presented(context: Context, host: str, port: int, trust: Trust, name: str) -> Result:
    """Judge the certificate that is shown at an address; one that fails says why."""
    try:
        with (
            socket.create_connection((host, port), timeout=context.timeout_seconds) as raw,
            context_of(trust).wrap_socket(raw, server_hostname=trust.server_name or host) as link,
        ):
            certificate = link.getpeercert() or {}
    except ssl.SSLError as caught:
        if tls_problem(caught) in (TlsProblem.EXPIRED, TlsProblem.NOT_YET_VALID):
            hint = "renew it on the server, `fleven-server trust renew`, or set this car's clock: `timedatectl`"
            return error(f"{name}: {tls_sentence(caught)}", hint)
        return skipped(f"no TLS connection: {tls_sentence(caught)}")
    except OSError as caught:
        return skipped(f"no TLS connection: {caught.strerror or caught}")
    end = certificate.get("notAfter")
    if not isinstance(end, str):
        return skipped("the certificate has no expiry date")
    return judge(name, end, time.time())


def tailscale_key(_context: Context) -> Result:
    """Tailscale's own key of this board: when it ends, the car is out of the tailnet and nobody reaches it."""
    found = tailscale.tailscale_status()
    if found is None:
        return skipped("Tailscale is not installed, is not running, or does not answer this user")
    if found.key_ends is None:
        return ok("Tailscale's key does not expire")
    return judge_tailscale(found.key_ends.timestamp() - time.time())


def judge_tailscale(left_seconds: float) -> Result:
    """Judge how long Tailscale's key still holds [s]."""
    days = left_seconds / 86_400
    hint = "sudo tailscale up --force-reauth, or disable key expiry for this machine"
    if days < 0:
        return error(f"Tailscale's key expired {-days:.0f} days ago: this board is out of the tailnet", hint)
    if days < WARNING_DAYS:
        return warning(f"Tailscale's key expires in {days:.0f} days: the board is out of the tailnet then", hint)
    return ok(f"Tailscale's key is valid for {days:.0f} days")


CHECKS = (
    Check("certificates.roots", "root certificates", configured(roots)),
    Check("certificates.superlink", "certificate of the SuperLink", configured(superlink)),
    Check("certificates.server", "certificate of the server", configured(server)),
    Check("certificates.tailscale", "Tailscale's own key", tailscale_key),
)
