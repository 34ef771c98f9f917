"""Tables of `nodes history`, 80 columns wide. Gets plain values, prints; decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from fleven.server.cli_common import console, local, table
from fleven.server.node_history import READINGS, hour_of
from fleven.server.nodes_view import SEVERITY_STYLES, reading, size_text, text


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
    """Samples put together by the hour: means, maxima, sums. Hours that were summed up before stay as they are."""
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

    made: dict[str, Any] = {"busy": mean("busy") or 0.0, "disk_free_percent": mean("disk_free_percent")}
    for field in READINGS:
        made[field] = mean(field)
        peaks = [sample.get(f"{field}_maximum", sample[field]) for sample in group]
        made[f"{field}_maximum"] = max((peak for peak in peaks if peak is not None), default=None)
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
