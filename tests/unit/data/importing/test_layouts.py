"""A random drive in a random logger's layout comes back as it was, or is refused: never with other numbers."""

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logger_layouts import LAYOUTS, Drive, Written, make_drive

from fleven.data.errors import InputError
from fleven.data.importing.column_mapping import parse_rules
from fleven.data.importing.column_selection import Options
from fleven.data.importing.importing import import_logs

# What nobody could decide: a count that may be of two units, 70 rows in the two seconds of a whole-second clock.
FAIR_REASONS = ("does not say what it counts", "stands still")
STEPS = (0.02, 0.1, 0.25, 0.5, 1.0, 4.0)


def imported(data: bytes) -> tuple[dict[str, Any], list[pd.DataFrame]]:
    with tempfile.TemporaryDirectory() as folder:
        log, out = Path(folder) / "log.csv", Path(folder) / "out"
        log.write_bytes(data)
        manifest = import_logs([log], out, Options(parse_rules([], [], None), minimum_rows=10))
        return manifest, [pd.read_parquet(out / trip["file"]) for trip in manifest["trips"]]


def assert_same(written: Written, trips: list[pd.DataFrame], lost: int) -> None:
    """Each row of each trip is the drive's row of that time; at most `lost` cells and rows are missing."""
    assert len(trips) == len(written.drives), [len(trip) for trip in trips]
    missing = 0
    for drive, trip in zip(written.drives, trips, strict=True):
        differences = [difference(written, drive, trip, begin) for begin in begins(drive, trip)]
        assert None in [each[0] for each in differences], differences
        missing += next(count for said, count in differences if said is None)
    assert missing <= lost


def begins(drive: Drive, trip: pd.DataFrame) -> list[float]:
    """Return at which of the drive's times a trip may begin: where the newest row stands on top, the first are lost."""
    return sorted({0.0, float(drive.time[max(len(drive.time) - len(trip), 0)])})


def difference(written: Written, drive: Drive, trip: pd.DataFrame, begin: float) -> tuple[str | None, int]:
    """Return what differs between a drive and a trip that begins then, None if nothing does, and what is missing."""
    time = trip["time_sec"].to_numpy() + begin
    rows = np.abs(drive.time[None, :] - time[:, None]).argmin(axis=1)
    if len(trip) == len(drive.time):
        rows = np.arange(len(trip))
    if not np.allclose(drive.time[rows], time, atol=written.time_tolerance, rtol=0) or (np.diff(rows) <= 0).any():
        return "the times differ", 0
    missing = len(drive.time) - len(trip)
    for name in written.names:
        wanted, found = drive.columns[name][rows], trip[name].to_numpy()
        differs = ~(np.isclose(found, wanted, atol=written.tolerance.get(name, 0.0051), rtol=0) | np.isnan(found))
        if differs.any():
            return f"{name}: {found[differs][:3]} in place of {wanted[differs][:3]}", 0
        missing += int((np.isnan(found) & ~np.isnan(wanted)).sum())
    return None, missing


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(70, 160), step=st.sampled_from(STEPS))
def test_a_drive_comes_back_or_is_refused(name: str, seed: int, rows: int, step: float) -> None:
    written = LAYOUTS[name](make_drive(seed, rows, step), random.Random(seed))
    try:
        manifest, trips = imported(written.data)
    except InputError as error:
        said = " ".join(problem.line() for problem in error.problems)
        assert any(reason in said for reason in FAIR_REASONS), said
        return
    account = manifest["rows"]
    assert account["read"] == account["kept"] + sum(account["dropped"].values())
    assert_same(written, trips, written.lost)


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 60), zeros=st.sampled_from([0, 512]))
def test_a_power_cut_costs_the_last_rows_and_changes_no_other(name: str, seed: int, cut: int, zeros: int) -> None:
    written = LAYOUTS[name](make_drive(seed, 90, 0.5), random.Random(seed))
    try:
        _, trips = imported(written.data[:-cut] + b"\0" * zeros)
    except InputError as error:
        said = " ".join(problem.line() for problem in error.problems)
        assert any(reason in said for reason in FAIR_REASONS), said
        return
    assert_same(written, trips, lost=60 + written.lost)


def test_there_are_as_many_layouts_as_the_guide_says() -> None:
    assert len(LAYOUTS) >= 20
