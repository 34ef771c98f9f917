"""What ends with a SuperNode when the next one of its key begins.

A SuperNode keeps nothing over its end: the tasks that it had taken are lost, and nobody tells the SuperLink, which goes
on waiting for their answers as long as the key's node is online: with the next SuperNode it is (flwr 1.34:
`SqlLinkState.get_message_ins` marks a message as delivered when it is pulled, and `get_message_res` gives it up only
for a node without heartbeats or after its time to live). And what a dead SuperNode has asked last may still be on its
way, in the buffers of a link that was cut: a pull among it would take the next task along into nowhere, a farewell
would take the new SuperNode for gone. So what was taken along is given back to the ServerApp as lost, at once, and what
was asked before is not heard any more. Imports nothing of Flower.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

log = logging.getLogger(__name__)
SESSION_ENDS_SECONDS = 3.5
"""A ServerApp asks for its answers at least every 3 s (Flower's grid): so it has seen that the node was gone, and waits
no longer for what was sent to a SuperNode that has died. Only where it cannot be told which messages these are."""


class Nodes(Protocol):
    """The part of Flower's LinkState that tells who is online, and keeps the messages."""

    def get_node_id_by_public_key(self, public_key: bytes) -> int | None:
        """Return the node of a key."""

    def deactivate_node(self, node_id: int) -> bool:
        """Take a node for offline; return False when it was not online."""

    def delete_messages(self, message_ins_ids: set[str]) -> None:
        """Delete messages and what has come of their answers: who asks for one is told that it is not available."""


def end_session_before(
    nodes: Nodes,
    key: bytes,
    unanswered: Callable[[int], frozenset[str] | None],
    sleep: Callable[[float], None] = time.sleep,
) -> frozenset[str]:
    """End all that a key's SuperNode before has left, and return the messages that it had taken along.

    One key has one SuperNode: where the node is still online, the one before has died without a word (its power was
    cut, it was killed). Flower refuses the new one as long as it believes the last heartbeat, for a minute in a run,
    for ten of an idle car.

    Args:
        nodes: Flower's state.
        key: of the SuperNode that asks to be let in.
        unanswered: the messages that a node has taken and not answered in full; None where that cannot be told.
        sleep: waits so many seconds.
    """
    node_id = nodes.get_node_id_by_public_key(key)
    if node_id is None:
        return frozenset()
    was_online = nodes.deactivate_node(node_id)
    lost = unanswered(node_id)
    if lost is None:
        if was_online:
            sleep(SESSION_ENDS_SECONDS)
        return frozenset()
    if lost:
        nodes.delete_messages(set(lost))
        log.warning("event=tasks-lost node_id=%d tasks=%d reason='its SuperNode was started again'", node_id, len(lost))
    return lost


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a SuperNode. peer: its end of the connection. signed_at: when it was signed, by its own clock."""

    peer: str
    signed_at: datetime


class Sessions:
    """Which calls are of a SuperNode that another of the same key has replaced; for any thread.

    Such a call was signed before the newer SuperNode asked to be let in, and comes over another connection. Both, since
    a clock that is set back meanwhile must shut nobody out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: dict[bytes, Call] = {}

    def is_over(self, key: bytes, call: Call) -> bool:
        """Return whether a call comes from a SuperNode that was replaced."""
        with self._lock:
            began = self._began.get(key)
        return began is not None and call.signed_at < began.signed_at and call.peer != began.peer

    def begin(self, key: bytes, call: Call) -> None:
        """Note that a SuperNode asks to be let in."""
        with self._lock:
            self._began[key] = call
