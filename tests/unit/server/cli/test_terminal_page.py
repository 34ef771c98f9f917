"""docs/terminal.md shows every command, and its tables fit into 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from typer.core import TyperGroup

from fleven.server.cli.main import app

ENDLESS = {"fleven-server serve", "fleven-server superlink", "fleven-server runs watch"}


def commands(command: Any, name: str) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    for word in command.list_commands(context):
        inner = command.get_command(context, word)
        if isinstance(inner, TyperGroup):
            yield from commands(inner, f"{name} {word}")
        else:
            yield f"{name} {word}"


def test_every_command_is_shown(repository: Path) -> None:
    text = (repository / "docs" / "terminal.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^    \$ (fleven-server(?: [a-z-]+)*)", text, re.MULTILINE))
    every = set(commands(typer.main.get_command(app), "fleven-server"))
    assert len(every) > 25
    assert {name for name in every - ENDLESS if not any(one.startswith(name) for one in shown)} == set()
    assert all(name in text for name in ENDLESS)
    assert "Traceback" not in text


def test_what_may_be_broken_fits_into_eighty_columns(repository: Path) -> None:
    text = (repository / "docs" / "terminal.md").read_text(encoding="utf-8")
    wide = [line[4:] for line in text.splitlines() if line.startswith("    ") and len(line) > 84]
    # Codes, fingerprints, rows of a model's card.
    whole = r"fleven1\.[A-Za-z0-9_-]+$|[0-9a-f]{64}`?$|SHA256:[A-Za-z0-9+/]{43}$|^\| `"
    allowed = re.compile(r"^level=|/|--cron: |  computed: |^fleven-server: |" + whole)
    assert [line for line in wide if not allowed.search(line)] == []
