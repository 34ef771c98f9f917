"""What `scripts/test mutation` is told: files that exist, and lines that stand in them."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

LISTED: dict[str, Any] = tomllib.loads(Path(__file__).parents[1].joinpath("mutation.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", LISTED["modules"])
def test_each_module_has_its_files_and_each_equivalent_mutant_its_line_and_reason(repository: Path, name: str) -> None:
    module = LISTED["modules"][name]
    assert module["tests"]
    assert all((repository / path).is_file() for path in module["tests"])
    source = " ".join((repository / module["module"]).read_text(encoding="utf-8").split())
    for entry in module.get("equivalent", []):
        assert entry["line"] in source, entry
        assert entry.get("below", "") in source, entry
        assert entry["reason"], entry
