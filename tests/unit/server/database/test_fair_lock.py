"""Threads get the register in the order in which they ask, and nobody waits longer than its limit."""

import contextlib
import threading

from fleven.server.database.fair_lock import Turns

LONG = 20.0


def test_waiters_are_served_in_their_order() -> None:
    turns = Turns()
    served: list[int] = []

    def work(number: int) -> None:
        with turns.turn(LONG) as mine:
            assert mine
            served.append(number)

    threads = []
    with turns.turn(LONG) as mine:
        assert mine
        for number in range(8):
            thread = threading.Thread(target=work, args=(number,))
            thread.start()
            threads.append(thread)
            # The next one asks only when this one stands in the queue.
            while len(turns._waiting) <= number:
                thread.join(0.001)
    for thread in threads:
        thread.join(LONG)
    assert served == list(range(8))


def test_a_thread_that_asks_again_and_again_does_not_pass_one_that_waits() -> None:
    turns = Turns()
    stop = threading.Event()

    def greedy() -> None:
        while not stop.is_set():
            with turns.turn(LONG):
                pass

    threads = [threading.Thread(target=greedy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            with turns.turn(LONG) as mine:
                assert mine
    finally:
        stop.set()
        for thread in threads:
            thread.join(LONG)


def test_a_turn_that_does_not_come_is_given_up_and_lost_to_nobody() -> None:
    turns = Turns()
    with turns.turn(LONG), turns.turn(0.01) as second:
        assert not second
    with turns.turn(0.01) as third:
        assert third


def test_a_turn_ends_with_an_error_too() -> None:
    turns = Turns()
    with contextlib.suppress(ZeroDivisionError), turns.turn(LONG):
        1 / 0  # noqa: B018  (any error inside the block)
    with turns.turn(0.01) as again:
        assert again
