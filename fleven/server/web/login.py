"""Log in, set a password by a one-time link, see one's own account, log out. What is decided lies in `access`.

Must not import the scheduler, the runner or anything of the fleet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import RedirectResponse, Response

from fleven.server.access import audit
from fleven.server.access import store as access_store
from fleven.server.access.model import Action, Actor, Identity, IdentityKind, Source, User
from fleven.server.access.passwords import LONGEST, SHORTEST, password_problem
from fleven.server.access.requests import cookie_attributes, cookie_names, is_loopback, local_path
from fleven.server.access.routes import LOGIN_PATH, PASSWORD_PATH
from fleven.server.http.access_guard import identity_of, known_identity, peer_of
from fleven.server.http.request_body import RequestError
from fleven.server.web.forms import Render, fresh_form, set_cookie, submitted
from fleven_agent.common.formatting import span

if TYPE_CHECKING:
    from fleven.server.http.context import ApiContext

WRONG = "Name or password is wrong."
LINK_VOID = "This link was used already, or is too old."
DONE = {
    "password": "The password is set. Log in with it.",
    "logout": "You are logged out.",
    "ended": "Your session has ended. Log in again to go on.",
}
Fields = Annotated[dict[str, str], Depends(submitted)]
Link = Annotated[str, Path(max_length=64)]


def is_readable_on_the_way(request: Request) -> bool:
    """Return whether a password that is typed now travels over a network as it is."""
    return request.scope["scheme"] != "https" and not is_loopback(peer_of(request))


def actor_of(request: Request, name: str) -> Actor:
    """Return who changes something on the page."""
    return Actor(name, Source.PAGE, peer_of(request))


def add_login_pages(router: APIRouter, context: ApiContext, render: Render) -> None:
    """The pages before a login."""
    store, access, now = context.store, context.access, context.now

    def show(request: Request, template: str, status: int = 200, **values: Any) -> Response:
        token, cookie = fresh_form(request)
        response: Response = render(
            request, template, form_token=token, readable=is_readable_on_the_way(request), **values
        )
        response.status_code = status
        return set_cookie(response, cookie)

    def login_page(request: Request, status: int = 200, **values: Any) -> Response:
        with store.read() as connection:
            nobody = not access_store.all_users(connection)
        shown = {"problem": "", "done": "", "name": "", "wanted": "/"} | values
        return show(request, "login.html", status, nobody=nobody, **shown)

    @router.get(LOGIN_PATH)
    def get_login(
        request: Request,
        wanted: Annotated[str, Query(alias="next", max_length=600)] = "/",
        done: Annotated[str, Query(max_length=20)] = "",
    ) -> Response:
        target = local_path(wanted)
        if identity_of(request) is not None:
            return RedirectResponse(target, 303)
        return login_page(request, wanted=target, done=DONE.get(done, ""))

    @router.post(LOGIN_PATH)
    def post_login(request: Request, fields: Fields) -> Response:
        name, password = fields.get("name", "").strip().lower()[:64], fields.get("password", "")
        target, address = local_path(fields.get("next", "/")), peer_of(request)
        with store.read() as connection:
            user = access_store.find_user(connection, name)
            known = access_store.was_logged_in_from(connection, name, address)
        with access.attempts_lock:
            wait = access.attempts.wait_seconds(name, address, known=known)
            if not wait:
                # Noted before the slow check, so that many at the same time are not taken for one.
                access.attempts.failed(name, address, known=known)
        if wait:
            problem = f"Too many wrong passwords. Try again in {span(wait)}."
            response = login_page(request, 429, problem=problem, name=name, wanted=target)
            response.headers["Retry-After"] = str(int(wait) + 1)
            return response
        usable = user if user is not None and not user.disabled else None
        if not access.passwords.verify(usable.password_hash if usable else None, password) or usable is None:
            with store.write() as connection:
                # A name that nobody has may be a password in the wrong field: it is not written down.
                subject = user.name if user is not None else ""
                detail = "disabled" if user is not None and user.disabled else "" if subject else "unknown name"
                audit.record(connection, now(), actor_of(request, subject), Action.LOGIN_FAILED, subject, detail)
            return login_page(request, 403, problem=WRONG, name=name, wanted=target)
        with access.attempts_lock:
            access.attempts.succeeded(name, address, known=known)
        return log_in(request, usable, password, target)

    def log_in(request: Request, user: User, password: str, target: str) -> Response:
        scheme = request.scope["scheme"]
        better = access.passwords.hash(password) if access.passwords.is_outdated(user.password_hash or "") else None
        with store.write() as connection:
            fresh = access_store.find_user(connection, user.name)
            if fresh is None or fresh.disabled or fresh.password_hash != user.password_hash:
                # Shut out, or given another password, while this one was checked.
                return RedirectResponse(LOGIN_PATH, 303)
            if better is not None:
                access_store.improve_hash(connection, user, better)
            secret = access_store.begin_session(
                connection,
                user,
                now(),
                secure=scheme == "https",
                address=peer_of(request),
                browser=request.headers.get("user-agent", ""),
            )
            audit.record(connection, now(), actor_of(request, user.name), Action.LOGIN, user.name)
        seconds = int(access.limits.absolute.total_seconds())
        header = f"{cookie_names(scheme).session}={secret}{cookie_attributes(scheme, seconds)}"
        return set_cookie(RedirectResponse(target, 303), header)

    def link_page(request: Request, link: str, user: User | None, status: int, problem: str = "") -> Response:
        return show(
            request, "password.html", status, link=link, user=user, problem=problem, shortest=SHORTEST, longest=LONGEST
        )

    @router.get(PASSWORD_PATH)
    def get_password(request: Request, link: Link) -> Response:
        with store.read() as connection:
            user = access_store.user_of_link(connection, link, now())
        return link_page(request, link, user, 200 if user is not None else 410)

    @router.post(PASSWORD_PATH)
    def post_password(request: Request, link: Link, fields: Fields) -> Response:
        with store.read() as connection:
            user = access_store.user_of_link(connection, link, now())
        if user is None:
            return link_page(request, link, None, 410)
        problem = new_password_problem(fields, user.name)
        if problem is not None:
            return link_page(request, link, user, 422, problem)
        hashed = access.passwords.hash(fields["new"])
        with store.write() as connection:
            # Of two who use a link at the same time, only the first finds it still there.
            if access_store.user_of_link(connection, link, now()) is None:
                return link_page(request, link, None, 410)
            access_store.set_password(connection, user, hashed, now())
            audit.record(connection, now(), actor_of(request, user.name), Action.PASSWORD_SET, user.name, "by link")
        return RedirectResponse(f"{LOGIN_PATH}?done=password", 303)


def new_password_problem(fields: dict[str, str], name: str) -> str | None:
    """Return why the new password of a form is not taken, as a sentence; None when it is."""
    problem = password_problem(fields.get("new", ""), name)
    if problem is not None:
        return f"This password cannot be used: {problem}."
    if fields.get("new") != fields.get("again"):
        return "The two passwords differ."
    return None


def person(request: Request) -> Identity:
    """Return the user who asks.

    Raises:
        RequestError: it is a program, or nobody.
    """
    identity = known_identity(request)
    if identity.kind is not IdentityKind.USER:
        raise RequestError(403, "user-required", "only somebody who has logged in has an account")
    return identity


def add_account_pages(router: APIRouter, context: ApiContext, render: Render) -> None:
    """One's own account, after a login."""
    store, access, now = context.store, context.access, context.now

    def account_page(request: Request, identity: Identity, status: int = 200, problem: str = "", done: str = "") -> Any:
        with store.read() as connection:
            user = access_store.get_user(connection, identity.name)
            sessions = access_store.open_sessions(connection, user.id, now(), access.limits)
        response = render(
            request,
            "account.html",
            user=user,
            sessions=sessions,
            problem=problem,
            done=done,
            readable=is_readable_on_the_way(request),
            shortest=SHORTEST,
            longest=LONGEST,
        )
        response.status_code = status
        return response

    @router.get("/account")
    def get_account(request: Request, done: Annotated[str, Query(max_length=20)] = "") -> Response:
        said = {"password": "Your password is changed.", "sessions": "All other sessions have ended."}.get(done, "")
        response: Response = account_page(request, person(request), done=said)
        return response

    @router.post("/account/password")
    def post_account_password(request: Request, fields: Fields) -> Response:
        identity, address = person(request), peer_of(request)
        with store.read() as connection:
            user = access_store.get_user(connection, identity.name)
        problem = new_password_problem(fields, user.name)
        if problem is None:
            with access.attempts_lock:
                wait = access.attempts.wait_seconds(user.name, address, known=True)
                if not wait:
                    access.attempts.failed(user.name, address, known=True)
            if wait:
                problem = f"Too many wrong passwords. Try again in {span(wait)}."
            elif not access.passwords.verify(user.password_hash, fields.get("old", "")):
                problem = "The present password is wrong."
        if problem is not None:
            response: Response = account_page(request, identity, 422, problem)
            return response
        with access.attempts_lock:
            access.attempts.succeeded(user.name, address, known=True)
        hashed = access.passwords.hash(fields["new"])
        with store.write() as connection:
            access_store.set_password(connection, user, hashed, now(), but=identity.session_id)
            audit.record(connection, now(), actor_of(request, user.name), Action.PASSWORD_CHANGED, user.name)
        return RedirectResponse("/account?done=password", 303)

    @router.post("/account/sessions")
    def post_account_sessions(request: Request, _fields: Fields) -> Response:
        identity = person(request)
        with store.write() as connection:
            user = access_store.get_user(connection, identity.name)
            count = access_store.end_sessions(connection, user.id, now(), but=identity.session_id)
            actor = actor_of(request, user.name)
            audit.record(connection, now(), actor, Action.SESSIONS_ENDED, user.name, f"{count} others")
        return RedirectResponse("/account?done=sessions", 303)

    @router.post("/logout")
    def post_logout(request: Request, _fields: Fields) -> Response:
        identity = person(request)
        with store.write() as connection:
            if identity.session_id is not None:
                access_store.end_session(connection, identity.session_id, now())
            audit.record(connection, now(), actor_of(request, identity.name), Action.LOGOUT, identity.name)
        scheme = request.scope["scheme"]
        gone = f"{cookie_names(scheme).session}={cookie_attributes(scheme, 0)}"
        return set_cookie(RedirectResponse(f"{LOGIN_PATH}?done=logout", 303), gone)
