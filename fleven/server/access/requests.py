"""What a request's headers say about who may have sent it: names of the server, origins, cookies. Pure.

A web page of somebody else can make a browser send requests here, and can give its own name this server's address (DNS
rebinding). Both show in headers that such a page cannot choose. Must not import FastAPI or the register.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import NamedTuple

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class CookieNames(NamedTuple):
    """The names of the cookies on one transport."""

    session: str
    form: str


SECURE_COOKIES = CookieNames("__Host-fleven-session", "__Host-fleven-form")
"""A browser takes a `__Host-` cookie only over TLS, from this very host, for the whole of it."""
PLAIN_COOKIES = CookieNames("fleven-session", "fleven-form")
"""Without TLS there are no such cookies; a session that was begun on one transport does not hold on the other."""


def cookie_names(scheme: str) -> CookieNames:
    """Return the names of the cookies for `http` or `https`."""
    return SECURE_COOKIES if scheme == "https" else PLAIN_COOKIES


def cookie_attributes(scheme: str, maximum_age_seconds: int) -> str:
    """Return what follows a cookie's value."""
    secure = "; Secure" if scheme == "https" else ""
    return f"; Path=/; Max-Age={maximum_age_seconds}; HttpOnly; SameSite=Lax{secure}"


def host_of(header: str) -> str:
    """Return the host of a Host header or an authority, in small letters, without port, brackets and final dot."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    host = text.rpartition(":")[0] if text.count(":") == 1 else text
    return host.rstrip(".")


def is_address(host: str) -> bool:
    """Return whether a host is an IP address: a rebinding page always comes by a name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Return whether a client's address is one of this machine's own."""
    try:
        return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False


def host_is_ours(header: str, names: Collection[str]) -> bool:
    """Return whether a request was meant for this server.

    Args:
        header: of the request, `host` or `host:port`.
        names: what this server is called, in small letters, wildcards of certificates among them.
    """
    host = host_of(header)
    if not host:
        return False
    if host == "localhost" or host.endswith(".localhost") or is_address(host):
        return True
    # A certificate's `*.example.org` stands for one label.
    return host in names or f"*.{host.partition('.')[2]}" in names


def origin_is_ours(origin: str | None, fetch_site: str | None, host: str) -> bool:
    """Return whether a request that changes something comes from a page of this server, as far as headers tell.

    Args:
        origin: the header Origin; programs send none.
        fetch_site: the header Sec-Fetch-Site; browsers send it to secure addresses.
        host: the header Host.
    """
    if fetch_site is not None and fetch_site not in ("same-origin", "none"):
        return False
    if origin is None:
        return True
    scheme, separator, authority = origin.partition("://")
    if scheme not in ("http", "https") or not separator:
        return False
    default = ":443" if scheme == "https" else ":80"
    return authority.lower().removesuffix(default) == host.strip().lower().removesuffix(default)


def local_path(wanted: str, default: str = "/") -> str:
    """Return where to go after a login: a path of this server, never another place.

    Args:
        wanted: what the address of the login page says.
        default: where to go when that is no such path.
    """
    fine = wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and wanted.isprintable()
    if not fine or "\\" in wanted or wanted.partition("?")[0] in ("/login", "/logout") or len(wanted) > 500:
        return default
    return wanted


def bearer(header: str | None) -> str | None:
    """Return the token of an Authorization header; None when it has another form or is missing."""
    scheme, _, token = (header or "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
