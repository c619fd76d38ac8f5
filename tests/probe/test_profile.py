"""Profiles on the device: real runtimes, what their output is read with, and Core ML against a stand-in."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.probe import onnxfile, ortprofile
from edgebench.probe.runtimes import base, openvino
from tests.probe.fakes import npy, replay_spec
from tests.probe.harness import Probe, files_below, spec
from tests.probe.networks import residual

X = np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)


def profile_spec(probe: Probe, runtime: str, files: dict[str, bytes], **changes: Any) -> dict[str, Any]:
    """The spec of a model with the input x and the output y; everything is pushed already."""
    inputs = probe.place({"x.npy": npy(X)})
    samples = [[{"name": "x", "path": f"{inputs}/x.npy"}]]
    return spec(runtime, probe.place(files), samples=samples, **changes)


def onnx_spec(probe: Probe, model: onnx.ModelProto, **options: str) -> dict[str, Any]:
    return profile_spec(
        probe,
        "onnxruntime",
        {"model.onnx": model.SerializeToString()},
        entry={"model": "model.onnx"},
        options=options,
    )


def check_sum(result: dict[str, Any]) -> None:
    """The layers are a part of the whole, and something of it."""
    layers = sum(layer["mean_ns"] for layer in result["layers"])
    assert 0 < layers <= result["total_ns"]
    assert all(layer["mean_ns"] >= 0 and layer["unit"] == "CPU" for layer in result["layers"])
    assert len({layer["name"] for layer in result["layers"]}) == len(result["layers"])


# --- real runtimes ---


def test_onnxruntime_tells_its_kernels_and_leaves_nothing_behind(probe: Probe) -> None:
    result = probe.result("profile", spec=onnx_spec(probe, residual()), repeats=12)
    assert probe.phases == ["import", "load", "profile", "done"]
    check_sum(result)
    assert (result["repeats"], result["estimated"]) == (12, False)
    assert "profiler" in result["method"]
    kinds = [layer["kind"] for layer in result["layers"]]
    assert kinds.count("Conv") + kinds.count("FusedConv") == 2
    assert "Relu" not in kinds  # fused
    by_output = {name: layer for layer in result["layers"] for name in layer["outputs"]}
    assert by_output["g"]["kind"] == "Gemm"
    assert [name for name in files_below(probe.work / "runs") if "profile" in name] == []
    assert probe.end() == 0
    assert not list((probe.work / "runs").glob("*"))


def test_onnxruntime_without_optimisations_has_every_node(probe: Probe) -> None:
    result = probe.result("profile", spec=onnx_spec(probe, residual(), graph_optimization="off"), repeats=5)
    assert [layer["name"] for layer in result["layers"]] == [
        *("conv_a", "relu_a", "conv_b", "add_b", "relu_b", "pool", "flat", "fc", "soft")
    ]


def test_openvino_tells_its_layers_and_what_they_were_made_of(probe: Probe) -> None:
    ov = pytest.importorskip("openvino", reason="missing tool: openvino")
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(residual(), f"{folder}/m.onnx")
        ov.save_model(ov.Core().read_model(f"{folder}/m.onnx"), f"{folder}/m.xml", compress_to_fp16=False)
        files = {name: Path(folder, name).read_bytes() for name in ("m.xml", "m.bin")}
    plain = profile_spec(probe, "openvino", files, entry={"model": "m.xml"})
    result = probe.result("profile", spec=plain, repeats=20)
    check_sum(result)
    parts = {name for layer in result["layers"] for name in layer["parts"]}
    assert {"conv_a", "relu_a", "conv_b", "pool", "fc"} <= parts
    fused = next(layer for layer in result["layers"] if "conv_a" in layer["parts"])
    assert "relu_a" in fused["parts"]


NCNN_PARAM = """7767517
4 5
Input            in0       0 1 in0 0=8 1=8 2=4
Split            s         1 2 in0 a b
ReLU             same      1 1 a c
BinaryOp         same      2 1 c b out0 0=0
"""


def test_ncnn_times_every_layer_by_its_blob(probe: Probe) -> None:
    pytest.importorskip("ncnn", reason="missing tool: ncnn")
    inputs = probe.place({"x.npy": npy(X[:, :1, :8, :8].repeat(4, 1))})
    artifact = probe.place({"m.param": NCNN_PARAM.encode(), "m.bin": b""})
    plain = spec(
        "ncnn",
        artifact,
        entry={"param": "m.param", "bin": "m.bin"},
        blobs={"x": "in0", "y": "out0"},
        samples=[[{"name": "x", "path": f"{inputs}/x.npy"}]],
    )
    result = probe.result("profile", spec=plain, repeats=9)
    check_sum(result)
    assert [layer["name"] for layer in result["layers"]] == ["s", "same", "same#2"]
    assert [layer["outputs"] for layer in result["layers"]] == [["a", "b"], ["c"], ["out0"]]
    assert result["layers"][2]["inputs"] == ["c", "b"]
    assert "extraction" in result["method"]
    assert "light mode off" in result["method"]


# --- the protocol ---


def test_recorded_layers_are_replayed(probe: Probe) -> None:
    layers = [{"name": "a", "kind": "Conv", "mean_ns": 5, "unit": "NPU", "nodes": ["n"]}]
    plain = replay_spec(probe, layers=layers, profiled={"total_ns": 9, "estimated": True})
    result = probe.result("profile", spec=plain, repeats=7)
    assert result["layers"] == layers
    assert (result["total_ns"], result["estimated"], result["repeats"]) == (9, True, 7)


def test_a_runtime_that_tells_no_layers_fails_and_the_session_lives_on(probe: Probe) -> None:
    plain = replay_spec(probe)
    assert "no layers" in probe.error("profile", spec=plain, repeats=3)["message"]
    assert probe.result("launch", spec=plain)["samples_ns"]


@pytest.mark.parametrize("repeats", [0, -1, 1001, "3", None, True, 2.5])
def test_repeats_are_bounded(hardy: Probe, repeats: Any) -> None:
    assert hardy.error("profile", spec=replay_spec(hardy), repeats=repeats)["kind"] == "bad_request"


def test_a_profile_needs_the_lease(open_probe: Callable[..., Probe]) -> None:
    assert "lease" in open_probe().error("profile", spec={}, repeats=1)["message"]


# --- the middle half ---


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.integers(0, 10**9)).map(
            lambda layers: (sum(layers.values()) + 5, layers)
        ),
        min_size=1,
        max_size=40,
    )
)
def test_layers_never_take_more_than_the_whole(passes: list[base.Pass]) -> None:
    total, layers = base.middle_half(passes)
    assert sum(layers.values()) <= total
    assert min(each[0] for each in passes) <= total <= max(each[0] for each in passes)


def test_one_interruption_does_not_weigh_more_than_all_layers() -> None:
    calm = [(100 + k, {"a": 60, "b": 40}) for k in range(7)]
    total, layers = base.middle_half([*calm, (10**9, {"a": 10**9 - 40, "b": 40})])
    assert layers == {"a": 60, "b": 40}
    assert total < 110


def test_openvinos_averages_lose_what_came_before() -> None:
    before, after = {"a": 900_000}, {"a": 290_000, "new": 10_000}
    assert openvino._between(before, 3, after, 13) == {"a": 107_000, "new": 13_000}
    assert openvino._between({"a": 9}, 3, {"a": 1}, 4) == {"a": 0}


# --- ONNX Runtime's profile ---


def event(cat: str, name: str, ts: int, dur: int, tid: int = 1, **args: str) -> str:
    plain = {"cat": cat, "pid": 1, "tid": tid, "dur": dur, "ts": ts, "ph": "X", "name": name}
    return json.dumps({**plain, "args": args})


def kernels(*lines: str) -> ortprofile.Kernels:
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    return ortprofile.Kernels(ortprofile.events(ortprofile.bounded_lines(io.BytesIO(text.encode()))))


def test_kernels_are_summed_within_each_run() -> None:
    found = kernels(
        event("Session", "session_initialization", 0, 5),
        event("Node", "a_kernel_time", 11, 3, op_name="Conv", provider="CPUExecutionProvider"),
        event("Node", "b_kernel_time", 15, 2, op_name="Add", provider="CUDAExecutionProvider"),
        event("Session", "model_run", 10, 9),
        event("Node", "a_kernel_time", 31, 4, op_name="Conv"),
        event("Node", "a_kernel_time", 36, 1, op_name="Conv"),
        event("Session", "model_run", 30, 8),
        event("Node", "a_kernel_time", 90, 4),
    )
    assert found.passes == [(9000, {"a": 3000, "b": 2000}), (8000, {"a": 5000})]
    assert found.operators == {"a": "Conv", "b": "Add"}
    assert [found.unit(name) for name in ("a", "b", "c")] == ["CPU", "GPU", None]


def test_a_branch_is_part_of_the_node_that_holds_it() -> None:
    found = kernels(
        event("Node", "inner_kernel_time", 12, 3),
        event("Node", "other_thread_kernel_time", 12, 3, tid=2),
        event("Node", "if_kernel_time", 11, 6),
        event("Node", "tiny_kernel_time", 18, 0),
        event("Node", "tiny2_kernel_time", 18, 0),
        event("Session", "model_run", 10, 9),
    )
    assert found.passes == [(9000, {"if": 6000, "other_thread": 3000, "tiny": 0, "tiny2": 0})]


@given(st.lists(st.one_of(st.binary(max_size=60), st.just(b"[" * 200), st.just(b'{"ts": 1, "dur": "x"}'))))
def test_any_bytes_are_no_profile_and_no_crash(lines: list[bytes]) -> None:
    data = io.BytesIO(b"\n".join(lines))
    assert ortprofile.Kernels(ortprofile.events(ortprofile.bounded_lines(data))).passes == []


ODD = st.sampled_from(
    [None, True, -1, 1.5, [], [1], {}, {"op_name": [1]}, "Node", "Session", "model_run", "a_kernel_time", ""]
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "cat": ODD,
        "name": ODD,
        "ts": ODD | st.integers(0, 50),
        "dur": ODD | st.integers(0, 50),
        "args": ODD,
        "tid": ODD,
    },
)


@given(st.lists(EVENTS, max_size=12))
def test_any_events_give_times_that_make_sense(found: list[dict[str, Any]]) -> None:
    made = kernels(*map(json.dumps, found))
    for total, layers in made.passes:
        assert total >= 0
        assert all(0 <= each <= total for each in layers.values())


def test_a_line_without_end_is_no_event() -> None:
    data = io.BytesIO(b"x" * (3 << 20) + b"\n" + event("Session", "model_run", 1, 2).encode())
    found = ortprofile.Kernels(ortprofile.events(ortprofile.bounded_lines(data)))
    assert found.passes == [(2000, {})]


# --- ONNX files, read by hand ---


def test_nodes_are_those_of_the_file(tmp_path: Path) -> None:
    model = residual()
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("activation", "Relu"))
    model.graph.node[0].domain = "com.microsoft.nchwc"
    onnx.save(model, tmp_path / "m.onnx")
    found = onnxfile.nodes(str(tmp_path / "m.onnx"))
    assert [each["name"] for each in found] == [each.name for each in model.graph.node]
    assert [each["inputs"] for each in found] == [list(each.input) for each in model.graph.node]
    assert found[0]["texts"] == {"activation": "Relu"}
    assert found[0]["domain"] == "com.microsoft.nchwc"


@settings(max_examples=200)
@given(data=st.data())
def test_a_damaged_onnx_file_is_a_value_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = residual().SerializeToString()
    at = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 400))
    damaged = whole[:at] + data.draw(st.binary(max_size=8)) + whole[at + data.draw(st.integers(0, 8)) :]
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(data.draw(st.sampled_from([damaged, damaged[:at], b""])))
    try:
        found = onnxfile.nodes(str(path))
    except ValueError:
        return
    assert len(found) <= onnxfile.MAX_NODES
