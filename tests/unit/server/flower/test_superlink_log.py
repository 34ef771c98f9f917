"""The SuperLink's lines in the journal: no line for each request, no colours, and every warning with its priority."""

import io

from fleven.server.flower.superlink_log import MAXIMUM_LINE_BYTES, SUMMARY_SECONDS, Digest, pump

PULL = "\x1b[92mINFO \x1b[0m:      [Fleet.PullMessages] node_id=18249341824126493132\n"
LIST = "\x1b[92mINFO \x1b[0m:      ControlServicer.ListNodes\n"
WARNING = "\x1b[93mWARNING \x1b[0m:   Option `--insecure` was set.\n"
ERROR = "\x1b[91mERROR \x1b[0m:     [/flwr.proto.Control/StreamLogs][ApiError:16] Run 0 not found\n"


def test_requests_are_counted_and_told_of_once_in_a_while() -> None:
    digest = Digest(0.0)
    assert [line for second in range(500) for line in digest.line(PULL, float(second))] == []
    assert digest.line(LIST, 501.0) == []
    (line,) = digest.line(PULL, SUMMARY_SECONDS)
    assert line == "<6>event=superlink-requests minutes=10 PullMessages=500 ListNodes=1"
    assert digest.summary(SUMMARY_SECONDS + 60) == ["<6>event=superlink-requests minutes=1 PullMessages=1"]
    assert digest.summary(SUMMARY_SECONDS + 120) == []


def test_all_else_stays_with_its_priority_and_without_colours() -> None:
    digest = Digest(0.0)
    assert digest.line("\x1b[92mINFO \x1b[0m:      Starting Flower SuperLink\n", 0.0) == [
        "<6>Starting Flower SuperLink"
    ]
    assert digest.line(WARNING, 0.0) == ["<4>Option `--insecure` was set."]
    assert digest.line(ERROR, 0.0) == ["<3>[/flwr.proto.Control/StreamLogs][ApiError:16] Run 0 not found"]
    assert digest.line("Traceback (most recent call last):\n", 0.0) == ["<3>Traceback (most recent call last):"]
    assert digest.line("\n", 0.0) == []


def test_a_journal_that_takes_nothing_does_not_hold_up_the_superlink() -> None:
    class Closed(io.BytesIO):
        def write(self, _content: object) -> int:
            raise BrokenPipeError

    source = io.BytesIO((WARNING * 3).encode())
    pump(source, Closed(), lambda: 0.0)
    assert source.read() == b""


def test_a_line_that_does_not_end_is_passed_on_in_pieces() -> None:
    source, target = io.BytesIO(b"x" * (3 * MAXIMUM_LINE_BYTES)), io.BytesIO()
    pump(source, target, lambda: 0.0)
    assert target.getvalue().decode().splitlines() == ["<6>" + "x" * MAXIMUM_LINE_BYTES] * 3
