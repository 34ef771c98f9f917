"""Which of an agent's processes speaks for a car: by it, the copy of a card is noticed."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the processes that report; none is known of cars that have reported before."""
    op.add_column("identities", sa.Column("process", sa.Text, nullable=False, server_default=""))
    op.add_column("identities", sa.Column("process_since", sa.BigInteger))
    op.add_column("identities", sa.Column("earlier_processes", sa.JSON, nullable=False, server_default="[]"))
