"""docs/flower-app.md against the code: every key with its default, every error code, every state."""

import json
import re
from pathlib import Path

import pytest

from fleven.app.errors import Code
from fleven.app.server.results import CLIENT_COLUMNS, ROUND_COLUMNS, State
from fleven.app.settings import Settings


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    return (repository / "docs" / "flower-app.md").read_text()


def test_every_key_stands_there_with_its_default(text: str) -> None:
    table = text.split("## Configuration", maxsplit=1)[1].split("\n## ", maxsplit=1)[0]
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| `([^`]*)` \|", table, flags=re.MULTILINE)
    assert {key: json.loads(default) for key, default in rows} == Settings().as_config()


def test_every_error_code_stands_there_and_no_other(text: str) -> None:
    table = text.split("## Errors", maxsplit=1)[1]
    codes = {
        code for line in re.findall(r"^\| (`.*?) \| (?:run|car|`Predictor`)", table, re.M) for code in line.split(", ")
    }
    assert {code.strip("`") for code in codes} == {str(code) for code in Code}


def test_states_and_columns_stand_there(text: str) -> None:
    for name in (*State, *ROUND_COLUMNS):
        assert f"`{name}`" in text
    for name in CLIENT_COLUMNS:
        if name not in ("round", "phase", "rows") and not name.endswith(("_id", "_name")) and "windows" not in name:
            assert f"`{name}`" in text
