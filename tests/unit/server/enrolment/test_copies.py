"""An honest car is never held for a copy, whatever happens to it; two living boards always are, and soon.

The boards number their reports as the agent does: a block is reserved on the card before its numbers are used, and what
the server has stored of a higher number is taken over. Batches are lost, doubled and late on the way.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

from fleven.server.enrolment.copies import MAXIMUM_EARLIER, Heard, hear
from fleven.server.enrolment.model import Identity, Key, Speaker
from fleven_agent.protocol.identity import IdentityStatus

NOW = datetime(2026, 11, 28, tzinfo=UTC)
CAR = Identity("c" * 16, IdentityStatus.ACCEPTED, "car-0", 0, (Key("key", "digest"),), NOW, NOW, NOW)
BLOCK = 10
MACHINES_BOOT = "one kernel"


@dataclass(frozen=True)
class Card:
    """What is on a card: numbers that may have been used, and reports that wait."""

    reserved: int = 0
    waiting: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    speaker: Speaker
    numbers: tuple[int, ...]


@dataclass
class Board:
    """One board with its agent, as far as numbers go."""

    card: Card
    words: "Words"
    boot_id: str = ""
    process: str = ""
    number: int = 0

    def boot(self, boot_id: str = "") -> None:
        self.boot_id = boot_id or self.words.new("boot")
        self.start_agent()

    def start_agent(self) -> None:
        self.process = self.words.new("process")
        self.number = max([self.card.reserved, *self.card.waiting])

    def report(self, *, durable: bool) -> Batch:
        """Return the batch that the agent sends: what waits on the card first, then the newest."""
        self.number += 1
        if self.number > self.card.reserved:
            self.card = replace(self.card, reserved=self.number + BLOCK)
        batch = Batch(Speaker(self.boot_id, self.process), (*self.card.waiting, self.number))
        if durable:
            self.card = replace(self.card, waiting=batch.numbers)
        return batch

    def told(self, acknowledged: int) -> None:
        self.card = replace(self.card, waiting=tuple(one for one in self.card.waiting if one > acknowledged))
        self.number = max(self.number, acknowledged)


@dataclass
class Words:
    count: int = 0

    def new(self, kind: str) -> str:
        self.count += 1
        return f"{kind}-{self.count}"


@dataclass
class Server:
    car: Identity = CAR
    last: int = -1
    held: bool = False

    def take(self, batch: Batch) -> Heard:
        newest = max(batch.numbers)
        heard = hear(self.car, batch.speaker, NOW, is_new=newest > self.last)
        self.car, self.held = heard.car, self.held or heard.copied
        if not heard.copied:
            self.last = max(self.last, newest)
        return heard


class HonestCar(RuleBasedStateMachine):
    """One board: reports, losses, retries, restarts, reboots, power cuts, and its card put back from a backup."""

    flying = Bundle("flying")
    backups = Bundle("backups")

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.board = Board(Card(), Words())
        self.board.boot()
        self.restored = 0

    def arrive(self, batch: Batch, *, answered: bool) -> None:
        self.server.take(batch)
        assert not self.server.held, "an honest car was held"
        if answered and batch.speaker.process == self.board.process:
            self.board.told(self.server.last)

    @rule(target=flying, durable=st.booleans())
    def send(self, durable: bool) -> tuple[int, Batch]:
        """Send a report that is on its way for a while, if it ever arrives."""
        return self.restored, self.board.report(durable=durable)

    @rule(durable=st.booleans(), answered=st.booleans(), times=st.integers(1, 3))
    def report(self, durable: bool, answered: bool, times: int) -> None:
        batch = self.board.report(durable=durable)
        for _ in range(times):
            self.arrive(batch, answered=answered)

    @rule(sent=flying, answered=st.booleans())
    def arrive_late(self, sent: tuple[int, Batch], answered: bool) -> None:
        """A request waits on the way, or is made twice by a proxy; it does not outlast the change of a card."""
        if sent[0] == self.restored:
            self.arrive(sent[1], answered=answered)

    @rule()
    def agent_restarts(self) -> None:
        self.board.start_agent()

    @rule()
    def reboots(self) -> None:
        self.board.boot()

    @rule()
    def agent_restarts_often(self) -> None:
        for _ in range(MAXIMUM_EARLIER + 3):
            self.board.start_agent()
            self.arrive(self.board.report(durable=True), answered=True)

    @rule(target=backups)
    def back_up(self) -> Card:
        return self.board.card

    @rule(card=backups)
    def put_back(self, card: Card) -> None:
        self.restored += 1
        self.board.card = card
        self.board.boot()

    @rule()
    def lose_the_state(self) -> None:
        self.restored += 1
        self.board.card = Card()
        self.board.boot()


TestHonestCar = HonestCar.TestCase
TestHonestCar.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


@dataclass
class Pair:
    """A board and the one with the copy of its card."""

    words: Words = field(default_factory=Words)
    server: Server = field(default_factory=Server)

    def boards(self, first_reports: int, copied_after: int, *, own_boots: bool) -> tuple[Board, Board]:
        first = Board(Card(), self.words)
        first.boot("" if own_boots else MACHINES_BOOT)
        copied = first.card
        for number in range(first_reports):
            self.exchange(first)
            if number < copied_after:
                copied = first.card
        second = Board(copied, self.words)
        second.boot("" if own_boots else MACHINES_BOOT)
        return first, second

    def exchange(self, board: Board) -> None:
        """Let a board report, and at once again when it is asked to, as the agent does."""
        for _ in range(3):
            ahead = self.server.last > board.number
            heard = self.server.take(board.report(durable=False))
            if self.server.held:
                return
            board.told(self.server.last)
            if not (ahead or heard.again):
                return


@pytest.mark.parametrize("own_boots", [True, False])
@pytest.mark.parametrize(("first_reports", "copied_after"), [(0, 0), (1, 1), (5, 5), (45, 3), (45, 45)])
def test_two_living_boards_are_noticed_when_each_has_reported_once_more(
    first_reports: int, copied_after: int, own_boots: bool
) -> None:
    pair = Pair()
    first, second = pair.boards(first_reports, copied_after, own_boots=own_boots)
    pair.exchange(first)
    pair.exchange(second)
    assert not pair.server.held
    pair.exchange(first)
    assert pair.server.held


def test_a_copy_is_noticed_though_both_say_the_same_number() -> None:
    pair = Pair()
    first, second = pair.boards(3, 3, own_boots=True)
    pair.exchange(second)
    first.told(pair.server.last)
    both = [first.report(durable=False), second.report(durable=False)]
    assert both[0].numbers == both[1].numbers
    pair.server.take(both[1])
    assert pair.server.take(both[0]).again
    assert not pair.server.held
    first.told(pair.server.last)
    assert pair.server.take(first.report(durable=False)).copied


def test_a_copy_that_restarts_its_agent_again_and_again_does_not_hide_the_board() -> None:
    pair = Pair()
    first, second = pair.boards(3, 3, own_boots=True)
    for _ in range(3 * MAXIMUM_EARLIER):
        second.start_agent()
        pair.exchange(second)
    pair.exchange(first)
    assert pair.server.held


@pytest.mark.parametrize("words", [["A", "B", "A"], ["A", "B", "C", "A"], ["A", "", "B", "", "A"]])
def test_agents_without_a_word_of_their_process_are_told_by_their_boots(words: list[str]) -> None:
    server = Server()
    for number, boot_id in enumerate(words):
        assert not server.held
        server.take(Batch(Speaker(boot_id), (number,)))
    assert server.held


@pytest.mark.parametrize("processes", [["1", "", "2"], ["", "1", "", "2", ""], ["1", "1", "", "1"]])
def test_an_agent_of_another_version_in_between_is_no_second_board(processes: list[str]) -> None:
    server = Server()
    for number, process in enumerate(processes):
        server.take(Batch(Speaker("boot", process), (number,)))
    assert not server.held
