"""Which processes are taken for the current task's: whatever the clocks say, a healthy task is never overlooked."""

from dataclasses import replace

import pytest

from fleven_agent.supernode.flower import Event, Kind, line_for
from fleven_agent.supernode.process_monitor import FROZEN_SECONDS, Forks, ProcessMonitor
from fleven_agent.supernode.tasks import Sample, Task, Tasks
from fleven_agent.system import procfs
from fleven_agent.system.procfs import Stat
from fleven_agent.warm.manager import WarmTask

FLOWER = line_for("1.34.0")
SUPERNODE, EXECUTOR, CLIENTAPP, FORK = 10, 11, 12, 22
NORMAL = Stat(
    pid=0,
    state="S",
    parent=1,
    group=1,
    session=1,
    cpu_seconds=1.0,
    start_ticks=100,
    rss_bytes=1,
    exit_code=None,
)


class Processes:
    """A /proc of one's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stats: dict[int, Stat] = {}
        monkeypatch.setattr(procfs, "stat", self.stats.get)
        monkeypatch.setattr(procfs, "children", self._children)
        monkeypatch.setattr(procfs, "descendants", lambda _pid: [])
        monkeypatch.setattr(procfs, "peak_rss_bytes", lambda _pid: 5_000)
        monkeypatch.setattr(procfs, "command_line", lambda pid: [FLOWER.executor] if pid == EXECUTOR else [])
        self.add(SUPERNODE, 1)
        self.add(EXECUTOR, SUPERNODE)

    def add(self, pid: int, parent: int, *, ticks: int = 100, cpu: float = 1.0, state: str = "S") -> None:
        self.stats[pid] = replace(NORMAL, pid=pid, parent=parent, start_ticks=ticks, cpu_seconds=cpu, state=state)

    def _children(self, pid: int) -> list[int]:
        return [one.pid for one in self.stats.values() if one.parent == pid]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    return Processes(monkeypatch)


def watch() -> ProcessMonitor:
    return ProcessMonitor(SUPERNODE, 0, FLOWER, executor_start_seconds=10, hang_seconds=600)


def pids(one: ProcessMonitor, task_ticks: int | None) -> list[int]:
    return [sample.pid for sample in one.look(1, registered=True, task_ticks=task_ticks).samples]


def test_a_living_clientapp_counts_even_if_it_seems_older_than_its_task(processes: Processes) -> None:
    processes.add(CLIENTAPP, EXECUTOR, ticks=400)
    finding = watch().look(1, registered=True, task_ticks=500)
    assert [sample.pid for sample in finding.samples] == [CLIENTAPP]
    assert finding.task_pids == (CLIENTAPP,)


def test_a_defunct_clientapp_of_a_task_before_costs_this_one_nothing(processes: Processes) -> None:
    processes.add(CLIENTAPP, EXECUTOR, ticks=400, state="Z")
    assert pids(watch(), 500) == []


def test_a_clientapp_that_still_ends_is_the_task_befores(processes: Processes) -> None:
    one = watch()
    processes.add(CLIENTAPP, EXECUTOR, ticks=400)
    assert pids(one, 390) == [CLIENTAPP]
    assert pids(one, None) == []
    processes.add(CLIENTAPP + 1, EXECUTOR, ticks=510)
    assert pids(one, 500) == [CLIENTAPP + 1]
    assert pids(one, 600) == []


def fork(pid: int = FORK, *, began: float = 1_000.0, ended: float | None = None) -> WarmTask:
    status, cpu, peak = (None, None, None) if ended is None else (0, 3.0, 9_000)
    return WarmTask(pid, 99, began, ended, status, cpu, peak)


def task(wall: float = 1_000.0) -> Task:
    return Task("5", 1, "train", wall, 0, 0)


def test_a_living_fork_counts_even_if_the_wall_clock_was_set_back(processes: Processes) -> None:
    processes.add(FORK, 1)
    [sample] = Forks().look(task(wall=5_000), [fork(began=1_000)])
    assert (sample.pid, sample.ended, sample.warm) == (FORK, False, True)


def test_a_fork_goes_on_when_the_warm_process_that_made_it_is_forgotten(processes: Processes) -> None:
    tasks, forks = Tasks(), Forks()
    tasks.on_event(Event(Kind.TASK_RECEIVING, message_type="train"), 0, 1_000)

    def look(now: float, told: list[WarmTask]) -> list[Sample]:
        samples = forks.look(tasks.current, told)
        assert tasks.observe(samples, None, None, now, stuck_seconds=600) == []
        return samples

    processes.add(FORK, 1, cpu=1.0)
    look(1, [fork()])
    processes.add(FORK, 1, cpu=300.0)
    assert look(300, []) == [Sample(FORK, 300.0, 5_000, warm=True)]
    assert tasks.current is not None
    assert tasks.current.progress == 300
    del processes.stats[FORK]
    assert look(400, []) == [Sample(FORK, 300.0, 5_000, True, warm=True)]
    assert tasks.current.cpu_seconds() == 300


def test_a_process_that_took_a_forks_number_is_not_taken_for_it(processes: Processes) -> None:
    forks, current = Forks(), task()
    processes.add(FORK, 1, ticks=100)
    forks.look(current, [fork()])
    processes.add(FORK, 1, ticks=900, cpu=77.0)
    assert [(one.ended, one.cpu_seconds) for one in forks.look(current, [])] == [(True, 0.0)]


def test_forks_of_tasks_before_cost_this_one_nothing(processes: Processes) -> None:
    forks, first = Forks(), task(1_000)
    processes.add(FORK, 1)
    lingering = fork(began=1_000)
    assert len(forks.look(first, [lingering])) == 1
    short = fork(FORK + 1, began=1_001, ended=1_002)
    assert len(forks.look(first, [lingering, short])) == 2
    assert forks.look(task(1_010), [lingering, short]) == []
    assert forks.look(task(1_020), [lingering, short]) == []
    assert forks.look(None, [lingering]) == []


def test_an_ended_fork_costs_what_the_warm_process_says(processes: Processes) -> None:
    forks, current = Forks(), task()
    processes.add(FORK, 1)
    forks.look(current, [fork()])
    assert forks.look(current, [fork(ended=1_009.0)]) == [Sample(FORK, 3.0, 9_000, True, 0, warm=True)]


@pytest.mark.parametrize("pid", [SUPERNODE, EXECUTOR, FORK])
def test_what_was_stopped_is_to_be_continued_after_a_while_also_beside_supernode(
    processes: Processes, pid: int
) -> None:
    processes.add(FORK, 1)
    one = watch()

    def look(now: float) -> tuple[int, ...]:
        return one.look(now, registered=True, task_ticks=None, beside=[FORK]).frozen_pids

    assert look(1) == ()
    processes.add(pid, SUPERNODE if pid == EXECUTOR else 1, state="T")
    assert look(10) == ()
    assert look(10 + FROZEN_SECONDS - 0.1) == ()
    assert look(10 + FROZEN_SECONDS) == (pid,)
    assert str(pid) in one.look(99, registered=True, task_ticks=None, beside=[FORK]).frozen
