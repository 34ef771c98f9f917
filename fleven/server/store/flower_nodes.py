"""Flower's own list of nodes, as the scheduler last read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from fleven.server.model import FlowerNode
from fleven.server.store.tables import facts, flower_nodes

SUPERLINK_FACT = "superlink"


def replace_all(connection: Connection, nodes: Sequence[FlowerNode], now: datetime) -> None:
    """Store Flower's list; nodes that it does not name any more are removed."""
    for node in nodes:
        values = {
            "status": node.status,
            "online_since": node.online_since,
            "offline_since": node.offline_since,
            "seen_at": now,
        }
        statement = insert(flower_nodes).values(node_id=node.node_id, **values)
        connection.execute(statement.on_conflict_do_update(index_elements=["node_id"], set_=values))
    connection.execute(flower_nodes.delete().where(flower_nodes.c.seen_at < now))


def every(connection: Connection) -> tuple[list[FlowerNode], datetime | None]:
    """Return Flower's list and when it was read."""
    rows = connection.execute(select(flower_nodes)).all()
    nodes = [FlowerNode(row.node_id, row.status, row.online_since, row.offline_since) for row in rows]
    seen_at = connection.execute(select(facts.c.at).where(facts.c.key == "flower-nodes")).scalar()
    return nodes, seen_at
