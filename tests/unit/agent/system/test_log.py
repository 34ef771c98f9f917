"""Log lines: one event a line, priorities for the journal only, secrets blanked, repeats held back."""

import io
import logging
import os

import pytest

from fleven_agent.system.log import OutputLog, Throttle, _Formatter, behind_journal, event, redact
from fleven_agent.system.systemd import Notify


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(text: str, level: int = logging.WARNING, *, repeats: bool = False) -> logging.LogRecord:
    made = logging.LogRecord("fleven_agent", level, __file__, 1, text, None, None)
    made.repeats = repeats
    return made


def test_an_event_is_one_line_of_keys_and_values() -> None:
    assert event("state", state="running", detail=None, reason="it is", seconds=1.50, empty="") == (
        'state state=running reason="it is" seconds=1.5 empty=""'
    )


@pytest.mark.parametrize(
    ("text", "kept", "gone"),
    [
        ("token=abc123", "token=***", "abc123"),
        ('"password": "hunter2"', "***", "hunter2"),
        ("Authorization: Bearer abc123", "Authorization: Bearer ***", "abc123"),
        ("report-token = 'abc 123'", "report-token = ***", "123"),
        ('report-token = """\nabc123"""', "report-token = ***", "abc123"),
        ("http://pi:raspberry@100.64.0.1:9190/v1", "http://***@100.64.0.1:9190/v1", "raspberry"),
        ("a\n-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\nb", "a\n-----PRIVATE", "MHcC"),
        ("-----BEGIN PRIVATE KEY-----\nMHcC", "REMOVED", "MHcC"),
    ],
)
def test_secrets_are_blanked(text: str, kept: str, gone: str) -> None:
    assert kept in redact(text)
    assert gone not in redact(text)


def test_ordinary_text_is_left_alone() -> None:
    text = "registered node_id=139 superlink=100.64.0.1:9092 http://100.64.0.1:9190"
    assert redact(text) == text


def test_every_line_in_the_journal_has_its_priority() -> None:
    assert _Formatter(journal=True).format(record("one\ntwo")) == "<4>one\n<4>two"
    assert _Formatter(journal=True).format(record("x", logging.ERROR)).startswith("<3>")
    assert not _Formatter(journal=False).format(record("x")).startswith("<")


def test_the_journal_is_recognised_by_its_device_and_inode(tmp_path: os.PathLike[str]) -> None:
    with open(os.path.join(tmp_path, "log"), "w", encoding="utf-8") as stream:  # noqa: PTH118, PTH123  # any file does
        status = os.fstat(stream.fileno())
        assert behind_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not behind_journal(stream, {"JOURNAL_STREAM": "1:2"})
        assert not behind_journal(stream, {})
    assert not behind_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})


def test_repeats_are_held_back_and_counted() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    assert throttle.filter(record("x", repeats=True))
    assert not throttle.filter(record("x", repeats=True))
    assert throttle.filter(record("y", repeats=True))
    assert throttle.filter(record("x"))
    clock.now = 301
    late = record("x", repeats=True)
    assert throttle.filter(late)
    assert late.getMessage() == "x repeated=1"


def test_a_flood_of_output_is_held_back(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    output = OutputLog(lines_per_second=10, clock=clock)
    logger = logging.getLogger("fleven_agent")
    logger.propagate = True
    with caplog.at_level(logging.INFO, logger="fleven_agent"):
        for number in range(1_000):
            output.write("info", f"line {number}")
        assert len(caplog.records) == 40
        clock.now = 1
        output.write("info", "later")
    assert "960 lines held back" in caplog.records[-2].getMessage()
    assert caplog.records[-1].getMessage() == "supernode: later"


def test_systemd_hears_what_it_wants_to_hear() -> None:
    said: list[str] = []
    clock = Clock()
    clock.now = 12.5
    notify = Notify({"WATCHDOG_USEC": "20000000"}, clock, said.append)
    assert notify.watchdog_interval_seconds == 10
    notify.reloading()
    notify.status("running")
    notify.status("running")
    notify.watchdog()
    notify.watchdog()
    clock.now += 5
    notify.watchdog()
    notify.extend_timeout(30)
    notify.ready()
    notify.stopping()
    assert said == [
        "RELOADING=1\nMONOTONIC_USEC=12500000",
        "STATUS=running",
        "WATCHDOG=1",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=30000000",
        "READY=1",
        "STOPPING=1",
    ]


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}])
def test_without_a_watchdog_nothing_beats(environment: dict[str, str]) -> None:
    said: list[str] = []
    Notify(environment, Clock(), said.append).watchdog()
    assert said == []
