"""Where an attempt's results lie, beside its metrics."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the folder of an attempt's results; unknown for attempts that were made before."""
    op.add_column("attempts", sa.Column("results_folder", sa.Text))
