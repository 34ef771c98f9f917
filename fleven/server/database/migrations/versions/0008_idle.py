"""How often a car means to be heard, as it says itself."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the intervals of reports and heartbeats; unknown for agents that do not say."""
    op.add_column("nodes", sa.Column("next_report_seconds", sa.Float))
    op.add_column("nodes", sa.Column("heartbeat_seconds", sa.Float))
