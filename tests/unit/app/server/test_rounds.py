"""Whole runs through the real ServerApp and ClientApp code over a simulated grid, with cars that fail in each way."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.app.error import Error
from safetensors.numpy import load_file

from fleven.app.errors import AppError
from fleven.app.messages import Answer
from fleven.app.model import build, weights_of
from fleven.app.server import strategy
from fleven.app.server.bundle import Predictor
from fleven.app.server.history import History
from fleven.app.server.strategy import ServerState
from fleven.app.settings import Settings, parse
from fleven.app.simulation import Fault, SimulatedGrid

pytestmark = pytest.mark.training

Simulate = Callable[..., Any]
MakeCar = Callable[..., Path]
GridOf = Callable[..., SimulatedGrid]


@pytest.fixture
def cars(make_car: MakeCar) -> list[Path]:
    return [make_car(partition) for partition in range(3)]


def of_car(outcome: Any, partition: int, phase: str) -> list[dict[str, Any]]:
    return [row for row in outcome.read("clients.json") if (row["partition_id"], row["phase"]) == (partition, phase)]


def test_a_run_leaves_all_its_files(simulate: Simulate, cars: list[Path]) -> None:
    outcome = simulate(cars, rounds=3, draw=True)
    result = outcome.read("result.json")
    assert result["state"] == "succeeded"
    assert result["run_id"] == "1"
    assert result["unit"] == "km/h"
    assert result["contributions"] == {"1": [0, 1, 2], "2": [0, 1, 2], "3": [0, 1, 2]}
    assert result["excluded"] == []
    assert [(car["partition_id"], car["rounds_contributed"]) for car in result["cars"]] == [(0, 3), (1, 3), (2, 3)]
    assert result["global"]["rows"] == 720
    assert result["global"]["windows"] == sum(car["windows_test"] for car in result["cars"])
    squared = sum(car["rmse"] ** 2 * car["windows_test"] for car in result["cars"])
    assert result["global"]["rmse"] == pytest.approx((squared / result["global"]["windows"]) ** 0.5)
    rounds = outcome.read("rounds.json")
    assert [row["round"] for row in rounds] == [0, 1, 2, 3]
    assert rounds[-1]["rmse"] == result["global"]["rmse"]
    assert rounds[3]["train_loss"] < rounds[1]["train_loss"]
    assert rounds[1]["bytes_down"] == rounds[1]["bytes_up"] > 0
    assert [row["round"] for row in of_car(outcome, 1, "evaluate")] == [0, 1, 2, 3]
    assert [row["round"] for row in of_car(outcome, 1, "train")] == [1, 2, 3]
    assert all(row["ok"] and row["seconds"] > 0 for row in outcome.read("clients.json"))
    status = outcome.read("status.json")
    assert (status["state"], status["round"], status["rounds"], status["error"]) == ("succeeded", 3, 3, None)
    assert (status["nodes_expected"], status["nodes_replied"]) == (3, 3)
    assert [Path(plot).name for plot in result["plots"]] == ["error-by-round.png", "predicted-against-true.png"]
    for plot in result["plots"]:
        assert Path(plot).read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in outcome.files.results.glob("*.safetensors")) == [
        "checkpoint-round-000001.safetensors",
        "checkpoint-round-000002.safetensors",
        "checkpoint-round-000003.safetensors",
        "model.safetensors",
    ]


def test_two_runs_from_one_seed_are_equal_and_another_seed_is_not(simulate: Simulate, cars: list[Path]) -> None:
    scores = [simulate(cars, dropout=0.2, seed=seed).read("result.json")["global"]["rmse"] for seed in (1, 1, 2)]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mlp", "num_layers": 2},
        {"target_column": "engine_rpm", "feature_columns": "vehicle_speed"},
        {"prediction_length": 3, "split_by": "trip", "train_test_split": 0.5},
        {"strategy": "fedyogi"},
        {"strategy": "fedadagrad", "fraction_train": 0.5},
    ],
)
def test_other_models_targets_and_strategies(simulate: Simulate, cars: list[Path], changes: dict[str, Any]) -> None:
    result = simulate(cars, **changes).read("result.json")
    assert result["state"] == "succeeded"
    assert result["global"]["rmse"] > 0


def test_separate_tasks_give_the_same_figures_as_one_task_a_round(simulate: Simulate, cars: list[Path]) -> None:
    one, two = simulate(cars), simulate(cars, fit_and_evaluate=False)
    figures = [[row["rmse"] for row in outcome.read("rounds.json") if row["round"]] for outcome in (one, two)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("fused", [True, False])
def test_no_second_and_no_byte_of_a_task_is_counted_twice(simulate: Simulate, cars: list[Path], fused: bool) -> None:
    outcome = simulate(cars, rounds=3, fit_and_evaluate=fused)
    rows = outcome.read("clients.json")
    for row in rows:
        shares_a_task = fused and row["phase"] == "evaluate" and row["round"] < 3
        assert (row["cpu_seconds"] is None, row["bytes_up"] is None) == (shares_a_task, shares_a_task)
        assert row["seconds"] > 0
    trained = [row for row in rows if row["phase"] == "train"]
    assert [row["bytes_up"] for row in outcome.read("rounds.json") if row["round"]] == [
        sum(row["bytes_up"] for row in trained if row["round"] == number) for number in (1, 2, 3)
    ]


def test_a_task_for_both_is_parted_into_its_training_and_its_evaluation() -> None:
    numbers = {"seconds": 10.0, "evaluate-seconds": 3.0, "cpu-seconds": 8.0, "windows-test": 1, "values": 1}
    sums = dict.fromkeys(("squared-error", "absolute-error", "target-mean", "target-deviation"), 1.0)
    answer = Answer(0, numbers=numbers | sums, weights=np.zeros(1, dtype=np.float32), bytes=4)
    history = History()
    history.scored(0, {10: answer})
    history.trained(1, {10: answer})
    figures = [(row["phase"], row["seconds"], row["cpu_seconds"], row["bytes_up"]) for row in history.clients]
    assert figures == [("evaluate", 3.0, None, None), ("train", 7.0, 8.0, 4)]
    assert history.cars({}, {})[0]["seconds"] == 10.0


def test_what_cars_did_in_a_round_without_a_quorum_is_told_and_contributes_nothing() -> None:
    answer = Answer(0, numbers={"seconds": 10.0, "cpu-seconds": 8.0}, weights=np.zeros(1, dtype=np.float32), bytes=4)
    history = History()
    history.trained(1, {10: answer}, aggregated=False)
    assert [(row["phase"], row["cpu_seconds"], row["bytes_up"]) for row in history.clients] == [("train", 8.0, 4)]
    assert history.contributions == {1: []}


def test_compression_keeps_or_nearly_keeps_the_model(simulate: Simulate, cars: list[Path]) -> None:
    plain, lossless, half = (
        simulate(cars, update_compression=name, hidden_size=32, rounds=3).read("rounds.json")
        for name in ("none", "lossless", "fp16")
    )
    assert plain[-1]["rmse"] == lossless[-1]["rmse"]
    assert half[-1]["rmse"] == pytest.approx(plain[-1]["rmse"], rel=1e-2)
    assert half[-1]["bytes_up"] < 0.6 * plain[-1]["bytes_up"]
    assert lossless[-1]["bytes_up"] < plain[-1]["bytes_up"]


def test_no_reading_leaves_a_car_when_sharing_is_off(simulate: Simulate, cars: list[Path]) -> None:
    outcome = simulate(cars, share_predictions=0, draw=True)
    result = outcome.read("result.json")
    assert [Path(plot).name for plot in result["plots"]] == ["error-by-round.png"]
    assert result["notes"] == ["no plot of predicted against true values: the cars shared none (share-predictions)"]


# Cars whose data cannot be used


def test_a_car_with_wrong_data_is_left_out_by_name(simulate: Simulate, cars: list[Path]) -> None:
    for trip in cars[1].iterdir():
        trip.write_text("time_sec,engine_rpm\n0,800\n")
    result = simulate(cars).read("result.json")
    assert result["state"] == "succeeded"
    (excluded,) = result["excluded"]
    assert (excluded["partition_id"], excluded["error_code"], excluded["rounds"]) == (1, "column-missing", [0])
    assert "lacks mass_air_flow" in excluded["reason"]
    assert result["contributions"] == {"1": [0, 2], "2": [0, 2]}
    assert [car["partition_id"] for car in result["cars"]] == [0, 2]


def test_too_few_usable_cars_fail_the_run_with_each_reason(
    simulate: Simulate, cars: list[Path], tmp_path: Path
) -> None:
    (cars[0] / "trip_0.csv").unlink()
    (cars[0] / "trip_1.csv").unlink()
    with pytest.raises(AppError) as caught:
        simulate([cars[0], tmp_path / "nowhere", cars[2]])
    assert str(caught.value).startswith("too-few-nodes: 1 of 3 nodes have usable data, 2 are needed; ")
    assert f"partition 0: data-empty: {cars[0]}: " in str(caught.value)
    assert f"; partition 1: data-missing: {tmp_path / 'nowhere'}: no such folder" in str(caught.value)
    status = (tmp_path / "metrics" / "Fleven-Deploy" / "1" / "status.json").read_text()
    assert '"state": "failed"' in status
    assert '"code": "too-few-nodes"' in status
    assert '"data-missing"' in (tmp_path / "metrics" / "Fleven-Deploy" / "1" / "clients.json").read_text()


def test_reasons_name_cars_as_people_do(
    simulate: Simulate, cars: list[Path], tmp_path: Path, small: Callable[..., Settings]
) -> None:
    configs: dict[int, dict[str, Any]] = {
        17462499282309880442: {"partition-id": 0, "data-path": str(cars[0]), "node-name": "n1"},
        17462499282309880443: {"partition-id": 1, "data-path": str(tmp_path / "none"), "node-name": "n2"},
        17462499282309880444: {"data-path": str(cars[2]), "node-name": "n3"},
    }
    grid = SimulatedGrid(configs, small().as_config())
    with pytest.raises(AppError) as caught:
        simulate(cars, grid=grid)
    assert f"; n2: data-missing: {tmp_path / 'none'}: no such folder" in str(caught.value)
    assert "; n3: partition-unknown: the node's configuration has no partition-id" in str(caught.value)
    assert "1746249928" not in str(caught.value)


def test_too_few_nodes_are_not_waited_for_without_end(simulate: Simulate, cars: list[Path]) -> None:
    with pytest.raises(AppError, match=r"^too-few-nodes: 3 of 4 nodes were online after 0 s \(start the missing cars"):
        simulate(cars, min_nodes=4)


def test_data_that_breaks_during_the_run_excludes_the_car(simulate: Simulate, cars: list[Path]) -> None:
    def break_data(node_id: int, message: Message) -> Message:
        if node_id == 1002 and message.metadata.message_type == "train" and message.metadata.group_id == "2":
            for trip in cars[2].iterdir():
                trip.write_text("")
        raise LookupError

    result = simulate(cars, fault=break_data, rounds=4).read("result.json")
    assert result["contributions"] == {"1": [0, 1, 2], "2": [0, 1], "3": [0, 1], "4": [0, 1]}
    (excluded,) = result["excluded"]
    assert (excluded["partition_id"], excluded["error_code"], excluded["rounds"]) == (2, "data-empty", [2])


# Cars that fail, vanish and come back


def test_a_car_that_vanishes_costs_one_deadline_and_not_one_a_round(simulate: Simulate, cars: list[Path]) -> None:
    asked: list[tuple[str, str]] = []

    def vanish(node_id: int, message: Message) -> Message | None:
        if node_id == 1001:
            asked.append((message.metadata.message_type, message.metadata.group_id))
            if message.metadata.group_id != "0" and message.metadata.group_id != "1":
                return None
        raise LookupError

    outcome = simulate(cars, fault=vanish, rounds=5, round_deadline_seconds=1.0)
    result = outcome.read("result.json")
    assert result["state"] == "succeeded"
    assert [result["contributions"][number] for number in "12345"] == [[0, 1, 2], [0, 2], [0, 2], [0, 2], [0, 2]]
    (late,) = result["excluded"]
    assert (late["partition_id"], late["error_code"], late["rounds"]) == (1, "deadline-passed", [2])
    assert "no answer within 1 s" in late["reason"]
    assert asked == [("query", "0"), ("train", "1"), ("train", "2"), ("query", "3")]


def test_a_silent_car_is_asked_anew_and_trains_again(simulate: Simulate, cars: list[Path]) -> None:
    def hiccup(node_id: int, message: Message) -> Message | None:
        if (node_id, message.metadata.message_type, message.metadata.group_id) == (1001, "train", "1"):
            return None
        raise LookupError

    result = simulate(cars, fault=hiccup, rounds=4, round_deadline_seconds=1.0).read("result.json")
    assert result["contributions"]["1"] == [0, 2]
    assert result["contributions"]["4"] == [0, 1, 2]


class SlowGrid(SimulatedGrid):
    """Keeps back the answer of one car to one training until that car's round is over and another has begun."""

    slow_node, slow_round, until_round = 1001, "2", "4"
    released = False

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.released |= any(message.metadata.group_id == self.until_round for message in messages)
        return super().push_messages(messages)

    def _answer(self, message: Message) -> Message | None:
        self.asked.append((message.metadata.dst_node_id, message.metadata.message_type, message.metadata.group_id))
        return super()._answer(message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        kept = {
            identifier: reply
            for identifier, reply in self._replies.items()
            if not self.released
            and (reply.metadata.src_node_id, reply.metadata.message_type) == (self.slow_node, "train")
            and reply.metadata.group_id == self.slow_round
        }
        return super().pull_messages([identifier for identifier in message_ids if identifier not in kept])

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.asked: list[tuple[int, str, str]] = []


@pytest.mark.parametrize("aggregation", ["mean", "median"])
def test_a_round_goes_on_without_a_slow_car_whose_answer_counts_later(
    simulate: Simulate, cars: list[Path], small: Any, aggregation: str
) -> None:
    changes = {"rounds": 5, "straggler_floor_seconds": 0.2, "aggregation": aggregation}
    grid = SlowGrid.of_folders(cars, small(**changes).as_config())
    started = time.monotonic()
    outcome = simulate(cars, grid=grid, **changes)
    assert time.monotonic() - started < 60.0  # round-deadline-seconds is 600
    result = outcome.read("result.json")
    with_it = [0, 1, 2] if aggregation == "mean" else [0, 2]
    contributions = [result["contributions"][number] for number in "12345"]
    assert contributions == [[0, 1, 2], [0, 2], [0, 2], with_it, [0, 1, 2]]
    assert isinstance(grid, SlowGrid)
    of_the_slow = [(kind, number) for node_id, kind, number in grid.asked if node_id == 1001]
    assert of_the_slow == [("query", "0"), ("train", "1"), ("train", "2"), ("train", "5"), ("evaluate", "5")]
    rows = [row for row in outcome.read("clients.json") if row["partition_id"] == 1 and row["phase"] == "train"]
    assert [(row["round"], row["error_code"]) for row in rows if not row["ok"]] == [(2, "answer-late")]


def test_a_hung_car_is_given_up_at_the_deadline_while_the_others_go_on(simulate: Simulate, cars: list[Path]) -> None:
    def hang(node_id: int, message: Message) -> Message | None:
        if node_id == 1001 and message.metadata.message_type == "train":
            return None
        if node_id == 1000 and message.metadata.message_type == "train":
            time.sleep(0.1)
        raise LookupError

    changes = {"rounds": 12, "straggler_floor_seconds": 0.1, "round_deadline_seconds": 0.6}
    outcome = simulate(cars, fault=hang, **changes)
    rows = [row for row in outcome.read("clients.json") if row["partition_id"] == 1]
    assert ("train", "answer-late") in {(row["phase"], row["error_code"]) for row in rows}
    assert sum(row["phase"] == "query" for row in rows) >= 2  # asked about itself again
    assert all(cars == [0, 2] for cars in outcome.read("result.json")["contributions"].values())


@pytest.mark.parametrize(("number", "code"), [(8, "app-crashed"), (5, "node-unavailable"), (42, "flower-error")])
def test_flowers_own_errors_become_rows(simulate: Simulate, cars: list[Path], number: int, code: str) -> None:
    def fail(node_id: int, message: Message) -> Message:
        if (node_id, message.metadata.message_type, message.metadata.group_id) == (1000, "train", "1"):
            return Message(Error(number, "ClientApp stopped responding."), reply_to=message)
        raise LookupError

    outcome = simulate(cars, fault=fail, rounds=3)
    (row,) = [row for row in outcome.read("clients.json") if not row["ok"]]
    assert (row["round"], row["partition_id"], row["phase"], row["error_code"]) == (1, 0, "train", code)
    assert row["error_reason"] == f"Flower error {number}: ClientApp stopped responding."
    assert outcome.read("result.json")["contributions"]["3"] == [0, 1, 2]


def test_a_reply_without_weights_is_no_contribution(simulate: Simulate, cars: list[Path]) -> None:
    def empty(node_id: int, message: Message) -> Message:
        if node_id == 1000 and message.metadata.message_type == "train":
            return Message(RecordDict(), reply_to=message)
        raise LookupError

    result = simulate(cars, fault=empty).read("result.json")
    assert result["contributions"] == {"1": [1, 2], "2": [1, 2]}
    assert [entry["error_code"] for entry in result["excluded"]] == ["reply-invalid"]


def test_rounds_below_the_quorum_change_nothing_and_end_the_run(
    simulate: Simulate, cars: list[Path], tmp_path: Path
) -> None:
    def fail(node_id: int, message: Message) -> Message:
        if message.metadata.message_type == "train" and int(message.metadata.group_id) >= 2 and node_id != 1000:
            return Message(Error(8, "ClientApp stopped responding."), reply_to=message)
        raise LookupError

    with pytest.raises(AppError, match=r"^quorum-lost: 3 rounds in a row with fewer than 2 cars") as caught:
        simulate(cars, fault=fail, rounds=9)
    folder = tmp_path / "results" / "Fleven-Deploy" / "1"
    # A continued run has the lost rounds still to do: they leave no checkpoint.
    assert [path.name for path in folder.glob("checkpoint*")] == ["checkpoint-round-000001.safetensors"]
    checkpoint = load_file(folder / "checkpoint-round-000001.safetensors")["weights"]
    np.testing.assert_array_equal(checkpoint, weights_of(Predictor(folder / "model.safetensors")._network))
    assert "partition 1: app-crashed: Flower error 8: ClientApp stopped responding.; partition 2: " in str(caught.value)


def losing(*rounds: int, but: int | None = None) -> Fault:
    """Return a fault by which these rounds' trainings fail on every car but one."""

    def fail(node_id: int, message: Message) -> Message:
        kind, number = message.metadata.message_type, int(message.metadata.group_id)
        if kind == "train" and number in rounds and node_id != but:
            return Message(Error(8, "ClientApp stopped responding."), reply_to=message)
        raise LookupError

    return fail


@pytest.mark.parametrize("but", [None, 1000])
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_run_in_which_no_round_trained_is_no_success(
    simulate: Simulate, cars: list[Path], tmp_path: Path, rounds: int, but: int | None
) -> None:
    with pytest.raises(AppError, match=rf"^no-round-trained: none of {rounds} rounds had 2 good answers") as caught:
        simulate(cars, fault=losing(1, 2, but=but), rounds=rounds)
    assert "partition 1: app-crashed: Flower error 8" in str(caught.value)
    assert ("partition 0: " in str(caught.value)) == (but is None)
    folder = tmp_path / "metrics" / "Fleven-Deploy" / "1"
    status, result = (json.loads((folder / f"{name}.json").read_text()) for name in ("status", "result"))
    assert (status["state"], status["error"]["code"]) == ("failed", "no-round-trained")
    assert (result["state"], result["error"]["code"]) == ("failed", "no-round-trained")
    assert result["model_path"] is None
    assert not list((tmp_path / "results").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("lost", "changes", "said"),
    [
        ((4,), {}, "the last round, 4, had fewer than 2 good answers; the model is that of round 3"),
        ((4,), {"max_failed_share": 1.0}, "the last round, 4, had fewer than 2 good answers; the model is that"),
        (
            (2, 3, 4),
            {"max_failed_share": 0.25},
            "2 of 4 rounds had fewer than 2 good answers; the model is that of round 1",
        ),
        (
            (1, 3),
            {"max_failed_share": 0.25},
            "2 of 4 rounds had fewer than 2 good answers; the model is that of round 2",
        ),
    ],
)
def test_a_run_that_lost_its_last_round_or_too_many_has_failed(
    simulate: Simulate, cars: list[Path], tmp_path: Path, lost: tuple[int, ...], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(AppError, match=f"^rounds-failed: {said}"):
        simulate(cars, fault=losing(*lost), rounds=4, **changes)
    assert (tmp_path / "results" / "Fleven-Deploy" / "1" / "model.safetensors").exists()


@pytest.mark.parametrize("lost", [(1,), (2, 3), (1, 3)])
def test_a_run_that_lost_no_more_than_its_share_succeeds(
    simulate: Simulate, cars: list[Path], lost: tuple[int, ...]
) -> None:
    outcome = simulate(cars, fault=losing(*lost), rounds=4)
    assert outcome.read("status.json")["state"] == "succeeded"
    assert outcome.read("result.json")["error"] is None


def test_a_run_that_lost_its_last_round_has_only_that_to_do_when_it_is_continued(
    simulate: Simulate, cars: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(AppError, match=r"^rounds-failed: the last round, 3"):
        simulate(cars, fault=losing(3), rounds=3, save_checkpoint_every=2)
    outcome = simulate(cars, rounds=3, resume_from=str(tmp_path / "results" / "Fleven-Deploy" / "1"))
    straight = simulate(cars, rounds=3)
    result = outcome.read("result.json")
    assert (result["state"], result["contributions"]["3"]) == ("succeeded", [0, 1, 2])
    assert result["global"] == straight.read("result.json")["global"]


def test_a_round_after_a_lost_one_leaves_the_checkpoint_that_was_due(simulate: Simulate, cars: list[Path]) -> None:
    outcome = simulate(cars, fault=losing(2), rounds=5, save_checkpoint_every=2)
    names = sorted(path.name for path in outcome.files.results.glob("checkpoint*"))
    assert names == [f"checkpoint-round-{number:06d}.safetensors" for number in (3, 4, 5)]


def test_a_model_that_is_not_finite_fails_the_run_and_is_not_kept(
    simulate: Simulate, cars: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(state: ServerState, mean: Any, settings: Settings, number: int) -> ServerState:
        return replace(state, weights=mean * np.float32("nan" if number == 2 else 1))

    monkeypatch.setitem(strategy.STRATEGIES, "fedavg", spoil)  # type: ignore[arg-type]
    with pytest.raises(AppError, match=r"^model-not-finite: round 2 made a model"):
        simulate(cars, rounds=3)
    model = load_file(tmp_path / "results" / "Fleven-Deploy" / "1" / "model.safetensors")
    assert all(np.isfinite(tensor).all() for tensor in model.values())


def test_one_bad_round_is_survived(simulate: Simulate, cars: list[Path]) -> None:
    def fail(node_id: int, message: Message) -> Message:
        if (message.metadata.message_type, message.metadata.group_id) == ("train", "2"):
            return Message(Error(8, "ClientApp stopped responding."), reply_to=message)
        raise LookupError

    outcome = simulate(cars, fault=fail, rounds=3)
    assert outcome.read("result.json")["contributions"] == {"1": [0, 1, 2], "2": [], "3": [0, 1, 2]}
    assert scored(outcome) == [(0, True), (1, False), (2, True), (3, True)]
    assert [row["round"] for row in of_car(outcome, 1, "evaluate") if row["ok"]] == [0, 2, 3]


def scored(outcome: Any) -> list[tuple[int, bool]]:
    """Return each round of the table, and whether its model has been evaluated."""
    return [(row["round"], row["rmse"] is not None) for row in outcome.read("rounds.json")]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("lost", [1, 3])
def test_every_round_has_its_row_whoever_answers(simulate: Simulate, cars: list[Path], fused: bool, lost: int) -> None:
    kind = "train" if fused else "evaluate"

    def fail(node_id: int, message: Message) -> Message:
        if (message.metadata.message_type, message.metadata.group_id) == (kind, str(lost)):
            return Message(Error(8, "ClientApp stopped responding."), reply_to=message)
        raise LookupError

    outcome = simulate(cars, fault=fail, rounds=4, fit_and_evaluate=fused)
    unscored = lost - 1 if fused else lost  # one task evaluates the model of the round before, and trains
    assert scored(outcome) == [(number, number != unscored) for number in range(0 if fused else 1, 5)]
    numbers = [row["round"] for row in of_car(outcome, 1, "evaluate") if row["ok"]]
    assert numbers == [number for number, evaluated in scored(outcome) if evaluated]


@pytest.fixture
def grid_of(cars: list[Path], small: Callable[..., Settings]) -> Callable[..., SimulatedGrid]:
    """Return a function that makes a grid from node id → partition id."""

    def make(nodes: dict[int, int], fault: Any = None, **changes: Any) -> SimulatedGrid:
        configs: dict[int, Any] = {
            node: {"partition-id": partition, "data-path": str(cars[partition])} for node, partition in nodes.items()
        }
        return SimulatedGrid(configs, small(**changes).as_config(), fault)

    return make


def test_a_car_that_comes_later_joins(simulate: Simulate, cars: list[Path], grid_of: GridOf) -> None:
    def arrive(node_id: int, message: Message) -> Message:
        if message.metadata.group_id == "1":
            grid.node_configs[77] = {"partition-id": 2, "data-path": str(cars[2])}
        raise LookupError

    grid = grid_of({10: 0, 11: 1}, arrive, rounds=3)
    result = simulate(cars, grid=grid, rounds=3).read("result.json")
    assert result["contributions"]["1"] == [0, 1]
    assert result["contributions"]["3"] == [0, 1, 2]


def test_a_car_that_returns_under_a_new_node_id_is_the_same_car(
    simulate: Simulate, cars: list[Path], grid_of: GridOf
) -> None:
    def reboot(node_id: int, message: Message) -> Message:
        if message.metadata.group_id == "1" and node_id == 11:
            grid.node_configs[99] = grid.node_configs.pop(11)
            return Message(Error(5, "Node Unavailable"), reply_to=message)
        raise LookupError

    grid = grid_of({12: 2, 11: 1, 10: 0}, reboot, rounds=4)
    result = simulate(cars, grid=grid, rounds=4).read("result.json")
    assert result["contributions"]["4"] == [0, 1, 2]
    assert [(car["partition_id"], car["node_id"]) for car in result["cars"]] == [(0, "10"), (1, "99"), (2, "12")]


def test_a_late_answer_of_the_old_node_id_does_no_harm(simulate: Simulate, cars: list[Path], grid_of: GridOf) -> None:
    owed: list[Message] = []

    def reboot(node_id: int, message: Message) -> Message | None:
        kind, number = message.metadata.message_type, message.metadata.group_id
        if node_id == 11 and number != "0":  # falls silent in round 1, and takes the query of round 2 with it
            if kind == "query":
                owed.append(message)
            return None
        if (node_id, kind, number) == (10, "train", "2"):
            grid.node_configs[99] = grid.node_configs.pop(11)
        if (node_id, kind, number) == (10, "train", "3"):
            (query,) = owed
            reply = Message(Error(5, "Node Unavailable"), reply_to=query)
            grid._replies[query.metadata.message_id] = reply
        raise LookupError

    grid = grid_of({10: 0, 11: 1, 12: 2}, reboot, rounds=4)
    outcome = simulate(cars, grid=grid, rounds=4, round_deadline_seconds=0.5)
    result = outcome.read("result.json")
    assert owed
    assert [result["contributions"][number] for number in "1234"] == [[0, 2], [0, 2], [0, 1, 2], [0, 1, 2]]
    assert [(car["partition_id"], car["node_id"]) for car in result["cars"]] == [(0, "10"), (1, "99"), (2, "12")]
    assert ("11", "node-unavailable") in {(row["node_id"], row["error_code"]) for row in result["excluded"]}


def test_the_old_node_id_does_not_count_beside_the_new_one_when_it_comes_back(
    simulate: Simulate, cars: list[Path], grid_of: GridOf
) -> None:
    def come_back(node_id: int, message: Message) -> Message | None:
        kind, number = message.metadata.message_type, message.metadata.group_id
        if (node_id, kind, number) == (11, "train", "1"):
            grid.node_configs[99] = grid.node_configs.pop(11)
            return Message(Error(5, "Node Unavailable"), reply_to=message)
        if (node_id, kind, number) == (10, "train", "2"):
            grid.node_configs[11] = grid.node_configs[99]
        raise LookupError

    grid = grid_of({12: 2, 11: 1, 10: 0}, come_back, rounds=4)
    result = simulate(cars, grid=grid, rounds=4).read("result.json")
    assert result["contributions"]["4"] == [0, 1, 2]
    assert [(car["partition_id"], car["node_id"]) for car in result["cars"]] == [(0, "10"), (1, "99"), (2, "12")]
    duplicates = {row["node_id"] for row in result["excluded"] if row["error_code"] == "duplicate-partition"}
    assert duplicates == {"11"}


def test_of_two_nodes_that_claim_one_partition_before_round_1_neither_takes_part(
    simulate: Simulate, cars: list[Path], grid_of: GridOf
) -> None:
    grid = grid_of({10: 0, 11: 1, 12: 1, 13: 2})
    result = simulate(cars, grid=grid).read("result.json")
    assert result["contributions"] == {"1": [0, 2], "2": [0, 2]}
    assert [(car["partition_id"], car["node_id"]) for car in result["cars"]] == [(0, "10"), (2, "13")]
    assert {(entry["node_id"], entry["error_code"]) for entry in result["excluded"]} == {
        ("11", "duplicate-partition"),
        ("12", "duplicate-partition"),
    }
    assert "node 11 and node 12 all say partition-id 1" in result["excluded"][0]["reason"]


def test_the_one_that_is_left_of_two_with_one_partition_takes_part_again(
    simulate: Simulate, cars: list[Path], grid_of: GridOf
) -> None:
    def leave(node_id: int, message: Message) -> Message:
        if (node_id, message.metadata.message_type, message.metadata.group_id) == (10, "train", "2"):
            grid.node_configs.pop(12)
        raise LookupError

    grid = grid_of({10: 0, 11: 1, 12: 1, 13: 2}, leave, rounds=4)
    result = simulate(cars, grid=grid, rounds=4).read("result.json")
    assert result["contributions"] == {"1": [0, 2], "2": [0, 2], "3": [0, 1, 2], "4": [0, 1, 2]}


def test_a_newcomer_does_not_get_the_partition_of_a_car_that_has_trained(
    simulate: Simulate, cars: list[Path], grid_of: GridOf
) -> None:
    def arrive(node_id: int, message: Message) -> Message:
        if (node_id, message.metadata.message_type, message.metadata.group_id) == (10, "train", "1"):
            grid.node_configs[99] = {"partition-id": 1, "data-path": str(cars[1]), "node-name": "stranger"}
        raise LookupError

    grid = grid_of({10: 0, 11: 1}, arrive, rounds=4)
    result = simulate(cars, grid=grid, rounds=4).read("result.json")
    assert result["contributions"]["4"] == [0, 1]
    assert [(car["partition_id"], car["node_id"]) for car in result["cars"]] == [(0, "10"), (1, "11")]
    (excluded,) = result["excluded"]
    assert (excluded["node_name"], excluded["error_code"]) == ("stranger", "duplicate-partition")
    assert excluded["reason"] == "partition 1 already takes part with partition-id 1"


# Each car's own model


def test_each_car_judges_its_own_model_beside_the_global_one(
    simulate: Simulate, cars: list[Path], tmp_path: Path
) -> None:
    outcome = simulate(cars, rounds=1, personal="fine-tune", personal_epochs=2, draw=True)
    result = outcome.read("result.json")
    personal = result["personal"]
    assert (personal["kind"], personal["cars"]) == ("fine-tune", 3)
    assert personal["kept"] == sum(car["personal_kept"] for car in result["cars"]) > 0
    for car in result["cars"]:
        assert car["personal_kept"] or car["personal_rmse"] == car["rmse"]
    assert personal["rmse"] < result["global"]["rmse"]  # after one round of these cars any further training helps
    squared = sum(car["personal_rmse"] ** 2 * car["windows_test"] for car in result["cars"])
    assert personal["rmse"] == pytest.approx((squared / result["global"]["windows"]) ** 0.5)
    rows = of_car(outcome, 1, "evaluate")
    assert [row["personal_rmse"] is None for row in rows] == [True, False]
    assert [Path(plot).name for plot in result["plots"]][-1] == "personal-by-car.png"
    folder = tmp_path / "flower-home" / "fleven-car" / "Fleven-Deploy"
    kept = [path for path in folder.iterdir() if path.name.endswith(".personal.npz")]
    newest = [path for path in kept if path.name.count(".") == 2]
    by_global_model = [path for path in kept if path.name.count(".") == 3]
    assert len(newest) == len(by_global_model) == personal["kept"]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in kept)


def test_a_personal_model_never_leaves_its_car(simulate: Simulate, cars: list[Path]) -> None:
    replies: list[Message] = []

    def listen(node_id: int, message: Message) -> Message:
        reply = grid.of_the_car(message)
        replies.append(reply)
        return reply

    config = parse({"sequence-length": 5, "hidden-size": 4, "personal": "fine-tune", "local-epochs": 1}).as_config()
    grid = SimulatedGrid.of_folders(cars, config, listen)
    simulate(cars, grid=grid, rounds=1, personal="fine-tune")
    last = [reply.content for reply in replies if "personal-kept" in reply.content.metric_records["numbers"]]
    assert len(last) == 3
    for content in last:
        assert "model" not in content
        assert set(content.array_records) == {"predictions"}


# The model in use, beside the new one


def model_of(outcome: Any) -> Path:
    return outcome.files.results / "model.safetensors"


def test_every_car_scores_the_champion_on_the_windows_on_which_it_scores_the_new_model(
    simulate: Simulate, cars: list[Path]
) -> None:
    first = simulate(cars, rounds=1, hidden_size=6)  # of another shape than the one that comes after it
    asked = simulate(cars, rounds=2, champion=str(model_of(first)))
    result, before = asked.read("result.json"), first.read("result.json")
    champion = result["champion"]
    assert champion["sha256"] == hashlib.sha256(model_of(first).read_bytes()).hexdigest()
    assert (champion["code"], champion["cars"]) == ("", 3)
    assert champion["rmse"] == pytest.approx(before["global"]["rmse"], rel=1e-6)
    assert champion["rmse"] != result["global"]["rmse"]
    for now, then in zip(result["cars"], before["cars"], strict=True):
        assert now["champion_rmse"] == pytest.approx(then["rmse"], rel=1e-6)
    rows = of_car(asked, 1, "evaluate")
    assert [row["champion_rmse"] is None for row in rows] == [True, True, False]  # in the last evaluation alone
    plain = simulate(cars, rounds=2).read("result.json")
    assert plain["champion"] is None
    assert plain["global"] == result["global"]  # the comparison has no part in training


@pytest.mark.parametrize("compression", ["lossless", "fp16"])
def test_a_champion_is_compared_under_every_compression(simulate: Simulate, cars: list[Path], compression: str) -> None:
    first = simulate(cars, rounds=1)
    result = simulate(cars, rounds=1, champion=str(model_of(first)), update_compression=compression).read("result.json")
    assert result["champion"]["rmse"] == pytest.approx(first.read("result.json")["global"]["rmse"], rel=1e-2)


def test_a_champion_that_cannot_be_compared_ends_no_run_and_is_told(
    simulate: Simulate, cars: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = model_of(simulate(cars, rounds=1, sequence_length=6))
    (tmp_path / "junk").write_bytes(b"PK no model")
    tried = {}
    for path in (other, tmp_path / "junk", tmp_path / "none"):
        result = simulate(cars, rounds=1, champion=str(path)).read("result.json")
        assert (result["state"], result["champion"]["cars"], result["champion"]["rmse"]) == ("succeeded", 0, None)
        tried[path.name] = result["champion"]
    assert [found["code"] for found in tried.values()] == [
        "champion-of-other-windows", "champion-unreadable", "champion-unreadable",
    ]  # fmt: skip
    assert "another sequence-length" in tried["model.safetensors"]["reason"]
    monkeypatch.setattr("fleven.app.server.champion.LARGEST_BYTES", 100)
    good = model_of(simulate(cars, rounds=1))
    result = simulate(cars, rounds=1, champion=str(good)).read("result.json")
    assert result["champion"]["code"] == "champion-too-large"


def test_with_heads_that_stay_no_champion_can_be_asked_for(small: Any) -> None:
    with pytest.raises(AppError, match="champion: with personal=head no car has another model's output layer"):
        small(personal="head", champion="/a/model.safetensors")


def test_the_global_model_is_the_same_whatever_becomes_of_it_in_the_cars(simulate: Simulate, cars: list[Path]) -> None:
    without, tuned = (simulate(cars, personal=kind).read("result.json") for kind in ("none", "fine-tune"))
    assert without["global"] == tuned["global"]
    assert without["personal"] is None


def test_a_cars_output_layer_stays_in_it_from_run_to_run(
    simulate: Simulate, cars: list[Path], small: Callable[..., Settings], tmp_path: Path
) -> None:
    sizes = []

    def listen(node_id: int, message: Message) -> Message:
        reply = grid.of_the_car(message)
        if "model" in reply.content:
            sizes.append(reply.content.array_records["model"]["weights"].shape)
        return reply

    everything = weights_of(build(small()))
    grid = SimulatedGrid.of_folders(cars, small(personal="head").as_config(), listen)
    outcome = simulate(cars, grid=grid, personal="head", rounds=2)
    assert set(sizes) == {(everything.size - 5,)}  # four hidden values and an offset
    result = outcome.read("result.json")
    assert (result["personal"]["kept"], result["personal"]["rmse"]) == (3, result["global"]["rmse"])
    heads = sorted((tmp_path / "flower-home" / "fleven-car" / "Fleven-Deploy").glob("*.head.npz"))
    assert len(heads) == 3
    first = [np.load(path)["weights"] for path in heads]
    assert all(not np.array_equal(head, everything[-5:]) for head in first)
    assert not np.array_equal(first[0], first[1])
    again = simulate(cars, personal="head", rounds=1).read("rounds.json")
    begun = outcome.read("rounds.json")
    assert again[0]["rmse"] != begun[0]["rmse"]  # the same weights from the server, with the layers of the first run
    with pytest.raises(AppError, match="its output layer stays in each car"):
        Predictor(Path(result["model_path"]))


def test_a_car_whose_state_is_damaged_begins_anew(simulate: Simulate, cars: list[Path], tmp_path: Path) -> None:
    whole = simulate(cars, personal="head", rounds=1).read("rounds.json")
    for path in (tmp_path / "flower-home" / "fleven-car" / "Fleven-Deploy").glob("*.npz"):
        path.write_bytes(path.read_bytes()[:200])
    assert simulate(cars, personal="head", rounds=1).read("rounds.json")[0]["rmse"] == whole[0]["rmse"]


def test_proximal_mu_holds_the_cars_near_the_global_model(simulate: Simulate, cars: list[Path]) -> None:
    def moved(mu: float) -> float:
        outcome = simulate(cars, rounds=1, proximal_mu=mu)
        start = simulate(cars, rounds=1, learning_rate=1e-9)
        weights = [load_file(Path(run.read("result.json")["model_path"])) for run in (outcome, start)]
        names = [name for name in weights[0] if name.startswith("network.")]
        return float(sum(((weights[0][name] - weights[1][name]) ** 2).sum() for name in names))

    assert moved(10.0) < 0.5 * moved(0.0)


# Cars that are named


def test_no_other_node_than_the_named_ones_is_talked_to(simulate: Simulate, cars: list[Path], grid_of: GridOf) -> None:
    asked = set()

    def ghosts(node_id: int, message: Message) -> Message | None:
        asked.add(node_id)
        if node_id in (66, 67):
            return None
        raise LookupError

    named = "10=0,12=2,99=7"
    grid = grid_of({66: 0, 67: 2, 10: 0, 11: 1, 12: 2}, ghosts, cars=named)
    result = simulate(cars, grid=grid, cars=named).read("result.json")
    assert asked == {10, 12}
    assert result["contributions"] == {"1": [0, 2], "2": [0, 2]}
    assert result["excluded"] == []


def test_a_cars_partition_is_the_one_of_the_list_and_not_of_its_own_word(
    simulate: Simulate, cars: list[Path], grid_of: GridOf
) -> None:
    named = "10=0,11=4"
    asked = simulate(cars, grid=grid_of({10: 0, 11: 0}, cars=named), cars=named).read("result.json")
    assert asked["contributions"] == {"1": [0, 4], "2": [0, 4]}
    assert [(car["partition_id"], car["node_id"]) for car in asked["cars"]] == [(0, "10"), (4, "11")]

    def lie(node_id: int, message: Message) -> Message:
        if node_id != 11:
            raise LookupError
        reply = grid.of_the_car(message)
        reply.content.config_records["car"]["partition-id"] = 0
        return reply

    grid = grid_of({10: 0, 11: 0}, lie, cars=named)
    result = simulate(cars, grid=grid, cars=named, min_nodes=1).read("result.json")
    assert result["contributions"] == {"1": [0], "2": [0]}
    (refused,) = result["excluded"]
    assert (refused["partition_id"], refused["error_code"]) == (4, "reply-invalid")
    assert refused["reason"] == "partition-id: is 0, was 4 in the car's query"


def test_a_named_car_needs_no_partition_of_its_own(simulate: Simulate, cars: list[Path], small: Any) -> None:
    named = "10=0,11=1"
    configs: dict[int, Any] = {10 + number: {"data-path": str(cars[number])} for number in range(2)}
    grid = SimulatedGrid(configs, small(cars=named).as_config())
    assert simulate(cars, grid=grid, cars=named).read("result.json")["contributions"]["2"] == [0, 1]


# The whole run ends early


def test_wrong_settings_fail_before_round_1_and_say_so_in_the_status(
    cars: list[Path], tmp_path: Path, simulate: Simulate
) -> None:
    from fleven.app import server_app

    grid = SimulatedGrid.of_folders(cars, parse({}).as_config())
    config = {"rounds": 0, "metrics-base-path": str(tmp_path / "m"), "results-base-path": str(tmp_path / "r")}
    with pytest.raises(AppError, match=r"^settings-invalid: rounds: must be"):
        server_app.run(grid, 5, config)
    assert '"settings-invalid"' in (tmp_path / "m" / "Fleven-Deploy" / "5" / "status.json").read_text()


def test_a_stopped_run_says_so_and_leaves_what_it_had(simulate: Simulate, cars: list[Path], tmp_path: Path) -> None:
    def stop(node_id: int, message: Message) -> Message:
        if message.metadata.group_id == "3":
            raise SystemExit(0)
        raise LookupError

    with pytest.raises(SystemExit):
        simulate(cars, fault=stop, rounds=5)
    folder = tmp_path / "metrics" / "Fleven-Deploy" / "1"
    assert '"state": "stopped"' in (folder / "status.json").read_text()
    assert '"state": "stopped"' in (folder / "result.json").read_text()
    assert len((folder / "rounds.csv").read_text().splitlines()) == 4
    assert (tmp_path / "results" / "Fleven-Deploy" / "1" / "model.safetensors").exists()


def test_a_bug_is_told_as_one(simulate: Simulate, cars: list[Path], tmp_path: Path) -> None:
    def bug(node_id: int, message: Message) -> Message:
        if message.metadata.message_type == "train":
            raise RuntimeError("the network is down")
        raise LookupError

    with pytest.raises(RuntimeError, match="the network is down"):
        simulate(cars, fault=bug)
    status = (tmp_path / "metrics" / "Fleven-Deploy" / "1" / "status.json").read_text()
    assert '"code": "internal"' in status
    assert "RuntimeError: the network is down" in status
