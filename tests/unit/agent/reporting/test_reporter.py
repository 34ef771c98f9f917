"""The way of reports to the server: a bad one costs only itself, and nothing is forgotten that was never sent."""

import errno
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fleven_agent.reporting import reporter as module
from fleven_agent.reporting import spool as spool_module
from fleven_agent.reporting.client import Answer, DeliveryError, Target
from fleven_agent.reporting.reporter import Reporter, retry_seconds
from fleven_agent.reporting.spool import Spool

SENDER = "ab12"
TARGET = Target("http://127.0.0.1:1", 1.0, None, "test")


def report(sequence: int) -> dict[str, Any]:
    return {"sender_id": SENDER, "sequence": sequence}


class Bed:
    """A reporter and the server that it talks to, both without a network."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "deliver", self._deliver)
        monkeypatch.setattr(module, "delay", lambda *_arguments, **_options: 0.01)
        self.spool = Spool(folder, SENDER, maximum_reports=100, maximum_bytes=1_000_000)
        self.tries: list[list[int]] = []
        self.senders: list[dict[str, str]] = []
        self.stored: list[int] = []
        self.judge: Callable[[list[int]], None] = lambda _numbers: None
        """Raises what the server is to answer a batch with."""
        self.problems: list[DeliveryError] = []
        self._told = threading.Condition()
        self.reporter = self.another("boot-1")

    def another(self, boot_id: str) -> Reporter:
        """Return the reporter of another process on the same card."""
        return Reporter(self.spool, TARGET, lambda _answer: self._tell(), self._problem, boot_id=boot_id)

    def _deliver(self, _target: Target, reports: Sequence[Mapping[str, Any]], **_options: Any) -> Answer:
        numbers = [one["sequence"] for one in reports]
        self.senders += [one["sent_by"] for one in reports]
        self.tries.append(numbers)
        self.judge(numbers)
        self.stored += numbers
        return Answer({SENDER: max(self.stored)}, None, None, None, None, ())

    def _problem(self, problem: DeliveryError) -> None:
        self.problems.append(problem)
        self._tell()

    def _tell(self) -> None:
        with self._told:
            self._told.notify_all()

    def wait(self, condition: Callable[[], object]) -> None:
        with self._told:
            assert self._told.wait_for(condition, 10)


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    made = Bed(tmp_path / "spool", monkeypatch)
    yield made
    made.reporter.stop(0)


def away(_numbers: list[int]) -> None:
    raise DeliveryError("Connection refused")


def test_one_bad_report_costs_only_itself(bed: Bed) -> None:
    def refuse_seven(numbers: list[int]) -> None:
        if 7 in numbers:
            raise DeliveryError("422", refused=True)

    bed.judge = refuse_seven
    for number in range(1, 11):
        bed.reporter.submit(report(number), durable=True)
    bed.reporter.start()
    bed.wait(lambda: bed.reporter.waiting() == 0)
    assert bed.stored == [1, 2, 3, 4, 5, 6, 8, 9, 10]
    assert bed.reporter.take_lost() == 1
    assert [len(numbers) for numbers in bed.tries] == [10] + [1] * 10
    for number in (11, 12):
        bed.reporter.submit(report(number), durable=True)
    bed.wait(lambda: bed.stored[-1] == 12)


def test_what_the_disk_did_not_take_keeps_its_place_in_the_order(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path, _content: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(module, "BATCH", 2)
    for number in (1, 2):
        bed.reporter.submit(report(number), durable=True)
    with monkeypatch.context() as changed:
        changed.setattr(spool_module, "write_atomically", refuse)
        for number in (3, 4, 5):
            bed.reporter.submit(report(number), durable=True)
    for number in (6, 7):
        bed.reporter.submit(report(number), durable=True)
    bed.reporter.submit(report(8), durable=False)
    bed.reporter.start()
    bed.wait(lambda: bed.reporter.waiting() == 0)
    assert bed.stored == list(range(1, 9))
    assert bed.reporter.take_lost() == 0


def test_a_report_names_the_process_that_sends_it_and_not_the_one_that_made_it(bed: Bed) -> None:
    bed.judge = away
    bed.reporter.submit(report(1), durable=True)
    bed.reporter.start()
    bed.wait(lambda: len(bed.senders) > 1)
    bed.reporter.stop(0)
    first = bed.senders[0]
    assert all(one == first for one in bed.senders)
    bed.judge, bed.reporter = lambda _numbers: None, bed.another("boot-2")
    bed.reporter.start()
    bed.wait(lambda: bed.stored == [1])
    assert bed.senders[-1]["boot_id"] == "boot-2"
    assert len({one["process"] for one in bed.senders}) == 2
    assert not [file for file in bed.spool.directory.parent.rglob("*") if file.is_file()], "its word is in no file"


def test_stopping_tries_once_and_no_more(bed: Bed) -> None:
    bed.judge = away
    bed.reporter.submit(report(1), durable=True)
    bed.reporter.start()
    bed.wait(lambda: bed.problems)
    before, began = len(bed.tries), time.monotonic()
    bed.reporter.submit(report(2), durable=True)
    bed.reporter.stop(3)
    assert time.monotonic() - began < 2
    assert len(bed.tries) - before <= 20  # the pauses before the stop are short here
    assert bed.tries[-1] == [1, 2]
    assert len(bed.spool) == 2


def test_nothing_is_tried_while_reports_are_switched_off(bed: Bed) -> None:
    bed.judge = away
    bed.reporter.submit(report(1), durable=True)
    bed.reporter.start()
    bed.wait(lambda: bed.problems)
    bed.reporter.retarget(None)
    time.sleep(0.1)  # a try that was on its way ends
    tried = len(bed.tries)
    time.sleep(0.2)
    assert len(bed.tries) == tried
    bed.judge = lambda _numbers: None
    bed.reporter.retarget(TARGET)
    bed.wait(lambda: bed.stored == [1])


def test_changed_bounds_hold_from_the_next_report_on(bed: Bed) -> None:
    bed.judge = away
    bed.reporter.start()
    for number in range(1, 11):
        bed.reporter.submit(report(number), durable=True)
    bed.reporter.resize(maximum_reports=3, maximum_bytes=1_000_000)
    bed.reporter.submit(report(11), durable=True)
    assert [one["sequence"] for one in bed.spool.oldest(99)] == [9, 10, 11]


def test_a_server_that_starts_anew_is_asked_again_within_seconds_and_one_that_is_away_less_often() -> None:
    middles = [retry_seconds(failures, 0.5) for failures in range(1, 12)]
    assert middles == [2.0, 4.0, *[5.0] * 6, *[20.0] * 3]


def test_a_sign_that_the_server_is_back_ends_the_pause_and_what_follows_is_tried_soon(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[int] = []

    def long_pause(failures: int, _chance: float) -> float:
        pauses.append(failures)
        return 60.0

    monkeypatch.setattr(module, "retry_seconds", long_pause)
    bed.judge = away
    bed.reporter.submit(report(1), durable=True)
    bed.reporter.start()
    for tries in (1, 2):
        bed.wait(lambda tries=tries: len(bed.problems) == tries)
        while len(pauses) < tries or not bed.reporter._pausing_until:
            time.sleep(0.001)
        if tries == 2:
            bed.judge = lambda _numbers: None
        bed.reporter.try_now()
    bed.wait(lambda: bed.stored == [1])
    assert pauses == [1, 1]
