"""The guard of all routes: nobody reaches one without what `access.routes` demands. Plain ASGI, before any parsing.

It finds out who asks (a session's cookie, a token), refuses foreign host names and foreign pages, and hands the
identity on to the route. A car's own routes pass: they check identities of their own. Must not import templates.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fleven.server.access import store as access_store
from fleven.server.access.model import OPEN_PAGE, Access, Identity, Role
from fleven.server.access.requests import SAFE_METHODS, bearer, cookie_names, host_is_ours, origin_is_ours
from fleven.server.access.routes import LOGIN_PATH, access_of
from fleven.server.access.secrets import SECRET, split_api_token
from fleven.server.errors import ServerError, StoreError
from fleven.server.http.errors import coded_response
from fleven.server.http.rate_limit import limit
from fleven.server.http.request_body import RequestError

if TYPE_CHECKING:
    from fleven.server.http.context import ApiContext

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="fleven"'}
TOKEN_HINT = "on the server: fleven-server users token add NAME --role viewer"  # noqa: S105 -- advice, not a secret


def peer_of(request: Request) -> str:
    """Return the client's address; empty when there is none."""
    return request.client.host if request.client else ""


def identity_of(request: Request) -> Identity | None:
    """Return who asks, as the guard found out; None on a public route without login."""
    found: Identity | None = getattr(request.state, "identity", None)
    return found


def known_identity(request: Request) -> Identity:
    """Return who asks, on a route that nobody reaches without being known."""
    found = identity_of(request)
    if found is None:
        raise RequestError(401, "login-required", "log in first", hint=TOKEN_HINT)
    return found


class AccessGuard:
    """Lets a request through, or answers it."""

    def __init__(self, app: ASGIApp, context: ApiContext) -> None:
        self._app = app
        self._context = context
        self._somebody_may_log_in = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decide about one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            refusal = await self._refusal(request)
        except ServerError as error:
            headers = CHALLENGE if isinstance(error, RequestError) and error.status == 401 else None
            refusal = coded_response(request, error, headers)
        await (refusal or self._app)(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        """Return the answer that ends a request, or None to let it through.

        Raises:
            RequestError: it is refused.
            StoreError: the register cannot be read.
        """
        # Not those of `request.url`: it is put together with the Host header, in which a client may write any path.
        path, headers = request.scope["path"], request.headers
        access = access_of(path)
        host = headers.get("host", "")
        if request.method not in SAFE_METHODS and not origin_is_ours(
            headers.get("origin"), headers.get("sec-fetch-site"), host
        ):
            raise RequestError(403, "origin-foreign", "this request was sent by a page of another server")
        if access is Access.AGENT:
            return None
        limit(self._context.by_address.wait_seconds(peer_of(request)), "this address")
        if access is Access.PUBLIC and path != LOGIN_PATH and not path.startswith("/password/"):
            return None
        if not host_is_ours(host, self._context.access.names.get()):
            raise RequestError(
                421,
                "host-unknown",
                f"this server is not called {host[:100]}",
                hint="use its address or its own name; on the server: fleven-server trust add-name NAME",
            )
        identity = await self._identify(request)
        request.state.identity = identity
        if access.role is None:
            return None
        if identity is None:
            return self._without_login(request)
        if not identity.role.covers(access.role):
            raise RequestError(
                403, "role-insufficient", f"{identity.label} is {identity.role}, this needs {access.role}"
            )
        return None

    async def _identify(self, request: Request) -> Identity | None:
        if self._context.access.may_be_open and not self._somebody_may_log_in:
            self._somebody_may_log_in = await run_in_threadpool(self._ask_for_users)
            if not self._somebody_may_log_in:
                return OPEN_PAGE
        token = bearer(request.headers.get("authorization"))
        scheme = request.scope["scheme"]
        cookie = request.cookies.get(cookie_names(scheme).session, "")
        if token is not None:
            split = split_api_token(token)
            if split is None:
                raise RequestError(401, "token-invalid", "this is not a token of this server", hint=TOKEN_HINT)
            return await run_in_threadpool(self._identify_token, split, peer_of(request))
        if SECRET.fullmatch(cookie):
            return await run_in_threadpool(self._identify_session, cookie, scheme == "https")
        return None

    def _ask_for_users(self) -> bool:
        with self._context.store.read() as connection:
            return access_store.somebody_may_log_in(connection)

    def _identify_token(self, split: tuple[str, str], address: str) -> Identity:
        now = self._context.now()
        with self._context.store.read() as connection:
            found = access_store.identity_of_token(connection, *split, now)
        if found is None:
            raise RequestError(401, "token-invalid", "the token is unknown, removed or expired", hint=TOKEN_HINT)
        identity, token_id, stale = found
        if stale:
            # When it was used is for people: a register that takes no writes is no reason to refuse a reader.
            with suppress(StoreError), self._context.store.write() as connection:
                access_store.token_was_used(connection, token_id, now, address)
        return identity

    def _identify_session(self, cookie: str, secure: bool) -> Identity | None:
        now = self._context.now()
        with self._context.store.read() as connection:
            found = access_store.identity_of_session(
                connection, cookie, now, self._context.access.limits, secure=secure
            )
        if found is None:
            return None
        identity, stale = found
        if stale and identity.session_id is not None:
            with suppress(StoreError), self._context.store.write() as connection:
                access_store.session_was_seen(connection, identity.session_id, now)
        return identity

    def _without_login(self, request: Request) -> Response:
        path = request.scope["path"]
        if request.method in ("GET", "HEAD") and not path.startswith(("/v1/", "/metrics", "/openapi.json")):
            query = request.scope["query_string"].decode("ascii", errors="ignore")
            wanted = path + (f"?{query}" if query else "")
            target = LOGIN_PATH if wanted == "/" else f"{LOGIN_PATH}?next={quote(wanted, safe='/')}"
            return RedirectResponse(target, 303)
        raise RequestError(401, "login-required", "log in, or show a token of this server", hint=TOKEN_HINT)


def needs(identity: Identity, role: Role, what: str) -> None:
    """Refuse with 403 when somebody may not do something.

    Args:
        identity: who asks.
        role: what is needed.
        what: for the answer: `model.safetensors`.
    """
    if not identity.role.covers(role):
        raise RequestError(
            403, "role-insufficient", f"{what} needs the role {role}, {identity.label} is {identity.role}"
        )
