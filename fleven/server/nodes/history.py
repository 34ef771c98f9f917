"""A node's past: raw and hourly samples, events, tasks; and what is summed up and removed as it ages.

Raw samples are kept for `raw_samples_hours`. What is older is summed up into hours and removed, hour by hour and in
the same transaction, so that a crash neither loses nor doubles a sample. Must not import FastAPI or typer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    Table,
    delete,
    func,
    literal_column,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from fleven.server.database import Store
from fleven.server.database.readings import READINGS, Hourly
from fleven.server.database.tables import node_events, node_tasks, nodes, sample_hours, samples, senders

SAMPLES_PER_STEP = 2_000
"""This many raw samples are summed up in one transaction: the write lock is held for milliseconds only."""
MAXIMUM_EVENTS = 20_000
MAXIMUM_TASKS = 50_000
MAXIMUM_LOG_TAILS = 200
"""Of one node, whatever it reports: 90 days hold 9,000 tasks of a car that trains for 50 rounds each night."""
ROWID: Column[int] = literal_column("rowid", Integer)  # type: ignore[assignment]  # used as a column


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one pass of `age` did."""

    samples: int = 0
    hours: int = 0
    events: int = 0
    tasks: int = 0


def node_key(connection: Connection, name: str) -> int | None:
    """The register's own number of a node."""
    return connection.execute(select(nodes.c.id).where(nodes.c.name == name)).scalar()


def history(store: Store, name: str, since: datetime) -> list[dict[str, Any]]:
    """Samples of a node from `since` on, oldest first: hours where they were summed up, then raw ones.

    Each has `at`, `samples` (1 for a raw one), the means, and for hours the maxima too.
    """
    with store.read() as connection:
        key = node_key(connection, name)
        hours = connection.execute(
            select(sample_hours).where(sample_hours.c.node_id == key, sample_hours.c.hour >= since)
        ).mappings()
        raw = connection.execute(
            select(samples)
            .join(senders, senders.c.id == samples.c.sender)
            .where(senders.c.node_id == key, samples.c.at >= since)
        ).mappings()
        found = [{"at": row["hour"], **{k: v for k, v in row.items() if k not in ("node_id", "hour")}} for row in hours]
        found += [
            {
                "samples": 1,
                **{k: v for k, v in row.items() if k not in ("sender", "sequence")},
                "busy": float(row["busy"]),
            }
            for row in raw
        ]
    return sorted(found, key=lambda sample: sample["at"])


def recent_readings(store: Store, names: Sequence[str], count: int, since: datetime) -> dict[str, list[dict[str, Any]]]:
    """Load and temperature [°C] of nodes with their times, in their newest `count` samples since a moment.

    One short walk along the key for each node, so that the cost does not grow with what is kept.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    with store.read() as connection:
        keys = connection.execute(
            select(nodes.c.name, senders.c.id)
            .join(senders, senders.c.sender_id == nodes.c.sender_id)
            .where(nodes.c.name.in_(names))
        ).all()
        for name, key in keys:
            newest = (
                select(samples.c.load_1m, samples.c.temperature_celsius, samples.c.at)
                .where(samples.c.sender == key)
                .order_by(samples.c.sequence.desc())
                .limit(count)
            )
            found[name] = [dict(row) for row in connection.execute(newest).mappings() if row["at"] >= since]
    return found


def events(store: Store, name: str, since: datetime, limit: int) -> list[dict[str, Any]]:
    """The newest `limit` events of a node since a moment, oldest first."""
    with store.read() as connection:
        key = node_key(connection, name)
        statement = (
            select(
                node_events.c.at,
                node_events.c.kind,
                node_events.c.code,
                node_events.c.severity,
                node_events.c.message,
            )
            .where(node_events.c.node_id == key, node_events.c.at >= since)
            .order_by(node_events.c.id.desc())
            .limit(limit)
        )
        rows = [dict(row) for row in connection.execute(statement).mappings()]
    return rows[::-1]


def tasks(
    store: Store, *, name: str | None = None, flower_run_id: str | None = None, limit: int = 1000
) -> list[dict[str, Any]]:
    """The newest finished tasks of a node, of a run, or of a node in a run, oldest first, with the node's name.

    A failed task's `log_tail` holds the last lines of its ClientApp.
    """
    columns = [column for column in node_tasks.c if column.name not in ("sender", "sequence", "position", "node_id")]
    statement = select(nodes.c.name.label("node"), *columns).join(nodes, nodes.c.id == node_tasks.c.node_id)
    if name is not None:
        statement = statement.where(nodes.c.name == name)
    if flower_run_id is not None:
        statement = statement.where(node_tasks.c.flower_run_id == flower_run_id)
    statement = statement.order_by(
        node_tasks.c.reported_at.desc(), node_tasks.c.sequence.desc(), node_tasks.c.position.desc()
    ).limit(limit)
    with store.read() as connection:
        rows = [dict(row) for row in connection.execute(statement).mappings()]
    return rows[::-1]


def hour_of(moment: datetime) -> datetime:
    """The full hour in which a moment lies, UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def age(
    store: Store, now: datetime, *, raw_hours: int, hourly_days: int, event_days: int, steps: int = 1_000_000
) -> Pruned:
    """Sum up raw samples older than `raw_hours`, remove what is older than its limit; done in many small steps.

    Args:
        store: the register.
        now: time of the pass.
        raw_hours: raw samples are kept this long, up to the full hour.
        hourly_days: hours are kept this long.
        event_days: events and tasks are kept this long.
        steps: at most this many transactions; the rest waits for the next pass.
    """
    cutoff = hour_of(now - timedelta(hours=raw_hours))
    removed = 0
    with store.read() as connection:
        keys = connection.execute(select(senders.c.id)).scalars().all()
    for key in keys:
        while steps > 0:
            steps -= 1
            count = _sum_up(store, key, cutoff)
            removed += count
            if count < SAMPLES_PER_STEP:
                break
    with store.write() as connection:
        hours = connection.execute(
            delete(sample_hours).where(sample_hours.c.hour < now - timedelta(days=hourly_days))
        ).rowcount
        oldest = now - timedelta(days=event_days)
        event_count = connection.execute(delete(node_events).where(node_events.c.at < oldest)).rowcount
        task_count = connection.execute(delete(node_tasks).where(node_tasks.c.reported_at < oldest)).rowcount
        event_count += _keep_newest(connection, node_events, node_events.c.at, MAXIMUM_EVENTS)
        task_count += _keep_newest(connection, node_tasks, node_tasks.c.reported_at, MAXIMUM_TASKS)
        _forget_old_tails(connection)
        _forget_old_senders(connection, oldest)
    return Pruned(samples=removed, hours=hours, events=event_count, tasks=task_count)


def _keep_newest(connection: Connection, table: Table, moment: Column[Any], maximum: int) -> int:
    """Remove all but the newest rows of each node that has more than its maximum; returns how many."""
    counted = select(table.c.node_id).group_by(table.c.node_id).having(func.count() > maximum)
    removed = 0
    for node_id in connection.execute(counted).scalars().all():
        rows = select(ROWID).select_from(table).where(table.c.node_id == node_id)
        newest = rows.order_by(moment.desc(), ROWID.desc()).limit(maximum)
        removed += connection.execute(
            delete(table).where(table.c.node_id == node_id, ROWID.not_in(newest.scalar_subquery()))
        ).rowcount
    return removed


def _forget_old_tails(connection: Connection) -> None:
    """Keep the last lines of each node's newest failed tasks alone: they are most of what a node stores."""
    tasks = node_tasks.c
    counted = select(tasks.node_id).where(tasks.log_tail.is_not(None)).group_by(tasks.node_id)
    for node_id in connection.execute(counted.having(func.count() > MAXIMUM_LOG_TAILS)).scalars().all():
        mine = tasks.node_id == node_id, tasks.log_tail.is_not(None)
        newest = select(ROWID).select_from(node_tasks).where(*mine)
        newest = newest.order_by(tasks.reported_at.desc(), ROWID.desc()).limit(MAXIMUM_LOG_TAILS)
        kept = newest.scalar_subquery()
        connection.execute(update(node_tasks).where(*mine, ROWID.not_in(kept)).values(log_tail=None))


def _forget_old_senders(connection: Connection, oldest: datetime) -> None:
    """Remove senders that a node has not used for long: their numbers cannot come back."""
    current = select(nodes.c.sender_id)
    connection.execute(delete(senders).where(senders.c.last_seen_at < oldest, senders.c.sender_id.not_in(current)))


def _sum_up(store: Store, key: int, cutoff: datetime) -> int:
    """Move the oldest raw samples of one sender into hours; returns how many. One transaction."""
    with store.write() as connection:
        rows = connection.execute(
            select(samples).where(samples.c.sender == key).order_by(samples.c.sequence).limit(SAMPLES_PER_STEP)
        ).all()
        old = [row for row in rows if row.at < cutoff]
        if not old:
            return 0
        node_id = connection.execute(select(senders.c.node_id).where(senders.c.id == key)).scalar_one()
        numbers = [row.sequence for row in old]
        taken = samples.c.sender == key, samples.c.sequence.between(numbers[0], numbers[-1]), samples.c.at < cutoff
        hour = (type_coerce(samples.c.at, BigInteger) // 3_600_000).label("hour_number")
        columns: list[Any] = [func.count().label("samples"), func.avg(samples.c.busy).label("busy")]
        for reading in READINGS:
            column = samples.c[reading.name]
            columns.append((func.min if reading.hourly is Hourly.MINIMUM else func.avg)(column).label(reading.name))
            if reading.maximum is not None:
                columns.append(func.max(column).label(reading.maximum))
        columns += [func.sum(samples.c[name]).label(name) for name in ("received_bytes", "sent_bytes")]
        sums = connection.execute(select(hour, *columns).where(*taken).group_by("hour_number")).mappings().all()
        for row in sums:
            _merge_hour(connection, node_id, dict(row))
        connection.execute(delete(samples).where(*taken))
    return len(old)


def _merge_hour(connection: Connection, node_id: int, row: dict[str, Any]) -> None:
    """Add a partial hour to what is already stored of it, weighted by the number of samples."""
    hour = datetime.fromtimestamp(int(row.pop("hour_number")) * 3600, UTC)
    statement = sqlite_insert(sample_hours).values(node_id=node_id, hour=hour, **row)
    new, old = statement.excluded, sample_hours.c
    total = old.samples + new.samples

    def mean(name: str) -> Any:
        weighted = (old[name] * old.samples + new[name] * new.samples) / total
        return func.coalesce(weighted, old[name], new[name])

    def furthest(name: str, function: Any) -> Any:
        # SQLite's min() and max() of two values are NULL when one of them is.
        return function(func.coalesce(old[name], new[name]), func.coalesce(new[name], old[name]))

    merged: dict[str, Any] = {"samples": total, "busy": mean("busy")}
    for reading in READINGS:
        lowest = reading.hourly is Hourly.MINIMUM
        merged[reading.name] = furthest(reading.name, func.min) if lowest else mean(reading.name)
        if reading.maximum is not None:
            merged[reading.maximum] = furthest(reading.maximum, func.max)
    for name in ("received_bytes", "sent_bytes"):
        merged[name] = func.coalesce(old[name] + new[name], old[name], new[name])
    connection.execute(statement.on_conflict_do_update(index_elements=["node_id", "hour"], set_=merged))


def other_apps(connection: Connection, flower_run_id: str, app_hash: str) -> dict[str, str]:
    """Return the cars that say they ran another app in one of Flower's runs, with its hash."""
    columns = node_tasks.c
    other = columns.app_hash.is_not(None) & (columns.app_hash != app_hash) & (columns.app_hash != "")
    statement = (
        select(nodes.c.name, func.max(columns.app_hash))
        .select_from(node_tasks.join(nodes, nodes.c.id == columns.node_id))
        .where(columns.flower_run_id == flower_run_id, other)
        .group_by(nodes.c.name)
        .order_by(nodes.c.name)
    )
    return {str(name): str(found) for name, found in connection.execute(statement)}


def client_tails(connection: Connection, flower_run_id: str) -> list[dict[str, Any]]:
    """Return the last lines of ClientApps that failed in one of Flower's runs, as their cars reported them."""
    columns = node_tasks.c
    statement = (
        select(
            nodes.c.name, columns.round, columns.message_type, columns.outcome, columns.reported_at, columns.log_tail
        )
        .select_from(node_tasks.join(nodes, nodes.c.id == columns.node_id))
        .where(columns.flower_run_id == flower_run_id, columns.log_tail.is_not(None), columns.log_tail != "")
        .order_by(columns.reported_at)
    )
    return [
        {
            "node": row.name,
            "round": row.round,
            "message_type": row.message_type,
            "outcome": row.outcome,
            "at": row.reported_at,
            "log_tail": row.log_tail,
        }
        for row in connection.execute(statement)
    ]
