"""The whole way of a user in a real browser: link, password, login, an ended session, logout; wide and on a phone."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chromium import Page, chromium

from fleven.server.access import store as access_store
from fleven.server.access.model import Role

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
PASSWORD = "four words about my cat"
PICTURES = os.environ.get("FLEVEN_PICTURES", "")
"""A folder for pictures of what was seen, for people; without it none are kept."""


def seen(page: Page, name: str) -> None:
    """Look at a page in both widths: nothing may lie beyond the edge."""
    for word, width in (("wide", 1280), ("phone", 390)):
        page.size(width, 844)
        assert not page.is_too_wide(), f"{name} at {width}"
        if PICTURES:
            page.picture(Path(PICTURES) / f"{name}-{word}.png")


def test_a_user_comes_in_works_is_logged_out_and_leaves(api: Any, a_report: Callable[..., dict[str, Any]]) -> None:
    api.post(a_report())
    now = datetime.now(UTC)
    with api.store.write() as connection:
        user = access_store.add_user(connection, "ana", Role.OPERATOR, "tests", now)
        link = access_store.make_link(connection, user, now + timedelta(hours=1))
    with chromium() as page:
        page.open(f"{api.url}/runs?state=failed")
        page.wait_for("location.pathname === '/login'")
        seen(page, "login")
        page.open(f"{api.url}/password/{link}")
        page.wait_for("document.querySelector('input[name=again]')")
        seen(page, "password")
        page.type_into("new", PASSWORD)
        page.type_into("again", PASSWORD + "x")
        page.click("form button")
        page.wait_for("document.body.textContent.includes('The two passwords differ')")
        page.type_into("new", PASSWORD)
        page.type_into("again", PASSWORD)
        page.click("form button")
        page.wait_for("document.body.textContent.includes('The password is set')")

        page.open(f"{api.url}/runs?state=failed")
        page.wait_for("location.pathname === '/login'")
        page.type_into("name", "ana")
        page.type_into("password", "not this one, I fear")
        page.click("form button")
        page.wait_for("document.querySelector('[role=alert]')")
        seen(page, "login-wrong")
        page.type_into("password", PASSWORD)
        page.click("form button")
        # A browser goes on to where it wanted to go.
        page.wait_for("location.pathname === '/runs' && location.search === '?state=failed'")
        assert page.run("document.querySelector('.who a').textContent") == "ana"
        # A script on the page could not read the session.
        assert "session" not in page.run("document.cookie")
        page.open(f"{api.url}/account")
        page.wait_for("document.querySelector('input[name=old]')")
        seen(page, "account")
        page.open(f"{api.url}/")
        page.wait_for("document.body.textContent.includes('pi-1')")
        seen(page, "fleet")

        # The page fetches itself again; when the session has ended meanwhile, it leads to the login and back.
        with api.store.write() as connection:
            access_store.end_sessions(connection, user.id, datetime.now(UTC))
        page.wait_for("location.pathname === '/login' && document.body.textContent.includes('session has ended')")
        seen(page, "login-ended")
        page.type_into("name", "ana")
        page.type_into("password", PASSWORD)
        page.click("form button")
        page.wait_for("location.pathname === '/' && document.querySelector('.who button')")
        page.click(".who button")
        page.wait_for("document.body.textContent.includes('You are logged out')")
        page.open(f"{api.url}/")
        page.wait_for("location.pathname === '/login'")
