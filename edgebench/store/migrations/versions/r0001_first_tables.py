"""First tables: run, job, artifact, measurement, launch, sample_blob, failure."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# SQLite counts rows by itself only in a column of exactly this type
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    _make_run_and_job()
    _make_artifact_and_measurement()
    _make_launch()
    _make_failure()


def _make_run_and_job() -> None:
    op.create_table(
        "run",
        _number(),
        _text("id"),
        _text("created_utc"),
        _text("status"),
        _text("document"),
        sa.UniqueConstraint("id", name="uq_run_id"),
    )
    op.create_table(
        "job",
        _number(),
        _reference("job", "run_number", "run.number"),
        *(_text(name) for name in ("digest", "state", "device", "model", "variant", "runtime", "precision")),
        _text("document"),
        sa.UniqueConstraint("run_number", "digest", name="uq_job_run_number"),
    )


def _make_artifact_and_measurement() -> None:
    op.create_table(
        "artifact",
        sa.Column("digest", sa.Text, nullable=False),
        *(_text(name) for name in ("model", "variant", "runtime", "precision")),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        _text("document"),
        sa.PrimaryKeyConstraint("digest", name="pk_artifact"),
    )
    op.create_table(
        "measurement",
        _number(),
        _text("id"),
        _reference("measurement", "run_number", "run.number"),
        _reference("measurement", "job_number", "job.number"),
        _reference("measurement", "artifact_digest", "artifact.digest", sa.Text()),
        _text("status"),
        _text("document"),
        sa.UniqueConstraint("id", name="uq_measurement_id"),
    )
    op.create_index("ix_measurement_run_number", "measurement", ["run_number"])
    op.create_index("ix_measurement_job_number", "measurement", ["job_number"])


def _make_launch() -> None:
    op.create_table(
        "launch",
        _number(),
        _reference("launch", "measurement_number", "measurement.number"),
        _text("session"),
        sa.Column("ordinal", sa.BigInteger, nullable=False),
        sa.Column("valid", sa.Boolean, nullable=False),
        sa.Column("n", sa.Integer, nullable=False),
        *(
            sa.Column(name, sa.BigInteger)
            for name in ("min_ns", "p50_ns", "p90_ns", "p95_ns", "p99_ns", "max_ns")
        ),
        sa.Column("mean_ns", sa.Float),
        sa.Column("load_ns", sa.BigInteger, nullable=False),
        sa.Column("first_inference_ns", sa.BigInteger, nullable=False),
        sa.Column("peak_bytes", sa.BigInteger),
        sa.Column("steady_peak_bytes", sa.BigInteger),
        sa.Column("temperature_c", sa.Float),
        sa.Column("throttled", sa.Boolean),
        _text("document"),
        sa.UniqueConstraint("measurement_number", "session", "ordinal", name="uq_launch_measurement_number"),
    )
    op.create_table(
        "sample_blob",
        _reference("sample_blob", "launch_number", "launch.number"),
        *(_text(name) for name in ("kind", "dtype", "codec")),
        sa.Column("count", sa.Integer, nullable=False),
        _text("sha256"),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("launch_number", "kind", name="pk_sample_blob"),
    )


def _make_failure() -> None:
    op.create_table(
        "failure",
        _number(),
        _reference("failure", "run_number", "run.number"),
        _reference("failure", "job_number", "job.number"),
        *(_text(name) for name in ("owner", "stage", "document")),
    )
    op.create_index("ix_failure_run_number", "failure", ["run_number"])
    op.create_index("ix_failure_job_number", "failure", ["job_number"])


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _number() -> sa.Column[int]:
    return sa.Column("number", _NUMBER, primary_key=True)


def _reference(table: str, name: str, to: str, kind: Any = _NUMBER) -> sa.Column[Any]:
    return sa.Column(name, kind, sa.ForeignKey(to, name=f"fk_{table}_{name}"), nullable=False)
