"""Cars that ask to join, and what an invitation is to them: for tests of the decisions about both."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from fleven.server.enrolment import decisions
from fleven.server.enrolment.decisions import Wish
from fleven.server.enrolment.model import Book, EnrolmentError, Identity, Invitation
from fleven_agent.protocol.identity import Refusal, secret_digest

NOW = datetime(2026, 11, 28, 4, tzinfo=UTC)
HOUR = timedelta(hours=1)


def wish(number: int, name: str = "", **values: object) -> Wish:
    given = {"name": name or f"car-{number}", "asked_from": "192.0.2.1", **values}
    return Wish(public_key=f"key-{number}", secret_sha256=secret_digest(f"secret-{number}"), **given)  # type: ignore[arg-type]


def invitation(number: int = 1, name: str | None = "car-3", partition_id: int | None = None) -> Invitation:
    return Invitation(f"{number:08x}", secret_digest("once"), name, partition_id, ("fleet=north",), NOW, NOW + HOUR)


def claim(number: int = 1) -> tuple[str, str]:
    return f"{number:08x}", "once"


def joined(book: Book, one: Wish, at: datetime = NOW) -> tuple[Book, Identity]:
    new_id = f"{len(book.identities) + 1:016x}"
    change, car = decisions.join(book, one, at, new_id)
    return change.applied(book), car


def accepted(book: Book, one: Wish) -> tuple[Book, Identity]:
    book, car = joined(book, one)
    book = decisions.accept(book, car.car_id, NOW).applied(book)
    return book, book.identities[car.car_id]


def refused(call: Callable[[], object]) -> Refusal:
    with pytest.raises(EnrolmentError) as caught:
        call()
    assert caught.value.message
    return caught.value.refusal
