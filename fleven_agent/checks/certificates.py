"""Certificates: how long they remain valid."""

import socket
import ssl
import time

from fleven_agent.checks.context import Context, configured, settings_of
from fleven_agent.common import addresses
from fleven_agent.common.checks import Check, Result, error, ok, skipped, warning

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
        return skipped("no root-certificates is set")
    try:
        store = ssl.create_default_context(cafile=path)
    except (ssl.SSLError, OSError) as caught:
        return error(f"{path}: {caught}", "it must hold CA certificates in PEM form")
    ends = [str(one["notAfter"]) for one in store.get_ca_certs() if "notAfter" in one]
    if not ends:
        return error(f"{path} holds no CA certificate", "it must hold CA certificates in PEM form")
    return judge(path, min(ends, key=ssl.cert_time_to_seconds), time.time())


def superlink(context: Context) -> Result:
    """The SuperLink's own certificate."""
    settings = settings_of(context)
    if settings.insecure is not False:
        return skipped("no TLS is used")
    host, port = addresses.split(settings.superlink)
    tls = ssl.create_default_context(cafile=settings.root_certificates)
    try:
        with (
            socket.create_connection((host, port), timeout=context.timeout_seconds) as raw,
            tls.wrap_socket(raw, server_hostname=host) as link,
        ):
            certificate = link.getpeercert() or {}
    except OSError as caught:
        return skipped(f"no TLS connection: {caught}")
    end = certificate.get("notAfter")
    if not isinstance(end, str):
        return skipped("the certificate has no expiry date")
    return judge("the SuperLink's certificate", end, time.time())


CHECKS = (
    Check("certificates.roots", "root certificates", configured(roots)),
    Check("certificates.superlink", "certificate of the SuperLink", configured(superlink)),
)
