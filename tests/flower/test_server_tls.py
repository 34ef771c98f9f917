"""TLS as server.toml configures it: a real SuperLink and a real web API, asked with the right CA and a wrong one."""

from __future__ import annotations

import importlib.util
import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_harness import wait_for
from certificates import write_certificates, write_node_key
from tiny_federation import free_port

pytestmark = [pytest.mark.flower, pytest.mark.timeout(180)]


@pytest.fixture
def federation(repository: Path, tmp_path: Path) -> Iterator[Any]:
    """Yield a federation whose SuperLink and web API have certificates; nothing is started yet."""
    folder = write_certificates(tmp_path / "right")
    spec = importlib.util.spec_from_file_location("crash_federation", repository / "benchmarks" / "crash_federation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["crash_federation"] = module
    spec.loader.exec_module(module)
    made = module.Federation(tmp_path / "federation")
    pair = f'certificate = "{folder}/server.crt"\nprivate-key = "{folder}/server.key"\n'
    config = tmp_path / "federation" / "server.toml"
    text = config.read_text().replace("[superlink]\n", f'[superlink]\n{pair}root-certificates = "{folder}/ca.crt"\n')
    config.write_text(text.replace("[web]\n", f"[web]\n{pair}"))
    yield made
    made.stop()
    sys.modules.pop("crash_federation")


def test_the_superlink_and_the_web_api_speak_tls(federation: Any, tmp_path: Path) -> None:
    federation.start_superlink()
    federation.wait_for_superlink(60)
    # The connection that the server wrote for itself and for the operator trusts the CA.
    assert federation.flower_runs() == []
    file = federation.state / "flwr" / "config.toml"
    wrong = write_certificates(tmp_path / "wrong")
    file.write_text(file.read_text().replace(f"{tmp_path}/right/ca.crt", f"{wrong}/ca.crt"))
    listing = ("ls", "fleven-deployment", "--format", "json")
    federation.environment["FLWR_HOME"] = str(file.parent)
    refused = federation.command(*listing, program="flwr", check=False)
    assert json.loads(refused.stdout[refused.stdout.index("{") :])["success"] is False

    federation.start_server()
    federation.wait_for_register(60)
    config = json.loads(federation.command("config", "show", "--json").stdout)
    url = f"https://{config['web']['address']}/healthz"
    trusted = ssl.create_default_context(cafile=str(tmp_path / "right" / "ca.crt"))
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, context=trusted, timeout=10) as answer:
                assert json.load(answer)["ok"] is True
            break
        except urllib.error.HTTPError:
            # The loop has not turned yet.
            assert time.monotonic() < deadline
            time.sleep(0.2)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(url, context=ssl.create_default_context(cafile=f"{wrong}/ca.crt"), timeout=10)
    status = json.loads(federation.command("status", "--json", check=False).stdout)
    assert status["service"]["running"] is True


def test_a_superlink_that_takes_only_registered_nodes(federation: Any, tmp_path: Path) -> None:
    """supernode-authentication in server.toml: refused without a key and with an unknown one, then registered."""
    config = tmp_path / "federation" / "server.toml"
    config.write_text(config.read_text().replace("[superlink]\n", "[superlink]\nsupernode-authentication = true\n"))
    federation.start_superlink()
    federation.wait_for_superlink(60)
    federation.environment["FLWR_HOME"] = str(federation.state / "flwr")
    key = write_node_key(tmp_path)

    def start_node(name: str, *options: str) -> Path:
        federation.spawn(
            name,
            [
                *(str(Path(sys.executable).parent / "flower-supernode"), *options),
                *("--superlink", f"127.0.0.1:{federation.fleet_port}"),
                *("--root-certificates", f"{tmp_path}/right/ca.crt"),
                *("--clientappio-api-address", f"127.0.0.1:{free_port()}"),
            ],
            FLWR_HOME=str(tmp_path / name),
        )
        return Path(federation.folder / f"{name}.1.log")

    def statuses() -> list[str]:
        listing = federation.command("supernode", "list", "fleven-deployment", "--format", "json", program="flwr")
        return [node["status"] for node in json.loads(listing.stdout[listing.stdout.index("{") :])["nodes"]]

    without, unknown = start_node("keyless"), start_node("unknown", "--auth-supernode-private-key", str(key))
    for log, code in ((without, 2001), (unknown, 2004)):
        wait_for(f"code {code} in {log.name}", lambda log=log, code=code: f'"code": {code}' in log.read_text(), 60)
    assert statuses() == []

    federation.command("supernode", "register", str(tmp_path / "node.pub"), "fleven-deployment", program="flwr")
    start_node("known", "--auth-supernode-private-key", str(key))
    wait_for("the node to be online", lambda: statuses() == ["online"], 60)
