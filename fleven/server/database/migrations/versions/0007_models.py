"""The models that runs have made, by experiment, and which of them is used."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the versions and their aliases; runs that succeeded before are taken in when they are looked for."""
    op.create_table(
        "models",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("experiment", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("run_id", sa.Integer, unique=True),
        sa.Column("made_at", sa.BigInteger, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.UniqueConstraint("experiment", "version"),
    )
    op.create_table(
        "model_aliases",
        sa.Column("experiment", sa.Text, primary_key=True),
        sa.Column("alias", sa.Text, primary_key=True),
        sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id"), nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    # A version that was deleted is never given to another model.
    op.create_table(
        "model_counters",
        sa.Column("experiment", sa.Text, primary_key=True),
        sa.Column("newest", sa.Integer, nullable=False),
    )
