"""Whether the journal reads a stream, and the priority before a line."""

import io
import logging
from pathlib import Path

import pytest

from fleven.server.log import set_up_logging
from fleven_agent.common.journal import behind_journal, priority_prefix


def test_the_journal_is_recognised_by_its_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        status = (tmp_path / "log").stat()
        assert behind_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not behind_journal(stream, {"JOURNAL_STREAM": "1:2"})
        assert not behind_journal(stream, {})
    assert not behind_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})


@pytest.mark.parametrize(("level", "prefix"), [(logging.ERROR, "<3>"), (logging.WARNING, "<4>"), (25, "<6>")])
def test_a_level_is_a_priority(level: int, prefix: str) -> None:
    assert priority_prefix(level) == prefix


def test_the_server_writes_no_priorities_into_a_file_though_it_inherited_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    try:
        with (tmp_path / "log").open("w", encoding="utf-8") as stream:
            monkeypatch.setattr("sys.stderr", stream)
            set_up_logging("info")
            logging.getLogger("fleven.server").warning("event=x")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert (tmp_path / "log").read_text(encoding="utf-8").endswith(" WARNING event=x\n")
