"""`fleven-server schedule` and `runs` on a register in a temporary folder: each good and each bad input."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fleven.server.cli.main import app
from fleven.server.database import open_store
from fleven.server.errors import ServerError
from fleven.server.runs import firing, lifecycle
from fleven.server.runs import store as run_store
from fleven.server.runs.lifecycle import Accepted
from fleven.server.runs.model import Reason
from fleven.server.schedules import store as schedule_store
from fleven.server.schedules.spec import ScheduleSpec
from fleven.server.schemas.runs import RunAnswer, RunDetailAnswer

# Written out, as wherever an app is made: what each app says of itself is its own, and read where it is used.
PYPROJECT = """
[project]
name = "tiny"
version = "1.0.0"
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "tiny:server"
clientapp = "tiny:client"
[tool.flwr.app.config]
rounds = 3
learning-rate = 0.1
experiment = "x"
min-nodes = 2
"""

Command = Callable[..., Result]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put_register: Callable[[Path], Path]) -> Path:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "server.toml").write_text(f'app-path = "{tmp_path / "tiny"}"\n')
    monkeypatch.setenv("FLEVEN_SERVER_CONFIG", str(tmp_path / "server.toml"))
    monkeypatch.setenv("FLEVEN_SERVER_STATE_DIR", str(tmp_path / "state"))
    return put_register(tmp_path / "state").parent


@pytest.fixture
def run(state: Path) -> Command:
    def invoke(*arguments: str, expect: int = 0, text: str | None = None) -> Result:
        result = CliRunner().invoke(app, arguments, input=text)
        if isinstance(result.exception, ServerError):
            assert result.exception.exit_code == expect, result.exception.lines()
        else:
            assert result.exit_code == expect, (result.output, result.exception)
        return result

    return invoke


def lines(result: Result) -> list[str]:
    assert isinstance(result.exception, ServerError)
    return result.exception.lines()


def test_a_schedule_from_add_to_remove(run: Command) -> None:
    added = run(
        *("schedule", "add", "nightly", "--cron", "0 2 * * *", "--timezone", "America/Sao_Paulo", "--min-nodes", "3"),
        *("--set", "rounds=20", "--set", "learning-rate=1", "--retry", "2", "--max-duration", "4h", "--label", "bus"),
        *("--blackout", "22:00-06:00 fri,sat Europe/Lisbon", "--retry-on", "app,nodes", "--node", "car-1"),
    )
    assert "added nightly: cron 0 2 * * * (America/Sao_Paulo)" in added.output
    shown = json.loads(run("schedule", "show", "nightly", "--json").output)
    assert shown["spec"]["run-config"] == {"rounds": 20, "learning-rate": 1.0}
    assert shown["spec"]["conditions"] == {"min-nodes": 3, "labels": ["bus"], "nodes": ["car-1"]}
    assert shown["spec"]["retry"] == {"attempts": 2, "on": ["app", "nodes"]}
    assert shown["spec"]["max-duration"] == "4h"
    assert shown["spec"]["blackouts"][0]["days"] == ["fri", "sat"]
    run("schedule", "edit", "nightly", "--set", "rounds=5", "--unset", "learning-rate", "--max-duration", "0")
    edited = json.loads(run("schedule", "show", "nightly", "--json").output)["spec"]
    assert edited["run-config"] == {"rounds": 5}
    assert "max-duration" not in edited
    assert edited["trigger"] == shown["spec"]["trigger"]
    preview = json.loads(run("schedule", "preview", "nightly", "-n", "4", "--json").output)
    assert [datetime.fromisoformat(fire["at"]).hour for fire in preview] == [5, 5, 5, 5]
    run("schedule", "pause", "nightly", "--reason", "workshop")
    assert "paused: workshop" in run("schedule").output
    assert json.loads(run("schedule", "--json").output)["schedules"][0]["next_fire_at"] is None
    run("schedule", "resume", "nightly")
    why = run("schedule", "why", "nightly", expect=1)
    assert "car-1 (unknown)" in why.output
    run("schedule", "remove", "nightly")
    assert lines(run("schedule", "show", "nightly", expect=2))[0].startswith("no schedule is named 'nightly'")


def test_one_node_is_kept_where_the_app_wants_more(run: Command, state: Path) -> None:
    run("schedule", "add", "a", "--min-nodes", "1")
    run("schedule", "edit", "a", "--set", "rounds=5")
    assert json.loads(run("schedule", "show", "a", "--json").output)["spec"]["conditions"] == {"min-nodes": 1}
    exported = run("schedule", "export").output
    assert "unchanged: a" in run("schedule", "import", "-", text=exported).output
    run("schedule", "run", "a", "--no-follow")
    with closing(open_store(state / "register.db")) as store, store.read() as connection:
        assert run_store.get(connection, 1).spec.conditions.min_nodes == 1


def test_min_nodes_comes_from_the_app_when_nothing_is_said(run: Command) -> None:
    run("schedule", "add", "a")
    run("schedule", "add", "b", "--set", "min-nodes=5")
    found = {each["name"]: each["spec"] for each in json.loads(run("schedule", "export", "--json").output)}
    assert found["a"]["conditions"] == {"min-nodes": 2}
    assert found["b"]["conditions"] == {"min-nodes": 5}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "Bad Name"], ["not a valid name for a schedule"]),
        (["add", "x", "--cron", "61 * * * *"], ["--cron", "not a cron expression"]),
        (["add", "x", "--cron", "0 2 * * *", "--timezone", "Mars/Base"], ["--timezone", "not a time zone"]),
        (["add", "x", "--timezone", "UTC"], ["--timezone goes with --cron"]),
        (["add", "x", "--cron", "0 2 * * *", "--every", "1h"], ["exclude each other"]),
        (["add", "x", "--every", "soon"], ["--every", "not a duration"]),
        (["add", "x", "--every", "1s"], ["--every", "10"]),
        (["add", "x", "--at", "tomorrow"], ["--at"]),
        (["add", "x", "--at", "2026-01-01T02:00"], ["--at: 2026-01-01 02:00 UTC is past", "without a zone is UTC"]),
        (["add", "x", "--cron", "0 0 30 2 *"], ["--cron", "Bad day-of-month"]),
        (["edit", "good", "--at", "2026-01-01T02:00-03:00"], ["--at", "is past"]),
        (["add", "x", "--set", "experiment=a'b\"c"], ["experiment", "both kinds of quotes"]),
        (
            [
                "add",
                "Bad Name",
                "--at",
                "2026-01-01",
                "--after",
                "y",
                "--set",
                "rounds=x",
                "--set",
                "r",
                "--app",
                "/no",
            ],
            [
                "not a valid name for",
                "is past",
                "no schedule is named 'y'",
                "'r' is not KEY=VALUE",
                "/no: no Flower app",
            ],
        ),
        (
            ["add", "Bad Name", "--cron", "x", "--every", "1h", "--blackout", "night", "--set", "rounds=x"],
            ["not a valid name for", "exclude each other", "no window", "'x' is not a whole number"],
        ),
        (["add", "x", "--set", "rounds"], ["not KEY=VALUE"]),
        (["add", "x", "--set", "roundz=3"], ["roundz", "did you mean rounds?"]),
        (["add", "x", "--set", "rounds=many"], ["rounds", "not a whole number"]),
        (["add", "x", "--app", "/nowhere"], ["/nowhere", "no Flower app"]),
        (["add", "x", "--after", "y"], ["--after", "no schedule is named 'y'"]),
        (["add", "x", "--after", "x"], ["circle"]),
        (
            ["add", "x", "--overlap", "never", "--missed", "maybe", "--priority", "5000"],
            ["--overlap", "--missed", "--priority"],
        ),
        (["add", "x", "--blackout", "night"], ["--blackout", "no window"]),
        (["add", "x", "--blackout", "08:00-08:00"], ["--blackout", "the same"]),
        (["add", "x", "--retry-on", "weather"], ["--retry-on"]),
        (["edit", "none", "--retry", "1"], ["no schedule is named 'none'"]),
        (["run", "none"], ["no schedule is named 'none'"]),
        (["preview", "none"], ["no schedule is named 'none'"]),
        (["import", "/nowhere.toml"], ["/nowhere.toml", "No such file"]),
    ],
)
def test_each_bad_input_is_named_and_nothing_is_stored(run: Command, arguments: list[str], words: list[str]) -> None:
    run("schedule", "add", "good")
    told = lines(run("schedule", *arguments, expect=2))
    for word in words:
        assert word in "\n".join(told)
    found = json.loads(run("schedule", "--json").output)
    assert [each["name"] for each in found["schedules"]] == ["good"]
    assert found["open_runs"] == []


def test_problems_of_the_settings_and_of_the_run_config_are_told_together(run: Command) -> None:
    told = lines(run("schedule", "add", "bad", "--cron", "0 25 * * *", "--set", "roundz=3", expect=2))
    assert len(told) == 3
    assert told[1].startswith("--cron: '0 25 * * *' is not a cron expression")
    assert told[2].startswith("roundz: the app ")


def test_a_schedule_that_has_fired_can_be_changed_and_imported_as_it_is(run: Command, state: Path) -> None:
    run("schedule", "add", "once", "--at", "2099-01-01T00:00")
    old = ScheduleSpec.model_validate({"trigger": {"kind": "at", "at": "2026-01-01T00:00Z"}})
    with closing(open_store(state / "register.db")) as store, store.write() as connection:
        schedule_store.update(connection, "once", datetime(2026, 1, 1, tzinfo=UTC), spec=old)
    run("schedule", "edit", "once", "--set", "rounds=5")
    text = run("schedule", "export").output
    assert "unchanged: once" in run("schedule", "import", "-", text=text).output
    run("schedule", "remove", "once")
    told = lines(run("schedule", "import", "-", text=text, expect=2))
    assert "schedules.once: trigger.at.at: 2026-01-01 00:00 UTC is past" in told[1]


def test_export_and_import_lose_nothing(run: Command, tmp_path: Path) -> None:
    run("schedule", "add", "nightly", "--cron", "0 2 * * *", "--set", "rounds=7", "--blackout", "22:00-06:00")
    run("schedule", "add", "later", "--after", "nightly", "--experiment", "y")
    run("schedule", "add", "once", "--at", "2030-01-01T00:00+01:00")
    text = run("schedule", "export").output
    before = json.loads(run("schedule", "export", "--json").output)
    run("schedule", "remove", "once", "nightly", "later")
    file = tmp_path / "schedules.toml"
    file.write_text(text)
    assert "would be added" in run("schedule", "import", str(file), "--dry-run").output
    assert json.loads(run("schedule", "--json").output)["schedules"] == []
    run("schedule", "import", str(file))
    after = json.loads(run("schedule", "export", "--json").output)
    assert {each["name"]: each["spec"] for each in after} == {each["name"]: each["spec"] for each in before}
    assert "unchanged" in run("schedule", "import", "-", text=text).output
    changed = text.replace("rounds = 7", "rounds = 8")
    assert lines(run("schedule", "import", "-", text=changed, expect=2))[0].startswith("exists already: nightly")
    assert "changed: nightly" in run("schedule", "import", "-", "--replace", text=changed).output


def test_import_takes_all_or_nothing_and_names_every_problem(run: Command) -> None:
    text = "[schedules.a]\ncolour = 1\n[schedules.b]\nrun-config = {roundz = 1}\n[schedules.c]\n[other]\n"
    told = lines(run("schedule", "import", "-", text=text, expect=2))
    assert {line.split(": ")[1] for line in told[1:]} == {"other", "schedules.a", "schedules.b"}
    assert json.loads(run("schedule", "--json").output)["schedules"] == []


def test_a_schedule_that_another_follows_is_not_removed(run: Command) -> None:
    run("schedule", "add", "first")
    run("schedule", "add", "second", "--after", "first")
    assert "second runs after it" in lines(run("schedule", "remove", "first", expect=2))[0]
    run("schedule", "edit", "second", "--after", "")
    run("schedule", "remove", "first")


def test_run_now_is_stored_with_its_overrides(run: Command) -> None:
    run("schedule", "add", "nightly", "--set", "rounds=7", "--priority", "3")
    made = json.loads(run("schedule", "run", "nightly", "--set", "learning-rate=0.5", "--no-follow", "--json").output)
    assert made["state"] == "pending"
    assert made["spec"]["run-config"] == {"rounds": 7, "learning-rate": 0.5}
    assert made["spec"]["priority"] == 3
    other = json.loads(run("schedule", "run", "--no-follow", "--json").output)
    assert (other["schedule"], other["id"]) == ("default", made["id"] + 1)


def test_runs_are_listed_shown_and_stopped(run: Command, state: Path) -> None:
    run("schedule", "run", "--no-follow")
    listed = json.loads(run("runs", "list", "--state", "pending", "--json").output)
    assert [each["id"] for each in listed] == [1]
    # What the fleet API answers, and nothing else.
    assert set(listed[0]) == set(RunAnswer.model_fields)
    shown = json.loads(run("runs", "show", "1", "--json").output)
    assert RunDetailAnswer.model_validate(shown).steps[0].state == "pending"
    assert "pending" in run("runs", "show", "1").output
    assert "it was not submitted" in run("runs", "logs", "1").output
    assert "stopping run 1" in run("runs", "stop", "1", "--reason", "no").output
    store = open_store(state / "register.db")
    with store.read() as connection:
        stored = run_store.get(connection, 1)
    store.close()
    assert (stored.stop_reason, stored.stop_message) == (Reason.OPERATOR, "stopped by the operator: no")


@pytest.mark.parametrize(
    ("arguments", "expect", "word"),
    [
        (["show", "9"], 2, "no run has number 9 (the newest is 1)"),
        (["list", "--state", "odd"], 2, "is not a state"),
        (["results", "1"], 1, "it never started"),
        (["compare", "1", "1"], 1, "it never started"),
        (["retry", "1"], 1, "run 1 is pending"),
        (["stop", "9"], 2, "no run has number 9"),
    ],
)
def test_bad_inputs_of_runs(run: Command, arguments: list[str], expect: int, word: str) -> None:
    run("schedule", "run", "--no-follow")
    assert word in lines(run("runs", *arguments, expect=expect))[0]


def test_without_a_register_it_says_what_to_do(run: Command, state: Path) -> None:
    (state / "register.db").unlink()
    assert "no register here yet" in lines(run("runs", expect=1))[0]
    assert "no register here yet" in lines(run("schedule", expect=1))[0]


def test_a_register_without_permission_says_how(run: Command, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("schedule", "add", "x")
    monkeypatch.setattr("fleven.server.database.engine.os.access", lambda *_: False)
    monkeypatch.setattr("fleven.server.database.engine.os.geteuid", lambda: 1000)
    (told,) = lines(run("schedule", expect=1))
    assert "no permission" in told
    assert "sudo" in told


def test_results_and_comparison_of_two_runs(run: Command, state: Path) -> None:
    run("schedule", "run", "--no-follow", "--set", "rounds=1")
    run("schedule", "run", "--no-follow", "--set", "rounds=2")
    store = open_store(state / "register.db")
    now = datetime(2026, 5, 4, 12, tzinfo=UTC)
    for number, rmse in ((1, 4.0), (2, 3.5)):
        folder = state / "metrics" / "x" / str(number)
        folder.mkdir(parents=True)
        measures = {"rmse": rmse, "mae": 2.0, "r2": 0.5, "rows": 100}
        result: dict[str, Any] = {
            "target": "vehicle_speed",
            "unit": "km/h",
            "rounds": number,
            "seconds": 9.5,
            "config": {"rounds": number, "seed": 1},
            "global": measures,
            "cars": [{"partition_id": 0, "node_name": "car-0", **measures}],
            "excluded": [{"partition_id": 1, "error_code": "data-missing", "reason": "no trips"}],
            "warnings": [{"node_name": "car-0", "code": "update-cut", "reason": "it was long", "rounds": [2]}],
        }
        (folder / "result.json").write_text(json.dumps(result))
        with store.write() as connection:
            stored = run_store.get(connection, number)
            begun = run_store.apply(connection, stored, lifecycle.begin(stored, f"t{number}", None, "", now), now)
            accepted = lifecycle.after(begun, Accepted(str(number), str(folder)), now)
            assert accepted is not None
            run_store.apply(connection, begun, accepted, now + timedelta(seconds=1))
    store.close()
    shown = run("runs", "results", "1").output
    assert "RMSE km/h" in shown
    assert "data-missing" in shown
    assert "treated with caution: car-0: update-cut: it was long" in shown
    # A path is not broken: it is there to be copied.
    assert all(len(line) <= 80 for line in shown.splitlines() if str(state) not in line)
    compared = json.loads(run("runs", "compare", "1", "2", "--json").output)
    assert compared["config"] == {"rounds": [1, 2]}
    assert compared["global"]["rmse"] == [4.0, 3.5]
    assert "-0.50" in run("runs", "compare", "1", "2").output


def test_every_command_fits_eighty_columns(run: Command, state: Path) -> None:
    run(
        "schedule",
        "add",
        "a-schedule-with-quite-a-long-name",
        "--cron",
        "*/15 0-6 * * mon-fri",
        "--node",
        "car-with-a-name",
    )
    store = open_store(state / "register.db")
    with store.write() as connection:
        firing.run_now(connection, "a-schedule-with-quite-a-long-name", ScheduleSpec(), datetime.now(UTC))
    store.close()
    for arguments in (
        ["schedule"],
        ["schedule", "preview", "a-schedule-with-quite-a-long-name"],
        ["schedule", "export"],
        ["runs"],
        ["runs", "show", "1"],
    ):
        for line in run(*arguments).output.splitlines():
            assert len(line) <= 80, line
    for line in run("schedule", "why", "a-schedule-with-quite-a-long-name", expect=1).output.splitlines():
        assert len(line) <= 80, line


def test_toml_of_one_schedule_reads_back(run: Command) -> None:
    run("schedule", "add", "x", "--every", "90m", "--missed", "all")
    assert tomllib.loads(run("schedule", "show", "x").output)["schedules"]["x"]["trigger"] == {
        "kind": "every",
        "every": "1h30m",
    }
