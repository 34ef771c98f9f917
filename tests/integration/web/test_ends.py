"""What ends soon is seen in four places: the page, the metrics, the journal and `check`, and in `status` too.

With real certificate files that end in ten days or have ended, and a `tailscale` that says the same of its key.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from certificates import sign_server, write_certificates
from chromium import chromium

from fleven.server.checks import ALL, Context
from fleven.server.config.loader import Loaded
from fleven.server.http.transport import TlsContext
from fleven.server.service.trust_keeper import TrustKeeper
from fleven.server.trust.certificates import Lifetimes
from fleven.server.trust.files import trust_files
from fleven_agent.common.checks import Result, Status

DAY = timedelta(days=1)
PICTURES = os.environ.get("FLEVEN_PICTURES", "")
"""A folder for pictures of what was seen, for people; without it none are kept."""


class AtOnce:
    def submit(self, work: Callable[[], None]) -> "Future[None]":
        work()
        return Future()


def tailscale_says(folder: Path, key_ends: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program on PATH that answers as Tailscale does."""
    own = {"DNSName": "pc.tail.ts.net.", "KeyExpiry": key_ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
    program = folder / "bin" / "tailscale"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{json.dumps({'BackendState': 'Running', 'Self': own})}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def own_authority(api: Any, now: datetime, *, authority: timedelta, server: timedelta) -> None:
    """Write an authority and a server certificate that end so long after now, and let no renewal succeed."""
    files = trust_files(api.paths)
    made_at = now - 400 * DAY
    lifetimes = Lifetimes(authority=authority + 400 * DAY, server=server + 400 * DAY)
    files.bring_up_to_date(made_at, lambda: frozenset({"fleven-server"}), lifetimes=lifetimes)
    files.authority_key.write_bytes(b"damaged")


def look(api: Any, now: datetime) -> None:
    """Let the service look once."""
    files = trust_files(api.paths)
    tls = TlsContext((files.server_certificate, files.server_key), "fleven-server", None)
    executor: Any = AtOnce()
    TrustKeeper(api.store, api.config, api.paths, tls, executor, list).run_due(now, 0)


def checked(api: Any, now: datetime, name: str) -> Result:
    context = Context(None, api.paths, now)
    context.__dict__["loaded"] = Loaded(api.config, ())
    try:
        return next(check for check in ALL if check.id == name).run(context)
    finally:
        context.close()


def seconds_left(api: Any) -> dict[str, float]:
    text = api.client.get("/metrics").text
    found = re.findall(r'^fleven_certificate_ends_seconds\{name="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in found}


@pytest.mark.parametrize(
    ("days", "words", "status", "level"),
    [
        (10, "ends in", Status.WARNING, logging.WARNING),
        (-1, "ended on", Status.ERROR, logging.ERROR),
        (90, "", Status.OK, None),
    ],
    ids=["soon", "ended", "fine"],
)
def test_page_metrics_journal_and_check_say_the_same(
    api_with: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    days: int,
    words: str,
    status: Status,
    level: int | None,
) -> None:
    now, left = datetime.now(UTC), days * DAY
    given = sign_server(write_certificates(tmp_path / "given"), days=days)
    api = api_with(certificate=str(given / "server.crt"), private_key=str(given / "server.key"))
    tailscale_says(tmp_path, now + left, monkeypatch)
    own_authority(api, now, authority=left, server=left)
    look(api, now)

    names = {"authority", "server certificate", "web.certificate", "Tailscale key"}
    assert set(seconds_left(api)) == names
    assert all(abs(value - left.total_seconds()) < DAY.total_seconds() for value in seconds_left(api).values())
    results = [checked(api, now, f"service.{name}") for name in ("certificate", "tailscale")]
    assert [one.status for one in results] == [status, status]
    page, journal = api.client.get("/").text, caplog.records
    for name in names:
        told = [one for one in journal if f"what='{name} {words}" in one.getMessage()]
        if level is None:
            assert told == []
            assert f"{name} end" not in page
        else:
            assert [one.levelno for one in told] == [level], name
            assert f"{name} {words}" in page
            assert any(f"{name} {words}" in one.message for one in results)
            assert any(f"{name} {words}" in one for one in api.client.get("/v1/status").json()["problems"])
    assert "event=renewal-failed" in caplog.text
    if level is not None and shutil.which("chromium") is not None:
        with chromium() as seen:
            seen.open(f"{api.url}/")
            seen.wait_for(f"document.querySelector('.problems').innerText.includes('web.certificate {words}')")
            seen.size(390, 844)
            assert not seen.is_too_wide()
            if PICTURES:
                seen.picture(Path(PICTURES) / f"ends-{status}.png")
