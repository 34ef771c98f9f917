"""Tables of the register that belong to schedules and runs, and the one metadata object that all tables share."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator

from fleven.server.schedule_spec import ScheduleSpec

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcTime(TypeDecorator[datetime]):
    """An aware moment, stored as whole milliseconds since 1970 in UTC: sorts, compares and indexes as a number."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Return milliseconds; a naive moment is a programming error."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without time zone can not be stored")
        return round(value.timestamp() * 1000)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC."""
        return None if value is None else datetime.fromtimestamp(value / 1000, UTC)


class SpecJson(TypeDecorator[ScheduleSpec]):
    """A schedule's settings as JSON text; equal texts are parsed once."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: ScheduleSpec | None, dialect: Dialect) -> str | None:
        """Return the text."""
        return None if value is None else json.dumps(value.to_json(), sort_keys=True)

    def process_result_value(self, value: Any, dialect: Dialect) -> ScheduleSpec | None:
        """Return the settings."""
        return None if value is None else parsed_spec(value)


@lru_cache(maxsize=4096)
def parsed_spec(text: str) -> ScheduleSpec:
    """Return the settings that a JSON text holds."""
    return ScheduleSpec.model_validate_json(text)


schedules = Table(
    "schedules",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("spec", SpecJson, nullable=False),
    Column("after", Text, index=True),
    Column("paused", Boolean, nullable=False),
    Column("pause_reason", Text, nullable=False, default=""),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("anchor_at", UtcTime, nullable=False),
    Column("next_fire_at", UtcTime, index=True),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("schedule_name", Text, nullable=False),
    # Two runs with one key cannot exist: this is what keeps an occurrence from being doubled.
    Column("occurrence_key", Text, nullable=False, unique=True),
    Column("trigger", Text, nullable=False),
    Column("due_at", UtcTime, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False, default=""),
    Column("since", UtcTime, nullable=False),
    Column("spec", SpecJson, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("retry_at", UtcTime),
    Column("stop_reason", Text),
    Column("stop_message", Text, nullable=False, default=""),
    Column("progress", JSON),
    Column("fires", Integer, nullable=False, default=1),
    Column("ended_at", UtcTime, index=True),
    Column("waited_seconds", Integer, nullable=False, default=0),
    Column("waits_since", UtcTime),
    # AUTOINCREMENT: the number of a deleted run is never given to another.
    sqlite_autoincrement=True,
)
Index("ix_runs_schedule_name_id", runs.c.schedule_name, runs.c.id)
Index("ix_runs_schedule_name_state_ended_at", runs.c.schedule_name, runs.c.state, runs.c.ended_at)
Index("ix_runs_open", runs.c.id, sqlite_where=text("ended_at IS NULL"))

attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("token", Text, nullable=False, unique=True),
    Column("intended_at", UtcTime, nullable=False),
    Column("flower_run_id", Text, unique=True),
    Column("accepted_at", UtcTime),
    Column("running_at", UtcTime),
    Column("ended_at", UtcTime),
    Column("outcome", Text),
    Column("reason", Text),
    Column("message", Text, nullable=False, default=""),
    Column("failure_class", Text),
    Column("resume_from", Text),
    Column("metrics_folder", Text),
    Column("results_folder", Text),
    UniqueConstraint("run_id", "number"),
)

run_steps = Table(
    "run_steps",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False, default=""),
)

flower_nodes = Table(
    "flower_nodes",
    metadata,
    # A 64-bit unsigned number does not fit SQLite's integer: text in decimal, as everywhere.
    Column("node_id", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("online_since", UtcTime),
    Column("offline_since", UtcTime),
    Column("seen_at", UtcTime, nullable=False),
)

facts = Table(
    "facts",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", JSON, nullable=False),
    Column("at", UtcTime, nullable=False),
)
