"""The statements by which reports are written, made once.

SQLAlchemy spends more time on making a statement with thirty values than SQLite on running it. Imports tables only.
"""

from __future__ import annotations

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from fleven.server.node_tables import node_events, node_tasks, nodes, samples, senders

SELECT_SENDER = (
    select(senders.c.id.label("sender_key"), senders.c.last_sequence.label("sender_last_sequence"), *nodes.c)
    .join(nodes, nodes.c.id == senders.c.node_id)
    .where(senders.c.sender_id == bindparam("wanted"))
)
SELECT_NODE_BY_NAME = select(nodes).where(nodes.c.name == bindparam("wanted"))
SELECT_NAME = select(nodes.c.id).where(nodes.c.name == bindparam("wanted"))
SELECT_SAME_PARTITION = select(*(column for column in nodes.c if column.name != "report")).where(
    nodes.c.partition_id == bindparam("wanted"),
    nodes.c.last_seen_at >= bindparam("since"),
    nodes.c.id != bindparam("me"),
)
UPDATE_NODE = update(nodes).where(nodes.c.id == bindparam("node_key"))
UPDATE_SENDER = update(senders).where(senders.c.id == bindparam("sender_key"))
INSERT_SAMPLES = sqlite_insert(samples).on_conflict_do_nothing()
INSERT_TASKS = sqlite_insert(node_tasks).on_conflict_do_nothing()
INSERT_EVENTS = insert(node_events)
SELDOM = frozenset({"id", "name", "labels", "first_seen_at", "drain_wanted_reason"})
"""Columns of a node that a report does not change, or only by a new name."""
