"""The run configuration: defaults in one place only, every mistake said at once."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from fleven.app.errors import SettingsError
from fleven.app.settings import KEYS, Settings, parse


def test_the_shipped_configuration_is_the_default(repository: Path) -> None:
    shipped = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert shipped == Settings().as_config()
    assert list(shipped) == list(KEYS)


def test_settings_survive_the_way_through_flower() -> None:
    cars = f"{2**64 - 1}=0, 17=2,"
    settings = parse(
        {"feature-columns": " engine_rpm , fuel_rate", "learning-rate": 1, "strategy": "fedyogi", "cars": cars}
    )
    assert settings.cars == {2**64 - 1: 0, 17: 2}
    assert settings.feature_columns == ("engine_rpm", "fuel_rate")
    assert parse(settings.as_config()) == settings


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rounds", 0, "rounds: must be greater than or equal to 1 (got 0)"),
        ("rounds", "3", "rounds: must be a valid integer (got '3')"),
        ("rounds", True, "rounds: must be a valid integer (got True)"),
        ("rounds", 2.5, "rounds: must be a valid integer"),
        ("train-test-split", 1.0, "train-test-split: must be less than 1"),
        ("strategy", "fedsgd", "strategy: must be 'fedavg', 'fedadam', 'fedyogi' or 'fedadagrad' (got 'fedsgd')"),
        ("model-type", "transformer", "model-type: must be 'lstm' or 'mlp'"),
        ("experiment", "../elsewhere", "experiment: "),
        ("target-column", "a,b", "target-column: must name one column"),
        ("feature-columns", " , ", "feature-columns: must name at least one column"),
        ("feature-columns", "engine_rpm,engine_rpm", "feature-columns: names engine_rpm more than once"),
        ("feature-columns", "engine_rpm,vehicle_speed", "feature-columns: contains the target vehicle_speed"),
        ("feature-columns", "speed,engine_rpm", "feature-columns: contains the target vehicle_speed as speed"),
        ("feature-columns", "engine_rpm, Speed[km/h] ", "contains the target vehicle_speed as Speed[km/h], so the"),
        ("target-column", " engine_rpm", "feature-columns: contains the target engine_rpm, so the"),
        ("target-column", "MAF ", "feature-columns: contains the target MAF as mass_air_flow, so the"),
        ("feature-columns", "rpm,engine_rpm", "feature-columns: names engine_rpm more than once"),
        ("quorum", 3, "quorum: 3 is more than min-nodes (2)"),
        ("featur-columns", "engine_rpm", "featur-columns: unknown key (did you mean feature-columns?)"),
        ("learning-rate", float("nan"), "learning-rate: "),
        ("server-beta-1", 1.0, "server-beta-1: must be less than 1"),
        ("cars", "12", "cars: must be NODE_ID=PARTITION, separated by commas, not '12'"),
        ("cars", "1=0,1=1", "cars: names node 1 more than once"),
        ("cars", "1=0, 2=0", "cars: gives partition 0 to more than one node"),
        ("cars", f"{2**64}=0", "is out of range"),
        ("cars", f"1={2**31}", "is out of range"),
        ("seed", -1, "seed: must be greater than or equal to 0"),
    ],
)
def test_a_wrong_key_or_value_is_named(key: str, value: Any, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse({key: value})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 78


def test_columns_that_only_look_alike_are_no_repetition() -> None:
    names = "engine_rpm,Speed[kg],oil_temperature,oil_pressure"
    assert parse({"feature-columns": names}).feature_columns == tuple(names.split(","))


def test_all_problems_are_said_at_once() -> None:
    wrong = {"rounds": 0, "roundz": 1, "feature-columns": "vehicle_speed", "quorum": 9, "dropout": "much"}
    with pytest.raises(SettingsError) as caught:
        parse(wrong)
    assert len(caught.value.problems) == len(wrong)


@pytest.mark.parametrize(("quorum", "nodes", "needed"), [(0, 1, 1), (0, 2, 2), (0, 30, 2), (5, 30, 5)])
def test_quorum(quorum: int, nodes: int, needed: int) -> None:
    assert parse({"quorum": quorum, "min-nodes": nodes}).quorum_nodes == needed
