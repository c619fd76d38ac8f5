"""What all of edgebench.model shares: walking through a network, its order, its shapes, its names."""

from __future__ import annotations

import contextlib
import heapq
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.errors import ModelError, printable

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

MAX_FOLDED_ELEMENTS = 1024  # larger constants are weights, not sizes
MAX_ELEMENTS = 1 << 31  # of one tensor: 8 GiB of float32, beyond every edge device
DEFAULT_DOMAINS = ("", "ai.onnx")
_TENSOR, _GRAPH, _TENSORS, _GRAPHS = 4, 5, 9, 10  # onnx.proto, AttributeProto.AttributeType
_INFERENCE_BYTES = 512 << 20
_BOUNDING = threading.Lock()
HINT_EXPORT = "export the network to ONNX again, or copy the file again"

# --- walking ------------------------------------------------------------------------------------


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and all graphs inside its nodes (branches of If, bodies of Loop), outer ones first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node's attributes hold."""
    for attribute in node.attribute:
        if attribute.type == _GRAPH:
            yield attribute.g
        elif attribute.type == _GRAPHS:
            yield from attribute.graphs


def nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes, those of inner graphs included."""
    for each in graphs(graph):
        yield from each.node


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors of a model: initializers and attributes, in inner graphs and local functions too."""
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
        yield from _attribute_tensors(graph.node)
    for function in model.functions:
        yield from _attribute_tensors(function.node)
        for node in function.node:
            for inner in subgraphs(node):
                for graph in graphs(inner):
                    yield from graph.initializer
                    yield from _attribute_tensors(graph.node)


def _attribute_tensors(some: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in some:
        for attribute in node.attribute:
            if attribute.type == _TENSOR:
                yield attribute.t
            elif attribute.type == _TENSORS:
                yield from attribute.tensors


@cache
def type_name(kind: int) -> str:
    """ONNX's name of an element type: "FLOAT16", "INT8" ...; "UNDEFINED" for a number it does not know."""
    from onnx import TensorProto

    return TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else "UNDEFINED"


def short(text: str, limit: int = 80) -> str:
    """Text from a file, fit for a message: printable and cut."""
    clean = printable(text[: limit + 1])
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def title(node: NodeProto) -> str:
    """How a message calls a node: `Conv "conv1"`, or by its first output where it has no name."""
    operator = f"{node.domain}::{node.op_type}" if node.domain not in DEFAULT_DOMAINS else node.op_type
    return f'{short(operator)} "{short(node.name or (node.output[0] if node.output else "?"))}"'


# --- order and shapes ---------------------------------------------------------------------------


def order(graph: GraphProto, name: str, known: frozenset[str] | set[str]) -> list[NodeProto]:
    """The nodes so that each stands behind those whose outputs it reads, otherwise in the file's order.

    ModelError naming some of the nodes when they wait for each other. Kahn's algorithm.
    """
    maker = {out: place for place, node in enumerate(graph.node) for out in node.output if out}
    waits: list[set[int]] = []
    followers: dict[int, list[int]] = {}
    for place, node in enumerate(graph.node):
        needs = {maker[read] for read in reads(node) if read in maker and read not in known}
        waits.append(needs)
        for need in needs:
            followers.setdefault(need, []).append(place)
    ready = [place for place, needs in enumerate(waits) if not needs]
    heapq.heapify(ready)
    placed: list[NodeProto] = []
    while ready:
        place = heapq.heappop(ready)
        placed.append(graph.node[place])
        for follower in followers.get(place, ()):
            waits[follower].discard(place)
            if not waits[follower]:
                heapq.heappush(ready, follower)
    if len(placed) < len(graph.node):
        stuck = [title(node) for node, needs in zip(graph.node, waits, strict=True) if needs][:4]
        raise ModelError(f"{name} has a cycle: {', '.join(stuck)} wait for each other", hint=HINT_EXPORT)
    return placed


def reads(node: NodeProto) -> set[str]:
    """The names a node reads, those that its inner graphs take from outside included."""
    names = set(node.input)
    for inner in subgraphs(node):
        for each in graphs(inner):
            for deep in each.node:
                names.update(deep.input)
            names.update(value.name for value in each.output)
    return names


def sort(graph: GraphProto, name: str) -> None:
    """Put the nodes of the graph and of all inner graphs in topological order; ModelError on a cycle."""
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    placed = [node.SerializeToString() for node in order(graph, name, known)]
    del graph.node[:]
    for data in placed:
        graph.node.add().ParseFromString(data)
    for node in graph.node:
        for inner in subgraphs(node):
            sort(inner, name)


def names(graph: GraphProto) -> set[str]:
    """Everything that has a name in the graph and its inner graphs."""
    found: set[str] = set()
    for each in graphs(graph):
        found.update(name for node in each.node for name in node.output)
        found.update(tensor.name for tensor in each.initializer)
        found.update(value.name for value in each.input)
    return found


def alive(some: Sequence[NodeProto], ends: Iterable[str]) -> list[NodeProto]:
    """Those of the sorted nodes that the outputs `ends` need."""
    needed = set(ends)
    found: list[NodeProto] = []
    for node in reversed(some):
        if needed & set(node.output):
            found.append(node)
            needed |= reads(node)
    return found[::-1]


def branch(node: NodeProto, chosen: bool, taken: set[str]) -> list[NodeProto]:
    """The nodes of the branch that an If always takes, to stand in its place.

    Their values get names that are not in `taken`, and are added to it.
    """
    from onnx import helper

    wanted = "then_branch" if chosen else "else_branch"
    graph = next(each.g for each in node.attribute if each.name == wanted)
    title = node.name or node.output[0]
    made = {name for each in graph.node for name in each.output if name}
    renamed = {
        name: _fresh(f"{title}/{name}", taken)
        for name in sorted(made | {each.name for each in graph.initializer})
    }
    passed: list[NodeProto] = []
    for value, output in zip(graph.output, node.output, strict=True):
        if output and value.name in made:
            made.remove(value.name)
            renamed[value.name] = output
        elif output:  # it is from outside, a weight, or has another name already
            passed.append(helper.make_node("Identity", [renamed.get(value.name, value.name)], [output]))
    weights = [
        helper.make_node("Constant", [], [renamed[each.name]], value=each) for each in graph.initializer
    ]
    return [*weights, *(_renamed(each, title, renamed) for each in graph.node), *passed]


def _fresh(name: str, taken: set[str]) -> str:
    found, count = name, 1
    while found in taken:
        found, count = f"{name}_{count}", count + 1
    taken.add(found)
    return found


def _renamed(node: NodeProto, title: str, renamed: dict[str, str]) -> NodeProto:
    copy = type(node)()
    copy.CopyFrom(node)
    copy.name = f"{title}/{node.name or node.output[0]}"
    _rename_reads(copy, renamed)
    for place, name in enumerate(node.output):
        copy.output[place] = renamed.get(name, name)
    return copy


def _rename_reads(node: NodeProto, renamed: dict[str, str]) -> None:
    """Rename what a node reads, in its inner graphs too, where these do not make the name themselves."""
    for place, name in enumerate(node.input):
        node.input[place] = renamed.get(name, name)
    for graph in subgraphs(node):
        own = {name for each in graph.node for name in each.output}
        own |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        outer = {name: to for name, to in renamed.items() if name not in own}
        for each in graph.node:
            _rename_reads(each, outer)
        for value in graph.output:
            value.name = outer.get(value.name, value.name)


def copied(model: ModelProto) -> ModelProto:
    """An independent copy."""
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def real_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """The inputs one has to feed: IR 3 lists the weights among the inputs too."""
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def inferred(model: ModelProto, name: str) -> ModelProto:
    """A copy with all the shapes that ONNX can infer; what cannot be inferred stays unknown.

    ModelError when an inferred shape is absurd.
    """
    shaped = _quietly(lambda: _with_shapes(model), model)
    check_shapes(shaped.graph, name)
    return shaped


def is_sound(model: ModelProto) -> bool:
    """Whether ONNX finds no contradiction in the shapes and types, in inner graphs too."""
    import onnx.shape_inference

    try:
        with bounded_memory(_INFERENCE_BYTES + 4 * model.ByteSize()):
            onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except MemoryError:
        return True  # too large to follow its values, which is no contradiction
    except (RuntimeError, ValueError, TypeError, onnx.shape_inference.InferenceError):
        return False
    return True


def _with_shapes(model: ModelProto) -> ModelProto:
    """ONNX's own shape inference; without its propagation of values where that takes too much memory.

    Propagation writes down one dimension for each element of a vector, more than a hundred bytes each: 70 GiB
    for a file of 300 bytes with a vector of 2**29 elements.
    """
    from onnx.shape_inference import infer_shapes

    try:
        with bounded_memory(_INFERENCE_BYTES + 4 * model.ByteSize()):
            return infer_shapes(model, strict_mode=False, data_prop=True)
    except MemoryError:
        return infer_shapes(model, strict_mode=False, data_prop=False)


@contextlib.contextmanager
def bounded_memory(extra_bytes: int) -> Iterator[None]:
    """Inside, an allocation beyond that many bytes more than this process has now is a MemoryError.

    Linux only: elsewhere the limit is not enforced. One thread at a time, because the limit is the process's.
    """
    import resource

    with _BOUNDING:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = _data_bytes() + extra_bytes
        known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *known]), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """What RLIMIT_DATA counts of this process now; more than it can have where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData:"))
    except (OSError, StopIteration, ValueError):
        return 1 << 50


def skeleton(model: ModelProto) -> ModelProto:
    """A new model without the data of large weights: all that shape inference needs."""
    made = type(model)(ir_version=model.ir_version)
    made.opset_import.extend(model.opset_import)
    made.functions.extend(model.functions)
    graph, source = made.graph, model.graph
    graph.name = source.name
    for kind in ("node", "input", "output", "value_info"):
        getattr(graph, kind).extend(getattr(source, kind))
    for weight in source.initializer:
        if math.prod(weight.dims) <= MAX_FOLDED_ELEMENTS:
            graph.initializer.append(weight)
        else:
            graph.initializer.add(name=weight.name, data_type=weight.data_type, dims=weight.dims)
    return made


def inlined(model: ModelProto) -> ModelProto:
    """The model with its local functions written out; the same model where it has none."""
    if not model.functions:
        return model
    import onnx.inliner

    return _quietly(lambda: onnx.inliner.inline_local_functions(model), model)


def _quietly(make: Callable[[], ModelProto], otherwise: ModelProto) -> ModelProto:
    """What `make` returns, or a copy of the model where ONNX's own tool gives up on it."""
    import onnx.shape_inference

    try:
        return make()
    except (RuntimeError, ValueError, TypeError, onnx.shape_inference.InferenceError):
        return copied(otherwise)


def check_shapes(graph: GraphProto, name: str) -> None:
    """ModelError when a declared or inferred shape has more than MAX_ELEMENTS elements."""
    for each in graphs(graph):
        for kind in (each.input, each.output, each.value_info):
            for value in kind:
                dims = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
                # exporters write -1 or 0 where they mean "unknown"
                bounded([dim for dim in dims if dim > 0], f'{name}: "{short(value.name)}"')


def bounded(dims: Iterable[int], what: str) -> None:
    """ModelError unless the dimensions are those of a tensor that could exist; `what` begins the message."""
    sizes = list(dims)
    if any(size < 0 for size in sizes):
        raise ModelError(f"{what} has the impossible shape {sizes[:8]}", hint=HINT_EXPORT)
    if math.prod(sizes) > MAX_ELEMENTS or len(sizes) > 64:
        raise ModelError(
            f"{what} has the absurd shape {sizes[:8]}: more than {MAX_ELEMENTS:,} elements",
            hint="the file is damaged or was not made for an edge device",
        )
