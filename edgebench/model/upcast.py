"""float16 networks as float32, for tools that take float32 only (pnnx)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgebench.model.base import copied, graphs, tensors

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto, TypeProto

_FLOAT, _FLOAT16 = 1, 10  # onnx.proto, TensorProto.DataType

# operators whose attribute names an element type
_TYPE_ATTRIBUTES = {
    "Cast": "to",
    "QuantizeLinear": "output_dtype",
    "EyeLike": "dtype",
    "RandomNormal": "dtype",
    "RandomUniform": "dtype",
    "RandomNormalLike": "dtype",
    "RandomUniformLike": "dtype",
    "Bernoulli": "dtype",
    "Multinomial": "dtype",
    "SequenceEmpty": "dtype",
    "LayerNormalization": "stash_type",
}


def fp16_to_fp32(model: ModelProto) -> ModelProto:
    """A new model that computes in float32 what this one does in float16; weights stay as rounded.

    Weights, constants, inputs, outputs, inferred types and the targets of Cast change; nothing else does. A
    model without float16 comes back as an equal copy. Inputs that were float16 are float32 afterwards.
    """
    made = copied(model)
    for tensor in tensors(made):
        if tensor.data_type == _FLOAT16:
            _widen(tensor)
    for graph in graphs(made.graph):
        for kind in (graph.input, graph.output, graph.value_info):
            for value in kind:
                _widen_type(value.type)
        for node in graph.node:
            wanted = _TYPE_ATTRIBUTES.get(node.op_type)
            for attribute in node.attribute:
                if attribute.name == wanted and attribute.i == _FLOAT16:
                    attribute.i = _FLOAT
    return made


def _widen(tensor: TensorProto) -> None:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor).astype(np.float32)
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def _widen_type(kind: TypeProto) -> None:
    which = kind.WhichOneof("value")
    if which == "tensor_type" and kind.tensor_type.elem_type == _FLOAT16:
        kind.tensor_type.elem_type = _FLOAT
    elif which == "sequence_type":
        _widen_type(kind.sequence_type.elem_type)
    elif which == "optional_type":
        _widen_type(kind.optional_type.elem_type)
