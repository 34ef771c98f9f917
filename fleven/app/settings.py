"""The run configuration as one frozen, validated model, the same on the server and on the cars.

Flower hands over a flat dictionary of str, int, float and bool. Everything that is wrong with it is reported at once,
before round 1. Must not import torch, pandas or flwr: the scheduler's checks and the tests load it alone.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .columns import match
from .errors import SettingsError


def _kebab(name: str) -> str:
    return name.replace("_", "-")


Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
#: Names that `strategy` takes; strategy.py has a function for each, or is not imported.
Strategy = Literal["fedavg", "fedadam", "fedyogi", "fedadagrad"]
Aggregation = Literal["mean", "median", "trimmed-mean", "multi-krum"]
#: One entry of `cars`: Flower's node id, a 64-bit number, and a partition.
CAR = re.compile(r"([0-9]{1,20})=([0-9]{1,10})")
LARGEST_PARTITION = 2**31 - 1


class Settings(BaseModel):
    """Every key of `[tool.flwr.app.config]`, with its default. Keys are written in kebab-case there."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", alias_generator=_kebab)

    # Where things are.
    data_base_path: Text = "/var/lib/fleven/data"
    metrics_base_path: Text = "metrics"
    results_base_path: Text = "results"
    experiment: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "Fleven-Deploy"
    cache_windows: bool = True

    # What is learnt from what.
    target_column: Text = "vehicle_speed"
    feature_columns: tuple[str, ...] = ("engine_rpm", "mass_air_flow", "calculated_load_value")
    sequence_length: Annotated[int, Field(ge=1, le=10_000)] = 20
    prediction_length: Annotated[int, Field(ge=1, le=1_000)] = 1
    train_test_split: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    split_by: Literal["time", "trip"] = "time"
    maximum_gap_factor: Annotated[float, Field(gt=1.0)] = 3.0

    # The network and its training on the car.
    model_type: Literal["lstm", "mlp"] = "lstm"
    hidden_size: Annotated[int, Field(ge=1, le=4096)] = 32
    num_layers: Annotated[int, Field(ge=1, le=16)] = 1
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    local_epochs: Annotated[int, Field(ge=1, le=1000)] = 3
    local_seconds: Annotated[float, Field(gt=0.0)] = 120.0
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    learning_rate: Annotated[float, Field(gt=0.0)] = 0.005
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    max_grad_norm: Annotated[float, Field(ge=0.0)] = 1.0
    proximal_mu: Annotated[float, Field(ge=0.0)] = 0.0
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    personal: Literal["none", "fine-tune", "head"] = "fine-tune"
    personal_epochs: Annotated[int, Field(ge=1, le=100)] = 3
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1

    # Which cars, each with its partition; none named: all that are connected, each with its own.
    cars: Mapping[int, int] = {}

    # Rounds.
    rounds: Annotated[int, Field(ge=1, le=100_000)] = 10
    min_nodes: Annotated[int, Field(ge=1)] = 2
    wait_for_nodes_seconds: Annotated[float, Field(ge=0.0)] = 300.0
    fraction_train: Share = 1.0
    quorum: Annotated[int, Field(ge=0)] = 0
    query_deadline_seconds: Annotated[float, Field(gt=0.0)] = 180.0
    round_deadline_seconds: Annotated[float, Field(gt=0.0)] = 600.0
    straggler_patience: Annotated[float, Field(ge=0.0)] = 2.0
    straggler_floor_seconds: Annotated[float, Field(ge=0.0)] = 4.0
    max_failed_rounds: Annotated[int, Field(ge=1)] = 3
    max_failed_share: Share = 0.5
    fit_and_evaluate: bool = True
    save_checkpoint_every: Annotated[int, Field(ge=0)] = 1
    resume_from: str = ""
    champion: str = ""
    share_predictions: Annotated[int, Field(ge=0, le=100_000)] = 200
    update_compression: Literal["none", "lossless", "fp16"] = "none"

    # Strategy.
    strategy: Strategy = "fedavg"
    aggregation: Aggregation = "mean"
    hostile_share: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.2
    max_share: Share = 0.5
    max_update_ratio: Annotated[float, Field(ge=0.0)] = 3.0
    server_learning_rate: Annotated[float, Field(gt=0.0)] = 0.01
    server_beta_1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    server_beta_2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    server_tau: Annotated[float, Field(gt=0.0)] = 1e-3

    @field_validator("feature_columns", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("feature_columns")
    @classmethod
    def _some_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("must name at least one column, separated by commas")
        same = [_same_reading(name) for name in value]
        if repeated := sorted({name for name in same if same.count(name) > 1}):
            raise ValueError(f"names {', '.join(repeated)} more than once")
        return value

    @field_validator("cars", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        return _cars(value) if isinstance(value, str) else value

    @field_validator("target_column")
    @classmethod
    def _one(cls, value: str) -> str:
        if "," in value:
            raise ValueError("must name one column")
        return value.strip()

    @property
    def columns(self) -> tuple[str, ...]:
        """Features in order, then the target."""
        return (*self.feature_columns, self.target_column)

    @property
    def span(self) -> int:
        """Rows that one window covers, its predicted readings included."""
        return self.sequence_length + self.prediction_length - 1

    @property
    def heads_stay(self) -> bool:
        """Whether the output layer of each car's network is its own and never leaves it."""
        return self.personal == "head"

    @property
    def quorum_nodes(self) -> int:
        """Cars that a round needs: `quorum`, or the smaller of 2 and `min-nodes` where it is 0."""
        return self.quorum or min(2, self.min_nodes)

    def as_config(self) -> dict[str, str | int | float | bool]:
        """Return the settings as Flower's run configuration has them."""
        plain = self.model_dump(by_alias=True)
        cars = ",".join(f"{node_id}={partition_id}" for node_id, partition_id in self.cars.items())
        return plain | {"feature-columns": ",".join(self.feature_columns), "cars": cars}


KEYS = tuple(_kebab(name) for name in Settings.model_fields)


def parse(run_config: Mapping[str, object]) -> Settings:
    """Check Flower's run configuration.

    Raises SettingsError, whose message names every wrong key and value.
    """
    problems = _disagreements(run_config)
    try:
        settings = Settings.model_validate(dict(run_config))
    except ValidationError as error:
        problems = [_problem(dict(detail)) for detail in error.errors(include_url=False)] + problems
    if problems:
        raise SettingsError(problems)
    return settings


def problems(run_config: Mapping[str, object]) -> list[str]:
    """Return what `parse` would refuse, one line `key: problem` each; `check-run-config` of pyproject.toml names it."""
    try:
        parse(run_config)
    except SettingsError as error:
        return error.problems
    return []


def _cars(text: str) -> dict[int, int]:
    """Read `NODE_ID=PARTITION,NODE_ID=PARTITION`. Raises ValueError for anything else."""
    cars: dict[int, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        if not (found := CAR.fullmatch(part)):
            raise ValueError(f"must be NODE_ID=PARTITION, separated by commas, not {part[:50]!r}")
        node_id, partition_id = int(found[1]), int(found[2])
        if node_id in cars:
            raise ValueError(f"names node {node_id} more than once")
        if partition_id in cars.values():
            raise ValueError(f"gives partition {partition_id} to more than one node")
        if node_id >= 2**64 or partition_id > LARGEST_PARTITION:
            raise ValueError(f"{part[:50]!r} is out of range")
        cars[node_id] = partition_id
    return cars


def _disagreements(run_config: Mapping[str, object]) -> list[str]:
    """Return what is wrong between keys; checked even when single keys are wrong, so that all is reported at once."""
    values = Settings().as_config() | dict(run_config)
    problems = []
    target, features = values["target-column"], values["feature-columns"]
    named = features.split(",") if isinstance(features, str) else features
    if isinstance(target, str) and isinstance(named, list | tuple):
        told = [
            name.strip() for name in named if isinstance(name, str) and _same_reading(name) == _same_reading(target)
        ]
        problems += [
            f"feature-columns: contains the target {target.strip()}"
            + (f" as {name}" if name != target.strip() else "")
            + ", so the model would be given the answer"
            for name in told
        ]
    quorum, nodes = values["quorum"], values["min-nodes"]
    if isinstance(quorum, int) and isinstance(nodes, int) and quorum > nodes:
        problems.append(f"quorum: {quorum} is more than min-nodes ({nodes})")
    if values["champion"] and values["personal"] == "head":
        problems.append("champion: with personal=head no car has another model's output layer, so none can be compared")
    return problems


def _same_reading(name: str) -> str:
    """Return the name that a column and its aliases share: a car may read both from one column of its file."""
    known = match(name)
    return known.column.name if known else name.strip()


def _problem(detail: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, KEYS, n=1)
        return f"{name}: unknown key" + (f" (did you mean {near[0]}?)" if near else "")
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    said = (message[:1].lower() + message[1:]).replace("input should be", "must be").replace("input should", "must")
    return f"{name}: {said}" + (f" (got {detail['input']!r})" if "got " not in said else "")
