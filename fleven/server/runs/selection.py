"""Which cars a run asks: those with the schedule's labels and names, and of these no more than it wants. Pure.

The same nodes count here and in `policy`, so that a run that may start has the cars for it. Must not import the store,
Flower or anything that reads a clock.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fleven.server.nodes.model import Node
from fleven.server.runs import policy
from fleven.server.schedules.spec import Conditions, Prefer


@dataclass(frozen=True, slots=True)
class Effort:
    """What the register knows of a car beside its state.

    Attributes:
        recent_tasks: tasks that it has done in the days that the caller looks back.
        temperature_celsius: its newest reading; None while it has none.
    """

    recent_tasks: int = 0
    temperature_celsius: float | None = None


def asked(
    conditions: Conditions, nodes: Sequence[Node], seed: str, efforts: Mapping[str, Effort] | None = None
) -> list[Node]:
    """Return the nodes that a run asks, by name.

    Those that count for its start, of these the ones that the schedule names, if it names any, and of these the
    `max-nodes` that `prefer` puts first. Equals are told apart by lot, so that no car is always the one left out.

    Args:
        conditions: the schedule's.
        nodes: the fleet.
        seed: the same one draws the same lots.
        efforts: by name; a car that is not in it has done nothing and has no temperature.
    """
    named = frozenset(conditions.nodes)
    found = [node for node in policy.eligible(conditions, nodes) if not named or node.name in named]
    if conditions.max_nodes and conditions.max_nodes < len(found):
        known = efforts or {}
        lots = random.Random(seed)  # noqa: S311  # not for secrets
        drawn = {node.name: lots.random() for node in sorted(found, key=lambda node: node.name)}
        rank = RANKS[conditions.prefer]
        found.sort(key=lambda node: (rank(node, known.get(node.name, Effort())), drawn[node.name]))
        found = found[: conditions.max_nodes]
    return sorted(found, key=lambda node: node.name)


def run_cars(
    conditions: Conditions,
    nodes: Sequence[Node],
    enrolled: Mapping[str, tuple[str, int]],
    seed: str,
    efforts: Mapping[str, Effort] | None = None,
) -> str:
    """Return the run config's `cars`: `NODE_ID=PARTITION`, separated by commas, by partition.

    With `max-nodes`, those that `asked` chooses. Otherwise every enrolled car that the schedule's labels and names
    choose and nobody has drained, also one that is off now: it may come back while the run is under way.

    Args:
        conditions: the schedule's.
        nodes: the fleet.
        enrolled: by name, Flower's id of the car's key and its partition; nobody else is asked.
        seed: draws the lots.
        efforts: as `asked` takes them.
    """
    if conditions.max_nodes:
        chosen = asked(conditions, [node for node in nodes if node.name in enrolled], seed, efforts)
    else:
        named, labels = frozenset(conditions.nodes), frozenset(conditions.labels)
        chosen = [
            node for node in nodes if not node.drained and labels <= node.labels and (not named or node.name in named)
        ]
    found = {node.name: enrolled[node.name] for node in chosen if node.name in enrolled}
    return ",".join(f"{node_id}={partition}" for node_id, partition in sorted(found.values(), key=lambda car: car[1]))


def _freshest(node: Node, _effort: Effort) -> float:
    return -node.newest_trip_at.timestamp() if node.newest_trip_at is not None else math.inf


def _fewest_tasks(_node: Node, effort: Effort) -> float:
    return effort.recent_tasks


def _coolest(_node: Node, effort: Effort) -> float:
    return effort.temperature_celsius if effort.temperature_celsius is not None else math.inf


def _random(_node: Node, _effort: Effort) -> float:
    return 0.0


#: What goes first; what is not known comes last.
RANKS: Mapping[Prefer, Callable[[Node, Effort], float]] = {
    Prefer.RANDOM: _random,
    Prefer.FRESHEST: _freshest,
    Prefer.FEWEST_TASKS: _fewest_tasks,
    Prefer.COOLEST: _coolest,
}
