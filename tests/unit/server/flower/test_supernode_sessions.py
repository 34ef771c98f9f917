"""What ends with a SuperNode: the tasks that it had taken along, and the calls that are still on their way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fleven.server.flower.supernode_sessions import SESSION_ENDS_SECONDS, Call, Sessions, end_session_before

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


class OneNode:
    """Flower's memory of one node and its messages."""

    def __init__(self, *, online: bool) -> None:
        self.online = online
        self.deleted: list[set[str]] = []

    def get_node_id_by_public_key(self, public_key: bytes) -> int | None:
        return 11 if public_key == b"known" else None

    def deactivate_node(self, node_id: int) -> bool:
        assert node_id == 11
        was, self.online = self.online, False
        return was

    def delete_messages(self, message_ins_ids: set[str]) -> None:
        self.deleted.append(message_ins_ids)


@pytest.mark.parametrize("online", [True, False])
def test_the_next_supernode_gives_back_what_the_one_before_had_taken_along(online: bool) -> None:
    """It may have left in order, with its task: nobody has told the ServerApp."""
    node, slept = OneNode(online=online), list[float]()
    taken = {11: frozenset({"train", "query"})}
    assert end_session_before(node, b"known", taken.__getitem__, slept.append) == {"train", "query"}
    assert (node.online, node.deleted, slept) == (False, [{"train", "query"}], [])


def test_a_supernode_that_had_nothing_is_followed_at_once() -> None:
    node, slept = OneNode(online=True), list[float]()
    assert not end_session_before(node, b"known", lambda _: frozenset(), slept.append)
    assert (node.online, node.deleted, slept) == (False, [], [])


def test_a_stranger_ends_nothing() -> None:
    node = OneNode(online=True)
    assert not end_session_before(node, b"other", lambda _: frozenset({"train"}))
    assert (node.online, node.deleted) == (True, [])


def test_where_messages_cannot_be_told_the_next_one_waits_until_all_have_seen_that_the_node_was_gone() -> None:
    node, slept = OneNode(online=True), list[float]()
    assert not end_session_before(node, b"known", lambda _: None, slept.append)
    assert (node.online, slept) == (False, [SESSION_ENDS_SECONDS])
    assert SESSION_ENDS_SECONDS > 3, "Flower's grid asks every 3 s"
    end_session_before(node, b"known", lambda _: None, slept.append)
    assert slept == [SESSION_ENDS_SECONDS], "one that left in order comes back at once"


@pytest.mark.parametrize(
    ("peer", "seconds", "over"),
    [
        ("ipv4:10.0.0.2:1", -90.0, True),  # what was still on its way when the one before was killed
        ("ipv4:10.0.0.2:2", -90.0, False),  # over its own connection: its clock was set back
        ("ipv4:10.0.0.2:3", 1.0, False),  # over a connection that it has made since
        ("ipv4:10.0.0.2:2", 0.0, False),
    ],
)
def test_a_call_of_a_supernode_that_was_replaced_is_not_heard(peer: str, seconds: float, over: bool) -> None:
    sessions = Sessions()
    call = Call(peer, NOON + timedelta(seconds=seconds))
    assert not sessions.is_over(b"key", call), "after a start of the SuperLink nothing is known"
    sessions.begin(b"key", Call("ipv4:10.0.0.2:2", NOON))
    assert sessions.is_over(b"key", call) is over
    assert not sessions.is_over(b"other", call)
