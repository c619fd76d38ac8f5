"""Operators that a runtime lacks, written out in those it has, by ONNX's own definitions of them.

ONNX defines many operators as functions of simpler ones. A runtime that has such an operator keeps it; for
one that has not, the function's body takes its place, and so on until nothing is left to write out. What has
become constant by that is computed beforehand, and a constant `If` becomes its branch. Values stay the same
but for the rounding of another order of operations: parity with the model as it was is still to be shown.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebench.model.base import (
    DEFAULT_DOMAINS,
    alive,
    branch,
    copied,
    graphs,
    inferred,
    names,
    reads,
    skeleton,
    sort,
    type_name,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto

    Values = dict[str, NDArray[Any]]

MAX_DEPTH = 12
MAX_NODES = 20_000
MAX_CONSTANT_ELEMENTS = 1 << 20  # what is computed beforehand may not blow up the file
_OLDEST_OPSET = 13
_NEVER_COMPUTED = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "If",
        "Loop",
        "Scan",
        # weights stay packed for the runtimes that compute with them
        "DequantizeLinear",
        "QuantizeLinear",
    }
)


def expandable(operators: Iterable[str], keep: frozenset[str]) -> bool:
    """Whether any of these operators would be written out; `operators` are names as in `ModelInfo`."""
    return any(name not in keep and (name == "If" or _is_function(name)) for name in operators)


def expand(model: ModelProto, keep: frozenset[str], name: str = "model") -> ModelProto:
    """A new model in which only operators of `keep`, and those that ONNX has no simpler form of, are left.

    `model` must be static, with its shapes inferred. A node that a function's body brings is called after the
    node it stands for: "attention_1/Softmax_7". ModelError when an inferred shape is absurd.
    """
    made = copied(model)
    for _ in range(MAX_DEPTH):
        _shape(made, name)
        _fold(made)
        wanted = [node for node in made.graph.node if _is_wanted(node, keep)]
        if not wanted or len(made.graph.node) > MAX_NODES:
            break
        if not _write_out(made, wanted):
            break
    _shape(made, name)
    _lower_opset(made)
    return made


def _shape(model: ModelProto, name: str) -> None:
    sort(model.graph, name)
    del model.graph.value_info[:]
    shaped = inferred(skeleton(model), name).graph
    for kind in ("value_info", "output"):
        model.graph.ClearField(kind)
        getattr(model.graph, kind).extend(getattr(shaped, kind))


def _opset(model: ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), default=1)


def _lower_opset(model: ModelProto) -> None:
    """The lowest opset that means the same for every operator: tools know the older ones."""
    opset = _opset(model)
    types = {name: _type_text(kind) for name, kind in _types(model.graph).items()}
    versions = [
        _oldest_version(node, opset, types)
        for graph in graphs(model.graph)
        for node in graph.node
        if node.domain in DEFAULT_DOMAINS
    ]
    for entry in model.opset_import:
        if entry.domain in DEFAULT_DOMAINS:
            entry.version = min(entry.version, max([_OLDEST_OPSET, *versions]))


def _oldest_version(node: NodeProto, opset: int, types: dict[str, str]) -> int:
    """The first version of an operator that takes this node, where later ones only added types or options."""
    from onnx import defs

    version = int(defs.get_schema(node.op_type, opset, "").since_version)
    while version > _OLDEST_OPSET:
        try:
            older: Any = defs.get_schema(node.op_type, version - 1, "")
        except defs.SchemaError:
            return version
        if not _takes(older, node, types):
            return version
        version = int(older.since_version)
    return version


def _takes(schema: Any, node: NodeProto, types: dict[str, str]) -> bool:
    """Whether a version of an operator has the node's attributes and places, and takes its types."""
    given = {attribute.name for attribute in node.attribute}
    needed = {name for name, each in schema.attributes.items() if each.required}
    if not (needed <= given <= set(schema.attributes)):
        return False
    if not schema.min_input <= len(node.input) <= schema.max_input or len(node.output) > schema.max_output:
        return False
    allowed = {each.type_param_str: set(each.allowed_type_strs) for each in schema.type_constraints}
    for given_names, formal in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for place, name in enumerate(given_names):
            kind = formal[min(place, len(formal) - 1)].type_str
            if name and types.get(name, "") not in allowed.get(kind, {kind}):
                return False
    return True


def _type_text(kind: TypeProto) -> str:
    """The element type as schemas write it: tensor(float)."""
    words = {"FLOAT": "float", "DOUBLE": "double"}
    name = type_name(kind.tensor_type.elem_type)
    return f"tensor({words.get(name, name.lower())})"


# --- which ---------------------------------------------------------------------------------------


def _is_wanted(node: NodeProto, keep: frozenset[str]) -> bool:
    return node.domain in DEFAULT_DOMAINS and node.op_type not in keep and _is_function(node.op_type)


def _is_function(operator: str) -> bool:
    from onnx import defs

    if not defs.has(operator):
        return False
    schema: Any = defs.get_schema(operator)  # its type stub is incomplete
    return bool(schema.has_function or schema.has_context_dependent_function)


# --- writing out ---------------------------------------------------------------------------------


def _write_out(model: ModelProto, wanted: list[NodeProto]) -> bool:
    """Whether any of the nodes was replaced by the body of its function."""
    types = _types(model.graph)
    opset = _opset(model)
    places = {id(node) for node in wanted}
    placed: list[NodeProto] = []
    taken = names(model.graph)
    changed = False
    for number, node in enumerate(model.graph.node):
        function = _function(node, types, opset) if id(node) in places else None
        if function is None:
            placed.append(node)
            continue
        placed += _Body(node, function, number, taken).nodes()
        changed = True
    if changed:
        _replace_nodes(model.graph, placed)
    return changed


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    texts = [node.SerializeToString() for node in nodes]
    del graph.node[:]
    for text in texts:
        graph.node.add().ParseFromString(text)


def _types(graph: GraphProto) -> dict[str, TypeProto]:
    """The type of everything that has one."""
    from onnx import helper

    found = {
        tensor.name: helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        for tensor in graph.initializer
    }
    for value in (*graph.value_info, *graph.output, *graph.input):
        found.setdefault(value.name, value.type)
    return found


def _function(node: NodeProto, types: dict[str, TypeProto], opset: int) -> FunctionProto | None:
    """The body that stands for a node, in the newest form that the opset can hold; None without one."""
    import onnx
    from onnx import defs

    schema: Any = defs.get_schema(node.op_type, opset, "")
    function = onnx.FunctionProto()
    for version in sorted((each for each in schema.function_opset_versions if each <= opset), reverse=True):
        function.ParseFromString(schema.get_function_with_opset_version(version))
        if _fits(function, opset):
            return function
    inputs = [types.get(name) for name in node.input]
    if any(kind is None and name for kind, name in zip(inputs, node.input, strict=True)):
        return None
    texts = [
        onnx.TypeProto().SerializeToString() if kind is None else kind.SerializeToString() for kind in inputs
    ]
    versions = schema.context_dependent_function_opset_versions
    for version in sorted((each for each in versions if each <= opset), reverse=True):
        data = _context_function(schema, version, node, texts)
        if data:
            function.ParseFromString(data)
            if _fits(function, opset):
                return function
    return None


def _context_function(schema: Any, version: int, node: NodeProto, types: list[bytes]) -> bytes:
    try:
        made = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), types
        )
    except (RuntimeError, ValueError, TypeError):
        return b""  # this node has no body in these types
    return bytes(made)


def _fits(function: FunctionProto, opset: int) -> bool:
    """Whether the body's operators take the same attributes and inputs in the model's opset."""
    from onnx import defs

    if not function.node:
        return False
    for node in function.node:
        try:
            schema = defs.get_schema(node.op_type, opset, "")
        except defs.SchemaError:
            return False
        if any(attribute.name not in schema.attributes for attribute in node.attribute):
            return False
        if not schema.min_input <= len(node.input) <= schema.max_input:
            return False
    return True


class _Body:
    """The nodes of a function in the place of one node, under names that tell which one."""

    def __init__(self, node: NodeProto, function: FunctionProto, number: int, taken: set[str]) -> None:
        self._function = function
        self._node = node
        self._title = node.name or f"{node.op_type}_{number}"
        self._taken = taken
        given = dict(zip(function.input, [*node.input, *[""] * len(function.input)], strict=False))
        made = dict(zip(function.output, node.output, strict=False))
        self._renamed = {"": "", **given, **{name: to for name, to in made.items() if to}}
        self._attributes = self._given_attributes()

    def nodes(self) -> Iterator[NodeProto]:
        """The body, renamed and with the node's attributes in it."""
        for number, inner in enumerate(self._function.node):
            yield self._renamed_node(inner, f"{self._title}/{inner.op_type}_{number}", self._renamed)
        for name, output in zip(self._function.output, self._node.output, strict=False):
            if output and name in self._function.input:  # an output that is an input as it is
                import onnx.helper

                yield onnx.helper.make_node("Identity", [self._renamed[name]], [output])

    def _given_attributes(self) -> dict[str, AttributeProto]:
        from onnx import defs

        given = {attribute.name: attribute for attribute in self._function.attribute_proto}
        schema = defs.get_schema(self._node.op_type)
        for name, definition in schema.attributes.items():
            if definition.default_value.type:
                given.setdefault(name, definition.default_value)
        return given | {attribute.name: attribute for attribute in self._node.attribute}

    def _renamed_node(self, node: NodeProto, title: str, renamed: dict[str, str]) -> NodeProto:
        made = type(node)()
        made.CopyFrom(node)
        made.name = title
        for place, name in enumerate(node.input):
            made.input[place] = renamed.get(name, name)
        for place, name in enumerate(node.output):
            made.output[place] = self._name(name, renamed)
        while made.input and not made.input[-1]:
            del made.input[-1]
        del made.attribute[:]
        for attribute in node.attribute:
            self._add_attribute(made, attribute, renamed)
        return made

    def _name(self, name: str, renamed: dict[str, str]) -> str:
        if name not in renamed:
            fresh, count = f"{self._title}/{name}", 1
            while fresh in self._taken:
                fresh, count = f"{self._title}/{name}_{count}", count + 1
            self._taken.add(fresh)
            renamed[name] = fresh
        return renamed[name]

    def _add_attribute(self, node: NodeProto, attribute: AttributeProto, renamed: dict[str, str]) -> None:
        if attribute.ref_attr_name:
            if attribute.ref_attr_name in self._attributes:
                given = node.attribute.add()
                given.CopyFrom(self._attributes[attribute.ref_attr_name])
                given.name = attribute.name
            return
        copy = node.attribute.add()
        copy.CopyFrom(attribute)
        if copy.HasField("g"):
            self._rename_graph(copy.g, f"{node.name}/{attribute.name}", dict(renamed))

    def _rename_graph(self, graph: GraphProto, where: str, renamed: dict[str, str]) -> None:
        for value in graph.input:
            renamed.pop(value.name, None)
            value.name = self._name(value.name, renamed)
        for tensor in graph.initializer:
            renamed.pop(tensor.name, None)
            tensor.name = self._name(tensor.name, renamed)
        titles = [f"{node.op_type}_{number}" for number, node in enumerate(graph.node)]
        renamed_nodes = [
            self._renamed_node(node, f"{where}/{title}", renamed)
            for node, title in zip(graph.node, titles, strict=True)
        ]
        _replace_nodes(graph, renamed_nodes)
        for value in graph.output:
            value.name = renamed.get(value.name, value.name)
        del graph.value_info[:]


# --- what is constant ----------------------------------------------------------------------------


def _fold(model: ModelProto) -> None:
    """Compute what depends on constants and static shapes alone; constant Ifs become their branch."""
    from onnx import numpy_helper

    graph = model.graph
    known: Values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    stored = set(known)
    sizes = _sizes(graph)
    opset = _opset(model)
    ends = {value.name for value in graph.output}
    taken = names(graph)
    kept: list[NodeProto] = []
    pending = list(graph.node)
    while pending:
        node = pending.pop(0)
        if node.op_type == "If" and node.input[0] in known:
            pending = [*branch(node, bool(known[node.input[0]].reshape(-1)[0]), taken), *pending]
            continue
        values = _computed(node, known, sizes, opset)
        if values is None:
            kept.append(node)
            continue
        known.update(values)
        if ends & set(node.output):
            kept.append(node)
    _store(graph, kept, known, stored)


def _sizes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        typed = value.type.tensor_type
        if typed.HasField("shape") and all(dim.HasField("dim_value") for dim in typed.shape.dim):
            found[value.name] = tuple(dim.dim_value for dim in typed.shape.dim)
    return found


def _computed(node: NodeProto, known: Values, sizes: dict[str, tuple[int, ...]], opset: int) -> Values | None:
    """What a node computes where all that it reads is known; None otherwise, and where it is too large."""
    if node.domain not in DEFAULT_DOMAINS or node.op_type in _NEVER_COMPUTED:
        return None
    if node.op_type in ("Shape", "Size") and node.input[0] in sizes:
        return _size_of(node, sizes[node.input[0]])
    if node.op_type in ("Shape", "Size") and node.input[0] in known:
        return _size_of(node, known[node.input[0]].shape)
    needed = reads(node) - {""}
    if not needed <= set(known) or any(known[name].size > MAX_CONSTANT_ELEMENTS for name in needed):
        return None
    return _evaluated(node, {name: known[name] for name in needed}, opset)


def _size_of(node: NodeProto, shape: tuple[int, ...]) -> Values:
    from onnx import helper

    if node.op_type == "Size":
        return {node.output[0]: np.array(math.prod(shape), np.int64)}
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    return {node.output[0]: np.array(shape[given.get("start", 0) : given.get("end", len(shape))], np.int64)}


def _evaluated(node: NodeProto, values: Values, opset: int) -> Values | None:
    """What ONNX's reference implementation says that a node computes; None where it has none."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    outputs = [name for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "constant",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in values.items()
        ],
        [helper.make_value_info(name, helper.make_tensor_type_proto(1, None)) for name in outputs],
    )
    single = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            made = ReferenceEvaluator(single).run(None, values)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, AttributeError):
        return None  # it stays a node, and the runtime computes it
    found = {name: np.asarray(value) for name, value in zip(outputs, made, strict=True)}
    plain = all(
        value.dtype.kind in "biuf" and value.size <= MAX_CONSTANT_ELEMENTS for value in found.values()
    )
    return found if plain else None


def _store(graph: GraphProto, kept: list[NodeProto], known: Values, stored: set[str]) -> None:
    """Keep these nodes, those constants that are still read, and nothing else."""
    from onnx import numpy_helper

    ends = {value.name for value in graph.output}
    living = alive(kept, ends)
    needed = {name for node in living for name in reads(node)} | ends
    made = {name for node in living for name in node.output}
    for name in sorted((needed & set(known)) - stored - made):
        graph.initializer.append(numpy_helper.from_array(known[name], name))
    _replace_nodes(graph, living)
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in needed:
            del graph.initializer[place]
