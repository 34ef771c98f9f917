"""Which of a task's files are handed on: new, different and gone ones; no links, no half-written ones."""

from __future__ import annotations

import os
from pathlib import Path

from fleven_agent.common.cell.written_files import WrittenFiles


def take_all(files: WrittenFiles) -> list[str]:
    changed, _ = files.changes()
    for name in changed:
        descriptor = files.open_changed(name)
        assert descriptor is not None
        os.close(descriptor)
    return changed


def test_new_different_and_gone_files_are_told_once(tmp_path: Path) -> None:
    files = WrittenFiles(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    assert sorted(take_all(files)) == ["a/one", "two"]
    assert files.changes() == ([], [])
    (tmp_path / "new").write_text("22")
    (tmp_path / "new").replace(tmp_path / "two")
    (tmp_path / "a" / "one").unlink()
    assert files.changes() == (["two"], ["a/one"])
    assert take_all(files) == ["two"]
    assert files.changes() == ([], [])


def test_links_pipes_hidden_files_and_names_that_act_on_terminals_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    (root / ".half").write_text("h")
    (root / "\x1b[2J").write_text("x")
    (root / "a\u202eb").write_text("x")
    files = WrittenFiles(root)
    assert files.changes() == ([], [])
    # One that is swapped between look and opening is not followed either.
    assert files.open_changed("link") is None
    assert files.open_changed("pipe") is None


def test_a_file_that_was_given_is_not_handed_back(tmp_path: Path) -> None:
    files = WrittenFiles(tmp_path)
    (tmp_path / "given").write_text("g")
    files.learn("given")
    assert files.changes() == ([], [])
    (tmp_path / "given").write_text("changed")
    assert files.changes()[0] == ["given"]
