"""The agent's loop: reload if asked, reap, read events, look, decide, act, report, tell systemd, wait.

The only thread that decides. Signal handlers only wake it; slow work runs on threads that post results. Decisions are
in ``supervisor``, ``gates`` and ``health``. Must not import ``config`` or ``report``: both bring pydantic.
"""

import contextlib
import random
import time
from pathlib import Path

from fleven_agent import events, gates, parts, supervisor
from fleven_agent.commands import Commands
from fleven_agent.control import ControlServer
from fleven_agent.errors import AgentError, StateError
from fleven_agent.folders import locked, make_folder
from fleven_agent.journal import LOGGER, event
from fleven_agent.loading import RELOAD_SECONDS, load_settings
from fleven_agent.notify import Notify
from fleven_agent.process import end_leftovers, protect_from_oom
from fleven_agent.settings import Settings
from fleven_agent.signals import Signals
from fleven_agent.states import Reason, ReportReason, State
from fleven_agent.supervised import Action, After, Phase, Supervised
from fleven_agent.teller import Teller

BUSY_SECONDS = 0.5
IDLE_SECONDS = 1.0
EXTEND_SECONDS = 30.0
WARNING, INFO = 30, 20  # as in logging


def run(config_file: Path, state_directory: Path, runtime_directory: Path) -> int:
    """Run the agent until it is told to stop; return the exit code.

    Raises:
        ConfigurationError: node.toml cannot be used.
        AgentError: the folders cannot be used, or another agent runs.
    """
    settings = load_settings(config_file)
    LOGGER.setLevel(settings.log.level.upper())
    with locked(state_directory):
        make_folder(runtime_directory, 0o755)
        with contextlib.suppress(OSError):  # systemd-tmpfiles may have made it, with other owners
            (runtime_directory / gates.INHIBIT_FOLDER).mkdir(exist_ok=True)
        return Agent(config_file, settings, state_directory, runtime_directory).run()


class Agent:
    """One agent at work."""

    def __init__(self, config_file: Path, settings: Settings, state_directory: Path, runtime_directory: Path) -> None:
        self._signals = Signals()
        wake = self._signals.wake
        self._notify = Notify()
        self._parts = parts.build(config_file, settings, state_directory, runtime_directory, wake)
        self._teller = Teller(self._parts, wake)
        self._commands = Commands(wake, self._parts.memory, self._teller.status, self._restart)
        self._control = ControlServer(runtime_directory, self._commands.hand_over)
        self._looked_at = float("-inf")
        self._quits = self._spawns = 0
        self._done = False

    def run(self) -> int:
        """Run until told to stop.

        Raises:
            StateError: the control socket cannot be made.
        """
        protect_from_oom()
        parts.clear_leftovers(self._parts)
        self._signals.install()
        self._parts.surroundings.start()
        try:
            self._control.start()
        except OSError as error:
            raise StateError(f"{self._control.path}: {error.strerror}", hint="check FLEVEN_RUNTIME_DIR") from None
        self._teller.start()
        self._parts.node.apps.start()
        LOGGER.info(event("agent started", version=self._parts.versions.agent, flower=self._parts.versions.flwr))
        now = time.monotonic()
        self._decide(self._gates(now), now)
        self._decide(events.Begin(self._parts.memory.known.attempt), now)
        self._teller.submit(ReportReason.START, now)
        self._cycle(now)
        self._notify.ready()
        while not self._done:
            self._wait()
            self._cycle(time.monotonic())
        self._finish()
        return 0

    def _cycle(self, now: float) -> None:
        self._handle_signals(now)
        self._handle_child(now)
        self._commands.work_off()
        self._teller.take_answers()
        self._decide(self._gates(now), now)
        self._decide(events.Tick(), now)
        self._parts.node.warm.tick(wanted=self._parts.supervised.state in {State.STARTING, State.RUNNING})
        self._teller.update_health(now)
        self._teller.report_if_due(now)
        self._parts.memory.save()
        self._tell_systemd()

    def _wait(self) -> None:
        now, was = time.monotonic(), self._parts.supervised
        busy = self._parts.node.tasks.current is not None or was.state in {State.STARTING, State.STOPPING}
        until = now + (BUSY_SECONDS if busy else IDLE_SECONDS)
        deadline = supervisor.next_deadline(was, self._parts.settings.supervision)
        if deadline is not None:
            until = min(until, max(deadline, now + 0.02))
        self._signals.wait(until - now)

    def _finish(self) -> None:
        self._parts.node.warm.stop()
        end_leftovers(self._parts.node.marker)
        self._teller.finish(time.monotonic())
        self._parts.surroundings.stop()
        self._parts.node.apps.stop()
        self._control.stop()
        LOGGER.info("agent stopped")

    # -- what happens

    def _handle_signals(self, now: float) -> None:
        if self._signals.take_reload():
            self._reload(now)
        while self._signals.take_quit():
            self._quits += 1
            if self._quits == 1:
                self._notify.stopping()
                LOGGER.info("stopping; a second signal does not wait for the current task")
            self._decide(events.Quit(wait_for_task=self._quits == 1), now)

    def _handle_child(self, now: float) -> None:
        for happened, finished in self._parts.node.drain_lines():
            self._teller.tasks_finished(finished, now)
            if happened is not None:
                self._decide(happened, now)
        ended = self._parts.node.reap(now)
        if ended is not None:
            self._teller.tasks_finished(ended[1], now)
            self._decide(ended[0], now)
        elif now - self._looked_at >= (BUSY_SECONDS if self._parts.node.tasks.current else IDLE_SECONDS) * 0.9:
            self._looked_at = now
            broken, finished = self._parts.node.look(
                now,
                self._parts.settings,
                self._parts.surroundings.readings.temperature_celsius,
                superlink_away=bool(self._parts.surroundings.probe.problem),
            )
            self._teller.tasks_finished(finished, now)
            if broken is not None:
                self._decide(broken, now)
        task = self._parts.node.tasks.current
        active = task is not None and task.replied is None
        if active != self._parts.supervised.task_active:
            self._decide(events.TaskChanged(active), now)

    def _gates(self, now: float) -> events.GatesChanged:
        around, known = self._parts.surroundings, self._parts.memory.known
        return events.GatesChanged(around.closed_gates(self._parts.settings, known, now))

    def _restart(self, at_once: bool) -> tuple[str, bool]:
        self._decide(events.Restart(Reason.RESTART_REQUESTED, wait_for_task=not at_once), time.monotonic())
        now = self._parts.supervised
        restarting = now.state is State.STARTING or (now.stop is not None and now.stop.after is After.RESTART)
        return now.state.value, restarting

    # -- deciding and acting

    def _decide(self, happened: events.Event, now: float) -> None:
        was, policy = self._parts.supervised, self._parts.settings.supervision
        self._parts.supervised, actions = supervisor.step(was, happened, now, policy, random.random)
        self._note(was, now)
        for action in actions:
            self._act(action, now)

    def _act(self, action: Action, now: float) -> None:
        match action:
            case Action.SPAWN:
                self._spawn(now)
            case Action.TERMINATE:
                self._parts.node.terminate()
            case Action.KILL:
                self._parts.node.kill()
            case Action.QUIT:
                self._done = True

    def _spawn(self, now: float) -> None:
        node, memory = self._parts.node, self._parts.memory
        self._spawns += 1
        memory.count(restarts=int(self._spawns > 1))
        failed = node.spawn(self._parts.launch, self._parts.settings, now)
        if failed is not None:
            self._decide(failed, now)
        elif node.child is not None:
            child = node.child
            memory.change(supernode_pid=child.pid, supernode_start_ticks=child.start_ticks, boot_id=self._parts.boot_id)
            memory.save()  # at once: should the agent be killed now, its successor must know what to end

    def _note(self, was: Supervised, now: float) -> None:
        """Tell the journal, the state file and health what a decision changed."""
        new = self._parts.supervised
        if new.node_id is not None and new.node_id != was.node_id:
            before = self._parts.memory.registered(new.node_id)
            self._parts.rejected = ""
            LOGGER.info(event("registered", node_id=new.node_id, previous_node_id=before))
        if new.failures > was.failures:
            self._teller.failed(now)
            self._parts.rejected = new.detail if new.reason is Reason.REJECTED else self._parts.rejected
        if new.reason is Reason.EXECUTOR_DEAD:
            self._parts.broken = new.detail
        elif new.state is State.RUNNING:
            self._parts.broken = ""
        self._parts.memory.change(attempt=new.attempt)
        if new.state is was.state and new.since == was.since:
            return
        self._parts.state_since = time.time()
        if new.state is State.GATED:
            self._parts.node.warm.stop()  # a gated car gives back the memory too
        wait = None if new.retry_at is None else round(new.retry_at - now, 1)
        line = event(
            "state",
            state=new.state.value,
            reason=new.reason.value or None,
            detail=new.detail or None,
            retry_seconds=wait,
        )
        LOGGER.log(WARNING if new.state in {State.BACKOFF, State.FAILED} else INFO, line)

    def _reload(self, now: float) -> None:
        self._notify.reloading()
        try:
            settings = load_settings(self._parts.config_file, timeout_seconds=RELOAD_SECONDS)
        except AgentError as error:
            self._parts.configuration_problem = "; ".join(error.lines())
            for line in error.lines():
                LOGGER.error(event("reload refused, the old configuration stays", detail=line))
        else:
            self._parts.configuration_problem = ""
            self._apply(settings, now)
        self._notify.ready()

    def _apply(self, settings: Settings, now: float) -> None:
        made = self._parts
        if settings.warm != made.settings.warm:
            made.node.warm.stop()
            made.node.warm = parts.warm_server(settings, made.state_directory, made.runtime_directory)
        restart = settings.warm != made.settings.warm
        made.settings = settings
        LOGGER.setLevel(settings.log.level.upper())
        made.output.enabled = settings.log.supernode_lines
        made.output.lines_per_second = settings.log.supernode_lines_per_second
        made.surroundings.reconfigure(settings)
        self._teller.reconfigure()
        launch = parts.launch(settings, made.state_directory)
        restart = restart or launch != made.launch
        made.launch = launch
        LOGGER.info(event("reloaded", restarts_supernode=restart))
        if restart:
            self._decide(events.Restart(Reason.COMMAND_LINE_CHANGED), now)

    def _tell_systemd(self) -> None:
        self._notify.watchdog()
        self._notify.status(self._teller.status_line())
        stop = self._parts.supervised.stop
        if stop is not None and stop.phase is Phase.WAIT_FOR_TASK and self._quits:
            self._notify.extend_timeout(EXTEND_SECONDS)
