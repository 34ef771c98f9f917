"""From a report to the values that the register keeps: cleaned, bounded, in the server's time.

Reports come from outside: numbers may pass 64 bits, times may lie in the year 1, texts may hold terminal escapes. All
of that ends here: `batch` says all that is to be written, before a transaction is opened. Pure; must not import
SQLAlchemy or a clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from fleven.server.database.readings import LARGEST_INTEGER, READINGS, bounded, finite
from fleven.server.enrolment.model import Speaker
from fleven.server.formatting import clean_name, clean_text
from fleven.server.nodes import drift
from fleven.server.nodes.health import LARGE_CLOCK_OFFSET_SECONDS
from fleven.server.nodes.model import Condition, Severity
from fleven_agent.protocol.readings import Readings
from fleven_agent.protocol.report import SCHEMA_VERSION, FinishedTask, Report, ReportReason
from fleven_agent.protocol.report import Condition as ReportedCondition

LONGEST_INTERVAL_SECONDS = 3_600.0
"""What a car may set for the interval of its reports at most."""
REPORT_TOO_NEW = "report-too-new"
SEQUENCE_INVALID = "sequence-invalid"
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
CONTROL_CHARACTER = re.compile(r"\\(u00|[bfr])")
"""How JSON writes control characters, but for line break and tab (RFC 8259, section 7)."""


class EventKind(StrEnum):
    """What happened to a node; values never change."""

    REGISTERED = "registered"
    STATE = "state"
    CONDITION_RAISED = "condition-raised"
    CONDITION_CLEARED = "condition-cleared"
    NODE_ID = "node-id"
    PARTITION = "partition"
    RENAMED = "renamed"
    REINSTALLED = "reinstalled"
    REBOOTED = "rebooted"
    OPERATOR = "operator"
    ENROLMENT = "enrolment"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a node's history."""

    at: datetime
    kind: EventKind
    code: str
    message: str = ""
    severity: Severity = Severity.INFO


@dataclass(frozen=True, slots=True)
class NormalReport:
    """All that the register keeps of one report.

    Attributes:
        sequence: its number.
        name: what the node calls itself, cleaned.
        at: its time by the server's clock.
        values: the columns of `nodes` that it sets.
        sample: the columns of `samples`, but for key and traffic, which hang on the report before.
        tasks: the columns of `node_tasks`, but for the keys, one for each finished task.
        text: the whole report as JSON.
        speaker: who sent it.
    """

    sequence: int
    name: str
    at: datetime
    values: Mapping[str, Any]
    sample: Mapping[str, Any]
    tasks: tuple[Mapping[str, Any], ...]
    text: str
    speaker: Speaker


@dataclass(frozen=True, slots=True)
class NormalBatch:
    """The reports of one batch that can be kept, of each sender in the order of their numbers.

    Attributes:
        by_sender: sender id to its reports.
        problems: why the others cannot be kept, each reason once.
    """

    by_sender: Mapping[str, tuple[NormalReport, ...]]
    problems: tuple[Condition, ...] = field(default=())


def batch(reports: Iterable[Report], received_at: datetime) -> NormalBatch:
    """Return what is to be written of a batch.

    Args:
        reports: as they came.
        received_at: when they came, by the server's clock.
    """
    by_sender: dict[str, list[NormalReport]] = {}
    refused: dict[str, Condition] = {}
    for one in reports:
        if one.schema_version > SCHEMA_VERSION:
            message = f"this server reads reports up to version {SCHEMA_VERSION}, not {one.schema_version}"
            refused[REPORT_TOO_NEW] = Condition(REPORT_TOO_NEW, Severity.ERROR, message, "upgrade fleven-server")
        elif one.sequence > LARGEST_INTEGER:
            message, hint = "a sequence does not fit 64 bits", "this is not a report of fleven-agent"
            refused[SEQUENCE_INVALID] = Condition(SEQUENCE_INVALID, Severity.ERROR, message, hint)
        else:
            by_sender.setdefault(one.sender_id, []).append(report(one, received_at))
    ordered = {sender: tuple(sorted(found, key=lambda each: each.sequence)) for sender, found in by_sender.items()}
    return NormalBatch(ordered, tuple(refused.values()))


def report(report: Report, received_at: datetime) -> NormalReport:
    """Return what is to be written of one report that the server can read."""
    values = node_values(report, received_at)
    at = values["reported_at"]
    common = {"sequence": report.sequence, "flower_node_id": report.node.node_id, "reported_at": at}
    tasks = tuple(
        {**common, "position": position, **task_values(task, received_at)}
        for position, task in enumerate(report.finished_tasks)
    )
    readings = sample_values(report.resources, busy=report.current_run is not None)
    return NormalReport(
        sequence=report.sequence,
        name=clean_name(report.node.name),
        at=at,
        values=values,
        sample={"sequence": report.sequence, "at": at, **readings},
        tasks=tasks,
        text=report_text(report),
        speaker=speaker(report),
    )


def speaker(report: Report) -> Speaker:
    """Return who sent a report; one that does not say was sent by the boot that made it."""
    if report.sent_by is None:
        return Speaker(clean_text(report.boot_id, 64))
    return Speaker(clean_text(report.sent_by.boot_id, 64), clean_text(report.sent_by.process, 64))


def report_text(report: Report) -> str:
    """A whole report as JSON, each of its texts cleaned as `clean_text` does."""
    text = report.model_dump_json()
    # Nearly no report holds a control character: the others need not be taken apart.
    if text.isprintable() and not CONTROL_CHARACTER.search(text):
        return text
    return json.dumps(cleaned(json.loads(text)), ensure_ascii=False)


def cleaned(value: Any) -> Any:
    """A JSON value with all texts in it, keys among them, cleaned; within the limits of the report's schema."""
    if isinstance(value, str):
        return clean_text(value, len(value))
    if isinstance(value, dict):
        return {clean_text(key): cleaned(inner) for key, inner in value.items()}
    return [cleaned(inner) for inner in value] if isinstance(value, list) else value


def corrected_time(
    created_at: datetime, sent_at: datetime | None, received_at: datetime
) -> tuple[datetime, float | None]:
    """Bring a node's stamp to the server's clock: (time, server's clock minus the node's [s] or None).

    A Pi without a battery-backed clock may report from 1970 or from tomorrow. When its clock differs by more than
    LARGE_CLOCK_OFFSET_SECONDS, the stamp is moved by the difference; no report is ever dated after its arrival.
    """
    offset_seconds = None if sent_at is None else (received_at - sent_at).total_seconds()
    stamp = created_at
    if offset_seconds is not None and abs(offset_seconds) > LARGE_CLOCK_OFFSET_SECONDS:
        try:
            stamp = created_at + timedelta(seconds=offset_seconds)
        except OverflowError:
            stamp = received_at
    return min(stamp, received_at), offset_seconds


def sane_time(moment: datetime | None, received_at: datetime) -> datetime | None:
    """The moment, limited to between 2000 and one day after `received_at`: beyond that, the clock is broken."""
    if moment is None:
        return None
    return min(max(moment, EARLIEST), received_at + timedelta(days=1))


def severity_of(text: str) -> Severity:
    """The severity by its name; one that a newer agent invented counts as a warning."""
    try:
        return Severity(text)
    except ValueError:
        return Severity.WARNING


def condition_values(condition: ReportedCondition, received_at: datetime) -> dict[str, str]:
    """One condition as the register keeps it."""
    since = sane_time(condition.since, received_at)
    return {
        "code": clean_text(condition.code, 64),
        "severity": severity_of(condition.severity).value,
        "since": since.isoformat() if since else "",
        "message": clean_text(condition.message),
    }


def sample_values(resources: Readings, *, busy: bool) -> dict[str, Any]:
    """The readings that are kept as history."""
    return {**{reading.name: reading.of(resources) for reading in READINGS}, "busy": busy}


def bytes_between(before: int | None, after: int | None, *, same_boot: bool) -> int | None:
    """Bytes that a counter grew by, None when unknown; after a reboot it counts from zero."""
    if after is None or (before is None and same_boot):
        return None
    grown = after - (before or 0) if same_boot else after
    return grown if grown >= 0 else None


def traffic(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, int | None]:
    """What passed the network cards between two reports, given as the columns of `nodes`."""
    same_boot = before["boot_id"] == after["boot_id"]
    return {
        name: bytes_between(before[f"{name}_total"], after[f"{name}_total"], same_boot=same_boot)
        for name in ("received_bytes", "sent_bytes")
    }


def task_values(task: FinishedTask, received_at: datetime) -> dict[str, Any]:
    """What one task cost, as the register keeps it."""
    return {
        "flower_run_id": task.run_id,
        "round": bounded(task.round),
        "message_type": clean_text(task.message_type, 64),
        "outcome": clean_text(task.outcome, 32),
        "started_at": sane_time(task.started_at, received_at),
        "cpu_seconds": finite(task.cpu_seconds),
        "peak_rss_bytes": bounded(task.peak_rss_bytes),
        "wall_seconds": finite(task.wall_seconds),
        "bytes_received": bounded(task.bytes_received),
        "bytes_sent": bounded(task.bytes_sent),
        "maximum_temperature_celsius": finite(task.maximum_temperature_celsius),
        "warm": task.warm,
        "app_hash": None if task.app_hash is None else clean_text(task.app_hash, 64),
        "log_tail": None if task.log_tail is None else clean_text(task.log_tail, 20_000),
    }


def node_values(report: Report, received_at: datetime) -> dict[str, Any]:
    """The columns of `nodes` that a report sets; name, labels and drain wishes are not among them."""
    at, offset_seconds = corrected_time(report.created_at, report.sent_at, received_at)
    current = report.current_run
    network = report.resources.network
    return {
        "boot_id": clean_text(report.boot_id, 64),
        "partition_id": bounded(report.node.partition_id),
        "num_partitions": bounded(report.node.num_partitions),
        "flower_node_id": report.node.node_id,
        "previous_node_ids": list(report.node.previous_node_ids),
        "state": clean_text(report.state, 32),
        "state_since": sane_time(report.state_since, received_at),
        "state_reason": clean_text(report.state_reason),
        "goodbye": report.reason == ReportReason.STOP,
        "conditions": [condition_values(condition, received_at) for condition in report.conditions],
        "current_run": None
        if current is None
        else {
            "run_id": current.run_id,
            "round": bounded(current.round),
            "message_type": clean_text(current.message_type, 64),
            "since": (sane_time(current.since, received_at) or received_at).isoformat(),
        },
        "drained": report.drained.active,
        "drained_reason": clean_text(report.drained.reason),
        "agent_version": clean_text(report.versions.agent, 64),
        "flwr_version": clean_text(report.versions.flwr or "", 64),
        "clock_offset_seconds": finite(offset_seconds),
        "newest_trip_at": sane_time(report.data.newest_trip_at, received_at) if report.data else None,
        "received_bytes_total": bounded(network.received_bytes) if network else None,
        "sent_bytes_total": bounded(network.sent_bytes) if network else None,
        "next_report_seconds": interval(report.next_report_seconds),
        "heartbeat_seconds": interval(report.heartbeat_seconds),
        "model_errors": drift.kept(report.model),
        "last_seen_at": received_at,
        "reported_at": sane_time(at, received_at),
    }


def interval(seconds: float | None) -> float | None:
    """An interval that a car announces; one beyond an hour counts as an hour."""
    return None if seconds is None else min(seconds, LONGEST_INTERVAL_SECONDS)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Event]:
    """What goes into the history between two reports of a node, given as the columns of `nodes`."""
    at: datetime = after["reported_at"]
    events: list[Event] = []
    if before["boot_id"] != after["boot_id"]:
        events.append(Event(at, EventKind.REBOOTED, "rebooted", "the machine has restarted"))
    if before["partition_id"] != after["partition_id"]:
        message = f"partition-id {before['partition_id']} → {after['partition_id']}"
        events.append(Event(at, EventKind.PARTITION, "partition-changed", message))
    if before["flower_node_id"] != after["flower_node_id"] and after["flower_node_id"]:
        message = f"{before['flower_node_id'] or 'none'} → {after['flower_node_id']}"
        events.append(Event(at, EventKind.NODE_ID, "node-id-changed", message))
    if (before["state"], before["goodbye"]) != (after["state"], after["goodbye"]):
        message = f"{before['state']} → {after['state']}"
        reason = "the agent stops" if after["goodbye"] else after["state_reason"]
        events.append(Event(at, EventKind.STATE, after["state"], f"{message}: {reason}" if reason else message))
    old = {condition["code"]: condition for condition in before["conditions"]}
    new = {condition["code"]: condition for condition in after["conditions"]}
    for code, condition in new.items():
        if code not in old or old[code]["severity"] != condition["severity"]:
            severity = Severity(condition["severity"])
            events.append(Event(at, EventKind.CONDITION_RAISED, code, condition["message"], severity))
    events += [Event(at, EventKind.CONDITION_CLEARED, code) for code in old if code not in new]
    return events
