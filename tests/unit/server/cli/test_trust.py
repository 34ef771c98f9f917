"""What `fleven-server trust` changes is in the audit trail, with who and what; what changes nothing is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fleven.server.access.audit import local_actor
from fleven.server.cli.main import app


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEVEN_SERVER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("FLEVEN_SERVER_CONFIG", str(tmp_path / "server.toml"))
    (tmp_path / "server.toml").touch()
    return tmp_path


def run(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def trail() -> list[tuple[str, str]]:
    found = run("users", "log")["entries"]
    me = local_actor()
    assert all(
        (entry["actor"], entry["source"], entry["address"]) == (me.name, "command", me.address) for entry in found
    )
    return [(entry["action"], entry["subject"]) for entry in reversed(found)]


def test_a_name_and_the_certificate_for_it_are_written_down_once(server: Path) -> None:
    assert "fleet.example.org" in run("trust", "add-name", "Fleet.Example.org")["names"]
    first = trail()
    assert [action for action, _ in first] == ["name-added", "authority-renewed", "certificate-renewed"]
    assert first[0][1] == "fleet.example.org"
    run("trust", "add-name", "fleet.example.org")
    assert trail() == first


def test_what_is_made_anew_is_named_by_its_fingerprint(server: Path) -> None:
    run("trust", "renew")
    before = len(trail())
    run("trust", "renew", "--authority")
    fingerprint = run("trust")["fingerprint"]
    assert ("authority-renewed", fingerprint) in trail()[before:]
    assert [action for action, _ in trail()[before:]] == ["authority-renewed", "certificate-renewed"]


def test_doors_are_closed_once(server: Path) -> None:
    run("trust", "renew")
    drop_ins = server / "server.toml.d"
    drop_ins.mkdir()
    (drop_ins / "00-open-fleet.toml").write_text("insecure = true\n")
    assert run("trust", "enforce")["changed"]
    assert not list(drop_ins.iterdir())
    assert not run("trust", "enforce")["changed"]
    assert [action for action, _ in trail()].count("doors-closed") == 1
