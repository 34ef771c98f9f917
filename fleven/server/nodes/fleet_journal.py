"""Which cars were lost and which are back, for the journal: nobody watches the page all night.

Pure. Compares verdicts of `health`; must not import a clock or the register.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from fleven.server.nodes.model import Node, NodeHealth

LOST = frozenset(
    {
        NodeHealth.OFFLINE,
        NodeHealth.ZOMBIE,
        NodeHealth.FAILED,
        NodeHealth.GATED,
        NodeHealth.HELD,
        NodeHealth.REVOKED,
    }
)
FINE = frozenset({NodeHealth.READY, NodeHealth.BUSY})


class FleetJournal:
    """Remembers the last verdict about each node."""

    def __init__(self) -> None:
        self._last: dict[str, NodeHealth] | None = None

    def changes(self, nodes: Iterable[Node]) -> list[tuple[int, str]]:
        """Return (level of logging, line) for what has changed since the last call; the first call tells nothing."""
        now = {node.name: node for node in nodes}
        last, lines = self._last, []
        self._last = {name: node.health for name, node in now.items()}
        for name, node in now.items() if last is not None else ():
            before = last.get(name) if last is not None else None
            if node.health is before:
                continue
            if node.health in LOST and before is not None:
                event = "node-gated" if node.health is NodeHealth.GATED else "node-lost"
                lines.append(
                    (logging.WARNING, f"event={event} node={name} state={node.health.value} reason={node.reason!r}")
                )
            elif node.health in FINE and before not in FINE:
                lines.append((logging.INFO, f"event=node-ready node={name}"))
        return lines
