"""The health check of a board: a known tiny model of edgebench's own, right outputs and its usual latency.

The model is written here, the same bytes each time, and goes the way of every other: converted and proven on
the controller, pushed, proven on the device, measured in one short launch.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from edgebench.device.session import Session
from edgebench.pipeline.base import MODEL_FILE, Cell, Prepared, Step, Workbench, judge, why
from edgebench.records import Facts, HealthCheck, Target, Workload, replace
from edgebench.statistics import percentile_ns

REVISION = 1  # raised whenever the model or its workload changes: earlier checks are no band for it then
NAME = "edgebench-health"
# runtimes that can run the tiny model anywhere, cheapest to have on a device first
RUNTIMES = ("onnxruntime", "ncnn", "openvino")
WORKLOAD = Workload(
    launches=1,
    threads=1,
    warmup_samples=20,
    max_warmup_s=1.0,
    min_samples=50,
    min_duration_s=0.3,
    max_duration_s=2.0,
)
QUANTILE = 0.1
CHANNELS, SIZE, LAYERS = 16, 32, 4


def health_cell(target: Target, used: Collection[str], home: Path) -> Cell | None:
    """The tiny model for a device of a target: in a runtime that its jobs use, else in one that it offers.

    None where the target offers none that can run it.
    """
    offered = [
        name for name in RUNTIMES if name in target.runtimes and "fp32" in target.runtimes[name].precisions
    ]
    wanted = [name for name in offered if name in used] or offered
    if not wanted:
        return None
    return Cell(
        model_path=str(_model_file(home)),
        runtime=wanted[0],
        precision="fp32",
        as_is=True,
        name=NAME,
        arch=target.platform.arch,
    )


def examine(prepared: Prepared, session: Session, facts: Facts, run: str, bench: Workbench) -> HealthCheck:
    """One check, not yet judged by the device's band; not passed where the outputs are wrong."""
    name = session.device.name
    bench.announce(Step("health check", name, f"in {prepared.artifact.runtime}"))
    folder = bench.artifacts.path(prepared.artifact.digest)
    placed = session.place(prepared.artifact, folder, prepared.inputs, facts)
    outputs = session.infer(prepared.artifact, placed, prepared.inputs, WORKLOAD.threads)
    reference = bench.reference(prepared.variant, prepared.inputs)
    bounds = bench.bounds(prepared.variant, prepared.inputs, prepared.artifact.runtime, "fp32")
    report = judge(reference, outputs, bounds, name, prepared.inputs_kind)
    if not report.passed:
        return not_passed(
            prepared, session, run, f"the known tiny model computes something else: {why(report)}"
        )
    check = replace(not_passed(prepared, session, run, ""), passed=True)
    if facts.emulated:  # an emulator's latency is not the board's
        return check
    launch = session.launch(
        prepared.artifact, placed, prepared.inputs, WORKLOAD, 1, phase=lambda _phase: None
    )
    return replace(
        check,
        subject=_subject(launch.runtime_version, prepared, facts),
        p10_ns=percentile_ns(sorted(launch.samples_ns), QUANTILE) if launch.samples_ns else None,
        foreign_load=launch.foreign_load,
    )


def not_passed(prepared: Prepared, session: Session, run: str, reason: str) -> HealthCheck:
    """A check that ended before there was a latency."""
    return HealthCheck(
        device=session.device.name,
        run=run,
        checked_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        runtime=prepared.artifact.runtime,
        subject="",
        passed=False,
        reason=reason,
    )


def _subject(version: str, prepared: Prepared, facts: Facts) -> str:
    """What two checks must have in common for their latencies to be comparable."""
    board = facts.board or facts.cpu or facts.arch
    runtime = f"{prepared.artifact.runtime} {version}"
    return f"{NAME} {REVISION}; {runtime}; {board}; power mode {facts.power_mode or 'unknown'}"


def _model_file(home: Path) -> Path:
    """The tiny model's file, written when it is not there."""
    path = home / "health" / f"{NAME}-{REVISION}" / MODEL_FILE
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{secrets.token_hex(6)}.part")
        part.write_bytes(_model_bytes())
        os.replace(part, path)
    return path


def _model_bytes() -> bytes:
    """Four convolutions with ReLU on a 32 x 32 image of 16 channels; weights are fixed fractions."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    shape = (CHANNELS, CHANNELS, 3, 3)
    numbers = np.arange(CHANNELS * CHANNELS * 9, dtype=np.int64)
    nodes, weights, last = [], [], "image"
    for layer in range(LAYERS):
        values = ((numbers * 7919 + layer * 104729) % 31 - 15).astype(np.float32) / 128
        weights.append(numpy_helper.from_array(values.reshape(shape), f"weight{layer}"))
        nodes.append(
            helper.make_node(
                "Conv", [last, f"weight{layer}"], [f"sum{layer}"], name=f"conv{layer}", pads=[1, 1, 1, 1]
            )
        )
        last = "features" if layer == LAYERS - 1 else f"relu{layer}"
        nodes.append(helper.make_node("Relu", [f"sum{layer}"], [last], name=f"relu{layer}"))
    image = [1, CHANNELS, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, image)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made: bytes = model.SerializeToString(deterministic=True)
    return made
