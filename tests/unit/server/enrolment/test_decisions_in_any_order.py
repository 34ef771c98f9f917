"""Invite, join, accept, reject, revoke, rotate, report, crash, replay and clock steps in any order: what always holds.

Never two cars under one identity, never a revoked one served. The machine plays an attacker too: it sends every request
and every secret again that was ever used.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from fleven.server.enrolment import decisions, rotation
from fleven.server.enrolment.copies import hear
from fleven.server.enrolment.decisions import Wish
from fleven.server.enrolment.directory import picture, signature, standing
from fleven.server.enrolment.model import Book, Change, EnrolmentError, Identity, Invitation, KeyRole, Speaker
from fleven_agent.protocol.identity import IdentityStatus, secret_digest

NAMES = st.sampled_from(["car-0", "car-1", "car-2"])
PARTITIONS = st.none() | st.integers(0, 3)


@dataclass(frozen=True)
class Credential:
    """A key with its secret, as one board has them."""

    number: int

    @property
    def key(self) -> str:
        return f"key-{self.number}"

    @property
    def secret(self) -> str:
        return f"secret-{self.number:05d}-{'x' * 30}"


class Enrolment(RuleBasedStateMachine):
    credentials = Bundle("credentials")
    codes = Bundle("codes")
    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.counter = 0
        self.revoked_keys: set[str] = set()
        self.used: dict[str, str] = {}
        self.owner: dict[str, str] = {}

    def number(self) -> int:
        self.counter += 1
        return self.counter

    def write(self, change: Change, *, crash: bool) -> None:
        """Commit, or lose the whole of it: the register has nothing between the two."""
        if not crash:
            self.book = change.applied(self.book)

    @rule(target=credentials)
    def new_board(self) -> Credential:
        return Credential(self.number())

    @rule(target=codes, name=NAMES, partition_id=PARTITIONS, minutes=st.integers(1, 90), crash=st.booleans())
    def invite(self, name: str, partition_id: int | None, minutes: int, crash: bool) -> tuple[str, str]:
        code = (f"{self.number():08x}", "once")
        end = self.now + timedelta(minutes=minutes)
        made = Invitation(code[0], secret_digest("once"), name, partition_id, (), self.now, end)
        try:
            self.write(decisions.invite(self.book, made), crash=crash)
        except EnrolmentError:
            return multiple()  # type: ignore[no-any-return]
        return code

    @rule(
        target=requests,
        board=credentials,
        name=NAMES,
        partition_id=PARTITIONS,
        code=st.none() | codes,
        boot=st.sampled_from("AB"),
    )
    def make_request(
        self, board: Credential, name: str, partition_id: int | None, code: tuple[str, str] | None, boot: str
    ) -> Wish:
        secret = secret_digest(board.secret)
        return Wish(board.key, secret, name, partition_id, None, code, f"192.0.2.{board.number}", boot)

    @rule(wish=requests, crash=st.booleans())
    def join(self, wish: Wish, crash: bool) -> None:
        before = self.book
        try:
            change, car = decisions.join(before, wish, self.now, f"{self.number():016x}")
        except EnrolmentError:
            return
        # Whatever is answered as accepted is what the book holds once it is written.
        assert change.applied(before).identities[car.car_id] == car or not change
        if car.status is IdentityStatus.ACCEPTED:
            assert wish.public_key not in self.revoked_keys
        for used in change.invitations:
            if used.used_by is not None and not crash:
                assert self.used.setdefault(used.id, used.used_by) == used.used_by, "an invitation was used twice"
        self.write(change, crash=crash)

    @rule(choice=st.integers(0, 50), crash=st.booleans())
    def accept(self, choice: int, crash: bool) -> None:
        self.operate(choice, crash, lambda book, car_id: decisions.accept(book, car_id, self.now))

    @rule(choice=st.integers(0, 50), crash=st.booleans())
    def reject(self, choice: int, crash: bool) -> None:
        self.operate(choice, crash, lambda book, car_id: decisions.reject(book, car_id, "", self.now))

    @rule(choice=st.integers(0, 50), crash=st.booleans())
    def revoke(self, choice: int, crash: bool) -> None:
        self.operate(choice, crash, lambda book, car_id: decisions.revoke(book, car_id, "", self.now))

    @rule(choice=st.integers(0, 50), crash=st.booleans())
    def ask_rotation(self, choice: int, crash: bool) -> None:
        self.operate(choice, crash, rotation.ask_rotation)

    def operate(self, choice: int, crash: bool, action) -> None:  # type: ignore[no-untyped-def]
        cars = sorted(self.book.identities)
        if not cars:
            return
        try:
            self.write(action(self.book, cars[choice % len(cars)]), crash=crash)
        except EnrolmentError:
            return

    @rule(old=credentials, new=credentials, choice=st.integers(0, 50), crash=st.booleans())
    def rotate(self, old: Credential, new: Credential, choice: int, crash: bool) -> None:
        cars = sorted(self.book.identities)
        if not cars:
            return
        car_id = cars[choice % len(cars)]
        try:
            signed, _ = signature(picture(self.book), f"Bearer {car_id}.{old.secret}")
            change, _ = rotation.rotate(self.book, signed.car_id, new.key, secret_digest(new.secret))
        except EnrolmentError:
            return
        assert old.key not in self.revoked_keys
        self.write(change, crash=crash)

    @rule(board=credentials, choice=st.integers(0, 50), process=st.sampled_from("ABC"), is_new=st.booleans())
    def report(self, board: Credential, choice: int, process: str, is_new: bool) -> None:
        """Anybody tries anybody's secret under any car's id: only the car of that key is served."""
        cars = sorted(self.book.identities)
        if not cars:
            return
        car_id = cars[choice % len(cars)]
        found = picture(self.book)
        try:
            signed, _ = signature(found, f"Bearer {car_id}.{board.secret}")
            car, key = standing(found, signed)
        except EnrolmentError:
            return
        assert board.key not in self.revoked_keys
        assert key.public_key == board.key
        assert key.role is not KeyRole.RETIRED
        assert car.status is IdentityStatus.ACCEPTED
        self.book = rotation.promote(car).applied(self.book)
        heard = hear(self.book.identities[car_id], Speaker("boot", process), self.now, is_new=is_new)
        change = decisions.hold(heard.car, "copied", self.now) if heard.copied else Change(identities=(heard.car,))
        self.book = change.applied(self.book)

    @rule(seconds=st.integers(-90_000, 90_000))
    def clock_steps(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def age(self) -> None:
        self.book = decisions.age(self.book, self.now).applied(self.book)

    @rule(wish=consumes(requests))
    def forget_request(self, wish: Wish) -> None:
        """Let the machine try fewer of the old requests."""

    @invariant()
    def names_and_partitions_have_one_car(self) -> None:
        bound = [one for one in self.book.identities.values() if one.bound]
        assert len({one.name for one in bound}) == len(bound)
        assert len({one.partition_id for one in bound}) == len(bound)
        assert all(one.partition_id is not None for one in bound)

    @invariant()
    def a_key_has_one_car_for_ever(self) -> None:
        keys = [(key.public_key, one.car_id) for one in self.book.identities.values() for key in one.keys]
        assert len({key for key, _ in keys}) == len(keys)
        kept = {car_id for _, car_id in keys}
        for key, car_id in keys:
            before = self.owner.setdefault(key, car_id)
            # A car that waited in vain is forgotten; what it was never let in with may ask again.
            assert before == car_id or before not in kept
            self.owner[key] = car_id

    @invariant()
    def who_was_revoked_stays_so(self) -> None:
        for one in self.book.identities.values():
            if one.status is IdentityStatus.REVOKED:
                self.revoked_keys |= {key.public_key for key in one.keys}
        served = [one for one in self.book.identities.values() if one.status is not IdentityStatus.REVOKED]
        assert not self.revoked_keys & {key.public_key for one in served for key in one.keys}

    @invariant()
    def each_car_has_at_most_one_key_of_a_role(self) -> None:
        for one in self.book.identities.values():
            roles = [key.role for key in one.keys if key.role is not KeyRole.RETIRED]
            assert len(set(roles)) == len(roles)
            assert one.key(KeyRole.CURRENT) is not None


TestEnrolment = Enrolment.TestCase
TestEnrolment.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_machine_knows_who_a_car_is() -> None:
    """A car's own secret is served, and another's is not: the invariants above would hold in an empty fleet too."""
    book = Book()
    change, car = decisions.join(book, Wish("key-1", secret_digest("s" * 43), "car-0"), datetime.now(UTC), "a" * 16)
    book = change.applied(book)
    book = decisions.accept(book, car.car_id, datetime.now(UTC)).applied(book)
    assert signature(picture(book), f"Bearer {car.car_id}.{'s' * 43}")[0].public_key == "key-1"
    assert isinstance(book.identities[car.car_id], Identity)
