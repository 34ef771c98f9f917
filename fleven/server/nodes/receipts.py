"""The answer to a batch of reports: what was stored, and what the register has to tell the car.

Reads the register, and writes nothing. Must not import FastAPI or the scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, select

from fleven.server.database.facts import HEARTBEATS_FACT
from fleven.server.database.tables import facts as fact_rows
from fleven.server.database.tables import flower_nodes, nodes
from fleven.server.enrolment.model import EnrolmentError
from fleven.server.nodes.health import REPORTS_MISSED, Limits, problems_to_tell
from fleven.server.nodes.model import Condition
from fleven.server.nodes.node_facts import facts_from_row
from fleven.server.nodes.normalise import LONGEST_INTERVAL_SECONDS
from fleven_agent.protocol.report import Drained

LONGEST_SILENCE_SECONDS = REPORTS_MISSED * LONGEST_INTERVAL_SECONDS
OVERDUE_VALID_SECONDS = 15.0
"""How old what is known of heartbeats may be, which is looked at every 5 s."""
TOLD_LIST_SECONDS = 30.0
"""Age up to which Flower's list is told to a node, which replaces a SuperNode that it calls offline."""


@dataclass(slots=True)
class Receipt:
    """The answer to one batch."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    drain: Drained | None = None
    problems: list[Condition] = field(default_factory=list)
    node_names: list[str] = field(default_factory=list)
    """Of the cars that reported."""
    flower_offline: dict[str, float] = field(default_factory=dict)
    """Flower's ids of the reporting nodes that Flower's own list calls offline, and for how long [s]."""
    report_again: bool = False
    """It came from an agent that another has superseded: if that is alive, it is to show itself by a new report."""
    refused: EnrolmentError | None = None
    """Why nothing of it was stored: the car that signed it may not take part."""


def tell(receipt: Receipt, connection: Connection, node: dict[str, Any], now: datetime, limits: Limits) -> None:
    """Add to a receipt what the register has to tell one of the nodes that reported.

    Args:
        receipt: of the batch.
        connection: the transaction that has stored the node's reports.
        node: its row of `nodes`, as it then is.
        now: the moment.
        limits: thresholds of the verdict.
    """
    if node["drain_wanted"] is not None:
        receipt.drain = Drained(active=node["drain_wanted"], reason=node["drain_wanted_reason"])
    since = now - timedelta(seconds=limits.offline_after_seconds + LONGEST_SILENCE_SECONDS)
    receipt.node_names.append(node["name"])
    wanted = {"wanted": node["partition_id"], "since": since, "me": node["id"]}
    others = connection.execute(SELECT_SAME_PARTITION, wanted).mappings()
    fleet = [facts_from_row(dict(row)) for row in others]
    facts = facts_from_row(node)
    receipt.problems += problems_to_tell(facts, [facts, *fleet], now, limits)
    overdue = connection.execute(SELECT_OVERDUE).first()
    if overdue is not None and (now - overdue.at).total_seconds() <= OVERDUE_VALID_SECONDS:
        for node_id in {node["flower_node_id"]} & overdue.value.keys():
            receipt.flower_offline[node_id] = overdue.value[node_id]
    offline = connection.execute(SELECT_OFFLINE, {"wanted": node["flower_node_id"]}).first()
    if offline is not None and (now - offline.seen_at).total_seconds() <= TOLD_LIST_SECONDS:
        since = offline.offline_since or offline.seen_at
        receipt.flower_offline[node["flower_node_id"]] = max(0.0, (now - since).total_seconds())


SELECT_SAME_PARTITION = select(*(column for column in nodes.c if column.name != "report")).where(
    nodes.c.partition_id == bindparam("wanted"),
    nodes.c.last_seen_at >= bindparam("since"),
    nodes.c.id != bindparam("me"),
)
SELECT_OFFLINE = select(flower_nodes.c.offline_since, flower_nodes.c.seen_at).where(
    flower_nodes.c.node_id == bindparam("wanted"), flower_nodes.c.status == "offline"
)
SELECT_OVERDUE = select(fact_rows.c.value, fact_rows.c.at).where(fact_rows.c.key == HEARTBEATS_FACT)
