"""Who joins, who waits, who goes: one test for each rule."""

from dataclasses import replace
from datetime import timedelta

from joining_cars import HOUR, NOW, accepted, claim, invitation, joined, refused, wish

from fleven.server.enrolment import decisions, rotation
from fleven.server.enrolment.model import Book
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
    assert refused(lambda: joined(INVITED, wish(1, invitation=claim()), NOW - 25 * HOUR)) is Refusal.INVITATION_EXPIRED


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


def test_a_newer_invitation_for_a_name_ends_the_older() -> None:
    book = decisions.invite(INVITED, replace(invitation(2), created_at=NOW + HOUR / 2)).applied(INVITED)
    assert refused(lambda: joined(book, wish(1, invitation=claim(1)), NOW + HOUR / 2)) is Refusal.INVITATION_EXPIRED
    assert joined(book, wish(1, invitation=claim(2)), NOW + HOUR / 2)[1].name == "car-3"


def test_an_invitation_cannot_promise_a_partition_twice() -> None:
    book, _ = accepted(Book(), wish(1, partition_id=5))
    assert refused(lambda: decisions.invite(book, invitation(1, "car-7", 5))) is Refusal.PARTITION_TAKEN
    book = decisions.invite(book, invitation(1, "car-7", 6)).applied(book)
    assert refused(lambda: decisions.invite(book, invitation(2, "car-8", 6))) is Refusal.PARTITION_TAKEN


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
    assert joined(book, wish(1))[1].status is IdentityStatus.REJECTED
    book = decisions.accept(book, car.car_id, NOW).applied(book)
    assert joined(book, wish(1))[1].status is IdentityStatus.ACCEPTED
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
    for number in range(decisions.MAXIMUM_PENDING_FROM_ONE_ADDRESS):
        book, _ = joined(book, wish(number))
    assert refused(lambda: joined(book, wish(999))) is Refusal.PENDING_FULL
    for number in range(100, 100 + decisions.MAXIMUM_PENDING - len(book.identities)):
        book, _ = joined(book, wish(number, asked_from=f"192.0.2.{number}"))
    assert refused(lambda: joined(book, wish(999, asked_from="198.51.100.1"))) is Refusal.PENDING_FULL
    # An invited car comes in all the same, and one that waits may go on asking.
    full = book.with_(invitations=[invitation()])
    assert joined(full, wish(999, invitation=claim()))[1].status is IdentityStatus.ACCEPTED
    assert joined(book, wish(5))[1].status is IdentityStatus.PENDING
    # Who asks no longer makes room.
    later = NOW + decisions.PENDING_LASTS + HOUR
    assert len(decisions.age(book, later).dropped) == decisions.MAXIMUM_PENDING
    assert joined(book, wish(999), later)[1].status is IdentityStatus.PENDING


def test_a_waiting_car_costs_no_write_for_each_question() -> None:
    book, _ = joined(Book(), wish(1))
    assert not decisions.join(book, wish(1), NOW + timedelta(seconds=30), "x")[0]
    assert decisions.join(book, wish(1), NOW + timedelta(seconds=61), "x")[0]
    assert decisions.join(book, wish(1, partition_id=3), NOW, "x")[0]


def test_old_refusals_and_invitations_are_forgotten() -> None:
    book, car = joined(INVITED, wish(1))
    book = decisions.reject(book, car.car_id, "", NOW).applied(book)
    assert decisions.age(book, NOW + decisions.PENDING_LASTS * 2).dropped == ()
    assert decisions.age(book, NOW + decisions.REJECTED_LASTS * 2).dropped == (car.car_id,)
    assert decisions.ended_invitations(book, NOW + 2 * HOUR) == ()
    assert decisions.ended_invitations(book, NOW + decisions.INVITATION_KEPT + 2 * HOUR) == ("00000001",)


def test_a_stock_node_has_a_key_and_no_secret() -> None:
    change = decisions.accept_stock(Book(), "f" * 16, "key-1", "lab", None, NOW)
    car = change.identities[0]
    assert (car.kind, car.partition_id, car.status) == ("stock", 0, IdentityStatus.ACCEPTED)
    assert rotation.key_of(car, "") is None
    assert refused(lambda: rotation.ask_rotation(change.applied(Book()), car.car_id)) is Refusal.KEY_REFUSED
