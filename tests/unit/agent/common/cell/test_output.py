"""What a task prints is passed on whole, and no line of it without a mark."""

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleven_agent.common.cell.output import MARK, WHOLE_BYTES, MarkedOutput


def passed_on(chunks: list[bytes]) -> bytes:
    """Return what comes out of it when a task has printed this, in these pieces, and ended."""
    out_read, out_write = os.pipe()
    found: list[bytes] = []

    def listen() -> None:
        while chunk := os.read(out_read, 65_536):
            found.append(chunk)

    listening = threading.Thread(target=listen)
    listening.start()
    output = MarkedOutput(out_write)
    for chunk in chunks:
        os.write(output.write, chunk)
        assert output.pass_on()
    os.close(output.write)
    output.end()
    os.close(output.read)
    os.close(out_write)
    listening.join()
    os.close(out_read)
    return b"".join(found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=200) | st.sampled_from([b"\n", b"\r", MARK.encode(), b"x" * 9_000]), max_size=8))
def test_each_line_is_marked_and_short_enough_to_stay_whole(chunks: list[bytes]) -> None:
    out = passed_on(chunks)
    lines = out.split(b"\n")[:-1]
    assert all(line.startswith(MARK.encode()) and len(line) < WHOLE_BYTES for line in lines)
    printed = b"".join(chunks)
    assert b"".join(line[1:] for line in lines) == printed.replace(b"\n", b"")
    if len(printed) < 1_000:
        assert [line[1:] for line in lines] == printed.removesuffix(b"\n").split(b"\n") if printed else lines == []


def test_the_end_is_not_waited_for_while_something_that_was_left_behind_may_print() -> None:
    out_read, out_write = os.pipe()
    output = MarkedOutput(out_write)
    os.write(output.write, b"last words")
    output.end()
    assert os.read(out_read, 100) == MARK.encode() + b"last words\n"
    for descriptor in (out_read, out_write, output.read, output.write):
        os.close(descriptor)


def test_a_listener_that_has_gone_stops_nothing() -> None:
    out_read, out_write = os.pipe()
    os.close(out_read)
    output = MarkedOutput(out_write)
    os.write(output.write, b"to nobody\n")
    assert output.pass_on()
    for descriptor in (out_write, output.read, output.write):
        os.close(descriptor)


@pytest.mark.parametrize("text", [b"a\nb", b"a\n\nb\n"])
def test_empty_lines_are_lines(text: bytes) -> None:
    assert passed_on([text]).count(MARK.encode()) == text.removesuffix(b"\n").count(b"\n") + 1
