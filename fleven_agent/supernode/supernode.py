"""SuperNode as the agent handles it: carries out the supervisor's actions and turns what happens into events.

The effects around one SuperNode at a time: its process, its output, its tasks, the look at its processes, and the
warm launcher in front of it. Decides nothing. Driven by ``daemon`` from one thread; only ``_on_line`` runs on the
output's thread, and hands over through a queue.
"""

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from fleven_agent.common.addresses import split
from fleven_agent.config.settings import Settings
from fleven_agent.protocol.codes import Reason
from fleven_agent.supernode import connection_watch, supervisor
from fleven_agent.supernode.app_cache import AppCache
from fleven_agent.supernode.connection_watch import ConnectionWatch, OfflineList, Reach, Stall
from fleven_agent.supernode.flower import MARKER, Event, FlowerLine, Kind, Launch, Line
from fleven_agent.supernode.process import Child
from fleven_agent.supernode.process_monitor import Finding, Forks, ProcessMonitor
from fleven_agent.supernode.tasks import Finished, Tasks
from fleven_agent.system import procfs, tcp_counters
from fleven_agent.system.log import LOGGER, OutputLog, event
from fleven_agent.warm.manager import WarmServer

DATA_STUCK_SECONDS = 20.0
"""So long a task may stand still while the disk of the trips does not answer: it waits in the kernel, as all would."""
TRAFFIC_IDLE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class _Said:
    """A line of output and when it was read, since a loop that is held up comes to it late."""

    generation: int
    line: Line
    monotonic: float
    wall: float
    boot: float
    """Seconds after boot."""


class SuperNode:
    """The one SuperNode of this agent.

    Args:
        flower: the line of Flower that is installed.
        state_directory: its working directory and the home of Flower's files.
        warm: the warm launcher.
        output: where its lines go.
        wake: wakes the deciding loop; called from another thread.
    """

    def __init__(
        self,
        flower: FlowerLine,
        state_directory: Path,
        warm: WarmServer,
        output: OutputLog,
        wake: Callable[[], None],
    ) -> None:
        self._directory = state_directory
        self.flower = flower
        self._marker = f"{MARKER}={state_directory}"
        self.warm = warm
        self._output = output
        self._wake = wake
        self._lines: SimpleQueue[_Said] = SimpleQueue()
        self._generation = 0
        self.child: Child | None = None
        self._watch: ProcessMonitor | None = None
        self.tasks = Tasks()
        self._forks = Forks()
        self.apps = AppCache(flower.home(state_directory) / flower.apps_folder, self.idle_seconds)
        self._busy_at = float("-inf")
        self.finding = Finding()
        self._lost_at = float("-inf")
        self._seen: deque[Event] = deque(maxlen=50)
        self._last_line = ""
        self._registered = False
        self._node_id, self._registered_at = "", float("inf")
        self._task_ticks: int | None = None
        self._stuck_since: float | None = None
        self._port = 0
        self._traffic_at = float("-inf")
        self._connections = ConnectionWatch()
        self.stall: Stall | None = None
        """Since when the SuperLink acknowledges nothing of what SuperNode sends."""
        self._temperature: float | None = None

    @property
    def marker(self) -> str:
        """``NAME=value`` that all of SuperNode's processes carry in their environment."""
        return self._marker

    def spawn(self, launch: Launch, settings: Settings, now: float) -> supervisor.Event | None:
        """Start SuperNode. Return what to tell the supervisor when it cannot be started."""
        environment = self.warm.environment(dict(launch.environment))
        if problem := self.warm.problem() or self.warm.unplaced:
            return supervisor.SpawnFailed(f"tasks cannot be isolated from this machine: {problem}")
        program = self.warm.supernode_program(environment)
        if program is None:
            detail = f"{self.flower.supernode} is not on PATH ({environment['PATH']}); is Flower installed?"
            return supervisor.SpawnFailed(detail)
        self._generation += 1
        generation = self._generation
        self._seen.clear()
        self._last_line, self._registered, self._lost_at = "", False, float("-inf")
        self._node_id, self._registered_at = "", float("inf")
        self._stuck_since, self._task_ticks = None, None
        self._connections, self.stall = ConnectionWatch(), None
        self._port = split(settings.superlink)[1]
        try:
            self.flower.home(self._directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            self.apps.clear()
            self._busy_at = now
            self.child = Child.spawn(
                [program, *launch.argv[1:]],
                environment,
                self._directory,
                self._marker,
                lambda line: self._on_line(generation, line),
            )
        except OSError as error:
            return supervisor.SpawnFailed(f"{program} cannot be started: {error.strerror}")
        self._watch = ProcessMonitor(
            self.child.pid,
            now,
            self.flower,
            executor_start_seconds=settings.supervision.executor_start_seconds,
            hang_seconds=settings.supervision.hang_seconds,
        )
        LOGGER.info(event("supernode started", pid=self.child.pid, superlink=settings.superlink))
        return None

    def terminate(self) -> None:
        """Ask it to end."""
        if self.child is not None:
            self.child.terminate()

    def kill(self) -> None:
        """Kill its group."""
        if self.child is not None:
            self.child.kill()

    def idle_seconds(self) -> float:
        """Return for how long no task has been at work; called from any thread."""
        return time.monotonic() - self._busy_at if self.tasks.current is None else 0.0

    def reap(self, now: float) -> tuple[supervisor.Event, list[Finished]] | None:
        """When SuperNode has ended: clean up after it, and return why it ended with the task it took along."""
        if self.child is None or (returncode := self.child.poll()) is None:
            return None
        left = self.child.clean_up(spared=self.warm.process_ids())
        if left:
            LOGGER.debug(event("ended leftovers of SuperNode", processes=left))
        finished: list[Finished] = []
        for _event, ended in self.drain_lines():
            finished += ended
        finished += self.tasks.abort(now)
        self.child, self._watch, self.finding, self._lost_at = None, None, Finding(), float("-inf")
        end = self.flower.classify_end(
            returncode, registered=self._registered, seen=list(self._seen), last_line=self._last_line
        )
        return supervisor.Exited(end.reason, end.detail, end.permanent), finished

    def drain_lines(self) -> list[tuple[supervisor.Event | None, list[Finished]]]:
        """Return what the lines since the last call mean: events for the supervisor, and finished tasks."""
        found: list[tuple[supervisor.Event | None, list[Finished]]] = []
        while True:
            try:
                said = self._lines.get_nowait()
            except Empty:
                return found
            if said.generation == self._generation:  # lines of one that is gone mean nothing for its successor
                found.append(self._understand(said))

    @property
    def connection_lost(self) -> bool:
        """Whether SuperNode has said lately that it tries to reach the SuperLink again."""
        return time.monotonic() - self._lost_at < self.flower.lost_seconds

    def look(
        self,
        now: float,
        settings: Settings,
        temperature: float | None,
        *,
        reach: Reach,
        flower_offline: OfflineList,
        superlink_away: bool,
        data_stuck: bool,
    ) -> tuple[supervisor.Event | None, list[Finished]]:
        """Look at SuperNode's processes; repair what can be repaired in place, return what cannot.

        Args:
            now: monotonic moment.
            settings: of the agent.
            temperature: of the processor [degrees Celsius].
            reach: what the agent's own connections to the SuperLink found.
            flower_offline: ids that Flower's own list calls offline, as the server said last.
            superlink_away: whether a connection of the agent's own to the SuperLink's port failed.
            data_stuck: whether the disk of the trips does not answer.
        """
        if self._watch is None or self.child is None:
            return None, []
        finding = self._watch.look(
            now, registered=self._registered, task_ticks=self._task_ticks, beside=self.warm.process_ids()
        )
        self.finding = finding
        if finding.frozen:
            LOGGER.warning(event("continuing what was stopped", detail=finding.frozen))
            self.child.resume()
            for pid in finding.frozen_pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGCONT)
        traffic = None
        busy = self.tasks.current is not None
        if busy or self.stall is not None or now - self._traffic_at >= TRAFFIC_IDLE_SECONDS:
            self._traffic_at = now
            found = tcp_counters.connections(self.child.pid, self._port)
            if found is not None:
                traffic = tcp_counters.traffic(found)
                self.stall = self._connections.look(found, now)
        samples = [*finding.samples, *self._forks.look(self.tasks.current, self.warm.tasks())]
        finished = self.tasks.observe(
            samples, traffic, temperature, now, stuck_seconds=settings.supervision.task_stuck_seconds
        )
        if self.tasks.current is None:
            self._task_ticks = None
        else:
            self._busy_at = now
        if finding.executor_dead:
            return supervisor.Broken(Reason.EXECUTOR_DEAD, finding.executor_dead), finished
        if finding.hung:
            return supervisor.Broken(Reason.HUNG, finding.hung), finished
        lost = connection_watch.dead(self.stall, reach, now, busy=busy) if self._registered else ""
        if lost:
            return supervisor.Broken(Reason.CONNECTION_DEAD, lost), finished
        lost = connection_watch.listed_offline(self._node_id, self._registered_at, reach, flower_offline)
        if lost:
            return supervisor.Broken(Reason.LISTED_OFFLINE, lost), finished
        limit = settings.supervision.task_stuck_seconds
        if data_stuck:
            limit = min(limit, DATA_STUCK_SECONDS)
        return self._stuck(now, limit, superlink_away or self.connection_lost), finished

    @property
    def stuck(self) -> str:
        """What is known of a stuck task; empty when there is none."""
        task = self.tasks.current
        if task is None or self._stuck_since is None:
            return ""
        return f"the {task.message_type} task of run {task.run_id} made no progress; its ClientApp was ended"

    def _stuck(self, now: float, limit: float, superlink_away: bool) -> supervisor.Event | None:
        task = self.tasks.current
        if task is None or task.replied is not None:
            self._stuck_since = None
            return None
        if superlink_away:
            # It may be away for days, and a SuperNode that is replaced takes the answer along.
            task.progress = now
            self._stuck_since = None if self._stuck_since is None else now
            return None
        what = f"the {task.message_type} task of run {task.run_id}, round {task.round}"
        if self._stuck_since is not None:
            if now - self._stuck_since >= min(self.flower.answer_after_kill_seconds, limit):
                return supervisor.Broken(Reason.TASK_STUCK, f"{what} was ended and SuperNode sent no reply")
            return None
        if task.died and now - task.progress >= min(self.flower.died_seconds, limit):
            return supervisor.Broken(Reason.TASK_STUCK, f"{what} ended without an answer")
        if task.broke_off and now - task.progress >= min(self.flower.broken_off_seconds, limit):
            return supervisor.Broken(Reason.TASK_STUCK, f"{what} ended in the middle of its answer")
        if now - task.progress < limit:
            return None
        forks = [one.pid for one in task.samples.values() if one.warm and not one.ended]
        pids = [*self.finding.task_pids, *forks]
        if not pids:
            missing = "brings no answer to the SuperLink" if task.answered else "has no process"
            return supervisor.Broken(Reason.TASK_STUCK, f"{what} {missing} for {limit:g} s")
        self._stuck_since = now
        task.failed = True
        LOGGER.warning(event("task stuck", run=task.run_id, round=task.round, seconds=now - task.progress))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return None

    def _on_line(self, generation: int, raw: str) -> None:
        moments = time.monotonic(), time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        line = self.flower.parse_line(raw)
        lost = line.event is not None and line.event.kind is Kind.CONNECTION_LOST
        # While a SuperLink is away for days, the same news every twenty seconds would only fill the journal.
        self._output.write(line.level, line.text.partition(" in ")[0] if lost else line.text, repeats=lost)
        if line.text.strip():
            self._lines.put(_Said(generation, line, *moments))
            if line.event is not None:
                self._wake()

    def _understand(self, said: _Said) -> tuple[supervisor.Event | None, list[Finished]]:
        line = said.line
        self._last_line = line.text
        self.tasks.on_line(line.text)
        if line.event is None:
            return None, []
        self._seen.append(line.event)
        finished = self.tasks.on_event(line.event, said.monotonic, said.wall)
        match line.event.kind:
            case Kind.REGISTERED:
                self._registered, self._lost_at = True, float("-inf")
                self._node_id, self._registered_at = line.event.node_id, said.monotonic
                return supervisor.Registered(line.event.node_id), finished
            case Kind.CONNECTION_LOST:
                self._lost_at = said.monotonic
                return supervisor.Trying(), finished
            case Kind.CONNECTION_RESTORED:
                self._lost_at = float("-inf")
                return supervisor.Trying(), finished
            case Kind.HEARTBEATS_ENDED if self._registered:
                detail = "the SuperLink answered a heartbeat with an error, and SuperNode sends no more"
                return supervisor.Broken(Reason.HEARTBEATS_ENDED, detail), finished
            case Kind.TASK_RECEIVING:
                self._lost_at = float("-inf")
                self._task_ticks = int((said.boot - self.flower.executor_slack_seconds) * procfs.TICKS_PER_SECOND)
        return None, finished
