"""The canonical form: static shapes, sorted nodes, one plain file, nothing of the exporter's computer in it.

Values do not change. The same input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from edgebench.errors import UserError, did_you_mean
from edgebench.model.base import DEFAULT_DOMAINS, MAX_ELEMENTS, graphs, nodes, real_inputs, short

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorShapeProto, ValueInfoProto

Shape = tuple[int, ...]
_NAMELESS = ("", "?", "-1", "None", "unknown")  # what exporters write for "any size"
CONTRIBUTED = "com.microsoft"  # the domain of ONNX Runtime's own operators
OLDEST_IR = 4  # from here on weights need not be graph inputs


class Frozen:
    """Which sizes were chosen while freezing: by symbol, and by input for the record of lineage.

    `open` are the symbols that are not to be frozen.
    """

    def __init__(self, open_: Iterable[str] = ()) -> None:
        self.open = frozenset(open_)
        self.symbols: dict[str, int] = {}
        self.inputs: dict[str, Shape] = {}


# --- names that mean the same -------------------------------------------------------------------


def settle(model: ModelProto) -> None:
    """Write in one way, in place, what can be written in two that not every tool takes for the same.

    ONNX's own domain is called "", ONNX Runtime's is imported where it is used, and no two nodes of a graph
    have one name.
    """
    inside = [node for function in model.functions for node in function.node]
    imports = [entry for function in model.functions for entry in function.opset_import]
    for each in (*model.opset_import, *nodes(model.graph), *imports, *inside):
        if each.domain in DEFAULT_DOMAINS:
            each.ClearField("domain")
    imported = {entry.domain for entry in model.opset_import}
    if CONTRIBUTED not in imported and any(node.domain == CONTRIBUTED for node in nodes(model.graph)):
        model.opset_import.add(domain=CONTRIBUTED, version=1)
    for graph in graphs(model.graph):
        _number_twins(graph)


def _number_twins(graph: GraphProto) -> None:
    """Give a node whose name another node before it has a number behind it."""
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for node in graph.node:
        if node.name and node.name in seen:
            count = 1
            while f"{node.name}_{count}" in taken:
                count += 1
            node.name = f"{node.name}_{count}"
            taken.add(node.name)
        seen.add(node.name)


# --- shapes -------------------------------------------------------------------------------------


def freeze(model: ModelProto, shapes: Mapping[str, Shape], batch: int, open_: Iterable[str] = ()) -> Frozen:
    """What was frozen in the model: sizes in every input, given ones first, then a lone leading batch.

    The symbols `open_` stay as they are.
    UserError when an input keeps an unknown dimension that `shapes` does not give, or `shapes` does not fit.
    """
    _drop_weight_inputs(model)
    graph = model.graph
    inputs = {value.name: value for value in real_inputs(graph)}
    frozen = Frozen(open_)
    frozen.symbols.update(_symbol_sizes(shapes, inputs))
    for name, shape in shapes.items():
        if name in inputs:
            _apply_shape(inputs[name], shape, frozen)
    for value in inputs.values():
        _apply_symbols(value, frozen)
    for value in inputs.values():
        _apply_batch(value, batch, frozen)
    for value in inputs.values():
        _apply_symbols(value, frozen)
    _refuse_unknown(list(inputs.values()), frozen)
    _refuse_absurd(list(inputs.values()))
    _refuse_batch(list(inputs.values()), batch)
    _spread_symbols(graph, frozen)
    return frozen


def _symbol_sizes(shapes: Mapping[str, Shape], inputs: Mapping[str, ValueInfoProto]) -> dict[str, int]:
    """Those of `shapes` that name an unknown size of the inputs ("H"), not an input; an input's name wins.

    UserError for a name that is neither, and for more than one size.
    """
    symbols = dict.fromkeys(_symbol(dim) for value in inputs.values() for dim in _dims(value) if _symbol(dim))
    found: dict[str, int] = {}
    for name, shape in shapes.items():
        if name in inputs:
            continue
        if name not in symbols:
            raise UserError(
                f'the model has no input "{name}" and no unknown size of that name',
                hint=did_you_mean(name, [*inputs, *symbols]),
            )
        if len(shape) != 1:
            raise UserError(
                f'"{name}" is one size of the model, not an input of shape {list(shape)}',
                hint=f"--shape {name}=224",
            )
        found[name] = shape[0]
    return found


def _known(dim: TensorShapeProto.Dimension) -> bool:
    return dim.HasField("dim_value") and dim.dim_value > 0


def _dims(value: ValueInfoProto) -> list[TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)


def _settled(dim: TensorShapeProto.Dimension, frozen: Frozen) -> bool:
    """Whether the size is known, or is to stay open."""
    return _known(dim) or dim.dim_param in frozen.open


def _symbol(dim: TensorShapeProto.Dimension) -> str:
    """The dimension's name, where it has one that says which others are equal to it."""
    return "" if dim.dim_param in _NAMELESS else str(dim.dim_param)


def shape_text(value: ValueInfoProto) -> str:
    """The shape as a message shows it: [N, 3, ?, ?]."""
    if not value.type.tensor_type.HasField("shape"):
        return "of unknown rank"
    words = [str(dim.dim_value) if _known(dim) else short(dim.dim_param) or "?" for dim in _dims(value)]
    return f"[{', '.join(words)}]"


def _apply_shape(value: ValueInfoProto, shape: Shape, frozen: Frozen) -> None:
    asked = ",".join(map(str, shape))
    typed = value.type.tensor_type
    if not typed.HasField("shape"):
        typed.shape.SetInParent()
        for _ in shape:
            typed.shape.dim.add()
    dims = _dims(value)
    fits = len(dims) == len(shape) and all(
        not _known(dim) or dim.dim_value == size for dim, size in zip(dims, shape, strict=True)
    )
    if not fits:
        raise UserError(
            f'--shape {value.name}={asked} does not fit the input "{short(value.name)}" {shape_text(value)}',
            hint=f"keep its known sizes: {suggestion(value)}",
        )
    if any(size < 1 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise UserError(
            f"--shape {value.name}={asked} is no shape that a device could hold",
            hint=f"sizes are 1 or more: {suggestion(value)}",
        )
    for dim, size in zip(dims, shape, strict=True):
        _set(dim, size, value, frozen)


def _set(dim: TensorShapeProto.Dimension, size: int, value: ValueInfoProto, frozen: Frozen) -> None:
    """Write one size, and remember it for its symbol; UserError when the symbol already has another."""
    if _settled(dim, frozen):
        return
    symbol = _symbol(dim)
    if symbol and frozen.symbols.setdefault(symbol, size) != size:
        raise UserError(
            f'the inputs share the size "{short(symbol)}", which is {frozen.symbols[symbol]} and {size}',
            hint=f'give "{short(value.name)}" and the other inputs the same "{short(symbol)}"',
        )
    dim.dim_value = size
    frozen.inputs[value.name] = tuple(each.dim_value for each in _dims(value))


def _apply_symbols(value: ValueInfoProto, frozen: Frozen) -> None:
    for dim in _dims(value):
        if _symbol(dim) in frozen.symbols:
            _set(dim, frozen.symbols[dim.dim_param], value, frozen)


def _apply_batch(value: ValueInfoProto, batch: int, frozen: Frozen) -> None:
    dims = _dims(value)
    unknown = [dim for dim in dims if not _settled(dim, frozen)]
    if len(unknown) == 1 and unknown[0] is dims[0]:
        _set(dims[0], batch, value, frozen)


def _refuse_unknown(inputs: list[ValueInfoProto], frozen: Frozen) -> None:
    open_inputs = [
        value
        for value in inputs
        if not value.type.tensor_type.HasField("shape")
        or not all(_settled(dim, frozen) for dim in _dims(value))
    ]
    if open_inputs:
        shown = ", ".join(f'"{short(value.name)}" {shape_text(value)}' for value in open_inputs[:8])
        raise UserError(
            f"the model's shape is not fixed: {shown}",
            hint=" ".join(suggestion(value) for value in open_inputs[:8]) + _by_name(open_inputs),
        )


def _refuse_absurd(inputs: list[ValueInfoProto]) -> None:
    for value in inputs:
        sizes = [dim.dim_value for dim in _dims(value)]
        if math.prod(sizes) > MAX_ELEMENTS:
            raise UserError(
                f'the input "{short(value.name)}" would be {sizes}: no shape that a device could hold',
                hint="give smaller sizes with --shape",
            )


def _by_name(values: list[ValueInfoProto]) -> str:
    """How to fix the unknown sizes that have names, or ""."""
    dims = [dim for value in values for dim in _dims(value) if not _known(dim)]
    if not dims or not all(_symbol(dim) for dim in dims) or len(dims) > 8:
        return ""
    names = dict.fromkeys(_symbol(dim) for dim in dims)
    return ", or by their names: " + " ".join(f"--shape {short(name)}=SIZE" for name in names)


def _refuse_batch(inputs: list[ValueInfoProto], batch: int) -> None:
    leading = [dims[0].dim_value for dims in map(_dims, inputs) if dims]
    if batch != 1 and batch not in leading:
        raise UserError(
            f"batch {batch} was asked, but the model's batch is fixed at {leading[0] if leading else 1}",
            hint="export the network with a symbolic batch dimension, or measure batch 1",
        )


def suggestion(value: ValueInfoProto) -> str:
    """The option to type for an input, with likely sizes for unknown ones: --shape image=1,3,224,224."""
    dims = _dims(value)
    if not dims:
        return f"--shape {value.name}=1,3,224,224"
    likely = [1, *([224] * 3 if len(dims) == 4 else [128] * 63)]
    if len(dims) == 4 and not _known(dims[1]) and not _known(dims[3]):
        likely[1] = 3
    sizes = [dim.dim_value if _known(dim) else size for dim, size in zip(dims, likely, strict=False)]
    return f"--shape {value.name}={','.join(map(str, sizes))}"


def _spread_symbols(graph: GraphProto, frozen: Frozen) -> None:
    """In outputs, symbols become sizes; what stays unknown there is for shape inference to find."""
    for value in graph.output:
        for dim in _dims(value):
            if _symbol(dim) in frozen.symbols:
                dim.dim_value = frozen.symbols[_symbol(dim)]
            elif not _settled(dim, frozen):
                dim.Clear()


def forget_invented_symbols(graph: GraphProto) -> None:
    """Inference calls what it cannot know `unk__0`; an unknown size is better without a name."""
    for each in graphs(graph):
        for value in (*each.output, *each.value_info):
            for dim in _dims(value):
                if dim.dim_param.startswith("unk__"):
                    dim.Clear()


# --- tidying ------------------------------------------------------------------------------------


def _drop_weight_inputs(model: ModelProto) -> None:
    """IR 3 lists weights among the inputs; later ones need not, and then the weights are constants."""
    kept = [(value.name, value.SerializeToString()) for value in real_inputs(model.graph)]
    del model.graph.input[:]
    for _, data in kept:
        model.graph.input.add().ParseFromString(data)
    model.ir_version = max(model.ir_version, OLDEST_IR)


def tidy(model: ModelProto) -> None:
    """Remove what says nothing of the network: notes, source paths, training data, unused imports."""
    model.ClearField("training_info")
    model.doc_string = ""
    for graph in graphs(model.graph):
        graph.doc_string = ""
        graph.ClearField("metadata_props")
        del graph.value_info[:]  # may be stale, and inference finds it again
        for kind in (graph.node, graph.input, graph.output, graph.initializer):
            for entry in kind:
                entry.ClearField("doc_string")
                entry.ClearField("metadata_props")
        for node in graph.node:
            for attribute in node.attribute:
                attribute.ClearField("doc_string")
                attribute.t.ClearField("doc_string") if attribute.HasField("t") else None
    _drop_unused_imports(model)


def _drop_unused_imports(model: ModelProto) -> None:
    used = {node.domain or "ai.onnx" for graph in graphs(model.graph) for node in graph.node} | {"ai.onnx"}
    versions = {
        entry.domain or "ai.onnx": entry.version
        for entry in model.opset_import
        if (entry.domain or "ai.onnx") in used
    }
    del model.opset_import[:]
    for domain in sorted(versions):
        model.opset_import.add(domain="" if domain == "ai.onnx" else domain, version=versions[domain])
