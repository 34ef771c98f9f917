"""Invitations, identities of cars, and their keys."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the three tables; a fleet that was open until now has none of them."""
    op.create_table(
        "invitations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("secret_sha256", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("partition_id", sa.BigInteger),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger),
        sa.Column("used_by", sa.Text),
    )
    op.create_table(
        "identities",
        sa.Column("car_id", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("partition_id", sa.BigInteger),
        sa.Column("num_partitions", sa.BigInteger),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("earlier_boot_ids", sa.JSON, nullable=False),
        sa.Column("rotate_wanted", sa.Boolean, nullable=False),
        sa.Column("invitation_id", sa.Text),
        sa.Column("asked_from", sa.Text, nullable=False),
        sa.Column("board_model", sa.Text, nullable=False),
        sa.Column("agent_version", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("asked_at", sa.BigInteger, nullable=False),
        sa.Column("decided_at", sa.BigInteger, nullable=False),
    )
    enrolled = sa.text("status IN ('accepted', 'held')")
    op.create_index("ix_identities_bound_name", "identities", ["name"], unique=True, sqlite_where=enrolled)
    op.create_index("ix_identities_bound_partition", "identities", ["partition_id"], unique=True, sqlite_where=enrolled)
    op.create_table(
        "identity_keys",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("public_key", sa.Text, nullable=False, unique=True),
        sa.Column("car_id", sa.Text, sa.ForeignKey("identities.car_id", ondelete="CASCADE"), nullable=False),
        sa.Column("secret_sha256", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("flower_node_id", sa.Text),
        sa.Column("spent", sa.Boolean, nullable=False),
    )
    op.create_index("ix_identity_keys_car_id", "identity_keys", ["car_id"])
