"""Schedules, runs, attempts and steps; Flower's node list; facts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "schedules",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("after", sa.Text),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("pause_reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("anchor_at", sa.BigInteger, nullable=False),
        sa.Column("next_fire_at", sa.BigInteger),
        sa.UniqueConstraint("name", name="uq_schedules_name"),
    )
    op.create_index("ix_schedules_after", "schedules", ["after"])
    op.create_index("ix_schedules_next_fire_at", "schedules", ["next_fire_at"])
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("schedule_name", sa.Text, nullable=False),
        sa.Column("occurrence_key", sa.Text, nullable=False),
        sa.Column("trigger", sa.Text, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("retry_at", sa.BigInteger),
        sa.Column("stop_reason", sa.Text),
        sa.Column("stop_message", sa.Text, nullable=False),
        sa.Column("progress", sa.JSON),
        sa.Column("fires", sa.Integer, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.UniqueConstraint("occurrence_key", name="uq_runs_occurrence_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_runs_ended_at", "runs", ["ended_at"])
    op.create_index("ix_runs_schedule_name_id", "runs", ["schedule_name", "id"])
    op.create_index("ix_runs_schedule_name_state_ended_at", "runs", ["schedule_name", "state", "ended_at"])
    op.create_index("ix_runs_open", "runs", ["id"], sqlite_where=sa.text("ended_at IS NULL"))
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("run_id", sa.Integer, sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("intended_at", sa.BigInteger, nullable=False),
        sa.Column("flower_run_id", sa.Text),
        sa.Column("accepted_at", sa.BigInteger),
        sa.Column("running_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("outcome", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("failure_class", sa.Text),
        sa.Column("resume_from", sa.Text),
        sa.Column("metrics_folder", sa.Text),
        sa.UniqueConstraint("run_id", "number", name="uq_attempts_run_id_number"),
        sa.UniqueConstraint("token", name="uq_attempts_token"),
        sa.UniqueConstraint("flower_run_id", name="uq_attempts_flower_run_id"),
    )
    op.create_table(
        "run_steps",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("run_id", sa.Integer, sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
    )
    op.create_index("ix_run_steps_run_id", "run_steps", ["run_id"])
    op.create_table(
        "flower_nodes",
        sa.Column("node_id", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("online_since", sa.BigInteger),
        sa.Column("offline_since", sa.BigInteger),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "facts",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
