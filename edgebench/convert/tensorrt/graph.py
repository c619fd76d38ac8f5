"""A network as the rules look at it: who makes and reads each tensor, its type and shape, its constants."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from edgebench.convert.tensorrt.base import Finding, Severity
from edgebench.model.base import DEFAULT_DOMAINS, nodes, real_inputs, short, type_name
from edgebench.model.base import graphs as all_graphs

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_KEEPS_CONSTANT = (QUANTIZE, DEQUANTIZE, "Constant", "Identity")
_MAX_STEPS = 8
_NEWEST_OPSET = 64  # beyond any that there is
# ONNX's element types in TensorRT's words; UINT8 and DOUBLE exist at its borders at most
TYPES = {
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "BFLOAT16": "BF16",
    "INT64": "INT64",
    "INT32": "INT32",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
    "INT4": "INT4",
    "FLOAT8E4M3FN": "FP8",
}


class Typed(NamedTuple):
    """Element type in ONNX's words, and sizes; a symbolic size is its name, an unknown shape None."""

    kind: str
    dims: tuple[int | str, ...] | None


class Network:
    """A model read once; inner graphs (branches of If, bodies of Loop) are part of it."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.opset = max(
            (each.version for each in model.opset_import if each.domain in DEFAULT_DOMAINS), default=1
        )
        self.nodes: list[NodeProto] = list(nodes(model.graph))
        self.maker: dict[str, NodeProto] = {}
        self.readers: dict[str, list[NodeProto]] = {}
        self.stored: dict[str, TensorProto] = {}
        self.types: dict[str, Typed] = {}
        for node in self.nodes:
            self._add(node)
        for graph in all_graphs(model.graph):
            for tensor in graph.initializer:
                self.stored[tensor.name] = tensor
            for value in (*graph.input, *graph.output, *graph.value_info):
                self.types[value.name] = _typed(value)
        self.inputs = [value.name for value in real_inputs(model.graph)]
        self.outputs = [value.name for value in model.graph.output]

    def _add(self, node: NodeProto) -> None:
        for name in node.output:
            self.maker[name] = node
        for name in set(node.input):
            self.readers.setdefault(name, []).append(node)
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    self.stored[node.output[0]] = attribute.t

    def typed(self, name: str) -> Typed | None:
        """Type and shape of a tensor, where the file says so."""
        tensor = self.stored.get(name)
        if tensor is not None:
            return Typed(type_name(tensor.data_type), tuple(tensor.dims))
        return self.types.get(name)

    def rank(self, name: str) -> int | None:
        """The number of axes of a tensor, or None where it is unknown."""
        for _ in range(_MAX_STEPS):
            typed = self.typed(name)
            if typed is not None and typed.dims is not None:
                return len(typed.dims)
            node = self.maker.get(name)
            if node is None or node.op_type not in (QUANTIZE, DEQUANTIZE):
                return None
            name = input_name(node, 0)
        return None

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is stored in the file, or is computed from such tensors alone by Q and DQ."""
        for _ in range(_MAX_STEPS):
            if name in self.stored:
                return True
            node = self.maker.get(name)
            if node is None or node.op_type not in _KEEPS_CONSTANT:
                return False
            if node.op_type == "Constant":
                return True
            if any(each and each not in self.stored for each in node.input[1:]):
                return False
            name = input_name(node, 0)
        return False

    def value(self, name: str) -> NDArray[Any] | None:
        """The stored values of a tensor, or None where there are none."""
        from onnx import numpy_helper

        tensor = self.stored.get(name)
        if tensor is None:
            return None
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError):
            return None


def _typed(value: Any) -> Typed:
    tensor = value.type.tensor_type
    dims: tuple[int | str, ...] | None = None
    if tensor.HasField("shape"):
        dims = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim
        )
    return Typed(type_name(tensor.elem_type), dims)


def attributes(node: NodeProto) -> dict[str, Any]:
    """Name -> value of a node's attributes, texts as str."""
    from onnx import helper

    found = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return found


def input_name(node: NodeProto, place: int) -> str:
    """The name of a node's input, empty where it has none."""
    return node.input[place] if place < len(node.input) else ""


def kind_of(node: NodeProto, network: Network) -> str:
    """The integer type that a Q writes or a DQ reads; uint8 where nothing says otherwise, as ONNX does."""
    zero = input_name(node, 2)
    typed = network.typed(zero) if zero else None
    if typed is None and node.op_type == DEQUANTIZE:
        source = network.maker.get(input_name(node, 0))
        if source is not None and source.op_type == QUANTIZE:
            return kind_of(source, network)
        typed = network.typed(input_name(node, 0))
    if typed is None and node.op_type == QUANTIZE and attributes(node).get("output_dtype"):
        return type_name(attributes(node)["output_dtype"])
    return "UINT8" if typed is None else typed.kind


def finding(severity: Severity, rule: str, node: NodeProto, message: str, hint: str) -> Finding:
    """A finding about one node."""
    name = node.name or (node.output[0] if node.output else "?")
    operator = f"{node.domain}::{node.op_type}" if node.domain not in DEFAULT_DOMAINS else node.op_type
    return Finding(
        severity=severity, rule=rule, node=short(name), operator=short(operator), message=message, hint=hint
    )


# --- operator sets ------------------------------------------------------------------------------


@cache
def schema(operator: str, opset: int) -> Any:
    """ONNX's definition of an operator as of an operator set; None where it is not in it yet."""
    from onnx import defs

    try:
        return defs.get_schema(operator, opset, "")
    except defs.SchemaError:
        return None


@cache
def same_form(operator: str, older: int, newer: int) -> bool:
    """Whether a node means the same in both operator sets: same inputs, outputs and attributes.

    Only the element types it takes may differ. False where the older one lacks the operator.
    """
    low, high = schema(operator, older), schema(operator, newer)
    if low is None or high is None:
        return False
    return low.since_version == high.since_version or _signature(low) == _signature(high)


def _signature(made: Any) -> tuple[Any, ...]:
    return (
        tuple((each.name, each.option) for each in made.inputs),
        tuple((each.name, each.option) for each in made.outputs),
        tuple(
            sorted((name, each.required, str(each.default_value)) for name, each in made.attributes.items())
        ),
    )


@cache
def known_form(operator: str, opset_max: int) -> int:
    """The operator set whose form of an operator a parser knows that was written for `opset_max`.

    An operator that is younger than that (8.6 imports GroupNormalization, of 18) is known in its first form.
    """
    if schema(operator, opset_max) is not None:
        return opset_max
    return next(
        (n for n in range(opset_max + 1, _NEWEST_OPSET) if schema(operator, n) is not None), opset_max
    )


def beyond(network: Network, opset_max: int) -> Iterator[NodeProto]:
    """The nodes in a form that is newer than a parser knows that was written for `opset_max`."""
    if network.opset <= opset_max:
        return
    for node in network.nodes:
        known = known_form(node.op_type, opset_max)
        if (
            node.domain in DEFAULT_DOMAINS
            and network.opset > known
            and schema(node.op_type, network.opset) is not None
            and not same_form(node.op_type, known, network.opset)
        ):
            yield node
