"""What gates need: roles of measurements; figures, release, judgement, noise_floor."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column and make the tables."""
    role = sa.Column("role", sa.Text, nullable=False, server_default="candidate")
    op.add_column("measurement", role)
    op.create_index("ix_job_run_number_device", "job", ["run_number", "device"])
    to_measurement = sa.ForeignKey("measurement.number", name="fk_figures_measurement_number")
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "figures",
        sa.Column("measurement_number", number, to_measurement, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "release",
        _number(),
        sa.Column("name", sa.Text, nullable=False),
        _run_number("release"),
        sa.Column("passed_utc", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.UniqueConstraint("name", name="uq_release_name"),
    )
    op.create_table(
        "judgement",
        _number(),
        _run_number("judgement"),
        sa.Column("exit_code", sa.Integer, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("ix_judgement_run_number", "judgement", ["run_number"])
    op.create_table(
        "noise_floor",
        _number(),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("runtime", sa.Text, nullable=False),
        sa.Column("measured_utc", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("ix_noise_floor_device", "noise_floor", ["device"])


def _number() -> sa.Column[int]:
    # SQLite counts rows by itself only in a column of exactly this type
    return sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)


def _run_number(table: str) -> sa.Column[int]:
    to_run = sa.ForeignKey("run.number", name=f"fk_{table}_run_number")
    return sa.Column("run_number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), to_run, nullable=False)
