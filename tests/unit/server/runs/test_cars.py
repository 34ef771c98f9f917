"""Whom a run asks, from a real register: enrolled, accepted, known to Flower, with the partition of the enrolment."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from fleven.server.config.settings import ServerConfig
from fleven.server.database import Store
from fleven.server.enrolment import decisions, rotation
from fleven.server.enrolment.decisions import Wish
from fleven.server.enrolment.model import KeyRole
from fleven.server.enrolment.store import decide
from fleven.server.nodes.registry import NodeRegistry
from fleven.server.runs.cars import RunCars
from fleven.server.runs.lifecycle import SubmissionFailedError, SubmissionRefusedError
from fleven.server.schedules.spec import Conditions, Prefer

NOW = datetime(2026, 11, 28, 4, tzinfo=UTC)


class FakeRun:
    """The parts of a run that are read."""

    def __init__(self, **conditions: Any) -> None:
        self.id = 1
        self.spec = self
        self.conditions = Conditions(**conditions)


def enrol(store: Store, number: int, flower_node_id: str | None, partition: int) -> str:
    wish = Wish(f"ecdsa-sha2-nistp384 key{number}", "0" * 64, f"car-{number}", partition)
    car = decide(store, NOW, lambda book: decisions.join(book, wish, NOW, f"{number:016x}"))
    decide(store, NOW, lambda book: (decisions.accept(book, car.car_id, NOW), None))

    def known(book: Any) -> Any:
        one = book.identities[car.car_id]
        return decisions.Change(identities=(one.with_key(replace(one.current, flower_node_id=flower_node_id)),)), None

    decide(store, NOW, known)
    return car.car_id


def cars(store: Store, *, insecure: bool = False, **conditions: Any) -> str:
    config = ServerConfig.model_validate({"insecure": insecure})
    return RunCars(NodeRegistry.from_config(store, config), config, lambda: NOW)(FakeRun(**conditions))  # type: ignore[arg-type]


def test_accepted_cars_that_flower_knows(store: Store) -> None:
    enrol(store, 1, "18446744073709551615", 4)
    enrol(store, 2, "7", 3)
    enrol(store, 3, None, 5)
    revoked = enrol(store, 4, "9", 6)
    assert cars(store) == "7=3,18446744073709551615=4,9=6"
    decide(store, NOW, lambda book: (decisions.revoke(book, revoked, "", NOW), None))
    held = enrol(store, 5, "10", 7)
    decide(store, NOW, lambda book: (decisions.hold(book.identities[held], "two boards", NOW), None))
    decide(
        store,
        NOW,
        lambda book: decisions.join(book, Wish("ecdsa-sha2-nistp384 waitwait", "0" * 64, "car-8"), NOW, "8" * 16),
    )
    assert cars(store) == "7=3,18446744073709551615=4"
    assert cars(store, nodes=("car-2",)) == "7=3"


def test_nobody_is_not_everybody(store: Store) -> None:
    with pytest.raises(SubmissionFailedError, match="no enrolled car"):
        cars(store)
    enrol(store, 1, "7", 0)
    for prefer in Prefer:
        with pytest.raises(SubmissionFailedError):
            cars(store, max_nodes=1, prefer=prefer)  # it is not ready


def test_an_open_server_asks_everybody(store: Store) -> None:
    enrol(store, 1, "7", 0)
    assert cars(store, insecure=True) == ""


def test_more_than_a_command_can_name_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    enrol(store, 1, "18446744073709551615", 0)
    monkeypatch.setattr("fleven.server.runs.cars.LONGEST_TEXT", 10)
    with pytest.raises(SubmissionRefusedError):
        cars(store)


def test_a_car_that_has_brought_a_new_key_is_asked_under_that(store: Store) -> None:
    car_id = enrol(store, 1, "7", 4)
    decide(store, NOW, lambda book: rotation.rotate(book, car_id, "ecdsa-sha2-nistp384 new", "1" * 64))
    assert cars(store) == "7=4", "Flower does not know the new one yet"

    def known(book: Any) -> Any:
        car = book.identities[car_id]
        following = car.key(KeyRole.NEXT)
        return decisions.Change(identities=(car.with_key(replace(following, flower_node_id="8")),)), None

    decide(store, NOW, known)
    assert cars(store) == "8=4"
