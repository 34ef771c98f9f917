"""Gives a ServerApp only answers that are there in full.

A SuperNode announces an answer, and then brings its parts one by one. Flower tells the ServerApp of it with the
announcement; whoever asked then waits for the missing parts, and hears of no other answer until they are there, or
until nothing has come for three minutes (flwr 1.34: `GrpcGrid.pull_messages`, OBJECT_PUSH_SESSION_TTL_SECONDS). So one
car whose link broke in the middle of its answer held a whole run up. Here an answer that is on its way is not there
yet: others are taken meanwhile, and a node whose heartbeats end is given up as it always is. An answer of which nothing
has come for those three minutes is left to Flower, which gives it up. Must not import Flower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleven.server.flower.quick_reads import QuickReads


def hold_back_arriving(state: type[Any], reads: QuickReads) -> None:
    """Have a class that keeps Flower's state give out no answer that is still on its way.

    Args:
        state: Flower's SqlLinkState.
        reads: of the database that it keeps the state in.

    Raises:
        AttributeError: it has no such method; nothing was changed.
    """
    answers: Callable[[Any, set[str]], list[Any]] = state.get_message_res

    def get_message_res(self: Any, message_ids: set[str]) -> list[Any]:
        there = message_ids - reads.arriving(message_ids) if message_ids else message_ids
        return answers(self, there) if there else []

    state.get_message_res = get_message_res
