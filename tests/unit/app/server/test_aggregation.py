"""Averaging with a minority of ill will: the rules by themselves, and whole runs with one hostile car of five."""

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import hostile_cars
import numpy as np
import pytest

from fleven.app.server import aggregation, strategy
from fleven.app.server.aggregation import Unlike
from fleven.app.server.rounds import Federation
from fleven.app.settings import Settings, parse


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
    kept, cuts = strategy.shorten(cars, BASE, 3.0, {3})
    assert np.allclose(kept[3], BASE - vector(2, 0))
    assert cuts == {3: strategy.Cut(2.0, 1.0)}
    assert strategy.shorten(cars, BASE, 3.0)[1] == {}


# One hostile car of five


class Runs:
    """Runs of five cars of which the first may be hostile."""

    def __init__(self, folders: list[Path], out: Path, **changes: Any) -> None:
        self.folders = folders
        self.changes = changes | {"personal": "none", "save-checkpoint-every": 0, "share-predictions": 0}
        self.changes |= {"metrics-base-path": str(out), "results-base-path": str(out)}
        self.done: dict[tuple[str, str], Federation] = {}

    def run(self, kind: str, rule: str) -> Federation:
        if (kind, rule) not in self.done:
            settings = parse(self.changes | {"aggregation": rule})
            self.done[kind, rule] = hostile_cars.federation(kind, self.folders, settings)
        return self.done[kind, rule]

    def suspects(self, kind: str, rule: str) -> list[int]:
        run = self.run(kind, rule)
        cars = run.history.cars(run.final, run.fleet.cars)
        return [car["partition_id"] for car in cars if car["update_suspicious"]]

    def honest_r2(self, kind: str, rule: str) -> float:
        """R² over the windows of all cars but the first."""
        found = hostile_cars.honest_score(self.run(kind, rule)).r2
        assert found is not None
        return found


@pytest.mark.training
@pytest.mark.parametrize("kind", ["huge values", "reversed, ten times as long", "untrained"])
def test_a_hostile_car_is_named_and_no_other(make_car: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    small = {"sequence-length": 5, "hidden-size": 4, "local-epochs": 1, "rounds": 2, "dropout": 0.0, "threads": 1}
    runs = Runs([make_car(partition) for partition in range(5)], tmp_path / "out", **small)
    assert runs.suspects(kind, "mean") == [0]
    (warning,) = (row for row in runs.run(kind, "mean").history.warnings if row["code"] == "update-suspicious")
    assert (warning["partition_id"], warning["rounds"]) == (0, [1, 2])


@pytest.fixture(scope="module")
def five_drivers(tmp_path_factory: pytest.TempPathFactory, obd_data: Path) -> list[Path]:
    """Return the folders of five cars with the trips of 19 drivers."""
    folder = tmp_path_factory.mktemp("drivers") / "data"
    log = obd_data / "19drivers.csv"
    command = [sys.executable, "-m", "fleven.cli", "data", "import", str(log), "--out", str(folder), "--clients", "5"]
    subprocess.run(command, check=True, capture_output=True)
    return sorted(folder.glob("client_*"))


#: By how much R² over the honest cars' held-out windows may fall when one car of five is hostile.
BOUNDS = {"mean": 0.05, "median": 0.02, "trimmed-mean": 0.02, "multi-krum": 0.02}


def falls(runs: Runs, rule: str, kinds: Iterable[str]) -> dict[str, float]:
    """Return by how much R² falls, for the kinds that cost more than they may."""
    alone = runs.honest_r2("honest", rule)
    assert alone > 0.65
    costs = {kind: alone - runs.honest_r2(kind, rule) for kind in kinds}
    return {kind: round(cost, 4) for kind, cost in costs.items() if cost > BOUNDS[rule]}


@pytest.mark.training
@pytest.mark.real_data
@pytest.mark.timeout(900)
def test_one_hostile_car_of_five_costs_the_honest_ones_no_more_than_it_may(
    five_drivers: list[Path], tmp_path: Path
) -> None:
    runs = Runs(five_drivers, tmp_path)
    assert runs.suspects("honest", "mean") == []
    kinds = ("huge values", "reversed, ten times as long", "the first global weights again")
    claims = ("reversed, and a billion rows", "statistics almost left out, and a billion rows")
    found = {rule: falls(runs, rule, (*kinds, *claims) if rule == "mean" else kinds) for rule in BOUNDS}
    assert found == {rule: {} for rule in BOUNDS}


@pytest.mark.training
@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rule", BOUNDS)
def test_no_kind_of_hostile_car_costs_the_honest_ones_more_than_it_may(
    five_drivers: list[Path], tmp_path: Path, rule: str
) -> None:
    assert falls(Runs(five_drivers, tmp_path), rule, set(hostile_cars.KINDS) - {"honest"}) == {}
