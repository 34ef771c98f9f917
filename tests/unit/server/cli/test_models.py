"""`fleven-server models` on a register in a temporary folder: what each command prints, at a terminal's width."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fleven.server.cli.main import app
from fleven.server.database import open_store
from fleven.server.errors import ServerError

Command = Callable[..., Result]
CHAMPION = "/var/lib/fleven-server/models/Fleven-Deploy/v000001-3ad185601a27.safetensors"


def bundle(path: Path, rmse: float, **settings: str | int) -> Path:
    """Write what looks like a bundle from outside: a header with JSON in it, and bytes."""
    provenance = {"experiment": "Fleven-Deploy", "rounds": 3, "cars": [0, 1], "run_id": "77"}
    figures = {"rmse": rmse, "mae": rmse - 2, "r2": 0.7, "rows": 7910, "windows": 1177}
    content = {"kind": "fleven-model", "target": "vehicle_speed", "unit": "km/h", "settings": settings}
    content["provenance"] = provenance | {"global": figures}
    header = json.dumps({"__metadata__": {"fleven": json.dumps(content)}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + str(path).encode())
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    (tmp_path / "server.toml").write_text("")
    monkeypatch.setenv("FLEVEN_SERVER_CONFIG", str(tmp_path / "server.toml"))
    monkeypatch.setenv("FLEVEN_SERVER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "80")

    def invoke(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["models", *arguments])
        if isinstance(result.exception, ServerError):
            return str(result.exception)
        assert result.exit_code == 0, result.output
        return result.output

    open_store(tmp_path / "state" / "register.db").close()
    invoke("import", str(bundle(tmp_path / "one.safetensors", 9.69, rounds=3)))
    invoke("import", str(bundle(tmp_path / "two.safetensors", 9.76, rounds=10, champion=CHAMPION)))
    return invoke


def test_two_versions_are_compared_with_all_labels_in_sight_and_long_settings_below(run: Command) -> None:
    lines = run("compare", "Fleven-Deploy@1", "Fleven-Deploy@2").splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].split() == ["global:", "rmse", "9.69", "9.76", "+0.07"]
    assert "data: rows" in "\n".join(lines)
    settings = "".join(lines[lines.index("") + 1 :])
    assert CHAMPION in settings.replace(" ", "")
    assert ["rounds", "3", "10"] in [line.split() for line in lines]


def test_who_is_champion_and_why_is_shown_and_listed(run: Command) -> None:
    run("promote", "Fleven-Deploy@1")
    run("promote", "Fleven-Deploy@2", "--reason", "brakes better on hills")
    listed = run("list").splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [
        ["Fleven-Deploy@2", "champion"], ["Fleven-Deploy@1", "previous"],
    ]  # fmt: skip
    assert all(len(line) <= 80 for line in listed)
    shown = run("show", "Fleven-Deploy")
    assert "by hand: brakes better on hills" in " ".join(shown.split())
    assert "- imported from" in shown
    plain = json.loads(run("show", "Fleven-Deploy", "--json"))
    assert (plain["aliases"], plain["names"][0]["reason"]) == (["champion"], "brakes better on hills")
    run("rollback", "Fleven-Deploy", "--reason", "worse in car 2")
    assert "another took its place: worse in car 2" in " ".join(run("show", "Fleven-Deploy@2").split())


def test_a_deleted_version_is_gone_from_all_commands(run: Command) -> None:
    run("promote", "Fleven-Deploy@1")
    assert "is champion" in run("delete", "Fleven-Deploy@1")
    assert run("delete", "Fleven-Deploy@2") == "Fleven-Deploy@2 deleted\n"
    assert "Fleven-Deploy@2" not in run("list")
    for command in (["show"], ["promote"], ["delete"], ["compare", "Fleven-Deploy@1"]):
        assert "has no version 2" in run(*command, "Fleven-Deploy@2")
