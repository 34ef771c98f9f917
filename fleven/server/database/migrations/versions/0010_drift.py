"""How well the model that a car uses predicts its new trips, as the car says itself."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the errors; null for cars that fetch no model."""
    op.add_column("nodes", sa.Column("model_errors", sa.JSON))
