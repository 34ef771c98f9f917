"""docs/agent.md says what the code does: states, conditions with their hints, checks, exit codes, keys."""

import re
from pathlib import Path

import pytest

from fleven_agent import errors
from fleven_agent.checks import ALL
from fleven_agent.common.errors import EXIT_FAILURE, EXIT_STOPPED
from fleven_agent.config.settings import keys
from fleven_agent.monitoring.conditions import CATALOGUE
from fleven_agent.protocol.codes import State


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    return (repository / "docs/agent.md").read_text(encoding="utf-8")


def table(text: str, heading: str) -> list[list[str]]:
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[row[0].strip().strip("`"), *(cell.strip() for cell in row[1:])] for row in rows[2:]]


def test_the_conditions_are_the_catalogues(text: str) -> None:
    rows = [tuple(row) for row in table(text, "Conditions")]
    assert rows == [(code.value, one.severity.value, one.hint) for code, one in CATALOGUE.items()]


def test_the_states_are_the_agents(text: str) -> None:
    assert [row[0] for row in table(text, "States")] == [state.value for state in State]


def test_the_checks_are_the_commands(text: str) -> None:
    assert [tuple(row) for row in table(text, "Checks")] == [(check.id, check.title) for check in ALL]


def test_the_exit_codes_are_the_programs(text: str) -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")} | {EXIT_STOPPED, EXIT_FAILURE}
    assert {int(row[0]) for row in table(text, "Exit codes")} == codes


def test_every_key_that_is_named_exists(text: str) -> None:
    known = {part for key in keys() for part in (key, key.rpartition(".")[2])}
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)*(?:\.[a-z]+(?:-[a-z]+)+)?)`", text))
    looks_like_a_key = {name for name in named if name.endswith(("-seconds", "-megabytes", "-reports")) or "." in name}
    assert looks_like_a_key - known == {check.id for check in ALL if check.id in looks_like_a_key}
