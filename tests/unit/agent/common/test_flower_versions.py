"""The one range of Flower's versions."""

import tomllib
from pathlib import Path

import pytest

from fleven_agent.common import flower_versions


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.34.0", True),
        ("1.31.0", True),
        ("1.34.0rc1", True),
        ("1.35.0", False),
        ("1.30.9", False),
        ("2.0", False),
        ("", False),
        ("unknown", False),
    ],
)
def test_supported_versions(version: str, expected: bool) -> None:
    assert flower_versions.is_supported(version) is expected


def test_pip_is_told_the_same_range(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert flower_versions.REQUIREMENT in project["dependencies"]
