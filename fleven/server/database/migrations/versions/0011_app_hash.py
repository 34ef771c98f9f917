"""Which app a run was made from, and which one each car ran."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the hashes of bundles; unknown for what was before."""
    op.add_column("attempts", sa.Column("app_hash", sa.Text))
    op.add_column("node_tasks", sa.Column("app_hash", sa.Text))
