"""Who a sender is: a new node, one that was seen before, or another of the same name."""

import pytest

from fleven.server.nodes.senders import Sender, free_name, identify


@pytest.mark.parametrize(
    ("current", "known", "alive", "same", "expected"),
    [
        (True, True, True, True, Sender.KNOWN),
        (True, True, False, False, Sender.KNOWN),
        (False, False, None, False, Sender.NEW),
        (False, False, False, False, Sender.TAKES_OVER),
        (False, False, True, True, Sender.TAKES_OVER),
        (False, False, True, False, Sender.NAMESAKE),
        (False, True, True, True, Sender.NAMESAKE),
        (False, True, False, False, Sender.TAKES_OVER),
    ],
)
def test_who_a_sender_is(current: bool, known: bool, alive: bool | None, same: bool, expected: Sender) -> None:
    found = identify(sender_is_current=current, sender_known=known, holder_alive=alive, same_machine=same)
    assert found is expected


def test_the_first_free_name_is_taken() -> None:
    taken = {"pi", "pi-2"}
    assert free_name("pi", taken.__contains__) == "pi-3"
    assert free_name("car", taken.__contains__) == "car"
