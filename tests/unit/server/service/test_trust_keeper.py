"""When a renewed certificate makes the SuperLink start again: never while a run is open."""

import json
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.database import Store
from fleven.server.database.facts import TRUST_FACT
from fleven.server.errors import CertificateRefusedError
from fleven.server.flower.answers import FlowerRun
from fleven.server.http.transport import TlsContext
from fleven.server.service import trust_keeper
from fleven.server.service.trust_keeper import TrustKeeper, foreign_runs
from fleven.server.trust.files import TrustFiles
from fleven.server.trust.upkeep import prepare

NOW = datetime.now(UTC)


class AtOnce:
    """An executor that works at once."""

    def submit(self, work: Callable[[], None]) -> "Future[None]":
        work()
        return Future()


class Bench:
    def __init__(self, folder: Path, store: Store, *, watched: bool = True) -> None:
        self.paths = Paths(folder)
        self.config = ServerConfig(insecure=False)
        self.store = store
        self.files = TrustFiles(self.paths.trust)
        self.found: list[FlowerRun] = []
        started_with = prepare(self.config, self.paths, NOW)
        self.paths.superlink_record.write_text(json.dumps({"pid": 77, "certificate": started_with, "watched": watched}))
        tls = TlsContext((self.files.server_certificate, self.files.server_key), "fleven-server", None)
        executor: Any = AtOnce()
        self.keeper = TrustKeeper(self.store, self.config, self.paths, tls, executor, lambda: self.found)
        self.tls = tls

    def renew(self) -> None:
        self.files.bring_up_to_date(NOW, frozenset, asked=True)

    def turn(self, minutes: float, own_runs: int = 0) -> datetime:
        at = NOW + timedelta(minutes=minutes)
        self.keeper.run_due(at, own_runs)
        return at

    @property
    def asked(self) -> str:
        file = self.paths.superlink_restart
        return file.read_text().strip() if file.exists() else ""


@pytest.fixture
def bench(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(trust_keeper, "tailscale_status", lambda: None)
    return Bench(tmp_path, store)


def test_nothing_is_renewed_and_nothing_is_asked(bench: Bench) -> None:
    before = bench.tls.context
    for minute in range(5):
        bench.turn(minute)
        bench.turn(minute + 0.5)
    assert bench.asked == ""
    assert bench.tls.context is before
    fact = bench.store.fact(TRUST_FACT)
    assert fact is not None
    assert {end["name"] for end in fact[0]["ends"]} == {"authority", "server certificate"}


def test_the_page_shows_a_new_certificate_in_a_run_and_the_superlink_waits_for_its_end(bench: Bench) -> None:
    before = bench.tls.context
    bench.renew()
    for minute in range(30):
        bench.turn(minute, own_runs=1)
        bench.turn(minute + 0.5, own_runs=1)
    assert bench.tls.context is not before
    assert bench.asked == ""
    bench.turn(30.5)
    at = bench.turn(30.7)
    assert bench.asked == "77"
    # Until it is back no run is submitted.
    assert bench.keeper.holds(at)
    assert not bench.keeper.holds(at + timedelta(minutes=2))


def test_a_run_that_was_given_by_hand_is_waited_for_too(bench: Bench) -> None:
    bench.found = [FlowerRun("5", "", "running")]
    bench.renew()
    bench.turn(0)
    at = bench.turn(0.5)
    assert bench.asked == ""
    assert not bench.keeper.holds(at)
    bench.found = [FlowerRun("5", "", "finished", "completed")]
    bench.turn(1)
    bench.turn(1.5)
    assert bench.asked == ""  # not asked again at once
    bench.turn(7)
    bench.turn(7.5)
    assert bench.asked == "77"


def test_a_superlink_that_nobody_would_start_again_is_left_alone_and_the_journal_says_so(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trust_keeper, "tailscale_status", lambda: None)
    bench = Bench(tmp_path, store, watched=False)
    bench.renew()
    for minute in range(20):
        bench.turn(minute)
        bench.turn(minute + 0.5)
    assert bench.asked == ""
    assert caplog.text.count("event=certificate-waits") == 1


def test_a_key_that_is_not_there_yet_does_not_stop_the_superlink(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = TrustFiles(tmp_path / "given")
    given.bring_up_to_date(NOW, lambda: frozenset({"fleven-server"}))
    bench.keeper.config = ServerConfig.model_validate(
        {
            "superlink": {
                "certificate": given.server_certificate,
                "private-key": given.server_key,
                "root-certificates": given.authority_bundle,
            }
        }
    )
    other = TrustFiles(tmp_path / "other")
    other.bring_up_to_date(NOW, lambda: frozenset({"fleven-server"}))
    given.server_certificate.write_bytes(other.server_certificate.read_bytes())
    bench.turn(0)
    bench.turn(0.5)
    assert bench.asked == ""
    assert "event=trust-look-failed" in caplog.text


def test_ends_and_open_doors_are_told_once_a_day(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.keeper.config = ServerConfig(insecure=True)
    for minute in range(10):
        bench.turn(minute)
    assert caplog.text.count("event=insecure") == 1
    bench.turn(24 * 60 + 1)
    assert caplog.text.count("event=insecure") == 2


def test_runs_of_others_are_told_apart_from_those_that_the_register_has_given_up() -> None:
    found = [FlowerRun("1", "", "finished"), FlowerRun("2", "", "running"), FlowerRun("3", "", "pending")]
    assert foreign_runs(found, frozenset({"2"})) == ["3"]


def test_a_superlink_whose_certificate_has_expired_is_started_again_though_it_cannot_be_asked(bench: Bench) -> None:
    def refuse() -> list[FlowerRun]:
        raise CertificateRefusedError("the SuperLink's certificate is refused: certificate has expired")

    bench.keeper.list_runs = refuse
    bench.renew()
    bench.turn(0)
    bench.turn(0.5, own_runs=1)
    assert bench.asked == "", "a run goes on with the connections that it has"
    bench.turn(0.7)
    assert bench.asked == "77"
