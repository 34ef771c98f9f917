"""Which forks of the warm process belong to the current task, and what they cost.

The warm process tells of its forks, but a fork needs it no more than its own launcher: when the warm process has
crashed, or another has taken its place, the task goes on and /proc still knows it. Imports procfs, tasks and the warm
manager's words.
"""

from collections.abc import Sequence
from dataclasses import replace

from fleven_agent import procfs
from fleven_agent.tasks import Sample, Task
from fleven_agent.warm.manager import WarmTask

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
            told: what the present warm process tells of; it may know nothing of a fork of the one before.
        """
        if task is None:
            return []
        if task is not self._task:
            lingering = {pid: ticks for pid, ticks in self._others.items() if _living(pid, ticks)}
            self._task, self._others, self._own = task, {**lingering, **self._own}, {}
        self._adopt(told)
        ended = {
            one.process_id: Sample(
                one.process_id, one.cpu_seconds or 0.0, one.peak_rss_bytes, True, one.exit_status, warm=True
            )
            for one in told
            if one.ended_at is not None and self._is_of(task, one)
        }
        unreaped = [_read(task, pid, ticks) for pid, ticks in self._own.items() if pid not in ended]
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
