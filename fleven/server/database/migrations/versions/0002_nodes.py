"""Nodes, who reports for them, their samples, tasks and events."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables of the fleet."""
    op.create_table(
        "nodes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("own_name", sa.Text, nullable=False),
        sa.Column("sender_id", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("partition_id", sa.BigInteger, nullable=False),
        sa.Column("num_partitions", sa.BigInteger),
        sa.Column("partition_since", sa.BigInteger, nullable=False),
        sa.Column("flower_node_id", sa.Text),
        sa.Column("previous_node_ids", sa.JSON, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("state_since", sa.BigInteger),
        sa.Column("state_reason", sa.Text, nullable=False),
        sa.Column("goodbye", sa.Boolean, nullable=False),
        sa.Column("conditions", sa.JSON, nullable=False),
        sa.Column("current_run", sa.JSON),
        sa.Column("drained", sa.Boolean, nullable=False),
        sa.Column("drained_reason", sa.Text, nullable=False),
        sa.Column("drain_wanted", sa.Boolean),
        sa.Column("drain_wanted_reason", sa.Text, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("agent_version", sa.Text, nullable=False),
        sa.Column("flwr_version", sa.Text, nullable=False),
        sa.Column("clock_offset_seconds", sa.Float),
        sa.Column("newest_trip_at", sa.BigInteger),
        sa.Column("received_bytes_total", sa.BigInteger),
        sa.Column("sent_bytes_total", sa.BigInteger),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False),
        sa.Column("last_seen_at", sa.BigInteger, nullable=False),
        sa.Column("reported_at", sa.BigInteger, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.UniqueConstraint("name", name="uq_nodes_name"),
    )
    op.create_index("ix_nodes_partition_id", "nodes", ["partition_id"])
    op.create_index("ix_nodes_flower_node_id", "nodes", ["flower_node_id"])
    op.create_table(
        "senders",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sender_id", sa.Text, nullable=False),
        sa.Column("node_id", sa.Integer, sa.ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False),
        sa.Column("last_seen_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("sender_id", name="uq_senders_sender_id"),
    )
    op.create_index("ix_senders_node_id", "senders", ["node_id"])
    op.create_table(
        "samples",
        sa.Column("sender", sa.Integer, sa.ForeignKey("senders.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("cpu_percent", sa.Float),
        sa.Column("load_1m", sa.Float),
        sa.Column("memory_percent", sa.Float),
        sa.Column("temperature_celsius", sa.Float),
        sa.Column("disk_free_percent", sa.Float),
        sa.Column("received_bytes", sa.BigInteger),
        sa.Column("sent_bytes", sa.BigInteger),
        sa.Column("busy", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sample_hours",
        sa.Column("node_id", sa.Integer, sa.ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("hour", sa.BigInteger, primary_key=True),
        sa.Column("samples", sa.Integer, nullable=False),
        sa.Column("cpu_percent", sa.Float),
        sa.Column("cpu_percent_maximum", sa.Float),
        sa.Column("load_1m", sa.Float),
        sa.Column("load_1m_maximum", sa.Float),
        sa.Column("memory_percent", sa.Float),
        sa.Column("memory_percent_maximum", sa.Float),
        sa.Column("temperature_celsius", sa.Float),
        sa.Column("temperature_celsius_maximum", sa.Float),
        sa.Column("disk_free_percent", sa.Float),
        sa.Column("received_bytes", sa.BigInteger),
        sa.Column("sent_bytes", sa.BigInteger),
        sa.Column("busy", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "node_tasks",
        sa.Column("sender", sa.Integer, sa.ForeignKey("senders.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("node_id", sa.Integer, sa.ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
        sa.Column("flower_run_id", sa.Text, nullable=False),
        sa.Column("flower_node_id", sa.Text),
        sa.Column("round", sa.BigInteger),
        sa.Column("message_type", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("reported_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("cpu_seconds", sa.Float),
        sa.Column("peak_rss_bytes", sa.BigInteger),
        sa.Column("wall_seconds", sa.Float),
        sa.Column("bytes_received", sa.BigInteger),
        sa.Column("bytes_sent", sa.BigInteger),
        sa.Column("maximum_temperature_celsius", sa.Float),
        sa.Column("warm", sa.Boolean),
        sa.Column("log_tail", sa.Text),
    )
    op.create_index("ix_node_tasks_node_id", "node_tasks", ["node_id"])
    op.create_index("ix_node_tasks_flower_run_id", "node_tasks", ["flower_run_id"])
    op.create_table(
        "node_events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("node_id", sa.Integer, sa.ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
    )
    op.create_index("ix_node_events_at", "node_events", ["at"])
    op.create_index("ix_node_events_node_id_at", "node_events", ["node_id", "at"])
