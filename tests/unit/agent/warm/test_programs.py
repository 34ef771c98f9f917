"""The folder in front of SuperNode's PATH."""

import os
from pathlib import Path

import pytest

from fleven_agent.warm.programs import CLIENTAPP, PROGRAMS, SUPEREXEC, SUPERNODE, write_programs

INTERPRETER = "/usr/lib/fleven/bin/python3"


def write(folder: Path, names: tuple[str, ...] = PROGRAMS, interpreter: str = INTERPRETER) -> Path:
    return write_programs(
        folder / "bin", runtime_directory=folder / "run", flags=dict.fromkeys(names, "-Iu"), interpreter=interpreter
    )


def test_programs_are_executable_scripts_of_the_interpreter(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert {path.name for path in folder.iterdir()} == set(PROGRAMS)
    for path in folder.iterdir():
        assert os.access(path, os.X_OK)
        assert path.read_text().startswith(f"#!{INTERPRETER}")
        compile(path.read_text(), str(path), "exec")


def test_the_launcher_starts_without_site_packages(tmp_path: Path) -> None:
    text = (write(tmp_path) / CLIENTAPP).read_text()
    assert text.splitlines()[0] == f"#!{INTERPRETER} -IS"
    assert str(tmp_path / "run") in text


def test_flowers_programs_keep_their_flags(tmp_path: Path) -> None:
    folder = write(tmp_path)
    for name in (SUPEREXEC, SUPERNODE):
        assert (folder / name).read_text().splitlines()[0] == f"#!{INTERPRETER} -Iu"


def test_programs_that_are_not_wanted_any_more_go(tmp_path: Path) -> None:
    write(tmp_path)
    folder = write(tmp_path, (SUPEREXEC, SUPERNODE))
    assert {path.name for path in folder.iterdir()} == {SUPEREXEC, SUPERNODE}


def test_unchanged_programs_are_left_alone(tmp_path: Path) -> None:
    """A running program's file must not be replaced for nothing at each start of SuperNode."""
    first = (write(tmp_path) / CLIENTAPP).stat().st_ino
    assert (write(tmp_path) / CLIENTAPP).stat().st_ino == first
    assert (write(tmp_path, interpreter="/other/bin/python3") / CLIENTAPP).stat().st_ino != first


@pytest.mark.parametrize("interpreter", ["/with a blank/bin/python3", "/" + "x" * 250 + "/python3"])
def test_an_interpreter_that_no_script_can_name_is_an_error(tmp_path: Path, interpreter: str) -> None:
    with pytest.raises(OSError, match="too long or has a blank"):
        write(tmp_path, interpreter=interpreter)
