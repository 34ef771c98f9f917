"""Marked copies of apps, and overrides checked against an app's own keys."""

from __future__ import annotations

import tomllib
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fleven.server.flower import app_bundle
from fleven.server.flower.app_bundle import AppUnusableError, sweep_staged
from fleven.server.flower.app_check import run_config_problems
from fleven.server.runs.model import Attempt
from fleven.server.runs.runner import mark, newest_checkpoint
from fleven.server.schedules.editing import run_config_of
from fleven.server.schedules.spec import Conditions, ScheduleSpec

# Written out, as wherever an app is made: what each app says of itself is its own, and read where it is used.
PYPROJECT = """
[project]
name = "tiny"
version = "1.2"
[tool.flwr.app]
publisher = "tests"
fab-include = ["tiny/**/*.py"]
[tool.flwr.app.components]
serverapp = "tiny:server"
clientapp = "tiny:client"
[tool.flwr.app.config]
rounds = 3
learning-rate = 0.1
experiment = "x"
shuffle = true
min-nodes = 2
resume-from = ""
optimiser.momentum = 0.9
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "my_app"
    for file in (
        "tiny/__init__.py",
        "tiny/code.py",
        ".venv/lib/x.py",
        ".git/config.toml",
        "data/trips.csv",
        "v/pyvenv.cfg",
        "v/a.py",
    ):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("x = 1\n")
    (folder / "link.py").symlink_to(folder / "tiny" / "code.py")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return folder


def test_a_copy_carries_the_mark_and_only_what_can_be_bundled(app: Path, tmp_path: Path) -> None:
    target = app_bundle.stage(app, tmp_path / "staged", "fleven.4.1.abc")
    document = tomllib.loads((target / "pyproject.toml").read_text())
    assert document["project"]["version"] == "1.2+fleven.4.1.abc"
    assert document["tool"]["flwr"]["app"]["config"]["optimiser"] == {"momentum": 0.9}
    files = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    assert files == {"pyproject.toml", "tiny/__init__.py", "tiny/code.py"}
    (app / "tiny" / "new.py").write_text("")
    app_bundle.stage(app, target, "fleven.4.2.abc")
    assert (target / "tiny" / "new.py").exists()


def test_a_fab_is_staged_like_a_folder(app: Path, tmp_path: Path) -> None:
    fab = tmp_path / "tiny.fab"
    with zipfile.ZipFile(fab, "w") as bundle:
        bundle.writestr("pyproject.toml", PYPROJECT.replace('"1.2"', '"1.2+cu"'))
        bundle.writestr("tiny/code.py", "x = 1\n")
        bundle.writestr(".info/CONTENT", "x")
        bundle.writestr("../outside.py", "x")
    target = app_bundle.stage(fab, tmp_path / "staged", "fleven.4.1.abc")
    assert tomllib.loads((target / "pyproject.toml").read_text())["project"]["version"] == "1.2+cu.fleven.4.1.abc"
    assert sorted(file.name for file in target.rglob("*.py")) == ["code.py"]
    assert not (tmp_path / "outside.py").exists()


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "no Flower app"), ("not toml [", "cannot be read"), ("[project]\nname='a'", "tool.flwr.app"), ("", "tool")],
)
def test_what_is_no_app_is_refused_with_its_path(tmp_path: Path, content: str | None, word: str) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    if content is not None:
        (folder / "pyproject.toml").write_text(content)
    with pytest.raises(AppUnusableError) as caught:
        app_bundle.stage(folder, tmp_path / "staged", "m")
    assert str(folder) in caught.value.message
    assert not (tmp_path / "staged").exists()
    with pytest.raises(AppUnusableError):
        app_bundle.read_app(tmp_path / "none.fab")


def test_overrides_are_checked_all_at_once(app: Path) -> None:
    read = app_bundle.read_app(app)
    good = {"rounds": 5, "learning-rate": 1, "optimiser.momentum": 0.5, "shuffle": False}
    assert run_config_problems(read, good, None) == []
    bad = {"roundz": 5, "rounds": 2.5, "shuffle": 1, "experiment": 4}
    found = run_config_problems(read, bad, None)
    assert [key for key, _ in found] == list(bad)
    assert "did you mean rounds?" in found[0][1]


def test_a_text_that_flowers_command_line_cannot_carry_is_refused(app: Path) -> None:
    ((key, problem),) = run_config_problems(app_bundle.read_app(app), {"experiment": "a'b\"c"}, None)
    assert key == "experiment"
    assert "both kinds of quotes" in problem


def test_an_app_that_cannot_be_read_as_a_whole_is_named_with_the_file(app: Path, monkeypatch: Any) -> None:
    (app / "model.py").write_text("")
    monkeypatch.setattr("fleven.server.flower.app_check.os.access", lambda file, _: Path(file).name != "model.py")
    with pytest.raises(AppUnusableError, match=r"cannot read model\.py"):
        run_config_problems(app_bundle.read_app(app), {}, None)


def test_a_checker_that_is_no_function_of_a_module_is_refused(app: Path) -> None:
    file = app / "pyproject.toml"
    file.write_text(file.read_text() + '\n[tool.fleven]\ncheck-run-config = "rm -rf /"\n')
    with pytest.raises(AppUnusableError, match="not module:function"):
        app_bundle.read_app(app)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("rounds", "20", 20),
        ("learning-rate", "1", 1.0),
        ("learning-rate", "1e-3", 0.001),
        ("experiment", "20", "20"),
        ("experiment", "'a b'", "a b"),
        ("experiment", "Fleven-Deploy", "Fleven-Deploy"),
        ("shuffle", "false", False),
        ("rounds", "many", "many"),
    ],
)
def test_values_take_the_type_of_the_default(app: Path, key: str, text: str, value: object) -> None:
    parsed = app_bundle.parse_value(app_bundle.read_app(app), key, text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_what_a_run_is_submitted_with(app: Path) -> None:
    read = app_bundle.read_app(app)
    spec = ScheduleSpec(conditions=Conditions(min_nodes=3), experiment="night", run_config={"rounds": 9})
    assert run_config_of(read, spec, "/x.pt") == {
        "min-nodes": 3,
        "experiment": "night",
        "rounds": 9,
        "resume-from": "/x.pt",
    }
    own = spec.model_copy(update={"run_config": {"min-nodes": 2}})
    assert run_config_of(read, own) == {"min-nodes": 2, "experiment": "night"}


def test_the_mark_is_found_again_in_a_version(app: Path) -> None:
    text = mark(42, Attempt(2, "0123456789abcdef", datetime(2026, 1, 1, tzinfo=UTC)))
    found = app_bundle.MARK.search(app_bundle.marked_version("1.0", text))
    assert found is not None
    assert found.groups() == ("42", "2", "0123456789abcdef")


def test_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for name in ("checkpoint-round-000001.pt", "checkpoint-round-000002.pt", ".checkpoint-round-000003.pt", "model.pt"):
        (tmp_path / name).touch()
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-round-000002.pt"
    for name in ("checkpoint-round-000003.safetensors", ".checkpoint-round-000004.safetensors", "model.safetensors"):
        (tmp_path / name).touch()
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-round-000003.safetensors"


def test_copies_of_runs_that_have_ended_are_swept_away(tmp_path: Path) -> None:
    for name in ("run-7-1", "run-7-2", "run-8-1", ".run-7-3.partial", "run-of-somebody"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyproject.toml").touch()
    sweep_staged(tmp_path, {8})
    assert {folder.name for folder in tmp_path.iterdir()} == {"run-8-1", "run-of-somebody"}
    sweep_staged(tmp_path / "none", set())
