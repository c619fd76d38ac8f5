"""Profiles: where the time of an inference goes, beside its measurement."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# SQLite counts rows by itself only in a column of exactly this type
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the table of profiles."""
    to_measurement = sa.ForeignKey("measurement.number", name="fk_profile_measurement_number")
    op.create_table(
        "profile",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("measurement_number", _NUMBER, to_measurement, nullable=False),
        sa.Column("layers", sa.Integer, nullable=False),
        sa.Column("total_ns", sa.BigInteger),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("ix_profile_measurement_number", "profile", ["measurement_number"])
