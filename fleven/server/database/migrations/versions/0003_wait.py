"""How long a run has waited for what it needs itself."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the clock of a run's deadline: what has counted so far, and since when it counts on."""
    op.add_column("runs", sa.Column("waited_seconds", sa.Integer, nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("waits_since", sa.BigInteger))
