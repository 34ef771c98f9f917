"""The fleet register: the one way to the nodes for scheduler, page, metrics and commands.

Reads facts from the store, lets `health` judge them, and carries out what the operator wants of a node. Reports come
in through `store_reports`, Flower's own list through `record_flower_nodes`. Must not import FastAPI, typer or the
scheduler.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from fleven import __version__
from fleven.server.config.settings import ServerConfig
from fleven.server.database import Store
from fleven.server.database.facts import ATTENTION_FACT, LOOKS_FACT
from fleven.server.database.tables import facts as stored_facts
from fleven.server.database.tables import flower_nodes, node_events, nodes, senders
from fleven.server.enrolment import store as enrolment_store
from fleven.server.enrolment.directory import Directory, Picture
from fleven.server.enrolment.model import Identity, KeyRole
from fleven.server.enrolment.rotation import changes_key
from fleven.server.errors import NotFoundError, ServerError, UsageError
from fleven.server.flower.answers import FlowerNode
from fleven.server.flower.line import installed_version
from fleven.server.formatting import clean_text
from fleven.server.nodes import drift, normalise, suspicion
from fleven.server.nodes.attention import LOOK_LASTS, Attended, attended_from
from fleven.server.nodes.growth_budget import GrowthBudget
from fleven.server.nodes.health import ONLINE, FlowerView, Limits, assess
from fleven.server.nodes.ingest import Arrival, Ingest
from fleven.server.nodes.model import Node, NodeHealth
from fleven.server.nodes.node_facts import NodeFacts, facts_from_row
from fleven.server.nodes.normalise import EventKind
from fleven.server.nodes.receipts import Receipt
from fleven_agent.protocol.identity import IdentityStatus
from fleven_agent.protocol.report import State

if TYPE_CHECKING:
    from fleven.server.config.settings import ServerConfig
    from fleven.server.database import Store


logger = logging.getLogger("fleven.server.nodes")
STRANGERS_HINT = "reports without an identity were kept in part: their history grows by 1 MB a minute at most"
FLOWER_LIST_READ = "flower-nodes-read"
"""Key of the fact whose time says when Flower's list was read last."""
LABEL_LENGTH = 64
LOOK_NOTED = timedelta(seconds=15)
"""Between two writes that somebody looks at the same car."""
START_LASTS = timedelta(seconds=30)
"""So long a car whose agent was started is asked to report often."""
WORD_LASTS = timedelta(minutes=10)
"""So long a car that was revoked or held is asked to report: the refusal is how it hears of it."""


class NodeAliveError(ServerError):
    """The node still reports: it would register again within seconds."""

    code = "node-alive"
    exit_code = 1


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node's verdict together with what its newest report said."""

    node: Node
    row: Mapping[str, Any] | None
    """Columns of table `nodes`; None for a SuperNode that no agent reports."""
    identity: Identity | None = None
    """Its identity; None for one that reports without."""

    def report(self) -> dict[str, Any]:
        """The newest report as JSON values; empty when there is none."""
        return {} if self.row is None else dict(json.loads(self.row["report"]))


def limits_from(config: ServerConfig, flwr_version: str) -> Limits:
    """The thresholds of the verdict that server.toml sets."""
    return Limits(
        stale_after_seconds=config.fleet.stale_after_seconds,
        offline_after_seconds=config.fleet.offline_after_seconds,
        # Two refreshes may be late before the list is no longer believed.
        flower_list_valid_seconds=max(90.0, 3 * config.scheduler.node_refresh_seconds),
        server_flwr_version=flwr_version,
        server_version=__version__,
    )


class NodeRegistry:
    """The nodes of one store. Safe to use from several threads: each call is one transaction."""

    def __init__(
        self,
        store: Store,
        limits: Limits,
        *,
        maximum_nodes: int = 5_000,
        raw_window: timedelta = timedelta(hours=24),
        strangers: GrowthBudget | None = None,
    ) -> None:
        self.store = store
        self.limits = limits
        self.directory = Directory(store)
        self._maximum_nodes = maximum_nodes
        self._raw_window = raw_window
        self._strangers = strangers

    @classmethod
    def from_config(cls, store: Store, config: ServerConfig) -> NodeRegistry:
        """The register with the limits of server.toml."""
        return cls(
            store,
            limits_from(config, installed_version()),
            maximum_nodes=config.fleet.maximum_nodes,
            raw_window=timedelta(hours=config.retention.raw_samples_hours),
            strangers=GrowthBudget(time.monotonic),
        )

    # In

    def store_reports(self, arrivals: Sequence[Arrival], seconds: float = math.inf) -> list[Receipt]:
        """Store several batches in one transaction; when this returns, they are on the disk.

        Begins no further batch once `seconds` have passed: the receipts are those of the first so many arrivals, at
        least of one. Raises StoreError when the register cannot be written: then nothing of them is stored.
        """
        receipts: list[Receipt] = []
        batches = [(normalise.batch(arrival.reports, arrival.received_at), arrival) for arrival in arrivals]
        with self.store.write() as connection:
            until = time.monotonic() + seconds
            cars = self.directory.within(connection)
            ingest = Ingest(
                connection,
                self.limits,
                maximum_nodes=self._maximum_nodes,
                raw_window=self._raw_window,
                cars=cars,
                strangers=self._strangers,
            )
            for batch, arrival in batches:
                receipts.append(ingest.store(batch, arrival.received_at, arrival.signed))
                if time.monotonic() > until:
                    break
        for change in ingest.identity_changes:
            enrolment_store.tell(change)
        if self._strangers is not None and (left_out := self._strangers.news()):
            logger.warning("event=strangers-limited bytes=%d hint=%r", left_out, STRANGERS_HINT)
        return receipts

    def record_flower_nodes(self, found: Iterable[FlowerNode], read_at: datetime) -> None:
        """Replace Flower's own list (`flwr supernode list`), which the verdicts join with the reports by node id."""
        rows = [
            {
                "node_id": node.node_id,
                "status": node.status,
                "online_since": node.online_since,
                "offline_since": node.offline_since,
                "seen_at": read_at,
            }
            for node in found
        ]
        statement = sqlite_insert(stored_facts).values(key=FLOWER_LIST_READ, value=len(rows), at=read_at)
        with self.store.write() as connection:
            connection.execute(delete(flower_nodes))
            if rows:
                connection.execute(insert(flower_nodes), rows)
            connection.execute(
                statement.on_conflict_do_update(index_elements=["key"], set_={"value": len(rows), "at": read_at})
            )

    # Out

    def records(self, now: datetime) -> tuple[NodeRecord, ...]:
        """All nodes with their verdicts, in the order of partition-id and name."""
        with self.store.read() as connection:
            rows = {row["name"]: dict(row) for row in connection.execute(select(nodes)).mappings()}
            flower, cars = flower_view(connection), self.directory.within(connection)
            attended = attended_in(connection)
            doubted, references = suspicion.remembered(connection), drift.remembered(connection)
        fleet = [_facts(row, cars, attended) for row in rows.values()]
        found = suspicion.marked(assess(fleet, flower, now, self.limits, cars.book.identities.values()), doubted)
        found = _with_drift(found, rows.values(), references)
        # A car that waits may wish for a name that another has: the other's report is not its own.
        waiting = {one.name: one for one in cars.book.identities.values() if one.status is IdentityStatus.PENDING}
        return tuple(
            NodeRecord(node, None, waiting.get(node.name))
            if node.health is NodeHealth.PENDING
            else NodeRecord(node, rows.get(node.name), cars.names.get(node.name) or cars.revoked.get(node.name))
            for node in found
        )

    def fleet(self, now: datetime) -> tuple[Node, ...]:
        """All nodes as decisions see them."""
        without_report = [column for column in nodes.c if column.name != "report"]
        with self.store.read() as connection:
            rows = connection.execute(select(*without_report)).mappings().all()
            flower, cars = flower_view(connection), self.directory.within(connection)
            attended = attended_in(connection)
            doubted, references = suspicion.remembered(connection), drift.remembered(connection)
        fleet = [_facts(dict(row), cars, attended) for row in rows]
        found = suspicion.marked(assess(fleet, flower, now, self.limits, cars.book.identities.values()), doubted)
        return _with_drift(found, [dict(row) for row in rows], references)

    def name_of_sender(self, sender_id: str) -> str | None:
        """The name of the car that reports under a sender id."""
        with self.store.read() as connection:
            statement = select(nodes.c.name).join(senders, senders.c.node_id == nodes.c.id)
            return connection.execute(statement.where(senders.c.sender_id == sender_id)).scalar()

    def models_in_use(self) -> dict[str, list[str]]:
        """Names of the cars that say that they use a model, by its SHA-256."""
        found: dict[str, list[str]] = {}
        statement = select(nodes.c.name, nodes.c.model_errors).where(nodes.c.model_errors.is_not(None))
        with self.store.read() as connection:
            for name, said in connection.execute(statement.order_by(nodes.c.name)):
                found.setdefault(said["sha256"], []).append(name)
        return found

    def awaited(self, now: datetime) -> frozenset[str]:
        """Names of the cars that somebody looks at, or that have not yet heard or followed an operator's word.

        Such a word is a drain, a wish for a new key, or that the car may not take part any more. Likewise a car whose
        agent was started a moment ago: if that is the copy of its card, the other board is to be heard too.
        """
        looked = self.store.fact(LOOKS_FACT)
        earliest = (now - LOOK_LASTS).timestamp()
        names = {name for name, at in looked[0].items() if at > earliest} if looked is not None else set()
        with self.store.read() as connection:
            wish = nodes.c.drain_wanted.is_not(None) & (nodes.c.drain_wanted != nodes.c.drained)
            names |= set(connection.execute(select(nodes.c.name).where(wish)).scalars())
        for car in self.directory.now().book.identities.values():
            told = car.status in (IdentityStatus.REVOKED, IdentityStatus.HELD) and now - car.decided_at < WORD_LASTS
            started = car.process_since is not None and timedelta(0) <= now - car.process_since < START_LASTS
            if told or started or (car.rotate_wanted and car.key(KeyRole.NEXT) is None):
                names.add(car.name)
        return frozenset(names)

    def changing_keys(self) -> frozenset[str]:
        """Names of the cars that are to bring a new key, or have brought one and do not use it yet."""
        cars = self.directory.now().book.identities.values()
        return frozenset(car.name for car in cars if changes_key(car))

    def note_look(self, name: str, now: datetime) -> None:
        """Write down that somebody looks at a car: it is to report often meanwhile."""
        looked = self.store.fact(LOOKS_FACT)
        earliest = (now - LOOK_LASTS).timestamp()
        kept = {one: at for one, at in looked[0].items() if at > earliest} if looked is not None else {}
        if now.timestamp() - kept.get(name, 0.0) < LOOK_NOTED.total_seconds():
            return
        self.store.set_fact(LOOKS_FACT, {**kept, name: now.timestamp()}, now)

    def reported_node_ids(self) -> frozenset[str]:
        """Flower's node ids that the agents name, whether Flower lists them or not."""
        with self.store.read() as connection:
            found = connection.execute(select(nodes.c.flower_node_id).where(nodes.c.flower_node_id.is_not(None)))
            return frozenset(found.scalars())

    def disputed_node_ids(self) -> frozenset[str]:
        """Ids of SuperNodes that have said since Flower's list was read that they run, and are not online in it.

        With a key a SuperNode keeps its id over all restarts: nothing else tells that the list is behind.
        """
        read_at = self.flower_list_read_at()
        if read_at is None:
            return frozenset()
        said = select(nodes.c.flower_node_id).outerjoin(
            flower_nodes, nodes.c.flower_node_id == flower_nodes.c.node_id
        )  # fmt: skip
        statement = said.where(
            nodes.c.state == State.RUNNING,
            nodes.c.flower_node_id.is_not(None),
            nodes.c.last_seen_at > read_at,
            func.coalesce(flower_nodes.c.status, "") != ONLINE,
        )
        with self.store.read() as connection:
            return frozenset(connection.execute(statement).scalars())

    def online_for_flower(self) -> int:
        """How many nodes Flower's list calls online, whatever the agents report."""
        with self.store.read() as connection:
            return sum(node.status == ONLINE for node in flower_view(connection).nodes.values())

    def flower_list_read_at(self) -> datetime | None:
        """When Flower's list was read last."""
        fact = self.store.fact(FLOWER_LIST_READ)
        return None if fact is None else fact[1]

    def record(self, name: str, now: datetime) -> NodeRecord:
        """One node by its name.

        Raises NotFoundError naming the nodes that exist.
        """
        records = self.records(now)
        for record in records:
            if record.node.name == name:
                return record
        raise unknown_node(name, [record.node.name for record in records])

    # What the operator wants

    def label(self, name: str, *, add: Iterable[str] = (), remove: Iterable[str] = (), now: datetime) -> list[str]:
        """Add and remove labels; returns all that the node then has, sorted."""
        added, removed = {checked_label(text) for text in add}, set(remove)
        with self.store.write() as connection:
            row = self._row(connection, name)
            labels = sorted((set(row["labels"]) - removed) | added)
            connection.execute(update(nodes).where(nodes.c.id == row["id"]).values(labels=labels))
            self._note(connection, row["id"], now, "labels", f"labels: {', '.join(labels) or 'none'}")
        return labels

    def drain(self, name: str, reason: str, now: datetime) -> None:
        """Keep the node out of training: it learns so with the answer to its next report, within 15 s."""
        self._wish(name, True, clean_text(reason, 500), now)

    def undrain(self, name: str, now: datetime) -> None:
        """Let the node train again; ends a drain that was made on the node as well."""
        self._wish(name, False, "", now)

    def _wish(self, name: str, active: bool, reason: str, now: datetime) -> None:
        with self.store.write() as connection:
            row = self._row(connection, name)
            values = {"drain_wanted": active, "drain_wanted_reason": reason}
            connection.execute(update(nodes).where(nodes.c.id == row["id"]).values(values))
            code = "drain" if active else "undrain"
            self._note(connection, row["id"], now, code, f"{code} asked for{f': {reason}' if reason else ''}")

    def forget(self, name: str, now: datetime, *, force: bool = False) -> None:
        """Remove a node with its history.

        Raises NodeAliveError while it still reports, unless forced: it would register again at once.
        """
        health = self.record(name, now).node.health
        if health is NodeHealth.UNMANAGED:
            raise UsageError(f"{name} is known from Flower only", hint="it leaves the list when its SuperNode stops")
        if health is NodeHealth.PENDING:
            hint = f"`fleven-server nodes accept {name}`, or reject"
            raise UsageError(f"{name} waits to be accepted, and has no history yet", hint=hint)
        if health not in (NodeHealth.OFFLINE, NodeHealth.REVOKED) and not force:
            raise NodeAliveError(
                f"{name} still reports ({health}), and would register again within seconds",
                hint="stop its fleven-agent first, or use --force to drop its history",
            )
        with self.store.write() as connection:
            connection.execute(delete(nodes).where(nodes.c.name == name))

    def forget_stale(self, off_for: timedelta, now: datetime) -> list[str]:
        """Remove nodes that have been off for so long and are not enrolled, revoked ones too; return their names."""
        enrolled = self.directory.now().names
        gone = [
            record.node.name
            for record in self.records(now)
            if record.row is not None
            and record.node.health in (NodeHealth.OFFLINE, NodeHealth.REVOKED)
            and record.node.name not in enrolled
            and now - record.row["last_seen_at"] >= off_for
        ]
        with self.store.write() as connection:
            for name in gone:
                connection.execute(delete(nodes).where(nodes.c.name == name))
        return gone

    def _row(self, connection: Connection, name: str) -> dict[str, Any]:
        row = connection.execute(select(nodes).where(nodes.c.name == name)).mappings().one_or_none()
        if row is None:
            raise unknown_node(name, connection.execute(select(nodes.c.name)).scalars())
        return dict(row)

    def _note(self, connection: Connection, node_id: int, now: datetime, code: str, message: str) -> None:
        values = {"node_id": node_id, "at": now, "kind": EventKind.OPERATOR.value, "code": code}
        connection.execute(insert(node_events).values(**values, severity="info", message=message))


def _with_drift(
    found: Sequence[Node], rows: Iterable[Mapping[str, Any]], references: Mapping[str, drift.Reference]
) -> tuple[Node, ...]:
    """Return the nodes with what their errors say of the model in use."""
    told = {row["name"]: row for row in rows if row["model_errors"] is not None}
    models = {name: row["model_errors"] for name, row in told.items()}
    return drift.marked(found, models, references, {name: row["reported_at"] for name, row in told.items()})


def _facts(row: Mapping[str, Any], cars: Picture, attended: Attended) -> NodeFacts:
    """Return what is known of a node: with its identity's standing, and since when it should have been heard often."""
    car = cars.names.get(row["name"]) or cars.revoked.get(row["name"])
    found = facts_from_row(row) if car is None else facts_from_row(row, car.status, car.reason)
    return replace(found, attended_since=attended.of(row["name"]))


def attended_in(connection: Connection) -> Attended:
    """Since when cars are followed more closely, as the scheduler wrote it down last."""
    found = connection.execute(select(stored_facts.c.value).where(stored_facts.c.key == ATTENTION_FACT)).scalar()
    return attended_from(found)


def flower_view(connection: Connection) -> FlowerView:
    """Flower's own list as it was read last."""
    read_at = connection.execute(select(stored_facts.c.at).where(stored_facts.c.key == FLOWER_LIST_READ)).scalar()
    listed = {
        row.node_id: FlowerNode(row.node_id, row.status, row.online_since, row.offline_since)
        for row in connection.execute(select(flower_nodes))
    }
    return FlowerView(listed, read_at)


def checked_label(text: str) -> str:
    """The label, when it is one: letters, digits and . _ - = : / without spaces.

    Raises UsageError otherwise.
    """
    if not text or len(text) > LABEL_LENGTH or not all(c.isalnum() or c in "._-=:/" for c in text):
        raise UsageError(
            f"label {text[:LABEL_LENGTH]!r} is not valid",
            hint=f"letters, digits and . _ - = : / , at most {LABEL_LENGTH} characters, for example fleet=north",
        )
    return text


def unknown_node(name: str, names: Iterable[str]) -> NotFoundError:
    """The error for a name that no node has, with the nearest that one has."""
    from difflib import get_close_matches

    known = sorted(names)
    near = get_close_matches(name, known, n=1)
    if near:
        hint = f"did you mean {near[0]}?"
    elif known:
        hint = f"known nodes: {', '.join(known[:8])}{' …' if len(known) > 8 else ''}"
    else:
        hint = "no node has reported yet"
    return NotFoundError(f"no node is named {clean_text(name, 64)}", hint=hint, code="node-unknown")
