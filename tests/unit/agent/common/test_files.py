"""Programs found on a path."""

from pathlib import Path

from fleven_agent.common.files import program_on_path


def test_the_first_program_on_the_path_that_may_run_is_found(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "tool").write_text("#!/bin/true\n")
    path = f"{tmp_path / 'missing'}:{first}:{second}"
    assert program_on_path("tool", path) is None
    (second / "tool").chmod(0o755)
    assert program_on_path("tool", path) == str(second / "tool")
    (first / "tool").chmod(0o755)
    assert program_on_path("tool", path) == str(first / "tool")
    (first / "folder").mkdir()
    assert program_on_path("folder", path) is None
