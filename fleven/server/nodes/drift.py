"""Whether the model in use still fits: each car's errors on its new trips against the error at promotion.

The test is Page's (E. S. Page 1954, "Continuous inspection schemes", Biometrika 41, 100-115; with Hinkley 1971 called
Page-Hinkley): it sums by how much each error is above what is expected and tolerated, never below zero, and tells when
the sum passes a threshold. One bad trip is not enough unless it is very bad, and many that are a little bad are. Pure
but for `remember` and `remembered`. Must not import the scheduler, the registry of models or FastAPI.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from fleven.server.database.tables import facts
from fleven.server.nodes.model import Condition, Drift, Node, Severity
from fleven_agent.protocol.report import ModelState

CODE = "model-drift"
FACT = "model-references"
HINT = "a run on its new trips may help; `schedule edit NAME --when-drift` starts runs when half of the cars say so"
TOLERATED = 0.2
"""So much above the error at promotion is no sign of anything: 0.2 is a fifth."""
THRESHOLD = 1.0
"""Twice the error of promotion on two trips passes it, and half as much again on four."""
FEWEST = 3
"""Trips without which nothing is said."""
FLEET_SHARE = 0.5
"""Of the cars that can tell, so many must tell of drift before the fleet is said to drift."""
MOST_ERRORS = 30


def statistic(errors: Iterable[float], expected: float, tolerated: float = TOLERATED) -> float:
    """Return Page's sum after the last error: max(0, sum + error / expected - 1 - tolerated) from one to the next.

    Args:
        errors: oldest first.
        expected: the error at promotion, above 0.
        tolerated: share of it.
    """
    total = 0.0
    for error in errors:
        total = max(0.0, total + error / expected - 1 - tolerated)
    return total


@dataclass(frozen=True, slots=True)
class Reference:
    """The error of a champion when it was promoted: of all cars together, and of each by its partition."""

    name: str
    sha256: str
    rmse: float | None
    cars: Mapping[str, float]

    def expected(self, partition_id: int | None) -> float | None:
        """Return the error that a car is measured by: its own, else that of all; None where there is none above 0."""
        found = self.cars.get(str(partition_id), self.rmse)
        return found if found is not None and found > 0 else None


def kept(model: ModelState | None) -> dict[str, Any] | None:
    """Return what the register keeps of a car's model to judge it by."""
    if model is None or model.current is None:
        return None
    errors = [error.rmse for error in model.errors[-MOST_ERRORS:] if math.isfinite(error.rmse)]
    return {"experiment": model.experiment, "sha256": model.current.sha256, "errors": errors}


def marked(
    nodes: Sequence[Node], models: Mapping[str, Any], references: Mapping[str, Reference], since: Mapping[str, datetime]
) -> tuple[Node, ...]:
    """Return the nodes with what their errors say, and the condition where they say that the model does not fit.

    Args:
        nodes: the fleet.
        models: what `kept` gave, by name.
        references: of the champions, by experiment.
        since: when each node's newest report was made, by name.
    """
    if not references:
        return tuple(nodes)
    return tuple(_judged(node, models.get(node.name), references, since.get(node.name)) for node in nodes)


def _judged(node: Node, model: Any, references: Mapping[str, Reference], since: datetime | None) -> Node:
    if not isinstance(model, Mapping):
        return node
    reference = references.get(str(model.get("experiment")))
    if reference is None or reference.sha256 != model.get("sha256"):
        return node
    errors, expected = list(model.get("errors") or []), reference.expected(node.partition_id)
    if expected is None or len(errors) < FEWEST:
        return replace(node, drift=Drift.UNKNOWN)
    found = statistic(errors, expected)
    if found <= THRESHOLD:
        return replace(node, drift=Drift.STEADY)
    newest = errors[-FEWEST:]
    message = (
        f"{reference.name} had an error of {sum(newest) / len(newest):.3g} on the newest {len(newest)} trips, "
        f"{expected:.3g} when it was promoted (Page's sum {found:.2g}, reported from {THRESHOLD:g})"
    )
    condition = Condition(CODE, Severity.WARNING, message, HINT, since)
    return replace(node, drift=Drift.DRIFTING, conditions=(*node.conditions, condition))


@dataclass(frozen=True, slots=True)
class FleetDrift:
    """What the cars' errors say together: how many have the champion, can tell, and tell of drift."""

    having: int
    telling: int
    drifting: tuple[str, ...]

    @property
    def drifts(self) -> bool:
        """Whether the fleet's model no longer fits it."""
        return bool(self.drifting) and len(self.drifting) >= FLEET_SHARE * self.telling


def of_fleet(nodes: Iterable[Node]) -> FleetDrift:
    """Return what the cars say together."""
    nodes = list(nodes)
    return FleetDrift(
        having=sum(node.drift is not Drift.NO_MODEL for node in nodes),
        telling=sum(node.drift in (Drift.STEADY, Drift.DRIFTING) for node in nodes),
        drifting=tuple(node.name for node in nodes if node.drift is Drift.DRIFTING),
    )


def remember(connection: Connection, experiment: str, reference: Reference, now: datetime) -> None:
    """Write down what cars are measured by from now on, in the transaction of the promotion."""
    known = connection.execute(select(facts.c.value).where(facts.c.key == FACT)).scalar() or {}
    entry = {"name": reference.name, "sha256": reference.sha256, "rmse": reference.rmse, "cars": dict(reference.cars)}
    statement = insert(facts).values(key=FACT, value={**known, experiment: entry}, at=now)
    values = {"value": statement.excluded.value, "at": now}
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=values))


def remembered(connection: Connection) -> dict[str, Reference]:
    """Return what cars are measured by, by experiment."""
    known = connection.execute(select(facts.c.value).where(facts.c.key == FACT)).scalar() or {}
    return {
        str(experiment): Reference(entry["name"], entry["sha256"], entry["rmse"], entry["cars"])
        for experiment, entry in known.items()
    }
