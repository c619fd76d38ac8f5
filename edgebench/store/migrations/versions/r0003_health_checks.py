"""Health checks of devices: health_check."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "health_check",
        # SQLite counts rows by itself only in a column of exactly this type
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("checked_utc", sa.Text, nullable=False),
        sa.Column("passed", sa.Boolean, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("ix_health_check_device", "health_check", ["device"])
