"""Load and first inference of a launch may be unknown: a program such as trtexec does not tell them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_COLUMNS = ("load_ns", "first_inference_ns")


def upgrade() -> None:
    """Let both columns be null.

    Beside each column a new one is filled and takes its name: SQLite changes no column in place, and a new
    table in the place of `launch` would break the references of `sample_blob` to it.
    """
    for name in _COLUMNS:
        op.add_column("launch", sa.Column(f"known_{name}", sa.BigInteger))
        launch = sa.table("launch", sa.column(name), sa.column(f"known_{name}"))
        op.execute(launch.update().values({f"known_{name}": launch.c[name]}))
        op.drop_column("launch", name)
        op.execute(f"ALTER TABLE launch RENAME COLUMN known_{name} TO {name}")
