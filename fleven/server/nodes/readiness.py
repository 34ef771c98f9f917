"""Which nodes belong to the fleet, and how many of them a run may count on: the same for commands, page and scheduler.

Pure. Must not import SQLAlchemy or a clock: the nodes are handed in as the registry judges them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleven.server.config.settings import ServerConfig
from fleven.server.nodes.model import Node, NodeHealth

HEARING = frozenset({NodeHealth.READY, NodeHealth.BUSY, NodeHealth.STARTING, NodeHealth.GATED, NodeHealth.DRAINED})


@dataclass(frozen=True, slots=True)
class Readiness:
    """How many nodes a run may count on, of how many that belong to the fleet."""

    ready: int
    nodes: int

    def __str__(self) -> str:
        return f"{self.ready} of {self.nodes}"


def readiness(nodes: Sequence[Node], config: ServerConfig) -> Readiness:
    """Return the fleet in two numbers: the same for commands, page, answers and scheduler.

    A SuperNode that no agent looks after belongs to the fleet only where the configuration counts it.
    """
    counted = [node for node in counted_nodes(nodes, config) if node.health is not NodeHealth.UNMANAGED]
    return Readiness(sum(node.ready for node in counted), len(counted))


def heard(nodes: Sequence[Node]) -> frozenset[str]:
    """Return the names of the nodes that report at present."""
    return frozenset(node.name for node in nodes if node.health in HEARING)


def counted_nodes(nodes: Sequence[Node], config: ServerConfig) -> tuple[Node, ...]:
    """Return the nodes of the fleet; those that no agent looks after count as ready where the configuration says so.

    A car that waits to be accepted does not belong to it yet, and a revoked one no longer.
    """
    members = [node for node in nodes if node.health not in (NodeHealth.PENDING, NodeHealth.REVOKED)]
    if not config.fleet.count_unmanaged:
        return tuple(members)
    return tuple(
        replace(node, health=NodeHealth.READY) if node.health is NodeHealth.UNMANAGED else node for node in members
    )
