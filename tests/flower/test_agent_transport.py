"""Agents under real Flower with TLS, with a wrong certificate, and with a SuperLink that has forgotten them."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_harness import Agent
from certificates import write_certificates, write_node_key
from dead_relay import DeadRelay
from other_users import others_can_run_this_python
from tiny_federation import CONNECTION, Federation, free_port

from fleven_agent.system import procfs

pytestmark = pytest.mark.flower


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path / "car", "")
    yield made
    made.clean_up()


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path / "server")
    yield made
    made.kill()


def configure(agent: Agent, federation: Federation, *lines: str) -> None:
    text = f'partition-id = 0\nsuperlink = "127.0.0.1:{federation.fleet_port}"\nreport-url = "http://127.0.0.1:1"\n'
    if not any(line.startswith("root-certificates") for line in lines):
        text += "insecure = true\n"
    text += f'clientapp-address = "127.0.0.1:{free_port()}"\n' + "\n".join(lines)
    agent.config.write_text(
        f'{text}\n[cell]\nmode = "off"\n[supervision]\nbackoff-maximum-seconds = 3.0\n', encoding="utf-8"
    )


def test_tls_and_a_wrong_certificate(agent: Agent, federation: Federation, tmp_path: Path) -> None:
    right, wrong = write_certificates(tmp_path / "right", days=10), write_certificates(tmp_path / "wrong")
    federation.start(certificates=right)
    configure(agent, federation, f'root-certificates = "{wrong}/ca.crt"')
    agent.start()
    status = agent.wait_condition("superlink-rejected", 60)
    [condition] = [one for one in status["conditions"] if one["code"] == "superlink-rejected"]
    assert "handshake" in condition["message"].lower()
    checked = agent.run("check", "--config", str(agent.config), "--only", "network", "--json")
    found = {one["id"]: one for one in json.loads(checked.stdout)["checks"]}
    assert found["network.superlink-tls"]["status"] == "error"
    assert "CA that signed" in found["network.superlink-tls"]["hint"]

    configure(agent, federation, f'root-certificates = "{right}/ca.crt"')
    agent.signal(signal.SIGHUP)
    agent.wait_state("running", seconds=60)
    agent.wait_condition("superlink-rejected", gone=True)
    checked = agent.run(
        *("check", "--config", str(agent.config), "--json"),
        *("--only", "network.superlink-tls", "--only", "certificates", "--only", "configuration.transport"),
    )
    found = {one["id"]: one for one in json.loads(checked.stdout)["checks"]}
    assert found["network.superlink-tls"]["status"] == "ok"
    assert found["configuration.transport"]["message"].startswith("TLS to ")
    for name in ("certificates.roots", "certificates.superlink"):
        assert found[name]["status"] == "warning"
        assert "expires in" in found[name]["message"]


def test_a_superlink_that_wants_registered_keys(agent: Agent, federation: Federation, tmp_path: Path) -> None:
    """Refused with a hint until the key is registered; then the node trains, and stays who it is across a restart."""
    certificates, key = write_certificates(tmp_path / "tls"), write_node_key(tmp_path)
    federation.start(certificates=certificates, node_keys=True)
    trust = f'root-certificates = "{certificates}/ca.crt"'

    def refused(why: str) -> dict[str, str] | None:
        conditions = (agent.status() or {"conditions": []})["conditions"]
        return next((one for one in conditions if one["code"] == "superlink-rejected" and why in one["message"]), None)

    configure(agent, federation, trust)
    agent.start()
    refusal = agent.wait("a refusal for want of a key", lambda: refused("takes only nodes whose key is registered"), 60)
    assert "auth-private-key" in refusal["hint"]

    configure(agent, federation, trust, f'auth-private-key = "{key}"')
    agent.signal(signal.SIGHUP)
    refusal = agent.wait("a refusal of the key", lambda: refused("does not know this node's key"), 60)
    assert "flwr supernode register" in refusal["hint"]
    assert (agent.status() or {})["state"] != "running"

    federation.flwr("supernode", "register", str(tmp_path / "node.pub"), "test")
    node_id = agent.wait_state("running", seconds=60)["node"]["node_id"]
    agent.wait_condition("superlink-rejected", gone=True)
    run = federation.run(cars=1)
    run.wait_rounds(1, 90, [agent.journal])
    assert run.end() == "finished:completed"

    pid = agent.supernode()
    agent.run("restart", "--now")
    agent.wait("another SuperNode", lambda: (s := agent.status()) and s["supernode_pid"] not in (None, pid), 30)
    assert agent.wait_state("running", seconds=60)["node"]["node_id"] == node_id
    assert (agent.status() or {})["node"]["previous_node_ids"] == []


def test_a_superlink_that_has_forgotten_the_node_gets_it_back_as_a_new_one(
    agent: Agent, federation: Federation
) -> None:
    federation.start()
    configure(agent, federation)
    agent.start()
    old = agent.wait_state("running", seconds=60)["node"]["node_id"]
    federation.kill()
    for file in federation.folder.glob("superlink.db*"):
        file.unlink()
    federation.start()

    def back() -> bool:
        status = agent.status()
        return status is not None and status["state"] == "running" and status["node"]["node_id"] != old

    agent.wait("another node id", back, 90)
    assert (agent.status() or {})["node"]["previous_node_ids"] == [old]


def test_a_superlink_whose_disk_was_full_gets_the_node_back(agent: Agent, federation: Federation) -> None:
    """Flower's thread of heartbeats ends at such an error, and SuperNode goes on as if nothing were."""
    federation.start()
    configure(agent, federation)
    agent.start()
    old = agent.wait_state("running", seconds=60)["node"]["node_id"]
    with federation.full_disk():
        agent.wait("the end of the heartbeats", lambda: "reason=heartbeats-ended" in agent.log(), 90)

    def back() -> bool:
        status = agent.status()
        return status is not None and status["state"] == "running" and status["node"]["node_id"] != old

    agent.wait("another node id", back, 90)
    new = (agent.status() or {})["node"]["node_id"]
    listed = {node["node-id"]: node["status"] for node in federation.flwr("supernode", "list", CONNECTION)["nodes"]}
    assert listed[new] == "online"
    run = federation.run(cars=1)
    run.wait_rounds(1, 90, [agent.journal])
    assert run.end() == "finished:completed"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
@pytest.mark.skipif(not others_can_run_this_python(), reason=f"only root can run {Path(sys.executable).resolve()}")
def test_a_user_without_privileges_runs_it_in_a_terminal(federation: Federation) -> None:
    """As with a checkout of one's own: no systemd, no root, folders of that user."""
    federation.start()
    with tempfile.TemporaryDirectory(prefix="fleven-test-") as name:  # pytest's own folders are closed to others
        agent = Agent(Path(name) / "car", "")
        for folder in (Path(name), agent.folder):
            folder.chmod(0o777)
        configure(agent, federation)
        agent.prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        try:
            agent.start()
            agent.wait_state("running", seconds=60)
            assert agent.process is not None
            assert Path(f"/proc/{agent.process.pid}").stat().st_uid == 65_534
            assert agent.stop() == 0
            assert agent.marked() == []
        finally:
            agent.clean_up()


def test_a_connection_that_died_silently_is_replaced_within_half_a_minute(agent: Agent, federation: Federation) -> None:
    """As when the server's address changes: nobody closes the old connection, and a new one is accepted."""
    federation.start()
    relay = DeadRelay(federation.fleet_port)
    try:
        configure(agent, federation)
        text = agent.config.read_text(encoding="utf-8")
        agent.config.write_text(text.replace(str(federation.fleet_port), str(relay.port)), encoding="utf-8")
        agent.start()
        before = agent.wait_state("running", seconds=60)["node"]["node_id"]
        relay.kill_connections()
        began = time.monotonic()

        def back() -> bool:
            status = agent.status() or {"state": "", "node": {}}
            return status["state"] == "running" and status["node"]["node_id"] != before

        agent.wait("the node with a new id", back, 60)
        assert time.monotonic() - began < 30
        assert "reason=connection-dead" in agent.log()
    finally:
        relay.close()


def test_a_warm_process_that_was_stopped_is_continued(agent: Agent, federation: Federation) -> None:
    federation.start()
    configure(agent, federation, "[warm]", 'mode = "on"')
    agent.start()
    agent.wait_state("running", seconds=60)
    agent.wait("a warm process", lambda: (agent.status() or {"warm": {}})["warm"].get("state") == "ready", 60)
    pid = (agent.status() or {})["warm"]["process_id"]
    os.kill(pid, signal.SIGSTOP)
    agent.wait_condition("supernode-frozen", 10)
    agent.wait("its life", lambda: not procfs.stat(pid).frozen, 10)  # type: ignore[union-attr]  # it lives
    agent.wait_condition("supernode-frozen", 10, gone=True)
