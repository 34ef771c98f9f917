"""What is to be done about node keys at Flower, from the book and Flower's list."""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleven.server.database import Store
from fleven.server.enrolment import decisions, flower_keys
from fleven.server.enrolment.flower_keys import Act, FlowerKeys, behind, steps, written
from fleven.server.enrolment.model import Book, Identity, Key, KeyRole
from fleven.server.enrolment.store import decide, read
from fleven.server.errors import FlowerError
from fleven.server.flower.answers import FlowerNode
from fleven_agent.protocol.identity import IdentityStatus

NOW = datetime(2026, 11, 28, 4, tzinfo=UTC)


def car(*keys: Key, status: IdentityStatus = IdentityStatus.ACCEPTED, number: int = 0) -> Identity:
    return Identity(f"{number:016x}", status, f"car-{number}", number, keys, NOW, NOW, NOW)


def key(text: str = "a", role: KeyRole = KeyRole.CURRENT, node_id: str | None = None, *, spent: bool = False) -> Key:
    return Key(text, "0" * 64, role, node_id, spent)


def listed(text: str = "a", node_id: str = "11", status: str = "online") -> FlowerNode:
    return FlowerNode(node_id, status, public_key=f"{text}\n".encode())


OTHER = listed("other", "99")
REVOKED, HELD = IdentityStatus.REVOKED, IdentityStatus.HELD


@pytest.mark.parametrize(
    ("one", "list_", "expected"),
    [
        (car(key()), [], ("register", None, False)),
        (car(key()), [OTHER], ("register", None, False)),
        (car(key(node_id="11")), [listed()], None),
        (car(key(node_id="11"), status=REVOKED), [listed()], ("unregister", "11", True)),
        (car(key(node_id="11"), status=HELD), [listed()], ("unregister", "11", True)),
        (car(key(role=KeyRole.NEXT)), [OTHER], ("register", None, False)),
        (car(key(role=KeyRole.RETIRED, node_id="11")), [listed()], ("unregister", "11", True)),
        # Flower took it, and we could not write that down.
        (car(key()), [listed()], ("note", "11", False)),
        (car(key(), status=REVOKED), [listed()], ("unregister", "11", True)),
        # Somebody removed it, or we did, and could not write that down.
        (car(key(node_id="11")), [listed(status="unregistered")], ("note", "11", True)),
        (car(key(node_id="11"), status=REVOKED), [listed(status="unregistered")], ("note", "11", True)),
        # Another database.
        (car(key(node_id="11")), [OTHER], ("register", None, False)),
        (car(key(node_id="11"), status=REVOKED), [OTHER], ("note", None, False)),
        (car(key(node_id="11")), [listed(node_id="12")], ("note", "12", False)),
        # What is over is over.
        (car(key(node_id="11", spent=True)), [], None),
        (car(key(), status=REVOKED), [], None),
        # The command's list tells no keys.
        (car(key(node_id="11")), [FlowerNode("99", "online")], None),
        (car(key()), [FlowerNode("99", "online")], ("register", None, False)),
        (car(key(node_id="11"), status=REVOKED), [FlowerNode("11", "online")], ("unregister", "11", True)),
    ],
)
def test_each_key_gets_what_it_needs(
    one: Identity, list_: Sequence[FlowerNode], expected: tuple[str, str | None, bool] | None
) -> None:
    found = [(step.act.value, step.key.flower_node_id, step.key.spent) for step in steps([one], list_, str.encode)]
    assert found == ([] if expected is None else [expected])
    if expected is not None and expected[0] != "note" and not list_:
        assert behind([one])


def test_removals_come_first() -> None:
    cars = [car(key("a")), car(key("b", node_id="12"), status=REVOKED, number=1)]
    assert [step.act for step in steps(cars, [listed("b", "12")], str.encode)] == [Act.UNREGISTER, Act.REGISTER]


def test_a_car_whose_key_others_have_removed_is_held() -> None:
    """Its register may be older than its revocation: it must not come back by itself."""
    for role in (KeyRole.CURRENT, KeyRole.NEXT):
        one = car(key("current"), key("a", role)) if role is KeyRole.NEXT else car(key("a"))
        change = written(Book({one.car_id: one}), {"a": key(node_id="11", spent=True)}, NOW)
        assert change.identities[0].status is HELD
        assert "backup" in change.identities[0].reason
    # An operator releases it, and it is asked for a new key.
    book = change.applied(Book({one.car_id: one}))
    released = decisions.accept(book, one.car_id, NOW).identities[0]
    assert (released.status, released.rotate_wanted) == (IdentityStatus.ACCEPTED, True)


def test_a_car_that_was_released_while_its_key_was_removed_stays_in() -> None:
    one = replace(car(key(node_id="11")), rotate_wanted=True)
    change = written(Book({one.car_id: one}), {"a": key(node_id="11", spent=True)}, NOW)
    assert (change.identities[0].status, change.identities[0].current.spent) == (IdentityStatus.ACCEPTED, True)


def test_what_was_decided_meanwhile_stays() -> None:
    """A car is revoked while Flower takes its key: the key's id is noted, and the car stays revoked."""
    revoked = car(key(), status=REVOKED)
    change = written(Book({revoked.car_id: revoked}), {"a": key(node_id="11")}, NOW)
    assert (change.identities[0].status, change.identities[0].current.flower_node_id) == (REVOKED, "11")
    assert behind(change.identities)


class Inline(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        fn(*args, **kwargs)
        return Future()


class FakeFlower:
    def __init__(self) -> None:
        self.listing: list[FlowerNode] = []
        self.asked = 0
        self.refuses: set[bytes] = set()

    def nodes(self, *, pinned: bool = False) -> list[FlowerNode]:
        self.asked += 1
        return self.listing

    def register_node(self, public_key: bytes) -> str:
        if public_key in self.refuses:
            raise FlowerError("no")
        self.listing = [*self.listing, FlowerNode(str(len(self.listing)), "registered", public_key=public_key)]
        return self.listing[-1].node_id

    def unregister_node(self, node_id: str) -> None:
        raise AssertionError(node_id)


def test_the_work_is_done_once_for_each_change_and_tried_again_after_a_failure(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower_keys, "flower_form", str.encode)
    flower, woken = FakeFlower(), []
    keys = FlowerKeys(store, flower, Inline(), lambda: woken.append(1))
    now = NOW
    keys.attend(now, reachable=True)
    assert flower.asked == 0, "an open fleet costs Flower nothing"
    for number, text in enumerate("ab"):
        made = car(key(text), number=number)
        decide(store, now, lambda _book, made=made: (decisions.Change(identities=(made,)), None))  # type: ignore[misc]
    flower.refuses = {b"a"}
    keys.attend(now, reachable=False)
    assert flower.asked == 0
    keys.attend(now, reachable=True)
    # One that is refused does not keep the other out.
    assert {one.name: one.current.flower_node_id for one in read(store).identities.values()} == {
        "car-0": None,
        "car-1": "0",
    }
    flower.refuses = set()
    keys.attend(now + timedelta(seconds=1), reachable=True)
    assert read(store).identities[f"{0:016x}"].current.flower_node_id is None
    keys.attend(now + timedelta(seconds=6), reachable=True)
    assert read(store).identities[f"{0:016x}"].current.flower_node_id == "1"
    asked = flower.asked
    for second in range(7, 20):
        keys.attend(now + timedelta(seconds=second), reachable=True)
    assert flower.asked == asked, "nothing has changed"
    keys.attend(now + timedelta(seconds=90), reachable=True)
    assert flower.asked == asked + 1, "once a minute all is looked at"

    # The SuperLink was away, and comes back with an empty database.
    flower.listing = []
    keys.attend(now + timedelta(seconds=95), reachable=False)
    keys.attend(now + timedelta(seconds=99), reachable=True)
    assert {node.public_key for node in flower.listing} == {b"a", b"b"}
    store.close()
