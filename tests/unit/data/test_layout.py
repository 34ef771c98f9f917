"""The output folder comes whole or not at all, and nothing of others is ever replaced."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fleven.data import layout
from fleven.data.errors import ErrorCode, OutputError, OutputExistsError
from fleven.data.layout import Trip, check_target, read_manifest, replacing, safe_name, write_layout


def trip(vehicle: str = "car", rows: int = 3) -> Trip:
    frame = pd.DataFrame({"time_sec": [float(i) for i in range(rows)], "vehicle_speed": [10.0] * rows})
    return Trip(vehicle, frame, "log.csv")


def write(target: Path, *, force: bool = False, vehicle: str = "car") -> None:
    with replacing(target, force=force) as folder:
        write_layout(folder, [[trip(vehicle)]], {"made_by": "test", "synthetic": False})


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_appears_with_its_parents(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b")
    assert sorted(content(tmp_path / "a" / "b")) == ["client_0/car_trip_0001.parquet", "manifest.json"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert read_manifest(tmp_path / "out") is not None


def test_a_trip_carries_its_vehicle_as_metadata(tmp_path: Path) -> None:
    write(tmp_path / "out", vehicle="Bus 7")
    metadata = pq.read_schema(tmp_path / "out" / "client_0" / "Bus-7_trip_0001.parquet").metadata
    assert metadata[b"fleven.vehicle"] == b"Bus 7"
    assert metadata[b"fleven.synthetic"] == b"false"


def test_csv_is_written_on_request(tmp_path: Path) -> None:
    with replacing(tmp_path / "out") as folder:
        write_layout(folder, [[trip()]], {"made_by": "test", "synthetic": False}, file_format="csv")
    assert pd.read_csv(tmp_path / "out" / "client_0" / "car_trip_0001.csv")["vehicle_speed"].tolist() == [10.0] * 3


def refusal(target: Path, *, force: bool = False) -> str:
    with pytest.raises(OutputExistsError) as caught:
        check_target(target, force=force)
    assert caught.value.exit_code == 2
    assert caught.value.code == ErrorCode.OUTPUT_EXISTS
    return str(caught.value)


def test_what_an_import_made_is_replaced_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write(target, vehicle="old")
    assert "--force" in refusal(target)
    write(target, vehicle="new", force=True)
    assert sorted(content(target)) == ["client_0/new_trip_0001.parquet", "manifest.json"]


def test_a_folder_of_others_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "manifest.json").write_text('{"kind": "web-app"}')
    assert "name another folder" in refusal(target, force=True)


def test_files_added_since_are_never_lost(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write(target)
    (target / "client_0" / "notes.txt").write_text("precious")
    assert "1 files that FLEVEn did not write, such as client_0/notes.txt" in refusal(target, force=True)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    assert "is a file" in refusal(tmp_path / "out", force=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(tmp_path: Path, error: type[BaseException], monkeypatch: Any) -> None:
    written = []

    def stop_at_the_second(*_args: Any, **_keys: Any) -> None:
        written.append(1)
        if len(written) == 2:
            raise error

    monkeypatch.setattr(layout, "write_trip", stop_at_the_second)
    with pytest.raises(error), replacing(tmp_path / "out") as folder:
        write_layout(folder, [[trip(), trip()]], {"made_by": "test", "synthetic": False})
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_the_old_folder_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write(target)
    before = content(target)

    def interrupted() -> None:
        with replacing(target, force=True) as folder:
            (folder / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert content(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_swap_puts_the_old_folder_back(tmp_path: Path, monkeypatch: Any) -> None:
    target = tmp_path / "out"
    write(target)
    before = content(target)
    rename = Path.rename

    def fail_into_place(self: Path, to: Path) -> Path:
        if to == target and not self.name.endswith("-old"):
            raise OSError(28, "No space left on device", str(to))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail_into_place)
    with pytest.raises(OutputError, match="No space left on device"):
        write(target, force=True)
    assert content(target) == before


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        write(tmp_path / "file" / "out")
    assert (caught.value.exit_code, caught.value.code) == (1, ErrorCode.OUTPUT_FAILED)
    assert str(tmp_path / "file") in str(caught.value)


def test_the_leftover_of_a_killed_run_is_removed_and_that_of_a_living_one_kept(tmp_path: Path) -> None:
    largest = int(Path("/proc/sys/kernel/pid_max").read_text())  # no process has a greater number
    dead = tmp_path / f".out.unfinished-{largest + 1}"
    living = tmp_path / f".out.unfinished-{os.getppid()}"
    dead.mkdir()
    living.mkdir()
    write(tmp_path / "out")
    assert not dead.exists()
    assert living.exists()


@pytest.mark.parametrize(
    ("vehicle", "name"),
    [
        ("s11", "s11"),
        ("a/b", "a-b"),
        ("../../etc", "etc"),
        ("Škoda 1.4", "koda-1.4"),
        (" ", "vehicle"),
        ("x" * 99, "x" * 60),
    ],
)
def test_any_vehicle_name_makes_a_safe_file_name(vehicle: str, name: str) -> None:
    assert safe_name(vehicle) == name
