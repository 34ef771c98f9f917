"""docs/warm.md names every word that an operator can meet."""

from pathlib import Path

import pytest

from fleven_agent.warm.settings import Fallback, WarmMode, WarmReason, WarmState


@pytest.mark.parametrize("word", [*Fallback, *WarmReason, *WarmState, *WarmMode], ids=str)
def test_every_word_is_explained(repository: Path, word: str) -> None:
    text = (repository / "docs" / "warm.md").read_text(encoding="utf-8")
    assert f"`{word}`" in text or f'"{word}"' in text


def test_every_cold_start_has_a_row(repository: Path) -> None:
    lines = (repository / "docs" / "warm.md").read_text(encoding="utf-8").splitlines()
    first_cells = {line.split("|")[1].strip() for line in lines if line.startswith("| `")}
    assert {f"`{reason}`" for reason in Fallback} <= first_cells
