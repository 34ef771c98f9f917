"""Writes reports into the register: one transaction for all that has arrived, each report stored once.

A report is named by (sender_id, sequence). One that is already there changes nothing; one that comes late adds its
sample and its tasks, but does not overwrite what a younger one said. What is written of a report, `normalise` said
before the transaction began. Who a sender is (a new car, the same car after a new installation, a second car of the
same name) is decided by `senders.identify`, a pure function.
Must not import FastAPI or the scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from fleven.server.database.tables import node_events, node_tasks, nodes, samples, senders
from fleven.server.enrolment.copies import COPIED, hear
from fleven.server.enrolment.decisions import hold
from fleven.server.enrolment.directory import SENDER_PREFIX, Picture, Signature, picture, standing
from fleven.server.enrolment.model import Change, EnrolmentError, Identity, KeyRole
from fleven.server.enrolment.refusals import refused_status
from fleven.server.enrolment.rotation import promote
from fleven.server.enrolment.store import write as write_identities
from fleven.server.nodes.growth_budget import (
    EVENT_BYTES,
    GROWING_COLUMNS,
    NODE_BYTES,
    SAMPLE_BYTES,
    SENDER_BYTES,
    TASK_BYTES,
    GrowthBudget,
    length,
    stored_bytes,
)
from fleven.server.nodes.health import Limits, is_offline, overdue_seconds
from fleven.server.nodes.model import Condition, Severity
from fleven.server.nodes.node_facts import facts_from_row
from fleven.server.nodes.normalise import (
    SEQUENCE_INVALID,
    Event,
    EventKind,
    NormalBatch,
    NormalReport,
    changes,
    traffic,
)
from fleven.server.nodes.receipts import Receipt, tell
from fleven.server.nodes.senders import Sender, free_name, identify
from fleven_agent.protocol.identity import MAXIMUM_SEQUENCE_STEP
from fleven_agent.protocol.report import Report

NodeRow = dict[str, Any]
"""One row of `nodes` by column name."""
FLEET_FULL = "fleet-full"
STRANGERS_LIMITED = "strangers-limited"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One batch as it came in."""

    reports: Sequence[Report]
    received_at: datetime
    signed: Signature | None = None
    """Who signed it; None for a batch without identity, as a server in the open mode accepts it."""


class NoPlaceError(Exception):
    """There is no place for another node; `problem` says why."""

    def __init__(self, problem: Condition) -> None:
        super().__init__(problem.message)
        self.problem = problem


LATER = Condition(
    STRANGERS_LIMITED,
    Severity.WARNING,
    "there are more new cars without an identity than the register takes in a minute",
    "the car is stored with one of its next reports; a car that has joined is stored at once",
)


class Ingest:
    """Writes arrivals into the register, inside a transaction that the caller opened.

    Args:
        connection: the transaction.
        limits: thresholds of the verdict.
        maximum_nodes: how many the register may hold.
        raw_window: for how long samples are kept as they came.
        cars: who is enrolled.
        strangers: how much senders without an identity may make the register grow; None: as they like.
    """

    def __init__(
        self,
        connection: Connection,
        limits: Limits,
        *,
        maximum_nodes: int,
        raw_window: timedelta,
        cars: Picture | None = None,
        strangers: GrowthBudget | None = None,
    ) -> None:
        self._connection = connection
        self._limits = limits
        self._maximum_nodes = maximum_nodes
        self._raw_window = raw_window
        self._cars = cars or Picture()
        self._strangers = strangers
        self._budget: GrowthBudget | None = None
        self.identity_changes: list[Change] = []
        """What reports have changed of the enrolled cars; for the journal, once it is on the disk."""

    def store(self, batch: NormalBatch, received_at: datetime, signed: Signature | None = None) -> Receipt:
        """Store one batch: the reports of each sender in the order of their numbers."""
        receipt = Receipt(problems=list(batch.problems))
        self._budget = self._strangers if signed is None else None
        try:
            car = None if signed is None else self._signer(signed, received_at)
            for sender_id, reports in batch.by_sender.items():
                self._store_sender(sender_id, reports, received_at, receipt, car)
        except EnrolmentError as error:
            receipt.refused = error
        return receipt

    def _room(self, size_bytes: int) -> bool:
        """Return whether the sender may make the register grow by so much, which is then taken."""
        return self._budget is None or self._budget.take(size_bytes)

    def _signer(self, signed: Signature, received_at: datetime) -> Identity:
        """Return the car that signed a batch; a key that signs for the first time takes over."""
        car, key = standing(self._cars, signed)
        if key.role is KeyRole.NEXT:
            self._change(promote(car), received_at)
            car = self._cars.book.identities[car.car_id]
        return car

    def _change(self, change: Change, at: datetime) -> None:
        """Write what a batch changes of its car, in the same transaction."""
        if change:
            write_identities(self._connection, change, at)
            self._cars = picture(change.applied(self._cars.book))
            self.identity_changes.append(change)

    def _hear(
        self, car: Identity, newest: NormalReport, received_at: datetime, receipt: Receipt, *, is_new: bool
    ) -> None:
        """Follow who speaks for a car, and hold it when two boards do.

        Raises:
            EnrolmentError: it is held.
        """
        heard = hear(car, newest.speaker, received_at, is_new=is_new)
        receipt.report_again = heard.again
        if heard.copied:
            change = hold(car, COPIED, received_at)
            self._change(change, received_at)
            raise refused_status(change.identities[0])
        if heard.car != car:
            self._change(Change(identities=(heard.car,)), received_at)

    def _store_sender(
        self,
        sender_id: str,
        reports: Sequence[NormalReport],
        received_at: datetime,
        receipt: Receipt,
        car: Identity | None,
    ) -> None:
        row = self._connection.execute(SELECT_SENDER, {"wanted": sender_id}).mappings().one_or_none()
        found = None if row is None else dict(row)
        reports = within_step(reports, found, car, receipt)
        if not reports:
            return
        if car is not None:
            last = -1 if found is None else found["sender_last_sequence"]
            self._hear(car, reports[-1], received_at, receipt, is_new=reports[-1].sequence > last)
        try:
            resolved = self._resolve(sender_id, found, reports, received_at, car)
        except NoPlaceError as error:
            receipt.problems.append(error.problem)
            return
        node, key = resolved
        last_sequence = -1 if found is None else found["sender_last_sequence"]
        late = [report for report in reports if report.sequence <= last_sequence]
        fresh = [report for report in reports if report.sequence > last_sequence]
        self._store_late(key, node["id"], late, received_at - self._raw_window)
        if fresh:
            self._advance(key, node, fresh, received_at)
            last_sequence = fresh[-1].sequence
        self._connection.execute(
            UPDATE_SENDER, {"sender_key": key, "last_sequence": last_sequence, "last_seen_at": received_at}
        )
        # The highest of all, not of this batch: a node whose state was put back to an old copy learns where it was.
        receipt.acknowledged[sender_id] = last_sequence
        tell(receipt, self._connection, node, received_at, self._limits)

    # -- who the sender is

    def _resolve(
        self,
        sender_id: str,
        found: NodeRow | None,
        reports: Sequence[NormalReport],
        received_at: datetime,
        car: Identity | None,
    ) -> tuple[NodeRow, int]:
        """The node of a sender, made or handed over when needed, and the sender's key.

        `found` is the node that the sender belongs to, with `sender_key` and `sender_last_sequence`.

        Raises:
            NoPlaceError: there is no place for another node.
        """
        newest = reports[-1]
        if car is not None:
            return self._resolve_car(car, sender_id, found, reports, received_at)
        if found is None and not self._room(SENDER_BYTES + 2 * stored_bytes(sender_id)):
            raise NoPlaceError(LATER)
        own_name, boot_id, partition_id = newest.name, newest.values["boot_id"], newest.values["partition_id"]
        holder = self._named(own_name) if found is None else {n: v for n, v in found.items() if n in nodes.c}
        sender = identify(
            sender_is_current=holder is not None and holder["sender_id"] == sender_id,
            sender_known=found is not None,
            holder_alive=None if holder is None else self._reports_now(holder, received_at),
            same_machine=holder is not None
            and bool(boot_id)
            and holder["boot_id"] == boot_id
            and holder["partition_id"] == partition_id,
            enrolled=holder is not None and holder["sender_id"].startswith(SENDER_PREFIX),
        )
        if holder is None or sender is Sender.NAMESAKE:
            # What changed from the first of these reports to the last is history too.
            holder = self._create_node(sender_id, own_name, reports[0], received_at)
        elif sender is Sender.TAKES_OVER:
            holder["sender_id"] = sender_id
            event = Event(received_at, EventKind.REINSTALLED, "sender-changed", "reports under a new sender id")
            self._add_events(holder["id"], [event])
        return holder, self._sender_key(sender_id, found, holder["id"], received_at)

    def _resolve_car(
        self,
        car: Identity,
        sender_id: str,
        found: NodeRow | None,
        reports: Sequence[NormalReport],
        received_at: datetime,
    ) -> tuple[NodeRow, int]:
        """The node of an enrolled car: the one of its name, whoever reported under it before.

        Raises:
            NoPlaceError: there is no place for another node.
        """
        holder = self._named(car.name)
        if holder is None:
            holder = self._create_node(sender_id, car.name, reports[0], received_at, labels=car.labels)
        elif holder["sender_id"] != sender_id:
            holder["sender_id"] = sender_id
            labels = sorted({*holder["labels"], *car.labels})
            self._connection.execute(UPDATE_NODE, {"node_key": holder["id"], "labels": labels})
            event = Event(received_at, EventKind.ENROLMENT, "enrolled", "reports with its own identity")
            self._add_events(holder["id"], [event])
        return holder, self._sender_key(sender_id, found, holder["id"], received_at)

    def _sender_key(self, sender_id: str, found: NodeRow | None, node_id: int, now: datetime) -> int:
        if found is None:
            values = {"sender_id": sender_id, "node_id": node_id, "last_sequence": -1}
            statement = insert(senders).values(**values, first_seen_at=now, last_seen_at=now).returning(senders.c.id)
            return int(self._connection.execute(statement).scalar_one())
        if found["id"] != node_id:
            self._connection.execute(UPDATE_SENDER, {"sender_key": found["sender_key"], "node_id": node_id})
        return int(found["sender_key"])

    def _named(self, name: str) -> NodeRow | None:
        row = self._connection.execute(SELECT_NODE_BY_NAME, {"wanted": name}).mappings().one_or_none()
        return None if row is None else dict(row)

    def _reports_now(self, node: NodeRow, now: datetime) -> bool:
        facts = facts_from_row(node)
        return not facts.goodbye and overdue_seconds(facts, now, self._limits) <= self._limits.stale_after_seconds

    def _name_taken(self, name: str) -> bool:
        return self._connection.execute(SELECT_NAME, {"wanted": name}).first() is not None

    def _create_node(
        self, sender_id: str, own_name: str, report: NormalReport, received_at: datetime, labels: Sequence[str] = ()
    ) -> NodeRow:
        count = self._connection.execute(select(func.count()).select_from(nodes)).scalar_one()
        if count >= self._maximum_nodes:
            message = f"the register holds {self._maximum_nodes} nodes, its maximum"
            hint = "on the server: `fleven-server nodes forget`, or raise maximum-nodes in server.toml"
            raise NoPlaceError(Condition(FLEET_FULL, Severity.ERROR, message, hint))
        values: NodeRow = {
            "name": free_name(own_name, self._name_taken),
            "own_name": own_name,
            "sender_id": sender_id,
            "drain_wanted": None,
            "drain_wanted_reason": "",
            "labels": sorted(labels),
            "first_seen_at": received_at,
            "partition_since": received_at,
            "report": report.text,
            **report.values,
            # The first report brings totals, but nothing to take a difference from.
            "received_bytes_total": None,
            "sent_bytes_total": None,
        }
        if not self._room(NODE_BYTES + length(values)):
            raise NoPlaceError(LATER)
        values["id"] = self._connection.execute(insert(nodes).values(values).returning(nodes.c.id)).scalar_one()
        message = f"partition-id {values['partition_id']}, {values['state']}"
        self._add_events(values["id"], [Event(received_at, EventKind.REGISTERED, "registered", message)])
        return values

    # -- what the report says

    def _store_late(self, key: int, node_id: int, reports: Sequence[NormalReport], oldest: datetime) -> None:
        """Replays change nothing; what was overtaken on the way still adds its sample and tasks.

        A late sample from before the time that raw samples are kept could be one that was summed up already: it is
        left out.
        """
        self._add_tasks(key, node_id, reports)
        without_traffic = {"sender": key, "received_bytes": None, "sent_bytes": None}
        self._add_samples([{**without_traffic, **report.sample} for report in reports if report.at > oldest])

    def _advance(self, key: int, node: NodeRow, reports: Sequence[NormalReport], received_at: datetime) -> None:
        """Bring the node to its newest report, and write down what happened on the way."""
        was_offline = is_offline(facts_from_row(node), received_at, self._limits)
        events: list[Event] = []
        rows: list[NodeRow] = []
        first_partition = node["partition_id"]
        before = {name: node[name] for name in GROWING_COLUMNS}
        for report in reports:
            rows.append({"sender": key, **traffic(node, report.values), **report.sample})
            events += changes(node, report.values)
            node.update(report.values)
        self._add_samples(rows)
        self._add_tasks(key, node["id"], reports)
        if was_offline or node["partition_id"] != first_partition:
            node["partition_since"] = received_at
        if node["drain_wanted"] is False and not node["drained"]:
            node["drain_wanted"] = None
        events += self._rename(node, reports[-1].name, received_at)
        node["report"] = reports[-1].text
        if self._budget is not None and not self._room(max(0, length(node) - length(before))):
            node.update(before)
        values = {name: value for name, value in node.items() if name not in SELDOM}
        self._connection.execute(UPDATE_NODE, {"node_key": node["id"], **values})
        self._add_events(node["id"], events)

    def _add_samples(self, rows: Sequence[NodeRow]) -> None:
        if kept := [row for row in rows if self._room(SAMPLE_BYTES)]:
            self._connection.execute(INSERT_SAMPLES, kept)

    def _add_tasks(self, key: int, node_id: int, reports: Sequence[NormalReport]) -> None:
        rows = []
        for task in (task for report in reports for task in report.tasks):
            if self._room(TASK_BYTES + stored_bytes(task["log_tail"])):
                rows.append({"sender": key, "node_id": node_id, **task})
            elif task["log_tail"] is not None and self._room(TASK_BYTES):
                rows.append({"sender": key, "node_id": node_id, **task, "log_tail": None})
        if rows:
            self._connection.execute(INSERT_TASKS, rows)

    def _rename(self, node: NodeRow, own_name: str, at: datetime) -> list[Event]:
        """Follow a new node-name, and take the own name as soon as it is free."""
        if node["name"] == own_name:
            node["own_name"] = own_name
            return []
        if node["own_name"] == own_name and self._name_taken(own_name):
            return []
        node["own_name"] = own_name
        name = free_name(own_name, lambda name: name != node["name"] and self._name_taken(name))
        if name == node["name"]:
            return []
        event = Event(at, EventKind.RENAMED, "renamed", f"{node['name']} → {name}")
        node["name"] = name
        self._connection.execute(UPDATE_NODE, {"node_key": node["id"], "name": name})
        return [event]

    def _add_events(self, node_id: int, events: Sequence[Event]) -> None:
        if kept := [event for event in events if self._room(EVENT_BYTES + stored_bytes(event.message))]:
            self._connection.execute(
                INSERT_EVENTS,
                [
                    {
                        "node_id": node_id,
                        "at": event.at,
                        "kind": event.kind.value,
                        "code": event.code,
                        "severity": event.severity.value,
                        "message": event.message,
                    }
                    for event in kept
                ],
            )


def within_step(
    reports: Sequence[NormalReport], found: NodeRow | None, car: Identity | None, receipt: Receipt
) -> Sequence[NormalReport]:
    """Leave out the reports whose numbers leap too far: one number near the largest would silence a car for good.

    Args:
        reports: of one sender, in order.
        found: what is known of the sender.
        car: the enrolled car that signed them, or None.
        receipt: is told of what was left out.
    """
    if found is None and car is None:
        # A number line that is nobody's yet may begin anywhere.
        return reports
    last = -1 if found is None else found["sender_last_sequence"]
    kept = []
    for report in reports:
        if report.sequence - last > MAXIMUM_SEQUENCE_STEP:
            message = f"report {report.sequence} follows {last}: a jump of more than {MAXIMUM_SEQUENCE_STEP}"
            hint = "its state folder is damaged: stop fleven-agent, remove the state folder, start it again"
            receipt.problems.append(Condition(SEQUENCE_INVALID, Severity.ERROR, message, hint))
            break
        kept.append(report)
        last = max(last, report.sequence)
    return kept


SELECT_SENDER = (
    select(senders.c.id.label("sender_key"), senders.c.last_sequence.label("sender_last_sequence"), *nodes.c)
    .join(nodes, nodes.c.id == senders.c.node_id)
    .where(senders.c.sender_id == bindparam("wanted"))
)
SELECT_NODE_BY_NAME = select(nodes).where(nodes.c.name == bindparam("wanted"))
SELECT_NAME = select(nodes.c.id).where(nodes.c.name == bindparam("wanted"))
UPDATE_NODE = update(nodes).where(nodes.c.id == bindparam("node_key"))
UPDATE_SENDER = update(senders).where(senders.c.id == bindparam("sender_key"))
INSERT_SAMPLES = sqlite_insert(samples).on_conflict_do_nothing()
INSERT_TASKS = sqlite_insert(node_tasks).on_conflict_do_nothing()
INSERT_EVENTS = insert(node_events)
SELDOM = frozenset({"id", "name", "labels", "first_seen_at", "drain_wanted_reason"})
"""Columns of a node that a report does not change, or only by a new name."""
