"""The register as Prometheus metrics: every node's verdict and readings, every run's state, the server itself.

Text format and escaping are prometheus_client's. Must not import FastAPI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from fleven import __version__
from fleven.server.config.paths import Paths
from fleven.server.database import Store
from fleven.server.database.facts import SUPERLINK_FACT
from fleven.server.database.readings import READINGS
from fleven.server.database.tables import runs
from fleven.server.nodes.model import NodeHealth
from fleven.server.nodes.registry import NodeRecord, NodeRegistry
from fleven.server.runs import results as run_results
from fleven.server.runs import store as run_store
from fleven.server.runs.model import Run, RunState
from fleven.server.runs.results import RunFolders
from fleven.server.schedules import store as schedule_store
from fleven.server.schemas.nodes import NodeAnswer, node_answer
from fleven.server.schemas.status import disk_answer, known_ends, service_answer

NODE_COUNTERS = {
    "restarts": ("fleven_node_supernode_restarts", "Restarts of SuperNode"),
    "tasks": ("fleven_node_tasks", "Tasks begun"),
    "task_failures": ("fleven_node_task_failures", "Tasks that failed"),
    "reports_lost": ("fleven_node_reports_lost", "Reports that the node had to drop"),
}


NODE_TRAFFIC = {
    "day_bytes": ("fleven_node_traffic_day_bytes", "Bytes that it has sent and received today"),
    "month_bytes": ("fleven_node_traffic_month_bytes", "Bytes that it has sent and received this month"),
    "month_limit_bytes": ("fleven_node_traffic_month_limit_bytes", "At this many bytes it trains no more this month"),
}


class _Families(Collector):
    """Hands a list of ready families to prometheus_client."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def metrics_text(store: Store, register: NodeRegistry, paths: Paths, now: datetime, reports_written: int) -> bytes:
    """Everything as one text in Prometheus' format."""
    families = [
        *node_families(register.records(now), now),
        *run_families(store, paths, now),
        *server_families(store, paths, now, reports_written),
    ]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry)


def node_families(records: Iterable[NodeRecord], now: datetime) -> list[Metric]:
    """What the nodes report and how the server judges them. Pure."""
    # Of all reports at once only what is counted: a fleet's whole ones would take ten times their size.
    seen = [(record, node_answer(record), counted(record.report())) for record in records]
    nodes = [(answer, report) for record, answer, report in seen if record.row is not None]
    info = GaugeMetricFamily(
        "fleven_node_info", "Identity of a node", labels=["node", "partition_id", "agent_version", "flwr_version"]
    )
    health = GaugeMetricFamily("fleven_node_health", "1 for the verdict in force", labels=["node", "health"])
    ready = GaugeMetricFamily("fleven_node_ready", "1 when a run may count on the node", labels=["node"])
    age = GaugeMetricFamily("fleven_node_last_seen_seconds", "Seconds since its last report", labels=["node"])
    condition = GaugeMetricFamily(
        "fleven_node_condition", "1 for each condition in force", labels=["node", "code", "severity"]
    )
    for answer, _ in nodes:
        name = answer.name
        identity = [name, str(answer.partition_id), answer.agent_version or "", answer.flwr_version or ""]
        info.add_metric(identity, 1)
        health.add_metric([name, answer.health], 1)
        ready.add_metric([name], float(answer.ready))
        if answer.last_seen_at is not None:
            age.add_metric([name], max(0.0, (now - answer.last_seen_at).total_seconds()))
        for found in answer.conditions:
            condition.add_metric([name, found.code, found.severity], 1)
    unmanaged = GaugeMetricFamily("fleven_nodes_unmanaged", "SuperNodes online for Flower that no agent reports")
    unmanaged.add_metric([], sum(record.node.health is NodeHealth.UNMANAGED for record, _, _ in seen))
    pending = GaugeMetricFamily("fleven_nodes_pending", "Cars that ask to join and wait for the operator")
    pending.add_metric([], sum(record.node.health is NodeHealth.PENDING for record, _, _ in seen))
    enrolled = GaugeMetricFamily("fleven_node_enrolled", "1 when it has an identity of its own", labels=["node"])
    for answer, _ in nodes:
        enrolled.add_metric([answer.name], float(answer.enrolled))
    return [
        info,
        health,
        ready,
        age,
        condition,
        enrolled,
        unmanaged,
        pending,
        *reading_families([answer for answer, _ in nodes]),
        *counter_families((answer.name, report) for answer, report in nodes),
        *traffic_families((answer.name, report) for answer, report in nodes),
    ]


def counted(report: Mapping[str, object]) -> dict[str, object]:
    """The parts of a report that `counter_families` and `traffic_families` read."""
    return {name: report[name] for name in ("counters", "traffic") if name in report}


def reading_families(nodes: Iterable[NodeAnswer]) -> list[Metric]:
    """The newest readings."""
    families = {
        reading.name: GaugeMetricFamily(reading.metric, reading.metric_text, labels=["node"]) for reading in READINGS
    }
    for node in nodes:
        for field, family in families.items():
            value = getattr(node, field)
            if value is not None:
                family.add_metric([node.name], value)
    return list(families.values())


def counter_families(reports: Iterable[tuple[str, dict[str, object]]]) -> list[Metric]:
    """What the nodes count."""
    families = {
        field: CounterMetricFamily(name, text, labels=["node"]) for field, (name, text) in NODE_COUNTERS.items()
    }
    for name, report in reports:
        counters = report.get("counters")
        for field, family in families.items():
            value = run_results.number(counters.get(field)) if isinstance(counters, dict) else None
            if value is not None:
                family.add_metric([name], value)
    return list(families.values())


def traffic_families(reports: Iterable[tuple[str, dict[str, object]]]) -> list[Metric]:
    """What the nodes have sent and received, by their own calendar: the counts fall at midnight."""
    families = {field: GaugeMetricFamily(name, text, labels=["node"]) for field, (name, text) in NODE_TRAFFIC.items()}
    for name, report in reports:
        traffic = report.get("traffic")
        for field, family in families.items():
            value = run_results.number(traffic.get(field)) if isinstance(traffic, dict) else None
            if value is not None:
                family.add_metric([name], value)
    return list(families.values())


def run_families(store: Store, paths: Paths, now: datetime) -> list[Metric]:
    """Runs by state, progress of the open ones, the newest result of each schedule."""
    with store.read() as connection:
        counted = connection.execute(select(runs.c.state, func.count()).group_by(runs.c.state)).all()
        open_runs = run_store.open_runs(connection)
        schedules = schedule_store.every(connection)
    counts = Counter({RunState(state): count for state, count in counted})
    states = GaugeMetricFamily("fleven_runs", "Runs that the register holds, by state", labels=["state"])
    for state in RunState:
        states.add_metric([state.value], counts[state])
    labels = ["run", "schedule"]
    current = GaugeMetricFamily("fleven_run_state", "1 for the state of each open run", labels=[*labels, "state"])
    done = GaugeMetricFamily("fleven_run_round", "Round that an open run is in", labels=labels)
    planned = GaugeMetricFamily("fleven_run_rounds", "Rounds that an open run has in all", labels=labels)
    rmse = GaugeMetricFamily("fleven_run_rmse", "Global RMSE of its newest round, in the target's unit", labels=labels)
    for run in open_runs:
        names = [str(run.id), run.schedule_name]
        current.add_metric([*names, run.state.value], 1)
        if run.progress is not None:
            done.add_metric(names, run.progress.round)
            planned.add_metric(names, run.progress.rounds)
        if (value := newest_rmse(run, paths)) is not None:
            rmse.add_metric(names, value)
    fire = GaugeMetricFamily("fleven_schedule_next_fire_seconds", "Seconds until a schedule fires", labels=["schedule"])
    paused = GaugeMetricFamily("fleven_schedule_paused", "1 when a schedule is paused", labels=["schedule"])
    for schedule in schedules:
        paused.add_metric([schedule.name], float(schedule.paused))
        if schedule.next_fire_at is not None:
            fire.add_metric([schedule.name], (schedule.next_fire_at - now).total_seconds())
    return [states, current, done, planned, rmse, fire, paused]


def newest_rmse(run: Run, paths: Paths) -> float | None:
    """Global RMSE of the newest round of a run, or None."""
    rounds = run_results.rows(RunFolders.of(run, paths), "rounds.json")
    return run_results.number(rounds[-1].get("rmse")) if rounds else None


def server_families(store: Store, paths: Paths, now: datetime, reports_written: int) -> list[Metric]:
    """The server itself."""
    service = service_answer(store, now)
    superlink = store.fact(SUPERLINK_FACT)
    disk = disk_answer(paths)
    info = GaugeMetricFamily("fleven_server_info", "Version of the server", labels=["version"])
    info.add_metric([__version__], 1)
    reachable = GaugeMetricFamily("fleven_superlink_reachable", "1 when the SuperLink answers")
    reachable.add_metric([], float(bool(superlink and superlink[0].get("reachable"))))
    turning = GaugeMetricFamily("fleven_scheduler_running", "1 when the scheduler's loop runs")
    turning.add_metric([], float(service.running))
    written = CounterMetricFamily("fleven_reports_written", "Reports written since the server's start")
    written.add_metric([], reports_written)
    free = GaugeMetricFamily("fleven_server_disk_free_bytes", "Free space under the server's state")
    free.add_metric([], disk.free_bytes)
    ends = GaugeMetricFamily(
        "fleven_certificate_ends_seconds", "Seconds until a certificate, or the VPN's key, ends", labels=["name"]
    )
    for end in known_ends(store):
        ends.add_metric([end.name], (end.ends - now).total_seconds())
    size = GaugeMetricFamily("fleven_register_bytes", "Size of the register")
    size.add_metric([], disk.register_bytes)
    return [info, reachable, turning, written, free, size, ends]
