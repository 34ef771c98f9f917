"""A car's keys: asked for, brought, used, and never used again."""

from dataclasses import replace

from joining_cars import accepted, refused, wish

from fleven.server.enrolment import rotation
from fleven.server.enrolment.model import Book, KeyRole
from fleven_agent.protocol.identity import Refusal, secret_digest


def test_a_rotation_holds_both_keys_until_the_new_one_is_used() -> None:
    book, car = accepted(Book(), wish(1))
    book = rotation.ask_rotation(book, car.car_id).applied(book)
    change, _ = rotation.rotate(book, car.car_id, "key-9", secret_digest("new"))
    book = change.applied(book)
    # The same request again changes nothing.
    assert not rotation.rotate(book, car.car_id, "key-9", secret_digest("new"))[0]
    car = book.identities[car.car_id]
    assert car.rotate_wanted
    old, new = rotation.key_of(car, "secret-1"), rotation.key_of(car, "new")
    assert old is not None
    assert new is not None
    assert (old.role, new.role) == (KeyRole.CURRENT, KeyRole.NEXT)
    car = rotation.promote(car).applied(book).identities[car.car_id]
    assert rotation.key_of(car, "secret-1") is None
    assert car.current.public_key == "key-9"
    assert not car.rotate_wanted


def test_a_second_new_key_takes_the_place_of_the_first() -> None:
    book, car = accepted(Book(), wish(1))
    for key in ("key-8", "key-9"):
        book = rotation.rotate(book, car.car_id, key, secret_digest(key))[0].applied(book)
    car = book.identities[car.car_id]
    assert [key.role for key in car.keys] == ["current", "retired", "next"]
    assert refused(lambda: rotation.rotate(book, car.car_id, "key-8", secret_digest("key-8"))) is Refusal.KEY_REFUSED


def test_keys_of_one_car_are_bounded() -> None:
    book, car = accepted(Book(), wish(1))
    for number in range(199):
        book = rotation.rotate(book, car.car_id, f"new-{number}", f"{number:064x}")[0].applied(book)
    assert refused(lambda: rotation.rotate(book, car.car_id, "one-more", "0" * 64)) is Refusal.KEY_REFUSED


def test_a_wish_for_a_key_waits_for_the_end_of_a_run() -> None:
    book, car = accepted(Book(), wish(1))
    assert not rotation.asks_for_key(car, run_under_way=False)
    wanted = rotation.ask_rotation(book, car.car_id).applied(book).identities[car.car_id]
    assert rotation.changes_key(wanted)
    assert rotation.asks_for_key(wanted, run_under_way=False)
    assert not rotation.asks_for_key(wanted, run_under_way=True)
    # A released car's key is refused by Flower for ever: it is in no run.
    spent = wanted.with_key(replace(wanted.current, spent=True))
    assert rotation.asks_for_key(spent, run_under_way=True)
    brought, _ = rotation.rotate(book, car.car_id, "key-2", "0" * 64)
    bringing = brought.identities[0]
    assert rotation.changes_key(bringing)
    assert not rotation.changes_key(car)
    assert not rotation.asks_for_key(bringing, run_under_way=False)
