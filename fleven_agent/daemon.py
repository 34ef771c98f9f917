"""The agent's loop: reload if asked, reap, read events, look, decide, act, report, tell systemd, wait.

The one place where all parts meet and the only thread that decides. Signal handlers only wake it; slow work runs on
threads that post results. Decisions are in ``supervisor``, ``gates`` and ``health``. Must not import ``config``,
``report`` or anything else that brings pydantic.
"""

import contextlib
import fcntl
import os
import random
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from fleven_agent import __version__, compose, flower, gates, health, procfs, supervisor, versions
from fleven_agent.control import ControlServer
from fleven_agent.delivery import Answer
from fleven_agent.errors import AgentError, AlreadyRunningError, ConfigurationError, StateError, UsageError
from fleven_agent.journal import LOGGER, OutputLog, event
from fleven_agent.loading import load_settings
from fleven_agent.memory import Memory
from fleven_agent.node import SuperNode
from fleven_agent.notify import Notify
from fleven_agent.process import CHILD_OOM_SCORE, end_leftovers, protect_from_oom
from fleven_agent.reporter import Reporter, Target
from fleven_agent.settings import Settings
from fleven_agent.spool import Spool
from fleven_agent.states import Reason, ReportReason, State
from fleven_agent.supervisor import Action, Phase, Supervised
from fleven_agent.surroundings import Surroundings
from fleven_agent.tasks import Finished
from fleven_agent.warm.manager import WarmServer, WarmSettings
from fleven_agent.warm.reasons import WarmMode

BUSY_SECONDS = 0.5
IDLE_SECONDS = 1.0
FAILURE_WINDOW_SECONDS = 600.0
TASK_FAILED_SHOWN_SECONDS = 600.0
LAST_REPORT_SECONDS = 3.0
EXTEND_SECONDS = 30.0


def run(config_file: Path, state_directory: Path, runtime_directory: Path) -> int:
    """Run the agent until it is told to stop; return the exit code.

    Raises:
        ConfigurationError: node.toml cannot be used.
        AgentError: the folders cannot be used, or another agent runs.
    """
    settings = load_settings(config_file)
    LOGGER.setLevel(settings.log.level.upper())
    with _locked(state_directory):
        _make_folder(runtime_directory, 0o755)
        with contextlib.suppress(OSError):  # systemd-tmpfiles may have made it, with other owners
            (runtime_directory / gates.INHIBIT_FOLDER).mkdir(exist_ok=True)
        return Agent(config_file, settings, state_directory, runtime_directory).run()


def _make_folder(folder: Path, mode: int) -> None:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        hint = "run it as root or as a service, or set FLEVEN_STATE_DIR and FLEVEN_RUNTIME_DIR to folders of yours"
        raise StateError(f"{folder}: {error.strerror}", hint=hint) from None


@contextlib.contextmanager
def _locked(state_directory: Path) -> Any:
    _make_folder(state_directory, 0o700)
    try:
        lock = os.open(state_directory / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{state_directory}: {error.strerror}", hint="check the owner of the folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        hint = "`fleven-agent status` shows it; several on one machine need a FLEVEN_STATE_DIR each"
        raise AlreadyRunningError(f"another agent uses {state_directory}", hint=hint) from None
    try:
        yield
    finally:
        os.close(lock)


class Agent:
    """All parts of one agent, wired."""

    def __init__(self, config_file: Path, settings: Settings, state_directory: Path, runtime_directory: Path) -> None:
        self._config_file, self._settings = config_file, settings
        self._state_directory, self._runtime_directory = state_directory, runtime_directory
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._notify = Notify()
        self._memory = Memory(state_directory)
        self._output = OutputLog(lines_per_second=settings.log.supernode_lines_per_second)
        self._surroundings = Surroundings(settings, state_directory, runtime_directory, self._wake)
        self._node = SuperNode(state_directory, self._warm_server(settings), self._output, self._wake)
        self._launch = self._build_launch(settings)
        self._supervised = Supervised()
        self._state_since = time.time()
        self._conditions = health.Conditions()
        self._versions, self._boot_id = versions.collect(), procfs.boot_id()
        self._board_model = self._surroundings.reader.board_model()
        self._control = ControlServer(runtime_directory, self._command)
        self._commands: SimpleQueue[tuple[str, Mapping[str, Any], SimpleQueue[Any]]] = SimpleQueue()
        self._answers: SimpleQueue[Answer | str] = SimpleQueue()
        self._answer: Answer | None = None
        self._undelivered = ""
        self._reporter = self._make_reporter(settings)
        self._finished: list[Finished] = []
        self._last_task: tuple[float, Finished] | None = None
        self._failures: deque[float] = deque(maxlen=1_000)
        self._rejected = self._broken = self._configuration_problem = ""
        self._report_due, self._reported = float("-inf"), ("", "")
        self._looked_at = float("-inf")
        self._quit_signals = self._quits_handled = 0
        self._reload_wanted = self._done = False
        self._spawns = 0

    # -- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until told to stop."""
        protect_from_oom()
        self._end_leftovers()
        self._install_signals()
        self._surroundings.start()
        try:
            self._control.start()
        except OSError as error:
            raise StateError(f"{self._control.path}: {error.strerror}", hint="check FLEVEN_RUNTIME_DIR") from None
        self._reporter.start()
        LOGGER.info(event("agent started", version=self._versions.agent, partition=self._settings.partition_id))
        now = time.monotonic()
        self._decide(supervisor.GatesChanged(self._closed_gates(now)), now)
        self._decide(supervisor.Begin(self._memory.known.attempt), now)
        self._submit(ReportReason.START, now)
        ready = False
        while not self._done:
            self._cycle(time.monotonic())
            if not ready:
                self._notify.ready()
                ready = True
            if not self._done:
                self._wait()
        self._finish()
        return 0

    def _cycle(self, now: float) -> None:
        self._handle_signals(now)
        self._handle_child(now)
        self._handle_commands(now)
        self._handle_answers()
        self._decide(supervisor.GatesChanged(self._closed_gates(now)), now)
        self._decide(supervisor.Tick(), now)
        self._node.warm.tick(wanted=self._supervised.state in {State.STARTING, State.RUNNING})
        self._update_health(now)
        self._report_if_due(now)
        self._memory.save()
        self._tell_systemd()

    def _wait(self) -> None:
        now = time.monotonic()
        busy = self._node.tasks.current is not None or self._supervised.state in {State.STARTING, State.STOPPING}
        until = now + (BUSY_SECONDS if busy else IDLE_SECONDS)
        deadline = supervisor.next_deadline(self._supervised, self._settings.supervision)
        if deadline is not None:
            until = min(until, max(deadline, now + 0.02))
        readable, _, _ = select.select([self._wake_read], [], [], max(0.0, until - now))
        if readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4_096)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # a full pipe wakes as well
            os.write(self._wake_write, b"w")

    def _finish(self) -> None:
        self._node.warm.stop()
        end_leftovers(self._node.marker)
        self._update_health(time.monotonic())
        self._submit(ReportReason.STOP, time.monotonic())
        self._memory.change(supernode_pid=None, last_status=self._status())
        self._memory.save()
        self._surroundings.stop()
        self._reporter.stop(LAST_REPORT_SECONDS)
        self._control.stop()
        LOGGER.info("agent stopped")

    # -- what happens ------------------------------------------------------------------------------------------------

    def _install_signals(self) -> None:
        def on_quit(_number: int, _frame: FrameType | None) -> None:
            self._quit_signals += 1

        def on_reload(_number: int, _frame: FrameType | None) -> None:
            self._reload_wanted = True

        def on_child(_number: int, _frame: FrameType | None) -> None:
            return None  # only there so that the wake-up descriptor is written

        signal.signal(signal.SIGTERM, on_quit)
        signal.signal(signal.SIGINT, on_quit)
        signal.signal(signal.SIGHUP, on_reload)
        signal.signal(signal.SIGCHLD, on_child)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def _handle_signals(self, now: float) -> None:
        if self._reload_wanted:
            self._reload_wanted = False
            self._reload(now)
        while self._quits_handled < self._quit_signals:
            self._quits_handled += 1
            if self._quits_handled == 1:
                self._notify.stopping()
                LOGGER.info("stopping; a second signal does not wait for the current task")
            self._decide(supervisor.Quit(wait_for_task=self._quits_handled == 1), now)

    def _handle_child(self, now: float) -> None:
        for happened, finished in self._node.drain_lines(now):
            self._take_finished(finished, now)
            if happened is not None:
                self._decide(happened, now)
        ended = self._node.reap(now)
        if ended is not None:
            self._take_finished(ended[1], now)
            self._decide(ended[0], now)
        elif now - self._looked_at >= (BUSY_SECONDS if self._node.tasks.current else IDLE_SECONDS) * 0.9:
            self._looked_at = now
            broken, finished = self._node.look(now, self._settings, self._surroundings.readings.temperature_celsius)
            self._take_finished(finished, now)
            if broken is not None:
                self._decide(broken, now)
        task = self._node.tasks.current
        active = task is not None and task.replied is None
        if active != self._supervised.task_active:
            self._decide(supervisor.TaskChanged(active), now)

    def _take_finished(self, finished: list[Finished], now: float) -> None:
        for task in finished:
            failed = task.outcome != "succeeded"
            self._memory.count(tasks=1, task_failures=int(failed))
            self._last_task = (now, task)
            self._finished.append(task)
            LOGGER.log(
                30 if failed else 20,
                event(
                    "task finished",
                    run=task.run_id,
                    round=task.round,
                    type=task.message_type,
                    outcome=task.outcome.value,
                    wall_seconds=round(task.wall_seconds, 1),
                    cpu_seconds=None if task.cpu_seconds is None else round(task.cpu_seconds, 2),
                    peak_rss_bytes=task.peak_rss_bytes,
                ),
            )

    def _handle_answers(self) -> None:
        while True:
            try:
                answer = self._answers.get_nowait()
            except Empty:
                return
            if isinstance(answer, str):
                if not self._undelivered:
                    LOGGER.warning(event("report not delivered", url=self._settings.report_url, detail=answer))
                self._undelivered = answer
                continue
            if self._undelivered:
                LOGGER.info(event("reports are delivered again", url=self._settings.report_url))
            self._undelivered, self._answer = "", answer
            known = self._memory.known
            self._memory.acknowledged(answer.acknowledged.get(known.sender_id, 0))
            if answer.drain is not None and answer.drain[0] != known.drained_by_server:
                reason = answer.drain[1] if answer.drain[0] else ("" if not known.drained else known.drain_reason)
                self._memory.change(drained_by_server=answer.drain[0], drain_reason=reason)
                LOGGER.info(event("the server changed the drain", active=answer.drain[0], reason=answer.drain[1]))

    # -- deciding and acting -----------------------------------------------------------------------------------------

    def _decide(self, happened: supervisor.Event, now: float) -> None:
        was = self._supervised
        policy = self._settings.supervision
        self._supervised, actions = supervisor.step(was, happened, now, policy, random.random)
        self._note(was, now)
        for action in actions:
            self._act(action, now)

    def _act(self, action: Action, now: float) -> None:
        match action:
            case Action.SPAWN:
                self._spawns += 1
                self._memory.count(restarts=int(self._spawns > 1))
                failed = self._node.spawn(self._launch, self._settings, now)
                child = self._node.child
                self._memory.change(
                    supernode_pid=child.pid if child else None,
                    supernode_start_ticks=child.start_ticks if child else 0,
                    boot_id=self._boot_id,
                )
                if failed is not None:
                    self._decide(failed, now)
            case Action.TERMINATE:
                self._node.terminate()
            case Action.KILL:
                self._node.kill()
            case Action.QUIT:
                self._done = True

    def _note(self, was: Supervised, now: float) -> None:
        """Tell the journal, the state file and health what a decision changed."""
        new = self._supervised
        if new.node_id is not None and new.node_id != was.node_id:
            before = self._memory.registered(new.node_id)
            self._rejected = ""
            LOGGER.info(event("registered", node_id=new.node_id, previous_node_id=before))
        if new.failures > was.failures:
            self._failures.append(now)
            if new.reason is Reason.REJECTED:
                self._rejected = new.detail
        if new.reason is Reason.EXECUTOR_DEAD:
            self._broken = new.detail
        elif new.state is State.RUNNING:
            self._broken = ""
        self._memory.change(attempt=new.attempt)
        if new.state is was.state and new.since == was.since:
            return
        self._state_since = time.time()
        if new.state is State.GATED:
            self._node.warm.stop()  # a gated car gives back the memory too
        bad = new.state in {State.BACKOFF, State.FAILED}
        wait = round(new.retry_at - now, 1) if new.retry_at is not None else None
        LOGGER.log(
            30 if bad else 20,
            event(
                "state",
                state=new.state.value,
                reason=new.reason.value or None,
                detail=new.detail or None,
                retry_seconds=wait,
            ),
        )

    def _closed_gates(self, now: float) -> tuple[str, ...]:
        return self._surroundings.closed_gates(self._settings, self._memory.known, now)

    def _reload(self, now: float) -> None:
        self._notify.reloading()
        try:
            settings = load_settings(self._config_file)
        except AgentError as error:
            lines = error.lines()
            self._configuration_problem = "; ".join(lines)
            for line in lines:
                LOGGER.error(event("reload refused, the old configuration stays", detail=line))
        else:
            self._configuration_problem = ""
            self._apply(settings, now)
        self._notify.ready()

    def _apply(self, settings: Settings, now: float) -> None:
        changed = settings != self._settings
        if settings.warm != self._settings.warm:
            self._node.warm.stop()
            self._node.warm = self._warm_server(settings)
        self._settings = settings
        LOGGER.setLevel(settings.log.level.upper())
        self._output.enabled = settings.log.supernode_lines
        self._output.lines_per_second = settings.log.supernode_lines_per_second
        self._surroundings.reconfigure(settings)
        self._reporter.target = self._target(settings)
        launch = self._build_launch(settings)
        restart = launch != self._launch
        self._launch = launch
        LOGGER.info(event("reloaded", changed=changed, restarts_supernode=restart))
        if restart:
            self._decide(supervisor.Restart(Reason.COMMAND_LINE_CHANGED), now)

    # -- telling -----------------------------------------------------------------------------------------------------

    def _update_health(self, now: float) -> None:
        data, answer = self._surroundings.data, self._answer
        offset = answer.clock_offset_seconds if answer else None
        task = self._last_task
        task_failed = ""
        if task is not None and task[1].outcome != "succeeded" and now - task[0] < TASK_FAILED_SHOWN_SECONDS:
            task_failed = (
                f"the {task[1].message_type} task of run {task[1].run_id}, round {task[1].round}, {task[1].outcome}"
            )
        while self._failures and now - self._failures[0] > FAILURE_WINDOW_SECONDS:
            self._failures.popleft()
        waiting = self._reporter.waiting() if self._undelivered else 0
        facts = health.Facts(
            supervised=self._supervised,
            settings=self._settings,
            readings=replace(self._surroundings.readings, clock_offset_seconds=offset),
            recent_failures=len(self._failures),
            connection_lost=self._node.connection_lost,
            probe_problem=self._surroundings.probe.problem,
            executor_dead=self._broken,
            frozen=self._node.finding.frozen,
            task_stuck=self._node.stuck,
            task_failed=task_failed,
            rejected=self._rejected,
            data_problem=data.problem if data else "",
            quarantined=data.quarantined if data else 0,
            data_unmovable=data.unmovable if data else "",
            own_flower_version=self._versions.flwr,
            server_flower_version=answer.flwr_version if answer else None,
            server_problems=answer.problems if answer else (),
            undelivered=f"{self._undelivered}; {waiting} wait" if self._undelivered else "",
            configuration_problem=self._configuration_problem,
            state_problem=self._memory.problem,
        )
        before = self._conditions.codes
        self._conditions.update(health.evaluate(facts, before), now, time.time())
        for one in self._conditions.shown:
            if one.code not in before:
                LOGGER.warning(event("condition begins", code=one.code.value, detail=one.message, hint=one.hint))
        for code in before - self._conditions.codes:
            LOGGER.info(event("condition ends", code=code.value))

    def _report_if_due(self, now: float) -> None:
        lost = self._reporter.take_lost()
        if lost:
            self._memory.count(reports_lost=lost)
        task = self._node.tasks.current
        was = self._supervised
        state = (f"{was.state} {was.node_id} {sorted(self._conditions.codes)} {self._memory.known.drained}", "")
        working = f"{task.run_id} {task.round} {task.message_type}" if task and task.replied is None else ""
        if self._finished or state[0] != self._reported[0]:
            self._submit(ReportReason.CHANGE, now)
        elif working != self._reported[1]:
            self._submit(ReportReason.CHANGE, now, durable=False)
        elif now >= self._report_due:
            self._submit(ReportReason.INTERVAL, now)
        self._reported = (state[0], working)

    def _submit(self, reason: ReportReason, now: float, *, durable: bool | None = None) -> None:
        interval = self._settings.reports.interval_seconds
        self._report_due = now + interval * random.uniform(0.9, 1.1)  # noqa: S311  # spreads a fleet, guards nothing
        if reason is not ReportReason.INTERVAL:
            self._memory.change(last_status=self._status())
        batch, self._finished = (
            self._finished[: compose.MAXIMUM_TASKS_PER_REPORT],
            self._finished[compose.MAXIMUM_TASKS_PER_REPORT :],
        )
        if not self._settings.reports.enabled:
            return
        facts = replace(self._facts(), finished=tuple(batch))
        report = compose.report(facts, sequence=self._memory.next_sequence(), reason=reason, wall=time.time())
        if durable is None:
            durable = reason is not ReportReason.INTERVAL or bool(batch)
        self._reporter.submit(report, durable=durable)

    def _facts(self) -> compose.Facts:
        node, around = self._node, self._surroundings
        return compose.Facts(
            settings=self._settings,
            remembered=self._memory.known,
            supervised=self._supervised,
            state_since=self._state_since,
            conditions=self._conditions.shown,
            readings=around.readings,
            versions=self._versions,
            boot_id=self._boot_id,
            board_model=self._board_model,
            task=node.tasks.current,
            data=around.data,
            warm=node.warm.status(),
            supernode=around.tree("supernode", (*node.finding.pids, *node.warm.process_ids())),
            task_tree=around.tree("task", node.finding.task_pids),
            clock_offset_seconds=self._answer.clock_offset_seconds if self._answer else None,
        )

    def _status(self) -> dict[str, Any]:
        child, last, answer = self._node.child, self._last_task, self._answer
        return {
            **compose.body(self._facts()),
            "agent_pid": os.getpid(),
            "supernode_pid": child.pid if child else None,
            "gates": list(self._supervised.gates),
            "retry_in_seconds": self._retry_in(),
            "report_url": self._settings.report_url,
            "reports_waiting": self._reporter.waiting(),
            "report_problem": self._undelivered,
            "server_version": answer.server_version if answer else None,
            "server_problems": [list(problem) for problem in answer.problems] if answer else [],
            "last_task": compose.finished_task(last[1]) if last else None,
            "config_file": str(self._config_file),
            "at": compose.moment(time.time()),
        }

    def _retry_in(self) -> float | None:
        retry_at = self._supervised.retry_at
        return None if retry_at is None else max(0.0, round(retry_at - time.monotonic(), 1))

    def _tell_systemd(self) -> None:
        self._notify.watchdog()
        self._notify.status(compose.status_line(self._facts_light()))
        stop = self._supervised.stop
        if stop is not None and stop.phase is Phase.WAIT_FOR_TASK and self._quits_handled:
            self._notify.extend_timeout(EXTEND_SECONDS)

    def _facts_light(self) -> compose.Facts:
        return compose.Facts(
            settings=self._settings,
            remembered=self._memory.known,
            supervised=self._supervised,
            state_since=self._state_since,
            conditions=self._conditions.shown,
            readings=self._surroundings.readings,
            versions=self._versions,
            boot_id=self._boot_id,
            board_model=self._board_model,
            task=self._node.tasks.current,
        )

    # -- commands of the control socket ------------------------------------------------------------------------------

    def _command(self, command: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Runs on the control thread: hand over to the loop and wait for its answer."""
        answer: SimpleQueue[Any] = SimpleQueue()
        self._commands.put((command, arguments, answer))
        self._wake()
        try:
            result = answer.get(timeout=8.0)
        except Empty:
            raise AgentError("the agent's loop does not answer", hint="see its journal") from None
        if isinstance(result, AgentError):
            raise result
        return dict(result)

    def _handle_commands(self, now: float) -> None:
        while True:
            try:
                command, arguments, answer = self._commands.get_nowait()
            except Empty:
                return
            try:
                answer.put(self._carry_out(command, arguments, now))
            except AgentError as error:
                answer.put(error)

    def _carry_out(self, command: str, arguments: Mapping[str, Any], now: float) -> Mapping[str, Any]:
        match command:
            case "ping":
                return {}
            case "status":
                return {"status": self._status()}
            case "drain":
                reason = str(arguments.get("reason") or "")[:1_000]
                self._memory.change(drained=True, drain_reason=reason)
                self._memory.save()
                LOGGER.info(event("drained", reason=reason))
                return {"state_problem": self._memory.problem}
            case "undrain":
                known = self._memory.known
                self._memory.change(drained=False, drain_reason=known.drain_reason if known.drained_by_server else "")
                self._memory.save()
                LOGGER.info("undrained")
                return {"drained_by_server": known.drained_by_server, "state_problem": self._memory.problem}
            case "restart":
                wait = not bool(arguments.get("now"))
                self._decide(supervisor.Restart(Reason.RESTART_REQUESTED, "", wait_for_task=wait), now)
                return {"state": self._supervised.state.value}
            case _:
                raise UsageError(f"unknown command {command!r}", hint="the agent may be older than this program")

    # -- wiring ------------------------------------------------------------------------------------------------------

    def _end_leftovers(self) -> None:
        known = self._memory.known
        session = None
        if known.supernode_pid is not None and known.boot_id == self._boot_id:
            leader = procfs.stat(known.supernode_pid)
            if leader is None or leader.start_ticks == known.supernode_start_ticks:
                session = known.supernode_pid
        left = end_leftovers(self._node.marker, session=session)
        if left:
            LOGGER.warning(event("ended what an agent before left behind", processes=left))

    def _build_launch(self, settings: Settings) -> flower.Launch:
        return flower.launch(
            settings,
            self._state_directory,
            os.environ,
            interpreter_directory=str(Path(sys.executable).parent),
        )

    def _warm_server(self, settings: Settings) -> WarmServer:
        table = settings.warm
        return WarmServer(
            WarmSettings(
                mode=WarmMode(table.mode),
                idle_seconds=table.idle_seconds,
                minimum_available_bytes=table.minimum_available_megabytes * 1_000_000,
                maximum_memory_bytes=table.maximum_memory_megabytes * 1_000_000,
                modules=table.modules,
                short_polling=table.short_polling,
            ),
            state_directory=self._state_directory,
            runtime_directory=self._runtime_directory,
            total_memory_bytes=os.sysconf("SC_PHYS_PAGES") * procfs.PAGE_BYTES,
            oom_score_adjustment=CHILD_OOM_SCORE,
        )

    def _target(self, settings: Settings) -> Target:
        return Target(
            url=settings.report_url or "",
            timeout_seconds=settings.reports.timeout_seconds,
            root_certificates=settings.reports.root_certificates or settings.root_certificates,
            user_agent=f"fleven-agent/{__version__}",
        )

    def _make_reporter(self, settings: Settings) -> Reporter:
        spool = Spool(
            self._state_directory / "spool",
            self._memory.known.sender_id,
            maximum_reports=settings.reports.spool_maximum_reports,
            maximum_bytes=settings.reports.spool_maximum_megabytes * 1_000_000,
        )
        self._memory.acknowledged(spool.highest_sequence())
        return Reporter(spool, self._target(settings), self._post, self._post)

    def _post(self, answer: Answer | str) -> None:
        """Runs on the reporter's thread."""
        self._answers.put(answer)
        self._wake()


__all__ = ["Agent", "ConfigurationError", "run"]
