"""Records to store, small and full, and hypothesis strategies for arbitrary ones."""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st

from edgebench.records import (
    Artifact,
    ArtifactFile,
    Conditions,
    Facts,
    Failure,
    Job,
    Launch,
    Measurement,
    MemoryLadder,
    OutputParity,
    ParityBound,
    ParityReport,
    Run,
    Tensor,
    Workload,
    replace,
)

RUN = "20261123-224455-k3f9"


def run(run_id: str = RUN, **changes: Any) -> Run:
    made = Run(
        id=run_id,
        created_utc="2026-11-23T22:44:55Z",
        status="running",
        plan={"models": ["digits.onnx"], "launches": 5, "on": None},
        edgebench_version="0.1.0",
        controller="desk",
    )
    return replace(made, **changes)


def job(device: str = "local", **changes: Any) -> Job:
    made = Job(
        model="digits",
        model_path="models/digits.onnx",
        variant="fp32",
        runtime="onnxruntime",
        precision="fp32",
        device=device,
        target="linux-x86_64",
        workload=Workload(),
    )
    return replace(made, **changes)


def artifact() -> Artifact:
    tensor = Tensor(name="x", dtype="float32", shape=(1, "N", 3))
    return Artifact(
        digest="ab" * 32,
        key="what went in",
        runtime="onnxruntime",
        precision="fp32",
        model="digits",
        variant="fp32",
        model_digest="cd" * 32,
        files=(ArtifactFile(path="model.onnx", sha256="ef" * 32, size_bytes=7),),
        size_bytes=7,
        entry={"model": "model.onnx"},
        inputs=(tensor,),
        outputs=(tensor,),
        notes=("größer, \N{SNOWMAN}",),
    )


def parity(where: str = "controller") -> ParityReport:
    bound = ParityBound(precision="fp32", max_abs_share=1e-4, min_snr_db=60, min_cosine=0.999)
    output = OutputParity(
        name="y", max_abs=0, max_rel=0, cosine=1, snr_db=math.inf, reference_range=2, passed=True
    )
    return ParityReport(where=where, reference="onnxruntime", bound=bound, outputs=(output,), passed=True)


def launch(number: int = 0, samples: tuple[int, ...] = (3, 1, 2), **changes: Any) -> Launch:
    made = Launch(
        number=number,
        session="session-1",
        started_utc="2026-11-23T22:44:56Z",
        import_ns=50_000_000,
        load_ns=20_000_000,
        first_inference_ns=900_000,
        warmup_ns=(9, 8),
        warmup_stable=True,
        samples_ns=samples,
        memory=MemoryLadder(method="VmHWM", start_bytes=10, peak_bytes=2**31),
        before=Conditions(governor="performance", clock_khz=(1_500_000,)),
        after=Conditions(temperature_c=61.5, throttled=False),
        runtime_version="1.20.0",
        effective={"threads": "4"},
    )
    return replace(made, **changes)


def measurement(measurement_id: str = "m1", **changes: Any) -> Measurement:
    made = Measurement(
        id=measurement_id,
        run=RUN,
        job=job(),
        artifact=artifact(),
        facts=Facts(arch="x86_64", bits=64, os="linux", kernel="6.1", python="3.11.2", memory_bytes=2**34),
        controller_parity=parity(),
        device_parity=parity("local"),
        launches=(),
        status="ok",
        warnings=("few launches",),
        pushed_bytes=2**33,
    )
    return replace(made, **changes)


def failure(device: str = "pi5-01", **changes: Any) -> Failure:
    made = Failure(
        run=RUN,
        job=job(device),
        owner="device",
        stage="push",
        message="pi5-01 has no room left",
        hint="edgebench devices clean pi5-01",
        exit_code=4,
        detail="a log's tail\x00\udcff",
    )
    return replace(made, **changes)


# --- arbitrary ones -----------------------------------------------------------------------------

texts = st.text(st.characters(codec=None), max_size=8)
times_ns = st.integers(0, 2**62) | st.integers(0, 10_000) | st.sampled_from((2**32 - 1, 2**32))
sizes = st.none() | st.integers(0, 2**62)
floats = st.none() | st.floats(allow_nan=False)

conditions = st.builds(
    Conditions,
    governor=st.none() | texts,
    clock_khz=st.lists(times_ns, max_size=3).map(tuple),
    temperature_c=floats,
    throttled=st.none() | st.booleans(),
    memory_available_bytes=sizes,
    load_1m=floats,
)
launches = st.builds(
    Launch,
    number=st.integers(0, 2**40),
    session=st.text("abc-1", max_size=8),
    started_utc=texts,
    import_ns=times_ns,
    load_ns=times_ns,
    first_inference_ns=times_ns,
    warmup_ns=st.lists(times_ns, max_size=5).map(tuple),
    warmup_stable=st.booleans(),
    samples_ns=st.lists(times_ns, max_size=20).map(tuple),
    memory=st.builds(MemoryLadder, method=texts, peak_bytes=sizes, steady_peak_bytes=sizes),
    before=conditions,
    after=conditions,
    runtime_version=texts,
    effective=st.dictionaries(texts, texts, max_size=2),
    foreign_load=floats,
    valid=st.booleans(),
    invalid_reason=texts,
)


def take_gates_away(connection: sa.Connection) -> None:
    """What the revision of gates added is gone: the database is one from before it."""
    for name in ("release", "judgement", "noise_floor", "figures"):
        connection.exec_driver_sql(f"DROP TABLE {name}")
    connection.exec_driver_sql("ALTER TABLE measurement DROP COLUMN role")
    connection.exec_driver_sql("DROP INDEX ix_job_run_number_device")
