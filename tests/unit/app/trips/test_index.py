"""The index of trip files: equal for equal content only, whatever clock, disk and leftovers say."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleven.app.trips import cache, index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three trips."""
    trips = tmp_path / "trips"
    trips.mkdir()
    for number in range(3):
        (trips / f"trip_{number}.csv").write_text(f"content {number}")
    return trips


def later(monkeypatch: pytest.MonkeyPatch, seconds: float = 60.0) -> None:
    """Let some time have passed since everything on the disk was changed."""
    now = time.time() + seconds
    monkeypatch.setattr(index.time, "time", lambda: now)


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of files that are read from now on."""
    names: list[str] = []
    digest = index.hashlib.file_digest

    def noted(stream: Any, factory: Any) -> Any:
        names.append(Path(stream.name).name)
        return digest(stream, factory)

    monkeypatch.setattr(index.hashlib, "file_digest", noted)
    return names


def test_settled_files_are_read_once_and_a_new_one_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    kept, read = tmp_path / "kept", opened(monkeypatch)
    first = index.TripIndex(folder, kept).content()
    assert sorted(read) == ["trip_0.csv", "trip_1.csv", "trip_2.csv"]
    read.clear()
    assert index.TripIndex(folder, kept).content() == first
    assert read == []
    (folder / "trip_3.csv").write_text("content 3")
    assert index.TripIndex(folder, kept).content() != first
    assert read == ["trip_3.csv"]
    (folder / "trip_3.csv").unlink()
    assert index.TripIndex(folder, kept).content() == first


def test_a_file_written_anew_is_read_though_size_and_modification_time_are_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    kept = tmp_path / "kept"
    first = index.TripIndex(folder, kept).content()
    trip = folder / "trip_1.csv"
    before = trip.stat()
    trip.write_text("CONTENT 1")
    os.utime(trip, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert index.TripIndex(folder, kept).content() != first


def test_what_was_changed_a_moment_ago_is_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = opened(monkeypatch)
    first = index.TripIndex(folder, tmp_path / "kept").content()
    assert index.TripIndex(folder, tmp_path / "kept").content() == first
    assert len(read) == 6


def test_names_count_and_other_files_and_the_place_do_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    first = index.TripIndex(folder, tmp_path / "kept").content()
    (folder / "notes.txt").touch()
    (folder / ".trip_9.csv").touch()
    (folder / "inner.csv").mkdir()
    assert index.TripIndex(folder, tmp_path / "kept").content() == first
    moved = folder.rename(tmp_path / "moved")
    assert index.TripIndex(moved, tmp_path / "kept").content() == first
    (moved / "trip_0.csv").rename(moved / "trip_7.csv")
    assert index.TripIndex(moved, tmp_path / "kept").content() != first


@pytest.mark.parametrize(
    "nonsense",
    [b"", b"[]", b"null", b"[" * 100_000, b"\x80\x04K\x01.", b'{"fingerprint": 1, "content": "../../etc/passwd"}'],
)
def test_leftovers_that_cannot_be_understood_are_replaced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nonsense: bytes
) -> None:
    later(monkeypatch)
    kept = tmp_path / "kept"
    first = index.TripIndex(folder, kept).content()
    for file in kept.iterdir():
        file.write_bytes(nonsense)
    assert index.TripIndex(folder, kept).content() == first
    assert all(file.read_bytes() != nonsense for file in kept.iterdir())
    read = opened(monkeypatch)
    assert index.TripIndex(folder, kept).content() == first
    assert read == []


def test_a_content_that_is_no_digest_is_not_believed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    kept = tmp_path / "kept"
    first = index.TripIndex(folder, kept).content()
    (whole,) = kept.glob("*.content.json")
    whole.write_text(json.dumps(json.loads(whole.read_text()) | {"content": "x/../../../outside"}))
    assert index.TripIndex(folder, kept).content() == first


@pytest.mark.parametrize("change", ["cut", "another digest", "one record less"])
def test_digests_that_are_not_whole_are_not_believed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    later(monkeypatch)
    kept = tmp_path / "kept"
    first = index.TripIndex(folder, kept).content()
    (folder / "trip_9.csv").write_text("content 9")
    second = index.TripIndex(folder, kept).content()
    (folder / "trip_9.csv").unlink()
    (parts,) = kept.glob("*.files")
    content = parts.read_bytes()
    digest = content.split(b"\0")[1][: index.DIGEST_LENGTH]
    parts.write_bytes(
        {
            "cut": content[:-7],
            "another digest": content.replace(digest, bytes(reversed(digest))),
            "one record less": content.rpartition(b"\0")[0],
        }[change]
    )
    read = opened(monkeypatch)
    assert index.TripIndex(folder, kept).content() == first != second
    assert sorted(read) == ["trip_0.csv", "trip_1.csv", "trip_2.csv"]


def test_names_may_hold_anything(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    names = ["a b\nc.csv", "1 2 3 4.csv", os.fsdecode(b"\xff\xfe.csv"), "größe.CSV", '"quoted", [1].parquet']
    for name in names:
        (folder / name).write_text(name.encode(errors="replace").decode())
    read = opened(monkeypatch)
    first = index.TripIndex(folder, tmp_path / "kept")
    content, digests = first.content(), first.files()
    assert digests.keys() > set(names)
    read.clear()
    (folder / "new.csv").write_text("new")
    again = index.TripIndex(folder, tmp_path / "kept")
    assert again.content() != content
    assert {name: digests[name] for name in names} == {name: again.files()[name] for name in names}
    assert read == ["new.csv"]


def test_what_was_read_is_of_the_bytes_that_are_known_unless_its_file_has_changed(folder: Path, tmp_path: Path) -> None:
    known = index.TripIndex(folder, tmp_path / "kept")
    assert known.unchanged(["trip_0.csv", "trip_1.csv"])
    (folder / "trip_1.csv").write_text("content one")
    (folder / "trip_2.csv").unlink()
    assert known.unchanged(["trip_0.csv"])
    assert not known.unchanged(["trip_0.csv", "trip_1.csv"])
    assert not known.unchanged(["trip_2.csv"])


def test_only_a_few_folders_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    for number in range(index.KEPT_FOLDERS + 3):
        folder = tmp_path / f"trips-{number}"
        folder.mkdir()
        (folder / "trip.csv").write_text("x")
        index.TripIndex(folder, tmp_path / "kept").content()
    assert len(list((tmp_path / "kept").iterdir())) == 2 * index.KEPT_FOLDERS


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_starts": np.array([-1], dtype=np.int32)},
        {"test_starts": np.array([10**6], dtype=np.int32)},
        {"values": np.zeros((200, 9), dtype=np.float32)},
        {"values": np.zeros((200, 4), dtype=np.float64)},
        {"mean": np.zeros(1)},
    ],
)
def test_windows_that_cannot_be_are_read_anew(make_car: Any, small: Any, wrong: dict[str, Any]) -> None:
    folder, settings = make_car(), small()
    whole = cache.prepare_cached(folder, settings)
    (entry,) = cache.cache_folder().glob("*.npz")
    with np.load(entry) as stored:
        content = {name: stored[name] for name in stored.files} | wrong
    with entry.open("wb") as stream:
        np.savez(stream, **content)
    again = cache.prepare_cached(folder, settings)
    np.testing.assert_array_equal(again.train_starts, whole.train_starts)
    np.testing.assert_array_equal(again.values, whole.values)
