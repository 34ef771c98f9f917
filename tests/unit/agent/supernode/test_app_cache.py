"""Copies of apps: all go before SuperNode starts, old ones go in a long pause, and none is ever half there."""

import os
from pathlib import Path

import pytest

from fleven_agent.supernode import app_cache
from fleven_agent.supernode.app_cache import KEPT, PAUSE_SECONDS, AppCache


def unpack(home: Path, number: int) -> Path:
    folder = home / "apps" / f"lainf.fleven.1.0.{number}.abcd1234"
    (folder / "fleven").mkdir(parents=True)
    (folder / "fleven" / "app.py").write_text("x" * 10_000, encoding="utf-8")
    os.utime(folder, (1_000 + number, 1_000 + number))
    return folder


def names(home: Path) -> list[str]:
    return sorted(one.name.split(".")[4] for one in (home / "apps").iterdir() if one.is_dir())


@pytest.mark.parametrize(
    ("idle_seconds", "kept"), [(PAUSE_SECONDS - 1, ["0", "1", "2", "3", "4"]), (PAUSE_SECONDS, ["2", "3", "4"])]
)
def test_the_newest_stay_and_nothing_goes_while_a_run_may_be_on(
    tmp_path: Path, idle_seconds: float, kept: list[str]
) -> None:
    for number in range(5):
        unpack(tmp_path, number)
    AppCache(tmp_path / "apps", lambda: idle_seconds).prune()
    assert names(tmp_path) == kept
    assert KEPT == 3
    assert not list(tmp_path.glob("discarded-apps/*"))


def test_before_supernode_starts_all_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2):
        unpack(tmp_path, number)
    made = AppCache(tmp_path / "apps", lambda: 0.0)
    made.clear()
    assert names(tmp_path) == []  # at once, though the removal itself takes its time
    assert len(list((tmp_path / "discarded-apps").iterdir())) == 2
    caplog.set_level("INFO")
    made.prune()
    assert list((tmp_path / "discarded-apps").iterdir()) == []
    [said] = caplog.messages
    assert said.startswith("apps of earlier runs removed folders=2 freed_bytes=")
    assert int(said.rpartition("=")[2]) >= 20_000


def test_what_an_agent_before_put_away_is_removed(tmp_path: Path) -> None:
    (tmp_path / "discarded-apps" / "old").mkdir(parents=True)
    AppCache(tmp_path / "apps", lambda: 0.0).prune()
    assert not (tmp_path / "discarded-apps" / "old").exists()


def test_the_same_app_may_be_put_away_twice(tmp_path: Path) -> None:
    made = AppCache(tmp_path / "apps", lambda: 0.0)
    for _ in range(3):
        unpack(tmp_path, 1)
        made.clear()
    assert len(list((tmp_path / "discarded-apps").iterdir())) == 3


def test_files_and_links_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "note").write_text("x", encoding="utf-8")
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "apps" / "link").symlink_to(outside)
    made = AppCache(tmp_path / "apps", lambda: float("inf"))
    made.clear()
    made.prune()
    assert {one.name for one in (tmp_path / "apps").iterdir()} == {"note", "link"}
    assert outside.is_dir()


def test_a_home_without_apps_or_one_that_refuses_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = AppCache(tmp_path / "missing", lambda: float("inf"))
    made.clear()
    made.prune()
    assert caplog.messages == []
    folder = unpack(tmp_path, 1)

    def refuse(_self: Path, _target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(app_cache.Path, "rename", refuse)
    AppCache(tmp_path / "apps", lambda: 0.0).clear()
    assert "app not put away" in caplog.text
    assert folder.exists()
