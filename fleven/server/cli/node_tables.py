"""Tables of the command `nodes`, 80 columns wide. Takes plain values and prints; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from fleven.server.charts import by_time, text_sparkline, value_range
from fleven.server.cli.common import console, table
from fleven.server.database.readings import READINGS, Hourly, Reading
from fleven.server.formatting import ago, joined, local, reading
from fleven.server.nodes.history import hour_of
from fleven.server.nodes.model import NodeHealth
from fleven.server.nodes.readiness import Readiness
from fleven.server.schemas.nodes import NodeAnswer, NodeDetailAnswer
from fleven_agent.common.formatting import size_text, span

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from fleven.server.schemas.nodes import ConditionAnswer


HEALTH_STYLES = {
    NodeHealth.READY: "green",
    NodeHealth.BUSY: "cyan",
    NodeHealth.STARTING: "yellow",
    NodeHealth.GATED: "yellow",
    NodeHealth.DRAINED: "yellow",
    NodeHealth.STALE: "yellow",
    NodeHealth.UNMANAGED: "yellow",
    NodeHealth.ZOMBIE: "red",
    NodeHealth.OFFLINE: "red",
    NodeHealth.FAILED: "red",
    NodeHealth.PENDING: "yellow",
    NodeHealth.HELD: "red",
    NodeHealth.REVOKED: "red",
}
SEVERITY_STYLES = {"error": "red", "warning": "yellow"}
SPARKLINE_WIDTH = 48
LINES = 3
"""So many readings, the first of all, are drawn for a node."""
NAME_WIDTH = 20
OFTEN_SECONDS = 60.0
"""A node that reports at least so often is followed closely enough for a table."""


def text(value: str, style: str = "") -> Text:
    """A text that rich does not read for markup."""
    from rich.text import Text

    return Text(value, style=style)


def short(name: str) -> str:
    """A name that leaves room for the other columns."""
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


def seen(moment: datetime | None, at: datetime) -> str:
    """How long ago, without the word "ago"."""
    return "-" if moment is None else span(max(0.0, (at - moment).total_seconds()))


def what(node: NodeAnswer) -> str:
    """One clause: the task it works on, or why it is in its state."""
    if node.ready and node.current_run is not None:
        number = node.current_run.get("round")
        message_type = str(node.current_run.get("message_type") or "").rpartition(".")[2]
        return f"round {number} {message_type}".strip() if number is not None else message_type or "a task"
    return node.reason


def print_nodes(nodes: Sequence[NodeAnswer], whole: Readiness, at: datetime, *, filtered: bool) -> None:
    """Print the fleet, or a part of it, then the conditions with their hints, and the whole fleet in numbers."""
    out = console()
    if not nodes:
        if filtered:
            out.print("No node matches.")
        else:
            out.print("No node has reported yet.")
            out.print("fleven-server nodes invite car-0 prints the line that lets a Pi join. Or, on the Pi:")
            out.print("put superlink into /etc/fleven/node.toml, systemctl start fleven-agent, and here")
            out.print("fleven-server nodes accept. fleven-agent check says why a Pi does not report.")
        return
    columns = ("NODE|fixed", "ID|right", "STATE|fixed", "SEEN|right", "LOAD|right", "TEMP|right", "DISK|right", "WHAT")
    shown = table(*columns)
    for node in nodes:
        shown.add_row(
            text(short(node.name)),
            "-" if node.partition_id is None else str(node.partition_id),
            text(node.health, HEALTH_STYLES[NodeHealth(node.health)]),
            seen(node.last_seen_at, at),
            reading(node.load_1m),
            reading(node.temperature_celsius, "°"),
            reading(node.disk_free_percent, "%"),
            text(what(node)),
        )
    out.print(shown)
    troubled = [(node, c) for node in nodes for c in node.conditions if c.severity in SEVERITY_STYLES]
    if troubled:
        out.print()
        print_conditions(out, troubled)
    shown_of = f"{len(nodes)} shown; " if filtered else ""
    out.print(text(f"\n{shown_of}{whole} ready. DISK is free space. fleven-server nodes show NODE", "dim"))
    if silence := longest_silence(nodes):
        out.print(text(f"Up to {span(silence)} old: idle cars report rarely. Fresh: nodes show NODE --watch", "dim"))


def longest_silence(nodes: Sequence[NodeAnswer]) -> float | None:
    """Return how old what is shown of these nodes may be [s]; None while all of them report often."""
    longest = max((node.next_report_seconds or 0.0 for node in nodes), default=0.0)
    return longest if longest > OFTEN_SECONDS else None


def print_conditions(out: Console, troubled: Sequence[tuple[NodeAnswer, ConditionAnswer]]) -> None:
    """Print conditions with what to do about each; the node's name only when it changes."""
    shown = table("NODE|fixed", "CONDITION|fixed", "WHAT IS WRONG, AND WHAT TO DO")
    before = ""
    for node, condition in troubled:
        words = text(condition.message)
        if condition.hint:
            words.append(f"{chr(10) if condition.message else ''}→ {condition.hint}", "dim")
        name = "" if node.name == before else short(node.name)
        shown.add_row(text(name), text(condition.code, SEVERITY_STYLES.get(condition.severity, "")), words)
        before = node.name
    out.print(shown)


def print_node(
    node: NodeDetailAnswer, samples: Sequence[dict[str, Any]], hours: float, at: datetime, run_ids: Mapping[str, int]
) -> None:
    """Print one node.

    Args:
        node: it.
        samples: its readings, oldest first.
        hours: over how long the charts go.
        at: the present moment.
        run_ids: runs by Flower's ids.
    """
    out = console()
    head = text(node.name, "bold")
    head.append("  ")
    head.append(node.health, HEALTH_STYLES[NodeHealth(node.health)])
    head.append(f"  {node.reason}" if node.reason else "")
    out.print(head)
    facts = table("fact|fixed", "value")
    facts.show_header = False
    for name, value in node_facts(node, at, run_ids):
        facts.add_row(text(name, "dim"), text(value))
    out.print(facts)
    if node.conditions:
        out.print()
        print_conditions(out, [(node, condition) for condition in node.conditions])
    out.print()
    since = at - timedelta(hours=hours)
    drawn = [print_sparkline(out, samples, kept, since, at) for kept in READINGS[:LINES]]
    if any(drawn):
        out.print(text(f"{'':<12}the last {span(hours * 3600)}, oldest on the left", "dim"))
    else:
        out.print(f"No sample in the last {span(hours * 3600)}.")


def work_text(node: NodeDetailAnswer, run_ids: Mapping[str, int]) -> str:
    """The task that a node works on, and the run that it belongs to."""
    if not node.current_run:
        return ""
    flower_run_id = str(node.current_run["run_id"])
    number = run_ids.get(flower_run_id)
    return f"{what(node)} of " + (f"run {number}" if number is not None else f"Flower run {flower_run_id}")


def node_facts(node: NodeDetailAnswer, at: datetime, run_ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Names and values of what is known of a node; what is not known is left out."""
    report = node.report
    identity, resources = report.get("node") or {}, report.get("resources") or {}
    versions, data, counters = report.get("versions") or {}, report.get("data"), report.get("counters") or {}
    of = f" of {identity['num_partitions']}" if identity.get("num_partitions") else ""
    facts = [
        ("partition-id", f"{node.partition_id}{of}" if node.partition_id is not None else ""),
        ("labels", ", ".join(node.labels)),
        ("identity", identity_text(node)),
        ("SuperNode", f"{node.state} since {local(node.state_since)}" if node.state else ""),
        ("node id", node.flower_node_id or ""),
        ("working on", work_text(node, run_ids)),
        ("last report", last_report_text(node, at)),
        ("drain", drain_text(node)),
        ("board", report.get("board_model") or ""),
        ("versions", joined(f"{name} {versions[name]}" for name in ("agent", "flwr", "python") if versions.get(name))),
        ("system", joined(versions[name] for name in ("os", "kernel") if versions.get(name))),
        ("memory", f"{reading(node.memory_percent, '%')} used" if node.memory_percent is not None else ""),
        ("disk", f"{reading(node.disk_free_percent, '%')} free" if node.disk_free_percent is not None else ""),
        ("up for", span(resources["uptime_seconds"]) if resources.get("uptime_seconds") else ""),
        ("traffic", traffic_text(report.get("traffic"))),
        ("data", data_text(data, node.newest_trip_at, at) if isinstance(data, dict) else ""),
        ("model", model_text(report.get("model"))),
        (
            "counters",
            f"{counters.get('tasks', 0)} tasks, {counters.get('task_failures', 0)} failed, "
            f"{counters.get('restarts', 0)} restarts"
            if counters
            else "",
        ),
        ("first seen", local(node.first_seen_at) if node.first_seen_at else ""),
    ]
    return [(name, value) for name, value in facts if value]


def last_report_text(node: NodeAnswer, at: datetime) -> str:
    """When it reported, and when it does so again where that may take long."""
    if node.last_seen_at is None:
        return ""
    silence = longest_silence([node])
    return ago(node.last_seen_at, at) + (f"; every {span(silence)} while idle" if silence else "")


def identity_text(node: NodeDetailAnswer) -> str:
    """How its identity stands, and the fingerprint of its key."""
    if node.identity is None:
        return "none: it reports without proof (nodes invite, or accept)"
    asked = "; is asked for a new key" if node.identity.rotate_wanted else ""
    return f"{node.identity.status}, {node.identity.kind}, key {node.identity.fingerprint}{asked}"


def drain_text(node: NodeAnswer) -> str:
    """What was asked for, and whether the node has followed."""
    if node.drain_wanted is True and not node.drained:
        return "requested; the node has not done it yet"
    if node.drain_wanted is False and node.drained:
        return "its end is requested; the node has not done it yet"
    return "in force" if node.drained else ""


def model_text(model: Any) -> str:
    """What the node predicts with."""
    if not isinstance(model, dict):
        return ""
    current, previous = model.get("current"), model.get("previous")
    text = f"{current['name']}, SHA-256 {current['sha256'][:12]}" if current else f"none of {model['experiment']} yet"
    if previous:
        text += f"; before it {previous['name']}"
    if model.get("errors"):
        text += f"; error on the newest trip {model['errors'][-1]['rmse']:.3g}"
    return text + (f"; {model['problem']}" if model.get("problem") else "")


def traffic_text(traffic: Any) -> str:
    """What the node has sent and received, and by which network."""
    if not isinstance(traffic, dict):
        return ""
    text = f"{size_text(traffic['day_bytes'])} today, {size_text(traffic['month_bytes'])} this month"
    if limit := traffic.get("month_limit_bytes"):
        text += f" of {size_text(limit)}"
    return text + (f"; by {', '.join(traffic['way'])}" if traffic.get("way") else "")


def data_text(data: dict[str, Any], newest: datetime | None, at: datetime) -> str:
    """What trips the node holds."""
    parts = [f"{data.get('trips', 0)} trips, {data.get('rows', 0)} rows"]
    if newest is not None:
        parts.append(f"newest {ago(newest, at)}")
    if data.get("quarantined"):
        parts.append(f"{data['quarantined']} in quarantine")
    return ", ".join(parts)


def print_sparkline(
    out: Console,
    samples: Sequence[dict[str, Any]],
    kept: Reading,
    since: datetime,
    until: datetime,
) -> bool:
    """Print one reading as a line with its range; return whether there was anything to print."""
    values = by_time([(sample["at"], sample[kept.name]) for sample in samples], since, until, SPARKLINE_WIDTH)
    bounds = value_range([sample[kept.name] for sample in samples])
    if bounds is None:
        return False
    line = text(f"{kept.label.lower():<12}", "dim")
    line.append(text_sparkline(values, SPARKLINE_WIDTH), "cyan")
    line.append(f" {reading(bounds[0])} to {reading(bounds[1], kept.unit)}")
    out.print(line)
    return True


def print_history(name: str, samples: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]], at: datetime) -> None:
    """Print readings by the hour, then events."""
    out = console()
    hours = by_hour(samples)
    if not hours and not events:
        out.print(f"Nothing is known of {name} in this time.")
        return
    if hours:
        shown = table(
            "HOUR|fixed",
            "CPU|right",
            "LOAD|right",
            "PEAK|right",
            "TEMP|right",
            "PEAK|right",
            "MEM|right",
            "DISK|right",
            "DOWN|right",
            "UP|right",
            "BUSY|right",
        )
        for hour, row in hours:
            shown.add_row(
                hour.astimezone().strftime("%d %b %H"),
                reading(row["cpu_percent"], "%"),
                reading(row["load_1m"]),
                reading(row["load_1m_maximum"]),
                reading(row["temperature_celsius"], "°"),
                reading(row["temperature_celsius_maximum"], "°"),
                reading(row["memory_percent"], "%"),
                reading(row["disk_free_percent"], "%"),
                size_text(row["received_bytes"]),
                size_text(row["sent_bytes"]),
                f"{100 * row['busy']:.0f}%",
            )
        out.print(shown)
    if events:
        out.print()
        shown = table("WHEN|fixed", "EVENT|fixed", "DETAILS")
        for event in events:
            style = SEVERITY_STYLES.get(event["severity"], "") if event["kind"] == "condition-raised" else ""
            details = f"{event['code']} {event['message']}" if event["kind"].startswith("cond") else event["message"]
            shown.add_row(local(event["at"]), text(event["kind"], style), text(details))
        out.print(shown)


def by_hour(samples: Sequence[dict[str, Any]]) -> list[tuple[datetime, dict[str, Any]]]:
    """Samples combined by the hour: means, maxima, sums. Hours that were summed up before stay as they are."""
    groups: dict[datetime, list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault(hour_of(sample["at"]), []).append(sample)
    return [(hour, together(group)) for hour, group in sorted(groups.items())]


def together(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several samples as one, weighted by how many each stands for."""

    def values(field: str) -> list[tuple[float, int]]:
        return [(sample[field], sample["samples"]) for sample in group if sample.get(field) is not None]

    def mean(field: str) -> float | None:
        found = values(field)
        return sum(v * n for v, n in found) / sum(n for _, n in found) if found else None

    made: dict[str, Any] = {"busy": mean("busy") or 0.0}
    for kept in READINGS:
        lowest = min((value for value, _ in values(kept.name)), default=None)
        made[kept.name] = lowest if kept.hourly is Hourly.MINIMUM else mean(kept.name)
        if kept.maximum is not None:
            peaks = [sample.get(kept.maximum, sample[kept.name]) for sample in group]
            made[kept.maximum] = max((peak for peak in peaks if peak is not None), default=None)
    for field in ("received_bytes", "sent_bytes"):
        counted = [value for value, _ in values(field)]
        made[field] = sum(counted) if counted else None
    return made


def print_tasks(name: str, tasks: Sequence[dict[str, Any]], at: datetime) -> None:
    """Print finished tasks with their cost."""
    out = console()
    if not tasks:
        out.print(f"{name} has reported no finished task in this time.")
        return
    columns = ("ROUND|right", "TASK|fixed", "OUTCOME|fixed", "WALL|right", "CPU|right", "MEM|right", "DOWN|right")
    shown = table("ENDED|fixed", *columns, "UP|right")
    for task in tasks:
        style = "" if task["outcome"] == "succeeded" else "red"
        shown.add_row(
            task["reported_at"].astimezone().strftime("%d %b %H:%M"),
            "-" if task["round"] is None else str(task["round"]),
            text(task["message_type"].rpartition(".")[2] or "-"),
            text(task["outcome"], style),
            reading(task["wall_seconds"], " s"),
            reading(task["cpu_seconds"], " s"),
            size_text(task["peak_rss_bytes"]),
            size_text(task["bytes_received"]),
            size_text(task["bytes_sent"]),
        )
    out.print(shown)
    for task in tasks:
        if task["log_tail"]:
            out.print(text(f"\nround {task['round']}, last lines of the failed task:", "bold"))
            out.print(text(task["log_tail"].rstrip()))
