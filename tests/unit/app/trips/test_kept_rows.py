"""Rows kept of each trip: what a task opens is what is new, and what it gets is what reading everything gives."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fleven.app.errors import DataError
from fleven.app.settings import Settings
from fleven.app.trips import cache, index, kept_rows
from fleven.app.trips.windows import Prepared, prepare

Make = Callable[..., Path]
MakeTrip = Callable[..., pd.DataFrame]
MakeSettings = Callable[..., Settings]
TRIPS = 12


class Opened:
    """Names of the trip files that are opened while it watches; an audit hook can never be taken away again."""

    def __init__(self) -> None:
        self.names: list[str] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.names is not None and event == "open" and str(arguments[0]).endswith(".csv"):
            self.names.append(Path(str(arguments[0])).name)

    def take(self) -> set[str]:
        """Return the names since it was last asked."""
        assert self.names is not None
        names, self.names = self.names, []
        return set(names)


WATCH = Opened()


@pytest.fixture
def opened() -> Iterator[Opened]:
    WATCH.names = []
    yield WATCH
    WATCH.names = None


@pytest.fixture
def car(make_car: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a car with many trips, all of a while ago, one of them of no use."""
    folder = make_car(trips=TRIPS, rows=30)
    (folder / "trip_7.csv").write_text("time_sec\n1\n")
    now = time.time() + 60
    monkeypatch.setattr(index.time, "time", lambda: now)
    return folder


def add(folder: Path, make_trip: MakeTrip, number: int) -> None:
    make_trip(30, number).to_csv(folder / f"trip_{number}.csv", index=False)


def packs() -> list[Path]:
    return sorted((cache.cache_folder() / "trips").glob("*/*.npz"))


def packed(trips: dict[str, Any]) -> Any:
    return np.frombuffer(json.dumps(trips).encode(), dtype=np.uint8)


def assert_equal(prepared: Prepared, settings: Settings, folder: Path) -> None:
    expected = prepare(folder, settings)
    for name in ("values", "train_starts", "test_starts"):
        np.testing.assert_array_equal(getattr(prepared, name), getattr(expected, name))
    np.testing.assert_array_equal(prepared.statistics.deviation, expected.statistics.deviation)
    assert (prepared.trips, prepared.rows_read, prepared.rows_dropped, prepared.gaps, prepared.skipped) == (
        expected.trips,
        expected.rows_read,
        expected.rows_dropped,
        expected.gaps,
        expected.skipped,
    )


def test_a_task_opens_the_new_trip_alone(car: Path, small: MakeSettings, make_trip: MakeTrip, opened: Opened) -> None:
    cache.prepare_cached(car, small())
    assert len(opened.take()) == TRIPS
    cache.prepare_cached(car, small())
    assert opened.take() == set()
    add(car, make_trip, 1000)
    prepared = cache.prepare_cached(car, small())
    assert opened.take() == {"trip_1000.csv"}
    assert_equal(prepared, small(), car)


def test_a_new_trip_is_put_in_its_place_without_ordering_all_others(
    car: Path, small: MakeSettings, make_trip: MakeTrip, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(TRIPS, 3 * kept_rows.FEW):
        add(car, make_trip, number)
    for name in ("trip_01.csv", "trip_1a.csv", "Trip_1.csv"):  # the same numbers as that of another
        make_trip(30, len(name)).to_csv(car / name, index=False)
    cache.prepare_cached(car, small())
    ordered: list[str] = []
    order = kept_rows.natural_order

    def noted(name: str) -> Any:
        ordered.append(name)
        return order(name)

    monkeypatch.setattr(kept_rows, "natural_order", noted)
    add(car, make_trip, 40)
    add(car, make_trip, 1000)
    prepared = cache.prepare_cached(car, small())
    assert 2 <= len(ordered) < kept_rows.FEW
    assert_equal(prepared, small(), car)


def test_other_windows_of_the_same_columns_open_nothing(car: Path, small: MakeSettings, opened: Opened) -> None:
    cache.prepare_cached(car, small())
    opened.take()
    for changed in (small(sequence_length=7), small(split_by="trip"), small(train_test_split=0.5)):
        prepared = cache.prepare_cached(car, changed)
        assert opened.take() == set()
        assert_equal(prepared, changed, car)
        opened.take()
    cache.prepare_cached(car, small(feature_columns="engine_rpm"))
    assert len(opened.take()) == TRIPS


def test_trips_that_come_change_and_go_give_what_reading_all_gives(
    car: Path, small: MakeSettings, make_trip: MakeTrip, opened: Opened
) -> None:
    cache.prepare_cached(car, small())
    for turn in range(kept_rows.MOST_PACKS + 3):
        opened.take()
        add(car, make_trip, 5 * turn + 3)  # some between the others, some written again, some after them
        gone = car / f"trip_{5 * turn + 1}.csv"
        gone.unlink(missing_ok=True)
        prepared = cache.prepare_cached(car, small())
        assert opened.take() == {f"trip_{5 * turn + 3}.csv"}
        assert_equal(prepared, small(), car)
        assert len(packs()) <= kept_rows.MOST_PACKS


def test_a_folder_that_has_lost_its_last_trip_says_so(car: Path, small: MakeSettings) -> None:
    for trips_were_known in (True, False):
        if trips_were_known:
            cache.prepare_cached(car, small())
        for trip in car.glob("*.csv"):
            trip.unlink()
        with pytest.raises(DataError, match="holds no ") as caught:
            cache.prepare_cached(car, small())
        assert caught.value.code == "data-empty"


def test_what_is_kept_does_not_outlive_its_trips_for_long(car: Path, small: MakeSettings, make_trip: MakeTrip) -> None:
    cache.prepare_cached(car, small())
    whole = sum(pack.stat().st_size for pack in packs())
    for number in range(TRIPS - 3):
        (car / f"trip_{number}.csv").unlink()
    add(car, make_trip, 500)
    assert_equal(cache.prepare_cached(car, small()), small(), car)
    assert sum(pack.stat().st_size for pack in packs()) < whole / 2


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"PK\x03\x04nonsense", "cut", "other columns", "counts", "more rows than read", "floats", "names"),
        *("the same name twice", "an error of nobody"),
    ],
)
def test_a_pack_that_is_of_no_use_is_replaced(
    car: Path, small: MakeSettings, make_trip: MakeTrip, opened: Opened, content: bytes | str
) -> None:
    cache.prepare_cached(car, small())
    (pack,) = packs()
    if isinstance(content, bytes):
        pack.write_bytes(content)
    elif content == "cut":
        pack.write_bytes(pack.read_bytes()[:-200])
    else:
        with np.load(pack) as stored:
            parts = dict(stored)
        trips = json.loads(parts["trips"].tobytes())
        wrong = {
            "other columns": {"values": parts["values"][:, :2]},
            "counts": {"sizes": np.minimum(parts["sizes"], 10)},
            "more rows than read": {"sizes": parts["sizes"] + 1},
            "floats": {"sizes": parts["sizes"].astype(np.float64)},
            "names": {"trips": packed({"names": ["trip_1.csv"], "digests": [], "errors": []})},
            "the same name twice": {"trips": packed(trips | {"names": ["trip_1.csv"] * TRIPS})},
            "an error of nobody": {"trips": packed(trips | {"errors": [[TRIPS, "data-empty", "", ""]]})},
        }
        np.savez(pack, **(parts | wrong[content]))
    add(car, make_trip, 1000)
    opened.take()
    prepared = cache.prepare_cached(car, small())
    assert len(opened.take()) == TRIPS + 1
    assert_equal(prepared, small(), car)
    add(car, make_trip, 1001)
    opened.take()
    assert_equal(cache.prepare_cached(car, small()), small(), car)
    assert len(packs()) == 2


def test_a_trip_that_changes_while_it_is_read_is_not_kept(
    car: Path, small: MakeSettings, make_trip: MakeTrip, monkeypatch: pytest.MonkeyPatch, opened: Opened
) -> None:
    read = kept_rows.read

    def overtaken(path: Path, names: tuple[str, ...]) -> Any:
        if path.name == "trip_3.csv":
            make_trip(20, 77).to_csv(path, index=False)
        return read(path, names)

    monkeypatch.setattr(kept_rows, "read", overtaken)
    cache.prepare_cached(car, small())
    assert packs() == []
    assert list(cache.cache_folder().glob("*.npz")) == []


def test_when_no_trip_can_be_used_the_reason_is_kept_and_said(
    make_car: Make, small: MakeSettings, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_car(trips=0)
    for number in range(3):
        (folder / f"trip_{number}.csv").write_text("time_sec\n1\n")
    now = time.time() + 60
    monkeypatch.setattr(index.time, "time", lambda: now)
    with pytest.raises(DataError) as first:
        cache.prepare_cached(folder, small())
    opened.take()
    with pytest.raises(DataError) as second:
        cache.prepare_cached(folder, small())
    assert opened.take() == set()
    with pytest.raises(DataError) as expected:
        prepare(folder, small())
    assert str(first.value) == str(second.value) == str(expected.value)


def test_only_a_few_folders_are_kept(make_car: Make, small: MakeSettings) -> None:
    for partition in range(kept_rows.KEPT_FOLDERS + 2):
        cache.prepare_cached(make_car(partition), small())
    assert len(packs()) == kept_rows.KEPT_FOLDERS


def test_a_disk_that_refuses_is_no_trouble(
    car: Path, small: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (cache.cache_folder() / "trips").parent.mkdir(parents=True)
    (cache.cache_folder() / "trips").touch()
    assert_equal(cache.prepare_cached(car, small()), small(), car)
