"""How much the reports of senders without an identity may make the register grow, all of them together.

A server in the open mode accepts reports under ever new names: a limit for each sender limits nothing. What finds no
room is left out of the history, but the reports themselves are accepted: strangers must not keep a car from being seen.
Plain arithmetic over an injected clock; must not import SQLAlchemy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

BYTES_PER_MINUTE = 700_000
BYTES_AT_ONCE = 300_000
"""Together 1 MB in whatever minute: the samples of 1,000 cars that report every 15 s."""
SAMPLE_BYTES = 80
TASK_BYTES = 300
EVENT_BYTES = 200
SENDER_BYTES = 200
NODE_BYTES = 700
"""What a row takes, with its entries in indexes and without its long texts; the largest that were measured."""
GROWING_COLUMNS = (
    "report",
    "conditions",
    "previous_node_ids",
    "model_errors",
    "state_reason",
    "drained_reason",
)
"""Columns of `nodes` whose length the car sets."""
TOLD_SECONDS = 600.0


class GrowthBudget:
    """A bucket of bytes that fills up again. Not for use from several threads: the writer of reports owns it.

    Args:
        monotonic: the clock [s].
        bytes_per_minute: flow in.
        bytes_at_once: the most that it holds.
    """

    def __init__(
        self,
        monotonic: Callable[[], float],
        *,
        bytes_per_minute: float = BYTES_PER_MINUTE,
        bytes_at_once: float = BYTES_AT_ONCE,
    ) -> None:
        self._monotonic = monotonic
        self._bytes_per_second = bytes_per_minute / 60
        self._most = bytes_at_once
        self._left = bytes_at_once
        self._filled_at = monotonic()
        self._refused_bytes = 0
        self._told_at = float("-inf")

    def take(self, size_bytes: int) -> bool:
        """Return whether there is room for so much, which is then taken: all of it, or nothing."""
        now = self._monotonic()
        self._left = min(self._most, self._left + (now - self._filled_at) * self._bytes_per_second)
        self._filled_at = now
        if size_bytes > self._left:
            self._refused_bytes += size_bytes
            return False
        self._left -= size_bytes
        return True

    def news(self) -> int:
        """Return how many bytes found no room since this was last told; 0 when it need not be told now."""
        now = self._monotonic()
        if not self._refused_bytes or now - self._told_at < TOLD_SECONDS:
            return 0
        refused, self._refused_bytes, self._told_at = self._refused_bytes, 0, now
        return refused


def stored_bytes(value: object) -> int:
    """What a value of a text or JSON column takes [bytes]."""
    if value is None:
        return 0
    return len((value if isinstance(value, str) else json.dumps(value)).encode())


def length(row: Mapping[str, Any], columns: Iterable[str] = GROWING_COLUMNS) -> int:
    """What the columns whose length the car sets take in a row of `nodes` [bytes]."""
    return sum(stored_bytes(row[column]) for column in columns)
