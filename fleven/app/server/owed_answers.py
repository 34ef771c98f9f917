"""What rounds have gone on without: the tasks that cars are still at work on, and the answers that came too late.

Pure: the round that goes on decides what happens to a car. Must not import torch or pandas.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..messages import Answer, Vector
from .answers import Question
from .fleet import Sent


@dataclass(frozen=True)
class Owed:
    """A task that a round has gone on without.

    sent: what it was. question: by which its answer is measured. until: when nobody waits for it any more.
    """

    sent: Sent
    question: Question
    until: float


class OwedAnswers:
    """At most one a car, since a car that is still at work is given nothing more to do."""

    def __init__(self) -> None:
        self._owed: dict[int, Owed] = {}
        self._late: dict[int, tuple[Answer, Vector]] = {}
        """Answers that came after their round, by node id, each with its change of the weights it was sent."""

    def __contains__(self, node_id: int) -> bool:
        """Whether a car is still at work on a task that its round has gone on without."""
        return node_id in self._owed

    def add(self, owed: Owed) -> None:
        """Note that a round goes on without this answer."""
        self._owed[owed.sent.node_id] = owed

    def is_owed(self, sent: Sent) -> bool:
        """Return whether this is the task that its car is still at work on."""
        return sent.node_id in self._owed and self._owed[sent.node_id].sent == sent

    def expired(self, now: float) -> list[Sent]:
        """Take out and return the tasks whose deadline has passed."""
        found = [owed.sent for owed in self._owed.values() if now >= owed.until]
        for sent in found:
            del self._owed[sent.node_id]
        return found

    def settle(self, sent: Sent) -> Question | None:
        """Take out the task whose answer has come, and return its question; None when nobody waits for that answer."""
        return self._owed.pop(sent.node_id).question if self.is_owed(sent) else None

    def keep(self, node_id: int, answer: Answer, base: Vector) -> None:
        """Keep a late answer with weights for the next round.

        base: the weights that the car was sent.
        """
        assert answer.weights is not None  # noqa: S101  # only training makes an answer late
        self._late[node_id] = answer, answer.weights - base

    def take_late(self, answers: Mapping[int, Answer], base: Vector) -> dict[int, Answer]:
        """Take out the late answers, as if each car had made the same change to the weights of this round.

        One whose car has answered in this round is dropped: it may be back under another node id.

        answers: of this round, by node id. base: the weights that this round sent.
        """
        late, self._late = self._late, {}
        partitions = {answer.partition_id for answer in answers.values()}
        return {
            node_id: replace(answer, weights=base + change)
            for node_id, (answer, change) in late.items()
            if answer.partition_id not in partitions
        }
