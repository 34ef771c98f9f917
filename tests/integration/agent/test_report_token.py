"""The fleet's report token, against the real server: without it no report is taken, and nothing ever shows it."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_harness import Agent, wait_for

Make = Callable[..., Agent]
TOKEN = "only-this-fleet-knows-it"


class Server:
    """A `fleven-server serve` that wants the token."""

    def __init__(self, folder: Path, free_port: Callable[[], int]) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        folder.mkdir()
        config = folder / "server.toml"
        config.write_text(
            f'insecure = true\n[superlink]\ncontrol-address = "127.0.0.1:{free_port()}"\n'
            f'[web]\naddress = "{self.url.removeprefix("http://")}"\nreport-token = "{TOKEN}"\n',
            encoding="utf-8",
        )
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FLEVEN_SERVER_STATE_DIR": str(folder / "state"),
            "FLEVEN_SERVER_CONFIG": str(config),
        }
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["fleven-server", "serve"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def nodes(self) -> list[dict[str, Any]] | None:
        """Return the nodes that have reported; None while the server does not answer."""
        try:
            with urllib.request.urlopen(f"{self.url}/v1/nodes", timeout=5) as answer:
                found = json.load(answer)["nodes"]
                return [one for one in found if one["health"] != "pending"]  # asks to join, and has not reported
        except OSError:
            return None


@pytest.fixture
def real_server(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Server]:
    started = Server(tmp_path / "server", free_port)
    try:
        wait_for("the server", lambda: started.nodes() is not None, 60, lambda: started.log.read_text("utf-8"))
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def rejection(status: dict[str, Any]) -> tuple[str, str]:
    [found] = [one for one in status["conditions"] if one["code"] == "report-rejected"]
    return found["message"], found["hint"]


def test_reports_are_taken_only_with_the_servers_token(make_agent: Make, real_server: Server) -> None:
    agent = make_agent(report_url=real_server.url).start()
    message, hint = rejection(agent.wait_condition("report-rejected"))
    assert message.startswith("the server asks for a report token; ")
    assert "web.report-token" in hint
    check = ("check", "--config", str(agent.config), "--only", "network.report-http", "--json")
    [row] = json.loads(agent.run(*check).stdout)["checks"]
    assert (row["status"], row["hint"]) == ("error", hint)

    agent.drop_in('report-token = "not-the-one-of-this-fleet"\n')
    agent.signal(signal.SIGHUP)
    agent.wait("the other refusal", lambda: "another report token" in str((agent.status() or {})["report_problem"]))
    assert [node["name"] for node in real_server.nodes() if node["health"] != "pending"] == []

    agent.drop_in(f'report-token = "{TOKEN}"\n')
    agent.signal(signal.SIGHUP)
    agent.wait_condition("report-rejected", gone=True)
    wait_for("the node", real_server.nodes)
    assert json.loads(agent.run(*check).stdout)["checks"][0]["status"] == "ok"
    agent.wait("an empty queue", lambda: (agent.status() or {})["reports_waiting"] == 0)


def test_a_right_token_is_tried_at_once(make_agent: Make, real_server: Server) -> None:
    """After some failures the next try would be many seconds away; a reload does not wait for it."""
    agent = make_agent('report-token = "not-the-one-of-this-fleet"\n', report_url=real_server.url).start()
    agent.wait_condition("report-rejected")
    agent.wait("reports that pile up", lambda: (agent.status() or {})["reports_waiting"] > 0)
    agent.drop_in(f'report-token = "{TOKEN}"\n')
    agent.signal(signal.SIGHUP)
    agent.wait_condition("report-rejected", gone=True, seconds=10)


def test_nothing_shows_the_token(make_agent: Make, real_server: Server, tmp_path: Path) -> None:
    agent = make_agent(f'report-token = """{TOKEN}"""\n[log]\nlevel = "debug"\n', report_url=real_server.url).start()
    wait_for("the node", real_server.nodes)
    agent.run("restart")
    bundle = tmp_path / "bundle.tar.gz"
    at = ("--config", str(agent.config))
    said = [
        agent.run(*command)
        for command in (
            ("config", "show", *at),
            ("config", "show", *at, "--json"),
            ("config", "check", *at),
            ("check", *at),
            ("status", "--json"),
            ("collect", *at, "--output", str(bundle)),
        )
    ]
    assert "report-token" in said[0].stdout
    assert json.loads(said[1].stdout)["report-token"]["value"] == "***"
    assert "permissions.token" in said[3].stdout
    assert agent.stop() == 0
    texts = [one.stdout + one.stderr for one in said] + [agent.log()]
    texts += [file.read_bytes().decode("latin-1") for file in agent.state.rglob("*") if file.is_file()]
    with tarfile.open(bundle) as held:
        for member in held.getmembers():
            content = held.extractfile(member)
            assert content is not None
            texts.append(content.read().decode())
    assert not [text for text in texts if TOKEN in text]
