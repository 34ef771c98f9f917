"""What the page and the terminal make of values: run tables, filters, rows by the hour, values out of reports."""

import json
import math
import tempfile
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleven.server import formatting
from fleven.server.access.model import OPEN_PAGE, Role
from fleven.server.cli.node_tables import by_hour
from fleven.server.nodes import normalise
from fleven.server.runs import results as run_results
from fleven.server.runs.results import RunFolders
from fleven.server.schemas.runs import RunDetailAnswer, RunFile, StepAnswer
from fleven.server.schemas.status import StatusAnswer, problems_of
from fleven.server.web import filters, pages, run_view
from fleven_agent.protocol.report import Report


@pytest.fixture
def run_of(now: datetime) -> Callable[..., RunDetailAnswer]:
    """Return a function that makes a run; keyword arguments fill its tables."""

    def make(**parts: Any) -> RunDetailAnswer:
        values: dict[str, Any] = {
            "id": 1,
            "schedule": "nightly",
            "experiment": "E",
            "state": "running",
            "reason": "started",
            "message": "",
            "trigger": "manual",
            "due_at": now,
            "created_at": now,
            "since": now,
            "ended_at": None,
            "fires": 1,
            "attempts": 1,
            "retry_at": None,
            "stop_reason": None,
            "flower_run_id": "7",
            "resume_from": None,
            "seconds": None,
            "progress": None,
            "spec": {},
            "steps": [],
            "attempts_made": [],
            "rounds": [],
            "clients": [],
            "result": None,
            "tasks": [],
            "files": [],
        }
        return RunDetailAnswer(**{**values, **parts})

    return make


def client(round_: int, partition: int | None, **values: Any) -> dict[str, Any]:
    return {"round": round_, "partition_id": partition, "node_id": "9", "phase": "train", "ok": True, **values}


def test_who_trained_when_is_told_for_each_car(run_of: Callable[..., RunDetailAnswer]) -> None:
    clients = [
        client(1, 0),
        client(2, 0),
        client(1, 1, ok=False, error_code="no-data", error_reason="no trips"),
        client(2, 1, phase="evaluate", rmse=3.0),
        client(0, 1, phase="query"),
    ]
    shown = run_view.view(
        run_of(rounds=[{"round": 1, "rmse": 5.0}, {"round": 2, "rmse": 4.0}], clients=clients), Role.VIEWER
    )
    assert [(car.partition_id, car.cells, car.rounds_contributed) for car in shown.cars] == [
        (0, ("yes", "yes"), 2),
        (1, ("no", "none"), 0),
    ]
    assert shown.excluded[0]["error_code"] == "no-data"
    assert shown.error_chart
    assert not shown.loss_chart


def test_the_final_result_wins_over_the_newest_round(run_of: Callable[..., RunDetailAnswer]) -> None:
    result = {
        "unit": "km/h",
        "cars": [{"partition_id": 0, "rmse": 1.5, "rounds_contributed": 7, "node_name": "pi-1"}],
        "excluded": [],
        "warnings": [{"partition_id": 0, "code": "update-cut", "reason": "it was long", "rounds": [2]}, "?"],
    }
    files = [RunFile(name="rmse.png", bytes=9, href="/x/rmse.png"), RunFile(name="a.csv", bytes=1, href="/x/a.csv")]
    shown = run_view.view(run_of(clients=[client(1, 0, rmse=9.0)], result=result, files=files), Role.VIEWER)
    (car,) = shown.cars
    assert (car.rmse, car.rounds_contributed, car.label) == (1.5, 7, "car 0 (pi-1)")
    assert shown.plots == ("/x/rmse.png",)
    assert shown.unit == "km/h"
    assert [entry["code"] for entry in shown.warnings] == ["update-cut"]


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
fields = st.sampled_from(["round", "partition_id", "node_id", "phase", "ok", "rmse", "rows", "error_code", "seconds"])
odd_rows = st.lists(st.dictionaries(fields, anything, max_size=6), max_size=5)


@settings(max_examples=60)
@given(odd_rows, odd_rows)
def test_no_file_of_another_app_breaks_the_page(rounds: list[dict[str, Any]], clients: list[dict[str, Any]]) -> None:
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    empty = dict.fromkeys(("schedule", "experiment", "state", "reason", "message", "trigger"), "")
    times = dict.fromkeys(("due_at", "created_at", "since"), moment)
    names = ("ended_at", "stop_reason", "flower_run_id", "resume_from", "seconds", "retry_at", "progress", "result")
    nothing = dict.fromkeys(names)
    lists: dict[str, list[Any]] = {name: [] for name in ("steps", "attempts_made", "tasks", "files")}
    run = RunDetailAnswer(
        id=1,
        fires=1,
        attempts=0,
        spec={},
        rounds=rounds,
        clients=clients,
        **empty,
        **times,
        **nothing,
        **lists,  # type: ignore[arg-type]
    )
    run_view.view(run, Role.VIEWER)


@given(st.binary(max_size=60))
def test_no_bytes_in_a_runs_file_raise(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rounds.json").write_bytes(content)
        (folder / "result.json").write_bytes(content)
        folders = RunFolders(folder, None)
        assert isinstance(run_results.rows(folders, "rounds.json"), list)
        run_results.result(folders)


def test_infinite_numbers_in_a_runs_file_become_nothing(tmp_path: Path) -> None:
    (tmp_path / "rounds.json").write_text('[{"round": 1, "rmse": NaN, "mae": 1e999, "r2": -Infinity}]')
    (row,) = run_results.rows(RunFolders(tmp_path, None), "rounds.json")
    assert row == {"round": 1, "rmse": None, "mae": None, "r2": None}
    json.dumps(row, allow_nan=False)


def test_only_plain_files_of_known_kinds_can_be_fetched(tmp_path: Path) -> None:
    metrics, results = tmp_path / "m", tmp_path / "r"
    (results / "plots").mkdir(parents=True)
    metrics.mkdir()
    for file in (metrics / "rounds.csv", results / "model.pt", results / "plots" / "rmse.png"):
        file.write_text("x")
    (metrics / "secret.key").write_text("x")
    (metrics / ".hidden.json").write_text("x")
    (metrics / "link.json").symlink_to("/etc/passwd")
    (metrics / "folder.csv").mkdir()
    found = run_results.downloads(RunFolders(metrics, results))
    assert sorted(found) == ["model.pt", "rmse.png", "rounds.csv"]
    assert run_results.downloads(RunFolders(tmp_path / "gone", None)) == {}
    folders = RunFolders(metrics, results)
    for name in (
        "secret.key",
        ".hidden.json",
        "link.json",
        "folder.csv",
        "gone.csv",
        "..",
        "plots/rmse.png",
        "a\0.png",
    ):
        assert run_results.download(folders, name) is None
    assert {name: run_results.download(folders, name) for name in found} == found


def rendered(run: RunDetailAnswer, now: datetime) -> str:
    template = pages.environment().get_template("run.html")
    return template.render(run=run, view=run_view.view(run, Role.VIEWER), now=now, identity=OPEN_PAGE, form_token="")


def test_the_page_of_a_run_with_ten_thousand_files_stays_small(
    run_of: Callable[..., RunDetailAnswer], now: datetime
) -> None:
    files = [RunFile(name=f"{n}.png", bytes=1, href=f"/v1/runs/1/files/{n}.png") for n in range(10_000)]
    page = rendered(run_of(files=files), now)
    assert len(page) < 50_000
    assert page.count("<img") == pages.PLOTS_SHOWN
    assert "and 9900 more" in page


def test_the_page_of_an_ended_run_shows_times_and_the_time_of_the_run_without_its_queue(
    run_of: Callable[..., RunDetailAnswer], now: datetime
) -> None:
    """Nothing fetches that page again: `12 s ago` would stand there for ever."""
    step = StepAnswer(at=now, attempt=1, state="succeeded", reason="completed", message="2 of 2 rounds")
    begun = now - timedelta(seconds=77)
    run = run_of(created_at=begun, due_at=begun, ended_at=now, state="succeeded", seconds=24.0, steps=[step])
    page = rendered(run, now + timedelta(seconds=12))
    assert " ago" not in page
    assert "<dt>Took</dt><dd>24 s</dd>" in page
    assert "77 s" not in page
    assert " ago" in rendered(run_of(steps=[step]), now + timedelta(seconds=12))


def test_the_model_before_the_first_round_is_no_round_of_no_cars(
    run_of: Callable[..., RunDetailAnswer], now: datetime
) -> None:
    before = {"round": 0, "train_loss": None, "rmse": 29.3, "mae": 24.4, "r2": -0.48, "nodes": 0, "windows": 0}
    page = rendered(run_of(rounds=[before]), now)
    assert "the figures are the untrained model" in page
    assert "0 cars" not in page
    assert "3 cars in the newest" in rendered(run_of(rounds=[before, before | {"round": 1, "nodes": 3}]), now)


def test_a_car_that_left_no_name_is_called_by_its_partition(
    run_of: Callable[..., RunDetailAnswer], now: datetime
) -> None:
    excluded = [
        {"partition_id": 1, "node_name": "n3", "error_code": "data-missing", "reason": "no trips", "rounds": [1]},
        {"partition_id": 2, "node_name": None, "error_code": "x", "reason": "y", "rounds": []},
    ]
    page = rendered(run_of(result={"excluded": excluded}), now)
    assert 'data-label="Car">n3<' in page
    assert 'data-label="Car">partition 2<' in page


def test_a_run_has_the_number_that_people_know_and_flowers_where_it_has_none() -> None:
    run_by = pages.environment().get_template("parts.html").module.run_by
    assert run_by(3087973553357014292, {"3087973553357014292": 3}).strip() == '<a href="/runs/3">run 3</a>'
    assert "Flower run" in run_by("3087973553357014292", {})
    assert "3087973553357014292" in run_by("3087973553357014292", {})


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456, "123 kB"), (5e12, "5.0 TB"), (True, "-")],
)
def test_sizes_are_short(value: Any, shown: str) -> None:
    assert shown in filters.size(value)


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (12_345, "12,345"), (0.123456, "0.1235"), (math.nan, "-")])
def test_numbers_are_short(value: Any, shown: str) -> None:
    assert shown in filters.number(value)


def test_times_are_relative_and_exact_for_the_pointer(now: datetime) -> None:
    tag = filters.time_tag(now - timedelta(seconds=30), now)
    assert "30 s ago" in tag
    assert now.strftime("%Y") in tag
    assert "never" in filters.time_tag(None, now)


def test_samples_are_weighted_by_how_many_they_stand_for(now: datetime) -> None:
    empty = {
        "memory_percent": None,
        "temperature_celsius": None,
        "disk_free_percent": None,
        "received_bytes": 5,
        "sent_bytes": None,
        "busy": 1.0,
    }
    summed = {"at": now, "samples": 3, "load_1m": 1.0, "load_1m_maximum": 9.0, "cpu_percent": None, **empty}
    raw = {"at": now + timedelta(minutes=5), "samples": 1, "load_1m": 5.0, "cpu_percent": 4.0, **empty, "busy": 0.0}
    ((hour, row),) = by_hour([summed, raw])
    assert hour == now
    assert (row["load_1m"], row["load_1m_maximum"], row["cpu_percent"]) == (2.0, 9.0, 4.0)
    assert (row["received_bytes"], row["sent_bytes"], row["busy"]) == (10, None, 0.75)


@given(st.text(max_size=300))
def test_cleaned_texts_can_be_printed_and_put_into_addresses(text: str) -> None:
    cleaned = formatting.clean_text(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Cf") and c not in "\n\t" for c in cleaned)
    name = formatting.clean_name(text)
    assert name
    assert len(name) <= formatting.NAME_LENGTH
    assert not set(name) & set("/\\?#%& \n\t\x1b")


@given(st.one_of(st.none(), st.integers(0, 2**70)), st.one_of(st.none(), st.integers(0, 2**70)), st.booleans())
def test_bytes_between_two_reports_are_never_negative(before: int | None, after: int | None, same: bool) -> None:
    grown = normalise.bytes_between(before, after, same_boot=same)
    assert grown is None or grown >= 0


def test_every_report_gives_all_columns(report: Callable[..., Report], now: datetime) -> None:
    from fleven.server.database.tables import nodes

    set_by_register = {
        "id", "name", "own_name", "sender_id", "partition_since", "drain_wanted", "drain_wanted_reason", "labels",
        "first_seen_at", "report",
    }  # fmt: skip
    assert set(normalise.node_values(report(), now)) == {column.name for column in nodes.c} - set_by_register


def test_problems_name_the_service_before_what_follows_from_it(now: datetime) -> None:
    status = StatusAnswer.model_validate(
        {
            "server_time": now,
            "version": "",
            "flwr_version": None,
            "service": {"running": False, "version": "", "pid": None, "heartbeat_at": None},
            "superlink": {
                "reachable": False,
                "since": None,
                "fleet_address": "",
                "control_address": "",
                "nodes_online": 0,
                "flower_list_read_at": None,
            },
            "fleet": {"nodes": 1, "ready": 0, "by_health": {"zombie": 1}, "conditions": {}},
            "queue": {"by_state": {}, "open": [], "last_ended": None},
            "next_fire": None,
            "schedules": 0,
            "schedules_paused": 0,
            "disk": {"path": "/x", "total_bytes": 1, "free_bytes": 0, "register_bytes": 0, "low": True},
            "last_backup_at": None,
            "trust": {"insecure": True, "ends": []},
            "problems": [],
        }
    )
    found = problems_of(status)
    assert [word in problem for word, problem in zip(("fleven-server.service", "space", "1 node"), found, strict=True)]
    assert not any("SuperLink" in problem for problem in found)
