"""Trips: counted once, unreadable ones set aside and never deleted, files being written left alone."""

import errno
import os
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleven_agent.monitoring import trip_files
from fleven_agent.monitoring import trip_folder as module
from fleven_agent.monitoring.trip_files import UnreadableTripError, count_rows
from fleven_agent.monitoring.trip_folder import Summary, TripFolder

HEADER = "time_sec,vehicle_speed,engine_rpm\n"
TRIP = HEADER + "0,1,2\n" * 30


HOUR = 3_600


class Clocks:
    """The wall clock and the monotonic one; only the wall clock can step."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 2_000_000_000.0, 500.0

    def pass_by(self, seconds: float) -> None:
        self.wall, self.monotonic = self.wall + seconds, self.monotonic + seconds


def watch(folder: Path, clocks: Clocks, *, quarantine: bool = True, settle: float = 30, rows: int = 21) -> TripFolder:
    return TripFolder(
        str(folder),
        settle_seconds=settle,
        quarantine=quarantine,
        minimum_rows=rows,
        wall=lambda: clocks.wall,
        clock=lambda: clocks.monotonic,
    )


def write(folder: Path, name: str, content: str | bytes, *, at: float = 1_000_000_000) -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(file, (at, at))
    return file


def test_trips_are_counted_with_rows_and_the_newest(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", TRIP)
    write(tmp_path, "b.CSV", TRIP.rstrip("\n"), at=1_000_000_500)
    pd.DataFrame({"time_sec": range(17), "x": range(17)}).to_parquet(tmp_path / "c.parquet")
    os.utime(tmp_path / "c.parquet", (1, 1))
    write(tmp_path, "notes.txt", "x")
    found = watch(tmp_path, Clocks()).scan()
    assert (found.trips, found.rows, found.newest_trip_at) == (3, 77, 1_000_000_500)
    assert (found.problem, found.unmovable, found.quarantined) == ("", "", 0)


def test_a_known_trip_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = trip_files.count_rows
    monkeypatch.setattr(module, "count_rows", lambda path, _progress: read.append(path.name) or real(path))
    write(tmp_path, "a.csv", TRIP)
    one = watch(tmp_path, Clocks())
    one.scan()
    one.scan()
    write(tmp_path, "b.csv", TRIP)
    assert one.scan().trips == 2
    write(tmp_path, "a.csv", TRIP + "0,1,2\n")
    assert one.scan().rows == 61
    assert read == ["a.csv", "b.csv", "a.csv"]


@pytest.mark.parametrize("name", ["a.csv.tmp", ".a.csv", "a.csv.part", "a.csv~", "_a.csv"])
def test_files_with_a_temporary_name_are_left_alone(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, "")
    found = watch(tmp_path, Clocks()).scan()
    assert (found.trips, found.quarantined, (tmp_path / name).exists()) == (0, 0, True)


def test_a_growing_file_is_left_alone_until_it_has_settled(tmp_path: Path) -> None:
    clocks = Clocks()
    one = watch(tmp_path, clocks)
    write(tmp_path, "a.csv", HEADER, at=clocks.wall - 1)
    assert (one.scan().trips, one.scan().unfinished) == (0, 1)
    clocks.pass_by(20)
    write(tmp_path, "a.csv", TRIP, at=clocks.wall)
    assert one.scan().unfinished == 1
    clocks.pass_by(31)
    assert (one.scan().trips, (tmp_path / "a.csv").exists()) == (1, True)


def test_a_parquet_file_is_complete_with_its_footer_and_waits_without_it(tmp_path: Path) -> None:
    clocks = Clocks()
    one = watch(tmp_path, clocks)
    pd.DataFrame({"time_sec": range(30)}).to_parquet(tmp_path / "new.parquet")
    whole = (tmp_path / "new.parquet").read_bytes()
    os.utime(tmp_path / "new.parquet", (clocks.wall - 1, clocks.wall - 1))
    write(tmp_path, "growing.parquet", whole[:-20], at=clocks.wall - 1)
    found = one.scan()
    assert (found.trips, found.unfinished, found.quarantined) == (1, 1, 0)


def test_a_file_from_the_future_settles_by_staying_the_same(tmp_path: Path) -> None:
    clocks = Clocks()
    one = watch(tmp_path, clocks)
    write(tmp_path, "a.csv", TRIP, at=clocks.wall + 1e6)
    assert one.scan().unfinished == 1
    clocks.pass_by(31)
    assert one.scan().trips == 1


@pytest.mark.parametrize("first", ["", "time_s", HEADER])
def test_a_trip_whose_logger_still_buffers_its_first_rows_is_not_set_aside(tmp_path: Path, first: str) -> None:
    clocks = Clocks()
    one = watch(tmp_path, clocks)
    trip = write(tmp_path, "a.csv", first, at=clocks.wall)
    for _ in range(4):
        found = one.scan()
        assert (found.unfinished, found.quarantined, trip.exists()) == (1, 0, True)
        clocks.pass_by(60)
    write(tmp_path, "a.csv", TRIP, at=clocks.wall)
    clocks.pass_by(31)
    assert one.scan().trips == 1


def test_a_step_of_the_clock_does_not_set_a_trip_aside_that_is_being_written(tmp_path: Path) -> None:
    clocks = Clocks()
    one = watch(tmp_path, clocks)
    write(tmp_path, "a.csv", HEADER, at=clocks.wall)
    write(tmp_path, "b.parquet", b"PAR1" + b"x" * 100, at=clocks.wall)
    one.scan()
    clocks.wall += 1e8
    clocks.pass_by(60)
    found = one.scan()
    assert (found.unfinished, found.quarantined) == (2, 0)


def test_an_unfinished_trip_is_set_aside_when_it_has_not_changed_for_an_hour(tmp_path: Path) -> None:
    clocks = Clocks()
    one = watch(tmp_path, clocks)
    write(tmp_path, "a.csv", HEADER)
    one.scan()
    clocks.pass_by(HOUR - 60)
    write(tmp_path, "a.csv", HEADER, at=2_000_000_001)
    assert one.scan().unfinished == 1
    clocks.pass_by(HOUR - 1)
    assert one.scan().unfinished == 1
    clocks.pass_by(1)
    found = one.scan()
    assert (found.unfinished, found.quarantined) == (0, 1)


BAD = {
    "empty.csv": (b"", "the file is empty"),
    "header.csv": (HEADER.encode(), "there is a header, but no row"),
    "line.csv": (HEADER.strip().encode(), "there is a header, but no row"),
    "cut.csv": (b"\0" * 100, "not text"),
    "latin.csv": (b"Geschwindigkeit;\xe4\n1;2\n", "not UTF-8"),
    "one.csv": (b"speed\n1\n", "does not name at least two columns"),
    "numbers.csv": (b"1,2,3\n4,5,6\n", "holds numbers"),
    "x.parquet": (b"hello", "not a Parquet file"),
    "y.parquet": (b"PAR1" + b"x" * 100, "cut short"),
    "z.parquet": (b"PAR1" + b"\xff" * 20 + (20).to_bytes(4, "little") + b"PAR1", "footer is damaged"),
    "empty.parquet": (b"", "cut short"),
}
UNFINISHED = {"empty.csv", "header.csv", "line.csv", "y.parquet", "empty.parquet"}


@pytest.mark.parametrize("name", BAD)
def test_an_unreadable_trip_is_set_aside_with_its_reason(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    clocks = Clocks()
    one = watch(tmp_path, clocks)
    write(tmp_path, name, content)
    write(tmp_path, "good.csv", TRIP)
    found = one.scan()
    assert (found.trips, found.unfinished, found.quarantined) == ((1, 1, 0) if name in UNFINISHED else (1, 0, 1))
    clocks.pass_by(HOUR)
    found = one.scan()
    assert (found.trips, found.unfinished, found.quarantined) == (1, 0, 1)
    assert (tmp_path / "quarantine" / name).read_bytes() == content
    assert reason in (tmp_path / "quarantine" / f"{name}.reason").read_text(encoding="utf-8")


def test_a_second_file_of_the_same_name_replaces_nothing(tmp_path: Path) -> None:
    one = watch(tmp_path, Clocks())
    for content in (b"\0\0", b"\0"):
        write(tmp_path, "a.csv", content)
        one.scan()
    assert sorted(file.name for file in (tmp_path / "quarantine").glob("*.csv")) == ["a.1.csv", "a.csv"]
    assert (tmp_path / "quarantine" / "a.csv").read_bytes() == b"\0\0"


def test_links_in_the_quarantine_lead_nowhere(tmp_path: Path) -> None:
    """Whoever may write trips may write there; the agent's own files must not be the target."""
    precious, one = tmp_path / "state.json", watch(tmp_path / "trips", Clocks())
    precious.write_text("precious", encoding="utf-8")
    (tmp_path / "trips" / "quarantine").mkdir(parents=True)
    for name in ("a.csv", "a.csv.reason", "a.1.csv.reason"):
        (tmp_path / "trips" / "quarantine" / name).symlink_to(precious)
    write(tmp_path / "trips", "a.csv", b"\0")
    one.scan()
    assert precious.read_text(encoding="utf-8") == "precious"
    assert (tmp_path / "trips" / "quarantine" / "a.2.csv").read_bytes() == b"\0"
    assert (tmp_path / "trips" / "quarantine" / "a.2.csv.reason").read_text(encoding="utf-8")


def test_a_quarantine_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "trips").mkdir()
    (tmp_path / "trips" / "quarantine").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "trips", "a.csv", b"\0")
    found = watch(tmp_path / "trips", Clocks()).scan()
    assert "cannot be set aside" in found.unmovable
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_without_quarantine_nothing_moves_and_the_trip_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", b"\0")
    write(tmp_path, "good.csv", TRIP)
    found = watch(tmp_path, Clocks(), quarantine=False).scan()
    assert (found.trips, (tmp_path / "a.csv").exists()) == (1, True)
    assert "1 unreadable" in found.unmovable


def test_a_folder_that_takes_no_quarantine_is_a_finding(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", b"\0")
    (tmp_path / "quarantine").write_text("in the way", encoding="utf-8")
    found = watch(tmp_path, Clocks()).scan()
    assert "cannot be set aside" in found.unmovable
    assert (tmp_path / "a.csv").exists()


def test_a_trip_that_may_not_be_opened_stays_and_counts_when_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _progress: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    write(tmp_path, "a.csv", TRIP)
    write(tmp_path, "b.parquet", b"PAR1")
    one = watch(tmp_path, Clocks())
    with monkeypatch.context() as changed:
        changed.setattr(module, "count_rows", refuse)
        found = one.scan()
    assert found.unmovable == "a.csv cannot be read: Permission denied, and 1 more"
    assert (found.trips, found.unfinished, found.quarantined) == (0, 0, 0)
    assert "no readable trip" in found.problem
    found = one.scan()
    assert (found.trips, found.unmovable) == (1, "")


def test_no_folder_no_trips_and_too_few_rows_are_problems(tmp_path: Path) -> None:
    assert "No such file" in watch(tmp_path / "missing", Clocks()).scan().problem
    assert "no readable trip" in watch(tmp_path, Clocks()).scan().problem
    write(tmp_path, "a.csv", HEADER + "0,1,2\n")
    assert "1 rows" in watch(tmp_path, Clocks()).scan().problem


@pytest.mark.parametrize("columns", [1, 40])
@pytest.mark.parametrize("rows", [1, 20_000])
def test_the_row_count_of_parquet_is_pyarrows(tmp_path: Path, rows: int, columns: int) -> None:
    import pyarrow.parquet as parquet

    file = tmp_path / "a.parquet"
    pd.DataFrame({f"column {n}": range(rows) for n in range(columns)}).to_parquet(file, row_group_size=1_000)
    assert count_rows(file) == parquet.read_metadata(file).num_rows == rows


def test_a_parquet_file_cut_at_any_byte_is_unreadable(tmp_path: Path) -> None:
    whole_file = tmp_path / "a.parquet"
    pd.DataFrame({"a": [1, 2, 3]}).to_parquet(whole_file)
    whole = whole_file.read_bytes()
    file = tmp_path / "b.parquet"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(UnreadableTripError):
            count_rows(file)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80), st.sampled_from(["a.csv", "a.parquet"]), st.booleans())
def test_any_bytes_are_a_trip_or_unreadable(tmp_path: Path, content: bytes, name: str, framed: bool) -> None:
    file = tmp_path / name
    file.write_bytes(b"PAR1" + content + len(content).to_bytes(4, "little") + b"PAR1" if framed else content)
    try:
        rows = count_rows(file)
    except UnreadableTripError:
        rows = 1
    assert rows >= 1


def test_the_apps_own_folder_is_missed_only_where_its_base_is(tmp_path: Path) -> None:
    def look(path: Path) -> Summary:
        return TripFolder(str(path), settle_seconds=0, quarantine=False, minimum_rows=1, optional=True).scan()

    absent = look(tmp_path / "data" / "client_0")
    assert (absent.absent, absent.problem) == (True, "")
    (tmp_path / "data").mkdir()
    missing = look(tmp_path / "data" / "client_0")
    assert (missing.absent, missing.problem) == (
        False,
        f"folder of trips {tmp_path}/data/client_0: No such file or directory",
    )
