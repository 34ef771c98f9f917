"""SuperNode as the agent handles it: what its lines mean, also to a loop that comes to them late."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleven_agent.config.settings import Settings
from fleven_agent.protocol.codes import Reason
from fleven_agent.supernode import supernode as module
from fleven_agent.supernode.connection_watch import OfflineList, Reach
from fleven_agent.supernode.flower import Launch, line_for
from fleven_agent.supernode.supernode import SuperNode
from fleven_agent.supernode.tasks import Sample
from fleven_agent.system import procfs
from fleven_agent.system.log import OutputLog
from fleven_agent.system.tcp_counters import Connection

SETTINGS = Settings(partition_id=0, superlink="127.0.0.1:9092")

FLOWER = line_for("1.34.0")


class Clocks:
    """All clocks that a line is stamped with."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000 + self.now

    def clock_gettime(self, _which: int) -> float:
        return 50 + self.now

    CLOCK_BOOTTIME = 7


class FakeWarm:
    """A warm launcher that is switched off."""

    def environment(self, base: dict[str, str]) -> dict[str, str]:
        return base

    def supernode_program(self, _environment: dict[str, str]) -> str:
        return "/fake/flower-supernode"

    unplaced = ""

    def problem(self) -> str:
        return ""

    def tasks(self) -> list[Any]:
        return []

    def process_ids(self) -> list[int]:
        return []


class Bed:
    """A SuperNode whose process, clocks and looks at processes are the test's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clocks = Clocks()
        self.looks: list[int | None] = []
        self.finding = module.Finding()
        self.connections: list[Connection] | None = None
        self.reach = Reach()
        self.offline = OfflineList()
        self._say: Callable[[str], None] = lambda _line: None
        monkeypatch.setattr(module, "time", self.clocks)
        monkeypatch.setattr(module.Child, "spawn", self._spawn)
        monkeypatch.setattr(module.tcp_counters, "connections", lambda _pid, _port: self.connections)
        monkeypatch.setattr(module.ProcessMonitor, "look", self._look)
        self.node = SuperNode(FLOWER, folder, FakeWarm(), OutputLog(lines_per_second=100), lambda: None)  # type: ignore[arg-type]
        assert self.node.spawn(Launch(("flower-supernode",), (("PATH", "/bin"),)), SETTINGS, self.clocks.now) is None

    def _spawn(self, *_arguments: Any) -> Any:
        self._say = _arguments[-1]
        return SimpleNamespace(pid=1, poll=lambda: None)

    def _look(self, _now: float, *, task_ticks: int | None, **_more: Any) -> module.Finding:
        self.looks.append(task_ticks)
        return self.finding

    def say(self, *lines: str) -> None:
        for line in lines:
            self._say(f"INFO :      {line}")

    def answer(self, exit_code: int, *, later: float = 0.0) -> None:
        """Have a ClientApp begin a task, end, and leave its answer to SuperNode, so much later."""
        self.say(*BEGIN)
        self.finding = clientapp()
        self.cycle()
        self.finding = clientapp(exit_code=exit_code)
        assert self.cycle(later=later) is None
        self.say(*SENDING)

    def cycle(self, later: float = 0.0, *, superlink_away: bool = False, data_stuck: bool = False) -> Any:
        """Let time pass, then do what the loop does; return what is broken."""
        self.clocks.now += later
        self.node.drain_lines()
        return self.node.look(
            self.clocks.now,
            SETTINGS,
            None,
            reach=self.reach,
            flower_offline=self.offline,
            superlink_away=superlink_away,
            data_stuck=data_stuck,
        )[0]


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    return Bed(tmp_path, monkeypatch)


def test_a_task_begins_when_its_line_is_read_and_not_when_the_loop_comes_to_it(bed: Bed) -> None:
    bed.say("[RUN 5, ROUND 1]", "Receiving: train message (ID: a)")
    bed.cycle(later=12)
    task = bed.node.tasks.current
    assert task is not None
    assert (task.started, task.started_at) == (1_000, 1_700_001_000)
    assert bed.looks == [int((1_050 - FLOWER.executor_slack_seconds) * procfs.TICKS_PER_SECOND)]


BEGIN = ("[RUN 5, ROUND 1]", "Receiving: train message (ID: a)", "Received successfully")
SENDING = ("[RUN 5, ROUND 1]", "Sending: train message (ID: b)")
LIMIT = SETTINGS.supervision.task_stuck_seconds


def connection(received: int, sent: int, waiting: int = 0) -> Connection:
    return Connection(7, "10.0.0.2", "10.0.0.1", received, sent, waiting)


def clientapp(cpu: float = 5.0, *, exit_code: int | None = None) -> module.Finding:
    return module.Finding(samples=(Sample(9, cpu, 100, exit_code is not None, exit_code),))


def test_a_task_that_makes_no_progress_is_stuck(bed: Bed) -> None:
    bed.say(*BEGIN)
    assert bed.cycle() is None
    assert bed.cycle(later=LIMIT - 1) is None
    assert bed.cycle(later=1).reason is Reason.TASK_STUCK


def test_a_task_that_waits_for_a_hanging_disk_is_stuck_soon(bed: Bed) -> None:
    bed.say(*BEGIN)
    assert bed.cycle(data_stuck=True) is None
    assert bed.cycle(later=module.DATA_STUCK_SECONDS - 1, data_stuck=True) is None
    assert bed.cycle(later=1) is None
    assert bed.cycle(data_stuck=True).reason is Reason.TASK_STUCK


def test_an_answer_waits_for_the_superlink_as_long_as_that_is_away(bed: Bed) -> None:
    bed.answer(exit_code=0)
    for _ in range(5):
        assert bed.cycle(later=LIMIT, superlink_away=True) is None
    bed.say("Sent successfully")
    bed.cycle(later=1)
    assert bed.node.tasks.current is None


def test_an_answer_that_a_reachable_superlink_does_not_get_is_stuck(bed: Bed) -> None:
    bed.answer(exit_code=0)
    assert bed.cycle() is None
    assert bed.cycle(later=LIMIT - 1) is None
    broken = bed.cycle(later=1)
    assert (broken.reason, "brings no answer to the SuperLink" in broken.detail) == (Reason.TASK_STUCK, True)


def test_a_lost_connection_is_no_fault_of_the_task(bed: Bed) -> None:
    bed.say(*BEGIN)
    for _ in range(int(LIMIT / 10)):
        bed.say("Connection attempt failed, retrying in 20.00 seconds")
        assert bed.cycle(later=20) is None
    bed.say("Connection successful after 3000.00 seconds and 150 tries")
    assert bed.cycle() is None
    assert bed.cycle(later=LIMIT - 1) is None
    assert bed.cycle(later=1).reason is Reason.TASK_STUCK


def test_a_connection_that_came_back_without_a_word_excuses_no_stuck_task(bed: Bed) -> None:
    bed.say(*BEGIN, "Connection attempt failed, retrying in 0.67 seconds", "Giving up reconnection after 5.10 seconds")
    assert bed.cycle(later=FLOWER.lost_seconds - 1) is None
    assert bed.cycle(later=LIMIT - 1) is None
    assert bed.cycle(later=1).reason is Reason.TASK_STUCK


@pytest.mark.parametrize("exit_code", [0, 1, 9])
def test_a_clientapp_that_ends_without_an_answer_leaves_none(bed: Bed, exit_code: int) -> None:
    bed.say(*BEGIN)
    bed.finding = clientapp()
    assert bed.cycle() is None
    bed.finding = clientapp(exit_code=exit_code)
    assert bed.cycle(later=FLOWER.died_seconds + 1) is None  # it may just have ended
    assert bed.cycle(later=FLOWER.died_seconds - 1) is None
    broken = bed.cycle(later=1)
    assert (broken.reason, "without an answer" in broken.detail) == (Reason.TASK_STUCK, True)


def test_half_an_answer_of_a_killed_clientapp_is_waited_for_in_vain(bed: Bed) -> None:
    bed.answer(exit_code=9, later=FLOWER.died_seconds - 1)  # the time before the answer does not count
    assert bed.cycle() is None
    assert bed.cycle(later=FLOWER.broken_off_seconds - 1) is None
    broken = bed.cycle(later=1)
    assert (broken.reason, "in the middle of its answer" in broken.detail) == (Reason.TASK_STUCK, True)


def test_an_answer_of_a_killed_clientapp_that_still_moves_is_let_go_on(bed: Bed) -> None:
    bed.answer(exit_code=9)
    for step in range(20):
        bed.connections = [connection(1_000, 20_000 * (step + 1))]
        assert bed.cycle(later=10) is None


def test_a_model_on_its_way_is_progress_and_heartbeats_are_none(bed: Bed) -> None:
    bed.say(*BEGIN)
    received = 1_000
    for _ in range(int(LIMIT / 10)):
        received += 20_000
        bed.connections = [connection(received, 500)]
        assert bed.cycle(later=10) is None
    for _ in range(int(LIMIT / 10) - 1):
        received += 1_000
        bed.connections = [connection(received, 500)]
        assert bed.cycle(later=10) is None
    assert bed.cycle(later=10).reason is Reason.TASK_STUCK


def test_a_dead_connection_is_broken_when_a_fresh_one_is_accepted(bed: Bed) -> None:
    bed.say("SuperNode ID: 55")
    bed.connections = [connection(1_000, 500, waiting=40)]
    for _ in range(20):
        assert bed.cycle(later=5) is None  # nobody reaches the SuperLink: the kernel goes on by itself when it is back
    bed.reach = Reach(tried_at=bed.clocks.now, reached_at=bed.clocks.now, reachable_since=bed.clocks.now)
    assert bed.cycle(later=1) is None
    assert bed.cycle(later=8).reason is Reason.CONNECTION_DEAD


def test_a_node_that_flower_lists_as_offline_is_broken_when_it_ought_to_be_online(bed: Bed) -> None:
    bed.say("SuperNode ID: 55")
    bed.reach = Reach(reachable_since=bed.clocks.now)
    bed.offline = OfflineList(bed.clocks.now + 200, {"54": 500.0})
    assert bed.cycle(later=200) is None
    bed.offline = OfflineList(bed.clocks.now, {"55": 40.0})
    assert bed.cycle().reason is Reason.LISTED_OFFLINE


def test_what_was_said_when_the_node_registered_counts_no_more_an_hour_later(bed: Bed) -> None:
    bed.reach = Reach(reachable_since=bed.clocks.now - 1_000)
    bed.say("SuperNode ID: 55")
    assert bed.cycle() is None
    bed.offline = OfflineList(bed.clocks.now + 1, {"55": 40.0})  # of before it came back under the same id
    assert bed.cycle(later=3_600) is None
