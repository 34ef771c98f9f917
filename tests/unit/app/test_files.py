"""Whole files or none."""

import json
import math
import os
from pathlib import Path

import pytest

from fleven.app.files import write_atomically, write_text
from fleven.app.server.results import ROUND_COLUMNS, RunFiles, State, write_json
from fleven.app.settings import parse


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_text(path, "old")

    def fail() -> None:
        with write_atomically(path) as stream:
            stream.write(b"half of the new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_text(path, "old")
    with write_atomically(path, mode=0o600) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600


def test_data_reaches_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), real_sync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("rename"), real_replace(self, to)))
    write_text(tmp_path / "a", "text")
    assert events == ["fsync", "rename", "fsync"]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [None, 1.5], "c": {"d": None}}


def test_tables_have_all_columns_in_csv_and_json(tmp_path: Path) -> None:
    settings = parse({"metrics-base-path": str(tmp_path / "m"), "results-base-path": str(tmp_path / "r")})
    files = RunFiles(settings, 2**63 + 1)
    files.rounds([{"round": 1, "rmse": math.nan, "nodes": 3}])
    assert files.metrics == tmp_path / "m" / "Fleven-Deploy" / str(2**63 + 1)
    header, row = (files.metrics / "rounds.csv").read_text().splitlines()
    assert header == ",".join(ROUND_COLUMNS)
    assert row == "1,,,,,3,,,,"
    (line,) = json.loads((files.metrics / "rounds.json").read_text())
    assert list(line) == list(ROUND_COLUMNS)
    assert line["rmse"] is None


def test_status_knows_its_fields(tmp_path: Path) -> None:
    settings = parse({"metrics-base-path": str(tmp_path / "m"), "results-base-path": str(tmp_path / "r")})
    files = RunFiles(settings, 7)
    files.status(state=State.RUNNING, round=2)
    status = json.loads((files.metrics / "status.json").read_text())
    assert (status["state"], status["round"], status["rounds"], status["run_id"]) == ("running", 2, 10, "7")
    with pytest.raises(KeyError, match="no such field"):
        files.status(stage="x")
