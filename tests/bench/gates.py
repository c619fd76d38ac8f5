"""`edgebench gate` over a store of 100,000 cells, each beside its baseline: time, and memory of all."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from edgebench.budgets import subject_of
from edgebench.cli.workers import MOST_WORKERS
from edgebench.gates import Observed
from edgebench.gates.base import LaunchFigures
from edgebench.gates.figures import VERSION
from edgebench.records import Artifact, Job, Role, Run, Workload, encode
from edgebench.store import Store, base, sqlite_url
from edgebench.store.rows import Row, artifact_row, job_row
from tests.bench.measure import Figure

DEVICES, MODELS, LAUNCHES = 100, 1000, 5
WALL_S, PEAK_MIB = 10.0, 500.0
RUN = "20261126-000000-gate"
BUDGETS = "version: 1\nbudgets: [{name: all, limits: {latency.p50: {regress: 2%}}}]\n"
TIMED = """
import resource, sys, time
began = time.monotonic()
from edgebench.cli.main import run
status = run(sys.argv[1:])
own, others = (resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
cpu_s = sum(each.ru_utime + each.ru_stime for each in (own, others))
print(status, time.monotonic() - began, cpu_s, own.ru_maxrss, others.ru_maxrss, file=sys.stderr)
"""


def gate_over_a_large_store(devices: int = DEVICES) -> Iterator[Figure]:
    """Wall seconds and peak memory."""
    with tempfile.TemporaryDirectory(prefix="edgebench-gates-") as folder:
        home = Path(folder)
        fill(home / "store.sqlite", devices)
        (home / "budgets.yaml").write_text(BUDGETS)
        inventory = "version: 1\ndevices:\n  local: {target: linux-x86_64, transport: local}\n"
        (home / "inventory.yaml").write_text(inventory)
        argv = [sys.executable, "-c", TIMED, "gate", RUN, "--no-keep", "-o", "gate.json"]
        environment = {**os.environ, "EDGEBENCH_HOME": str(home)}
        done = subprocess.run(
            argv, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        status, wall_s, cpu_s, own_kib, largest_kib = done.stderr.splitlines()[-1].split()
        if int(status) not in (0, 1, 3):
            raise RuntimeError(done.stderr)
        cells = len(json.loads((home / "gate.json").read_text())["cells"])
    name = f"gate over {cells:,} stored cells"
    workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    shown = f"each of {LAUNCHES} pairs; {float(cpu_s):.1f} s of processor time, {workers} processes at work"
    peak_mib = (int(own_kib) + workers * int(largest_kib)) / 1024
    yield Figure(f"{name}, wall", float(wall_s), WALL_S, "s", shown)
    yield Figure(f"{name}, peak memory", peak_mib, PEAK_MIB, "MiB", "at most, of all processes together")


def fill(path: Path, devices: int) -> None:
    """A store with a run of so many devices with 1,000 models each, every one beside its baseline."""
    chance = random.Random(1)
    with Store(sqlite_url(path)) as store:
        store.add_run(_run())
    engine = sa.create_engine(sqlite_url(path))
    with engine.begin() as connection:
        number = connection.execute(sa.select(base.run.c.number)).scalar_one()
        connection.execute(sa.insert(base.artifact).values(artifact_row(_artifact())))
        for device in range(devices):
            rows = list(_rows(device, number, chance))
            connection.execute(sa.insert(base.job), [row for row, _, _ in rows])
            connection.execute(sa.insert(base.measurement), [each for _, both, _ in rows for each in both])
            connection.execute(sa.insert(base.figures), [each for _, _, both in rows for each in both])
    engine.dispose()


def _rows(device: int, run_number: int, chance: random.Random) -> Iterator[tuple[Row, list[Row], list[Row]]]:
    for model in range(MODELS):
        place = device * MODELS + model + 1
        job = Job(
            model=f"m{model:04}",
            model_path="m.onnx",
            variant="fp32",
            runtime="onnxruntime",
            precision="fp32",
            device=f"board-{device:03}",
            target="linux-x86_64",
            workload=Workload(),
        )
        planned = job_row(job) | {"number": place, "run_number": run_number, "state": "measured"}
        measurements, figures = [], []
        roles: tuple[Role, ...] = ("candidate", "baseline")
        for offset, role in enumerate(roles):
            number = 2 * place + offset
            measurements.append(
                {
                    "number": number,
                    "id": f"{number:x}",
                    "run_number": run_number,
                    "job_number": place,
                    "artifact_digest": "ab" * 32,
                    "status": "ok",
                    "role": role,
                    "document": "{}",
                }
            )
            document = encode(_observed(job, role, chance)).decode()
            figures.append({"measurement_number": number, "version": VERSION, "document": document})
        yield planned, measurements, figures


def _observed(job: Job, role: Role, chance: random.Random) -> Observed:
    launches = []
    for place in range(LAUNCHES):
        p50_ns = round(5e6 * chance.lognormvariate(0, 0.01))  # order statistics are whole nanoseconds
        launches.append(
            LaunchFigures(
                place=place,
                n=200,
                p10_ns=round(0.99 * p50_ns),
                p50_ns=p50_ns,
                p90_ns=round(1.05 * p50_ns),
                p95_ns=round(1.1 * p50_ns),
                p99_ns=round(1.3 * p50_ns),
                mean_ns=1.01 * p50_ns,
                load_ns=9e6,
                first_inference_ns=7e6,
                peak_bytes=60 << 20,
                foreign_load=0.01,
            )
        )
    return Observed(
        subject=subject_of(job),
        session=f"s-{job.device}",
        launches=tuple(launches),
        looks=(5, 10, 20),
        artifact_digest="ab" if role == "candidate" else "cd",
        artifact_bytes=1 << 20,
        environment={"board": "x", "kernel": "6.1", "runtime_version": "1.32.0"},
        role=role,
    )


def _run() -> Run:
    return Run(
        id=RUN,
        created_utc="2026-11-26T00:00:00Z",
        status="done",
        plan={},
        edgebench_version="0.1.0",
        controller="bench",
    )


def _artifact() -> Artifact:
    return Artifact(
        digest="ab" * 32,
        key="",
        runtime="onnxruntime",
        precision="fp32",
        model="m",
        variant="fp32",
        model_digest="",
        files=(),
        size_bytes=1,
        entry={},
        inputs=(),
        outputs=(),
    )
