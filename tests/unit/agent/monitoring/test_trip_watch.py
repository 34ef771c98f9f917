"""A folder that never answers holds up a process that is given up, never the one who asks."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleven_agent.monitoring.trip_watch import FolderSettings, TripWatch
from fleven_agent.monitoring.trip_worker import Worker, touch

TRIP = "time_sec,vehicle_speed\n" + "0,1\n" * 30
# Does with each request what the file at argv[1] says: "hang" for ever, "end", or "answer" after some signs of life.
PROGRAM = """
import json, os, sys, time
for line in sys.stdin:
    mode = open(sys.argv[1]).read().split()
    if mode[0] == "hang":
        time.sleep(1_000)
    if mode[0] == "end":
        os._exit(1)
    for _ in range(int(mode[1])):
        time.sleep(0.15)
        print(flush=True)
    print(json.dumps({"disk": [9, 5], "summary": None}), flush=True)
"""


def folder(path: Path) -> FolderSettings:
    return FolderSettings(str(path), settle_seconds=0, quarantine=False, minimum_rows=1)


@pytest.fixture
def mode(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    file = tmp_path / "mode"
    file.write_text("answer 0", encoding="utf-8")
    return file


@pytest.fixture
def fake(tmp_path: Path, mode: Path) -> Iterator[TripWatch]:
    command = [sys.executable, "-IS", str(tmp_path / "program.py"), str(mode)]
    watch = TripWatch(command, stuck_seconds=0.4, start_seconds=5)
    yield watch
    watch.stop()


def test_the_process_counts_trips_and_space(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TRIP, encoding="utf-8")
    watch = TripWatch()
    try:
        first = watch.look(folder(tmp_path), scan=True)
        second = watch.look(folder(tmp_path), scan=False)
    finally:
        watch.stop()
    assert first.summary is not None
    assert (first.summary.trips, first.summary.rows, first.stuck) == (1, 30, "")
    assert first.disk is not None
    assert 0 < first.disk.free_bytes < first.disk.total_bytes
    assert (second.summary, second.stuck) == (None, "")


def test_one_that_hangs_is_given_up_and_said_so_until_one_answers(fake: TripWatch, mode: Path, tmp_path: Path) -> None:
    assert fake.look(folder(tmp_path), scan=True).stuck == ""
    mode.write_text("hang", encoding="utf-8")
    began = time.monotonic()
    assert str(tmp_path) in fake.look(folder(tmp_path), scan=True).stuck
    assert time.monotonic() - began < 3
    mode.write_text("end", encoding="utf-8")
    assert fake.look(folder(tmp_path), scan=True).stuck  # ended without an answer: nothing says that it is over
    mode.write_text("answer 0", encoding="utf-8")
    assert fake.look(folder(tmp_path), scan=True).stuck == ""


def test_signs_of_life_are_patience(fake: TripWatch, mode: Path, tmp_path: Path) -> None:
    assert fake.look(folder(tmp_path), scan=True).stuck == ""
    mode.write_text("answer 8", encoding="utf-8")
    look = fake.look(folder(tmp_path), scan=True)
    assert (look.stuck, look.disk and look.disk.free_bytes) == ("", 5)


def test_one_that_was_killed_is_started_anew_and_told_of(
    fake: TripWatch, mode: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mode.write_text("end", encoding="utf-8")
    look = fake.look(folder(tmp_path), scan=True)
    assert (look.stuck, look.disk) == ("", None)
    assert "the process has ended" in caplog.text
    mode.write_text("answer 0", encoding="utf-8")
    assert fake.look(folder(tmp_path), scan=True).disk is not None


def test_none_is_started_after_the_end(fake: TripWatch, tmp_path: Path) -> None:
    fake.stop()
    assert fake.look(folder(tmp_path), scan=True).disk is None


def test_a_worker_keeps_what_it_knows_until_the_folder_is_another(tmp_path: Path) -> None:
    told: list[int] = []
    worker = Worker(lambda: told.append(1))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text(TRIP, encoding="utf-8")

    def ask(name: str, **more: Any) -> dict[str, Any]:
        asked = {"path": str(tmp_path / name), "settle_seconds": 0, "quarantine": False, "minimum_rows": 1, **more}
        return dict(json.loads(json.dumps(worker.answer({"folder": asked, "scan": True})))["summary"])

    assert (ask("one")["rows"], ask("two")["rows"]) == (30, 30)
    assert ask("two", minimum_rows=31)["problem"]
    assert told


def test_a_folder_that_is_not_there_is_no_error_of_a_touch(tmp_path: Path) -> None:
    touch(tmp_path / "none")
    touch(tmp_path)
