"""Forms of the page: read within bounds, and only when they were made by this page for this browser.

Every form is plain text fields; the standard library reads those, and nothing here takes files.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.responses import HTMLResponse, Response

from fleven.server.access.model import IdentityKind
from fleven.server.access.requests import cookie_attributes, cookie_names
from fleven.server.access.secrets import SECRET, form_token, form_token_fits, new_secret
from fleven.server.http.access_guard import identity_of
from fleven.server.http.request_body import RequestError, read_body

Render = Callable[..., HTMLResponse]
"""Renders a template for a request: `render(request, "fleet.html", nodes=…)`."""
FORM_BYTES = 10_000
FIELDS = 20
FORM_COOKIE_SECONDS = 12 * 3600
FIELD = "form"
"""The hidden field with the form's token."""


def form_cookie(request: Request) -> str:
    """Return the cookie that this browser's forms are made for: the session's, or before a login one of its own."""
    names = cookie_names(request.scope["scheme"])
    identity = identity_of(request)
    logged_in = identity is not None and identity.kind is IdentityKind.USER
    return request.cookies.get(names.session if logged_in else names.form, "")


def form_token_of(request: Request) -> str:
    """Return the token for the forms of a page that is being rendered; empty before there is a cookie for it."""
    cookie = form_cookie(request)
    return form_token(cookie) if SECRET.fullmatch(cookie) else ""


def fresh_form(request: Request) -> tuple[str, str | None]:
    """Return the token for a form that is shown without login, and the header that sets its cookie if there is none."""
    cookie = form_cookie(request)
    if SECRET.fullmatch(cookie):
        return form_token(cookie), None
    cookie, scheme = new_secret(), request.scope["scheme"]
    header = f"{cookie_names(scheme).form}={cookie}{cookie_attributes(scheme, FORM_COOKIE_SECONDS)}"
    return form_token(cookie), header


async def submitted(request: Request) -> dict[str, str]:
    """Return the fields of a form.

    Raises:
        RequestError: it is no form, too large, or was not made by this page for this browser.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise RequestError(415, "form-expected", "this address accepts only forms of the page")
    body = await read_body(request, limit_bytes=FORM_BYTES, unpacked_limit_bytes=FORM_BYTES)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS, errors="strict")
    except ValueError as error:
        raise RequestError(400, "form-malformed", "the form cannot be read") from error
    fields = dict(pairs)
    if not form_token_fits(form_cookie(request), fields.pop(FIELD, "")):
        raise RequestError(
            403, "form-outdated", "this form was not made for this browser, or is too old", hint="load the page again"
        )
    return fields


def set_cookie(response: Response, header: str | None) -> Response:
    """Return the response with a cookie's header, where there is one to set."""
    if header is not None:
        response.headers.append("Set-Cookie", header)
    return response
