"""What is left of a task: its files, whatever their modes and depth, and how much of the disk it may take."""

import os
from pathlib import Path

import pytest

from fleven_agent.common.cell.sweep import MINIMUM_FREE_BYTES, UNPACKED, Home, LeftoverError, Space, empty, own_group


def test_a_folder_is_emptied_however_deep_and_closed_and_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    here = os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    try:
        for _ in range(1500):  # deeper than Python's recursion
            os.mkdir("d")  # noqa: PTH102
            os.chdir("d")
    finally:
        os.chdir(here)
    (folder / "closed").mkdir()
    (folder / "closed" / "file").write_text("x")
    (folder / "closed").chmod(0)
    (folder / "link").symlink_to(outside)
    (folder / "-rf").write_text("x")
    empty(folder)
    assert list(folder.iterdir()) == []
    assert (outside / "kept").exists()


def test_the_home_is_one_apps_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare("a" * 64)
    (home.folder / "cache").write_text("of a")
    home.prepare("a" * 64)
    assert (home.folder / "cache").exists()
    home.prepare("b" * 64)
    assert list(home.folder.iterdir()) == []
    (home.folder / "cache").write_text("of b")
    home.prepare("")  # nobody knows whose the task is
    assert list(home.folder.iterdir()) == []
    (home.folder / "cache").write_text("of nobody")
    home.prepare("")
    assert list(home.folder.iterdir()) == []


def test_of_the_same_apps_earlier_run_only_the_unpacked_bundle_goes(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    home = Home(tmp_path / "home")
    home.prepare("a" * 64, "1" * 64)
    (home.folder / UNPACKED / "a.1").mkdir(parents=True)
    (home.folder / "cache").write_text("of a")
    home.prepare("a" * 64, "1" * 64)
    assert (home.folder / UNPACKED / "a.1").exists()
    home.prepare("a" * 64, "2" * 64)
    assert [path.name for path in home.folder.iterdir()] == ["cache"]
    (home.folder / UNPACKED).symlink_to(outside)
    home.prepare("a" * 64, "3" * 64)
    assert [path.name for path in home.folder.iterdir()] == ["cache"]
    assert (outside / "kept").exists()
    again = Home(home.folder, home.owner)  # a cell that has started itself again
    again.prepare(again.owner)
    again.prepare("a" * 64, "3" * 64)
    assert (home.folder / "cache").exists()
    again.prepare("b" * 64, "4" * 64)
    assert list(home.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        (Space(10**10, 10**6), Space(10**10 - 1000, 10**6), ""),
        (Space(10**10, 10**6), Space(10**10 - 3 * 10**9, 10**6), "wrote more than 2000 MB"),
        (Space(MINIMUM_FREE_BYTES + 10, 10**6), Space(MINIMUM_FREE_BYTES - 10, 10**6), "the disk is full"),
        (Space(MINIMUM_FREE_BYTES - 10, 10**6), Space(MINIMUM_FREE_BYTES - 20, 10**6), ""),  # it was full before
        (Space(10**10, 10**6), Space(10**10, 10**6 - 200_000), "made more than 100000 files"),
        (Space(10**10, 0), Space(10**10, 0), ""),  # a file system that does not count files
    ],
)
def test_a_task_that_takes_too_much_room_is_told_so(before: Space, now: Space, text: str) -> None:
    found = before.excess(now, 2_000_000_000, 100_000)
    assert (text in found) if text else found == ""


def test_outside_a_unit_of_its_own_nothing_is_swept() -> None:
    with pytest.raises(LeftoverError, match="not in a control group of its own"):
        own_group("fleven-task.service")
