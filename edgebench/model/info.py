"""What a network is: inputs, outputs, weights, operators, precision, and what its own metadata tells."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench.model.base import DEFAULT_DOMAINS, graphs, inlined, nodes, real_inputs, tensors, type_name
from edgebench.records import ModelInfo, Tensor

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

Precision = Literal["fp32", "fp16", "int8-qdq", "int8-dynamic", "mixed"]

KEY_MODEL, KEY_VARIANT, KEY_LINEAGE = "edgebench.model", "edgebench.variant", "edgebench.lineage"
KEY_SOURCE = "edgebench.source_sha256"  # of the file that the lineage begins with
MAX_LINEAGE_CHARS = 64 * 1024
MAX_LINEAGE_STEPS = 64
MAX_NAME_CHARS = 100

# which inputs of an operator are scales and zero points: its grid, not its weights
_GRID_INPUTS = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
}
# operator -> (place of the weight, place of its zero point)
_ZERO_POINTS = {
    "DequantizeLinear": (0, 2),
    "QLinearConv": (3, 5),
    "QLinearMatMul": (3, 5),
    "ConvInteger": (1, 3),
    "MatMulInteger": (1, 3),
}
_FLOATS = frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"})
_SMALL_INTEGERS = frozenset({"INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4", "INT2", "UINT2"})


class _Zero(NamedTuple):
    """The zero point of a stored weight (None: 0), and the axis it runs along."""

    values: NDArray[Any] | None
    axis: int


def describe(model: ModelProto, *, stem: str, digest: str, size_bytes: int, macs: int | None) -> ModelInfo:
    """The ModelInfo of a checked model; `stem` is its name where its metadata has none."""
    written_out = inlined(model)
    name, variant = names(model, stem)
    return ModelInfo(
        name=name,
        variant=variant,
        digest=digest,
        size_bytes=size_bytes,
        ir_version=model.ir_version,
        opset=_opsets(model),
        inputs=tuple(_tensor(value) for value in real_inputs(model.graph)),
        outputs=tuple(_tensor(value) for value in model.graph.output),
        parameters=_parameters(written_out),
        macs=macs,
        operators=_operators(model.graph),
        precision=precision_of(written_out),
        sparsity=sparsity(written_out),
        lineage=tuple(_told(step) for step in lineage(model)),
    )


def names(model: ModelProto, stem: str) -> tuple[str, str]:
    """Name and variant: told by the file's metadata, else the file's name and the precision."""
    told = metadata(model)
    return _name(told.get(KEY_MODEL, ""), stem), _name(
        told.get(KEY_VARIANT, ""), precision_of(inlined(model))
    )


# --- metadata -----------------------------------------------------------------------------------


def metadata(model: ModelProto) -> dict[str, str]:
    """The model's own key-value texts."""
    return {entry.key: entry.value for entry in model.metadata_props}


def lineage(model: ModelProto) -> list[dict[str, Any]]:
    """The steps that the file says it went through, oldest first; damaged lineage counts as none."""
    text = metadata(model).get(KEY_LINEAGE, "")
    if not text or len(text) > MAX_LINEAGE_CHARS:
        return []
    try:
        steps = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if not isinstance(steps, list) or len(steps) > MAX_LINEAGE_STEPS:
        return []
    return [step for step in steps if isinstance(step, dict) and isinstance(step.get("step"), str)]


def set_metadata(model: ModelProto, changes: dict[str, str]) -> None:
    """Write the keys, keep all others, in the order of the keys."""
    told = metadata(model) | changes
    del model.metadata_props[:]
    for key in sorted(told):
        model.metadata_props.add(key=key, value=told[key])


def _told(step: dict[str, Any]) -> str:
    """One step of the lineage as text: `int8-static activation=uint8 ... from sha256:0123456789ab`."""
    settings = step.get("settings")
    words = [step["step"]]
    if isinstance(settings, dict):
        words += [f"{key}={_plain(value)}" for key, value in sorted(settings.items())]
    for key, word in (("data", "data"), ("input", "from")):
        if isinstance(step.get(key), str):
            words.append(f"{word} sha256:{step[key][:12]}")
    return "".join(letter for letter in " ".join(words) if letter.isprintable())[:500]


def _plain(value: object) -> str:
    if isinstance(value, list):
        sizes = all(isinstance(part, int) for part in value)
        return ("x" if sizes else "+").join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _name(told: str, otherwise: str) -> str:
    """A name fit for tables and folders: the told one where it is printable, short and without slashes."""
    usable = told.strip()
    if usable and len(usable) <= MAX_NAME_CHARS and usable.isprintable() and not set(usable) & set("/\\"):
        return usable
    return otherwise


# --- inputs, operators, precision ---------------------------------------------------------------


def _tensor(value: ValueInfoProto) -> Tensor:
    typed = value.type.tensor_type
    shape: list[int | str] = []
    for dim in typed.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            shape.append(dim.dim_value)
        else:
            shape.append(dim.dim_param or "?")
    return Tensor(name=value.name, dtype=dtype_name(typed.elem_type), shape=tuple(shape))


def dtype_name(kind: int) -> str:
    """The numpy name of an ONNX element type: "float32", "int64", "bool" ..."""
    from onnx import helper

    return str(helper.tensor_dtype_to_np_dtype(kind).name)


def _opsets(model: ModelProto) -> dict[str, int]:
    """Domain -> version, for the domains that nodes use; the default domain is "ai.onnx"."""
    used = {node.domain or "ai.onnx" for node in nodes(model.graph)}
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    return {domain: versions[domain] for domain in sorted(used) if domain in versions}


def _operators(graph: GraphProto) -> dict[str, int]:
    """Operator -> how often, most frequent first; `domain::Name` outside the default domain."""
    counts = Counter(
        node.op_type if node.domain in DEFAULT_DOMAINS else f"{node.domain}::{node.op_type}"
        for node in nodes(graph)
    )
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def precision_of(model: ModelProto) -> Precision:
    """How the network computes, told by its nodes and weights.

    int8-qdq: activations pass through QuantizeLinear, or QLinear operators; int8-dynamic: activations are
    quantized at run time; mixed: both of these, weight-only quantization, or float weights of several types.
    """
    operators = {node.op_type for node in nodes(model.graph)}
    static = "QuantizeLinear" in operators or any(name.startswith("QLinear") for name in operators)
    dynamic = any(
        name in ("ConvInteger", "MatMulInteger") or name.startswith("DynamicQuantize") for name in operators
    )
    if static or dynamic or "DequantizeLinear" in operators:
        if static == dynamic:
            return "mixed"
        return "int8-qdq" if static else "int8-dynamic"
    kinds = {type_name(kind) for kind in _float_types(model)}
    if kinds == {"FLOAT16"}:
        return "fp16"
    return "fp32" if kinds <= {"FLOAT"} else "mixed"


def _float_types(model: ModelProto) -> set[int]:
    """Element types of the float weights of two or more dimensions, else of inputs and outputs."""
    stored = [tensor for tensor in tensors(model) if type_name(tensor.data_type) in _FLOATS]
    weights = {tensor.data_type for tensor in stored if len(tensor.dims) >= 2}
    ends = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    return weights or {kind for kind in ends if type_name(kind) in _FLOATS}


# --- weights ------------------------------------------------------------------------------------


def _array(tensor: TensorProto) -> NDArray[Any]:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def _constants(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Name and tensor of every initializer and every Constant node, inner graphs included."""
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            yield tensor.name, tensor
        for node in graph.node:
            if node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS:
                for attribute in node.attribute:
                    if attribute.name == "value" and node.output:
                        yield node.output[0], attribute.t


def _parameters(model: ModelProto) -> int:
    """How many weights the network has, stored or made by ConstantOfShape.

    Counted: float tensors of rank 1 and more, small integers, int32 biases behind DequantizeLinear. Not
    counted: shapes, axes and indices (int64, bool), scalars, scales and zero points.
    """
    grids = _grid_names(model.graph)
    biases = {
        node.input[0] for node in nodes(model.graph) if node.op_type == "DequantizeLinear" and node.input
    }
    biases |= {
        node.input[8] for node in nodes(model.graph) if node.op_type == "QLinearConv" and len(node.input) > 8
    }
    total = 0
    for name, tensor in _constants(model):
        kind = type_name(tensor.data_type)
        counted = kind in _FLOATS or kind in _SMALL_INTEGERS or kind.startswith("FLOAT8")
        if name not in grids and tensor.dims and (counted or (kind == "INT32" and name in biases)):
            total += math.prod(tensor.dims)
    return total + _generated(model)


def _generated(model: ModelProto) -> int:
    """Elements that ConstantOfShape makes from constant shapes (ONNX's "light" networks are made so)."""
    stored = dict(_constants(model))
    total = 0
    for node in nodes(model.graph):
        if node.op_type == "ConstantOfShape" and node.input and node.input[0] in stored:
            shape = _array(stored[node.input[0]]).reshape(-1)
            kinds = [attribute.t.data_type for attribute in node.attribute if attribute.name == "value"]
            if len(shape) and (not kinds or type_name(kinds[0]) in _FLOATS):
                total += math.prod(int(size) for size in shape)
    return total


def _grid_names(graph: GraphProto) -> set[str]:
    return {
        node.input[place]
        for node in nodes(graph)
        for place in _GRID_INPUTS.get(node.op_type, ())
        if place < len(node.input)
    }


def sparsity(model: ModelProto) -> float:
    """The share of zeros among stored weights of two or more dimensions; quantized, of zero points."""
    grids = _grid_names(model.graph)
    zeros_of = _zero_points(model)
    total = zeros = 0
    for name, tensor in _constants(model):
        kind = type_name(tensor.data_type)
        if len(tensor.dims) < 2 or name in grids or not (kind in _FLOATS or kind in _SMALL_INTEGERS):
            continue
        values = _array(tensor)
        total += values.size
        zeros += values.size - int(np.count_nonzero(_centred(values, zeros_of.get(name))))
    return zeros / total if total else 0.0


def _centred(values: NDArray[Any], zero: _Zero | None) -> NDArray[Any]:
    """Nonzero where the weight is: the values themselves, or where they differ from their zero point."""
    if zero is None or zero.values is None:
        return values
    shape = [1] * values.ndim
    if zero.values.size > 1:
        if not -values.ndim <= zero.axis < values.ndim or zero.values.size != values.shape[zero.axis]:
            return values
        shape[zero.axis] = zero.values.size
    different: NDArray[Any] = values != zero.values.reshape(shape)
    return different


def _zero_points(model: ModelProto) -> dict[str, _Zero]:
    stored = dict(_constants(model))
    found: dict[str, _Zero] = {}
    for node in nodes(model.graph):
        places = _ZERO_POINTS.get(node.op_type)
        if places is None or len(node.input) <= places[0] or node.input[places[0]] not in stored:
            continue
        name = node.input[places[1]] if places[1] < len(node.input) else ""
        values = _array(stored[name]) if name in stored else None
        if values is not None and values.size == 0:
            values = None
        found[node.input[places[0]]] = _Zero(values, _axis(node))
    return found


def _axis(node: NodeProto) -> int:
    """Along which axis a node's grid runs: DequantizeLinear's default is 1, the others' the output."""
    if node.op_type != "DequantizeLinear":
        return -1 if node.op_type in ("QLinearMatMul", "MatMulInteger") else 0
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
