"""Where a ServerApp's files go, and which files it is given."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fleven.server.flower import run_files
from fleven.server.flower.run_files import RunFiles, TooMuchError, given

RUN = "1234567890123456789"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (f"metrics/Test/{RUN}/status.json", f"metrics/Test/{RUN}/status.json"),
        (f"deep/er/{RUN}/plots/a.png", f"deep/er/{RUN}/plots/a.png"),
        ("results/Test/other/model", f"files/{RUN}/results/Test/other/model"),
        ("register.db", f"files/{RUN}/register.db"),
        (f"{RUN}", f"files/{RUN}/{RUN}"),
        (f"results/{RUN}", f"files/{RUN}/results/{RUN}"),
        (f"trust/{RUN}/ca.key", f"files/{RUN}/trust/{RUN}/ca.key"),
        (f"programs/{RUN}/x", f"files/{RUN}/programs/{RUN}/x"),
    ],
)
def test_a_run_writes_its_own_folders_only(tmp_path: Path, name: str, place: str) -> None:
    assert RunFiles(tmp_path, RUN).target(name) == tmp_path / place


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", f"metrics/{RUN}/../../x", "a\nb", "x\x1b"])
def test_a_path_that_is_none_is_not_taken(tmp_path: Path, name: str) -> None:
    assert RunFiles(tmp_path, RUN).target(name) is None


def test_files_are_taken_whole_replaced_and_removed(tmp_path: Path) -> None:
    state, source = tmp_path / "state", tmp_path / "source"
    state.mkdir()
    files, name = RunFiles(state, RUN), f"metrics/Test/{RUN}/status.json"
    for text in ("first", "second one"):
        source.write_text(text)
        with source.open("rb") as stream:
            assert files.take(name, stream.fileno())
        target = state / name
        assert target.read_text() == text
        assert target.stat().st_mode & 0o777 == 0o640
        assert [entry.name for entry in target.parent.iterdir()] == ["status.json"]
    files.remove(name)
    assert not target.exists()
    files.remove(f"metrics/Test/{RUN}/never")


def test_only_what_the_run_wrote_is_removed(tmp_path: Path) -> None:
    other = tmp_path / "metrics" / "Test" / RUN / "there"
    other.parent.mkdir(parents=True)
    other.touch()
    RunFiles(tmp_path, RUN).remove(f"metrics/Test/{RUN}/there")
    assert other.exists()


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    assert not RunFiles(tmp_path, RUN).take("x", reading)
    os.close(reading)
    os.close(writing)


def test_a_run_neither_fills_the_disk_nor_writes_more_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(600))
    files = RunFiles(tmp_path / "state", RUN)
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(run_files, "MAXIMUM_RUN_BYTES", 1000)
    with source.open("rb") as stream:
        assert files.take("one", stream.fileno())
        assert files.take("one", stream.fileno())  # a file that is replaced counts once
        with pytest.raises(TooMuchError):
            files.take("two", stream.fileno())
        monkeypatch.setattr(run_files, "MAXIMUM_RUN_BYTES", 10_000)
        monkeypatch.setattr(run_files, "MINIMUM_FREE_BYTES", shutil.disk_usage(tmp_path).total)
        with pytest.raises(TooMuchError):
            files.take("two", stream.fileno())
    assert not list((tmp_path / "state").rglob("two*"))


def test_a_run_is_given_the_checkpoint_that_it_names_and_nothing_else(tmp_path: Path) -> None:
    state = tmp_path / "state"
    folder = state / "results" / "Test" / "1"
    folder.mkdir(parents=True)
    for name in ("checkpoint-1.safetensors", "checkpoint-2.safetensors", "result.json", ".checkpoint-3.safetensors"):
        (folder / name).write_text(name)
    (state / "trust").mkdir()
    (state / "trust" / "ca.pt").write_text("key")
    (state / "register.db").write_text("r")
    (folder / "link.pt").symlink_to(state / "register.db")
    outside = tmp_path / "outside.pt"
    outside.touch()
    relative = "results/Test/1/checkpoint-1.safetensors"
    assert list(given(state, relative)) == [(relative, (state / relative).resolve())]
    assert list(given(state, str(state / relative))) == [(relative, (state / relative).resolve())]
    assert [name for name, _ in given(state, "results/Test/1")] == [
        "results/Test/1/checkpoint-2.safetensors",
        "results/Test/1/checkpoint-1.safetensors",
    ]
    for named in ("", "trust/ca.pt", "register.db", "results/Test/1/link.pt", str(outside), "../outside.pt", "none.pt"):
        assert list(given(state, named)) == [], named
