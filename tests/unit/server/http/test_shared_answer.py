"""However many ask at a time, what is costly is made once."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fleven.server.http.shared_answer import PART_BYTES, SHARED_SECONDS, SharedAnswer, parts


def test_all_who_ask_at_a_time_share_one_answer() -> None:
    made: list[int] = []
    begun, goes_on = threading.Event(), threading.Event()

    def make() -> bytes:
        made.append(1)
        begun.set()
        goes_on.wait(10)
        return b"text"

    shared = SharedAnswer(make, clock=lambda: 0.0)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(shared.get) for _ in range(8)]
        assert begun.wait(10)
        goes_on.set()
        assert {one.result() for one in asked} == {b"text"}
    assert len(made) == 1


def test_an_answer_is_made_anew_when_it_is_too_old() -> None:
    now, made = [0.0], iter((b"first", b"second"))
    shared = SharedAnswer(lambda: next(made), clock=lambda: now[0])
    assert shared.get() == b"first"
    now[0] = SHARED_SECONDS
    assert shared.get() == b"first"
    now[0] += 0.001
    assert shared.get() == b"second"


def test_an_error_reaches_who_asked_and_is_not_kept() -> None:
    answers = iter((OSError("locked"), b"text"))

    def make() -> bytes:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    shared = SharedAnswer(make)
    with pytest.raises(OSError, match="locked"):
        shared.get()
    assert shared.get() == b"text"


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, 3 * PART_BYTES + 7])
def test_an_answer_is_sent_whole_in_parts_of_a_bounded_size(size: int) -> None:
    answer = bytes(number % 251 for number in range(size))

    async def sent() -> list[bytes]:
        return [part async for part in parts(answer)]

    made = asyncio.run(sent())
    assert b"".join(made) == answer
    assert max(map(len, made), default=0) <= PART_BYTES
