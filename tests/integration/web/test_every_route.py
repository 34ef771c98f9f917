"""Every route as an attacker would try it: each method, by everybody from a stranger to an admin.

`access/routes.py` says what each path asks; here it is compared with what the running server does. A route that is new
is tried by itself.
"""

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from fleven.server.access import store as access_store
from fleven.server.access.model import Access, Role
from fleven.server.access.routes import ROUTES

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PROPFIND")
UNSAFE = frozenset({"POST", "PUT", "DELETE", "PROPFIND"})
PASSWORD = "four words about my cat"
EXAMPLES = {"{link}": "x" * 43, "{path:path}": "style.css", "{run_id}": "1", "{version}": "1"}
NOWHERE = ("/v1/nothing", "/nothing", "/v1/users", "/admin", "/.git/config", "/static/../register.db", "/v1/reports/x")
DONE = frozenset({200, 201, 202, 204})
ATTACKER = 200
"""The last part of the first address (127.0.0.x) that a client comes from: each is counted by its own."""


def example(template: str) -> str:
    """Return a path of a route."""
    return re.sub(r"\{[^}]*\}", lambda found: EXAMPLES.get(found[0], "x"), template)


PATHS = {**{example(template): access for template, access in ROUTES.items()}, **dict.fromkeys(NOWHERE, Access.VIEWER)}
Clients = dict[str, tuple[httpx.Client, Role | None]]


@pytest.fixture(scope="module")
def clients(secure_api: Any) -> Iterator[Clients]:
    """Everybody: by name, with the role that they have."""
    now = datetime.now(UTC)
    with secure_api.store.write() as connection:
        tokens = {
            role: access_store.add_token(connection, role.value, role, "tests", now, None)
            for role in (Role.METRICS, Role.VIEWER, Role.OPERATOR, Role.ADMIN)
        }
        late = access_store.add_token(connection, "late", Role.ADMIN, "tests", now, now - timedelta(seconds=1))
        gone = access_store.add_token(connection, "gone", Role.ADMIN, "tests", now, None)
        access_store.remove_token(connection, "gone")
        links = {}
        for role in (Role.VIEWER, Role.ADMIN):
            user = access_store.add_user(connection, role.value, role, "tests", now)
            links[role] = access_store.make_link(connection, user, now + timedelta(hours=1))
    addresses = itertools.count(ATTACKER)
    with ExitStack() as stack:

        def client(**headers: str) -> httpx.Client:
            way = httpx.HTTPTransport(local_address=f"127.0.0.{next(addresses)}")
            made = httpx.Client(base_url=secure_api.url, timeout=20, transport=way, headers=headers)
            return stack.enter_context(made)

        made: Clients = {
            "a stranger": (client(), None),
            "one with a token that he has made up": (client(Authorization=f"Bearer {tokens[Role.ADMIN][:-2]}xx"), None),
            "one with a token that has ended": (client(Authorization=f"Bearer {late}"), None),
            "one with a token that was removed": (client(Authorization=f"Bearer {gone}"), None),
            "one with a car's kind of secret": (client(Authorization=f"Bearer {'0' * 16}.{'x' * 43}"), None),
            "one with a cookie that he has made up": (client(Cookie=f"fleven-session={'x' * 43}"), None),
        }
        for role, token in tokens.items():
            made[f"the token {role.value}"] = (client(Authorization=f"Bearer {token}"), role)
        for role, link in links.items():
            browser = client()
            log_in(browser, role.value, link)
            made[f"the session {role.value}"] = (browser, role)
        yield made


def log_in(browser: httpx.Client, name: str, link: str) -> None:
    origin = {"Origin": str(browser.base_url).rstrip("/")}

    def send(path: str, **fields: str) -> httpx.Response:
        page = browser.get(path).text
        found = re.search(r'name="form" value="([A-Za-z0-9_-]+)"', page)
        assert found is not None, page
        return browser.post(path, data={"form": found[1], **fields}, headers=origin)

    assert send(f"/password/{link}", new=PASSWORD, again=PASSWORD).status_code == 303
    assert send("/login", name=name, password=PASSWORD).headers["location"] == "/"


def test_nobody_reaches_what_their_role_does_not(secure_api: Any, clients: Clients) -> None:
    for (name, (client, role)), (path, access), method in itertools.product(clients.items(), PATHS.items(), METHODS):
        answer = client.request(method, path)
        tried = (name, method, path, answer.status_code, answer.text[:200])
        assert answer.status_code < 500, tried
        if access.role is None:
            # The login page and the cars' routes have rules of their own: what is done there needs more than a role.
            assert access is not Access.AGENT or path == "/v1/trust" or answer.status_code not in DONE, tried
        elif role is None:
            assert answer.status_code in (401, 303), tried
            assert answer.status_code == 401 or answer.headers["location"].startswith("/login"), tried
        elif not role.covers(access.role):
            assert answer.status_code == 403, tried
            assert method == "HEAD" or "this needs" in answer.text, tried
        elif method in UNSAFE:
            # No form's token, no body: nothing is changed by whoever it is.
            assert answer.status_code not in DONE, tried
            assert answer.status_code != 303, tried
        else:
            assert answer.status_code not in (401, 303), tried
    assert clients["the session admin"][0].get("/v1/whoami").json()["role"] == "admin", "somebody was logged out"
    with secure_api.store.read() as connection:
        assert len(access_store.all_users(connection)) == 2
        assert len(access_store.all_tokens(connection)) == 6


def test_no_page_of_others_and_no_other_name_opens_a_route(clients: Clients) -> None:
    for name in ("a stranger", "the token admin", "the session admin"):
        client = clients[name][0]
        for path, access in PATHS.items():
            for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
                for method in UNSAFE:
                    answer = client.request(method, path, headers=headers)
                    tried = (name, method, path, headers)
                    assert answer.status_code == 403, tried
                    assert "page of another server" in answer.text, tried
            by_another_name = client.get(path, headers={"Host": "evil.example"})
            if access.role is not None:
                assert by_another_name.status_code == 421, (name, path)


def test_a_route_that_changes_something_asks_a_session_for_the_forms_token(clients: Clients) -> None:
    """A token of a program is sent by nobody's browser by itself; a cookie is."""
    browser = clients["the session admin"][0]
    origin = {"Origin": str(browser.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    for path, access in PATHS.items():
        if access is Access.AGENT:
            continue
        for data in ({}, {"form": "x" * 43}):
            answer = browser.post(path, data={"a": "b", **data}, headers=origin)
            assert answer.status_code in (400, 403, 404, 405, 415), (path, data, answer.status_code)
    assert browser.get("/v1/whoami").status_code == 200
