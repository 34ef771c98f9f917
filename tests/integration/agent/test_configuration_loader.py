"""The settings come from a process of its own: what it says, and what happens while it takes its time."""

import sys
import time
from pathlib import Path

import pytest

from fleven_agent.config import loader
from fleven_agent.errors import AgentError, ConfigurationError


def test_the_settings_of_a_file_and_its_problems_come_back(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('partition-id = 3\nsuperlink = "100.64.0.1:9092"\n')
    assert loader.load_settings(file).partition_id == 3
    file.write_text("partition-id = 3\nsuperlinc = 1\n")
    with pytest.raises(ConfigurationError, match="superlinc"):
        loader.load_settings(file)


def test_who_waits_for_a_slow_reader_is_called_meanwhile_and_gives_it_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(loader, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(sys, "executable", str(slow))
    calls, begun = [], time.monotonic()
    with pytest.raises(AgentError, match="timed out"):
        loader.load_settings(tmp_path / "node.toml", timeout_seconds=1.0, while_waiting=lambda: calls.append(1))
    assert 5 <= len(calls) <= 10
    assert time.monotonic() - begun < 20


def test_a_reader_that_breaks_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho first >&2; echo 'cannot import it' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(AgentError, match=r"could not be read: cannot import it$"):
        loader.load_settings(tmp_path / "node.toml")
