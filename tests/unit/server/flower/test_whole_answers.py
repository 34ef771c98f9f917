"""Answers that are on their way: not asked for. What Flower makes of that, `tests/flower/test_link_state.py` tries."""

from __future__ import annotations

from typing import Any

import pytest

from fleven.server.flower.whole_answers import hold_back_arriving


class State:
    """Stands for Flower's state; keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []

    def get_message_res(self, message_ids: set[str]) -> list[str]:
        """Claim answers; as Flower's does, it changes the set that it is given."""
        self.asked.append(set(message_ids))
        found = sorted(message_ids)
        message_ids.clear()
        return found


class Reads:
    """Knows what is on its way."""

    def __init__(self, *arriving: str) -> None:
        self.names = frozenset(arriving)

    def arriving(self, messages: set[str]) -> frozenset[str]:
        return self.names & messages


def state(*arriving: str) -> Any:
    kept: Any = type("Kept", (State,), {})
    hold_back_arriving(kept, Reads(*arriving))  # type: ignore[arg-type]
    return kept()


@pytest.mark.parametrize(
    ("asked", "given", "flower_asked"),
    [
        ({"a", "b", "c"}, ["a", "c"], [{"a", "c"}]),
        ({"b"}, [], []),
        (set(), [], []),
    ],
)
def test_flower_is_asked_for_what_is_there_only(
    asked: set[str], given: list[str], flower_asked: list[set[str]]
) -> None:
    made = state("b", "of another run")
    assert made.get_message_res(message_ids=asked) == given
    assert made.asked == flower_asked


def test_a_state_of_another_kind_stays_as_it_is() -> None:
    with pytest.raises(AttributeError):
        hold_back_arriving(type("Other", (), {}), Reads())  # type: ignore[arg-type]
