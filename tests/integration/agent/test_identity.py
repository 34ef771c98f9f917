"""A real agent joins a server over real TLS, works under its identity, and loses it."""

import json
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_harness import Agent
from certificates import sign_server, write_certificates
from joining_server import JoiningServer

from fleven_agent.identity.secure_http import TlsProblem, handshake_failure

Make = Callable[..., Agent]
SECURE = "insecure = false\n"


@pytest.fixture
def car(make_agent: Make, joining: JoiningServer) -> Agent:
    """A car with two lines that takes nothing but TLS."""
    return make_agent(SECURE, report_url=joining.url)


@pytest.fixture
def accepted(car: Agent, joining: JoiningServer) -> Agent:
    """A car that an operator has accepted, at work."""
    car.start()
    car.wait("a request", lambda: joining.cars)
    joining.only_car().status = "accepted"
    car.wait_state("running")
    return car


def condition(status: dict[str, Any], code: str) -> dict[str, Any]:
    [found] = [one for one in status["conditions"] if one["code"] == code]
    return dict(found)


def identity_files(agent: Agent) -> dict[str, int]:
    folder = agent.state / "identity"
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


def test_a_car_with_two_lines_waits_until_it_is_accepted(car: Agent, joining: JoiningServer, fakes: Any) -> None:
    car.start()
    status = car.wait_condition("enrolment-pending")
    car.wait("a request", lambda: joining.cars)
    status = car.wait("the fingerprint", lambda: s if (s := car.status() or {}).get("identity") else None)
    status = car.wait_condition("enrolment-pending")
    shown = status["identity"]
    assert (status["state"], shown["standing"]) == ("gated", "pending")
    assert shown["server_authority"] == joining.fingerprint
    said = condition(status, "enrolment-pending")
    assert shown["key_fingerprint"] in said["message"]
    assert "nodes accept" in said["hint"]
    assert shown["key_fingerprint"] in car.run("status").stdout
    assert shown["key_fingerprint"] in car.log()
    assert joining.fingerprint in car.log()
    assert (fakes.starts(), joining.bearers) == ([], [])
    assert joining.requests[0]["invitation"] is None

    joining.only_car().status = "accepted"
    status = car.wait_state("running")
    assert status["identity"]["standing"] == "accepted"
    [start] = fakes.starts()
    folder = car.state / "identity"
    assert start["argv"][:2] == ["--root-certificates", str(folder / "ca.crt")]
    key = start["argv"].index("--auth-supernode-private-key")
    assert start["argv"][key + 1] == str(folder / "node.key")
    assert "--insecure" not in start["argv"]
    car.wait("a report", lambda: joining.reports)
    assert joining.bearers[0].startswith(f"{joining.only_car().car_id}.")
    assert joining.authority_headers[0] == joining.fingerprint
    assert joining.invalid == []


def test_nothing_of_the_identity_is_open_to_others_or_shown(accepted: Agent, joining: JoiningServer) -> None:
    accepted.wait("a report", lambda: joining.reports)
    modes = identity_files(accepted)
    assert {modes[name] for name in ("node.key", "identity.json", "ca.crt")} == {0o600}
    assert stat.S_IMODE((accepted.state / "identity").stat().st_mode) == 0o700
    secret = joining.bearers[0].partition(".")[2]
    private = (accepted.state / "identity/node.key").read_text(encoding="ascii").splitlines()[1]
    shown = [accepted.log(), accepted.run("status").stdout, json.dumps(accepted.status())]
    shown.append(json.dumps(joining.reports))
    assert not [text for text in shown if secret in text or private in text]
    maps = Path(f"/proc/{accepted.process.pid}/maps").read_text(encoding="ascii")  # type: ignore[union-attr]
    assert "cryptography" not in maps


def test_an_invitation_in_a_drop_in_is_enough(make_agent: Make, fakes: Any, joining: JoiningServer) -> None:
    code = joining.invite(7)
    agent = make_agent(f'join = "{code}"\n', report_url=joining.url)
    lines = agent.config.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(("partition-id", "superlink", "report-url"))]
    agent.config.write_text("\n".join(kept), encoding="utf-8")
    agent.start()
    status = agent.wait_state("running")
    agent.wait("a report", lambda: joining.reports)
    assert (status["node"]["partition_id"], status["node"]["flower_address"]) == (7, "127.0.0.1:9092")
    assert "partition-id=7" in " ".join(fakes.starts()[0]["argv"])
    assert code not in agent.log() + json.dumps(agent.status())
    assert agent.stop() == 0
    agent.start()  # the code is used by now, and the identity is what counts
    agent.wait_state("running")
    assert len(joining.requests) == 1


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        ("fingerprint", "server-changed", "has a different authority from the one that this car was told"),
        ("invitation", "enrolment-refused", "invitation-unknown"),
    ],
)
def test_a_join_code_that_does_not_fit_is_refused(
    make_agent: Make, joining: JoiningServer, spoil: str, code: str, said: str
) -> None:
    line = joining.invite(3, fingerprint="ab" * 32 if spoil == "fingerprint" else None)
    if spoil == "invitation":
        joining.invitations.clear()
    agent = make_agent(f'{SECURE}join = "{line}"\n', report_url=joining.url).start()
    status = agent.wait_condition(code)
    assert said in condition(status, code)["message"]
    assert status["state"] == "gated"
    assert bool(joining.requests) == (spoil == "invitation"), "nothing is sent before the server is known"


def test_a_revoked_car_stops_at_once_and_does_not_come_back(
    accepted: Agent, joining: JoiningServer, fakes: Any
) -> None:
    joining.only_car().status = "revoked"
    status = accepted.wait_condition("enrolment-refused", seconds=10)
    accepted.wait_state("gated")
    assert "an operator has revoked this car" in condition(status, "enrolment-refused")["message"]
    starts, asked = len(fakes.starts()), len(joining.requests)
    assert accepted.stop() == 0
    accepted.start()
    accepted.wait_state("gated")
    assert accepted.wait_condition("enrolment-refused")["identity"]["standing"] == "revoked"
    assert (len(fakes.starts()), len(joining.requests)) == (starts, asked)

    accepted.drop_in(f'{SECURE}join = "{joining.invite(2)}"\n')  # an operator's word: with a new key
    accepted.signal(signal.SIGHUP)
    accepted.wait_state("running")
    assert len(joining.cars) == 2


def test_a_car_that_is_held_goes_on_when_it_is_released(accepted: Agent, joining: JoiningServer) -> None:
    joining.only_car().status = "held"
    status = accepted.wait_condition("identity-held", seconds=10)
    assert "another board" in condition(status, "identity-held")["message"]
    accepted.wait_state("gated")
    joining.only_car().status = "accepted"
    accepted.wait_state("running")
    accepted.wait_condition("identity-held", gone=True)


def test_a_new_key_takes_over_when_supernode_works_with_it(accepted: Agent, joining: JoiningServer, fakes: Any) -> None:
    before = dict(accepted.status() or {})["identity"]["key_fingerprint"]
    old = joining.bearers[-1] if joining.bearers else ""
    joining.only_car().rotate = True
    status = accepted.wait("another key", lambda: other_key(accepted, before))
    accepted.wait("another start", lambda: len(fakes.starts()) == 2)
    accepted.wait_state("running")
    accepted.wait("the new secret", lambda: joining.bearers[-1] != old)
    assert status["identity"]["car_id"] == joining.only_car().car_id
    assert not (accepted.state / "identity/next").exists()
    count = len(joining.reports)
    accepted.wait("reports under the new secret", lambda: len(joining.reports) > count + 1)


def other_key(agent: Agent, before: str) -> dict[str, Any] | None:
    status = agent.status()
    return status if status and status["identity"]["key_fingerprint"] != before else None


def test_a_second_authority_is_taken_from_the_first_ones_server(
    accepted: Agent, joining: JoiningServer, fakes: Any, tmp_path: Path
) -> None:
    """As in an overlap: the server shows both for a while, then works with the second alone."""
    second = write_certificates(tmp_path / "second")
    own = joining.certificates / "ca.crt"
    own.write_text(own.read_text("ascii") + (second / "ca.crt").read_text("ascii"), encoding="ascii")
    pinned = accepted.state / "identity/ca.crt"
    accepted.wait("both authorities", lambda: pinned.read_text("ascii") == joining.bundle)
    accepted.wait("a SuperNode that knows both", lambda: len(fakes.starts()) == 2)
    joining.stop()
    joining.certificates = second
    joining.start()
    count = len(joining.reports)
    accepted.wait("reports to the second", lambda: len(joining.reports) > count + 1, 30)
    assert not [one for one in (accepted.status() or {})["conditions"] if one["code"] == "server-changed"]


def test_another_servers_authority_is_refused_loudly(accepted: Agent, joining: JoiningServer, tmp_path: Path) -> None:
    accepted.wait("a report", lambda: joining.reports)
    joining.stop()
    genuine, joining.certificates = joining.certificates, write_certificates(tmp_path / "others")
    joining.start()
    sent = len(joining.bearers)
    status = accepted.wait_condition("server-changed", seconds=30)
    said = condition(status, "server-changed")
    assert joining.fingerprint[:8] in said["message"]
    assert said["severity"] == "error"
    assert len(joining.bearers) == sent, "the secret went to somebody else"
    joining.stop()
    joining.certificates = genuine
    joining.start()
    accepted.wait_condition("server-changed", gone=True, seconds=90)


def test_an_answer_that_gets_lost_costs_no_second_key(car: Agent, joining: JoiningServer) -> None:
    lost = iter([True, True])
    joining.lose_answer = lambda: next(lost, False)
    car.start()
    car.wait("three requests", lambda: len(joining.requests) >= 3)
    assert len(joining.cars) == 1
    assert len({one["proof"] for one in joining.requests}) == 1


def test_a_car_that_the_server_forgot_asks_anew_with_another_key(accepted: Agent, joining: JoiningServer) -> None:
    old = joining.only_car()
    del joining.cars[old.public_key]
    accepted.wait("another key", lambda: joining.cars and joining.only_car().public_key != old.public_key)
    status = accepted.wait_condition("enrolment-pending")
    assert status["state"] == "gated" or accepted.wait_state("gated")


def test_an_open_superlink_is_used_only_where_node_toml_allows_it(
    make_agent: Make, joining: JoiningServer, fakes: Any
) -> None:
    joining.transport = "plain"
    secure = make_agent(SECURE, report_url=joining.url).start()
    secure.wait("a request", lambda: joining.cars)
    joining.only_car().status = "accepted"
    status = secure.wait_condition("transport-insecure")
    assert (status["state"], condition(status, "transport-insecure")["severity"]) == ("gated", "error")
    assert fakes.starts() == []

    secure.drop_in("insecure = true\n")
    secure.signal(signal.SIGHUP)
    secure.wait_state("running")
    assert fakes.starts()[0]["argv"][0] == "--insecure"
    secure.wait("reports, by TLS all the same", lambda: joining.reports)

    joining.transport = "tls"  # the server's doors are shut: the car follows, and does not go back by itself
    secure.wait("TLS", lambda: fakes.starts()[-1]["argv"][0] == "--root-certificates")
    joining.transport = "plain"
    count, starts = len(joining.reports), len(fakes.starts())
    secure.wait("more reports", lambda: len(joining.reports) > count + 2)
    assert len(fakes.starts()) == starts


def test_a_server_that_knows_nothing_of_joining_is_served_as_before(make_agent: Make, server: Any, fakes: Any) -> None:
    agent = make_agent("insecure = true\n", report_url=server.url).start()
    agent.wait_state("running")
    agent.wait("a report", lambda: server.reports)
    status = agent.status() or {}
    assert (status["identity"], [one["code"] for one in status["conditions"]]) == (None, ["data-missing"][:0])
    assert fakes.starts()[0]["argv"][0] == "--insecure"


def test_a_key_that_cannot_be_made_is_said(car: Agent, joining: JoiningServer) -> None:
    folder = car.state / "identity"
    folder.mkdir(parents=True)
    (folder / "node.key").write_text("no key\n", encoding="ascii")
    car.start()
    status = car.wait_condition("enrolment-refused")
    assert "node.key cannot be used" in condition(status, "enrolment-refused")["message"]
    shutil.rmtree(folder)


def checks(agent: Agent, *groups: str) -> dict[str, dict[str, str]]:
    only = [part for group in groups for part in ("--only", group)]
    done = agent.run("check", "--config", str(agent.config), "--json", *only)
    return {one["id"]: one for one in json.loads(done.stdout)["checks"]}


def test_the_checks_say_how_the_car_stands_and_who_the_server_is(car: Agent, joining: JoiningServer) -> None:
    before = checks(car, "identity", "certificates", "configuration")
    assert (before["identity.joined"]["status"], before["certificates.server"]["status"]) == ("error", "skipped")
    assert before["configuration.reports"]["status"] == "skipped"
    car.start()
    car.wait("a request", lambda: joining.cars)
    car.wait("its answer", lambda: checks(car, "identity.joined")["identity.joined"]["status"] == "warning")
    joining.only_car().status, joining.only_car().partition_id = "accepted", 4
    car.wait_state("running")
    found = checks(car, "identity", "certificates", "configuration", "network.report-http")
    assert {one["status"] for name, one in found.items() if name.startswith("identity") and "wishes" not in name} == {
        "ok"
    }
    assert "partition-id = 0" in found["identity.wishes"]["message"]
    assert found["identity.wishes"]["status"] == "warning"
    assert "is valid for 36" in found["certificates.server"]["message"]
    assert found["certificates.roots"]["status"] == found["network.report-http"]["status"] == "ok"
    assert found["configuration.transport"]["status"] == "ok"


def test_ends_of_certificates_are_seen_coming_and_named(make_agent: Make, tmp_path: Path) -> None:
    server = JoiningServer(write_certificates(tmp_path / "short", days=10))
    server.start()
    try:
        agent = make_agent(SECURE, report_url=server.url).start()
        agent.wait("a request", lambda: server.cars)
        server.only_car().status = "accepted"
        agent.wait_state("running")
        soon = checks(agent, "certificates")
        assert {soon[name]["status"] for name in ("certificates.roots", "certificates.server")} == {"warning"}
        server.stop()
        sign_server(server.certificates, days=-1)
        server.start()
        assert "has expired" in checks(agent, "certificates.server")["certificates.server"]["message"]
        address, roots = server.url.partition("://")[2], str(server.certificates / "ca.crt")
        failure = handshake_failure(address, roots)
        assert failure is not None
        assert failure.problem is TlsProblem.EXPIRED
        sign_server(server.certificates, days=10)
        server.stop()
        assert handshake_failure(address, roots) is None, "nobody answers: that is no matter of certificates"
        server.start()
        assert handshake_failure(server.url.partition("://")[2], roots) is None
        sign_server(server.certificates, days=-1)
        server.stop()
        server.start()
        agent.wait("the reason", lambda: "expired" in str((agent.status() or {}).get("report_problem")))
    finally:
        server.stop()
