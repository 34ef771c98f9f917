"""The agent's loop: reload if asked, reap, read events, look, decide, act, report, tell systemd, wait.

The only thread that decides. Signal handlers only wake it; slow work runs on threads that post results. Decisions are
in ``supervisor``, ``gates`` and ``conditions``. Must not import ``config.parser`` or ``protocol.report``: both bring
pydantic.
"""

import contextlib
import gc
import random
import time
from pathlib import Path

from fleven_agent import components
from fleven_agent.config.loader import RELOAD_SECONDS, load_settings
from fleven_agent.config.settings import Settings
from fleven_agent.control import Commands, ControlServer
from fleven_agent.errors import AgentError, StateError
from fleven_agent.monitoring import gates
from fleven_agent.protocol.codes import Reason, ReportReason, State
from fleven_agent.state import locked, make_folder
from fleven_agent.supernode import connection_watch, supervisor
from fleven_agent.supernode.process import end_leftovers, protect_from_oom
from fleven_agent.supernode.supervisor import Action, After, Phase, Supervised
from fleven_agent.system.clock import since_boot
from fleven_agent.system.log import LOGGER, event
from fleven_agent.system.signals import Signals
from fleven_agent.system.systemd import Notify
from fleven_agent.telemetry import Telemetry
from fleven_agent.warm.pace_file import DEFAULT_FLOOR_SECONDS, Wanted

BUSY_SECONDS = 0.5
IDLE_SECONDS = 1.0
EXTEND_SECONDS = 30.0
DISCONNECTED = frozenset({State.STARTING, State.BACKOFF, State.FAILED})
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
        gc.collect()  # what making the classes has left behind: the threads that start now can have its place
        return Agent(config_file, settings, state_directory, runtime_directory).run()


class Agent:
    """One agent at work."""

    def __init__(self, config_file: Path, settings: Settings, state_directory: Path, runtime_directory: Path) -> None:
        self._signals = Signals()
        wake = self._signals.wake
        self._notify = Notify()
        self._components = components.build(config_file, settings, state_directory, runtime_directory, wake)
        self._telemetry = Telemetry(self._components, wake)
        self._commands = Commands(wake, self._components.agent_state, self._telemetry.status, self._restart)
        self._control = ControlServer(runtime_directory, self._commands.hand_over)
        self._looked_at = float("-inf")
        self._quits = self._spawns = 0
        self._disconnected = False
        self._done = False

    def run(self) -> int:
        """Run until told to stop.

        Raises:
            StateError: the control socket cannot be made.
        """
        protect_from_oom()
        components.clear_leftovers(self._components)
        self._signals.install()
        self._components.monitors.start()
        try:
            self._control.start()
        except OSError as error:
            raise StateError(f"{self._control.path}: {error.strerror}", hint="check FLEVEN_RUNTIME_DIR") from None
        self._telemetry.start()
        self._components.node.apps.start()
        self._components.models.start()
        LOGGER.info(
            event("agent started", version=self._components.versions.agent, flower=self._components.versions.flwr)
        )
        now = time.monotonic()
        self._decide(self._gates(now), now)
        self._decide(supervisor.Begin(self._components.agent_state.known.attempt), now)
        self._telemetry.submit(ReportReason.START, now)
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
        self._telemetry.take_answers()
        self._handle_identity(now)
        self._telemetry.count_traffic()
        self._decide(self._gates(now), now)
        self._decide(supervisor.Tick(), now)
        self._components.node.warm.tick(wanted=self._components.supervised.awaits_tasks)
        self._telemetry.update_health(now)
        self._telemetry.look_after_model()
        self._telemetry.report_if_due(now)
        self._set_pace()
        self._components.agent_state.save()
        self._tell_systemd()

    def _set_pace(self) -> None:
        """Let everything that speaks to the server follow how closely that follows this car."""
        wanted, floor = self._telemetry.pace, self._telemetry.pull_floor_seconds
        disconnected = self._components.supervised.state in DISCONNECTED or self._components.node.connection_lost
        if self._disconnected and not disconnected:
            self._telemetry.superlink_is_back()
        self._disconnected = disconnected
        usual = self._components.settings.health.superlink_probe_seconds
        self._components.monitors.doubt(disconnected)
        self._components.monitors.probe_every(usual if disconnected else wanted.probe_seconds)
        self._components.node.warm.set_pace(
            Wanted(
                wanted.pull_seconds,
                wanted.heartbeat_seconds,
                floor or DEFAULT_FLOOR_SECONDS,
                self._telemetry.server_time_at_boot_seconds,
            )
        )

    def _wait(self) -> None:
        now, was = time.monotonic(), self._components.supervised
        busy = self._components.node.tasks.current is not None or was.state in {State.STARTING, State.STOPPING}
        until = now + (BUSY_SECONDS if busy else IDLE_SECONDS)
        deadline = supervisor.next_deadline(was, self._components.settings.supervision)
        if deadline is not None:
            until = min(until, max(deadline, now + 0.02))
        self._signals.wait(until - now)

    def _finish(self) -> None:
        self._components.node.warm.stop()
        self._components.node.warm.close()
        end_leftovers(self._components.node.marker)
        self._telemetry.finish(time.monotonic())
        self._components.monitors.stop()
        self._components.node.apps.stop()
        self._components.models.stop()
        self._control.stop()
        LOGGER.info("agent stopped")

    # -- events

    def _handle_signals(self, now: float) -> None:
        if self._signals.take_reload():
            self._reload(now)
        while self._signals.take_quit():
            self._quits += 1
            if self._quits == 1:
                self._notify.stopping()
                LOGGER.info("stopping; a second signal does not wait for the current task")
            self._decide(supervisor.Quit(wait_for_task=self._quits == 1), now)

    def _handle_child(self, now: float) -> None:
        for happened, finished in self._components.node.drain_lines():
            self._telemetry.tasks_finished(finished, now)
            if happened is not None:
                self._decide(happened, now)
        ended = self._components.node.reap(now)
        if ended is not None:
            self._telemetry.tasks_finished(ended[1], now)
            self._decide(ended[0], now)
        elif now - self._looked_at >= (BUSY_SECONDS if self._components.node.tasks.current else IDLE_SECONDS) * 0.9:
            self._looked_at = now
            broken, finished = self._components.node.look(
                now,
                self._components.settings,
                self._components.monitors.readings.temperature_celsius,
                reach=self._components.monitors.probe.reach,
                flower_offline=self._telemetry.flower_offline,
                superlink_away=bool(self._components.monitors.probe.problem),
                data_stuck=bool(self._components.monitors.data_stuck),
            )
            self._telemetry.tasks_finished(finished, now)
            if connection_watch.wants_probe(self._components.node.stall, self._components.monitors.probe.reach, now):
                self._components.monitors.probe_now()
            if broken is not None:
                self._decide(broken, now)
        task = self._components.node.tasks.current
        active = task is not None and task.replied is None
        if active != self._components.supervised.task_active:
            self._decide(supervisor.TaskChanged(active), now)

    def _handle_identity(self, now: float) -> None:
        made = self._components
        if made.keeper.tick(now, task_active=made.supervised.task_active):
            self._apply(made.configured, now, Reason.IDENTITY_CHANGED)

    def _gates(self, now: float) -> supervisor.GatesChanged:
        around, known = self._components.monitors, self._components.agent_state.known
        closed = around.closed_gates(
            self._components.settings,
            known,
            now,
            identity=self._components.keeper.standings().gate,
            cell=self._components.node.warm.problem(),
        )
        return supervisor.GatesChanged(closed)

    def _restart(self, at_once: bool) -> tuple[str, bool]:
        self._decide(supervisor.Restart(Reason.RESTART_REQUESTED, wait_for_task=not at_once), time.monotonic())
        now = self._components.supervised
        restarting = now.state is State.STARTING or (now.stop is not None and now.stop.after is After.RESTART)
        return now.state.value, restarting

    # -- deciding and acting

    def _decide(self, happened: supervisor.Event, now: float) -> None:
        was, policy = self._components.supervised, self._components.settings.supervision
        self._components.supervised, actions = supervisor.step(was, happened, now, policy, random.random)
        self._note(was, now)
        for action in actions:
            self._act(action, now)

    def _act(self, action: Action, now: float) -> None:
        match action:
            case Action.SPAWN:
                self._spawn(now)
            case Action.TERMINATE:
                self._components.node.terminate()
            case Action.KILL:
                self._components.node.kill()
            case Action.QUIT:
                self._done = True

    def _spawn(self, now: float) -> None:
        node, agent_state = self._components.node, self._components.agent_state
        self._spawns += 1
        agent_state.count(restarts=int(self._spawns > 1))
        failed = node.spawn(self._components.launch, self._components.settings, now)
        if failed is not None:
            self._decide(failed, now)
        elif node.child is not None:
            child = node.child
            agent_state.change(
                supernode_pid=child.pid, supernode_start_ticks=child.start_ticks, boot_id=self._components.boot_id
            )
            agent_state.save()  # at once: if the agent is killed now, its successor must know what to end

    def _note(self, was: Supervised, now: float) -> None:
        """Tell the journal, the state file and health what a decision changed."""
        new = self._components.supervised
        if new.node_id is not None and new.node_id != was.node_id:
            before = self._components.agent_state.registered(new.node_id)
            self._components.keeper.works_with(new.node_id)
            self._components.rejected = ""
            LOGGER.info(event("registered", node_id=new.node_id, previous_node_id=before))
        if new.failures > was.failures:
            self._telemetry.failed(now)
            self._components.rejected = new.detail if new.reason is Reason.REJECTED else self._components.rejected
        if new.reason is Reason.EXECUTOR_DEAD:
            self._components.broken = new.detail
        elif new.state is State.RUNNING:
            self._components.broken = ""
        self._components.agent_state.change(attempt=new.attempt)
        if new.state is was.state and new.since == was.since:
            return
        self._components.state_since_boot = since_boot()
        if new.state is State.GATED:
            self._components.node.warm.stop()  # a gated car frees that memory too
        wait = None if new.retry_at is None else round(new.retry_at - now, 1)
        line = event(
            "state",
            state=new.state.value,
            reason=new.reason.value or None,
            detail=new.detail or None,
            retry_seconds=wait,
        )
        LOGGER.log(WARNING if new.state in {State.BACKOFF, State.FAILED, State.GATED} else INFO, line)

    def _reload(self, now: float) -> None:
        self._notify.reloading()
        try:
            settings = load_settings(
                self._components.config_file, timeout_seconds=RELOAD_SECONDS, while_waiting=self._notify.watchdog
            )
        except AgentError as error:
            self._components.configuration_problem = "; ".join(error.lines())
            for line in error.lines():
                LOGGER.error(event("reload refused, the old configuration stays", detail=line))
        else:
            self._components.configuration_problem = ""
            self._components.keeper.reconfigure(settings)
            restart = self._apply(settings, now, Reason.COMMAND_LINE_CHANGED)
            LOGGER.info(event("reloaded", restarts_supernode=restart))
        self._notify.ready()

    def _apply(self, configured: Settings, now: float, reason: Reason) -> bool:
        """Take over what node.toml and the car's identity say together; return whether SuperNode must start again."""
        made = self._components
        made.configured, settings = configured, made.keeper.effective
        changed = (settings.warm, settings.cell) != (made.settings.warm, made.settings.cell)
        if changed:
            made.node.warm.stop()
            made.node.warm.close()
            made.node.warm = components.warm_server(settings, made.state_directory, made.runtime_directory)
        restart = changed
        made.settings = settings
        LOGGER.setLevel(settings.log.level.upper())
        made.output.enabled = settings.log.supernode_lines
        made.output.lines_per_second = settings.log.supernode_lines_per_second
        made.monitors.reconfigure(settings)
        self._telemetry.reconfigure()
        launch = components.launch(made.node.flower, settings, made.state_directory, made.keeper.credentials)
        restart = restart or launch != made.launch
        made.launch = launch
        before = made.supervised.state
        # At once: who asks for the status must not see the gate of before, and a SuperNode that a gate now keeps from
        # running, or has just let start, is not to be started again.
        self._decide(self._gates(now), now)
        if restart and made.supervised.state is before:
            self._decide(supervisor.Restart(reason), now)
        return restart

    def _tell_systemd(self) -> None:
        self._notify.watchdog()
        self._notify.status(self._telemetry.status_line())
        stop = self._components.supervised.stop
        if stop is not None and stop.phase is Phase.WAIT_FOR_TASK and self._quits:
            self._notify.extend_timeout(EXTEND_SECONDS)
