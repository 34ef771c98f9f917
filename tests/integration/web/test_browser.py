"""The whole way of a user in a real browser: link, password, login, an ended session, logout; wide and on a phone."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chromium import Page, chromium
from sqlalchemy import insert

from fleven.server.access import store as access_store
from fleven.server.access.model import Role
from fleven.server.database.tables import models
from fleven.server.models import registry
from fleven.server.models.model import Reference
from fleven.server.schedules import editing
from fleven.server.schedules.spec import ScheduleSpec
from fleven.server.schedules.triggers import AtTrigger

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
        with api.store.write() as connection:  # of the longest texts that stand large in a tile
            late = AtTrigger(at=now + timedelta(hours=17, minutes=45, seconds=50))
            editing.add(connection, "a-night-far-away", ScheduleSpec(trigger=late), now)
        page.open(f"{api.url}/")
        page.wait_for("document.body.textContent.includes('in 17 h 45 min')")
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


def test_the_models_of_an_experiment_are_seen_with_which_is_used_and_why(
    api: Any, a_report: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    figures = {"rmse": 10.96, "mae": 8.1, "r2": 0.803}
    promotion = {"code": "better", "promoted": True, "champion": "night@1", "gain": 0.07, "losers": ["car-2"]}
    promotion["message"] = "RMSE 10.96 against 11.8 of night@1 on 3 cars, 7.1% lower; worse by more than 5.0%: car-2"
    facts: dict[str, Any] = {
        "target": "vehicle_speed", "unit": "km/h", "features": ["engine_rpm", "mass_air_flow"], "rounds": 10,
        "global": figures, "personal": figures | {"r2": 0.82}, "champion": figures | {"rmse": 11.8},
        "data": {"cars": 3, "rows": 8217, "windows_train": 6000, "windows_test": 1500},
        "config": {f"key-{number}": number for number in range(40)},
        "lineage": {"schedule": "nightly", "resumed_from": None},
    }  # fmt: skip
    rows = [
        {"experiment": "night", "version": version, "run_id": run_id, "made_at": now, "file": f"{version}",
         "sha256": f"{version}" * 64, "facts": facts | ({"promotion": promotion} if version == 2 else {})}
        for version, run_id in ((1, None), (2, 7), (3, 8))
    ]  # fmt: skip
    with api.store.write() as connection:
        connection.execute(insert(models), rows)
        for text, reason in (("night@1", ""), ("night@3", "a look at hills"), ("night@2", "worse in car 3 on hills")):
            registry.promote(connection, registry.find(connection, Reference.parse(text)), reason, now)
        user = access_store.add_user(connection, "eva", Role.VIEWER, "tests", now)
        link = access_store.make_link(connection, user, now + timedelta(hours=1))
    used = {"experiment": "night", "current": {"name": "night@2", "sha256": "2" * 64}}
    api.post(a_report(model=used))
    with chromium() as page:
        page.open(f"{api.url}/password/{link}")
        page.wait_for("document.querySelector('input[name=again]')")
        page.type_into("new", PASSWORD)
        page.type_into("again", PASSWORD)
        page.click("form button")
        page.wait_for("document.body.textContent.includes('The password is set')")
        page.open(f"{api.url}/login")
        page.type_into("name", "eva")
        page.type_into("password", PASSWORD)
        page.click("form button")
        page.wait_for("location.pathname === '/'")
        page.open(f"{api.url}/models")
        page.wait_for("document.querySelector('.badge.champion')")
        seen(page, "models")
        cells = page.run("[...document.querySelectorAll('tbody tr')].map(row => row.innerText.replace(/\\s+/g, ' '))")
        assert [text.split()[1] for text in cells] == ["previous", "champion", "candidate"]
        assert "7.1% lower" in cells[1]
        assert "by hand: worse in car 3 on hills" in cells[1]
        assert "when another took its place: worse in car 3 on hills" in cells[0]
        page.open(f"{api.url}/models/night@2")
        page.wait_for("document.querySelector('h1 .badge.champion')")
        text = page.run("document.body.innerText")
        told = ("it was promoted", "Champion since")
        for words in ("night@1, on the same windows", "11.8", "6000 windows", "pi-1", "2" * 64, *told):
            assert words in text, words
        seen(page, "model")
        page.open(f"{api.url}/nodes/pi-1")
        page.wait_for("document.body.innerText.includes('night@2')")
        seen(page, "node-with-model")
        page.open(f"{api.url}/models/night@9")
        page.wait_for("document.body.innerText.includes('night has no version 9')")
