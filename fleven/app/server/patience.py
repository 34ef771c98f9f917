"""How long a round waits for the cars that have not answered yet. Pure; imports the standard library only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """A round's patience.

    multiple: of what the slowest of those took who have answered; 0: until the deadline, whatever the others took.
    floor_seconds: after the newest answer, at least. deadline_seconds: after the question, at most. quorum: cars that
    the round needs.
    """

    multiple: float
    floor_seconds: float
    deadline_seconds: float
    quorum: int

    def seconds(self, took_seconds: Sequence[float], asked: int) -> float:
        """Return how long after its question the round stops to wait.

        took_seconds: of each good answer so far. asked: how many cars were. Until a quorum and half of them have
        answered, nothing is known of what a round takes, and there is no going on without the rest.
        """
        enough = max(self.quorum, math.ceil(asked / 2))
        if not self.multiple or len(took_seconds) < enough:
            return self.deadline_seconds
        slowest = max(took_seconds)
        return min(self.deadline_seconds, max(self.multiple * slowest, slowest + self.floor_seconds))
