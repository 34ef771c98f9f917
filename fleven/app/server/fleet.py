"""The cars that the server knows, and the exchange of messages with them over Flower's Grid.

Polls in hundredths of a second while answers may be near and in half seconds when they are not: Flower's own
`send_and_receive` sleeps three seconds between two looks. Must not import torch or pandas.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from ..errors import LASTING, Code
from ..messages import Answer

SHORTEST_POLL_SECONDS = 0.02
LONGEST_POLL_SECONDS = 0.5
POLL_GROWTH = 1.25
#: A message that no car has taken by its deadline is useless; Flower drops it this much later.
EXTRA_LIFE_SECONDS = 5.0


@dataclass(frozen=True)
class Sent:
    """One message that waits for its answer. round: 0 for a query before round 1."""

    node_id: int
    kind: str
    round: int


@dataclass
class Exchange:
    """Sends messages and yields answers as they come."""

    grid: Grid
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    pending: dict[str, Sent] = field(default_factory=dict)

    def send(
        self, node_ids: list[int], content: RecordDict, kind: str, number: int, deadline_seconds: float
    ) -> list[int]:
        """Send one content to many nodes; return the nodes that the SuperLink did not take a message for."""
        life = deadline_seconds + EXTRA_LIFE_SECONDS
        messages = [Message(content, node_id, kind, ttl=life, group_id=str(number)) for node_id in node_ids]
        identifiers = list(self.grid.push_messages(messages)) if messages else []
        refused = []
        for node_id, identifier in zip(node_ids, identifiers + [""] * (len(node_ids) - len(identifiers)), strict=True):
            if identifier:
                self.pending[identifier] = Sent(node_id, kind, number)
            else:
                refused.append(node_id)
        return refused

    def pull(self) -> list[tuple[Sent, Message]]:
        """Return what has arrived, without waiting."""
        if not self.pending:
            return []
        arrived = []
        for message in self.grid.pull_messages(list(self.pending)):
            sent = self.pending.pop(message.metadata.reply_to_message_id, None)
            if sent is not None:
                arrived.append((sent, message))
        return arrived

    def collect(self, kind: str, number: int, patience_seconds: Callable[[], float]) -> Iterator[tuple[Sent, Message]]:
        """Yield all arriving answers until those of this kind and round are complete, or patience ends.

        patience_seconds: says, whenever it is asked, how long after now the wait ends.
        """
        began = self.clock()
        pause = SHORTEST_POLL_SECONDS
        while self.waiting(kind, number):
            arrived = self.pull()
            yield from arrived
            if not self.waiting(kind, number):
                return
            left = began + patience_seconds() - self.clock()
            if left <= 0:
                return
            pause = SHORTEST_POLL_SECONDS if arrived else min(pause * POLL_GROWTH, LONGEST_POLL_SECONDS)
            self.sleep(min(pause, left))

    def waiting(self, kind: str, number: int) -> list[int]:
        """Return the nodes whose answer of this kind and round is still out."""
        return [sent.node_id for sent in self.pending.values() if (sent.kind, sent.round) == (kind, number)]

    def forget(self, kind: str, number: int, node_id: int | None = None) -> list[int]:
        """Stop waiting for the answers of this kind and round, or for one car's; return the nodes that still owe one.

        node_id: None for all cars.
        """
        late = {
            key: sent
            for key, sent in self.pending.items()
            if (sent.kind, sent.round) == (kind, number) and node_id in (None, sent.node_id)
        }
        for key in late:
            del self.pending[key]
        return [sent.node_id for sent in late.values()]


class Standing(StrEnum):
    """Where a car stands with this run."""

    ASKED = "asked"  # queried, no answer yet
    READY = "ready"
    SILENT = "silent"  # missed a deadline: asked again, and back when it answers
    EXCLUDED = "excluded"  # its data cannot be used


@dataclass
class Car:
    """One node, as far as this run knows it.

    claim: the partition that its last good answer to a query named. trained: whether it has in this run.
    """

    node_id: int
    standing: Standing = Standing.ASKED
    answer: Answer = field(default_factory=Answer)
    claim: int | None = None
    trained: bool = False

    @property
    def partition_id(self) -> int | None:
        """Partition id of its answer; None before it has answered."""
        return self.answer.partition_id

    @property
    def label(self) -> str:
        """What people call it: its name, else its partition; Flower's id only while nothing else is known of it."""
        return label(self.answer.node_name, self.partition_id, self.node_id)

    @property
    def name(self) -> str:
        """What tells it from another car of the same partition."""
        return label(self.answer.node_name, None, self.node_id)

    @property
    def order(self) -> int:
        """What a car is sorted and chosen by: its partition-id, which outlives its node id; READY cars have one."""
        return self.node_id if self.partition_id is None else self.partition_id


def label(name: str, partition_id: int | None, node_id: int | str) -> str:
    """Return what messages call a car."""
    return name or (f"node {node_id}" if partition_id is None else f"partition {partition_id}")


@dataclass
class Fleet:
    """All cars of the run, by node id. Decides who is ready; knows nothing of rounds or training."""

    cars: dict[int, Car] = field(default_factory=dict)
    online: set[int] = field(default_factory=set)

    def to_ask(self, online: set[int], asked: set[int]) -> list[int]:
        """Note who is online now and return the nodes to query: newcomers, and those that fell silent.

        asked: nodes that already have a query out.
        """
        self.online = online
        for node_id in online - set(self.cars):
            self.cars[node_id] = Car(node_id)
        return sorted(
            node_id for node_id in online - asked if self.cars[node_id].standing in (Standing.ASKED, Standing.SILENT)
        )

    def ready(self) -> list[Car]:
        """Return the cars that can be given work now, by partition-id."""
        cars = [car for car in self.cars.values() if car.standing is Standing.READY and car.node_id in self.online]
        return sorted(cars, key=lambda car: car.order)

    def answered(self, node_id: int, answer: Answer) -> dict[int, Answer]:
        """Accept the answer to a query; return it, or the error that came of it, by node id.

        A partition belongs to one car. A newcomer does not get the one of a car that has trained in this run and is
        still there. Of two that both claim it before that, nobody can tell which is the right one: neither gets it, and
        the other's answer is returned too. A car that is gone loses it to its new node id.
        """
        car = self.cars[node_id]
        if answer.ok:
            car.claim = answer.partition_id
            present, gone = self._rivals(car)
            holder = next((rival for rival in present if rival.trained and rival.standing is Standing.READY), None)
            if holder is not None:
                reason = f"{holder.label} already takes part with partition-id {answer.partition_id}"
                return self._refuse([car], [answer], reason)
            if present:
                names = " and ".join(sorted([label(answer.node_name, None, node_id), *(r.name for r in present)]))
                reason = (
                    f"{names} all say partition-id {answer.partition_id}: none takes part until only one of them does"
                )
                losers = [rival for rival in present if rival.standing is Standing.READY]
                return self._refuse([car, *losers], [answer, *(rival.answer for rival in losers)], reason)
            for rival in gone:  # the same car under its old node id, which may still owe an answer: it is kept
                rival.standing, rival.answer = Standing.SILENT, Answer()
        car.answer = answer
        if answer.ok:
            car.standing = Standing.READY
        elif answer.error_code in LASTING and answer.error_code != Code.PARTITION_DUPLICATE:
            car.standing = Standing.EXCLUDED
        else:
            car.standing = Standing.SILENT
        return {node_id: answer}

    def _refuse(self, cars: list[Car], answers: list[Answer], reason: str) -> dict[int, Answer]:
        refused = {}
        for car, answer in zip(cars, answers, strict=True):
            car.standing = Standing.SILENT
            car.answer = replace(answer, error_code=Code.PARTITION_DUPLICATE, error_reason=reason)
            refused[car.node_id] = car.answer
        return refused

    def _rivals(self, car: Car) -> tuple[list[Car], list[Car]]:
        """Return the other cars with this one's partition that are there and mean it, and those that are gone."""
        rivals = [other for other in self.cars.values() if other is not car and other.claim == car.claim]
        present = [
            rival
            for rival in rivals
            if rival.node_id in self.online
            and (rival.standing is Standing.READY or rival.answer.error_code == Code.PARTITION_DUPLICATE)
        ]
        return present, [rival for rival in rivals if rival not in present and rival.answer.ok]

    def silent(self, node_id: int) -> None:
        """The car missed a deadline."""
        self.cars[node_id].standing = Standing.SILENT

    def exclude(self, node_id: int) -> None:
        """The car's data turned out to be unusable during the run."""
        self.cars[node_id].standing = Standing.EXCLUDED
