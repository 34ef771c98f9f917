"""The tables of the register, on one metadata object: schedules, runs, nodes and their history.

Must not import anything that decides.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
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

from fleven.server.database.readings import READINGS

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
            raise ValueError("a moment without time zone cannot be stored")
        return round(value.timestamp() * 1000)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC."""
        return None if value is None else datetime.fromtimestamp(value / 1000, UTC)


schedules = Table(
    "schedules",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("spec", Text, nullable=False),
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
    Column("spec", Text, nullable=False),
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
    # SHA-256 of the bundle that the SuperLink has for the run.
    Column("app_hash", Text),
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
nodes = Table(
    "nodes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    # What the node calls itself; differs from `name` only while another node holds that name.
    Column("own_name", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("partition_id", BigInteger, nullable=False, index=True),
    Column("num_partitions", BigInteger),
    Column("partition_since", UtcTime, nullable=False),
    Column("flower_node_id", Text, index=True),
    Column("previous_node_ids", JSON, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_since", UtcTime),
    Column("state_reason", Text, nullable=False),
    Column("goodbye", Boolean, nullable=False),
    Column("conditions", JSON, nullable=False),
    Column("current_run", JSON),
    Column("drained", Boolean, nullable=False),
    Column("drained_reason", Text, nullable=False),
    # The operator's word on the server: true drain, false undrain until the node follows, null nothing.
    Column("drain_wanted", Boolean),
    Column("drain_wanted_reason", Text, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("agent_version", Text, nullable=False),
    Column("flwr_version", Text, nullable=False),
    Column("clock_offset_seconds", Float),
    Column("newest_trip_at", UtcTime),
    # Counters of the network cards at the newest report, to tell the bytes between two reports.
    Column("received_bytes_total", BigInteger),
    Column("sent_bytes_total", BigInteger),
    Column("first_seen_at", UtcTime, nullable=False),
    Column("last_seen_at", UtcTime, nullable=False),
    Column("reported_at", UtcTime, nullable=False),
    # How often the car means to be heard, by its newest report: by the agent, and by Flower; null when it does not say.
    Column("next_report_seconds", Float),
    Column("heartbeat_seconds", Float),
    # Experiment, SHA-256 and errors on new trips of the model that the car uses; null while it has none.
    Column("model_errors", JSON(none_as_null=True)),
    # The newest report as it came, for people: decisions use the columns.
    Column("report", Text, nullable=False),
)
senders = Table(
    "senders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sender_id", Text, nullable=False, unique=True),
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("last_sequence", BigInteger, nullable=False),
    Column("first_seen_at", UtcTime, nullable=False),
    Column("last_seen_at", UtcTime, nullable=False),
)
samples = Table(
    "samples",
    metadata,
    # The pair names a report for ever: a replay finds its row there.
    Column("sender", ForeignKey("senders.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("at", UtcTime, nullable=False),
    *(Column(reading.name, Float) for reading in READINGS),
    # Bytes since the report before, null when that is not known.
    Column("received_bytes", BigInteger),
    Column("sent_bytes", BigInteger),
    Column("busy", Boolean, nullable=False),
    # Rows lie in the order of the key: appending one costs one page, and no second index is kept.
    sqlite_with_rowid=False,
)
sample_hours = Table(
    "sample_hours",
    metadata,
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True),
    Column("hour", UtcTime, primary_key=True),
    Column("samples", Integer, nullable=False),
    *(Column(name, Float) for reading in READINGS for name in (reading.name, reading.maximum) if name is not None),
    Column("received_bytes", BigInteger),
    Column("sent_bytes", BigInteger),
    # Share of the samples that were taken during a task [0..1].
    Column("busy", Float, nullable=False),
    sqlite_with_rowid=False,
)
node_tasks = Table(
    "node_tasks",
    metadata,
    Column("sender", ForeignKey("senders.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False, index=True),
    # Flower's run id; not a foreign key, since runs are also submitted by hand.
    Column("flower_run_id", Text, nullable=False, index=True),
    Column("flower_node_id", Text),
    Column("round", BigInteger),
    Column("message_type", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reported_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("cpu_seconds", Float),
    Column("peak_rss_bytes", BigInteger),
    Column("wall_seconds", Float),
    Column("bytes_received", BigInteger),
    Column("bytes_sent", BigInteger),
    Column("maximum_temperature_celsius", Float),
    Column("warm", Boolean),
    Column("log_tail", Text),
    # Of the bundle that the car says it ran.
    Column("app_hash", Text),
)
node_events = Table(
    "node_events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
    Column("at", UtcTime, nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("message", Text, nullable=False),
)
Index("ix_node_events_node_id_at", node_events.c.node_id, node_events.c.at)
invitations = Table(
    "invitations",
    metadata,
    Column("id", Text, primary_key=True),
    # Of secrets only the digest is kept.
    Column("secret_sha256", Text, nullable=False),
    Column("name", Text),
    Column("partition_id", BigInteger),
    Column("labels", JSON, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("used_at", UtcTime),
    Column("used_by", Text),
)
identities = Table(
    "identities",
    metadata,
    Column("car_id", Text, primary_key=True),
    Column("status", Text, nullable=False),
    # What a pending car wishes, and what an enrolled one has.
    Column("name", Text, nullable=False),
    Column("partition_id", BigInteger),
    Column("num_partitions", BigInteger),
    Column("labels", JSON, nullable=False),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("earlier_boot_ids", JSON, nullable=False),
    Column("process", Text, nullable=False),
    Column("process_since", UtcTime),
    Column("earlier_processes", JSON, nullable=False),
    Column("rotate_wanted", Boolean, nullable=False),
    Column("invitation_id", Text),
    Column("asked_from", Text, nullable=False),
    Column("board_model", Text, nullable=False),
    Column("agent_version", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("asked_at", UtcTime, nullable=False),
    Column("decided_at", UtcTime, nullable=False),
)
# The last line of defence behind the decisions: two enrolled cars never share a name or a partition.
ENROLLED = text("status IN ('accepted', 'held')")
Index("ix_identities_bound_name", identities.c.name, unique=True, sqlite_where=ENROLLED)
Index("ix_identities_bound_partition", identities.c.partition_id, unique=True, sqlite_where=ENROLLED)
identity_keys = Table(
    "identity_keys",
    metadata,
    Column("id", Integer, primary_key=True),
    # No key is ever that of two cars, not even after its car was revoked.
    Column("public_key", Text, nullable=False, unique=True),
    Column("car_id", ForeignKey("identities.car_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("secret_sha256", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("flower_node_id", Text),
    Column("spent", Boolean, nullable=False),
)
users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("password_hash", Text),
    # SHA-256 of the one-time link with which the user sets a password; null once it was used.
    Column("link_hash", Text, unique=True),
    Column("link_expires_at", UtcTime),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("password_set_at", UtcTime),
    Column("last_login_at", UtcTime),
    # A number that a removed user had is never given to another.
    sqlite_autoincrement=True,
)
sessions = Table(
    "sessions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    # SHA-256 of the cookie.
    Column("token_hash", Text, nullable=False, unique=True),
    Column("secure", Boolean, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("seen_at", UtcTime, nullable=False),
    Column("address", Text, nullable=False),
    Column("browser", Text, nullable=False),
    # Ended ones are kept for a while: they tell from where a user has logged in before.
    Column("ended_at", UtcTime),
)
api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    # The public part of the token, by which its row is found.
    Column("key", Text, nullable=False, unique=True),
    Column("secret_hash", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", UtcTime),
    Column("used_at", UtcTime),
    Column("used_from", Text, nullable=False, default=""),
)
audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcTime, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
)
models = Table(
    "models",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("experiment", Text, nullable=False),
    Column("version", Integer, nullable=False),
    # Not a foreign key: a model outlives its run's row, and an imported one has none.
    Column("run_id", Integer, unique=True),
    Column("made_at", UtcTime, nullable=False),
    # Below the state folder's `models`; empty once the version was deleted.
    Column("file", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    # Figures, data, configuration, lineage: for people and comparisons; decisions use the columns.
    Column("facts", JSON, nullable=False),
    UniqueConstraint("experiment", "version"),
)
model_aliases = Table(
    "model_aliases",
    metadata,
    Column("experiment", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("reason", Text, nullable=False),
)
model_counters = Table(
    "model_counters",
    metadata,
    Column("experiment", Text, primary_key=True),
    # A version that was deleted is never given to another model.
    Column("newest", Integer, nullable=False),
)
