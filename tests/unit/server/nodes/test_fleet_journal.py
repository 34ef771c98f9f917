"""A car that is lost is a warning in the journal, once; one that is back is told of, too."""

import logging

from fleven.server.nodes.fleet_journal import FleetJournal
from fleven.server.nodes.model import Node, NodeHealth


def car(health: NodeHealth, reason: str = "") -> Node:
    return Node(name="n1", partition_id=0, health=health, reason=reason)


def test_a_lost_car_is_a_warning_once_and_its_return_is_told() -> None:
    journal = FleetJournal()
    assert journal.changes([car(NodeHealth.READY)]) == []
    assert journal.changes([car(NodeHealth.BUSY)]) == []
    lost = journal.changes([car(NodeHealth.OFFLINE, "no report for 2 min")])
    assert lost == [(logging.WARNING, "event=node-lost node=n1 state=offline reason='no report for 2 min'")]
    assert journal.changes([car(NodeHealth.OFFLINE, "no report for 3 min")]) == []
    assert journal.changes([car(NodeHealth.READY)]) == [(logging.INFO, "event=node-ready node=n1")]
    assert journal.changes([car(NodeHealth.GATED, "hot")])[0] == (
        logging.WARNING,
        "event=node-gated node=n1 state=gated reason='hot'",
    )


def test_the_state_of_things_at_the_start_is_no_news() -> None:
    assert FleetJournal().changes([car(NodeHealth.OFFLINE)]) == []
