"""Looks at SuperNode's processes: whether its executor is there, what is frozen or hung, and what a task costs.

Alive is not well: SuperNode starts its executor once and never looks at it again, and a stopped process answers
nobody. The warm process tells of its forks, but a fork needs it no more than its own launcher: when the warm process
has crashed, or another has taken its place, the task goes on and /proc still knows it. Reads /proc only; returns
findings, on which ``daemon`` acts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleven_agent.supernode.flower import FlowerLine
from fleven_agent.supernode.tasks import Sample, Task
from fleven_agent.system import procfs
from fleven_agent.warm.manager import WarmTask

FROZEN_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found; empty texts mean that all is well."""

    executor_dead: str = ""
    frozen: str = ""
    frozen_pids: tuple[int, ...] = ()
    """Those that are to be continued now."""
    hung: str = ""
    samples: tuple[Sample, ...] = ()
    pids: tuple[int, ...] = ()
    """SuperNode and all that descends from it."""
    task_pids: tuple[int, ...] = ()


class ProcessMonitor:
    """The watch over one SuperNode process.

    Args:
        pid: SuperNode.
        started: monotonic moment of its start.
        flower: the line of Flower that is installed.
        executor_start_seconds: how long its executor may take to appear.
        hang_seconds: how long SuperNode may use no CPU time at all.
    """

    def __init__(
        self, pid: int, started: float, flower: FlowerLine, *, executor_start_seconds: float, hang_seconds: float
    ) -> None:
        self.pid = pid
        self._flower = flower
        self._started = started
        self._executor_start_seconds = executor_start_seconds
        self._hang_seconds = hang_seconds
        self.executor: int | None = None
        self._frozen_since: float | None = None
        self._cpu_seconds = -1.0
        self._cpu_grew_at = started
        self._task_ticks: int | None = None
        self._own: set[tuple[int, int]] = set()
        """Processes of the current task: process id and start, in clock ticks after boot."""
        self._others: set[tuple[int, int]] = set()
        """Processes of tasks before that are still there."""

    def look(self, now: float, *, registered: bool, task_ticks: int | None, beside: Sequence[int] = ()) -> Finding:
        """Read the processes once.

        Args:
            now: monotonic moment.
            registered: SuperNode has a node id, so its executor must be there.
            task_ticks: clock ticks after boot at which the current task began; None without a task. Defunct children
                of the executor that are older belong to tasks before; they stay until the executor starts another.
            beside: processes that work for SuperNode and do not descend from it: the warm process and its forks.
        """
        node = procfs.stat(self.pid)
        if node is None or node.defunct:
            return Finding()  # its exit status will tell why
        if self.executor is None:
            self.executor = self._find_executor()
        executor = procfs.stat(self.executor) if self.executor is not None else None
        dead = self._executor_problem(executor, now, registered=registered)
        samples, task_pids = self._task(executor, task_ticks)
        pids = (self.pid, *((self.executor,) if executor and not executor.defunct else ()), *task_pids)
        frozen = self._frozen((*pids, *beside), now)
        return Finding(
            executor_dead=dead,
            frozen=f"stopped by a signal: process {', '.join(map(str, frozen))}" if frozen else "",
            frozen_pids=frozen,
            hung=self._hung(node, now),
            samples=tuple(samples),
            pids=pids,
            task_pids=tuple(task_pids),
        )

    def _find_executor(self) -> int | None:
        for pid in procfs.children(self.pid):
            if self._flower.is_executor(procfs.command_line(pid)):
                return pid
        return None

    def _executor_problem(self, executor: procfs.Stat | None, now: float, *, registered: bool) -> str:
        if self.executor is not None:
            if executor is None or executor.parent != self.pid:
                return f"{self._flower.executor} (process {self.executor}) is gone"
            return f"{self._flower.executor} (process {self.executor}) is defunct" if executor.defunct else ""
        if registered and now - self._started >= self._executor_start_seconds:
            return f"SuperNode has no {self._flower.executor}"
        return ""

    def _frozen(self, pids: tuple[int, ...], now: float) -> tuple[int, ...]:
        frozen = tuple(pid for pid in pids if (found := procfs.stat(pid)) is not None and found.frozen)
        if not frozen:
            self._frozen_since = None
            return ()
        if self._frozen_since is None:
            self._frozen_since = now
        if now - self._frozen_since < FROZEN_SECONDS:
            return ()
        self._frozen_since = now
        return frozen

    def _hung(self, node: procfs.Stat, now: float) -> str:
        # SuperNode answers its executor every second and asks the SuperLink every three: it always uses some CPU time.
        if node.cpu_seconds != self._cpu_seconds or node.frozen:
            self._cpu_seconds, self._cpu_grew_at = node.cpu_seconds, now
        silent = now - self._cpu_grew_at
        return f"SuperNode used no CPU time for {silent:.0f} s" if silent >= self._hang_seconds else ""

    def _task(self, executor: procfs.Stat | None, task_ticks: int | None) -> tuple[list[Sample], list[int]]:
        samples: list[Sample] = []
        living: list[int] = []
        if executor is None or executor.defunct or task_ticks is None:
            return samples, living
        children = [found for pid in procfs.children(executor.pid) if (found := procfs.stat(pid)) is not None]
        there = {(found.pid, found.start_ticks): found for found in children}
        if task_ticks != self._task_ticks:
            self._task_ticks, self._others, self._own = task_ticks, (self._others | self._own) & there.keys(), set()
        for name, found in there.items():
            # A living one counts however old it seems: taken for none of the task's, a healthy task would be taken
            # for stuck.
            if name in self._others or (found.defunct and found.start_ticks < task_ticks):
                continue
            self._own.add(name)
            pid = found.pid
            if found.defunct:
                samples.append(Sample(pid, found.cpu_seconds, None, True, found.exit_code))
                continue
            helpers = procfs.descendants(pid)
            cpu = found.cpu_seconds + sum(one.cpu_seconds for one in map(procfs.stat, helpers) if one is not None)
            samples.append(Sample(pid, cpu, procfs.peak_rss_bytes(pid)))
            living += [pid, *helpers]
        return samples, living


SLACK_SECONDS = 0.5
"""A fork that ended between two looks belongs to the task if it began no sooner than this before the task's message."""


class Forks:
    """The forks of one task at a time."""

    def __init__(self) -> None:
        self._task: Task | None = None
        self._own: dict[int, int] = {}
        """Forks of the task that were seen alive: process id to start, in clock ticks after boot."""
        self._others: dict[int, int] = {}
        """Forks of the task before, and of earlier ones that have still not ended."""

    def look(self, task: Task | None, told: Sequence[WarmTask]) -> list[Sample]:
        """Return a sample of each fork of a task.

        Args:
            task: the current one.
            told: what the present warm process reports; it may not know a fork of the one before.
        """
        if task is None:
            return []
        if task is not self._task:
            lingering = {pid: ticks for pid, ticks in self._others.items() if _living(pid, ticks)}
            self._task, self._others, self._own = task, {**lingering, **self._own}, {}
        self._adopt(told)
        ended = {
            one.process_id: Sample(
                one.process_id,
                one.cpu_seconds or 0.0,
                one.peak_rss_bytes,
                True,
                one.exit_status,
                warm=one.warm,
                app=one.app,
            )
            for one in told
            if one.ended_at is not None and self._is_of(task, one)
        }
        cold = {one.process_id for one in told if not one.warm}
        apps = {one.process_id: one.app for one in told}
        unreaped = [
            replace(_read(task, pid, ticks), warm=pid not in cold, app=apps.get(pid, ""))
            for pid, ticks in self._own.items()
            if pid not in ended
        ]
        return [*ended.values(), *unreaped]

    def _adopt(self, told: Sequence[WarmTask]) -> None:
        # By its own life and not by the wall clock, which may have stepped meanwhile: taken for none of the task's, a
        # healthy fork would be taken for stuck.
        for one in told:
            found = procfs.stat(one.process_id) if one.ended_at is None else None
            if found is not None and not found.defunct and self._others.get(found.pid) != found.start_ticks:
                self._own[found.pid] = found.start_ticks

    def _is_of(self, task: Task, ended: WarmTask) -> bool:
        if ended.process_id in self._own:
            return True
        return ended.process_id not in self._others and ended.started_at >= task.started_at - SLACK_SECONDS


def _living(pid: int, ticks: int) -> bool:
    found = procfs.stat(pid)
    return found is not None and found.start_ticks == ticks


def _read(task: Task, pid: int, ticks: int) -> Sample:
    found, last = procfs.stat(pid), task.samples.get(pid)
    if found is None or found.start_ticks != ticks:
        return replace(last, ended=True) if last else Sample(pid, 0.0, None, True, warm=True)
    if found.defunct:
        return Sample(pid, found.cpu_seconds, None, True, found.exit_code, warm=True)
    return Sample(pid, found.cpu_seconds, procfs.peak_rss_bytes(pid), warm=True)
