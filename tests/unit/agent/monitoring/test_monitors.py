"""A SuperLink's name decides about TLS by where it leads, and DNS that is away for a while decides nothing."""

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from fleven_agent.common.addresses import is_name, public_address
from fleven_agent.config.settings import Settings
from fleven_agent.monitoring.monitors import TOUCH_SECONDS, Monitors, PrivateName
from fleven_agent.monitoring.trip_folder import Summary
from fleven_agent.monitoring.trip_watch import Look


class Dns:
    """Answers what it was last told."""

    def __init__(self) -> None:
        self.answer: Sequence[str] = ()

    def __call__(self, host: str) -> Sequence[str]:
        if not self.answer:
            raise socket.gaierror(socket.EAI_AGAIN, "temporary failure")
        return self.answer


def test_a_name_keeps_the_gate_closed_until_it_has_led_into_the_tailnet() -> None:
    dns = Dns()
    name = PrivateName(Settings(partition_id=0, superlink="server.tail1234.ts.net:9092"), dns)
    assert "has not been resolved yet" in name.problem
    assert name.run()
    assert name.problem == "the name server.tail1234.ts.net cannot be resolved: temporary failure"
    assert not name.run()
    dns.answer = ("100.101.102.103", "fd7a:115c:a1e0::1")
    assert name.run()
    assert name.problem == ""
    dns.answer = ()
    assert not name.run(), "a VPN that comes up again is no reason to stop a task"
    dns.answer = ("100.101.102.103", "192.0.2.7")
    assert name.run()
    assert "192.0.2.7, neither a loopback nor a tailnet address" in name.problem


@pytest.mark.parametrize(
    ("superlink", "insecure"), [("server:9092", True), ("server:9092", False), ("100.64.0.1:9092", None)]
)
def test_what_node_toml_decides_itself_is_not_asked(superlink: str, insecure: bool | None) -> None:
    name = PrivateName(Settings(partition_id=0, superlink=superlink, insecure=insecure), Dns())
    assert name.problem == ""
    assert not name.run()


def test_names_and_addresses_are_told_apart() -> None:
    assert [is_name(host) for host in ("localhost", "::1", "100.64.0.1", "server", "a.ts.net")] == [False] * 3 + [
        True
    ] * 2
    assert public_address(["127.0.0.1", "fd7a:115c:a1e0::9", "100.64.3.4"]) == ""
    assert public_address(["100.64.3.4", "fe80::1%eth0"]) == "fe80::1%eth0"


@pytest.mark.parametrize("unanswered", [Look(), Look(stuck="it does not answer")])
def test_a_scan_without_an_answer_is_not_tried_in_a_row(
    unanswered: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [unanswered, Look(summary=Summary(str(tmp_path), trips=1)), Look()]
    scans: list[bool] = []

    def look(_self: object, _folder: object, *, scan: bool) -> Look:
        scans.append(scan)
        return answers.pop(0)

    monkeypatch.setattr("fleven_agent.monitoring.trip_watch.TripWatch.look", look)
    settings = Settings(partition_id=0, superlink="127.0.0.1:9092", data_path=str(tmp_path))
    monitors = Monitors(settings, tmp_path, tmp_path, lambda: None)
    job = monitors._jobs[2]
    for _ in range(3):
        monitors._look_at_trips()
        assert job.interval_seconds == TOUCH_SECONDS
    assert scans == [True, True, False]
    assert monitors.data == Summary(str(tmp_path), trips=1)


def test_a_car_without_trips_looks_again_soon_and_one_with_trips_at_the_usual_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A car is kept out of runs until it has trips: whoever copies them now waits for the next look."""
    moment = [1_000.0]
    scans: list[bool] = []
    answers = [Summary(str(tmp_path), problem="no readable trip"), Summary(str(tmp_path), trips=1)]

    def look(_self: object, _folder: object, *, scan: bool) -> Look:
        scans.append(scan)
        return Look(summary=answers.pop(0) if scan and answers else None)

    monkeypatch.setattr("fleven_agent.monitoring.trip_watch.TripWatch.look", look)
    monkeypatch.setattr("fleven_agent.monitoring.monitors.time.monotonic", lambda: moment[0])
    settings = Settings(partition_id=0, superlink="127.0.0.1:9092", data_path=str(tmp_path))
    monitors = Monitors(settings, tmp_path, tmp_path, lambda: None)
    for _ in range(6):
        monitors._look_at_trips()
        moment[0] += TOUCH_SECONDS
    assert scans == [True, True, False, False, False, False]
