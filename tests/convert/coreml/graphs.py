"""One-operator ONNX models, made small, converted to a Core ML package and evaluated beside ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebench import model
from edgebench.convert.base import Place, Produced, Request
from edgebench.convert.coreml import CoreMlConverter
from edgebench.convert.coreml.interpreter import interpret
from edgebench.errors import ModelError
from tests.convert.coreml.mil import tools

Arrays = dict[str, np.ndarray]


def network(
    nodes: Sequence[Any],
    feeds: Mapping[str, np.ndarray],
    outputs: Mapping[str, type],
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 21,
) -> Any:
    """A model whose inputs have the shapes and types of `feeds`; its outputs' shapes are inferred."""
    import onnx
    from onnx import helper, numpy_helper

    def kind(dtype: Any) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, kind(each.dtype), each.shape) for name, each in feeds.items()],
        [helper.make_tensor_value_info(name, kind(dtype), None) for name, dtype in outputs.items()],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in (weights or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def converted(net: Any, folder: Path, precision: str = "fp32") -> tuple[Produced, Path]:
    """What the converter says of the canonical form, and the package it wrote."""
    tools()
    import onnx

    onnx.save(net, folder / "net.onnx")
    info = model.prepare(folder / "net.onnx", shapes={}, out=folder / "canonical.onnx")
    maker = CoreMlConverter()
    out = folder / "out"
    out.mkdir()
    form = maker.forms[precision]
    request = Request(
        model_path=str(folder / "canonical.onnx"), info=info, precision=precision, options=form.options
    )
    produced = maker.convert(request, Place(output=out, work=folder))
    return produced, out / produced.entry["package"]


def evaluated(net: Any, feeds: Mapping[str, np.ndarray], precision: str = "fp32") -> Arrays:
    """What the saved package computes, by ONNX's names."""
    with tempfile.TemporaryDirectory() as folder:
        produced, package = converted(net, Path(folder), precision)
        given = {produced.blobs[name]: _at_the_boundary(each) for name, each in feeds.items()}
        found = interpret(package, given, precision="fp16" if precision == "fp16" else "fp32")
        return {each.name: found[produced.blobs[each.name]] for each in net.graph.output}


def _at_the_boundary(array: np.ndarray) -> np.ndarray:
    """Core ML takes float32 and int32, of at least one axis."""
    kind = np.float32 if array.dtype.kind == "f" else np.int32
    return array.astype(kind).reshape(array.shape or (1,))


def reference(net: Any, feeds: Mapping[str, np.ndarray]) -> Arrays:
    """What ONNX Runtime computes, with its optimisations off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(net.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def defined(net: Any, feeds: Mapping[str, np.ndarray]) -> Arrays:
    """What ONNX's own reference implementation computes."""
    from onnx.reference import ReferenceEvaluator

    names = [each.name for each in net.graph.output]
    with np.errstate(all="ignore"):
        return dict(zip(names, ReferenceEvaluator(net).run(None, dict(feeds)), strict=True))


def assert_same(
    net: Any,
    feeds: Mapping[str, np.ndarray],
    rtol: float = 1e-4,
    oracle: Callable[[Any, Mapping[str, np.ndarray]], Arrays] = reference,
) -> None:
    """The package and the oracle agree on every output: type of boundary, shape and numbers."""
    found, wanted = evaluated(net, feeds), oracle(net, feeds)
    for name, want in wanted.items():
        got = found[name]
        assert got.shape == (want.shape or (1,)), name
        scale = float(np.max(np.abs(want.astype(np.float64)), initial=1e-3))
        np.testing.assert_allclose(
            got.reshape(want.shape).astype(np.float64),
            want.astype(np.float64),
            rtol=rtol,
            atol=1e-5 * scale,
            err_msg=name,
        )


def refused(net: Any) -> ModelError:
    """The error that says why the converter takes the model not."""
    with tempfile.TemporaryDirectory() as folder, pytest.raises(ModelError) as caught:
        converted(net, Path(folder))
    return caught.value


def skip_without_coremltools() -> None:
    """A skip that CI forbids where coremltools is not installed."""
    pytest.importorskip("coremltools", reason="missing tool: coremltools")
