"""Flower's own state with what we put before it: answers that are on their way, tasks that a SuperNode took along."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager

from fleven.server.flower.line import installed_line
from fleven.server.flower.quick_reads import QuickReads, read_first
from fleven.server.flower.supernode_sessions import end_session_before
from fleven.server.flower.whole_answers import hold_back_arriving

# Flower configures Alembic so.
pytestmark = [pytest.mark.flower, pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")]
HEARTBEAT_SECONDS = 30.0
KEYS = (b"first", b"second")


class SuperLink:
    """A run, two nodes, and what they tell each other, as the SuperLink's servicers do it."""

    def __init__(self, folder: Path) -> None:
        database = folder / "superlink.db"
        self.database = sqlite3.connect(database)
        self.reads = QuickReads(database, installed_line().superlink_insides)
        kept: Any = type("Kept", (SqlLinkState,), {})
        read_first(kept, self.reads)
        hold_back_arriving(kept, self.reads)
        self.state: Any = kept(str(database), NoOpFederationManager(), ObjectStoreFactory(str(database)).store())
        self.state.initialize()
        self.run = self.state.create_run(
            "lainf/fleven", "1", "hash", {}, NOOP_FEDERATION_ID, None, "", TaskType.SERVER_APP
        )
        self.nodes = [self.state.create_node("", "", key, HEARTBEAT_SECONDS) for key in KEYS]
        for node in self.nodes:
            assert self.state.activate_node(node, HEARTBEAT_SECONDS)

    def ask(self, node: int) -> Message:
        """Send a node a task, and have it take it."""
        message = Message(RecordDict(), node, "train", ttl=600)
        message.metadata.__dict__.update(
            _run_id=self.run, _src_node_id=SUPERLINK_NODE_ID, _message_id=message.object_id
        )
        session = self.state.start_session(self.run)
        stored, _ = self.state.store_message_and_object_tree(message, get_object_tree(message), session)
        assert stored
        [taken] = self.state.get_message_ins(node, 1)
        return taken

    def announce(self, task: Message) -> Iterator[None]:
        """Announce the answer to a task, and bring one of its parts with each step."""
        answer = Message(RecordDict({"model": ArrayRecord()}), reply_to=task)
        answer.metadata.__dict__["_message_id"] = answer.object_id
        parts = get_all_nested_objects(answer)
        session = self.state.start_session(self.run)
        stored, missing = self.state.store_message_and_object_tree(answer, get_object_tree(answer), session)
        assert stored
        assert len(missing) > 1
        for name in missing:
            yield
            assert self.state.store_object(self.run, session, name, parts[name].deflate())

    def answers(self, *tasks: Message) -> dict[str, int]:
        """Return what the ServerApp gets: the error's code, 0 for an answer."""
        found = self.state.get_message_res(message_ids={task.metadata.message_id for task in tasks})
        return {one.metadata.reply_to_message_id: one.error.code if one.has_error() else 0 for one in found}

    def change(self, statement: str) -> None:
        """Change the database."""
        self.database.execute(statement)
        self.database.commit()


@pytest.fixture
def superlink(tmp_path: Path) -> SuperLink:
    return SuperLink(tmp_path)


def test_an_answer_is_given_out_when_all_of_it_is_there_and_holds_no_other_up(superlink: SuperLink) -> None:
    slow, quick = (superlink.ask(node) for node in superlink.nodes)
    arriving = superlink.announce(slow)
    next(arriving)
    next(arriving)
    assert superlink.answers(slow, quick) == {}
    for _ in superlink.announce(quick):
        assert superlink.answers(slow, quick) == {}
    assert superlink.answers(slow, quick) == {quick.metadata.message_id: 0}
    assert superlink.answers(slow) == {}
    for _ in arriving:
        pass
    assert superlink.answers(slow) == {slow.metadata.message_id: 0}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("UPDATE node SET online_until = 1", ErrorCode.NODE_UNAVAILABLE),
        ("UPDATE node SET status = 'unregistered'", ErrorCode.NODE_UNAVAILABLE),
        ("UPDATE message_ins SET ttl = 0", ErrorCode.MESSAGE_UNAVAILABLE),
        # Nothing has come for three minutes: the ServerApp finds a part missing, and Flower gives the answer up.
        ("UPDATE object_push_sessions SET expires_at = '2026-01-01 00:00:00.000000'", 0),
    ],
)
def test_an_answer_that_will_never_be_there_is_given_up_as_flower_does(
    superlink: SuperLink, change: str, code: int
) -> None:
    task = superlink.ask(superlink.nodes[0])
    next(superlink.announce(task))
    assert superlink.answers(task) == {}
    superlink.change(change)
    assert superlink.answers(task) == {task.metadata.message_id: code}


def test_the_next_supernode_of_a_key_gives_back_the_tasks_of_the_one_before(superlink: SuperLink) -> None:
    node, other = superlink.nodes

    def end() -> frozenset[str]:
        return end_session_before(superlink.state, KEYS[0], superlink.reads.unanswered)

    taken, half, whole, elsewhere = (superlink.ask(one) for one in (node, node, node, other))
    next(superlink.announce(half))
    for _ in superlink.announce(whole):
        pass
    waiting = Message(RecordDict(), node, "train", ttl=600)
    waiting.metadata.__dict__.update(
        _run_id=superlink.run, _src_node_id=SUPERLINK_NODE_ID, _message_id=waiting.object_id
    )
    assert superlink.state.store_message_ins(waiting)
    assert end() == {taken.metadata.message_id, half.metadata.message_id}
    assert superlink.state.activate_node(node, HEARTBEAT_SECONDS)
    assert superlink.answers(taken, half, whole, elsewhere) == {
        taken.metadata.message_id: ErrorCode.MESSAGE_UNAVAILABLE,
        half.metadata.message_id: ErrorCode.MESSAGE_UNAVAILABLE,
        whole.metadata.message_id: 0,
    }
    assert [one.metadata.message_id for one in superlink.state.get_message_ins(node, 1)] == [
        waiting.metadata.message_id
    ]
    assert end() == {waiting.metadata.message_id}
    assert end() == frozenset()
