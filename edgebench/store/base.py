"""The tables of the store, the same for SQLite and PostgreSQL.

Columns are what is searched, sorted or summed; beside them the whole record is one JSON document, written by
`records.encode_exact`. The tables are made by `migrations`; a test compares the two. Whoever changes a stored
record so that old documents no longer fit adds a migration that rewrites them.

Revisions (table `edgebench_schema`):
  0001  first tables
  0002  profiles of measurements
  0003  health checks
  0004  load and first inference may be unknown
  0005  roles of measurements; releases, judgements, noise floors
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

REVISION = "0005"
VERSION_TABLE = "edgebench_schema"

# SQLite counts rows by itself only in a column of exactly this type
_NUMBER = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

run = Table(
    "run",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("created_utc", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("document", Text, nullable=False),
)

# one cell of a run; state: planned, measured (a measurement is ok or invalid), failed
job = Table(
    "job",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("run_number", ForeignKey("run.number"), nullable=False),
    Column("digest", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("runtime", Text, nullable=False),
    Column("precision", Text, nullable=False),
    Column("document", Text, nullable=False),
    UniqueConstraint("run_number", "digest"),
    Index("ix_job_run_number_device", "run_number", "device"),  # gates read a run device by device
)

# what was measured; the files are in the artifact store
artifact = Table(
    "artifact",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("runtime", Text, nullable=False),
    Column("precision", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
)

# status: partial from the first moment, so that a crash needs no cleaning up; then ok or invalid
measurement = Table(
    "measurement",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("run_number", ForeignKey("run.number"), nullable=False, index=True),
    Column("job_number", ForeignKey("job.number"), nullable=False, index=True),
    Column("artifact_digest", ForeignKey("artifact.digest"), nullable=False),
    Column("status", Text, nullable=False),
    Column("role", Text, nullable=False, server_default="candidate"),
    Column("document", Text, nullable=False),
)

# `ordinal` is the launch's own number; the figures are those of `statistics.summarise`
launch = Table(
    "launch",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("measurement_number", ForeignKey("measurement.number"), nullable=False),
    Column("session", Text, nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("valid", Boolean, nullable=False),
    Column("n", Integer, nullable=False),
    Column("min_ns", BigInteger),
    Column("p50_ns", BigInteger),
    Column("p90_ns", BigInteger),
    Column("p95_ns", BigInteger),
    Column("p99_ns", BigInteger),
    Column("max_ns", BigInteger),
    Column("mean_ns", Float),
    Column("load_ns", BigInteger),
    Column("first_inference_ns", BigInteger),
    Column("peak_bytes", BigInteger),
    Column("steady_peak_bytes", BigInteger),
    Column("temperature_c", Float),
    Column("throttled", Boolean),
    Column("document", Text, nullable=False),
    UniqueConstraint("measurement_number", "session", "ordinal"),
)

# all samples of one kind (samples, warmup) of one launch; sha256 is that of the bytes before compression
sample_blob = Table(
    "sample_blob",
    metadata,
    Column("launch_number", ForeignKey("launch.number"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("dtype", Text, nullable=False),
    Column("codec", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

# what gates judge of a measurement, kept when it ends: what is derived, of that version of the derivation
figures = Table(
    "figures",
    metadata,
    Column("measurement_number", ForeignKey("measurement.number"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("document", Text, nullable=False),
)

failure = Table(
    "failure",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("run_number", ForeignKey("run.number"), nullable=False, index=True),
    Column("job_number", ForeignKey("job.number"), nullable=False, index=True),
    Column("owner", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("document", Text, nullable=False),
)

# where the time of an inference goes; the last one of a measurement counts
profile = Table(
    "profile",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("measurement_number", ForeignKey("measurement.number"), nullable=False, index=True),
    Column("layers", Integer, nullable=False),
    Column("total_ns", BigInteger),
    Column("document", Text, nullable=False),
)

# a run under a name that stays; passed_utc is "" where it may be no baseline
release = Table(
    "release",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("run_number", ForeignKey("run.number"), nullable=False),
    Column("passed_utc", Text, nullable=False),
    Column("document", Text, nullable=False),
)

# what gates said of a run; the last one counts
judgement = Table(
    "judgement",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("run_number", ForeignKey("run.number"), nullable=False, index=True),
    Column("exit_code", Integer, nullable=False),
    Column("document", Text, nullable=False),
)

# what identical artifacts differ by on a device (A/A), of all runs
noise_floor = Table(
    "noise_floor",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("device", Text, nullable=False, index=True),
    Column("runtime", Text, nullable=False),
    Column("measured_utc", Text, nullable=False),
    Column("document", Text, nullable=False),
)

# the checks of a device by a known tiny model, of all runs: the newest make its band
health_check = Table(
    "health_check",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("device", Text, nullable=False, index=True),
    Column("checked_utc", Text, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("document", Text, nullable=False),
)
