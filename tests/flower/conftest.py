"""A server that knows its cars by their keys, and two cars that are to join it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_harness import Agent
from joined_fleet import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server")
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def cars(tmp_path: Path) -> Iterator[list[Agent]]:
    made = [Agent(tmp_path / f"car-{number}", "") for number in range(2)]
    yield made
    for one in made:
        one.clean_up()
