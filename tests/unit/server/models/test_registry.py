"""Versions of models: taken in once, named, exchanged, checked, deleted; nothing is lost or given twice."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from fleven.server.access import audit
from fleven.server.config.paths import Paths
from fleven.server.database import Store
from fleven.server.database.tables import attempts, runs
from fleven.server.errors import NotFoundError, ServerError, UsageError
from fleven.server.models import registry
from fleven.server.models.model import Alias, ModelVersion, Reference, card, differences
from fleven.server.runs.model import Attempt, Reason, Run, RunState, Trigger
from fleven.server.schedules.spec import ScheduleSpec
from fleven.server.schemas.models import model_answer

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


def bundle(path: Path, weights: bytes = b"weights", **plain: Any) -> Path:
    """Write what looks like a bundle from outside: a header with JSON in it, and bytes."""
    content = {"kind": "fleven-model", "provenance": {"experiment": "night", "rounds": 3, "cars": [0, 1]}} | plain
    header = json.dumps({"__metadata__": {"fleven": json.dumps(content)}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + weights)
    return path


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return replace(Paths.from_environment(), state=tmp_path / "state")


def finished(paths: Paths, number: int, r2: float = 0.7, **changes: Any) -> Run:
    """Return a succeeded run with the files of one."""
    metrics, results = (paths.state / kind / "night" / str(number) for kind in ("metrics", "results"))
    bundle(results / "model.safetensors", f"weights {number}".encode())
    metrics.mkdir(parents=True)
    result = {
        "experiment": "night", "run_id": "77", "state": "succeeded", "target": "vehicle_speed", "unit": "km/h",
        "features": ["engine_rpm"], "rounds": 3, "global": {"rmse": 6.5, "mae": 4.0, "r2": r2},
        "personal": {"kind": "fine-tune", "rmse": 6.0, "mae": 3.5, "r2": r2 + 0.04, "cars": 2, "kept": 1},
        "cars": [{"partition_id": 0, "rows": 100, "windows_train": 50, "windows_test": 20}, {"partition_id": 1}],
        "config": {"rounds": 3, "seed": number, "cars": f"1546728{number}=0"},
    }  # fmt: skip
    (metrics / "result.json").write_text(json.dumps(result | changes))
    attempt = Attempt(1, "t", NOW, "77", resume_from="/c", metrics_folder=str(metrics), results_folder=str(results))
    return Run(
        number, "nightly", Trigger.SCHEDULED, NOW, NOW, RunState.SUCCEEDED, Reason.COMPLETED, "", NOW,
        ScheduleSpec(), attempt,
    )  # fmt: skip


def better(champion: ModelVersion, candidate: float) -> dict[str, Any]:
    """Return what a run's result says when its only car found this error, and 10 of the champion."""
    car = {"partition_id": 0, "windows_test": 20, "rmse": candidate, "champion_rmse": 10.0}
    return {"champion": {"sha256": champion.sha256, "code": "", "rmse": 10.0}, "cars": [car]}


def test_a_run_that_says_so_is_promoted_if_better_in_the_moment_in_which_it_is_taken_in(
    store: Store, paths: Paths
) -> None:
    rule = ScheduleSpec(promote="if-better", minimum_gain=0.05)
    first = registry.take_in(store, paths, replace(finished(paths, 1), spec=rule), NOW)
    assert first is not None
    assert (first.aliases, first.facts["promotion"]["code"]) == ((Alias.CHAMPION,), "first")
    worse = registry.take_in(store, paths, replace(finished(paths, 2, **better(first, 9.9)), spec=rule), NOW)
    assert worse is not None
    assert (worse.standing, worse.facts["promotion"]["code"]) == ("candidate", "gain-too-small")
    assert "RMSE 9.9 against 10 of night@1" in " ".join(card(worse).split())
    assert find(store, "night").name == "night@1"
    good = registry.take_in(store, paths, replace(finished(paths, 3, **better(first, 8.0)), spec=rule), NOW)
    assert good is not None
    assert good.aliases == (Alias.CHAMPION,)
    assert find(store, "night@previous").name == "night@1"
    assert registry.champion_path(store, paths, "night") == str(paths.state / "models" / good.file)
    with store.read() as connection:
        assert registry.of_run(connection, 3) == good
        assert [(entry.actor, entry.source, entry.subject) for entry in audit.entries(connection, 9)] == [
            ("schedule nightly", "service", "night@3"),
            ("schedule nightly", "service", "night@1"),
        ]
    # Compared with a champion that is none any more.
    late = registry.take_in(store, paths, replace(finished(paths, 4, **better(first, 1.0)), spec=rule), NOW)
    assert late is not None
    assert (late.standing, late.facts["promotion"]["code"]) == ("candidate", "champion-changed")


def test_without_the_rule_a_model_stays_a_candidate(store: Store, paths: Paths) -> None:
    made = registry.take_in(store, paths, finished(paths, 1), NOW)
    assert made is not None
    assert (made.standing, made.why, registry.champion_path(store, paths, "night")) == ("candidate", "", "")


def find(store: Store, text: str) -> ModelVersion:
    with store.read() as connection:
        return registry.find(connection, Reference.parse(text))


def promote(store: Store, text: str) -> None:
    with store.write() as connection:
        registry.promote(connection, registry.find(connection, Reference.parse(text)), "better", NOW)


def test_a_runs_model_is_taken_in_once_with_all_that_is_known_of_it(store: Store, paths: Paths) -> None:
    run = finished(paths, 1)
    made = registry.take_in(store, paths, run, NOW)
    assert made is not None
    assert (made.name, made.run_id, made.aliases) == ("night@1", 1, ())
    assert made.facts["data"] == {
        "cars": 2, "rows": 100, "windows_train": 50, "windows_test": 20, "partitions": [0, 1], "left_out": 0,
        "taken_with_care": 0,
    }  # fmt: skip
    assert made.facts["lineage"] == {"schedule": "nightly", "flower_run_id": "77", "resumed_from": "/c"}
    assert registry.take_in(store, paths, run, NOW) is None
    with store.read() as connection:
        assert registry.versions(connection) == [made]
    Path(str(run.attempt and run.attempt.results_folder), "model.safetensors").unlink()
    assert registry.checked_file(paths, made).read_bytes().endswith(b"weights 1")
    assert [path.suffix for path in (paths.state / "models" / "night").iterdir()] == [".safetensors"]


def test_the_models_of_all_succeeded_runs_are_found_and_each_is_taken_in_once(store: Store, paths: Paths) -> None:
    for number, state in ((1, RunState.SUCCEEDED), (2, RunState.FAILED), (3, RunState.SUCCEEDED)):
        attempt = finished(paths, number).attempt
        assert attempt is not None
        with store.write() as connection:
            connection.execute(
                insert(runs).values(
                    id=number,
                    schedule_name="nightly",
                    occurrence_key=f"k{number}",
                    trigger="manual",
                    due_at=NOW,
                    created_at=NOW,
                    state=state.value,
                    reason="completed",
                    since=NOW,
                    spec="{}",
                    attempts=1,
                    ended_at=NOW + timedelta(hours=number),
                )
            )
            connection.execute(
                insert(attempts).values(
                    run_id=number,
                    number=1,
                    token=f"t{number}",
                    intended_at=NOW,
                    metrics_folder=attempt.metrics_folder,
                    results_folder=attempt.results_folder,
                )
            )
    newer = registry.take_in_all(store, paths, NOW, since=NOW + timedelta(hours=2))
    assert [(model.name, model.run_id) for model in newer] == [("night@1", 3)]
    assert [(model.name, model.run_id) for model in registry.take_in_all(store, paths, NOW)] == [("night@2", 1)]
    assert registry.take_in_all(store, paths, NOW) == []


@pytest.mark.parametrize("experiment", ["../elsewhere", "a/b", "", ".hidden"])
def test_an_experiment_that_is_no_name_makes_no_folder(store: Store, paths: Paths, experiment: str) -> None:
    assert registry.take_in(store, paths, finished(paths, 1, experiment=experiment), NOW) is None
    assert not (paths.state / "models").exists()


def test_the_champion_goes_and_comes_back(store: Store, paths: Paths) -> None:
    for number in (1, 2, 3):
        registry.take_in(store, paths, finished(paths, number), NOW + timedelta(days=number))
    with pytest.raises(NotFoundError, match="night has no champion"):
        find(store, "night")
    promote(store, "night@1")
    with store.write() as connection, pytest.raises(NotFoundError, match="night has no previous"):
        registry.roll_back(connection, "night", "", NOW)
    promote(store, "night@3")
    assert [find(store, text).version for text in ("night", "night@champion", "night@previous")] == [3, 3, 1]
    with pytest.raises(UsageError, match="night@3 is the champion already"):
        promote(store, "night@3")
    with store.write() as connection:
        assert registry.roll_back(connection, "night", "worse in car 3", NOW).version == 1
    assert (find(store, "night").version, find(store, "night@previous").version) == (1, 3)


def test_a_version_says_since_when_and_why_it_has_its_names(store: Store, paths: Paths) -> None:
    rule = ScheduleSpec(promote="if-better")
    registry.take_in(store, paths, replace(finished(paths, 1), spec=rule), NOW)
    registry.take_in(store, paths, finished(paths, 2), NOW)
    # The reason of its run's end is told with the decision, and not twice.
    assert find(store, "night@1").names_told == ["champion since 2026-05-04 12:00Z"]
    promote(store, "night@2")
    first, second = find(store, "night@1"), find(store, "night@2")
    assert second.names_told == ["champion since 2026-05-04 12:00Z, by hand: better"]
    assert first.names_told == ["previous since 2026-05-04 12:00Z, when another took its place: better"]
    assert f"- {second.names_told[0]}\n" in card(second)
    assert [name.reason for name in model_answer(second).names] == ["better"]
    with store.write() as connection:
        registry.roll_back(connection, "night", "", NOW + timedelta(hours=1))
    assert find(store, "night@1").names_told == ["champion since 2026-05-04 13:00Z, by hand: no reason was given"]
    assert find(store, "night@2").names_told == ["previous since 2026-05-04 13:00Z, when another took its place"]
    with store.read() as connection:
        assert registry.of_run(connection, 1) == find(store, "night@1")
        assert registry.named(connection) == [find(store, "night@1"), find(store, "night@2")]


def test_what_has_a_name_stays_and_a_number_is_never_given_twice(store: Store, paths: Paths) -> None:
    second = finished(paths, 2)
    for run in (finished(paths, 1), second):
        registry.take_in(store, paths, run, NOW)
    promote(store, "night@1")
    with pytest.raises(UsageError, match="night@1 is champion"):
        registry.remove(store, paths, Reference.parse("night@1"))
    gone = registry.remove(store, paths, Reference.parse("night@2"))
    assert not (registry.folder(paths) / gone.file).exists()
    # The run's own folder still has it.
    assert registry.take_in(store, paths, second, NOW) is None
    with pytest.raises(NotFoundError, match="night has no version 2"):
        find(store, "night@2")
    with store.read() as connection:
        assert [model.version for model in registry.versions(connection)] == [1]
        assert registry.of_run(connection, 2) is None
    later = registry.take_in(store, paths, finished(paths, 3), NOW)
    assert later is not None
    assert later.version == 3


def test_a_file_that_was_changed_is_not_given_out(store: Store, paths: Paths) -> None:
    made = registry.take_in(store, paths, finished(paths, 1), NOW)
    assert made is not None
    file = registry.folder(paths) / made.file
    file.write_bytes(file.read_bytes()[:-1] + b"X")
    with pytest.raises(ServerError, match="its SHA-256 is"):
        registry.checked_file(paths, made)
    file.unlink()
    with pytest.raises(ServerError, match="No such file"):
        registry.checked_file(paths, made)


def test_a_bundle_from_elsewhere_is_a_version_too(store: Store, paths: Paths, tmp_path: Path) -> None:
    file = bundle(tmp_path / "foreign" / "model.safetensors", target="vehicle_speed")
    (first, second) = (registry.take_file(store, paths, file, name, NOW) for name in ("", "day"))
    assert (first.name, second.name, first.run_id) == ("night@1", "day@1", None)
    assert first.facts["lineage"]["imported_from"] == str(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04pickle", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 2) + b"[]", b"PK\x03\x04" + bytes(40)],
)
def test_what_is_no_bundle_is_refused(store: Store, paths: Paths, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="is not a model of this app"):
        registry.take_file(store, paths, file, "night", NOW)
    bundle(file, kind="fleven-checkpoint")
    with pytest.raises(UsageError, match="is not a model of this app"):
        registry.take_file(store, paths, file, "night", NOW)


@pytest.mark.parametrize("text", ["", "a@b@c", "../x@1", "night@-1", "night@newest", "@3"])
def test_what_names_no_model_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="names no model"):
        Reference.parse(text)


def test_a_reference_without_more_is_the_champion() -> None:
    assert Reference.parse("night") == Reference("night", alias=Alias.CHAMPION)
    assert Reference.parse("night@12") == Reference("night", 12)
    assert Reference.parse("night@previous") == Reference("night", alias=Alias.PREVIOUS)


def test_card_and_comparison_say_what_counts(store: Store, paths: Paths) -> None:
    pair = [registry.take_in(store, paths, finished(paths, number, 0.6 + number / 100), NOW) for number in (1, 2)]
    first, second = pair
    assert first is not None
    assert second is not None
    found = differences(first, second)
    assert found["models"] == ["night@1", "night@2"]
    assert found["global"]["r2"] == [0.61, 0.62]
    assert found["config"] == {"seed": [1, 2]}
    text = card(first)
    assert "1546728" not in text  # whom the run asked, by Flower's ids
    assert "# night, version 1" in text
    assert "| global model | 6.500 | 4.000 | 0.610 |" in text
    assert "| cars' own models | 6.000 | 3.500 | 0.650 |" in text
    assert f"`{first.sha256}`" in text
    assert "- continued from: /c" in text
    assert "2 cars, 100 rows, 50 windows to train on, 20 held out." in text


def test_a_card_is_folded_and_names_no_folders_of_this_server(store: Store, paths: Paths) -> None:
    rule = ScheduleSpec(promote="if-better")
    config = {"champion": "/var/lib/fleven-server/models/night/v000001-abc.safetensors", "resume-from": ""}
    first = registry.take_in(store, paths, replace(finished(paths, 1), spec=rule), NOW)
    assert first is not None
    run = finished(paths, 2, **better(first, 9.95), config=config)
    made = registry.take_in(store, paths, replace(run, spec=ScheduleSpec(promote="if-better", minimum_gain=0.02)), NOW)
    assert made is not None
    text = card(made)
    assert max(len(line) for line in text.splitlines() if "SHA-256" not in line) < 80
    assert "| `champion` | `v000001-abc.safetensors` |\n| `resume-from` |  |" in text
