"""ONNX graph -> MIL program: fold what is constant, expand functions, list what is unsupported, lower.

    read -> fp16 as fp32 -> expand functions -> check every operator at once -> walk and lower -> outputs

Every lowering is one function of the table; what cannot be expressed exactly is refused there. Refusals of a
model are collected while walking: the stand-in for a refused node has the right shape, so that the walk can
go on.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from coremltools.converters.mil.mil import Function, Program
from numpy.typing import NDArray

from edgebench.convert.coreml.base import (
    OTHERS,
    Node,
    Quantized,
    Value,
    cast,
    elements,
    elements_open,
    is_symbolic,
    mb,
    mil_type,
    reshaped,
    types,
)
from edgebench.errors import ModelError
from edgebench.model.base import inferred

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MAX_SHOWN = 12
MAX_ROUNDS = 6
MAX_FOLDED_ELEMENTS = 1 << 28
_TOOL_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
_NEVER_FOLDED = (
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)
_DOMAINS = ("", "ai.onnx")
_MOVES = frozenset(
    {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice"}
)  # values stay what they are
# words of MIL's own language: coremltools renames inputs and outputs that are called so
_TYPES = (
    "bool",
    "string",
    *(f"{kind}{bits}" for kind in ("int", "uint", "fp", "bf") for bits in (8, 16, 32, 64)),
)
_WORDS = (
    "any",
    "program",
    "func",
    "tensor",
    "list",
    "dict",
    "tuple",
    "true",
    "false",
    "state",
    "main",
    "block",
)
_RESERVED = frozenset((*_TYPES, *_WORDS))
# operators that sizes may pass through as symbols
_OF_SIZES = frozenset(
    {
        "Add",
        "Cast",
        "Concat",
        "Gather",
        "Identity",
        "Mul",
        "Reshape",
        "Slice",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
    }
)
_OPEN = "it must know a size that --flexible leaves open"
_HINT_OPEN = "open fewer sizes, or convert a package for each shape: --shape instead of --flexible"
_HINT_FALSE = "the model tells a false type or shape: export the network to ONNX again"
_WAYS_OUT = {
    "NonMaxSuppression": "--cut-nms ends the model before it and returns its boxes and scores",
    "NonZero": "cut it off the model and return its input: how many are not zero is known at run time only",
    "Unique": "cut it off the model and return its input: how many differ is known at run time only",
    "If": "--set NAME=NUMBER where an input decides it, or export the network without branches",
    "Loop": "make its number of steps a constant, or export the network with the loop unrolled",
    "Scan": "fix the sequence length, or export the network with the loop unrolled",
}


@dataclass(frozen=True)
class Lowered:
    """The MIL program, and for inputs and outputs ONNX's name -> Core ML's name."""

    program: Any
    names: dict[str, str]


@dataclass
class _Graph:
    """What is known while walking."""

    model: ModelProto
    options: dict[str, Any]
    values: dict[str, Value | None] = field(default_factory=dict)
    dtypes: dict[str, np.dtype[Any]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    refusals: list[ModelError] = field(default_factory=list)
    symbols: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 0


def lower(
    model: ModelProto,
    target: Any,
    table: Mapping[str, str],
    symbols: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> Lowered:
    """The program that computes what the model computes; ModelError naming every node that has no exact form.

    `table` is operator -> "module:function" of this package. `symbols` are MIL's for the sizes that are left
    open, by ONNX's names of them. `options` reach the lowerings.
    """
    mb.name_count.clear()  # names of variables then depend on the model alone
    ready = expanded(model, table)
    check_operators(ready, table)
    graph = _described(ready, dict(options))
    graph.symbols = symbols
    names = io_names(ready)
    with Function(_placeholders(graph, names), opset_version=target) as function:
        _feed(graph, function, names)
        for node in ready.graph.node:
            _step(graph, node, table)
        _raise_refusals(graph.refusals)
        function.set_outputs(_outputs(graph, names))
    program = Program()
    program.add_function("main", function)
    return Lowered(program, names)


# --- before the walk ----------------------------------------------------------------------------


def expanded(model: ModelProto, table: Mapping[str, str]) -> ModelProto:
    """The model without what the table lacks, as far as ONNX has it in simpler operators.

    Operators that are functions are written out, loops of a known number of steps too.
    """
    from edgebench.convert.coreml.loops import unrolled
    from edgebench.model.expand import expand

    for _ in range(MAX_ROUNDS):
        missing = missing_operators(model, table)
        if not missing:
            return model
        nodes = len(model.graph.node)
        model = unrolled(expand(model, frozenset(table)))
        if len(model.graph.node) == nodes:
            return model
    return model


def _opset(model: ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in _DOMAINS), default=1)


def missing_operators(model: ModelProto, table: Mapping[str, str]) -> dict[str, list[str]]:
    """Operator without a lowering -> its nodes; constant parts are not asked."""
    known = {tensor.name for tensor in model.graph.initializer} | {""}
    missing: dict[str, list[str]] = {}
    for node in model.graph.node:
        if _foldable(node, known):
            known.update(node.output)
        elif _key(node) not in table:
            missing.setdefault(_key(node), []).append(node.name or node.output[0])
    return missing


def check_operators(model: ModelProto, table: Mapping[str, str]) -> None:
    """ModelError listing every operator without a lowering, with its nodes."""
    missing = missing_operators(model, table)
    if missing:
        listed = "; ".join(f"{op} ({_shortened(nodes)})" for op, nodes in sorted(missing.items()))
        hints = [_WAYS_OUT[op] for op in sorted(missing) if op in _WAYS_OUT]
        raise ModelError(f"Core ML cannot express: {listed}", hint="; ".join(hints) or OTHERS)


def _key(node: NodeProto) -> str:
    return node.op_type if node.domain in _DOMAINS else f"{node.domain}.{node.op_type}"


def _shortened(names: list[str]) -> str:
    shown = ", ".join(f'"{name[:80]}"' for name in names[:MAX_SHOWN])
    return shown if len(names) <= MAX_SHOWN else f"{shown} and {len(names) - MAX_SHOWN} more"


def _foldable(node: NodeProto, known: set[str]) -> bool:
    if node.op_type in ("Shape", "Size"):
        return True
    return (
        node.domain in _DOMAINS
        and node.op_type not in _NEVER_FOLDED
        and all(name in known for name in node.input)
        and not any(attribute.HasField("g") for attribute in node.attribute)
    )


def _described(model: ModelProto, options: dict[str, Any]) -> _Graph:
    import onnx

    shaped = inferred(model, "the network")
    graph = _Graph(model=model, options=options, opset=_opset(model))
    for value in (*shaped.graph.input, *shaped.graph.value_info, *shaped.graph.output):
        typed = value.type.tensor_type
        if typed.elem_type:
            graph.dtypes[value.name] = _dtype(typed.elem_type, value.name)
        if typed.HasField("shape") and all(dim.HasField("dim_value") for dim in typed.shape.dim):
            graph.shapes[value.name] = tuple(dim.dim_value for dim in typed.shape.dim)
    for tensor in model.graph.initializer:
        graph.values[tensor.name] = _constant(onnx.numpy_helper.to_array(tensor))
    for node in model.graph.node:
        for name in node.input:
            graph.readers.setdefault(name, []).append(node.op_type)
    for value in model.graph.output:
        graph.readers.setdefault(value.name, []).append("")
    return graph


def _dtype(element_type: int, name: str) -> np.dtype[Any]:
    import onnx

    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type))
    except KeyError as error:
        raise ModelError(f'"{name}" has an element type that Core ML has not', hint=OTHERS) from error


def _constant(array: NDArray[Any]) -> Value:
    return Value(dtype=array.dtype, const=array)


# --- inputs and outputs -------------------------------------------------------------------------


def io_names(model: ModelProto) -> dict[str, str]:
    """ONNX's name -> Core ML's, for inputs and outputs: identifiers, none twice."""
    names: dict[str, str] = {}
    taken = set(_RESERVED)
    for value in (*_inputs(model), *model.graph.output):
        plain = re.sub(r"\W", "_", value.name, flags=re.ASCII)
        plain = plain if re.match(r"[A-Za-z]", plain) else f"x_{plain}"
        candidate, number = plain, 1
        while candidate in taken:
            number += 1
            candidate = f"{plain}_{number}"
        taken.add(candidate)
        names.setdefault(value.name, candidate)
    return names


def _inputs(model: ModelProto) -> Iterable[Any]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _placeholders(graph: _Graph, names: dict[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for value in _inputs(graph.model):
        shape = _input_shape(graph, value)
        if shape is None:
            raise ModelError(
                f'the input "{value.name}" has no fixed shape',
                hint=f"give its shape: --shape {value.name}=1,3,224,224",
            )
        if 0 in shape:
            raise ModelError(f'the input "{value.name}" has the empty shape {list(shape)}', hint=OTHERS)
        kind = types.fp32 if graph.dtypes[value.name].kind == "f" else types.int32
        made[names[value.name]] = mb.placeholder(shape=shape or (1,), dtype=kind)
    if not made:
        raise ModelError("the model has no inputs, and Core ML wants at least one", hint=OTHERS)
    return made


def _input_shape(graph: _Graph, value: Any) -> tuple[Any, ...] | None:
    """The sizes of an input, open ones as symbols; None where one is unknown."""
    typed = value.type.tensor_type
    sizes = [
        dim.dim_value if dim.HasField("dim_value") else graph.symbols.get(dim.dim_param)
        for dim in typed.shape.dim
    ]
    return None if None in sizes or not typed.HasField("shape") else tuple(sizes)


def _feed(graph: _Graph, function: Any, names: dict[str, str]) -> None:
    for value in _inputs(graph.model):
        var = function.inputs[names[value.name]]
        dtype = graph.dtypes[value.name]
        if not value.type.tensor_type.shape.dim:
            var = reshaped(var, ())
        graph.values[value.name] = Value(dtype=dtype, var=cast(var, mil_type(dtype)))


def _outputs(graph: _Graph, names: dict[str, str]) -> list[Any]:
    made = []
    for output in graph.model.graph.output:
        value = graph.values[output.name]
        if value is None or (value.const is not None and 0 in value.shape):
            raise ModelError(f'the output "{output.name}" is empty', hint="remove it from the model")
        if value.const is not None and value.is_open:
            raise ModelError(f'the output "{output.name}" tells a size that is left open', hint=_HINT_OPEN)
        var = value.mil()
        if var.dtype == types.bool:
            var = cast(var, "int32")
        made.append(mb.identity(x=reshaped(var, value.shape or (1,)), name=names[output.name]))
    return made


# --- the walk -----------------------------------------------------------------------------------


def _step(graph: _Graph, proto: NodeProto, table: Mapping[str, str]) -> None:
    """Lower or fold one node; a refusal is noted, and a stand-in of that shape takes the node's place."""
    node = _node(graph, proto)
    try:
        results = _folded(graph, proto, node) or _lowered(node, table[_key(proto)])
        for name, dtype, shape, result in zip(
            node.outputs, node.output_dtypes, node.output_shapes, results, strict=False
        ):
            if name:
                graph.values[name] = _checked(node, name, dtype, shape, result)
        absent = [name for name in node.outputs if name and name not in graph.values]
        if absent:
            raise node.refused(f'its output "{absent[0]}" is not computed at inference')
    except ModelError as error:
        graph.refusals.append(error)
        if len(graph.refusals) > MAX_SHOWN or not _stand_in(graph, node):
            _raise_refusals(graph.refusals)


def _raise_refusals(refusals: list[ModelError]) -> None:
    if refusals:
        listed = "; ".join(error.message for error in refusals)
        hints = list(dict.fromkeys(error.hint for error in refusals))
        raise ModelError(f"Core ML cannot express: {listed}", hint="; ".join(hints[:3]))


def _stand_in(graph: _Graph, node: Node) -> bool:
    """Whether every output could be given an arbitrary value of its type and shape, only to look further."""
    for name, dtype, shape in zip(node.outputs, node.output_dtypes, node.output_shapes, strict=True):
        if not name:
            continue
        if dtype is None or shape is None:
            return False
        var = mb.fill(shape=np.array(shape or (1,), np.int32), value=np.float32(1))
        graph.values[name] = Value(dtype=dtype, var=cast(reshaped(var, shape), mil_type(dtype)))
    return True


def _decoded(value: Any) -> Any:
    """Texts are bytes in ONNX."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    return value


def _node(graph: _Graph, proto: NodeProto) -> Node:
    import onnx

    attributes = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        attributes[attribute.name] = _decoded(value)
    readers = [reader for name in proto.output for reader in graph.readers.get(name, [])]
    return Node(
        op=proto.op_type,
        title=f'{_key(proto)} "{proto.name or (proto.output[0] if proto.output else "?")}"',
        opset=graph.opset,
        inputs=tuple(graph.values[name] if name else None for name in proto.input),
        attributes=attributes,
        outputs=tuple(proto.output),
        output_dtypes=tuple(graph.dtypes.get(name) for name in proto.output),
        output_shapes=tuple(graph.shapes.get(name) for name in proto.output),
        only_dequantized=bool(readers) and all(reader == "DequantizeLinear" for reader in readers),
        options=graph.options,
    )


def _folded(graph: _Graph, proto: NodeProto, node: Node) -> list[Value | None] | None:
    """What the node computes, where all its inputs are constants; else None."""
    if node.op == "Shape":
        start, end = node.attribute("start", 0), node.attribute("end", node.value(0).rank)
        return [_whole_numbers(node.value(0).shape[start:end])]
    if node.op == "Size":
        return [_whole_numbers(elements_open(node.value(0).shape))]
    if any(value is not None and value.const is None for value in node.inputs):
        return None
    if not _foldable(proto, set(proto.input)):
        return None
    if any(value is not None and value.is_open for value in node.inputs):
        return [_by_sizes(graph, node)]
    if node.op == "DequantizeLinear":
        try:
            return [_kept_integers(node) or _constant(_dequantized(node))]
        except _TOOL_ERRORS as error:
            raise node.refused(f"its scale or zero point does not fit its data ({error})") from error
    feeds = {
        name: value.const for name, value in zip(proto.input, node.inputs, strict=True) if value is not None
    }
    results = _evaluated(graph, proto, node, feeds)
    return [None if result is None else _constant(result) for result in results]


def _whole_numbers(values: Any) -> Value:
    """A constant of int64; where some are open sizes, one that holds their symbols."""
    array = np.array(values, dtype=object)
    if not any(is_symbolic(each) for each in array.reshape(-1)):
        return _constant(array.astype(np.int64))
    return Value(dtype=np.dtype(np.int64), const=array)


def _by_sizes(graph: _Graph, node: Node) -> Value:
    """What a node computes from sizes that are left open: by the exact rules for shape arithmetic, or not."""
    from edgebench.model.fold import by_rule

    inputs = [None if value is None else value.const for value in node.inputs]
    found = by_rule(node.op, inputs, node.attributes, graph.opset) if node.op in _OF_SIZES else None
    if found is None:
        raise node.refused(_OPEN, _HINT_OPEN)
    return _whole_numbers(found)


def _evaluated(graph: _Graph, proto: NodeProto, node: Node, feeds: dict[str, Any]) -> list[Any]:
    """ONNX's own reference implementation on constants."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    for shape in node.output_shapes:
        if shape is not None and elements(shape) > MAX_FOLDED_ELEMENTS:
            raise node.refused(f"its constant result has the absurd shape {list(shape)}")
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape)
        for name, each in feeds.items()
    ]
    outputs = [
        helper.make_value_info(name, helper.make_tensor_type_proto(1, None)) for name in proto.output if name
    ]
    opsets = [helper.make_opsetid("", graph.opset)]
    single = helper.make_model(helper.make_graph([proto], "constant", inputs, outputs), opset_imports=opsets)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = iter(ReferenceEvaluator(single).run(None, feeds))
    except _TOOL_ERRORS as error:
        raise node.refused(f"its constant inputs cannot be computed with ({error})"[:300]) from error
    return [np.asarray(next(found)) if name else None for name in proto.output]


def _dequantized(node: Node) -> NDArray[Any]:
    """A constant in floats: biases of 32 bits, say. ONNX's reference has no form of old opsets for it."""
    data, scale = node.constant(0, "the data"), node.constant(1, "the scale")
    zero = node.constant(2, "the zero point") if node.given(2) else np.zeros((), np.int32)
    spread: list[int] = []
    if scale.size > 1:
        axis = node.axis(data.ndim, 1)
        spread = [scale.size if at == axis else 1 for at in range(data.ndim)]
    zero = zero.astype(np.float64).reshape(spread if zero.size > 1 else ())
    floats = (data.astype(np.float64) - zero) * scale.astype(np.float64).reshape(spread)
    return np.asarray(floats, np.float32)


def _kept_integers(node: Node) -> Value | None:
    """A constant weight with the 8-bit integers it is stored as; None where it is no such weight."""
    data, scale = node.constant(0, "the data"), node.constant(1, "the scale")
    if data.dtype.name in ("int4", "uint4") or node.attribute("block_size", 0):
        return _kept_blocks(node, data, scale)
    if data.dtype not in (np.int8, np.uint8) or data.ndim < 2 or scale.ndim > 1:
        return None
    zero = node.constant(2, "the zero point") if node.given(2) else np.zeros((), data.dtype)
    axis = node.axis(data.ndim, 1) if scale.size > 1 else 0
    scale = scale.reshape(()) if scale.size == 1 else scale
    zero = zero.reshape(()) if scale.size == 1 else np.broadcast_to(zero, scale.shape).copy()
    spread = [scale.size if at == axis and scale.ndim else 1 for at in range(data.ndim)]
    const = (data.astype(np.float32) - zero.astype(np.float32).reshape(spread)) * scale.reshape(spread)
    quantized = Quantized(data, scale.astype(np.float32), zero.astype(data.dtype), axis)
    return Value(dtype=np.dtype(np.float32), const=const.astype(np.float32), quantized=quantized)


def _kept_blocks(node: Node, data: NDArray[Any], scale: NDArray[Any]) -> Value | None:
    """A constant weight of 4 bits, or one with a scale for every block; None of another kind."""
    if data.dtype.name not in ("int4", "uint4", "int8", "uint8") or data.ndim < 1:
        return None
    axis = node.axis(data.ndim, 1)
    zero = node.constant(2, "the zero point") if node.given(2) else np.zeros(scale.shape, np.int8)
    if scale.ndim != data.ndim:
        spread = [scale.size if at == axis and scale.size > 1 else 1 for at in range(data.ndim)]
        scale = scale.reshape(spread)
    zero = np.broadcast_to(zero.astype(np.int16).reshape(-1), (scale.size,)).reshape(scale.shape)
    wide_scale, wide_zero = scale.astype(np.float32), zero.astype(np.float32)
    for at, (size, count) in enumerate(zip(data.shape, scale.shape, strict=True)):
        if size % count:
            raise node.refused(f"blocks of uneven length: {count} scales for {size} entries")
        wide_scale, wide_zero = (np.repeat(each, size // count, axis=at) for each in (wide_scale, wide_zero))
    const = (data.astype(np.float32) - wide_zero) * wide_scale
    quantized = Quantized(data, scale.astype(np.float32), zero, axis, blocks=True)
    return Value(dtype=np.dtype(np.float32), const=const, quantized=quantized)


def _lowered(node: Node, where: str) -> list[Any]:
    module, _, name = where.partition(":")
    function = getattr(import_module(module), name)
    try:
        results = function(node)
    except _TOOL_ERRORS as error:
        if node.is_open:
            raise node.refused(f"{_OPEN} ({str(error)[:200]})", _HINT_OPEN) from error
        raise node.refused(f"Core ML Tools does not take it: {str(error)[:300]}") from error
    return list(results) if isinstance(results, tuple | list) else [results]


def _checked(
    node: Node, name: str, dtype: np.dtype[Any] | None, shape: tuple[int, ...] | None, result: Any
) -> Value | None:
    """The result as a value, after its shape was compared with what ONNX says of it."""
    if result is None:
        return None
    if isinstance(result, Value):
        value = result
    elif isinstance(result, np.ndarray):
        value = _constant(result if dtype is None else result.astype(dtype))
    else:
        value = Value(dtype=dtype or _by_var(result), var=result)
    if node.op in _MOVES and value.const is None and value.grid is None and node.value(0).grid is not None:
        value = Value(dtype=value.dtype, var=value.var, grid=node.value(0).grid)
    if value.const is None and (dtype or value.dtype).kind != value.dtype.kind:
        raise node.refused(f'"{name}" becomes {value.dtype}, and the model says {dtype}', _HINT_FALSE)
    if shape is not None and value.shape != shape:
        became, said = list(value.shape), list(shape)
        raise node.refused(f'"{name}" becomes {became}, and the model says {said}', _HINT_FALSE)
    return value


def _by_var(var: Any) -> np.dtype[Any]:
    return np.dtype({types.fp32: np.float32, types.bool: np.bool_}.get(var.dtype, np.int64))
