"""Shape arithmetic done beforehand: where inputs are static, Shape and the sums behind it become constants.

An If whose condition is known then becomes its branch, in branches of other Ifs too.

Exporters compute the sizes for Reshape, Resize or Expand at run time. As constants, they let ONNX infer
every shape, and converters that know no Shape operator can take the model. Only small tensors and exact
arithmetic are folded: values do not change.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgebench.model.base import (
    DEFAULT_DOMAINS,
    MAX_FOLDED_ELEMENTS,
    alive,
    branch,
    graphs,
    inferred,
    is_sound,
    names,
    nodes,
    reads,
    subgraphs,
)

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

MAX_PASSES = 24
IR_OF_CONSTANTS = 4  # in older ones inference sees only those that are inputs too
_BEGINNINGS = ("Shape", "Size", "ConstantOfShape", "If")  # where shape arithmetic comes from
Value = NDArray[Any]
Shape = tuple[int, ...]
Attributes = dict[str, Any]


def folded(light: ModelProto, name: str) -> ModelProto:
    """A new skeleton with its shape arithmetic done and all shapes inferred; `light` must be a sorted one.

    What depends on unknown sizes stays as it is. Branches of an If whose condition is not known stay too
    where one of them cannot be computed in these shapes: a runtime that sees that refuses the whole network,
    also where that branch is never taken. ModelError when an inferred shape is absurd.
    """
    everywhere, inside = _folded(light, name, branches=True)
    return everywhere if not inside or is_sound(everywhere) else _folded(light, name, branches=False)[0]


def _folded(light: ModelProto, name: str, *, branches: bool) -> tuple[ModelProto, bool]:
    """The folded skeleton, and whether anything was folded inside a branch."""
    shaped, inside = inferred(light, name), False
    shaped.ir_version = max(shaped.ir_version, IR_OF_CONSTANTS)
    for _ in range(MAX_PASSES):
        if not any(node.op_type in _BEGINNINGS for node in nodes(shaped.graph)):
            break
        walk = _Pass(shaped, branches=branches)
        inside = inside or walk.changed_inside
        if not walk.changed:
            break
        for graph in graphs(shaped.graph):
            del graph.value_info[:]
        shaped = inferred(shaped, name)
    return shaped, inside


def graft(model: ModelProto, shaped: ModelProto) -> None:
    """Put the nodes, shapes and new constants of the folded skeleton into the model it was taken from."""
    kept = {weight.name for weight in shaped.graph.initializer}
    known = {weight.name for weight in model.graph.initializer}
    for place in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[place].name not in kept:
            del model.graph.initializer[place]
    model.graph.initializer.extend(weight for weight in shaped.graph.initializer if weight.name not in known)
    for kind in ("node", "input", "output", "value_info"):
        model.graph.ClearField(kind)
        getattr(model.graph, kind).extend(getattr(shaped.graph, kind))


def _opset(model: ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), default=1)


class _Pass:
    """One walk over a sorted skeleton that folds what it can; `changed` says whether that was anything."""

    def __init__(self, model: ModelProto, *, branches: bool) -> None:
        self.changed_inside = False
        self._branches = branches
        self._opset = _opset(model)
        self._taken = names(model.graph)
        self.changed = self._graph(model.graph, {}, {}) or self.changed_inside

    def _graph(self, graph: GraphProto, constants: dict[str, Value], sizes: dict[str, Shape]) -> bool:
        """Whether anything was folded in a graph, in place, knowing the constants and sizes outside it."""
        from onnx import numpy_helper

        constants = constants | _small_weights(graph)
        sizes = sizes | _static_shapes(graph)
        ends = {value.name for value in graph.output}
        pending = deque(graph.node)
        kept: list[NodeProto] = []
        used: set[str] = set()
        entered = False
        while pending:
            node = pending.popleft()
            if node.op_type == "If" and node.input[0] in constants:
                chosen = bool(constants[node.input[0]].reshape(-1)[0])
                pending.extendleft(reversed(branch(node, chosen, self._taken)))
                used.add(node.input[0])
                entered = True
                continue
            value = None if ends & set(node.output) else _value(node, constants, sizes, self._opset)
            if value is not None:
                constants[node.output[0]] = value
                graph.initializer.append(numpy_helper.from_array(np.asarray(value), node.output[0]))
                used.update(node.input)
                continue
            kept.append(node)
            constants.update(_constant(node))
            if self._branches and node.op_type == "If":  # in a loop, values change
                inner = [self._graph(each, constants, sizes) for each in subgraphs(node)]
                self.changed_inside = self.changed_inside or any(inner)
        if not (used or entered):
            return False
        _replace_nodes(graph, alive(kept, ends) if entered else kept, used)
        return True


def _replace_nodes(graph: GraphProto, kept: Sequence[NodeProto], used: set[str]) -> None:
    """Keep these nodes, and drop those constants among `used` that nobody reads any more."""
    still_read = {name for node in kept for name in reads(node)} | {value.name for value in graph.output}
    dropped = used - still_read
    texts = [
        node.SerializeToString()
        for node in kept
        if node.op_type != "Constant" or not set(node.output) <= dropped
    ]
    weights = [weight.SerializeToString() for weight in graph.initializer if weight.name not in dropped]
    del graph.node[:], graph.initializer[:]
    for text in texts:
        graph.node.add().ParseFromString(text)
    for text in weights:
        graph.initializer.add().ParseFromString(text)


def _small_weights(graph: GraphProto) -> dict[str, Value]:
    from onnx import numpy_helper

    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if math.prod(tensor.dims) <= MAX_FOLDED_ELEMENTS
    }


def _constant(node: NodeProto) -> dict[str, Value]:
    """The value of a small Constant under its name; nothing for other nodes."""
    from onnx import numpy_helper

    for attribute in node.attribute if node.op_type == "Constant" else ():
        if attribute.name == "value" and math.prod(attribute.t.dims) <= MAX_FOLDED_ELEMENTS:
            return {node.output[0]: numpy_helper.to_array(attribute.t)}
        if attribute.name == "value_int":
            return {node.output[0]: np.array(attribute.i, np.int64)}
        if attribute.name == "value_ints":
            return {node.output[0]: np.array(attribute.ints, np.int64)}
    return {}


def _static_shapes(graph: GraphProto) -> dict[str, Shape]:
    """Name -> shape of everything whose sizes are all known."""
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        typed = value.type.tensor_type
        if typed.HasField("shape") and all(dim.HasField("dim_value") for dim in typed.shape.dim):
            found[value.name] = tuple(dim.dim_value for dim in typed.shape.dim)
    return found


def _value(node: NodeProto, constants: dict[str, Value], sizes: dict[str, Shape], opset: int) -> Value | None:
    """What a node computes, where that is known beforehand and small."""
    from onnx import helper

    if node.domain not in DEFAULT_DOMAINS or len(node.output) != 1:
        return None
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type in ("Shape", "Size"):
        shape = sizes.get(node.input[0])
        return None if shape is None else _shape_or_size(node.op_type, shape, attributes)
    if not node.input or any(name and name not in constants for name in node.input):
        return None
    inputs = [constants[name] if name else None for name in node.input]
    return by_rule(node.op_type, inputs, attributes, opset)


def by_rule(operator: str, inputs: Sequence[Any], attributes: Mapping[str, Any], opset: int) -> Value | None:
    """What the operator computes of small arrays; None without a rule for it, or where the inputs do not fit.

    Arrays of objects, such as the symbols of sizes, are taken where numpy takes them.
    """
    rule = _RULES.get(operator)
    if rule is None:
        return None
    try:
        with np.errstate(all="ignore"):
            value = rule(inputs, dict(attributes), opset)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, np.exceptions.AxisError):
        return None  # the runtime will say what is wrong with it
    return None if value is None or np.size(value) > MAX_FOLDED_ELEMENTS else np.asarray(value)


def _shape_or_size(operator: str, shape: tuple[int, ...], attributes: Attributes) -> Value:
    if operator == "Size":
        return np.array(math.prod(shape), np.int64)
    return np.array(shape[attributes.get("start", 0) : attributes.get("end", len(shape))], np.int64)


# --- one rule per operator: inputs, attributes, opset -> value ------------------------------------

Rule = Callable[[Sequence[Any], Attributes, int], Any]


def _axes(inputs: Sequence[Any], attributes: Attributes) -> tuple[int, ...] | None:
    """The axes, an attribute up to opset 12 and an input since."""
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(int(axis) for axis in np.reshape(inputs[1], -1))
    return tuple(attributes["axes"]) if "axes" in attributes else None


def _unsqueeze(inputs: Sequence[Any], attributes: Attributes, _: int) -> Any:
    axes = _axes(inputs, attributes)
    return None if axes is None else np.expand_dims(inputs[0], axes)


def _squeeze(inputs: Sequence[Any], attributes: Attributes, _: int) -> Any:
    return np.squeeze(inputs[0], _axes(inputs, attributes))


def _slice(inputs: Sequence[Any], attributes: Attributes, _: int) -> Any:
    data = inputs[0]
    if "starts" in attributes:
        starts, ends = attributes["starts"], attributes["ends"]
        axes, steps = attributes.get("axes"), None
    else:
        given = [*(None if item is None else np.reshape(item, -1).tolist() for item in inputs[1:])]
        starts, ends, axes, steps = [*given, None, None][:4]
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    window = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        window[axis] = slice(start, end, step)
    return data[tuple(window)]


def _concat(inputs: Sequence[Any], attributes: Attributes, _: int) -> Any:
    return np.concatenate(inputs, axis=attributes["axis"])


def _gather(inputs: Sequence[Any], attributes: Attributes, _: int) -> Any:
    return np.take(inputs[0], inputs[1], axis=attributes.get("axis", 0))


def _cast(inputs: Sequence[Any], attributes: Attributes, _: int) -> Any:
    wanted = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_}.get(attributes["to"])
    if wanted is None or (inputs[0].dtype.kind == "f" and not np.isfinite(inputs[0]).all()):
        return None
    if inputs[0].dtype == object:
        return inputs[0] if wanted in (np.int32, np.int64) else None
    return inputs[0].astype(wanted)


def _reshape(inputs: Sequence[Any], attributes: Attributes, _: int) -> Any:
    sizes = np.reshape(inputs[1], -1).tolist()
    if not attributes.get("allowzero", 0):
        sizes = [inputs[0].shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return np.reshape(inputs[0], sizes)


def _divide(left: Any, right: Any) -> Any:
    """Whole numbers are cut towards zero; dividing by zero is left to the runtime."""
    if left.dtype.kind == "f":
        return left / right
    if not np.all(right):
        return None
    return (np.sign(left) * np.sign(right) * (np.abs(left) // np.abs(right))).astype(left.dtype)


def _product(inputs: Sequence[Any], attributes: Attributes, _: int) -> Any:
    kept = bool(attributes.get("keepdims", 1))
    return np.prod(inputs[0], axis=_axes(inputs, attributes), keepdims=kept, dtype=inputs[0].dtype)


def _filled(inputs: Sequence[Any], attributes: Attributes, _: int) -> Any:
    from onnx import numpy_helper

    if math.prod(int(size) for size in inputs[0]) > MAX_FOLDED_ELEMENTS:
        return None
    value = attributes.get("value")
    fill = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    return np.full(inputs[0], fill.reshape(-1)[0], dtype=fill.dtype)


def _elementwise(function: Callable[..., Any]) -> Rule:
    return lambda inputs, _attributes, _opset: function(*inputs)


def _arithmetic(function: Callable[..., Any]) -> Rule:
    """Two inputs that ONNX broadcasts as numpy does, since opset 7."""
    return lambda inputs, _attributes, opset: function(*inputs) if opset >= 7 else None


_RULES: dict[str, Rule] = {
    "Add": _arithmetic(np.add),
    "And": _arithmetic(np.logical_and),
    "Cast": _cast,
    "Ceil": _elementwise(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _arithmetic(_divide),
    "Equal": _arithmetic(np.equal),
    "Floor": _elementwise(np.floor),
    "Gather": _gather,
    "Greater": _arithmetic(np.greater),
    "GreaterOrEqual": _arithmetic(np.greater_equal),
    "Identity": _elementwise(np.asarray),
    "Less": _arithmetic(np.less),
    "LessOrEqual": _arithmetic(np.less_equal),
    "Mul": _arithmetic(np.multiply),
    "Neg": _elementwise(np.negative),
    "Not": _elementwise(np.logical_not),
    "Or": _arithmetic(np.logical_or),
    "ReduceProd": _product,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _arithmetic(np.subtract),
    "Transpose": lambda inputs, attributes, _opset: np.transpose(inputs[0], attributes.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(np.where),
}
