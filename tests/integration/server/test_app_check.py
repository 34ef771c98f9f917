"""What the shipped app says of a run config, asked as `schedule add` asks it: in a process of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fleven.server.cli.main import app as command
from fleven.server.errors import ServerError
from fleven.server.flower.app_bundle import AppUnusableError, read_app
from fleven.server.flower.app_check import run_config_problems
from fleven.server.service_user import Account

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def packaged(tmp_path: Path) -> Path:
    """Return the app as the package lays it out."""
    folder = tmp_path / "app"
    (folder / "fleven").mkdir(parents=True)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    shutil.copy(REPOSITORY / "fleven/__init__.py", folder / "fleven")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "fleven/app", folder / "fleven/app", ignore=ignored)
    return folder


@pytest.fixture
def told(packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "server.toml").write_text(f'app-path = "{packaged}"\n')
    monkeypatch.setenv("FLEVEN_SERVER_CONFIG", str(tmp_path / "server.toml"))
    monkeypatch.setenv("FLEVEN_SERVER_STATE_DIR", str(tmp_path / "state"))

    def invoke(*arguments: str, text: str | None = None) -> list[str]:
        result = CliRunner().invoke(command, arguments, input=text)
        if not isinstance(result.exception, ServerError):
            assert result.exit_code == 0, (result.output, result.exception)
            return []
        assert result.exception.exit_code == 2
        return result.exception.lines()

    return invoke


def test_the_apps_own_words_are_told_by_every_command_and_nothing_is_stored(told: Any) -> None:
    wrong = ("--set", "strategy=fedavgg", "--set", "rounds=-3")
    words = [
        "rounds: must be greater than or equal to 1 (got -3)",
        "strategy: must be 'fedavg', 'fedadam', 'fedyogi' or 'fedadagrad' (got 'fedavgg')",
    ]
    assert sorted(told("schedule", "add", "night", *wrong)[1:]) == words
    assert told("schedule", "add", "night", "--set", "rounds=3") == []
    assert sorted(told("schedule", "edit", "night", *wrong)[1:]) == words
    assert sorted(told("schedule", "run", "night", "--no-follow", *wrong)[1:]) == words
    text = '[schedules.a]\nrun-config = {strategy = "fedavgg", rounds = -3}\n[schedules.b]\nexperiment = "a/b"\n'
    lines = told("schedule", "import", "-", text=text)
    assert len(lines) == 4
    assert "-: schedules.a: rounds: must be" in "\n".join(lines)
    assert "-: schedules.b: experiment: string should match pattern" in "\n".join(lines)
    result = CliRunner().invoke(command, ["schedule", "--json"])
    assert '"rounds": 3' in result.output
    assert '"open_runs": []' in result.output
    assert "fedavgg" not in result.output


def test_what_follows_from_other_options_is_named_by_them(told: Any) -> None:
    assert told("schedule", "add", "x", "--experiment", "my runs/1")[1].startswith("--experiment: string should match")
    assert told("schedule", "add", "x", "--min-nodes", "2", "--set", "quorum=3")[1:] == [
        "quorum: 3 is more than min-nodes (2)"
    ]


def test_asking_takes_less_than_a_second(packaged: Path) -> None:
    app = read_app(packaged)
    begin = time.monotonic()
    assert run_config_problems(app, {"rounds": 3}, None) == []
    assert time.monotonic() - begin < 1.0
    # The shipped folder is not written to.
    assert list(packaged.rglob("__pycache__")) == []


def test_a_bundle_is_asked_like_its_folder(packaged: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "fleven.fab"
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as made:
        for file in packaged.rglob("*"):
            made.write(file, file.relative_to(packaged))
    assert [key for key, _ in run_config_problems(read_app(bundle), {"rounds": 0}, None)] == ["rounds"]


def test_a_check_that_fails_names_the_app_and_what_it_said(packaged: Path) -> None:
    (packaged / "fleven/app/settings.py").write_text("raise RuntimeError('no settings today')\n")
    with pytest.raises(AppUnusableError, match="no settings today"):
        run_config_problems(read_app(packaged), {}, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another user")
def test_an_app_that_the_services_user_cannot_read_is_refused(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest's folders are for its own user alone, and so may be the Python that runs it.
    monkeypatch.setattr("fleven.server.flower.app_check.sys.executable", "/usr/bin/python3")
    nobody = pwd.getpwnam("nobody")
    account = Account("nobody", nobody.pw_uid, nobody.pw_gid, (nobody.pw_gid,))
    with pytest.raises(AppUnusableError, match=r"the service's user nobody cannot read .*py"):
        run_config_problems(read_app(packaged), {}, account)
