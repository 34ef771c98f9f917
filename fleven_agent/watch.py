"""Looks at SuperNode's processes: is its executor there, is anything frozen or hung, what does a task cost?

Alive is not well: SuperNode starts its executor once and never looks at it again, and a stopped process answers
nobody. Reads /proc only; returns findings, on which ``daemon`` acts. Imports procfs, flower and tasks.
"""

from dataclasses import dataclass

from fleven_agent import flower, procfs
from fleven_agent.tasks import Sample

FROZEN_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found; empty texts mean that all is well."""

    executor_dead: str = ""
    frozen: str = ""
    hung: str = ""
    samples: tuple[Sample, ...] = ()
    pids: tuple[int, ...] = ()
    """SuperNode and all that descends from it."""
    task_pids: tuple[int, ...] = ()


class Watch:
    """The watch over one SuperNode process.

    Args:
        pid: SuperNode.
        started: monotonic moment of its start.
        executor_start_seconds: how long its executor may take to appear.
        hang_seconds: how long SuperNode may use no CPU time at all.
    """

    def __init__(self, pid: int, started: float, *, executor_start_seconds: float, hang_seconds: float) -> None:
        self.pid = pid
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

    def look(self, now: float, *, registered: bool, task_ticks: int | None) -> Finding:
        """Read the processes once.

        Args:
            now: monotonic moment.
            registered: SuperNode has a node id, so its executor must be there.
            task_ticks: clock ticks after boot at which the current task began; None without a task. Defunct children
                of the executor that are older belong to tasks before; they stay until the executor starts another.
        """
        node = procfs.stat(self.pid)
        if node is None or node.defunct:
            return Finding()  # the exit status will tell
        if self.executor is None:
            self.executor = self._find_executor()
        executor = procfs.stat(self.executor) if self.executor is not None else None
        dead = self._executor_problem(executor, now, registered=registered)
        samples, task_pids = self._task(executor, task_ticks)
        pids = (self.pid, *((self.executor,) if executor and not executor.defunct else ()), *task_pids)
        return Finding(
            executor_dead=dead,
            frozen=self._frozen(pids, now),
            hung=self._hung(node, now),
            samples=tuple(samples),
            pids=pids,
            task_pids=tuple(task_pids),
        )

    def _find_executor(self) -> int | None:
        for pid in procfs.children(self.pid):
            if flower.is_executor(procfs.command_line(pid)):
                return pid
        return None

    def _executor_problem(self, executor: procfs.Stat | None, now: float, *, registered: bool) -> str:
        if self.executor is not None:
            if executor is None or executor.parent != self.pid:
                return f"{flower.EXECUTOR} (process {self.executor}) is gone"
            return f"{flower.EXECUTOR} (process {self.executor}) is defunct" if executor.defunct else ""
        if registered and now - self._started >= self._executor_start_seconds:
            return f"SuperNode has no {flower.EXECUTOR}"
        return ""

    def _frozen(self, pids: tuple[int, ...], now: float) -> str:
        frozen = [pid for pid in pids if (found := procfs.stat(pid)) is not None and found.frozen]
        if not frozen:
            self._frozen_since = None
            return ""
        if self._frozen_since is None:
            self._frozen_since = now
        if now - self._frozen_since < FROZEN_SECONDS:
            return ""
        self._frozen_since = now
        return f"stopped by a signal: process {', '.join(map(str, frozen))}"

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
