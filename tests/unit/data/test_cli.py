"""Help texts and option errors of `fleven`, in this process."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fleven.cli import app
from fleven.data.importing.row_cleaning import Dropped

COMMANDS = ["", "demo", "data", "data import", "data describe", "data synthesise", "data columns"]


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1", "TERMINAL_WIDTH": "80"}).invoke(app, list(arguments))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_and_exit_codes_in_80_columns(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Exit codes:" in result.stdout
    if command not in ("", "data"):
        assert f"fleven {command}" in result.stdout.partition("Examples")[2]
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


@pytest.mark.parametrize(
    "arguments",
    [
        ["--delimiter", "abc"],
        ["--encoding", "klingon"],
        ["--clients", "0"],
        ["--min-rows", "1"],
        ["--pause-seconds", "0"],
        ["--interval-seconds", "-1"],
        ["--format", "xlsx"],
        ["--decimal", ";"],
    ],
)
def test_a_wrong_option_ends_with_2_and_names_it(tmp_path: Path, arguments: list[str]) -> None:
    result = run("data", "import", "log.csv", "--out", str(tmp_path / "trips"), *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_output_folder_is_asked_for() -> None:
    result = run("data", "import", "log.csv")
    assert result.exit_code == 2
    assert "--out" in result.stderr


def test_the_guide_names_options_and_reasons_that_there_are(repository: Path) -> None:
    guide = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    known = {
        option
        for command in COMMANDS
        for option in re.findall(r"--[a-z][a-z-]+", run(*command.split(), "--help").stdout)
    }
    named = set(re.findall(r"--[a-z][a-z-]+", guide))
    assert len(named) > 10
    assert named <= known
    reasons = set(re.findall(r"^\| `([a-z-]+)` \|", guide, flags=re.MULTILINE))
    assert reasons == {reason.value for reason in Dropped}
