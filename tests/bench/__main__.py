"""`make bench`: the speed and memory that the design asks for, as ratios measured side by side in one run.

Prints the table and keeps it in docs/benchmarks.md with the date and the command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import edgebench
from edgebench.convert.run import Limits
from edgebench.device.session import InputSet, Lease, Placed, Session, open_session
from edgebench.errors import InfrastructureError
from edgebench.pipeline import Cell, Prepared, Workbench, prepare
from edgebench.records import Device, Workload
from edgebench.tools import find_pnnx, install_pnnx
from tests.bench import page
from tests.bench.coreml import interpreter_against_inference, onnx2coreml
from tests.bench.figures import ten_million_samples
from tests.bench.fleets import real_devices, simulated_devices
from tests.bench.gates import gate_over_a_large_store
from tests.bench.measure import Figure, Line, Ratio, paired, peak_bytes, python, run, wall_s
from tests.bench.push import pushing
from tests.bench.reports import reports

HERE = Path(__file__).parent
DEMO = Path(edgebench.__file__).parent / "demo"
SAMPLES = 3000
LOOP_PAIRS = 9
CONVERT_PAIRS = 5
CONVERT_LIMITS = {"ncnn": 1.25, "openvino": 1.25, "coreml": 1.5}
BARE_TOOLS = {"coreml": "onnx2coreml"}  # where it is not the runtime's own
PARTS = ("statistics", "reports", "runtimes", "push", "fleets")


class Sizes(NamedTuple):
    """How much is measured; anything but the plain sizes is a quick look, and the table is not kept."""

    only: str | None = None
    push_mb: int = 100
    devices: int = 100
    simulated: int = 1000


class Bench(SimpleNamespace):
    """What the benchmarks share: a home of their own, a workbench and a leased session on this computer."""

    home: Path
    bench: Workbench
    session: Session


@contextlib.contextmanager
def opened() -> Iterator[Bench]:
    """A bench in a temporary home, with pnnx."""
    with tempfile.TemporaryDirectory(prefix="edgebench-bench-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        _take_tools(home)
        bench = Workbench(home, limits=Limits())
        device = Device(name="local", target="", transport="local", work_dir=str(Path(folder) / "device"))
        session = open_session(device, home=home, lease=Lease(run="bench", purpose="make bench"))
        try:
            with session:
                yield Bench(home=home, bench=bench, session=session)
        finally:
            bench.close()


def _take_tools(home: Path) -> None:
    """pnnx and runtimes for devices in the bench's home: copied where they are already, else downloaded."""
    from edgebench.settings import load

    bundles = load(Path(), os.environ).home / "bundles"
    if bundles.is_dir():
        shutil.copytree(bundles, home / "bundles")
    try:
        installed = find_pnnx(load(Path(), os.environ).home)
        shutil.copytree(installed.parent, home / "tools" / installed.parent.name)
    except InfrastructureError:
        install_pnnx(home)


# --- the probe against a bare loop --------------------------------------------------------------


def probe_against_bare_loop(bench: Bench, runtime: str) -> Ratio:
    """p50 of a probe's launch over that of a bare loop: fresh processes, the same artifact and input."""
    prepared = prepare(
        Cell(model_path=str(DEMO / "digits.onnx"), runtime=runtime, precision="fp32"), bench.bench
    )
    folder = bench.bench.artifacts.path(prepared.artifact.digest)
    facts = bench.session.facts()
    placed = bench.session.place(prepared.artifact, folder, prepared.inputs, facts)
    workload = Workload(threads=1, warmup_samples=20, min_samples=SAMPLES, min_duration_s=0.0)

    def ours() -> float:
        launch = bench.session.launch(
            prepared.artifact, placed, prepared.inputs, workload, 1, lambda _phase: None
        )
        return float(statistics.median(launch.samples_ns[:SAMPLES]))

    command = _bare_loop(prepared, folder, prepared.inputs)
    return paired(
        f"probe p50 / bare loop p50, {runtime}",
        ours,
        lambda: float(run(command)),
        pairs=LOOP_PAIRS,
        limit=1.01,
        remark=f"digits fp32, 1 thread, {SAMPLES} samples",
    )


def _bare_loop(prepared: Prepared, folder: Path, inputs: InputSet) -> list[str]:
    name, path = inputs.samples[0][0]
    sample = str(Path(inputs.folder) / path)
    entry = prepared.artifact.entry
    if prepared.artifact.runtime == "ncnn":
        files = [str(folder / entry["param"]), str(folder / entry["bin"]), sample]
    else:
        files = [str(folder / entry["model"]), sample, name]
    return python(str(HERE / "bare_loop.py"), prepared.artifact.runtime, *files, str(SAMPLES))


# --- start-up and memory ------------------------------------------------------------------------


def help_against_click() -> Ratio:
    """`edgebench --help` over an interpreter that only imports click."""
    ours, theirs = python("-m", "edgebench", "--help"), python("-c", "import click")
    return paired(
        "edgebench --help / python -c 'import click'",
        lambda: wall_s(ours),
        lambda: wall_s(theirs),
        pairs=11,
        limit=2.5,
    )


IMPORTS = """
import importlib
for library in ("alembic.command", "click", "msgspec", "numpy", "onnx.shape_inference"):
    importlib.import_module(library)
for library in ("rich.console", "rich.table", "sqlalchemy", "yaml", "zstandard"):
    importlib.import_module(library)
for module in ("pipeline", "store", "cli.run", "cli.progress", "convert.ncnn", "transport.local"):
    importlib.import_module("edgebench." + module)
"""

JOB = """
from edgebench.cli.main import run
words = "run {model} --to ncnn --inventory {inventory} --launches 2 --threads 1 --json"
assert run(words.split()) == 0
"""


def controller_memory(bench: Bench) -> Figure:
    """Peak memory of the controller in one ncnn job above that of importing what it uses."""
    environment = {"EDGEBENCH_HOME": str(bench.home)}
    inventory = bench.home / "inventory.yaml"
    work_dir = bench.home.parent / "device-of-job"
    inventory.write_text(f"version: 1\ndevices:\n  local: {{transport: local, work_dir: {work_dir}}}\n")
    job = JOB.format(model=DEMO / "digits.onnx", inventory=inventory)
    extra = [peak_bytes(job, **environment) - peak_bytes(IMPORTS, **environment) for _ in range(3)]
    value = statistics.median(extra) / 2**20
    return Figure("controller's peak in one ncnn job above its imports", value, 60.0, "MiB", "median of 3")


# --- conversion ---------------------------------------------------------------------------------


def conversion(bench: Bench, runtime: str, model: Path) -> list[Line]:
    """Converting over the bare tool, and a repeated convert over the first."""
    tool = _bare_tool(bench, runtime, model)
    first: list[float] = []
    again: list[float] = []
    parity: list[float] = []

    def ours() -> float:
        shutil.rmtree(bench.home / "artifacts", ignore_errors=True)
        fresh = Workbench(bench.home, limits=Limits())
        cell = Cell(model_path=str(model), runtime=runtime, precision="fp32")
        try:
            started = time.perf_counter()
            made = prepare(cell, fresh)
            first.append(time.perf_counter() - started)
            parity.append(made.parity_s + made.conversion.check_s)
            started = time.perf_counter()
            prepare(cell, fresh)
            again.append(time.perf_counter() - started)
        finally:
            fresh.close()
        return made.conversion.total_s - made.conversion.check_s  # loading and running it is parity's share

    line = paired(
        f"convert / {BARE_TOOLS.get(runtime, 'bare tool')}, {runtime}",
        ours,
        lambda: wall_s(tool),
        pairs=CONVERT_PAIRS,
        limit=CONVERT_LIMITS[runtime],
    )
    line = line._replace(remark=f"{model.stem}; parity apart: {statistics.median(parity):.2f} s")
    shares = [later / earlier for earlier, later in zip(first, again, strict=True)]
    repeated = Ratio(
        f"repeated convert / first, {runtime}",
        statistics.median(shares),
        min(shares),
        max(shares),
        len(shares),
        0.05,
        f"{model.stem}; served from the artifact store with its parity",
    )
    return [line, repeated]


OPENVINO = (
    "import sys, openvino; openvino.save_model(openvino.convert_model(sys.argv[1]), sys.argv[2] + '/m.xml')"
)


def _bare_tool(bench: Bench, runtime: str, model: Path) -> list[str]:
    """The command a person would type for the same conversion, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(dir=bench.home))
    copy = folder / model.name
    shutil.copy(model, copy)
    if runtime == "coreml":
        return onnx2coreml(copy, folder)
    if runtime == "openvino":
        return python("-c", OPENVINO, str(copy), str(folder))
    shape = "inputshape=[1,3,224,224]f32"
    return [str(find_pnnx(bench.home)), str(copy), "fp16=0", "optlevel=2", shape]


def preflight_against_loading(bench: Bench) -> Ratio:
    """TensorRT's preflight of a 100 MB model over loading that model."""
    from edgebench import model
    from edgebench.convert.tensorrt.base import Board
    from edgebench.convert.tensorrt.preflight import preflight
    from tests.bench.networks import hundred_megabytes

    path = bench.home / "wide.onnx"
    model.prepare(hundred_megabytes(path), shapes={}, out=path)
    loaded, board = model.load(path), Board((10, 3, 0), (8, 7))

    def ours() -> float:
        started = time.perf_counter()
        preflight(loaded, board, "fp32")
        return time.perf_counter() - started

    def theirs() -> float:
        started = time.perf_counter()
        model.load(path)
        return time.perf_counter() - started

    return paired("TensorRT preflight of 100 MB / loading it", ours, theirs, pairs=9, limit=0.05)


# --- pushing ------------------------------------------------------------------------------------


def unchanged_push(bench: Bench) -> Figure:
    """Bytes that travel when an artifact is pushed a second time."""
    model = str(DEMO / "digits.onnx")
    prepared = prepare(Cell(model_path=model, runtime="onnxruntime", precision="fp32"), bench.bench)
    folder, facts = bench.bench.artifacts.path(prepared.artifact.digest), bench.session.facts()
    bench.session.place(prepared.artifact, folder, prepared.inputs, facts)
    again: Placed = bench.session.place(prepared.artifact, folder, prepared.inputs, facts)
    return Figure("push of an unchanged artifact", float(again.moved_bytes), 0.0, "bytes")


# --- the table ----------------------------------------------------------------------------------


def lines(sizes: Sizes) -> Iterator[Line]:
    """Every benchmark, one after the other, or those of one part."""
    from tests.bench.sampler import session_and_sampler

    if sizes.only in (None, "statistics"):
        yield ten_million_samples()
        yield from gate_over_a_large_store()
    if sizes.only in (None, "reports"):
        yield from reports()
    if sizes.only in ("statistics", "reports"):
        return
    if sizes.only in (None, "runtimes"):  # its leases are of the whole computer: before the bench takes one
        yield from session_and_sampler()
    with opened() as bench:
        if sizes.only in (None, "runtimes"):
            yield from runtimes(bench)
        if sizes.only in (None, "push"):
            yield unchanged_push(bench)
            yield from pushing(bench.bench, sizes.push_mb, DEMO / "digits.onnx")
        if sizes.only in (None, "fleets"):
            yield from simulated_devices(bench.home, sizes.simulated, DEMO / "digits.onnx")
            yield from real_devices(bench.home, sizes.devices, DEMO / "digits.onnx")


def runtimes(bench: Bench) -> Iterator[Line]:
    """The probe, the command line, and each conversion."""
    from tests.bench.calibration import calibration_against_inference
    from tests.bench.networks import resnet18
    from tests.bench.quantizing import static_int8

    network = resnet18(bench.home / "resnet18.onnx")
    yield probe_against_bare_loop(bench, "onnxruntime")
    yield probe_against_bare_loop(bench, "ncnn")
    yield help_against_click()
    yield controller_memory(bench)
    for runtime in CONVERT_LIMITS:
        yield from conversion(bench, runtime, network)
    yield interpreter_against_inference(bench.bench, network)
    yield calibration_against_inference(bench.home, network)
    yield from static_int8(bench.home, network)
    yield preflight_against_loading(bench)


def row(line: Line) -> tuple[str, ...]:
    """One line of the table as text."""
    state = "holds" if line.holds else "DOES NOT HOLD"
    if isinstance(line, Figure):
        return (
            line.name,
            f"{line.value:.4g} {line.unit}",
            "",
            f"{line.limit:g} {line.unit}",
            state,
            line.remark,
        )
    spread = f"{line.low:.3f} to {line.high:.3f}, {line.pairs} pairs"
    return line.name, f"{line.ratio:.4f}", spread, f"{line.limit:g}", state, line.remark


HEADERS = ("what", "measured", "range", "at most", "", "remark")


def markdown(rows: list[tuple[str, ...]]) -> str:
    """The page that keeps the table."""
    now = datetime.now(UTC)
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [HEADERS, ("---",) * len(HEADERS), *rows])
    return (
        "# Benchmarks\n\nRatios measured side by side in one run: the median of pairs taken in turn. "
        "Absolute times are not kept: the machine is shared.\n\n"
        f"Command: `make bench`, {now:%Y-%m-%d}, {platform.machine()}, "
        f"Python {platform.python_version()}.\n\n"
        f"{table}\n"
    )


def main() -> int:
    """Run everything, print and keep the table; 1 when a figure is not reached."""
    sizes = _sizes(sys.argv[1:])
    rows, failed = [], False
    for line in lines(sizes):
        cells = row(line)
        rows.append(cells)
        failed = failed or not line.holds
        print("  ".join(cells), flush=True)
    if sizes == Sizes():
        page.keep("", markdown(rows).splitlines())
    return 1 if failed else 0


def _sizes(arguments: Sequence[str]) -> Sizes:
    plain = Sizes()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=main.__doc__)
    parser.add_argument("--only", choices=PARTS, help="one part; the table is not kept then")
    parser.add_argument("--push-mb", type=int, default=plain.push_mb, help="the file that is pushed, MB")
    parser.add_argument("--devices", type=int, default=plain.devices, help="real sshd at the same time")
    parser.add_argument("--simulated", type=int, default=plain.simulated, help="simulated devices")
    given = parser.parse_args(arguments)
    return Sizes(given.only, given.push_mb, given.devices, given.simulated)


if __name__ == "__main__":
    sys.exit(main())
