"""Who joins, who waits, who goes: one test for each rule."""

from dataclasses import replace
from datetime import timedelta

import pytest
from joining_cars import HOUR, NOW, accepted, claim, invitation, joined, refused, wish

from fleven.app import settings
from fleven.server.enrolment import decisions, rotation
from fleven.server.enrolment.model import Book, EnrolmentError, Identity
from fleven_agent.protocol.identity import IdentityStatus, Refusal

INVITED = Book(invitations={"00000001": invitation()})


def test_an_invited_car_is_in_at_once_with_what_the_invitation_binds() -> None:
    book, car = joined(INVITED, wish(1, "whatever", invitation=claim()))
    assert (car.status, car.name, car.partition_id, car.labels) == ("accepted", "car-3", 0, ("fleet=north",))
    assert book.invitations["00000001"].used_by == car.car_id


def test_an_invitation_is_used_once_and_the_same_car_may_ask_again() -> None:
    book, car = joined(INVITED, wish(1, invitation=claim()))
    again, same = joined(book, wish(1, invitation=claim()))
    assert (again, same) == (book, car)
    assert refused(lambda: joined(book, wish(2, invitation=claim()))) is Refusal.INVITATION_USED


def test_a_wrong_secret_an_unknown_number_and_a_late_car_are_refused() -> None:
    assert refused(lambda: joined(INVITED, wish(1, invitation=("00000001", "twice")))) is Refusal.INVITATION_UNKNOWN
    assert refused(lambda: joined(INVITED, wish(1, invitation=claim(7)))) is Refusal.INVITATION_UNKNOWN
    late = wish(1, invitation=claim())
    assert refused(lambda: joined(INVITED, late, NOW + HOUR)) is Refusal.INVITATION_EXPIRED
    assert joined(INVITED, late, NOW + HOUR - timedelta(seconds=1))[1].status is IdentityStatus.ACCEPTED


def test_a_clock_that_was_set_back_by_days_does_not_make_an_old_invitation_valid() -> None:
    code = wish(1, invitation=claim())
    assert refused(lambda: joined(INVITED, code, NOW - 25 * HOUR)) is Refusal.INVITATION_EXPIRED
    # By less than a day it may be: clocks are set, and the car would have to wait for nothing.
    assert joined(INVITED, code, NOW - 24 * HOUR)[1].status is IdentityStatus.ACCEPTED


def test_what_an_invitation_leaves_open_the_car_decides() -> None:
    book = Book(invitations={"00000001": replace(invitation(name=None), labels=())})
    _, car = joined(book, wish(1, "own-name", partition_id=4, invitation=claim()))
    assert (car.name, car.partition_id, car.labels, car.invitation_id) == ("own-name", 4, (), "00000001")
    # What it says, wins over what the car wishes.
    _, bound = joined(
        Book(invitations={"00000001": invitation(partition_id=6)}), wish(1, partition_id=4, invitation=claim())
    )
    assert (bound.name, bound.partition_id, bound.labels) == ("car-3", 6, ("fleet=north",))


def test_an_invitation_without_a_name_takes_no_name_from_another_car() -> None:
    book, _ = accepted(Book(invitations={"00000001": invitation(name=None)}), wish(1, "car-9"))
    assert refused(lambda: joined(book, wish(2, "car-9", invitation=claim()))) is Refusal.NAME_TAKEN


def test_without_invitation_a_car_waits_and_gets_the_next_free_partition_when_it_is_accepted() -> None:
    book, _ = accepted(Book(open_partitions={"old-pi": 1}), wish(1, partition_id=0))
    book, car = joined(book, wish(2))
    assert (car.status, car.partition_id) == (IdentityStatus.PENDING, None)
    book = decisions.accept(book, car.car_id, NOW).applied(book)
    # 0 is enrolled, 1 reports without identity.
    assert book.identities[car.car_id].partition_id == 2
    # The same car that reported openly keeps its own.
    book, moved = accepted(book, wish(3, "old-pi"))
    assert moved.partition_id == 1


def test_partitions_of_open_invitations_are_kept_for_them() -> None:
    book = Book(invitations={"00000001": invitation(partition_id=0)})
    assert accepted(book, wish(1))[1].partition_id == 1
    assert joined(book, wish(2, invitation=claim()))[1].partition_id == 0


def test_a_used_invitation_promises_its_partition_no_longer() -> None:
    book, car = joined(Book(invitations={"00000001": invitation(partition_id=0)}), wish(1, invitation=claim()))
    book = decisions.revoke(book, car.car_id, "sold", NOW).applied(book)
    assert accepted(book, wish(2))[1].partition_id == 0


def test_when_all_partitions_are_taken_no_car_gets_a_number_that_a_run_cannot_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert decisions.LARGEST_PARTITION == settings.LARGEST_PARTITION
    monkeypatch.setattr(decisions, "LARGEST_PARTITION", 1)
    book, _ = accepted(Book(), wish(1, partition_id=0))
    assert decisions.free_partition(book, "car-2") == 1
    book, _ = accepted(book, wish(2))
    assert refused(lambda: decisions.free_partition(book, "car-3")) is Refusal.PARTITION_TAKEN


def test_a_waiting_car_cannot_claim_what_belongs_to_another() -> None:
    book, _ = accepted(Book(), wish(1, partition_id=4))
    assert refused(lambda: joined(book, wish(2, "car-1"))) is Refusal.NAME_TAKEN
    assert refused(lambda: joined(book, wish(2, partition_id=4))) is Refusal.PARTITION_TAKEN
    # Nor later, while it waits.
    book, _ = joined(book, wish(2))
    assert refused(lambda: joined(book, wish(2, "car-1"))) is Refusal.NAME_TAKEN


def test_two_that_wait_for_one_name_get_it_once() -> None:
    book, first = joined(Book(), wish(1, "car-9"))
    book, second = joined(book, wish(2, "car-9"))
    book = decisions.accept(book, second.car_id, NOW).applied(book)
    assert refused(lambda: decisions.accept(book, first.car_id, NOW)) is Refusal.NAME_TAKEN
    assert decisions.accept(book, first.car_id, NOW, name="car-10").applied(book).named("car-10") is not None


def test_a_waiting_car_may_be_invited_after_all() -> None:
    book, car = joined(INVITED, wish(1))
    book, car = joined(book, wish(1, invitation=claim()))
    assert (car.status, car.name) == (IdentityStatus.ACCEPTED, "car-3")


def test_an_invitation_for_a_name_that_is_enrolled_gives_it_to_the_new_board() -> None:
    book, old = accepted(Book(), wish(1, "car-3", partition_id=5))
    book = decisions.invite(book, replace(invitation(), labels=())).applied(book)
    book, new = joined(book, wish(2, invitation=claim()))
    assert (new.name, new.partition_id) == ("car-3", 5)
    assert book.identities[old.car_id].status is IdentityStatus.REVOKED
    assert refused(lambda: joined(book, wish(1, "car-3"))) is Refusal.IDENTITY_REVOKED


def test_a_new_board_keeps_the_labels_of_the_old_one_unless_its_invitation_brings_others() -> None:
    book, _ = joined(INVITED, wish(1, invitation=claim()))
    bare = replace(invitation(2), labels=())
    assert joined(book.with_(invitations=[bare]), wish(2, invitation=claim(2)))[1].labels == ("fleet=north",)
    other = replace(invitation(2), labels=("fleet=south",))
    assert joined(book.with_(invitations=[other]), wish(2, invitation=claim(2)))[1].labels == ("fleet=south",)
    nobody = Book(invitations={"00000002": bare})
    assert joined(nobody, wish(2, invitation=claim(2)))[1].labels == ()


def test_a_newer_invitation_for_a_name_ends_the_older() -> None:
    book = decisions.invite(INVITED, replace(invitation(2), created_at=NOW + HOUR / 2)).applied(INVITED)
    assert refused(lambda: joined(book, wish(1, invitation=claim(1)), NOW + HOUR / 2)) is Refusal.INVITATION_EXPIRED
    assert joined(book, wish(1, invitation=claim(2)), NOW + HOUR / 2)[1].name == "car-3"


def test_a_newer_invitation_ends_no_other_than_an_open_one_of_its_name() -> None:
    later = replace(invitation(9), created_at=NOW + HOUR / 2, expires_at=NOW + 2 * HOUR)
    for number, other in enumerate(
        (
            invitation(1, "car-4"),
            invitation(1, None),
            replace(invitation(), used_at=NOW, used_by="x"),
            replace(invitation(), expires_at=later.created_at),
        )
    ):
        change = decisions.invite(Book(invitations={other.id: other}), later)
        assert change.invitations == (later,), number
    nameless = replace(later, name=None)
    change = decisions.invite(Book(invitations={"00000001": invitation(1, None)}), nameless)
    assert change.invitations == (nameless,)
    assert [event[:2] for event in change.events] == [("00000009", "invited")]
    assert [event[:2] for event in decisions.invite(INVITED, later).events] == [("car-3", "invited")]


@pytest.mark.parametrize(
    "of_the_other", [{"used_at": NOW}, {"expires_at": NOW}, {"name": "car-7"}, {"partition_id": 5}]
)
def test_a_partition_is_promised_only_by_an_open_invitation_for_another_car(of_the_other: dict[str, object]) -> None:
    other = replace(invitation(1, "car-8", 6), **of_the_other)  # type: ignore[arg-type]
    wanted = invitation(2, "car-7", 6)
    assert decisions.invite(Book(invitations={other.id: other}), wanted).invitations[-1] == wanted


def test_an_invitation_cannot_promise_a_partition_twice() -> None:
    book, _ = accepted(Book(), wish(1, partition_id=5))
    assert refused(lambda: decisions.invite(book, invitation(1, "car-7", 5))) is Refusal.PARTITION_TAKEN
    book = decisions.invite(book, invitation(1, "car-7", 6)).applied(book)
    assert refused(lambda: decisions.invite(book, invitation(2, "car-8", 6))) is Refusal.PARTITION_TAKEN
    # The enrolled car itself may be invited anew, to its own partition.
    assert decisions.invite(book, invitation(2, "car-1", 5)).invitations[-1].partition_id == 5


def test_a_key_belongs_to_one_secret_and_one_car_for_ever() -> None:
    book, car = accepted(Book(), wish(1))
    stolen = replace(wish(1), secret_sha256="f" * 64)
    assert refused(lambda: joined(book, stolen)) is Refusal.KEY_REFUSED
    assert refused(lambda: rotation.rotate(book, car.car_id, "key-1", "f" * 64)) is Refusal.KEY_REFUSED
    book, other = accepted(book, wish(2))
    assert refused(lambda: rotation.rotate(book, other.car_id, "key-1", "f" * 64)) is Refusal.KEY_REFUSED
    assert refused(lambda: decisions.accept_stock(book, "s", "key-1", "x", None, NOW)) is Refusal.KEY_REFUSED


def test_a_revoked_car_never_comes_back_by_itself() -> None:
    book, car = accepted(Book(), wish(1))
    book = decisions.revoke(book, car.car_id, "stolen", NOW).applied(book)
    assert refused(lambda: joined(book, wish(1))) is Refusal.IDENTITY_REVOKED
    book = decisions.invite(book, invitation(1, "car-1")).applied(book)
    assert refused(lambda: joined(book, wish(1, invitation=claim()))) is Refusal.IDENTITY_REVOKED
    assert refused(lambda: decisions.accept(book, car.car_id, NOW)) is Refusal.IDENTITY_REVOKED
    assert refused(lambda: rotation.rotate(book, car.car_id, "key-9", "0" * 64)) is Refusal.IDENTITY_REVOKED
    # With a new key and an invitation it does.
    assert joined(book, wish(2, invitation=claim()))[1].name == "car-1"


def test_a_rejected_car_waits_no_longer_and_may_be_accepted_later() -> None:
    book, car = joined(Book(), wish(1))
    book = decisions.reject(book, car.car_id, "not ours", NOW).applied(book)
    asked, car = joined(book, wish(1, asked_from="192.0.2.7"), NOW + HOUR)
    assert (car.status, car.asked_at, car.asked_from) == (IdentityStatus.REJECTED, NOW + HOUR, "192.0.2.7")
    assert asked.identities[car.car_id] == car
    book = decisions.accept(book, car.car_id, NOW).applied(book)
    assert joined(book, wish(1))[1].status is IdentityStatus.ACCEPTED
    assert not decisions.join(book, wish(1), NOW + HOUR, "x")[0]
    assert refused(lambda: decisions.reject(book, car.car_id, "", NOW)) is Refusal.KEY_REFUSED


def test_a_held_car_is_released_with_a_new_key() -> None:
    book, car = accepted(Book(), wish(1))
    book = decisions.hold(car, "two boards", NOW).applied(book)
    assert joined(book, wish(1))[1].status is IdentityStatus.HELD
    assert refused(lambda: rotation.rotate(book, car.car_id, "key-9", "0" * 64)) is Refusal.IDENTITY_HELD
    # Its name stays its own meanwhile.
    assert refused(lambda: joined(book, wish(2, "car-1"))) is Refusal.NAME_TAKEN
    book = decisions.accept(book, car.car_id, NOW).applied(book)
    assert book.identities[car.car_id].rotate_wanted


def test_those_that_wait_cannot_fill_the_register() -> None:
    book = Book()
    for number in range(20):
        book, _ = joined(book, wish(number))
    with pytest.raises(EnrolmentError, match=r"20 of them from 192\.0\.2\.1") as crowded:
        joined(book, wish(999))
    assert crowded.value.refusal is Refusal.PENDING_FULL
    for number in range(100, 280):
        book, _ = joined(book, wish(number, asked_from=f"192.0.2.{number}"))
    with pytest.raises(EnrolmentError, match=r"200 cars wait to be accepted, its maximum") as full:
        joined(book, wish(999, asked_from="198.51.100.1"))
    assert full.value.refusal is Refusal.PENDING_FULL
    # An invited car comes in all the same, and one that waits may go on asking.
    crowd = book.with_(invitations=[invitation()])
    assert joined(crowd, wish(999, invitation=claim()))[1].status is IdentityStatus.ACCEPTED
    assert joined(book, wish(5))[1].status is IdentityStatus.PENDING
    # Who has not asked for more than a day makes room.
    assert decisions.age(book, NOW + 24 * HOUR).dropped == ()
    later = NOW + 24 * HOUR + timedelta(seconds=1)
    assert len(decisions.age(book, later).dropped) == 200
    assert joined(book, wish(999), later)[1].status is IdentityStatus.PENDING


def test_of_refused_cars_the_newest_two_hundred_are_remembered() -> None:
    def refused_cars(count: int) -> Book:
        book = Book()
        for number in range(count):
            book, car = joined(book, wish(number, asked_from=f"192.0.2.{number}"))
            book = book.with_(identities=[replace(car, status=IdentityStatus.REJECTED, decided_at=NOW + number * HOUR)])
        return book

    def dropped(book: Book) -> tuple[str, ...]:
        book, waiting = joined(book, wish(999))
        book, _ = joined(book, wish(998))
        change = decisions.reject(book, waiting.car_id, "not ours", NOW)
        assert change.identities[0].status is IdentityStatus.REJECTED
        return change.dropped

    assert dropped(refused_cars(5)) == ()
    assert dropped(refused_cars(199)) == ()
    assert dropped(refused_cars(200)) == (f"{1:016x}",)
    assert dropped(refused_cars(202)) == tuple(f"{number:016x}" for number in (1, 2, 3))
    # One that is rejected once more does not count beside itself.
    book = refused_cars(200)
    assert decisions.reject(book, f"{1:016x}", "still not ours", NOW).dropped == ()


def test_a_waiting_car_costs_no_write_for_each_question() -> None:
    book, _ = joined(Book(), wish(1))
    assert not decisions.join(book, wish(1), NOW + timedelta(seconds=59), "x")[0]
    assert not decisions.join(book, wish(1), NOW - timedelta(seconds=59), "x")[0]
    assert decisions.join(book, wish(1), NOW + timedelta(seconds=60), "x")[0]
    assert decisions.join(book, wish(1, partition_id=3), NOW, "x")[0]


def test_old_refusals_and_invitations_are_forgotten() -> None:
    second = timedelta(seconds=1)
    book, car = joined(INVITED, wish(1))
    book = decisions.reject(book, car.car_id, "", NOW).applied(book)
    assert decisions.age(book, NOW + timedelta(days=30)).dropped == ()
    assert decisions.age(book, NOW + timedelta(days=30) + second).dropped == (car.car_id,)
    book = decisions.accept(book, car.car_id, NOW).applied(book)
    assert decisions.age(book, NOW + timedelta(days=400)).dropped == ()
    week_after_its_end = NOW + HOUR + timedelta(days=7)
    assert decisions.ended_invitations(book, week_after_its_end) == ()
    assert decisions.ended_invitations(book, week_after_its_end + second) == ("00000001",)


def test_a_revoked_car_is_asked_for_nothing_more_and_the_history_says_why_it_went() -> None:
    book, car = accepted(Book(), wish(1))
    book = rotation.ask_rotation(book, car.car_id).applied(book)

    def ended(reason: str) -> tuple[Identity, str]:
        change = decisions.revoke(book, car.car_id, reason, NOW + HOUR)
        return change.identities[0], change.events[0][2]

    revoked, told = ended("sold")
    assert (revoked.rotate_wanted, revoked.reason, revoked.decided_at, told) == (False, "sold", NOW + HOUR, "sold")
    assert ended("")[1] == "revoked by the operator"


def test_a_stock_node_has_a_key_and_no_secret() -> None:
    change = decisions.accept_stock(Book(), "f" * 16, "key-1", "lab", None, NOW)
    car = change.identities[0]
    assert (car.kind, car.partition_id, car.status) == ("stock", 0, IdentityStatus.ACCEPTED)
    assert rotation.key_of(car, "") is None
    assert refused(lambda: rotation.ask_rotation(change.applied(Book()), car.car_id)) is Refusal.KEY_REFUSED
