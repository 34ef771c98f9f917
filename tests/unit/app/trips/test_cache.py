"""The cache of prepared windows: never wrong, never in the way."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fleven.app.errors import Code, DataError
from fleven.app.settings import Settings
from fleven.app.trips import cache, kept_rows
from fleven.app.trips import windows as trip_windows

Make = Callable[..., Path]


def entries() -> list[Path]:
    return sorted(cache.cache_folder().glob("*.npz"))


def test_the_second_reading_comes_from_the_cache_and_is_equal(
    make_car: Make, small: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_car()
    (folder / "bad.csv").touch()
    first = cache.prepare_cached(folder, small())
    monkeypatch.setattr(kept_rows, "read", lambda *_: pytest.fail("the trips were read again"))
    second = cache.prepare_cached(folder, small())
    for name in ("values", "train_starts", "test_starts"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == getattr(second, name).dtype
    np.testing.assert_array_equal(first.statistics.deviation, second.statistics.deviation)
    assert (first.rows, first.trips, first.gaps, first.skipped) == (
        second.rows,
        second.trips,
        second.gaps,
        second.skipped,
    )


def test_changed_content_and_changed_settings_are_read_anew(make_car: Make, small: Callable[..., Settings]) -> None:
    folder = make_car(rows=100)
    assert cache.prepare_cached(folder, small()).rows == 200
    trip = folder / "trip_0.csv"
    kept = trip.stat()
    trip.write_text("\n".join(trip.read_text().splitlines()[:-10]) + "\n")
    os.utime(trip, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert cache.prepare_cached(folder, small()).rows == 190
    longer = cache.prepare_cached(folder, small(sequence_length=6))
    assert len(longer.train_starts) < len(cache.prepare_cached(folder, small()).train_starts)
    assert len(entries()) == 3


def test_settings_that_do_not_shape_windows_share_an_entry(make_car: Make, small: Callable[..., Settings]) -> None:
    folder = make_car()
    cache.prepare_cached(folder, small())
    cache.prepare_cached(folder, small(rounds=9, learning_rate=0.1, model_type="mlp"))
    assert len(entries()) == 1


def test_a_broken_entry_is_replaced(make_car: Make, small: Callable[..., Settings]) -> None:
    folder = make_car()
    whole = cache.prepare_cached(folder, small())
    (entry,) = entries()
    for content in (b"", b"PK\x03\x04nonsense", entry.read_bytes()[:-200]):
        entry.write_bytes(content)
        assert cache.prepare_cached(folder, small()).rows == whole.rows
        assert entry.read_bytes() != content


def test_a_folder_that_can_not_be_written_is_no_trouble(
    make_car: Make, small: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("FLWR_HOME", str(blocked))
    assert cache.prepare_cached(make_car(), small()).rows == 240


def test_the_cache_can_be_switched_off_and_stays_small(make_car: Make, small: Callable[..., Settings]) -> None:
    folder = make_car()
    cache.prepare_cached(folder, small(cache_windows=False))
    assert entries() == []
    for length in range(2, 12):
        cache.prepare_cached(folder, small(sequence_length=length))
    assert len(entries()) == cache.KEPT_ENTRIES


def test_errors_are_those_of_reading(tmp_path: Path, small: Callable[..., Settings]) -> None:
    with pytest.raises(DataError) as caught:
        cache.prepare_cached(tmp_path / "nowhere", small())
    assert caught.value.code is Code.DATA_MISSING
    assert trip_windows.MINIMUM_TRAIN_WINDOWS == 10
