"""Decisions about access: roles, routes, sessions, attempts, names of the server, origins, secrets, passwords."""

from datetime import UTC, datetime, timedelta

import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from fleven.server.access.attempts import FOR_ACCOUNT, FOR_ACCOUNT_AT_ADDRESS, REFILL_SECONDS, LoginAttempts
from fleven.server.access.model import Access, Role, Session, SessionLimits, checked_name, session_holds
from fleven.server.access.passwords import AT_A_TIME, WAITING, Passwords, PasswordsBusyError, password_problem
from fleven.server.access.requests import (
    bearer,
    cookie_attributes,
    cookie_names,
    host_is_ours,
    local_path,
    origin_is_ours,
)
from fleven.server.access.routes import ROUTES, access_of, file_role
from fleven.server.access.secrets import digest, form_token, form_token_fits, new_api_token, new_secret, split_api_token
from fleven.server.errors import UsageError

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
NAMES = frozenset({"fleet.example.org", "*.example.net", "fleven-server"})
QUICK = PasswordHasher(time_cost=1, memory_cost=64)


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/nodesx", "/healthz/", "/static", "/v1/reports/", "/login/x", "", "/password/a/b"]
)
def test_an_unknown_path_asks_for_a_login(path: str) -> None:
    assert access_of(path) is Access.VIEWER


@given(st.text(max_size=40))
def test_only_the_listed_paths_are_public(text: str) -> None:
    if access_of(text) in (Access.PUBLIC, Access.AGENT):
        assert text in ROUTES or text.startswith(("/static/", "/password/"))


def test_a_role_may_all_that_a_lower_one_may() -> None:
    order = [Role.METRICS, Role.VIEWER, Role.OPERATOR, Role.ADMIN]
    assert [[a.covers(b) for b in order] for a in order] == [[i >= j for j in range(4)] for i in range(4)]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("rounds.json", Role.VIEWER), ("result.json", Role.VIEWER), ("error-by-round.png", Role.VIEWER),
        ("model.safetensors", Role.OPERATOR), ("predicted-against-true.png", Role.OPERATOR),
        ("predictions.json", Role.OPERATOR), ("x.csv", Role.OPERATOR), ("rounds.json.pt", Role.OPERATOR),
    ],
)  # fmt: skip
def test_what_is_no_figure_needs_an_operator(name: str, role: Role) -> None:
    assert file_role(name) is role


@given(st.integers(-10, 40), st.integers(-10, 40))
def test_a_session_ends_by_idleness_by_age_and_by_a_clock_before_its_beginning(seen: int, now: int) -> None:
    session = Session(1, 1, NOW, NOW + timedelta(hours=seen), True, "", "")
    limits = SessionLimits(idle=timedelta(hours=12), absolute=timedelta(hours=24))
    assert session_holds(session, NOW + timedelta(hours=now), limits) is (0 <= now < 24 and now - seen < 12)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("12"), st.floats(0, 30)), max_size=150))
def test_never_more_wrong_passwords_than_the_bounds_allow(tries: list[tuple[str, str, float]]) -> None:
    clock = 0.0
    attempts = LoginAttempts(lambda: clock)
    let: dict[tuple[str, str], int] = {}
    for account, address, pause in tries:
        clock += pause
        if attempts.wait_seconds(account, address, known=False) == 0:
            attempts.failed(account, address, known=False)
            let[account, address] = let.get((account, address), 0) + 1
    for account in "ab":
        whole = sum(count for (name, _), count in let.items() if name == account)
        assert whole <= FOR_ACCOUNT + clock / REFILL_SECONDS + 1
        assert all(let.get((account, one), 0) <= FOR_ACCOUNT_AT_ADDRESS + clock / REFILL_SECONDS + 1 for one in "12")


def test_strangers_cannot_lock_a_user_out_where_the_user_has_logged_in_before() -> None:
    attempts = LoginAttempts(lambda: 0.0)
    for stranger in range(100):
        if not attempts.wait_seconds("ana", f"s{stranger}", known=False):
            attempts.failed("ana", f"s{stranger}", known=False)
    assert attempts.wait_seconds("ana", "new", known=False) > 0
    assert attempts.wait_seconds("ana", "home", known=True) == 0


def test_a_right_password_makes_its_address_good_again() -> None:
    attempts = LoginAttempts(lambda: 0.0)
    for _ in range(9):
        attempts.failed("ana", "home", known=True)
    attempts.failed("ana", "home", known=True)
    attempts.succeeded("ana", "home", known=True)
    assert attempts.wait_seconds("ana", "home", known=True) == 0


@pytest.mark.parametrize(
    ("header", "ours"),
    [
        ("10.0.0.1:9190", True), ("[fe80::1]:9190", True), ("localhost", True), ("FLEET.example.org.:9190", True),
        ("a.example.net", True), ("a.b.example.net", False), ("example.net", False), ("evil.example", False),
        ("fleet.example.org.evil.example", False), ("", False), ("10.0.0.1.evil.example", False),
        ("localhost.evil", False),
    ],
)  # fmt: skip
def test_the_host_must_be_an_address_or_one_of_the_servers_names(header: str, ours: bool) -> None:
    assert host_is_ours(header, NAMES) is ours


@pytest.mark.parametrize(
    ("origin", "site", "ours"),
    [
        (None, None, True), ("https://fleet:9190", "same-origin", True), ("http://fleet:9190", None, True),
        ("null", None, False), ("https://evil", None, False), ("https://fleet", None, False),
        (None, "cross-site", False), (None, "same-site", False), ("https://fleet:9190", "cross-site", False),
    ],
)  # fmt: skip
def test_a_change_comes_from_a_page_of_this_server(origin: str | None, site: str | None, ours: bool) -> None:
    assert origin_is_ours(origin, site, "fleet:9190") is ours


@given(st.text(max_size=30))
def test_a_login_never_leads_to_another_server(wanted: str) -> None:
    target = local_path(wanted)
    assert target.startswith("/")
    assert not target.startswith(("//", "/\\"))
    assert "\n" not in target


def test_cookies_are_bound_to_tls_where_there_is_tls() -> None:
    assert all(name.startswith("__Host-") for name in cookie_names("https"))
    assert "; Secure" in cookie_attributes("https", 1)
    assert not any(name.startswith("__") for name in cookie_names("http"))
    assert "Secure" not in cookie_attributes("http", 1)


def test_a_token_is_taken_apart_and_nothing_else_is() -> None:
    made = new_api_token()
    assert split_api_token(made.text) == (made.key, made.secret)
    assert made.secret not in digest(made.secret)
    for text in ("", made.text[:-1], made.text + "x", made.text.replace("fleven", "other"), f" {made.text}"):
        assert split_api_token(text) is None
    assert bearer(f"bearer  {made.text} ") == made.text
    assert bearer("Basic x") is bearer(None) is bearer("Bearer ") is None


def test_a_form_is_good_for_one_cookie() -> None:
    mine, other = new_secret(), new_secret()
    assert form_token_fits(mine, form_token(mine))
    assert not form_token_fits(mine, form_token(other))
    assert not form_token_fits("", form_token(""))
    assert not form_token_fits(mine, "é")


@pytest.mark.parametrize("password", ["short", "a" * 201, "aaaaaaaaaaaabbbb", "anastasia-anastasia"])
def test_a_weak_password_is_refused(password: str) -> None:
    assert password_problem(password, "anastasia") is not None
    assert password_problem("four words about my cat", "anastasia") is None


def test_a_password_fits_only_its_own_hash() -> None:
    passwords = Passwords(QUICK)
    kept = passwords.hash("four words")
    assert passwords.verify(kept, "four words")
    assert not passwords.verify(kept, "four wordS")
    assert not passwords.verify(None, "a password that nobody has")
    assert not passwords.verify("no hash", "x")
    assert not passwords.is_outdated(kept)
    assert Passwords(PasswordHasher(time_cost=2, memory_cost=64)).is_outdated(kept)


def test_a_flood_of_logins_is_told_to_come_back() -> None:
    passwords = Passwords(QUICK)
    assert all(passwords._admitted.acquire(blocking=False) for _ in range(AT_A_TIME + WAITING))
    with pytest.raises(PasswordsBusyError):
        passwords.verify(None, "x")


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a" * 33, "ä", "a/b", "a\n"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        checked_name(name)
