"""What the session and the sampler cost a launch: p50 with and without them, and the sampler's own time.

This computer may have no sensors at all, so a second sampler reads the recorded files of a Jetson meanwhile:
what a board with everything would have its sampler read.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import edgebench
from edgebench.convert.run import Limits
from edgebench.device.session import Lease, open_session
from edgebench.pipeline import Cell, Workbench, prepare
from edgebench.probe import specs, watch
from edgebench.records import Device, Workload
from tests.bench.measure import Figure, Line, paired, python
from tests.probe.harness import build_zip

BOARD = Path(__file__).parents[1] / "probe" / "recorded" / "jetson-orin-nano"
ON_A_RECORDED_BOARD = "from edgebench.probe import sampler\nsampler.main({root!r})\n"
MODEL = Path(edgebench.__file__).parent / "demo" / "digits.onnx"
WORKLOAD = Workload(threads=1, warmup_samples=20, min_samples=200, min_duration_s=3.0)
PAIRS = 15
WATCHED_S = 10.0


def session_and_sampler() -> Iterator[Line]:
    """p50 of a launch with a session and samplers over that of its process alone; and their cost.

    In a home of its own and without the session of the other benchmarks, which would hold this computer.
    """
    with tempfile.TemporaryDirectory(prefix="edgebench-bench-") as folder:
        bench = Workbench(Path(folder), limits=Limits())
        try:
            yield from _lines(Path(folder), bench)
        finally:
            bench.close()


def _lines(home: Path, bench: Workbench) -> Iterator[Line]:
    prepared = prepare(Cell(model_path=str(MODEL), runtime="onnxruntime", precision="fp32"), bench)
    folder = bench.artifacts.path(prepared.artifact.digest)
    work = home / "device"
    device = Device(name="local", target="", transport="local", work_dir=str(work))
    with _session(device, home) as session:
        placed = session.place(prepared.artifact, folder, prepared.inputs, session.facts())
    task, program = _task(prepared, placed, work), build_zip(home / "probe-of-bench.pyz")

    with _sampler_of_a_board(home) as watched:

        def ours() -> float:
            with _session(device, home) as session, watched.over() as watch_of_launch:
                watch_of_launch.phases(_nobody)("samples")
                launch = session.launch(prepared.artifact, placed, prepared.inputs, WORKLOAD, 1, _nobody)
                watch_of_launch.end()
            return float(statistics.median(launch.samples_ns))

        yield paired(
            "p50 of a launch with session and sampler / alone, onnxruntime",
            ours,
            lambda: _alone(program, task),
            pairs=PAIRS,
            limit=1.01,
            remark=f"digits fp32, 1 thread, {WORKLOAD.min_duration_s:g} s each, a Jetson's files read",
        )
        yield _own_time(watched)


def _nobody(_phase: str) -> None:
    pass


def _task(prepared: Any, placed: Any, work: Path) -> bytes:
    """The line that a session would send to its launch process."""
    fields = {
        "runtime": "onnxruntime",
        "bundle": placed.bundle,
        "artifact": placed.artifact,
        "entry": prepared.artifact.entry,
        "blobs": prepared.artifact.blobs,
        "options": prepared.artifact.options,
        "samples": [
            [{"name": name, "path": f"{placed.inputs}/{path}"} for name, path in sample]
            for sample in prepared.inputs.samples
        ],
        "outputs": [output.name for output in prepared.artifact.outputs],
        "workload": {name: getattr(WORKLOAD, name) for name in _WORKLOAD},
    }
    return json.dumps({"task": "launch", "spec": specs.checked(fields, str(work.resolve()))}).encode() + b"\n"


_WORKLOAD = ("threads", "warmup_samples", "max_warmup_s", "min_samples", "min_duration_s", "max_duration_s")


def _alone(program: Path, task: bytes) -> float:
    """p50 of a launch process that nobody holds a session for."""
    with subprocess.Popen(
        python(str(program), "launch"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(task)
        process.stdin.flush()
        for line in process.stdout:
            message = json.loads(line)
            if "phase" not in message:
                return float(statistics.median(message["result"]["samples_ns"]))
    raise RuntimeError("the launch process ended without a result")


@contextlib.contextmanager
def _session(device: Device, home: Path) -> Iterator[Any]:
    with open_session(device, home=home, lease=Lease(run="bench", purpose="sampler")) as session:
        yield session


@contextlib.contextmanager
def _sampler_of_a_board(home: Path) -> Iterator[watch.Watch]:
    """A sampler that reads the files of a recorded board."""
    path = home / "sampler_on_a_recorded_board.py"
    path.write_text(ON_A_RECORDED_BOARD.format(root=str(BOARD)))
    watched = watch.Watch(str(path), str(home), "bench")
    try:
        yield watched
    finally:
        watched.stop()


def _own_time(watched: watch.Watch) -> Figure:
    """Processor time that the sampler takes to read a Jetson's files, as a share of one core."""
    with watched.over() as launch:
        launch.phases(_nobody)("samples")
        time.sleep(WATCHED_S)
        track = launch.end()["track"]
    percent = 100.0 * track["cpu_s"] / WATCHED_S
    readings = f"{len(track['times_s'])} readings of the files of a Jetson Orin Nano in {WATCHED_S:g} s"
    return Figure("processor time of the sampler, of one core", percent, 1.0, "%", readings)
