"""Averaging with a minority of ill will: the rules by themselves, and whole runs with one hostile car of five."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message

from fleven.app.server import aggregation, strategy
from fleven.app.server.aggregation import Unlike
from fleven.app.server.scores import Score
from fleven.app.settings import Settings, parse
from fleven.app.simulation import SimulatedGrid

HOSTILE = 1000


def vector(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)


def rule(name: str, hostile: float = 0.2) -> Settings:
    return parse({"aggregation": name, "hostile-share": hostile})


BASE = vector(10, 10)
CARS = {key: BASE + vector(*change) for key, change in enumerate([(1, 0), (2, 0), (3, 1), (4, 1), (100, -100)])}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mean", (22.0, -19.6)),
        ("median", (3.0, 0.0)),
        ("trimmed-mean", (3.0, 1 / 3)),  # without the lowest and the highest of each
        ("multi-krum", (2.5, 0.5)),  # without the one that is far from its nearest
    ],
)
def test_the_rules_on_changes_that_one_can_count(name: str, change: tuple[float, float]) -> None:
    found = aggregation.combine(CARS, [1.0] * 5, BASE, rule(name))
    assert found.dtype == np.float32
    assert np.allclose(found, BASE + vector(*change), atol=1e-5)


def test_shares_count_where_the_rule_has_them() -> None:
    two = {0: BASE + vector(1, 0), 1: BASE + vector(3, 0), 2: BASE + vector(3, 0)}
    shares = [3.0, 1.0, 0.0]
    assert aggregation.combine(two, shares, BASE, rule("mean"))[0] == pytest.approx(11.5)
    assert aggregation.combine(two, shares, BASE, rule("multi-krum", 0.0))[0] == pytest.approx(11.5)
    assert aggregation.combine(two, shares, BASE, rule("median"))[0] == 13.0


@pytest.mark.parametrize("name", ["mean", "median", "trimmed-mean", "multi-krum"])
def test_one_car_alone_is_the_mean(name: str) -> None:
    assert np.array_equal(aggregation.combine({7: BASE + 1}, [5.0], BASE, rule(name)), BASE + 1)


def test_a_car_is_compared_with_all_others_and_not_with_itself() -> None:
    cars = {1: BASE + vector(1, 0), 2: BASE + vector(2, 0), 3: BASE + vector(-50, 0), 4: BASE}
    found = aggregation.scores(cars, BASE)
    assert found[1].cosine == found[2].cosine == 0.0  # of the two others, one goes each way
    assert (found[3].cosine, found[3].norm_ratio) == (pytest.approx(-1.0), pytest.approx(50 / 1.5))
    assert found[4] == Unlike(0.0, 0.0)
    assert aggregation.scores({1: BASE, 2: BASE + 1}, BASE) == {}
    assert aggregation.scores(dict.fromkeys((1, 2, 3), BASE), BASE)[1] == Unlike(0.0, 0.0)


def test_what_is_suspicious_is_said_in_words() -> None:
    assert Unlike(1.0, 0.2).why(3.0) == ""
    assert Unlike(1.4, -0.29).why(3.0) == ""
    assert Unlike(9.0, 0.2).why(3.0) == "its change of the weights is 9 times as long as the median"
    assert Unlike(9.0, 0.2).why(0.0) == ""
    assert Unlike(1.0, -0.5).why(3.0) == "its change of the weights goes against the others' (cosine -0.50)"
    assert Unlike(0.001, 0.0).why(3.0) == "it changes the weights by next to nothing"


def test_a_change_against_the_others_is_no_longer_than_the_median() -> None:
    cars = {1: BASE + vector(1, 0), 2: BASE + vector(2, 0), 3: BASE - vector(4, 0)}
    kept, ratios = strategy.shorten(cars, BASE, 3.0, {3})
    assert np.allclose(kept[3], BASE - vector(2, 0))
    assert ratios == {3: 2.0}
    assert strategy.shorten(cars, BASE, 3.0)[1] == {}


# One hostile car of five

Reply = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]], np.ndarray[Any, Any]]
HOSTILITY: dict[str, Reply] = {
    "huge": lambda base, own, _first: base + 1e4 * np.random.default_rng(1).normal(size=own.size),
    "turned round": lambda base, own, _first: 2 * base - own,
    "turned round, ten times": lambda base, own, _first: base - 10 * (own - base),
    "fifty times": lambda base, own, _first: base + 50 * (own - base),
    "replayed": lambda _base, _own, first: first,
    "untrained": lambda base, _own, _first: base,
}


def hostile_car(kind: str, grid: Callable[[], SimulatedGrid]) -> Callable[[int, Message], Message]:
    first: list[Any] = []

    def answer(node_id: int, message: Message) -> Message:
        if node_id != HOSTILE:
            raise LookupError
        reply = grid().of_the_car(message)
        if kind == "poisoned statistics" and "statistics" in reply.content:
            said = reply.content.metric_records["statistics"]
            said["mean"] = [8000.0, 300.0, 99.0, 200.0]
            said["deviation"] = [value / 100 for value in said["deviation"]]  # type: ignore[union-attr]
        if message.metadata.message_type == "train" and kind in HOSTILITY:
            base, own = (part.content.array_records["model"]["weights"].numpy() for part in (message, reply))
            first.append(own)
            weights = HOSTILITY[kind](base, own, first[0]).astype(np.float32)
            reply.content["model"] = ArrayRecord({"weights": Array(weights)})
        return reply

    return answer


class Federations:
    """Runs of five cars of which the first may be hostile."""

    def __init__(self, folders: list[Path], simulate: Callable[..., Any], **changes: Any) -> None:
        self.folders, self.simulate, self.changes = folders, simulate, changes
        self.done: dict[tuple[str, str], Any] = {}

    def result(self, kind: str, rule: str) -> Any:
        if (kind, rule) not in self.done:
            changes = self.changes | {"aggregation": rule}
            config = parse({key.replace("_", "-"): value for key, value in changes.items()}).as_config()
            box: list[SimulatedGrid] = []
            box.append(SimulatedGrid.of_folders(self.folders, config, hostile_car(kind, lambda: box[0])))
            self.done[kind, rule] = self.simulate(self.folders, grid=box[0], **changes).read("result.json")
        return self.done[kind, rule]

    def suspects(self, kind: str, rule: str) -> list[int]:
        return [car["partition_id"] for car in self.result(kind, rule)["cars"] if car["update_suspicious"]]

    def honest_r2(self, kind: str, rule: str) -> float:
        """R² over the windows of all cars but the first."""
        score = Score()
        for car in self.result(kind, rule)["cars"][1:]:
            count, squared = car["windows_test"], car["rmse"] ** 2 * car["windows_test"]
            score = score.merge(Score(count, count, squared, 0.0, 0.0, squared / (1 - car["r2"])))
        assert score.r2 is not None
        return score.r2


@pytest.mark.training
@pytest.mark.parametrize("kind", ["huge", "turned round, ten times", "untrained"])
def test_a_hostile_car_is_named_and_no_other(simulate: Any, make_car: Callable[..., Path], kind: str) -> None:
    cars = [make_car(partition) for partition in range(5)]
    small = {"sequence_length": 5, "hidden_size": 4, "local_epochs": 1, "rounds": 2, "dropout": 0.0, "threads": 1}
    runs = Federations(cars, simulate, **small)
    assert runs.suspects(kind, "mean") == [0]
    (warning,) = (row for row in runs.result(kind, "mean")["warnings"] if row["code"] == "update-suspicious")
    assert (warning["partition_id"], warning["rounds"]) == (0, [1, 2])


@pytest.fixture(scope="module")
def five_drivers(tmp_path_factory: pytest.TempPathFactory, obd_data: Path) -> list[Path]:
    """Return the folders of five cars with the trips of 19 drivers."""
    folder = tmp_path_factory.mktemp("drivers") / "data"
    log = obd_data / "19drivers.csv"
    command = [sys.executable, "-m", "fleven.cli", "data", "import", str(log), "--out", str(folder), "--clients", "5"]
    subprocess.run(command, check=True, capture_output=True)
    return sorted(folder.glob("client_*"))


@pytest.mark.training
@pytest.mark.real_data
def test_one_hostile_car_of_five_costs_the_honest_ones_no_more_than_it_may(
    simulate: Any, five_drivers: list[Path]
) -> None:
    """By the mean with its bounds at most 0.05 of R², by a robust rule 0.02."""
    shipped = {"sequence_length": 20, "hidden_size": 32, "local_epochs": 3, "rounds": 10, "dropout": 0.3}
    runs = Federations(five_drivers, simulate, **shipped)
    alone = runs.honest_r2("none", "mean")
    assert alone > 0.65
    assert runs.suspects("none", "mean") == []
    for kind in (*HOSTILITY, "poisoned statistics"):
        assert runs.honest_r2(kind, "mean") > alone - 0.05, kind
    for rule_ in ("median", "trimmed-mean", "multi-krum"):
        for kind in ("huge", "turned round, ten times"):
            assert runs.honest_r2(kind, rule_) > runs.honest_r2("none", rule_) - 0.02, (rule_, kind)
