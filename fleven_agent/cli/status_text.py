"""Writes a status for a person. Pure: from the status object to lines of the terminal's width."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fleven_agent.common.formatting import fold, size_text, span


def status_text(status: Mapping[str, Any], *, runs: bool, now: float, width: int = 80) -> str:
    """Return the text of `fleven-agent status`; ``now`` is the wall clock [s since the epoch], ``width`` in columns."""
    node, rows = status.get("node") or {}, []
    state = str(status.get("state"))
    since = _ago(status.get("state_since"), now)
    if not runs:
        rows.append(("agent", f"not running; last known state, {_ago(status.get('at'), now)} ago:"))
    rows.append(("state", f"{state} for {since}" if runs else state))
    if status.get("state_reason") and state not in {"running", "stopped"}:
        rows.append(("because", str(status["state_reason"])))
    if status.get("retry_in_seconds") is not None:
        rows.append(("next start", f"in {status['retry_in_seconds']:g} s"))
    number = node.get("partition_id")
    partition = "no partition yet" if number is None else f"partition {number}" + _of(node.get("num_partitions"))
    rows.append(("node", f"{node.get('name')}, {partition}"))
    rows += _identity(status.get("identity"))
    rows.append(("node id", str(node.get("node_id") or "not registered")))
    rows.append(("superlink", str(node.get("flower_address"))))
    rows.append(("server", _server(status)))
    drained = status.get("drained") or {}
    if drained.get("active"):
        rows.append(("drained", drained.get("reason") or "yes"))
    rows.append(("task", _task(status, now)))
    if status.get("last_task"):
        rows.append(("last task", _last_task(status["last_task"])))
    counters = status.get("counters") or {}
    rows.append(("counts", ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counters.items())))
    rows.append(("machine", _machine(status)))
    if status.get("traffic"):
        rows.append(("traffic", _traffic(status["traffic"])))
    rows.append(("data", _data(status.get("data"))))
    if status.get("model"):
        rows.append(("model", _model(status["model"], now)))
    warm = status.get("warm") or {}
    if warm:
        rows.append(("warm start", f"{warm.get('state')}" + (f": {warm['message']}" if warm.get("message") else "")))
    versions = status.get("versions") or {}
    rows.append(("versions", ", ".join(f"{name} {value}" for name, value in versions.items() if value)))
    lines = [_row(name, text, width) for name, text in rows]
    return "\n".join([*lines, *_conditions(status, now, width)])


def _row(name: str, text: str, width: int) -> str:
    return fold(text, width, f"{name + ':':<13}", " " * 13)


def _of(number: int | None) -> str:
    return f" of {number}" if number else ""


def _server(status: Mapping[str, Any]) -> str:
    text = str(status.get("report_url"))
    waiting, problem = status.get("reports_waiting"), status.get("report_problem")
    return f"{text}; {problem}; {waiting} reports wait" if problem else text


def _identity(identity: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if not identity:
        return []
    standing = str(identity.get("standing"))
    if identity.get("car_id"):
        standing += f", car {identity['car_id']}"
    rows = [("joined", standing), ("key", str(identity.get("key_fingerprint")))]
    return [*rows, ("authority", str(identity.get("server_authority")))]


def _traffic(traffic: Mapping[str, Any]) -> str:
    text = f"{size_text(traffic['day_bytes'])} today, {size_text(traffic['month_bytes'])} this month"
    if traffic.get("month_limit_bytes"):
        text += f" of {size_text(traffic['month_limit_bytes'])}"
    return text + (f"; by {', '.join(traffic['way'])}" if traffic.get("way") else "")


def _task(status: Mapping[str, Any], now: float) -> str:
    run = status.get("current_run")
    if not run:
        return "none"
    return f"{run['message_type']} of run {run['run_id']}, round {run['round']}, for {_ago(run['since'], now)}"


def _last_task(task: Mapping[str, Any]) -> str:
    parts = [f"{task['message_type']} of run {task['run_id']}, round {task['round']}: {task['outcome']}"]
    parts.append(f"{task['wall_seconds']:.1f} s")
    if task.get("cpu_seconds") is not None:
        parts.append(f"{task['cpu_seconds']:.1f} s of CPU time")
    if task.get("peak_rss_bytes"):
        parts.append(size_text(task["peak_rss_bytes"]))
    if task.get("bytes_received") is not None:
        parts.append(f"{size_text(task['bytes_received'])} down, {size_text(task['bytes_sent'])} up")
    if task.get("warm"):
        parts.append("warm")
    text = ", ".join(parts)
    if task.get("log_tail"):
        text += "; last line: " + str(task["log_tail"]).strip().splitlines()[-1]
    return text


def _machine(status: Mapping[str, Any]) -> str:
    found, parts = status.get("resources") or {}, []
    if status.get("board_model"):
        parts.append(str(status["board_model"]))
    if found.get("cpu_percent") is not None:
        parts.append(f"CPU {found['cpu_percent']:.0f} %, load {found['load_1m']:.1f}")
    if found.get("memory_available_bytes") is not None:
        parts.append(
            f"{size_text(found['memory_available_bytes'])} of {size_text(found['memory_total_bytes'])} memory available"
        )
    parts += [f"{size_text(disk['free_bytes'])} free at {disk['path']}" for disk in found.get("disks") or []]
    if found.get("temperature_celsius") is not None:
        parts.append(f"{found['temperature_celsius']:.0f} °C")
    return ", ".join(parts) or "unknown"


def _data(data: Mapping[str, Any] | None) -> str:
    if not data:
        return "no folder of trips"
    text = f"{data['trips']} trips, {data['rows']} rows in {data['path']}"
    return f"{text}, {data['quarantined']} in quarantine" if data.get("quarantined") else text


def _model(model: Mapping[str, Any], now: float) -> str:
    current, previous = model.get("current"), model.get("previous")
    if current is None:
        text = f"none of {model['experiment']} yet"
    else:
        text = f"{current['name']}, in use for {_ago(current['since'], now)}"
    if previous is not None:
        text += f", before it {previous['name']}"
    if model.get("errors"):
        text += f", error on the newest trip {model['errors'][-1]['rmse']:.3g}"
    return text + (f"; {model['problem']}" if model.get("problem") else "")


def _conditions(status: Mapping[str, Any], now: float, width: int) -> list[str]:
    lines: list[str] = []
    for one in status.get("conditions") or []:
        lines.append("")
        text = f"{one['severity']}: {one['message']} ({one['code']}, for {_ago(one['since'], now)})"
        lines.append(fold(text, width, "", "  "))
        lines.append(fold(one["hint"], width, "  → ", "    "))
    return lines


def _ago(stamp: str | None, now: float) -> str:
    if not stamp:
        return "an unknown time"
    seconds = max(0.0, now - datetime.fromisoformat(stamp).timestamp())
    return span(seconds)
