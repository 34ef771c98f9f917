"""Who gets in: logins, sessions, tokens and roles over real HTTP, and what a stranger or a foreign page must not do."""

import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from starlette.routing import Mount, Route

from fleven.server.access import store as access_store
from fleven.server.access.model import Access, Role
from fleven.server.access.routes import ROUTES
from fleven.server.service.http_app import create_app

PASSWORD = "four words about my cat"
STRANGERS_MAY = {"/login", "/password/{link}", "/static/{path:path}", "/healthz"}
AGENTS_OWN = {"/v1/reports", "/v1/attention", "/v1/model/{sha256}", "/v1/trust", "/v1/enrol", "/v1/rotate"}


def link_for(api: Any, name: str, role: Role, *, expires: timedelta = timedelta(hours=1)) -> str:
    now = datetime.now(UTC)
    with api.store.write() as connection:
        user = access_store.find_user(connection, name) or access_store.add_user(connection, name, role, "tests", now)
        return access_store.make_link(connection, user, now + expires)


def form_of(page: httpx.Response) -> str:
    found = re.search(r'name="form" value="([A-Za-z0-9_-]+)"', page.text)
    assert found is not None, page.text
    return found[1]


class Browser:
    """A client with cookies, as a browser has them."""

    def __init__(self, api: Any, **options: Any) -> None:
        self.client = httpx.Client(base_url=api.url, timeout=20, **options)

    def send(self, page: str, path: str, **fields: str) -> httpx.Response:
        token = form_of(self.client.get(page))
        headers = {"Origin": str(self.client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
        return self.client.post(path, data={"form": token, **fields}, headers=headers)

    def set_password(self, link: str, password: str = PASSWORD) -> httpx.Response:
        return self.send(f"/password/{link}", f"/password/{link}", new=password, again=password)

    def log_in(self, name: str, password: str = PASSWORD, **fields: str) -> httpx.Response:
        return self.send("/login", "/login", name=name, password=password, **fields)


@pytest.fixture
def browser(api: Any) -> Iterator[Callable[..., Browser]]:
    made: list[Browser] = []

    def make(**options: Any) -> Browser:
        made.append(Browser(api, **options))
        return made[-1]

    yield make
    for one in made:
        one.client.close()


@pytest.fixture
def stranger_of() -> Iterator[Callable[[Any], httpx.Client]]:
    """Return a function that gives a client without login."""
    made: list[httpx.Client] = []

    def make(api: Any) -> httpx.Client:
        made.append(httpx.Client(base_url=api.url, timeout=20))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of passwords is slow on purpose; here only who gets in counts."""
    monkeypatch.setattr(
        "fleven.server.access.passwords.PasswordHasher", lambda: PasswordHasher(time_cost=1, memory_cost=64)
    )


def logged_in(api: Any, made: Callable[..., Browser], name: str, role: Role) -> Browser:
    one = made()
    assert one.set_password(link_for(api, name, role)).headers["location"] == "/login?done=password"
    assert one.log_in(name).status_code == 303
    return one


def audit_of(api: Any) -> list[tuple[str, str, str]]:
    with sqlite3.connect(api.paths.register) as connection:
        return connection.execute("SELECT action, actor, address FROM audit ORDER BY id").fetchall()


def test_every_route_stands_in_the_one_table_with_what_it_asks(api: Any) -> None:
    app = create_app(api.store, api.config, api.paths)
    found: set[str] = set()

    def collect(routes: Iterable[Any]) -> None:
        for route in routes:
            if isinstance(route, Mount):
                found.add(f"{route.path}/{{path:path}}")
            elif isinstance(route, Route):
                found.add(route.path)
            else:
                # FastAPI keeps a router that was included as one entry.
                collect(route.original_router.routes)

    collect(app.routes)
    found |= set(app.openapi()["paths"])
    assert {"/account", "/runs/{run_id}", "/v1/reports", "/v1/enrol", "/metrics", "/static/{path:path}"} <= found
    assert found <= set(ROUTES), "a route without its line in access/routes.py"
    public = {path for path, access in ROUTES.items() if access is Access.PUBLIC}
    assert public == STRANGERS_MAY
    assert {path for path, access in ROUTES.items() if access is Access.AGENT} == AGENTS_OWN


def test_an_insecure_server_is_open_until_the_first_user_and_never_again(
    api_with: Callable[..., Any], stranger_of: Callable[[Any], httpx.Client]
) -> None:
    api = api_with(top={"insecure": True})
    stranger = stranger_of(api)
    assert stranger.get("/").status_code == 200
    assert "open to everyone" in stranger.get("/").text
    assert stranger.get("/v1/whoami").json() == {"kind": "open", "name": "", "role": "operator"}
    link_for(api, "ana", Role.ADMIN)
    assert stranger.get("/").headers["location"] == "/login"
    assert stranger.get("/v1/nodes").status_code == 401
    with api.store.write() as connection:
        access_store.remove_user(connection, access_store.get_user(connection, "ana"))
    assert stranger.get("/v1/nodes").status_code == 401
    assert "Nobody can log in yet" in stranger.get("/login").text


def test_a_stranger_gets_the_login_page_and_whether_all_is_well_and_nothing_else(
    api: Any, a_report: Any, stranger_of: Callable[[Any], httpx.Client]
) -> None:
    api.post(a_report())
    link_for(api, "ana", Role.ADMIN)
    stranger = stranger_of(api)
    for template, access in ROUTES.items():
        if access in (Access.PUBLIC, Access.AGENT):
            continue
        path = template.replace("{name}", "pi-1").replace("{run_id}", "1")
        answer = stranger.get(path)
        assert answer.status_code in (303, 401), path
        assert "pi-1" not in answer.text.replace("/nodes/pi-1", "")
        if answer.status_code == 401:
            assert answer.json()["code"] == "login-required"
            assert answer.headers["www-authenticate"].startswith("Bearer")
        else:
            assert answer.headers["location"].startswith("/login")
    # Nobody learns whether there is anything at an address.
    assert stranger.get("/v1/nothing").status_code == stranger.get("/v1/nodes").status_code == 401
    assert stranger.get("/nothing").headers["location"] == "/login?next=/nothing"
    assert stranger.get("/healthz").status_code == 200
    assert stranger.get("/static/style.css").status_code == 200
    assert stranger.get("/login").status_code == 200
    # The cars go on.
    assert api.post(a_report(sequence=1)).status_code == 200


@pytest.mark.parametrize("host", ["x/v1/reports?", "127.0.0.1/healthz?", "127.0.0.1/static/"])
def test_a_path_in_the_host_header_opens_nothing(api: Any, host: str) -> None:
    link_for(api, "ana", Role.ADMIN)
    answer = httpx.get(f"{api.url}/v1/nodes", headers={"Host": host})
    assert answer.status_code in (401, 421), answer.text


@pytest.mark.parametrize(
    "path", ["/v1/nodes%3F/healthz", "/healthz/../v1/nodes", "/static/..%2fv1/nodes", "//v1/nodes"]
)
def test_no_spelling_of_a_path_opens_it(api: Any, path: str) -> None:
    link_for(api, "ana", Role.ADMIN)
    answer = httpx.get(api.url + path)
    assert answer.status_code in (303, 401, 404)
    assert "nodes" not in answer.text or "location" in answer.headers


def test_the_whole_way_from_a_link_to_the_logout(api: Any, browser: Callable[..., Browser]) -> None:
    link = link_for(api, "ana", Role.OPERATOR)
    ana = browser()
    assert "Set a password for ana" in ana.client.get(f"/password/{link}").text
    assert ana.set_password(link, "short").status_code == 422
    assert ana.set_password(link).status_code == 303
    # The link is used up, for whoever has it.
    assert ana.client.get(f"/password/{link}").status_code == 410
    assert ana.log_in("ana", "another password").status_code == 403
    answer = ana.log_in("ana", next="/runs?state=failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs?state=failed")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    page = ana.client.get("/runs")
    assert ">ana</a>" in page.text
    assert ana.client.get("/v1/whoami").json() == {"kind": "user", "name": "ana", "role": "operator"}
    assert ana.client.get("/login").headers["location"] == "/"
    assert ana.send("/account", "/logout").headers["location"] == "/login?done=logout"
    assert ana.client.get("/").headers["location"] == "/login"
    assert [action for action, _, _ in audit_of(api)] == ["password-set", "login-failed", "login", "logout"]
    assert {address for _, _, address in audit_of(api)} == {"127.0.0.1"}
    # Neither password nor cookie lies in the register.
    content = api.paths.register.read_bytes() + Path(f"{api.paths.register}-wal").read_bytes()
    assert PASSWORD.encode() not in content
    assert cookie.partition("=")[2].partition(";")[0].encode() not in content
    assert link.encode() not in content


def test_a_link_works_once_however_many_use_it_at_a_time(api: Any, browser: Callable[..., Browser]) -> None:
    link = link_for(api, "ana", Role.VIEWER)
    browsers = [browser() for _ in range(4)]
    gate = threading.Barrier(4)

    def use(number: int) -> int:
        token = form_of(browsers[number].client.get(f"/password/{link}"))
        gate.wait()
        password = f"{PASSWORD} {number}"
        fields = {"form": token, "new": password, "again": password}
        return browsers[number].client.post(f"/password/{link}", data=fields).status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(use, range(4))) == [303, 410, 410, 410]


def test_a_link_that_is_too_old_or_replaced_does_not_work(api: Any, browser: Callable[..., Browser]) -> None:
    old = link_for(api, "ana", Role.VIEWER)
    new = link_for(api, "ana", Role.VIEWER, expires=timedelta(seconds=-1))
    for link in (old, new, "x", "%00"):
        assert browser().client.get(f"/password/{link}").status_code == 410


def test_roles_bound_what_is_served(api: Any, browser: Callable[..., Browser]) -> None:
    names = {
        "rounds.csv": Role.VIEWER,
        "error-by-round.png": Role.VIEWER,
        "model.safetensors": Role.OPERATOR,
        "checkpoint-round-000001.safetensors": Role.OPERATOR,
        "predicted-against-true.png": Role.OPERATOR,
        "predictions.csv": Role.OPERATOR,
        "model.pt": Role.OPERATOR,
    }
    clients = {role: logged_in(api, browser, role.value, role).client for role in (Role.VIEWER, Role.OPERATOR)}
    for name, needed in names.items():
        for role, client in clients.items():
            answer = client.get(f"/v1/runs/1/files/{name}")
            wanted = 404 if role.covers(needed) else 403
            assert answer.status_code == wanted, (name, role)
            if wanted == 403:
                assert answer.json()["code"] == "role-insufficient"
    assert clients[Role.VIEWER].get("/metrics").status_code == 200


def test_metrics_have_a_token_of_their_own_that_opens_nothing_else(api: Any) -> None:
    link_for(api, "ana", Role.ADMIN)
    now = datetime.now(UTC)
    with api.store.write() as connection:
        token = access_store.add_token(connection, "prometheus", Role.METRICS, "t", now, None)
        late = access_store.add_token(connection, "late", Role.ADMIN, "t", now, now - timedelta(seconds=1))

    def status(path: str, text: str) -> int:
        return httpx.get(api.url + path, headers={"Authorization": f"Bearer {text}"}).status_code

    assert status("/metrics", token) == 200
    assert [status(path, token) for path in ("/v1/nodes", "/", "/openapi.json")] == [403, 403, 403]
    changed = token[:-1] + ("A" if token[-1] != "A" else "B")
    assert [status("/metrics", text) for text in (late, changed, "x", token.upper())] == [401] * 4
    with api.store.read() as connection:
        used = {one.name: (one.used_at is not None, one.used_from) for one in access_store.all_tokens(connection)}
    assert used["prometheus"] == (True, "127.0.0.1")
    with api.store.write() as connection:
        access_store.remove_token(connection, "prometheus")
    assert status("/metrics", token) == 401


def test_who_is_shut_out_is_out_at_the_next_request(api: Any, browser: Callable[..., Browser]) -> None:
    ana = logged_in(api, browser, "ana", Role.ADMIN)
    with api.store.write() as connection:
        user = access_store.get_user(connection, "ana")
        access_store.set_role(connection, user, Role.VIEWER)
    assert ana.client.get("/v1/whoami").json()["role"] == "viewer"
    with api.store.write() as connection:
        access_store.set_disabled(connection, user, True, datetime.now(UTC))
    assert ana.client.get("/v1/whoami").status_code == 401
    assert ana.log_in("ana").status_code == 403


def test_another_password_ends_all_other_sessions(api: Any, browser: Callable[..., Browser]) -> None:
    first, second = logged_in(api, browser, "ana", Role.VIEWER), browser()
    assert second.log_in("ana").status_code == 303
    assert "this one" in first.client.get("/account").text
    wrong = first.send("/account", "/account/password", old="no", new=PASSWORD + "!", again=PASSWORD + "!")
    assert wrong.status_code == 422
    right = first.send("/account", "/account/password", old=PASSWORD, new=PASSWORD + "!", again=PASSWORD + "!")
    assert right.headers["location"] == "/account?done=password"
    assert first.client.get("/v1/whoami").status_code == 200
    assert second.client.get("/v1/whoami").status_code == 401
    assert second.log_in("ana").status_code == 403
    assert second.log_in("ana", PASSWORD + "!").status_code == 303
    assert first.send("/account", "/account/sessions").status_code == 303
    assert second.client.get("/v1/whoami").status_code == 401


def test_guessing_ends_soon_for_a_name_that_exists_and_for_one_that_does_not(
    api: Any, browser: Callable[..., Browser], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleven.server.access.passwords.Passwords.verify", lambda *_: False)
    link_for(api, "ana", Role.VIEWER)
    one = browser()
    token = form_of(one.client.get("/login"))

    def guess(name: str) -> httpx.Response:
        return one.client.post("/login", data={"form": token, "name": name, "password": "x"})

    assert [guess("ana").status_code for _ in range(11)] == [403] * 10 + [429]
    assert int(guess("ana").headers["retry-after"]) >= 1
    assert [guess("nobody").status_code for _ in range(11)] == [403] * 10 + [429]
    # The address has used up what it had for all names together.
    assert guess("third").status_code == 429


def test_the_answer_to_a_wrong_login_does_not_tell_who_exists(api: Any, browser: Callable[..., Browser]) -> None:
    logged_in(api, browser, "ana", Role.VIEWER)
    known, unknown = browser().log_in("ana", "wrong"), browser().log_in("eva", "wrong")
    assert known.status_code == unknown.status_code == 403
    blank = re.compile(r'value="[^"]*"')
    assert blank.sub("", known.text) == blank.sub("", unknown.text)


def test_a_foreign_page_can_do_nothing(api: Any, browser: Callable[..., Browser]) -> None:
    ana = logged_in(api, browser, "ana", Role.ADMIN)
    token = form_of(ana.client.get("/account"))
    fields = {"form": token}
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = ana.client.post("/logout", data=fields, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "origin-foreign"), headers
    # Without the form's token, with that of another browser, or as another kind of body.
    others = form_of(browser().client.get("/login"))
    for data in ({}, {"form": ""}, {"form": others}):
        assert ana.client.post("/logout", data=data or {"a": "b"}).json()["code"] == "form-outdated"
    assert ana.client.post("/logout", json=fields).json()["code"] == "form-expected"
    assert ana.client.get("/v1/whoami").status_code == 200
    # A car's route, too, takes nothing from a page of another site.
    assert api.post(headers={"Origin": "http://evil.example"}).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9190"])
def test_a_name_that_is_not_this_servers_is_refused(api: Any, host: str) -> None:
    for path in ("/", "/v1/nodes", "/login"):
        answer = httpx.get(api.url + path, headers={"Host": host})
        assert answer.status_code == 421, path
        assert "trust add-name" in answer.text
    assert httpx.get(f"{api.url}/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "x", "/a\nb"])
def test_a_login_leads_nowhere_else(api: Any, browser: Callable[..., Browser], target: str) -> None:
    link = link_for(api, "ana", Role.VIEWER)
    one = browser()
    one.set_password(link)
    assert one.log_in("ana", next=target).headers["location"] == "/"


def test_a_session_ends_by_itself(api: Any, browser: Callable[..., Browser]) -> None:
    ana = logged_in(api, browser, "ana", Role.VIEWER)
    long_ago = round((datetime.now(UTC) - timedelta(hours=13)).timestamp() * 1000)
    with sqlite3.connect(api.paths.register) as connection:
        connection.execute("UPDATE sessions SET seen_at = ?, created_at = ?", (long_ago, long_ago))
    assert ana.client.get("/v1/whoami").status_code == 401
    assert ana.client.get("/").headers["location"] == "/login"


def test_a_secure_server_is_closed_from_the_beginning_and_says_what_to_run(
    api_with: Callable[..., Any], stranger_of: Callable[[Any], httpx.Client]
) -> None:
    api = api_with(top={"insecure": False})
    stranger = stranger_of(api)
    assert stranger.get("/v1/nodes").status_code == 401
    assert stranger.get("/", follow_redirects=True).text.count("fleven-server users add") == 1
    assert api.client.get("/v1/nodes").status_code == 200
