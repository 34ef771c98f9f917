"""What the agent tells others: conditions to the journal, reports to the server, its status to anybody who asks.

Runs on the loop's thread; the reporter's thread only posts answers. Decides nothing about SuperNode.
"""

import os
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from fleven_agent import __version__
from fleven_agent import state as agent_state
from fleven_agent.components import Components
from fleven_agent.models.decisions import Offer
from fleven_agent.models.keeper import Circumstances
from fleven_agent.monitoring import conditions
from fleven_agent.monitoring.condition_tracker import ConditionTracker
from fleven_agent.monitoring.traffic import usage_from
from fleven_agent.protocol.codes import Attention, ReportReason, Severity, TaskOutcome
from fleven_agent.protocol.identity import authorities_text
from fleven_agent.reporting import pace, report_builder
from fleven_agent.reporting.attention_watch import AttentionWatch, Told
from fleven_agent.reporting.client import Answer, DeliveryError, Target
from fleven_agent.reporting.pace import Pace
from fleven_agent.reporting.reporter import Reporter
from fleven_agent.reporting.spool import Spool
from fleven_agent.supernode.connection_watch import OfflineList
from fleven_agent.supernode.tasks import Finished, Refusals
from fleven_agent.system.clock import server_time_at_boot, since_boot, wall_stamp
from fleven_agent.system.log import LOGGER, event

FAILURE_WINDOW_SECONDS = 600.0
TASK_FAILED_SHOWN_SECONDS = 600.0
LAST_REPORT_SECONDS = 3.0
LONGEST_SPREAD_SECONDS = 30.0
"""Over which the cars of a large fleet report when the server begins to look."""
WARNING, INFO = 30, 20  # as in logging


class Telemetry:
    """Everything that the agent tells.

    Args:
        parts: of the agent.
        wake: wakes the loop, from the reporter's thread.
    """

    def __init__(self, parts: Components, wake: Callable[[], None]) -> None:
        self._components, self._wake = parts, wake
        self._conditions = ConditionTracker()
        self._answers: SimpleQueue[Answer | DeliveryError | Told] = SimpleQueue()
        self._attention: Attention | None = None
        self.pull_floor_seconds: float | None = None
        """No sooner than this SuperNode is to ask the SuperLink again, as the server said last."""
        self.server_time_at_boot_seconds: float | None = None
        """By the server's last answer; None while its clock and this machine's agree."""
        self._answer: Answer | None = None
        self.flower_offline = OfflineList()
        """What the server said last of Flower's own list."""
        self._undelivered: DeliveryError | None = None
        self._finished: list[Finished] = []
        self._refusals = Refusals()
        self._last_task: tuple[float, Finished] | None = None
        self._failures: deque[float] = deque(maxlen=1_000)
        self._due, self._told_state, self._told_work = float("-inf"), "", ""
        settings = parts.settings
        spool = Spool(
            parts.state_directory / "spool",
            parts.agent_state.known.sender_id,
            maximum_reports=settings.reports.spool_maximum_reports,
            maximum_bytes=settings.reports.spool_maximum_megabytes * 1_000_000,
        )
        parts.agent_state.acknowledged(spool.highest_sequence())
        self._reporter = Reporter(spool, self._target(), self._post, self._post, boot_id=parts.boot_id)
        self._watch = AttentionWatch(parts.agent_state.known.sender_id, self._post)

    def start(self) -> None:
        """Start delivering."""
        self._reporter.start()
        self._watch.start()

    def finish(self, now: float) -> None:
        """Write the last report and wait a short while for its delivery."""
        self.update_health(now)
        self.submit(ReportReason.STOP, now)
        self._components.agent_state.change(supernode_pid=None, last_status=self.status())
        self._components.agent_state.save()
        self._watch.stop()
        self._reporter.stop(LAST_REPORT_SECONDS)

    def reconfigure(self) -> None:
        """Take over changed settings."""
        reports = self._components.settings.reports
        self._reporter.resize(
            maximum_reports=reports.spool_maximum_reports, maximum_bytes=reports.spool_maximum_megabytes * 1_000_000
        )
        self._reporter.retarget(self._target())
        if not reports.enabled:
            self._undelivered = None

    def failed(self, now: float) -> None:
        """Note that SuperNode has ended by itself."""
        self._failures.append(now)

    def tasks_finished(self, finished: list[Finished], now: float) -> None:
        """Count tasks that ended, for the journal and the next report."""
        for task in finished:
            bad = task.outcome is not TaskOutcome.SUCCEEDED
            self._components.agent_state.count(tasks=1, task_failures=int(bad))
            if bad:
                self._components.monitors.write_now()
            self._last_task = (now, task)
            self._refusals.count(task, self._components.monitors.data)
            self._finished.append(task)
            line = event(
                "task finished",
                run=task.run_id,
                round=task.round,
                type=task.message_type,
                outcome=task.outcome.value,
                wall_seconds=round(task.wall_seconds, 1),
                cpu_seconds=None if task.cpu_seconds is None else round(task.cpu_seconds, 2),
                peak_rss_bytes=task.peak_rss_bytes,
            )
            LOGGER.log(WARNING if bad else INFO, line)

    def take_answers(self) -> None:
        """Act on what the server said since the last call."""
        while True:
            try:
                answer = self._answers.get_nowait()
            except Empty:
                return
            url = self._components.settings.report_url
            if isinstance(answer, Told):
                self._attend(answer.attention, answer.pull_floor_seconds)
                continue
            if isinstance(answer, DeliveryError):
                self._doubted(answer)
                self._attend(None, None)
                if not self._components.settings.reports.enabled:
                    continue
                before = self._undelivered
                if before is None or before.unauthorised != answer.unauthorised:
                    LOGGER.warning(event("report not delivered", url=url, detail=answer))
                self._undelivered = answer
                continue
            if self._undelivered:
                LOGGER.info(event("reports are delivered again", url=url))
            self._undelivered, self._answer = None, answer
            self.server_time_at_boot_seconds = server_time_at_boot(
                answer.clock_offset_seconds,
                self.server_time_at_boot_seconds,
                wall_seconds=time.time(),
                since_boot_seconds=since_boot(),
            )
            self.flower_offline = OfflineList(time.monotonic(), answer.flower_offline)
            self._attend(answer.attention, answer.pull_floor_seconds)
            self._obey(answer)

    def look_after_model(self) -> None:
        """Say to what looks after the model what the server offers, and whether network and machine may be used.

        As for training: not while a gate is closed, and not beside a task.
        """
        parts, answer = self._components, self._answer
        offer = Offer(*answer.model) if answer is not None and answer.model is not None else None
        task = parts.node.tasks.current
        held = "; ".join(parts.supervised.gates) or ("a task is under way" if task is not None else "")
        if not parts.settings.model.deliver:
            offer, held = None, "switched off"
        data = parts.monitors.data
        parts.models.follow(
            Circumstances(
                target=self._target(),
                offer=offer,
                held=held,
                trips=data.path if data is not None else None,
                newest_trip=data.newest_trip_at if data is not None else None,
            )
        )

    def _doubted(self, problem: DeliveryError) -> None:
        keeper = self._components.keeper
        if problem.identity is not None:
            keeper.refused(problem.identity, time.monotonic())
        if problem.tls is not None:
            keeper.untrusted(problem.tls)

    @property
    def pace(self) -> Pace:
        """How often this car is to speak now."""
        task = self._components.node.tasks.current
        return pace.pace(self._components.settings, self._attention, busy=task is not None)

    def _attend(self, attention: Attention | None, pull_floor_seconds: float | None) -> None:
        """Follow the server's attention: what it looks at is reported soon, spread as widely as the fleet is large."""
        before, self._attention = self._attention, attention
        self.pull_floor_seconds = pull_floor_seconds
        if attention not in {None, Attention.CALM, before}:  # already when it is ten minutes ahead
            self._components.node.warm.expect_task()
        if before is Attention.CALM and attention not in {None, Attention.CALM}:
            spread = min(LONGEST_SPREAD_SECONDS, 10 * (pull_floor_seconds or 0.0))
            self._due = min(self._due, time.monotonic() + random.uniform(0.0, spread))  # noqa: S311  # protects nothing
            LOGGER.info(event("the server follows closely", attention=attention))

    def _obey(self, answer: Answer) -> None:
        agent_state = self._components.agent_state
        ahead = agent_state.acknowledged(answer.acknowledged.get(agent_state.known.sender_id, 0))
        if answer.identity is not None:
            self._components.keeper.told(answer.identity)
        if ahead or (answer.identity is not None and answer.identity.report_again):
            # At once: if another board works with a copy of this card, the server knows it by the next report above
            # all others.
            self._due = float("-inf")
        if answer.drain is not None and answer.drain != (
            agent_state.known.drained_by_server,
            agent_state.known.server_reason,
        ):
            active, reason = answer.drain
            agent_state.change(drained_by_server=active, server_reason=reason if active else "")
            LOGGER.info(event("the server changed the drain", active=active, reason=reason))

    def count_traffic(self) -> None:
        """Add what was sent and received since the last cycle to the day's and the month's."""
        agent_state, child = self._components.agent_state, self._components.node.child
        self._components.monitors.supernode_pid = child.pid if child is not None else None
        known = agent_state.known
        before = usage_from(known.traffic_day, known.traffic_day_bytes, known.traffic_month_bytes)
        usage = self._components.monitors.take_traffic(before)
        if usage != before:
            agent_state.counted(usage.day, usage.day_bytes, usage.month_bytes)

    def update_health(self, now: float) -> None:
        """Evaluate the conditions again, and log which began and which ended."""
        before = self._conditions.codes
        self._conditions.update(conditions.evaluate(self._health_facts(now), before), now, time.time())
        for one in self._conditions.shown:
            if one.code not in before:
                line = event("condition begins", code=one.code.value, detail=one.message, hint=one.hint)
                LOGGER.log(INFO if one.severity is Severity.INFO else WARNING, line)
        for code in before - self._conditions.codes:
            LOGGER.info(event("condition ends", code=code.value))

    def _health_facts(self, now: float) -> conditions.Facts:
        parts, data, answer = self._components, self._components.monitors.data, self._answer
        while self._failures and now - self._failures[0] > FAILURE_WINDOW_SECONDS:
            self._failures.popleft()
        problem, undelivered, rejected = self._undelivered, "", ""
        standings = parts.keeper.standings()
        if problem is not None and problem.identity is not None:
            pass  # the standing says it
        elif problem is not None and problem.unauthorised:
            rejected = f"{problem}; {self._reporter.waiting()} reports wait"
        elif problem is not None:
            undelivered = f"{problem}; {self._reporter.waiting()} wait"
        return conditions.Facts(
            supervised=parts.supervised,
            settings=parts.settings,
            readings=replace(parts.monitors.readings, clock_offset_seconds=self._clock_offset()),
            recent_failures=len(self._failures),
            connection_lost=parts.node.connection_lost,
            probe_problem=parts.monitors.probe.problem,
            tls_failure=parts.monitors.tls_failure,
            executor_dead=parts.broken,
            frozen=parts.node.finding.frozen,
            task_stuck=parts.node.stuck,
            task_failed=self._task_failed(now),
            rejected=parts.rejected,
            month_bytes=parts.agent_state.known.traffic_month_bytes,
            data_problem=data.problem if data and parts.settings.data.required is not False else "",
            data_refused=self._refusals.problem(data),
            quarantined=data.quarantined if data else 0,
            data_unmovable=data.unmovable if data else "",
            data_stuck=parts.monitors.data_stuck,
            own_flower_version=parts.versions.flwr,
            server_flower_version=answer.flwr_version if answer else None,
            server_problems=answer.problems if answer else (),
            undelivered=undelivered,
            reports_rejected=rejected,
            configuration_problem=parts.configuration_problem,
            state_problem=parts.agent_state.problem or parts.monitors.card_problem,
            standings=standings,
        )

    def _task_failed(self, now: float) -> str:
        if self._last_task is None:
            return ""
        at, task = self._last_task
        if task.outcome is TaskOutcome.SUCCEEDED or now - at >= TASK_FAILED_SHOWN_SECONDS:
            return ""
        return f"the {task.message_type} task of run {task.run_id}, round {task.round}, {task.outcome.value}"

    def _clock_offset(self) -> float | None:
        return self._answer.clock_offset_seconds if self._answer else None

    def report_if_due(self, now: float) -> None:
        """Report at once what changed, and everything at the interval."""
        target = self._target()
        self._reporter.retarget(target)
        self._watch.follow(target, self._attention, pace.keepalive_seconds(self._components.settings))
        lost = self._reporter.take_lost()
        if lost:
            self._components.agent_state.count(reports_lost=lost)
        was, known, task = (
            self._components.supervised,
            self._components.agent_state.known,
            self._components.node.tasks.current,
        )
        state = f"{was.state} {was.node_id} {sorted(self._conditions.codes)} {agent_state.drained(known)}"
        model = self._model()
        state += f" {model['current']} {model['problem']}" if model is not None else ""
        work = f"{task.run_id} {task.round} {task.message_type}" if task and task.replied is None else ""
        if self._finished or state != self._told_state:
            self.submit(ReportReason.CHANGE, now)
        elif work != self._told_work:
            self.submit(
                ReportReason.CHANGE, now, durable=False
            )  # a new task is worth a report, but not worth keeping for days
        elif now >= self._due:
            self.submit(ReportReason.INTERVAL, now, durable=False)
        self._told_state, self._told_work = state, work

    def superlink_is_back(self) -> None:
        """Report at once what waits: SuperNode is connected again, so the server is likely to be there as well."""
        self._reporter.try_now()

    def submit(self, reason: ReportReason, now: float, *, durable: bool = True) -> None:
        """Write a report and queue it. ``durable``: it must reach the server even after days and reboots."""
        interval = self.pace.report_seconds
        self._due = now + interval * random.uniform(0.9, 1.1)  # noqa: S311  # spreads a fleet's reports, protects nothing
        if durable:
            self._components.agent_state.change(last_status=self.status())
        limit = report_builder.MAXIMUM_TASKS_PER_REPORT
        finished, self._finished = self._finished[:limit], self._finished[limit:]
        if not self._components.settings.reports.enabled:
            return
        facts = replace(self._facts(), finished=tuple(finished))
        sequence = self._components.agent_state.next_sequence()
        report = report_builder.report(facts, sequence=sequence, reason=reason, wall=time.time())
        self._reporter.submit(report, durable=durable)

    def status(self) -> dict[str, Any]:
        """Return what `fleven-agent status` shows."""
        parts, last, answer = self._components, self._last_task, self._answer
        access = parts.keeper.report_access(time.monotonic())
        child = parts.node.child
        return {
            **report_builder.body(self._facts()),
            "agent_pid": os.getpid(),
            "supernode_pid": child.pid if child else None,
            "gates": list(parts.supervised.gates),
            "retry_in_seconds": self._retry_in(),
            "report_url": access.url if access is not None else parts.settings.report_url,
            "identity": self._identity(),
            "reports_waiting": self._reporter.waiting(),
            "report_problem": str(self._undelivered or ""),
            "server_version": answer.server_version if answer else None,
            "server_problems": [list(problem) for problem in answer.problems] if answer else [],
            "last_task": report_builder.finished_task(last[1]) if last else None,
            "config_file": str(parts.config_file),
            "at": report_builder.moment(time.time()),
        }

    def _identity(self) -> dict[str, Any] | None:
        """Return what `status` shows of the identity: nothing of it is secret."""
        identity = self._components.keeper.identity
        if identity is None:
            return None
        return {
            "standing": identity.standing.value,
            "car_id": identity.car_id,
            "key_fingerprint": identity.key_fingerprint,
            "server_authority": identity.ca_fingerprint,
            "enrolled_at": identity.enrolled_at,
        }

    def _facts(self, *, light: bool = False) -> report_builder.Facts:
        """Return the facts of a report; ``light`` without the process trees, which cost a look at each process."""
        parts, node, around = self._components, self._components.node, self._components.monitors
        facts = report_builder.Facts(
            settings=parts.settings,
            remembered=parts.agent_state.known,
            supervised=parts.supervised,
            state_since=wall_stamp(parts.state_since_boot),
            conditions=self._conditions.shown,
            readings=around.readings,
            versions=parts.versions,
            boot_id=parts.boot_id,
            board_model=parts.board_model,
            task=node.tasks.current,
            data=around.data,
            clock_offset_seconds=self._clock_offset(),
            pace=self.pace,
            way=around.way.names if around.way is not None else (),
            model=self._model(),
        )
        if light:
            return facts
        return replace(
            facts,
            warm=node.warm.status(),
            supernode=around.tree("supernode", (*node.finding.pids, *node.warm.process_ids())),
            task_tree=around.tree("task", node.finding.task_pids),
        )

    def _model(self) -> dict[str, Any] | None:
        """Return what is told of the car's model; None when node.toml wants none."""
        return self._components.models.told() if self._components.settings.model.deliver else None

    def status_line(self) -> str:
        """Return the line for `systemctl status`."""
        return report_builder.status_line(self._facts(light=True))

    def _retry_in(self) -> float | None:
        retry_at = self._components.supervised.retry_at
        return None if retry_at is None else max(0.0, round(retry_at - time.monotonic(), 1))

    def _target(self) -> Target | None:
        """Where reports go; nowhere while reports are off or the car's identity does not let them."""
        parts = self._components
        settings = parts.settings
        access = parts.keeper.report_access(time.monotonic())
        if access is None or not settings.reports.enabled:
            return None
        return Target(
            url=access.url,
            timeout_seconds=settings.reports.timeout_seconds,
            root_certificates=access.trust.root_certificates,
            server_name=access.trust.server_name,
            user_agent=f"fleven-agent/{__version__}",
            token=access.bearer,
            authorities=authorities_text(list(parts.keeper.authorities)) if access.trust.server_name else "",
        )

    def _post(self, answer: Answer | DeliveryError | Told) -> None:
        """Runs on the threads of reporter and attention."""
        self._answers.put(answer)
        self._wake()
