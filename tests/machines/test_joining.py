"""Cars on booted machines join the server that apt installed: invited, accepted, revoked in a run, rotated, copied.

And what they trust is renewed under them, changed, and let expire.

The tests build on each other, as an operator's days do. They ask by commands only, on the machine that they are about.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from testbed.fleet import Fleet, install, together
from testbed.machine import Machine
from testbed.shell import wait_for

# Slow: tests/flower/test_joining.py goes most of this way in each run, and CI has 45 minutes for everything.
pytestmark = [pytest.mark.machines, pytest.mark.slow, pytest.mark.timeout(900)]
ENDED = {"succeeded", "failed", "timed-out", "cancelled", "skipped"}


def status(node: Machine) -> dict[str, Any]:
    """What a car's agent says; empty while it does not answer."""
    result = node.try_run("fleven-agent", "status", "--json")
    return dict(json.loads(result.output)) if result.exit_code == 0 else {}


def standing(node: Machine) -> str:
    return str((status(node).get("identity") or {}).get("standing"))


def conditions(node: Machine) -> set[str]:
    return {one["code"] for one in status(node).get("conditions", [])}


def wait_running(*nodes: Machine, seconds: float = 120) -> None:
    for node in nodes:
        wait_for(f"{node.name} running", lambda n=node: status(n).get("state") == "running", seconds)


def health(fleet: Fleet) -> dict[str, str]:
    """How the server judges each car."""
    return {one["name"]: one["health"] for one in fleet.ask(fleet.server, "fleven-server", "nodes")["nodes"]}


def wait_ready(fleet: Fleet, *names: str, seconds: float = 180) -> None:
    wait_for(f"{names} ready", lambda: all(health(fleet).get(name) == "ready" for name in names), seconds, 2.0)


def trust_lines(fleet: Fleet, event: str) -> list[str]:
    return [line for line in fleet.server.journal("-u", "fleven-server").splitlines() if f"event={event}" in line]


def run_of(fleet: Fleet, number: int) -> dict[str, Any]:
    return dict(fleet.ask(fleet.server, "fleven-server", "runs", "show", str(number)))


def test_three_cars_join_with_one_command_each(fleet: Fleet) -> None:
    first, second, third = fleet.nodes
    install(fleet.server, fleet.package("server"))
    together(*[lambda n=node: install(n, fleet.package("node")) for node in fleet.nodes])
    for number, node in enumerate(fleet.nodes):
        fleet.give_trips(node, number)
    answer = fleet.ask(fleet.server, "fleven-server", "nodes", "invite", "n1", "--count", "2")
    codes = [one["code"] for one in answer["invitations"]]
    assert len(codes) == 2
    joined = []
    for node, code in zip((first, second), codes, strict=True):
        joined.append(fleet.step(f"{node.name} joins", lambda n=node, c=code: fleet.ask(n, "fleven-agent", "join", c)))
    assert [(one["name"], one["partition_id"], one["ready"]) for one in joined] == [("n1", 0, True), ("n2", 1, True)]
    text = first.run("cat", "/etc/fleven/node.toml")
    assert "\npartition-id = 0\n" in text
    assert f'\nsuperlink = "{fleet.server.address}:9092"\n' in text
    again = second.try_run("fleven-agent", "join", codes[0], "--replace")
    assert (again.exit_code, "traceback" in again.errors.lower()) == (1, False), again.errors
    owner = first.shell("stat -c '%U %a' /var/lib/fleven/identity /var/lib/fleven/identity/node.key").split("\n")
    assert owner[:2] == ["fleven 700", "fleven 600"]

    # The third one with its two lines: it waits, and is let in.
    fleet.configure(third, 2)
    third.run("systemctl", "start", "fleven-agent")
    wait_for("it waits", lambda: standing(third) == "pending", 60)
    assert status(third)["state"] == "gated"
    fingerprint = status(third)["identity"]["key_fingerprint"]
    assert fingerprint in third.journal("-u", "fleven-agent")
    assert fingerprint in json.dumps(fleet.ask(fleet.server, "fleven-server", "nodes", "pending"))
    fleet.server.run("fleven-server", "nodes", "accept", "n3")
    wait_running(third)


LONG_TASKS = ("--set", "local-epochs=60", "--set", "personal=none")
"""Tasks of several seconds, so that something can happen in the middle of one."""


TIMED_TASKS = ("--set", "local-epochs=1000", "--set", "local-seconds=8", "--set", "personal=none")
"""Tasks that last as long on any computer, however busy."""


def in_a_task(node: Machine) -> bool:
    """Return whether a car trains right now."""
    return (status(node).get("current_run") or {}).get("message_type") == "train"


def task_failures(node: Machine) -> int:
    return int(status(node)["counters"]["task_failures"])


def test_the_cars_train_and_one_that_is_revoked_in_a_run_is_gone(fleet: Fleet) -> None:
    first, second, third = fleet.nodes
    wait_ready(fleet, "n1", "n2", "n3")
    result = fleet.run_now("--set", "rounds=1", "--min-nodes", "3")
    assert result.exit_code == 0, result.output + result.errors
    before = [task_failures(node) for node in (first, third)]
    run = fleet.submit("--set", "rounds=6", *LONG_TASKS, "--min-nodes", "2")
    wait_for("all of them train", lambda: all(in_a_task(node) for node in fleet.nodes), 180)
    began = time.monotonic()
    fleet.server.run("fleven-server", "nodes", "revoke", "n2")
    wait_for("n2 knows it", lambda: "enrolment-refused" in conditions(second), 60)
    fleet.seconds["revoked until the car knows"] = round(time.monotonic() - began, 1)
    wait_for("n2 stopped", lambda: not second.processes("flower-supernode"), 60)
    fleet.seconds["revoked until its SuperNode is gone"] = round(time.monotonic() - began, 1)
    fleet.step("the run's end after it", lambda: fleet.wait_end(run, 400))
    assert run_of(fleet, run)["state"] == "succeeded"
    assert [task_failures(node) for node in (first, third)] == before, "a car was hit that nobody had revoked"
    second.run("systemctl", "restart", "fleven-agent")
    wait_for("it stays out", lambda: status(second).get("state") == "gated", 60)
    assert standing(second) == "revoked"


def key_of(node: Machine) -> str:
    return str((status(node).get("identity") or {}).get("key_fingerprint"))


def trained(fleet: Fleet, run: int) -> set[tuple[str, int]]:
    """Return which cars trained in which rounds of a run."""
    rows = [row for row in run_of(fleet, run)["tasks"] if row["message_type"] == "train"]
    assert all(row["outcome"] == "succeeded" for row in rows), rows
    return {(row["node"], row["round"]) for row in rows}


def test_a_new_key_waits_for_the_end_of_a_run_and_the_next_run_for_the_key(fleet: Fleet) -> None:
    first, _, third = fleet.nodes
    before, failures = key_of(first), [task_failures(node) for node in (first, third)]
    run = fleet.submit("--set", "rounds=4", *LONG_TASKS, "--min-nodes", "2")
    wait_for("both train", lambda: in_a_task(first) and in_a_task(third), 180)
    said = fleet.server.run("fleven-server", "nodes", "rotate", "n1")
    assert "when the run has ended" in said
    following = fleet.submit("--set", "rounds=1", "--min-nodes", "2")
    fleet.step("a run with a wish for a new key", lambda: fleet.wait_end(run, 400))
    shown = run_of(fleet, run)
    assert shown["state"] == "succeeded"
    began = time.monotonic()
    wait_for("another key", lambda: key_of(first) != before, 90)
    fleet.seconds["the run's end until the car has a new key"] = round(time.monotonic() - began, 1)
    # A question to a busy machine takes longer than the change: their order stands in the journal.
    journal = fleet.server.journal("-u", "fleven-server")
    ended = journal.index(f"event=run-step run={run} schedule=default state=succeeded")
    assert journal.index("event=car-key-brought node=n1") > ended, "the key was changed under the run"
    fleet.step("the next run with the new key", lambda: fleet.wait_end(following, 400))
    assert run_of(fleet, following)["state"] == "succeeded"
    assert [task_failures(node) for node in (first, third)] == failures
    for number, rounds in ((run, 4), (following, 1)):
        wanted = {(name, one) for name in ("n1", "n3") for one in range(1, rounds + 1)}
        wait_for(f"both cars' work in run {number}", lambda n=number, w=wanted: trained(fleet, n) == w, 60, 2.0)


def card_of(node: Machine) -> str:
    return node.shell("tar -C /var/lib/fleven -c identity state.json | base64 -w0")


def put_back(node: Machine, card: str) -> None:
    """Start the agent with what a copied card holds."""
    node.run("systemctl", "stop", "fleven-agent")
    node.shell("rm -rf /var/lib/fleven/identity /var/lib/fleven/state.json")
    node.run("sh", "-c", "base64 -d | tar -C /var/lib/fleven -x", text_input=card)
    node.run("systemctl", "start", "fleven-agent")


def test_a_car_that_restarts_loses_power_and_gets_its_card_from_a_backup_is_no_copy(fleet: Fleet) -> None:
    first = fleet.nodes[0]
    card = card_of(first)
    for _ in range(3):
        first.run("systemctl", "kill", "-s", "KILL", "fleven-agent")
        wait_running(first)
    first.power_cycle()
    wait_running(first)
    fleet.wait_ready("n1")
    put_back(first, card)
    wait_for("it goes on", lambda: "the server knows later reports" in first.journal("-u", "fleven-agent"), 60)
    wait_running(first)
    fleet.wait_ready("n1")
    assert standing(first) == "accepted"
    assert not trust_lines(fleet, "car-held")


def test_the_copy_of_a_card_is_noticed_and_both_are_held(fleet: Fleet) -> None:
    first, second = fleet.nodes[:2]
    copy, began = card_of(first), time.monotonic()
    put_back(second, copy)
    # In their sandbox, both see the boot id of the one kernel under these machines.
    wait_for("noticed", lambda: health(fleet).get("n1") == "held", 120)
    fleet.seconds["the copy's start until it is noticed"] = round(time.monotonic() - began, 1)
    wait_for("both know", lambda: all("identity-held" in conditions(node) for node in (first, second)), 60)
    fleet.seconds["the copy's start until both know"] = round(time.monotonic() - began, 1)
    for node in (first, second):
        wait_for(f"{node.name} stopped", lambda n=node: not n.processes("flower-supernode"), 60)
        assert "identity-held" in node.journal("-u", "fleven-agent")
    shown = next(one for one in fleet.get("nodes")["nodes"] if one["name"] == "n1")
    assert "identity-held" in {one["code"] for one in shown["conditions"]}
    assert "event=car-held node=n1" in fleet.server.journal("-u", "fleven-server")
    # The operator finds the copy, takes it away, and lets the car in again.
    second.run("systemctl", "stop", "fleven-agent")
    second.shell("rm -rf /var/lib/fleven/identity")
    fleet.server.run("fleven-server", "nodes", "accept", "n1")
    wait_running(first)
    wait_ready(fleet, "n1")


def test_a_revoked_board_comes_back_only_by_a_new_invitation(fleet: Fleet) -> None:
    second = fleet.nodes[1]
    answer = fleet.ask(fleet.server, "fleven-server", "nodes", "invite", "n2")
    code = answer["invitations"][0]["code"]
    # As on a fresh card: a file in node.toml.d in place of the command.
    second.write("/etc/fleven/node.toml.d/10-join.toml", f'join = "{code}"\n')
    second.run("systemctl", "start", "fleven-agent")
    wait_running(second)
    assert standing(second) == "accepted"
    wait_ready(fleet, "n1", "n2", "n3")


def life_of_certificates(fleet: Fleet, seconds: int | None) -> None:
    """Start both services with certificates of another life; None: the usual one."""
    for unit in ("fleven-superlink", "fleven-server"):
        file = f"/etc/systemd/system/{unit}.service.d/50-life.conf"
        if seconds is None:
            fleet.server.run("rm", file)
        else:
            fleet.server.write(file, f"[Service]\nEnvironment=FLEVEN_CERTIFICATE_SECONDS={seconds}\n")
    fleet.server.run("systemctl", "daemon-reload")
    if seconds is not None:
        # The certificate that is there would go on for its year.
        fleet.server.run("env", f"FLEVEN_CERTIFICATE_SECONDS={seconds}", "fleven-server", "trust", "renew")
    fleet.server.run("systemctl", "restart", "fleven-superlink", "fleven-server")


def superlink_id(fleet: Fleet) -> str:
    return fleet.server.show("fleven-superlink", "MainPID")


def test_a_certificate_of_two_minutes_is_renewed_under_a_run_and_none_is_ended(fleet: Fleet) -> None:
    life_of_certificates(fleet, 120)
    fleet.wait_ready("n1", "n2", "n3")
    failures = [task_failures(node) for node in fleet.nodes]
    run = fleet.submit("--set", "rounds=16", *TIMED_TASKS, "--min-nodes", "3")
    # Before the run begins, the SuperLink may be started again, rightly.
    wait_for("it runs", lambda: run_of(fleet, run)["state"] == "running", 180, 1.0)
    began, process = time.monotonic(), superlink_id(fleet)
    made, restarts = len(trust_lines(fleet, "certificate-made")), len(trust_lines(fleet, "superlink-restart"))
    fleet.step("a run over the end of the SuperLink's certificate", lambda: fleet.wait_end(run, 600))
    assert time.monotonic() - began > 125, "the run was to outlast the certificate with which it began"
    assert run_of(fleet, run)["state"] == "succeeded"
    renewed = trust_lines(fleet, "certificate-made")[made:]
    assert len(renewed) >= 2, renewed
    assert all("reason=ends" in line for line in renewed)
    assert len(trust_lines(fleet, "certificate-loaded")) >= 2
    assert [task_failures(node) for node in fleet.nodes] == failures
    ended = time.monotonic()
    wait_for("the SuperLink reads the new one", lambda: superlink_id(fleet) not in (process, "0"), 360, 1.0)
    journal = fleet.server.journal("-u", "fleven-server", "-u", "fleven-superlink")
    before, _, after = journal.partition(f"event=run-step run={run} schedule=default state=succeeded")
    assert before.count("event=superlink-restart") == restarts, "it was started again under the run"
    assert f"pid={process}\n" in after, "the one that the run began with was not the first to be started again after it"
    assert "Finished task" in after.partition("event=superlink-restart")[0], "its ServerApp still drew plots"
    fleet.seconds["the run's end until the SuperLink reads the new certificate"] = round(time.monotonic() - ended, 1)
    fleet.wait_ready("n1", "n2", "n3")
    fleet.seconds["the run's end until all are ready again"] = round(time.monotonic() - ended, 1)
    life_of_certificates(fleet, None)
    fleet.wait_ready("n1", "n2", "n3")
    ends = fleet.ask(fleet.server, "fleven-server", "trust", "status")["ends"]
    assert {one["outlook"] for one in ends} == {"fine"}


def test_another_authority_overlaps_with_the_one_before(fleet: Fleet) -> None:
    first = fleet.nodes[0]
    before = fleet.ask(fleet.server, "fleven-server", "trust", "status")["fingerprint"]
    process, failures = superlink_id(fleet), [task_failures(node) for node in fleet.nodes]
    run = fleet.submit("--set", "rounds=6", *LONG_TASKS, "--min-nodes", "3")
    wait_for("it trains", lambda: in_a_task(first), 180)
    fleet.server.run("fleven-server", "trust", "renew", "--authority")
    after = fleet.ask(fleet.server, "fleven-server", "trust", "status")["fingerprint"]
    assert after != before
    fleet.step("a run under which the authority was replaced", lambda: fleet.wait_end(run, 400))
    assert run_of(fleet, run)["state"] == "succeeded"
    assert [task_failures(node) for node in fleet.nodes] == failures
    wait_for(
        "the SuperLink has a certificate of the new one", lambda: superlink_id(fleet) not in (process, "0"), 150, 1.0
    )
    count = ("grep", "-c", "BEGIN", "/var/lib/fleven/identity/ca.crt")
    for node in fleet.nodes:
        wait_for(f"{node.name} knows both", lambda n=node: n.run(*count).strip() == "2", 60)
    fleet.wait_ready("n1", "n2", "n3")
    # One that was off meanwhile finds its way by the certificate with which the old authority vouches for the new one.
    first.run("systemctl", "restart", "fleven-agent")
    wait_running(first)
    result = fleet.run_now("--set", "rounds=1", "--min-nodes", "3")
    assert result.exit_code == 0, result.output + result.errors


SHORT = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from fleven.server.trust.certificates import Lifetimes, make_server_certificate, new_key, split_bundle
trust, own, seconds = Path("/var/lib/fleven-server/trust"), Path(sys.argv[1]), int(sys.argv[2])
bundle, key = (trust / "ca.crt").read_bytes(), new_key()
names = frozenset({"fleven-server", "localhost", "127.0.0.1", sys.argv[3]})
life = Lifetimes(server=timedelta(seconds=seconds))
authority = (trust / "ca.key").read_bytes(), split_bundle(bundle)[0]
made = make_server_certificate(key, names, *authority, datetime.now(UTC), life)
for name, content in (("own.crt", made), ("own.key", key), ("roots.crt", bundle)):
    (own / name).write_bytes(content)
"""
"""An operator's certificate, signed by what the cars believe already."""
SHORT_SECONDS = 120
"""Of its life: all cars get ready in it, also on a busy computer."""


def test_an_expired_certificate_is_named_everywhere_and_not_the_network(fleet: Fleet) -> None:
    first, server = fleet.nodes[0], fleet.server
    own = "/etc/fleven/tls"
    server.run("install", "-d", "-o", "fleven-server", "-g", "fleven-server", own)
    python = server.shell("head -1 $(readlink -f /usr/bin/fleven-server)").removeprefix("#!").split()[0]
    began = time.monotonic()
    server.run(python, "-c", SHORT, own, str(SHORT_SECONDS), server.address)
    server.run("chown", "-R", "fleven-server:", own)
    files = {"certificate": "own.crt", "private-key": "own.key", "root-certificates": "roots.crt"}
    lines = "".join(f'{key} = "{own}/{name}"\n' for key, name in files.items())
    server.write("/etc/fleven/server.toml.d/50-own.toml", f"[superlink]\n{lines}")
    server.run("systemctl", "restart", "fleven-superlink", "fleven-server")
    fleet.wait_ready("n1", "n2", "n3")
    assert time.monotonic() - began < SHORT_SECONDS, "ready only after the end of the short certificate"
    checked = server.try_run("fleven-server", "check", "--only", "service.certificate")
    assert "superlink.certificate ends in" in checked.output, checked.output + checked.errors

    # A run is under way when it ends, longer than anybody would wait for it.
    long = fleet.submit("--set", "rounds=400", *LONG_TASKS, "--min-nodes", "3")
    wait_for("it trains", lambda: in_a_task(first), 60)
    assert time.monotonic() - began < SHORT_SECONDS, "training only after the end of the short certificate"
    wait_for("its end", lambda: time.monotonic() - began > SHORT_SECONDS + 5, SHORT_SECONDS + 10)
    assert run_of(fleet, long)["state"] == "running"
    first.run("systemctl", "restart", "fleven-agent")

    def unreachable(node: Machine) -> str:
        shown = status(node).get("conditions", [])
        return next((one["message"] for one in shown if one["code"] == "superlink-unreachable"), "")

    since = time.monotonic()
    wait_for("the car says why", lambda: "certificate has expired" in unreachable(first), 90)
    fleet.seconds["a car's start until it names the expired certificate"] = round(time.monotonic() - since, 1)
    assert "certificate has expired" in first.journal("-u", "fleven-agent")
    checked = first.try_run("fleven-agent", "check", "--only", "certificates")
    assert (checked.exit_code, "certificate has expired" in checked.output) == (1, True), checked.output
    checked = server.try_run("fleven-server", "check")
    assert "superlink.certificate ended on" in checked.output, checked.output + checked.errors
    # The server's own connection was made before the end: a new one is refused, and the reason named.
    server.run("systemctl", "restart", "fleven-server")
    wait_for("the journal names it", lambda: "ended on" in "".join(trust_lines(fleet, "end-near")), 90, 2.0)
    since = time.monotonic()
    server.run("fleven-server", "runs", "stop", str(long))
    wait_for("it is stopped", lambda: run_of(fleet, long)["state"] == "cancelled", 60)
    fleet.seconds["a run is stopped after the end of the SuperLink's certificate"] = round(time.monotonic() - since, 1)
    # Flower has ended it too, and not only the register: the cars have nothing more to do.
    wait_for("no task any more", lambda: not any(in_a_task(node) for node in fleet.nodes[1:]), 60)
    run = fleet.submit("--set", "rounds=1")
    wait_for("why no run begins", lambda: "certificate" in str(run_of(fleet, run).get("message")), 90, 2.0)
    server.run("fleven-server", "runs", "stop", str(run))

    server.run("rm", "/etc/fleven/server.toml.d/50-own.toml")
    server.run("systemctl", "restart", "fleven-superlink", "fleven-server")
    since = time.monotonic()
    fleet.wait_ready("n1", "n2", "n3")
    fleet.seconds["a good certificate until all are ready"] = round(time.monotonic() - since, 1)
    wait_for("the car's word is taken back", lambda: not unreachable(first), 60)
