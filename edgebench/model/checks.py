"""Whether a network can be trusted: sizes, weights, types, operators, names, order. ModelError where not."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from edgebench.errors import ModelError
from edgebench.model.base import (
    HINT_EXPORT,
    bounded,
    check_shapes,
    graphs,
    nodes,
    order,
    short,
    subgraphs,
    tensors,
    title,
    type_name,
)

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

MAX_NODES = 200_000
KNOWN_DOMAINS = ("ai.onnx", "ai.onnx.ml")  # beside com.microsoft*, which ONNX Runtime brings
_PACKED_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}


@cache
def _number_types() -> frozenset[int]:
    from onnx import helper

    strangers = {"UNDEFINED", "STRING"}
    return frozenset(kind for kind in helper.get_all_tensor_dtypes() if type_name(kind) not in strangers)


def check(model: ModelProto, name: str) -> None:
    """Nothing, or a ModelError about the first thing that is wrong; `name` begins the message."""
    _check_sizes(model, name)
    _check_types(model, name)
    _check_weights(model, name)
    _check_operators(model, name)
    _check_names(model.graph, name)


def _check_sizes(model: ModelProto, name: str) -> None:
    """Refuse what is absurd before anything is allocated: shapes, and too many nodes."""
    count = sum(1 for _ in nodes(model.graph))
    if count > MAX_NODES:
        raise ModelError(f"{name} has {count:,} nodes; edgebench takes up to {MAX_NODES:,}", hint=HINT_EXPORT)
    for tensor in tensors(model):
        bounded(tensor.dims, f'{name}: the weight "{short(tensor.name)}"')
    check_shapes(model.graph, name)


def _check_weights(model: ModelProto, name: str) -> None:
    """Each weight brings as much data as its shape says: reading it can neither fail nor allocate more."""
    for tensor in tensors(model):
        if tensor.data_type not in _number_types():
            raise ModelError(
                f'{name}: the weight "{short(tensor.name)}" has an unknown type', hint=HINT_EXPORT
            )
        expected, found = _expected_and_found(tensor)
        if expected != found:
            raise ModelError(
                f'{name}: the weight "{short(tensor.name)}" of shape {list(tensor.dims)} needs {expected:,} '
                f"bytes or numbers, {found:,} are there",
                hint=HINT_EXPORT,
            )


def _expected_and_found(tensor: TensorProto) -> tuple[int, int]:
    """How many bytes (raw) or numbers (typed field) the shape asks for, and how many there are."""
    from onnx import helper

    elements = math.prod(tensor.dims)
    packed_bits = _PACKED_BITS.get(type_name(tensor.data_type))
    if packed_bits is not None:
        elements = math.ceil(elements * packed_bits / 8)
    if tensor.HasField("raw_data"):
        itemsize = 1 if packed_bits else helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        return elements * itemsize, len(tensor.raw_data)
    if type_name(tensor.data_type).startswith("COMPLEX"):
        elements *= 2
    return elements, len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))


def _check_types(model: ModelProto, name: str) -> None:
    """Only dense tensors of numbers come in, go out and are stored; and something goes out."""
    if not model.graph.output:
        raise ModelError(f"{name} has no outputs: nothing says what it computes", hint=HINT_EXPORT)
    for graph in graphs(model.graph):
        if graph.sparse_initializer:
            raise ModelError(
                f'{name}: the weight "{short(graph.sparse_initializer[0].values.name)}" is a sparse tensor, '
                "which no edge runtime takes",
                hint="store it dense; zeros cost nothing in the comparison of variants",
            )
    for tensor in tensors(model):
        if type_name(tensor.data_type) == "STRING":
            raise ModelError(
                f'{name}: the constant "{short(tensor.name)}" holds strings',
                hint="cut the text processing off the network and export the rest",
            )
    for value in (*model.graph.input, *model.graph.output):
        _check_value_type(value, name)


def _check_value_type(value: ValueInfoProto, name: str) -> None:
    shown = f'{name}: "{short(value.name)}"'
    kind = value.type.WhichOneof("value")
    if kind is None:
        raise ModelError(f"{shown} has no type", hint=HINT_EXPORT)
    if kind != "tensor_type":
        raise ModelError(
            f"{shown} is {'an' if kind[0] == 'o' else 'a'} {kind.removesuffix('_type')}, not a tensor",
            hint="export the network so that it takes and returns tensors only",
        )
    if type_name(value.type.tensor_type.elem_type) == "STRING":
        raise ModelError(
            f"{shown} holds strings", hint="cut the text processing off the network and export the rest"
        )
    if value.type.tensor_type.elem_type not in _number_types():
        raise ModelError(f"{shown} has an unknown element type", hint=HINT_EXPORT)


def _check_operators(model: ModelProto, name: str) -> None:
    """Every operator is known in the version the file imports; judged by nodes, not by the import list."""
    import onnx.defs

    versions: dict[str, int] = {}
    for entry in model.opset_import:
        if versions.setdefault(entry.domain or "ai.onnx", entry.version) != entry.version:
            raise ModelError(
                f"{name} says that it uses version {versions[entry.domain or 'ai.onnx']} and version "
                f"{entry.version} of {short(entry.domain or 'ai.onnx')}",
                hint=HINT_EXPORT,
            )
    own = {(function.domain, function.name) for function in model.functions}
    newest = onnx.defs.onnx_opset_version()
    for node in nodes(model.graph):
        domain = node.domain or "ai.onnx"
        if (node.domain, node.op_type) in own:
            continue
        if domain.startswith("com.microsoft"):
            _check_contributed(node, name)
            continue
        if domain not in KNOWN_DOMAINS:
            raise ModelError(
                f"{name}: {title(node)} is of the unknown domain {short(domain)}",
                hint="replace the custom operator by standard ones and export again",
            )
        if domain not in versions:
            raise ModelError(f"{name} does not say which version of {domain} it uses", hint=HINT_EXPORT)
        if versions[domain] < 1:
            raise ModelError(f"{name} says it uses version {versions[domain]} of {domain}", hint=HINT_EXPORT)
        if domain == "ai.onnx" and versions[domain] > newest:
            raise ModelError(
                f"{name} uses opset {versions[domain]}; onnx {onnx.__version__} here knows up to {newest}",
                hint=f"pip install -U onnx, or export with opset_version={newest} or lower",
            )
        _check_schema(node, versions[domain], name)


def _check_contributed(node: NodeProto, name: str) -> None:
    """An operator of ONNX Runtime's own domains must be one that the installed version has."""
    if (node.domain, node.op_type) not in _contributed():
        raise ModelError(
            f"{name}: {title(node)} is no operator that the installed onnxruntime has",
            hint="pip install -U onnxruntime, or export the network without it",
        )


@cache
def _contributed() -> frozenset[tuple[str, str]]:
    """Domain and name of all operators of the installed onnxruntime."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    return frozenset((schema.domain, schema.name) for schema in native.get_all_operator_schema())


def _check_schema(node: NodeProto, version: int, name: str) -> None:
    from onnx import defs

    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = defs.get_schema(node.op_type, version, domain)
    except defs.SchemaError as error:
        raise ModelError(
            f"{name}: {title(node)} is no operator of {domain or 'ai.onnx'} version {version}",
            hint="the file needs another opset version, or an operator that is not standard",
        ) from error
    for ends, least, most, what in (
        (node.input, schema.min_input, schema.max_input, "inputs"),
        (node.output, schema.min_output, schema.max_output, "outputs"),
    ):
        if not least <= len(ends) <= most:
            allowed = f"{least}" if least == most else f"{least} to {most}"
            raise ModelError(
                f"{name}: {title(node)} has {len(ends)} {what}; {node.op_type} has {allowed}",
                hint=HINT_EXPORT,
            )


def _check_names(graph: GraphProto, name: str, outer: frozenset[str] = frozenset()) -> None:
    """Every name is made once, all that is read is made, and nothing waits for itself; else ModelError."""
    inputs = _once([value.name for value in graph.input], "inputs", name)
    stored = _once([tensor.name for tensor in graph.initializer], "weights", name)
    made = set(inputs | stored)  # IR 3 lists weights as inputs too
    for node in graph.node:
        for output in node.output:
            if output and output in made:
                raise ModelError(
                    f'{name}: {title(node)} makes "{short(output)}", which is made already', hint=HINT_EXPORT
                )
            made.add(output)
    visible = frozenset(made) | outer
    for node in graph.node:
        for read in node.input:
            if read and read not in visible:
                raise ModelError(
                    f'{name}: {title(node)} reads "{short(read)}", which nothing makes', hint=HINT_EXPORT
                )
        for inner in subgraphs(node):
            _check_names(inner, name, visible)
    for value in graph.output:
        if value.name not in visible:
            raise ModelError(f'{name}: nothing makes the output "{short(value.name)}"', hint=HINT_EXPORT)
    order(graph, name, outer | inputs | stored)


def _once(names: list[str], what: str, name: str) -> frozenset[str]:
    """The names; ModelError when one of them stands there twice."""
    seen = frozenset(names)
    if len(seen) < len(names):
        twice = next(each for place, each in enumerate(names) if each in names[:place])
        raise ModelError(f'{name}: two {what} have the name "{short(twice)}"', hint=HINT_EXPORT)
    return seen
