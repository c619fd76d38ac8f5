"""The files of ncnn straight from ONNX, for small float networks that pnnx gets wrong or cannot read.

No batch axis is taken away, so there is nothing to guess. What moves or mixes values along one axis (slices
with steps, Pad, Resize, CumSum, pooling ...) is a MatMul with a constant matrix; a truth value is the float 0
or 1. Slower than what pnnx makes, and exact: it comes second.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.convert.ncnn.direct import convolution, elementwise, movement, normalization, recurrent
from edgebench.convert.ncnn.direct.base import Net, Node, Rule, Value, refused

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **movement.RULES,
    **normalization.RULES,
    **convolution.RULES,
    **recurrent.RULES,
}
OPERATORS = frozenset(_RULES)


def write(path: Path, param: Path, weights: Path, *, half: bool = False) -> None:
    """The two files for an ONNX file; ModelError naming what has no exact form in ncnn's layers.

    `half`: weights are stored in float16. Computing them in float16 is another matter, and not exact: truth
    values come from differences stretched beyond its range.
    """
    import onnx

    net = Net(half=half)
    _walk(onnx.load(path), net)
    param.write_text(net.param_text(), "utf-8")
    weights.write_bytes(b"".join(net.weights))


def _walk(model: ModelProto, net: Net) -> None:
    from onnx import numpy_helper

    values: dict[str, Value] = {}
    for tensor in model.graph.initializer:
        values[tensor.name] = numpy_helper.to_array(tensor)
    for number, value in enumerate(model.graph.input):
        if value.type.tensor_type.elem_type != 1:
            raise refused(f'the input "{value.name}", which is not float32')
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        values[value.name] = net.input(f"in{number}", shape)
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)
    for proto in model.graph.node:
        made = _lowered(proto, values, opset, net)
        values.update(zip(proto.output, made, strict=False))
    for number, value in enumerate(model.graph.output):
        if value.type.tensor_type.elem_type != 1:
            raise refused(f'the output "{value.name}", which is not float32')
        net.output(net.mat(values[value.name]), f"out{number}")


def _lowered(proto: NodeProto, values: dict[str, Value], opset: int, net: Net) -> list[Value]:
    from onnx import helper

    rule = _RULES.get(proto.op_type) if proto.domain in ("", "ai.onnx") else None
    if rule is None:
        raise refused(f'{proto.op_type} "{proto.name or proto.output[0]}"')
    node = Node(
        proto.op_type,
        [values[name] if name else None for name in proto.input],
        {each.name: helper.get_attribute_value(each) for each in proto.attribute},
        len(proto.output),
        opset,
    )
    made = rule(net, node)
    made = made if isinstance(made, list) else [made]
    if len(made) < sum(1 for name in proto.output if name):
        raise refused(f"the outputs {list(proto.output)} of {proto.op_type}")
    return made
