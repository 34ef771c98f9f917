"""Which nodes belong to the fleet, and how many a run may count on: one answer for everybody."""

import pytest

from fleven.server.config.settings import ServerConfig
from fleven.server.nodes.model import Node, NodeHealth
from fleven.server.nodes.readiness import counted_nodes, heard, readiness

NODES = tuple(Node(f"node-{health}", number, health) for number, health in enumerate(NodeHealth))


def config(*, count_unmanaged: bool) -> ServerConfig:
    return ServerConfig.model_validate({"fleet": {"count-unmanaged": count_unmanaged}})


@pytest.mark.parametrize(("counted", "text"), [(False, "2 of 10"), (True, "3 of 11")])
def test_a_node_without_agent_counts_where_the_configuration_says_so(counted: bool, text: str) -> None:
    assert str(readiness(NODES, config(count_unmanaged=counted))) == text


def test_a_car_that_waits_does_not_belong_to_the_fleet_yet_and_a_revoked_one_no_longer() -> None:
    left_out = {node.name for node in NODES} - {
        node.name for node in counted_nodes(NODES, config(count_unmanaged=True))
    }
    assert left_out == {"node-pending", "node-revoked"}


def test_those_that_are_heard_are_those_that_report_at_present() -> None:
    assert heard(NODES) == {"node-ready", "node-busy", "node-starting", "node-gated", "node-drained"}
