"""How much work one inference is: multiply-accumulates of convolutions, products, recurrent layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgebench.model.base import inlined, real_inputs, skeleton, sort, subgraphs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Shapes = dict[str, tuple[int | None, ...]]

# matrix work that edgebench has no formula for: with one of these the total is unknown, not smaller
_UNCOUNTED = frozenset(
    {
        "Einsum",
        "Attention",
        "MultiHeadAttention",
        "GroupQueryAttention",
        "DeformConv",
        "DynamicQuantizeLSTM",
        "FusedMatMul",
    }
)


def one_sample(model: ModelProto, name: str) -> ModelProto:
    """A sorted skeleton with batch 1 where the leading dimension alone is symbolic, for `count_macs`."""
    fixed = skeleton(inlined(model))
    _fix_batch(fixed.graph)
    sort(fixed.graph, name)  # inference reads the nodes in the file's order
    return fixed


def count_macs(shaped: ModelProto) -> int | None:
    """Multiply-accumulates of one inference of a model with inferred shapes.

    None where a shape they depend on is unknown, or an operator has no formula here. Of an If the costlier
    branch counts; work inside Loop and Scan is unknown.
    """
    return _graph_macs(shaped.graph, {})


def _fix_batch(graph: GraphProto) -> None:
    """Set to 1 every leading dimension that is its input's only unknown one, wherever its symbol stands."""
    symbols: set[str] = set()
    for value in real_inputs(graph):
        dims = value.type.tensor_type.shape.dim
        unknown = [dim for dim in dims if not (dim.HasField("dim_value") and dim.dim_value > 0)]
        if len(unknown) == 1 and unknown[0] is dims[0]:
            if dims[0].dim_param:
                symbols.add(dims[0].dim_param)
            dims[0].dim_value = 1
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = 1


def _graph_macs(graph: GraphProto, outer: Shapes) -> int | None:
    shapes = outer | _shapes(graph)
    total = 0
    for node in graph.node:
        macs = _node_macs(node, shapes)
        if macs is None:
            return None
        total += macs
    return total


def _shapes(graph: GraphProto) -> Shapes:
    """Name -> dimensions (None: unknown) of everything in the graph whose rank is known."""
    known: Shapes = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            known[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
                for dim in value.type.tensor_type.shape.dim
            )
    for tensor in graph.initializer:
        known[tensor.name] = tuple(tensor.dims)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and node.output:
                known[node.output[0]] = tuple(attribute.t.dims)
    return known


def _node_macs(node: NodeProto, shapes: Shapes) -> int | None:
    inner = [_graph_macs(graph, shapes) for graph in subgraphs(node)]
    if inner:
        if any(macs is None for macs in inner):
            return None
        most = max(macs for macs in inner if macs is not None)
        return most if node.op_type == "If" or most == 0 else None
    if node.op_type in _UNCOUNTED:
        return None
    formula = _FORMULAS.get(node.op_type)
    return 0 if formula is None else formula(node, shapes)


def _product(*sizes: int | None) -> int | None:
    return (
        None if any(size is None for size in sizes) else math.prod(size for size in sizes if size is not None)
    )


def _input(node: NodeProto, place: int, shapes: Shapes) -> tuple[int | None, ...]:
    """The dimensions of an input; one unknown dimension where even the rank is not known."""
    name = node.input[place] if place < len(node.input) else ""
    return shapes.get(name, (None,))


def _output(node: NodeProto, shapes: Shapes) -> tuple[int | None, ...]:
    return shapes.get(node.output[0], (None,))


def _convolution(weight: int) -> Callable[[NodeProto, Shapes], int | None]:
    """Output elements x (input channels / group x kernel): the weight is [out, in / group, kernel...]."""
    return lambda node, shapes: _product(*_output(node, shapes), *_input(node, weight, shapes)[1:])


def _transposed(node: NodeProto, shapes: Shapes) -> int | None:
    """Input elements x (output channels / group x kernel): the weight is [in, out / group, kernel...]."""
    return _product(*_input(node, 0, shapes), *_input(node, 1, shapes)[1:])


def _gemm(node: NodeProto, shapes: Shapes) -> int | None:
    """M x K x N, where A is [M, K], or [K, M] with transA."""
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    left = _input(node, 0, shapes)
    return _product(*_output(node, shapes), left[0 if transposed else -1])


def _matmul(node: NodeProto, shapes: Shapes) -> int | None:
    """Output elements x the common dimension, which is the last of the left side."""
    left = _input(node, 0, shapes)
    return _product(*_output(node, shapes), left[-1] if left else 1)


def _recurrent(node: NodeProto, shapes: Shapes) -> int | None:
    """Steps x batch x (input weights + recurrent weights); X is [steps, batch, input]."""
    return _sum(
        _product(*_input(node, 0, shapes)[:2], *_input(node, 1, shapes)),
        _product(*_input(node, 0, shapes)[:2], *_input(node, 2, shapes)),
    )


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second


_FORMULAS: dict[str, Callable[[NodeProto, Shapes], int | None]] = {
    "Conv": _convolution(1),
    "FusedConv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "QLinearMatMul": _matmul,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
